"""What can be wrong with the files of a data set, in one place.

Builders stop at a fault, `deeplab_jax.doctor` lists all of them: both say it in
these words. What may be meant is a remark instead: the builder keeps it beside
the records, so that training says it too.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable

_SHOWN = 3  # files of a remark, or of a fault, that a line names


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of fault or remark.

  Attributes:
    message: what is wrong with the files.
    remedy: what to do.
  """

  message: str
  remedy: str


# Code -> kind. The fault itself says what was found in which file.
FAULTS = {
  "undecodable": Kind(
    "files cannot be decoded: cut off, damaged, or no images",
    "copy or download them again, or remove them from the data",
  ),
  "unreadable": Kind(
    "files cannot be read",
    "check permissions and links, or copy them again",
  ),
  "unknown-class": Kind(
    "files are in folders that are no class", "take the official archive"
  ),
  "missing-file": Kind("files are missing", "complete the data"),
  "linked-in-circle": Kind(
    "a link leads to a folder that it is in",
    "remove the link",
  ),
  "too-large": Kind(
    "files are larger than the memory allows",
    "cut them into parts; check that they are what they should be",
  ),
  "unsupported-image": Kind(
    "images are of a kind that training does not read",
    "have their N channels read as they are with --config.data.channels=N "
    "(prepare: --channels=N), or convert them to PNG or JPEG of 8 bits, "
    "scaling the values to 0..255",
  ),
  "other-channels": Kind(
    "pictures are not of the channels, or the kind of numbers, asked for",
    "set --config.data.channels (prepare: --channels) to what all pictures "
    "have, or convert these",
  ),
  "needs-package": Kind(
    "pictures need a package that is not installed",
    "install it, or convert these to PNG or .npy",
  ),
  "mixed-depth": Kind(
    "pictures hold different kinds of numbers",
    "convert all to one kind: one range of values must hold for all",
  ),
  "jpeg-mask": Kind(
    "masks are in a format whose compression alters labels",
    "export the masks as PNG from where they were made; converting them does "
    "not undo the damage",
  ),
  "several-masks": Kind(
    "a file holds several masks",
    "save one mask of class numbers; pages of one class each are to be made "
    "one, such as numpy.argmax(pages, axis=0), or kept for "
    "config.task=multilabel where classes overlap",
  ),
  "unsupported-mask": Kind(
    "masks are of a kind that has no class numbers",
    "export them as PNG of class numbers, 8 bits and one channel",
  ),
  "not-class-numbers": Kind(
    "masks have values that are no whole numbers",
    "export the masks as PNG of class numbers",
  ),
  "colour-mask": Kind(
    "masks hold colours, and nothing says which class a colour is",
    "write classes.yaml with the colour of each class (docs/data.md), or "
    "export masks of class numbers",
  ),
  "mixed-masks": Kind(
    "some masks hold colours, others class numbers",
    "convert all masks to one kind",
  ),
  "id-out-of-range": Kind(
    "masks have values that are no class",
    "list every class (is 'background' missing at the start?), or map the "
    "values to 0..classes-1 and pixels to ignore to 255",
  ),
  "grey-levels": Kind(
    "masks hold grey levels, not class numbers",
    "list the classes in classes.yaml with their greys, such as road: "
    "[128, 128, 128], or renumber the masks from 0",
  ),
  "unlisted-colour": Kind(
    "masks have colours that classes.yaml does not list",
    "add the colours; where they only line boundaries, export the masks "
    "without smoothing",
  ),
  "too-many-colours": Kind(
    "there are more colours than classes can be",
    "export the masks without smoothing or compression; check that masks/ does "
    "not hold photographs",
  ),
  "too-many-classes": Kind(
    "there are more than 255 classes",
    "masks of instances number every object: convert the numbers to classes; "
    "else merge classes",
  ),
  "stray-ids": Kind(
    "masks have many values in specks only: they were compressed like "
    "photographs, or smoothed",
    "export the masks again in a lossless format (PNG), without smoothing",
  ),
  "near-colours": Kind(
    "classes made of the colours found differ hardly in colour",
    "make them one colour in the masks, or list both in classes.yaml if they "
    "are classes of their own",
  ),
  "palettes-differ": Kind(
    "masks are indexed by different palettes: one number means different "
    "colours, so different classes",
    "convert all masks with one palette, or list the colours in classes.yaml",
  ),
  "wrong-class-list": Kind("the list of classes is wrong", "correct the list"),
  "one-class": Kind(
    "every labelled pixel is of one class: there is nothing to tell apart",
    "check that the masks were exported with their classes, and that the "
    "ignore label is none of them; 0 should be the background as a class of "
    "its own",
  ),
  "split-all-ignored": Kind(
    "no pixel of a split is labelled",
    "choose a split with labels, or check the ignore label",
  ),
  "absent-while-ignored": Kind(
    "255 is ignored, and a listed class never occurs: it may be what 255 means",
    "map 255 to the class in the masks; if 255 is to be ignored, say so with "
    "ignore_label: 255 in classes.yaml, or remove the class from the list",
  ),
  "no-layout": Kind(
    "there are no folders of images and of masks",
    "rename the folders, convert the files, or give another data.path",
  ),
  "image-without-mask": Kind(
    "images have no mask of their name",
    "add or rename the masks, or list the images to use in train.txt and "
    "val.txt",
  ),
  "mask-without-image": Kind(
    "masks have no image of their name",
    "add or rename the images, or remove the masks",
  ),
  "duplicate-name": Kind(
    "several files have one name",
    "rename or remove all but one",
  ),
  "wrong-list": Kind(
    "lists name images that are not there",
    "correct the lists: a line is the name or the path of an image, perhaps "
    "with the path of its mask behind it",
  ),
  "not-text": Kind("lists are not UTF-8 text", "save them as UTF-8"),
  "several-formats": Kind(
    "the folder is in several formats",
    "say which with data.format, or keep them in folders of their own",
  ),
  "unread-format": Kind(
    "files of annotations are in a format that is not read",
    "or convert it to a format of docs/data.md",
  ),
  "not-json": Kind(
    "files of annotations are no JSON: cut off, or damaged",
    "export or copy them again",
  ),
  "bad-annotation": Kind(
    "annotations are not as their format says",
    "correct or export them again, or leave their pictures out with "
    "--config.data.skip_bad=True (prepare: --skip_bad)",
  ),
  "missing-picture": Kind(
    "annotations name pictures that are not there",
    "add the pictures, or leave them out with --config.data.skip_bad=True "
    "(prepare: --skip_bad)",
  ),
  "ambiguous-picture": Kind(
    "annotations name pictures of which there are several",
    "give them names of their own, or remove all but one",
  ),
  "unknown-picture": Kind(
    "annotations belong to pictures that are not listed, or not there",
    "correct the file, or leave them out with --config.data.skip_bad=True "
    "(prepare: --skip_bad)",
  ),
  "repeated-picture": Kind(
    "pictures are listed several times",
    "keep one entry for each picture, and one file of annotations, or give "
    "that file as data.path where it is a json of many pictures",
  ),
  "unknown-category": Kind(
    "annotations are of a class that is not listed",
    "list the class, or leave their pictures out with "
    "--config.data.skip_bad=True (prepare: --skip_bad)",
  ),
  "unknown-segment": Kind(
    "segments are of no class",
    "export the segments and the json together again, or leave their pictures "
    "out with --config.data.skip_bad=True (prepare: --skip_bad)",
  ),
  "no-outline": Kind(
    "annotations are boxes, which say nothing of pixels",
    "export polygons or masks, or leave their pictures out with "
    "--config.data.skip_bad=True (prepare: --skip_bad)",
  ),
  "rle-size": Kind(
    "run lengths or bitmaps are of another size than their picture",
    "export them again with the pictures as they are, or leave these out with "
    "--config.data.skip_bad=True (prepare: --skip_bad)",
  ),
  "beyond-the-whole": Kind(
    "points that should be shares of the picture are beyond it",
    "export the annotations again, or leave their pictures out with "
    "--config.data.skip_bad=True (prepare: --skip_bad)",
  ),
  "coordinates-far-outside": Kind(
    "points are no numbers, or far outside of their picture",
    "export the annotations again, or leave their pictures out with "
    "--config.data.skip_bad=True (prepare: --skip_bad)",
  ),
  "wrong-order": Kind(
    "data.order names a class that is not there", "correct data.order"
  ),
  "ambiguous-columns": Kind(
    "it is not clear which columns are pictures and masks",
    "keep one column of each, called image and mask",
  ),
  "no-names": Kind(
    "classes have numbers, but no names",
    "add the file",
  ),
  "no-objects": Kind(
    "there are annotations, but no object in any",
    "annotate the pictures, list the classes in classes.txt, or give another "
    "data.path",
  ),
  "no-pictures": Kind(
    "there are annotations, but no annotated pictures",
    "add the pictures, or check data.unannotated",
  ),
  "mask-size": Kind(
    "masks have another size than their images",
    "export the masks again at the size of the images; resize masks by nearest "
    "neighbour only (Pillow's NEAREST, OpenCV's INTER_NEAREST)",
  ),
  "mask-place": Kind(
    "masks are at another place on earth than their images",
    "warp the masks onto the grids of the images (gdalwarp -r near -t_srs ... "
    "-te ... -tr ...), or save them without a place if their pixels do belong "
    "together",
  ),
  "wrong-channels": Kind(
    "masks of overlapping classes have a wrong number of channels",
    "save a channel, a page or an index of the last axis (.npy) for each "
    "class, or a file a class (docs/data.md)",
  ),
  "not-two-valued": Kind(
    "masks of one class say more than yes and no",
    "save 1 where the class is and 0 elsewhere, without smoothing; masks whose "
    "numbers are classes are of the task segmentation",
  ),
  "unlisted-class": Kind(
    "masks are of classes that are not listed",
    "list the class, or rename or remove the masks",
  ),
  "nothing-there": Kind(
    "no class is there in any mask of train",
    "check how the masks were exported, and the ignore label",
  ),
}

REMARKS = {
  "deep-image": Kind(
    "images have more than 8 bits, of which training reads the upper 8: where "
    "the upper bits are not used, images go black",
    "have all bits read with --config.data.channels=N (prepare: --channels=N), "
    "or scale the values to the full range and save as 8-bit",
  ),
  "extra-bands": Kind(
    "images have more bands than red, green and blue, which are not read",
    "nothing if the first three bands are what is meant; else have all read "
    "with --config.data.channels=N (prepare: --channels=N)",
  ),
  "place-of-channels": Kind(
    "channels were not where they are in other files",
    "nothing if that is what was meant",
  ),
  "unread-nodata": Kind(
    "images declare where nothing is known, which training takes as it is",
    "have it ignored with --config.data.channels=N (prepare: --channels=N), N "
    "being their bands; nothing if masks ignore it",
  ),
  "nodata-beside": Kind(
    "files beside pictures say where nothing is known, and are not read",
    "write it into the pictures (gdal_translate -a_nodata ..., or --config "
    "GDAL_TIFF_INTERNAL_MASK YES); nothing if masks ignore it",
  ),
  "hidden-pixels": Kind(
    "pictures hide pixels by a mask or a transparency, which are ignored",
    "nothing if nothing is known there; if the last band is no transparency, "
    "write it without that name, or have it read with data.channels",
  ),
  "odd-colours": Kind(
    "images are not RGB or grey",
    "convert them to RGB",
  ),
  "several-pictures": Kind(
    "files hold several pictures, of which the first is read",
    "save the picture that is meant as a file of its own",
  ),
  "blended-labels": Kind(
    "labels were smoothed by a resize: boundaries pass through values between, "
    "which mean other classes",
    "export the masks again, without smoothing (Pillow's NEAREST, OpenCV's "
    "INTER_NEAREST); nothing if these are classes that line others",
  ),
  "declared-nodata": Kind(
    "masks declare a value that means that nothing is known: it is ignored",
    "nothing if that is so; else remove the declaration (TIFF tag 42113, "
    "GDAL_NODATA)",
  ),
  "exif-orientation": Kind(
    "pictures are stored turned, with an EXIF tag to turn them back: masks are "
    "turned, images where only that fits the mask or the size does not tell",
    "check the overlays of the doctor's --html; better save them upright",
  ),
  "transparent-image": Kind(
    "images have transparent pixels, which training sees in their hidden "
    "colour",
    "lay the images on a background and save them without transparency",
  ),
  "transparent-mask": Kind(
    "masks have transparent pixels, whose hidden colours count as labels",
    "save the masks without transparency, each pixel in its class's colour",
  ),
  "colour-classes": Kind(
    "masks hold colours; each that was found was made a class, nothing is "
    "ignored",
    "write classes.yaml with the name and colour of each class, and the "
    "ignore_color if there is one (docs/data.md)",
  ),
  "all-ignored": Kind(
    "masks have no labelled pixel",
    "label these images or remove them: they cost time and teach nothing",
  ),
  "mostly-ignored": Kind(
    "more pixels are ignored than labelled",
    "nothing if only parts are labelled; else check that the ignore label is "
    "no class, such as foreground saved as 255",
  ),
  "class-absent": Kind(
    "classes have no pixel in either split",
    "nothing if more data will have them; else remove them from the list",
  ),
  "gaps-in-ids": Kind(
    "masks leave out ids",
    "renumber the ids without gaps from 0, or name all classes in classes.txt",
  ),
  "class-missing-in-train": Kind(
    "classes have no pixel in train",
    "nothing can be learnt of them: move images into train",
  ),
  "class-missing-in-val": Kind(
    "classes have no pixel in val",
    "their IoU cannot be measured: move images into val",
  ),
  "palette-order": Kind(
    "the palette of masks has the colours of the classes in another order than "
    "the list: the colours count, not the numbers",
    "nothing if the colours are right; else correct classes.yaml",
  ),
  "matched-names": Kind(
    "names of images and masks are the same letters in two Unicode forms "
    "(composed, as Linux and Windows write them, and decomposed, as macOS "
    "does): they were matched",
    "nothing",
  ),
  "unlisted-images": Kind(
    "images are in no split and so unused",
    "add them to train.txt or val.txt if they are meant to be used",
  ),
  "image-in-both-splits": Kind(
    "images of val are in train as well: its scores would be too good",
    "remove them from one of the splits",
  ),
  "val-inside-train": Kind(
    "all images of val are in train: its scores say nothing of new images",
    "choose another split, unless this is meant, as for a final training on "
    "all data",
  ),
  "repeated-images": Kind(
    "images are in a split more than once",
    "remove all but one, unless they are meant to count more",
  ),
  "split-folders": Kind(
    "folders have names of splits that are not taken for such: val is a tenth "
    "of all images",
    "call them train/ and val/, or list the images in train.txt and val.txt",
  ),
  "unread-lists": Kind(
    "files are called as lists of classes or of images would be, and are not "
    "read",
    "nothing if they are no lists; else call them classes.yaml or classes.txt, "
    "train.txt and val.txt, in the folder itself",
  ),
  "overlapping-masks": Kind(
    "masks of overlapping classes were found as",
    "nothing if that is so; see docs/data.md for other ways",
  ),
  "class-file-missing": Kind(
    "images lack the mask of a class, which then counts as not there",
    "nothing if that is so; else add the masks",
  ),
  "tiles-left-out": Kind(
    "tiles are left out, of which more is ignored than data.tile_nodata allows",
    "nothing if no-data is meant to be so; else see data.tile_nodata",
  ),
  "left-out": Kind(
    "examples with faults are left out, as skip_bad says",
    "correct them, if they are meant to be used",
  ),
  "outside": Kind(
    "objects reach outside of the picture: they are cut at its edge",
    "nothing if only edges are concerned; else export the annotations again",
  ),
  "few-points": Kind(
    "objects have fewer than three points: they are not drawn",
    "remove them, or draw them again",
  ),
  "self-crossing": Kind(
    "outlines cross themselves: what they go around twice is not filled",
    "draw them again, if that is not meant",
  ),
  "hole-filled": Kind(
    "objects have an outline within another: as COCO has it, it is filled",
    "export run lengths (RLE) or masks, if these are holes",
  ),
  "thin": Kind(
    "objects are thinner than a pixel: masks show parts of them",
    "nothing; a class of thin objects wants lines of some width",
  ),
  "vanished": Kind(
    "objects are thinner than a pixel: masks do not show them",
    "remove them, or draw them wider",
  ),
  "empty": Kind(
    "objects have no pixel",
    "remove them, or draw them again",
  ),
  "no-area": Kind(
    "points and lines without width are not drawn",
    "nothing if only areas are meant",
  ),
  "several-annotations": Kind(
    "pictures have several annotations, of which one is taken: the ground "
    "truth, or else the first",
    "remove the others, or mark one as ground truth",
  ),
  "crowd": Kind(
    "objects are marked as crowd: they are ignored where no other object is",
    "nothing if they are groups; some tools mark every mask so when they write "
    "COCO's json (iscrowd): then set it to 0, or export another format",
  ),
  "overlap": Kind(
    "objects of several classes overlap: the upper one has the pixels",
    "nothing if the order is right; else see data.order",
  ),
  "unread-files": Kind(
    "files beside images and masks have another suffix and are not read",
    "convert them to PNG if they are meant to be used",
  ),
}


class BadExample(ValueError):
  """One file of the source cannot be used, and perhaps others.

  Attributes:
    file: which.
    code: the kind of fault, one of `FAULTS`.
    problem: what is allowed and what was found.
    others: faults that were found as well.
    is_all: whether all files were looked at.
  """

  def __init__(self, file: str, code: str, problem: str):
    super().__init__(file, code, problem)
    self.file, self.code, self.problem = file, code, problem
    self.others: tuple[BadExample, ...] = ()
    self.is_all = True

  def __str__(self) -> str:
    """A line for each kind of fault, which names some of its files."""
    kinds: dict[str, dict[str, BadExample]] = {}
    for fault in (self, *self.others):
      kinds.setdefault(fault.code, {}).setdefault(fault.file, fault)
    return "\n".join(self._line(list(k.values())) for k in kinds.values())

  def _line(self, faults: list[BadExample]) -> str:
    first, *more = faults
    line = f"{first.file}: {first.problem}; {FAULTS[first.code].remedy}"
    if not more:
      return line
    count = f"{'' if self.is_all else 'at least '}{len(more)}"
    listed = ", ".join(fault.file for fault in more[:_SHOWN])
    end = ", ..." if more[_SHOWN:] else ""
    return f"{line}; the same of {count} more: {listed}{end}"


def together(faults: Iterable[BadExample], is_all: bool = True) -> BadExample:
  """The first of some faults, which tells of the others, too."""
  first, *others = faults
  first.others, first.is_all = tuple(others), is_all
  return first


@dataclasses.dataclass(frozen=True)
class Remark:
  """Something about a file, or about all data, that may be meant.

  Attributes:
    code: one of `REMARKS`.
    file: which; "" is all data.
    detail: what was found.
    weight: of those of a code the greatest is said first.
  """

  code: str
  file: str
  detail: str
  weight: int = 0


Report = Callable[[BadExample], None]


def refuse(fault: BadExample) -> None:
  """Stops at the first fault."""
  raise fault


def lines(remarks: Iterable[Remark]) -> list[str]:
  """A line for each kind of remark, which names some of its files."""
  kinds = collections.defaultdict(list)
  for remark in remarks:
    said = ": ".join(filter(None, (remark.file, remark.detail)))
    kinds[remark.code].append((-remark.weight, said))
  return [
    _line(code, [said for _, said in sorted(found)])
    for code, found in kinds.items()
  ]


def _line(code: str, said: list[str]) -> str:
  more = f"; and {len(said) - _SHOWN} more" if said[_SHOWN:] else ""
  kind = REMARKS[code]
  return (
    f"{code}: {kind.message} ({'; '.join(said[:_SHOWN])}{more}) -> "
    f"{kind.remedy}"
  )
