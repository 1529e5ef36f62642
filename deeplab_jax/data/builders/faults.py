"""What can be wrong with the files of a data set, in one place.

Builders stop at a fault, `deeplab_jax.doctor` lists all of them: both say it in
these words. What may be meant is a remark instead: the builder keeps it beside
the records, so that training says it too.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable

_SHOWN = 3  # files of a remark that a line names


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
    "convert them to PNG or JPEG of 8 bits, scaling the values to 0..255",
  ),
  "jpeg-mask": Kind(
    "masks are in a format whose compression alters labels",
    "export the masks as PNG from where they were made; converting them does "
    "not undo the damage",
  ),
  "several-masks": Kind(
    "a file holds several masks",
    "save one mask of class numbers; pages of one class each are to be made "
    "one, such as numpy.argmax(pages, axis=0)",
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
    "correct the lists: a name a line, as in images/, without folders above it",
  ),
  "not-text": Kind("lists are not UTF-8 text", "save them as UTF-8"),
  "mask-size": Kind(
    "masks have another size than their images",
    "export the masks again at the size of the images; resize masks by nearest "
    "neighbour only (Pillow's NEAREST, OpenCV's INTER_NEAREST)",
  ),
}

REMARKS = {
  "deep-image": Kind(
    "images have more than 8 bits, of which training reads the upper 8: where "
    "the upper bits are not used, images go black",
    "scale the values to the full range and save as 8-bit",
  ),
  "extra-bands": Kind(
    "images have more bands than red, green and blue, which are not read",
    "nothing if the first three bands are what is meant; else save those three",
  ),
  "odd-colours": Kind(
    "images are not RGB or grey",
    "convert them to RGB",
  ),
  "several-pictures": Kind(
    "files hold several pictures, of which the first is read",
    "save the picture that is meant as a file of its own",
  ),
  "declared-nodata": Kind(
    "masks declare a value that means that nothing is known: it is ignored",
    "nothing if that is so; else remove the declaration (TIFF tag 42113, "
    "GDAL_NODATA)",
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
  "listed-in-both": Kind(
    "images are in both lists: scores of val would be too good",
    "remove them from one of the lists",
  ),
}


class BadExample(ValueError):
  """One file of the source cannot be used.

  Attributes:
    file: which.
    code: the kind of fault, one of `FAULTS`.
    problem: what is allowed and what was found.
  """

  def __init__(self, file: str, code: str, problem: str):
    super().__init__(file, code, problem)
    self.file, self.code, self.problem = file, code, problem

  def __str__(self) -> str:
    return f"{self.file}: {self.problem}; {FAULTS[self.code].remedy}"


@dataclasses.dataclass(frozen=True)
class Remark:
  """Something about a file, or about all data, that may be meant.

  Attributes:
    code: one of `REMARKS`.
    file: which; "" is all data.
    detail: what was found.
  """

  code: str
  file: str
  detail: str


Report = Callable[[BadExample], None]


def refuse(fault: BadExample) -> None:
  """Stops at the first fault."""
  raise fault


def lines(remarks: Iterable[Remark]) -> list[str]:
  """A line for each kind of remark, which names some of its files."""
  kinds = collections.defaultdict(list)
  for remark in remarks:
    place = f"{remark.file}: " if remark.file else ""
    kinds[remark.code].append(f"{place}{remark.detail}")
  return [_line(code, sorted(said)) for code, said in kinds.items()]


def _line(code: str, said: list[str]) -> str:
  more = f"; and {len(said) - _SHOWN} more" if said[_SHOWN:] else ""
  kind = REMARKS[code]
  return (
    f"{code}: {kind.message} ({'; '.join(said[:_SHOWN])}{more}) -> "
    f"{kind.remedy}"
  )
