"""Which files of a user's folder are images, masks and lists of splits.

Either `images/` and `masks/`, or VOC's `JPEGImages/` and `SegmentationClass/`,
or another pair of `_LAYOUTS`, in small letters or capitals, perhaps in each of
`train/` and `val/`; or masks that lie beside the images. Masks are pictures, or
.npy files in a folder without any. A mask has the path of its image, but for
the suffix, or for an ending or beginning that all masks have (`mask_names`).
The splits are those of `train.txt` and `val.txt` (see `split_lists`); else the
folders `train/` and `val/` in both, such as `images/train/` or `train2017/`;
else a tenth of the images is for validation.
"""

import collections
import dataclasses
import hashlib
import os
import unicodedata
from collections.abc import Iterator

from deeplab_jax.data.bands import NUMPY_SUFFIX
from deeplab_jax.data.builders import mask_names, split_lists
from deeplab_jax.data.builders.faults import BadExample, Report, refuse
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.messages import printable

_LAYOUTS = (
  ("images", "masks"),
  ("JPEGImages", "SegmentationClass"),
  ("img_dir", "ann_dir"),
  ("images", "labels"),
  ("images", "annotations"),
  ("image", "mask"),
  ("image", "label"),
  ("imgs", "masks"),
  ("img", "mask"),
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# Of x.tif: x.tif.msk, x.tif.aux.xml, x.tif.ovr, x.tfw, x.prj.
_OF_MAPS = (".msk", ".aux.xml", ".ovr", ".tfw", ".wld", ".prj")
_SPLITS = ("train", "val")
_DRAWN = (
  "there are not both train and val: val is a tenth of the pictures, drawn by "
  "their names"
)
# What folders of splits are called, in small letters, but for a number behind.
_FOLDERS = {
  **dict.fromkeys(("train", "training"), "train"),
  **dict.fromkeys(("val", "valid", "validation"), "val"),
}
# What they are called elsewhere.
_OTHER_SPLITS = ("trn", "test", "testing", "tst", "dev", "eval")


@dataclasses.dataclass(frozen=True)
class Layout:
  """The files, by the name that an image and its mask share.

  Attributes:
    images: path of each image.
    masks: path of each mask.
    splits: names of "train" and of "val".
    matched: masks whose path is that of their image in another Unicode form.
    unread: files beside the images and masks that have another suffix.
    like_splits: folders with names of splits, where the splits were drawn.
    listed: whether there is a list of a split.
    pattern: in words, how masks are called if not as their images; else "".
    is_drawn: whether val was drawn, as nothing says which images it has.
  """

  images: dict[str, str]
  masks: dict[str, str]
  splits: dict[str, list[str]]
  matched: dict[str, str]
  unread: list[str]
  like_splits: list[str]
  listed: bool
  pattern: str = ""
  is_drawn: bool = False

  def lines(self) -> list[str]:
    """What is to be said of the files."""
    return [*[self.pattern] * bool(self.pattern), *[_DRAWN] * self.is_drawn]

  def unlisted(self) -> list[str]:
    """Names of the images in no split, sorted."""
    used = {name for names in self.splits.values() for name in names}
    return sorted(self.images.keys() - used)

  def used_masks(self) -> list[str]:
    """Paths of the masks of all splits, sorted by name."""
    used = {name for names in self.splits.values() for name in names}
    return [self.masks[name] for name in sorted(used & self.masks.keys())]

  def mask_of(self, tree: Tree, name: str) -> str:
    """Path of the mask of image `name`.

    Raises:
      BadExample: there is none.
    """
    if name not in self.masks:
      raise self._without_mask(tree, name)
    return self.masks[name]

  def without_masks(self, tree: Tree) -> Iterator[BadExample]:
    """The images of all splits that have no mask."""
    used = {name for names in self.splits.values() for name in names}
    for name in sorted(used - self.masks.keys()):
      yield self._without_mask(tree, name)

  def _without_mask(self, tree: Tree, name: str) -> BadExample:
    return BadExample(
      tree.where(self.images[name]),
      "image-without-mask",
      "an image must have a mask of its name, got none",
    )


def suffixes(channels: int) -> tuple[str, ...]:
  """Of files of images: with channels asked for, arrays of NumPy are some."""
  return (*SUFFIXES, NUMPY_SUFFIX) if channels else SUFFIXES


def find(
  tree: Tree,
  report: Report = refuse,
  image_suffixes: tuple[str, ...] = SUFFIXES,
) -> Layout:
  """The layout of the folder `tree`.

  Args:
    tree: the user's files.
    report: gets each fault; what it concerns is left out if it returns.
    image_suffixes: of the files that are images, as `suffixes` gives them.

  Raises:
    BadExample: there are no images, or no masks.
  """
  images, masks, pattern = _pairs(tree, report, image_suffixes)
  names = list(images)
  every_suffix = (*SUFFIXES, NUMPY_SUFFIX)
  lists = {
    split: split_lists.read(tree, split, images, masks, every_suffix, report)
    for split in _SPLITS
  }
  listed = any(lines is not None for lines in lists.values())
  is_drawn = not listed and not _by_folder(names)["train"]
  return Layout(
    images,
    masks,
    _splits(names, lists),
    _matched(images, masks),
    _unread(tree, {*images.values(), *masks.values()}),
    _like_splits(names) if is_drawn else [],
    listed,
    pattern,
    is_drawn and len(names) > 1,
  )


def is_there(tree: Tree, image_suffixes: tuple[str, ...] = SUFFIXES) -> bool:
  """Whether the folder `tree` has images and masks that `find` would find."""
  return _arrangement(tree, image_suffixes) is not None or bool(_beside(tree))


# Folders of images and of masks, by what is put before the names in them.
Folders = dict[str, tuple[str, str]]


def _pairs(
  tree: Tree, report: Report, image_suffixes: tuple[str, ...]
) -> tuple[dict[str, str], dict[str, str], str]:
  """Files of the images and of the masks, by name, and how masks are called."""
  folders = _arrangement(tree, image_suffixes)
  if folders is None:
    pictures = filter(_is_picture, tree.stems("", ""))
    found = _beside(tree) or mask_names.png_beside(pictures)
    if not found:
      raise BadExample(
        tree.origin,
        "no-layout",
        "must have images/ and masks/, or JPEGImages/ and SegmentationClass/, "
        f"with files that end in {', '.join(SUFFIXES)}, or an export of an "
        f"annotation tool, got {_contents(tree)}{_numpy_hint(tree)}",
      )
    return found
  images, masks = {}, {}
  for prefix, (of_images, of_masks) in folders.items():
    images |= _by_name(tree, of_images, report, image_suffixes, prefix)
    suffixes = _mask_suffixes(tree, of_masks)
    masks |= _by_name(tree, of_masks, report, suffixes, prefix)
  pattern = ""
  if not images.keys() & masks.keys():
    images, masks, pattern = mask_names.matched(images, masks, SUFFIXES)
  image_folder = next(iter(folders.values()))[0]
  for name in sorted(masks.keys() - images.keys()):
    report(
      BadExample(
        tree.where(masks[name]),
        "mask-without-image",
        f"a mask must have an image of its name in {image_folder}/, got none",
      )
    )
  return images, masks, pattern


def _arrangement(tree: Tree, image_suffixes: tuple[str, ...]) -> Folders | None:
  """The folders in which images and masks are; None if there are none."""

  folders = {
    "/".join(path.split("/")[:depth])
    for path in tree.stems("", "")
    for depth in range(1, min(path.count("/"), 2) + 1)
  }
  # As they are spelled: as here, or else in other letters.
  spelled = {f.lower(): f for f in sorted(folders)} | {f: f for f in folders}

  def there(*pair: str) -> tuple[str, str] | None:
    images, masks = (spelled.get(f, spelled.get(f.lower())) for f in pair)
    if images is None or masks is None:
      return None
    suffixes = _mask_suffixes(tree, masks)
    is_one = _has_pictures(tree, images, image_suffixes)
    is_one = is_one and _has_pictures(tree, masks, suffixes)
    return (images, masks) if is_one else None

  for pair in _LAYOUTS:
    if found := there(*pair):
      return {"": found}
  tops = [top for top in sorted(folders) if "/" not in top and _is_split(top)]
  for images, masks in _LAYOUTS:
    found = {f"{t}/": there(f"{t}/{images}", f"{t}/{masks}") for t in tops}
    if any(found.values()):
      return {top: pair for top, pair in found.items() if pair}
  return None


def _mask_suffixes(tree: Tree, folder: str) -> tuple[str, ...]:
  """Of the masks in a folder: pictures, or arrays of NumPy without any."""
  return SUFFIXES if _has_pictures(tree, folder, SUFFIXES) else (NUMPY_SUFFIX,)


def _has_pictures(tree: Tree, folder: str, suffixes: tuple[str, ...]) -> bool:
  return any(_is_picture(path, suffixes) for path in tree.stems(folder, ""))


def _is_picture(path: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
  is_hidden = path.rsplit("/", 1)[-1].startswith(".")  # as macOS leaves
  return path.lower().endswith(suffixes) and not is_hidden


def _beside(tree: Tree) -> tuple[dict[str, str], dict[str, str], str] | None:
  """The same of masks that lie beside their images; None if none do."""
  files = {
    _composed(path.rpartition(".")[0]): path
    for path in tree.stems("", "")
    if _is_picture(path)
  }
  return mask_names.beside(files)


def _unread(tree: Tree, used: set[str]) -> list[str]:
  """Files in the folders of those used; hidden ones are not meant, nor what
  programs for maps write beside a picture."""
  return [
    path
    for folder in sorted({path.split("/")[0] for path in used})
    for path in (f"{folder}/{p}" for p in tree.stems(folder, ""))
    if path not in used
    and not path.rsplit("/", 1)[-1].startswith(".")
    and not path.lower().endswith(_OF_MAPS)
  ]


def _contents(tree: Tree) -> str:
  """What is there instead, such as "pictures/*.gif (12)"."""
  kinds = collections.Counter(
    f"{path.rpartition('/')[0] or '.'}/*.{path.rpartition('.')[2]}"
    for path in tree.stems("", "")
  )
  found = [f"{kind} ({count})" for kind, count in kinds.most_common(6)]
  return printable(", ".join(found)) or "no file"


def _numpy_hint(tree: Tree) -> str:
  """What pictures of NumPy need, where there are such files."""
  if not any(path.endswith(NUMPY_SUFFIX) for path in tree.stems("", "")):
    return ""
  return " (pictures as .npy are read with data.channels)"


def _by_name(
  tree: Tree,
  folder: str,
  report: Report,
  suffixes: tuple[str, ...],
  prefix: str = "",
) -> dict[str, str]:
  """The pictures in a folder, by their names with `prefix` in front."""
  files: dict[str, str] = {}
  for path in tree.stems(folder, ""):
    if not _is_picture(path, suffixes):
      continue
    name = prefix + _composed(path.rpartition(".")[0])
    if name in files:
      report(_duplicate(tree, f"{folder}/{path}", files[name]))
    files[name] = f"{folder}/{path}"
  return files


def _duplicate(tree: Tree, path: str, other: str) -> BadExample:
  """The fault of a file whose name another has."""
  where, shown = tree.where(path), printable(other)
  forms = ""
  if _without_suffix(path) != _without_suffix(other):  # look the same
    where = where.encode("ascii", "backslashreplace").decode()
    shown = shown.encode("ascii", "backslashreplace").decode()
    forms = ", the same letters in another Unicode form"
  return BadExample(
    where,
    "duplicate-name",
    f"a name must have one file, got {shown} as well{forms}",
  )


def _composed(name: str) -> str:
  """The form of Unicode in which names are compared: NFC."""
  return unicodedata.normalize("NFC", name)


def _without_suffix(path: str) -> str:
  """A path below its top folder, without the suffix of the file."""
  return path.partition("/")[2].rpartition(".")[0]


def _matched(images: dict[str, str], masks: dict[str, str]) -> dict[str, str]:
  """The masks, by name, whose path is their image's in another form."""
  return {
    name: masks[name]
    for name in images.keys() & masks.keys()
    if unicodedata.is_normalized("NFC", images[name])
    != unicodedata.is_normalized("NFC", masks[name])
  }


def _splits(
  names: list[str], lists: dict[str, list[str] | None]
) -> dict[str, list[str]]:
  """Names of train and val: as listed, by folder, or drawn by a hash."""
  lists = dict(lists)
  if lists["train"] is None and lists["val"] is None:
    lists = _by_folder(names)
  if lists["train"] is None and lists["val"] is None:
    lists["val"] = _drawn(names)
  for split, other in (_SPLITS, _SPLITS[::-1]):
    if lists[split] is None:
      rest = sorted(set(names) - set(lists[other]))
      lists[split] = rest or list(lists[other])  # of a single image, both
  return lists


def _drawn(names: list[str]) -> list[str]:
  """A tenth of the names, for validation."""
  count = max(len(names) // 10, 1)
  return sorted(sorted(names, key=_hash)[:count])


def draw_splits(names: list[str]) -> dict[str, list[str]]:
  """Names of train and val, drawn by a hash, where nothing else says."""
  val = _drawn(names)
  chosen = set(val)
  return {"train": [n for n in names if n not in chosen] or val, "val": val}


def _by_folder(names: list[str]) -> dict[str, list[str] | None]:
  """Names by the split that their top folder names; None without both."""
  found = {split: [] for split in _SPLITS}
  for name in names:
    folder, below, _ = name.partition("/")
    split = _FOLDERS.get(_split_name(folder))
    if below and split:
      found[split].append(name)
  return found if all(found.values()) else dict.fromkeys(_SPLITS)


def _like_splits(names: list[str]) -> list[str]:
  """Top folders that have names of splits, beside others."""
  folders = sorted({n.partition("/")[0] for n in names if "/" in n})
  like = [f for f in folders if _is_split(f)]
  return like if len(folders) > 1 else []


def _is_split(folder: str) -> bool:
  """Whether a folder is called as one of any split."""
  return _split_name(folder) in {*_FOLDERS, *_OTHER_SPLITS}


def _split_name(folder: str) -> str:
  """The name of a folder in small letters, without the number of train2017."""
  return folder.lower().rstrip("0123456789-_ ")


def _hash(name: str) -> str:
  return hashlib.sha256(os.fsencode(name)).hexdigest()
