"""Planted faults: each is found by its name, and the file is named."""

import pathlib
import re
import shutil

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

from deeplab_jax.data import build
from deeplab_jax.data.builders import faults as builder_faults
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.source import open_dataset
from deeplab_jax.doctor import Severity, examine
from tests import doctor_scenes as scenes
from tests.test_data_headers import tiff
from tests.test_data_hostile import HOSTILE
from tests.test_doctor import CONFIGS

_COLORS = np.full((256, 3), 255, np.uint8)  # ignored: white
_COLORS[:4] = (0, 0, 0), (200, 30, 40), (10, 220, 60), (20, 40, 230)
_YAML = (
  "classes: {ground: [0, 0, 0], roof: [200, 30, 40], tree: [10, 220, 60], "
  "pool: [20, 40, 230]}\nignore_color: [255, 255, 255]\n"
)
_GREY = np.arange(256, dtype=np.uint8)
_GREY[:4] = 0, 60, 120, 180
_TWO = np.full(256, 255, np.uint8)
_TWO[0] = 0
_NAMES = [f"s{i:02d}" for i in range(12)]


def _array(path: pathlib.Path) -> np.ndarray:
  return np.array(PIL.Image.open(path))


def _mask(root, change, name="s05", suffix="png"):
  """Replaces a mask by what `change` makes of it."""
  path = root / f"masks/{name}.png"
  changed = change(_array(path))
  path.unlink()
  scenes.save(path.with_suffix(f".{suffix}"), changed)


def _image(root, change, name="s05"):
  path = root / f"images/{name}.png"
  scenes.save(path, change(_array(path)))


def _every_mask(root, change):
  for name in _NAMES:
    _mask(root, change, name)


def _every_image(root, change):
  for name in _NAMES:
    _image(root, change, name)


def _smooth(array, how=cv2.INTER_LINEAR):
  """Enlarged by half and back to size, as a resize of photographs would."""
  large = cv2.resize(array, None, fx=1.5, fy=1.5, interpolation=how)
  return cv2.resize(large, array.shape[1::-1], interpolation=how)


def _draw_softly(path: pathlib.Path):
  mask = np.zeros(scenes.SIZE, np.uint8)
  cv2.circle(mask, (40, 30), 15, 255, -1, cv2.LINE_AA)
  scenes.save(path, mask)


def _in_colours(root, yaml=_YAML):
  _every_mask(root, lambda mask: _COLORS[mask])
  if yaml:
    (root / "classes.yaml").write_text(yaml)


def _cut(path: pathlib.Path, share=0.5):
  content = path.read_bytes()
  path.write_bytes(content[: int(len(content) * share)])


def _damage(path: pathlib.Path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0x55
  path.write_bytes(content)


def _as_jpeg(array: np.ndarray, quality=60) -> np.ndarray:
  _, encoded = cv2.imencode(".jpg", array, [cv2.IMWRITE_JPEG_QUALITY, quality])
  return cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)


def _tag(path: pathlib.Path, turn: int):
  """Gives a picture an EXIF tag, its pixels staying as they are."""
  exif = PIL.Image.Exif()
  exif[PIL.ExifTags.Base.Orientation] = turn
  picture = PIL.Image.open(path)
  picture.load()
  picture.save(path, exif=exif)


def _in_folders(root, *names):
  """Moves every third image and mask into the last of two folders."""
  for split in ("train", "val"):
    (root / f"{split}.txt").unlink()
  for kind in ("images", "masks"):
    for i, path in enumerate(sorted((root / kind).iterdir())):
      folder = root / kind / names[i % 3 == 0]
      folder.mkdir(exist_ok=True)
      path.rename(folder / path.name)


def _turn_by_exif(root):
  """A phone's picture: stored on its side, the mask as it is looked at."""
  exif = PIL.Image.Exif()
  exif[PIL.ExifTags.Base.Orientation] = 6
  path = root / "images/s05.png"
  PIL.Image.fromarray(np.rot90(_array(path)).copy()).save(path, exif=exif)


def _index_differently(root):
  """A palette made for each mask, as quantising tools do."""
  _every_mask(root, lambda mask: np.where(mask == 255, 0, mask).astype("u1"))
  for number, name in enumerate(_NAMES):
    mask = _array(root / f"masks/{name}.png")
    turned = (mask + number) % 4
    picture = PIL.Image.fromarray(turned.astype(np.uint8)).convert("L")
    order = [(i - number) % 4 for i in range(4)]
    picture.putpalette(_COLORS[order].tobytes())
    picture.save(root / f"masks/{name}.png")


def _index_in_other_order(root):
  """Classes 1 and 2 swap their colours."""
  (root / "classes.yaml").write_text(_YAML)
  for name in _NAMES:
    mask = _array(root / f"masks/{name}.png")
    picture = PIL.Image.fromarray(mask).convert("L")
    colors = _COLORS.copy()
    colors[[1, 2]] = colors[[2, 1]]
    picture.putpalette(colors.tobytes())
    picture.save(root / f"masks/{name}.png")


def _save_again(root):
  """A picture of train in val, compressed once more."""
  image = _array(root / "images/s05.png")
  (root / "images/s00.png").unlink()
  scenes.save(root / "images/s00.jpg", image, quality=80)
  shutil.copy(root / "masks/s05.png", root / "masks/s00.png")


def _copy(root, source, target, kinds=("images", "masks")):
  for kind in kinds:
    shutil.copy(root / f"{kind}/{source}.png", root / f"{kind}/{target}.png")


def _shift_masks(root):
  """Each mask with the next image."""
  masks = [_array(root / f"masks/{name}.png") for name in _NAMES]
  for name, mask in zip(_NAMES, masks[1:] + masks[:1]):
    scenes.save(root / f"masks/{name}.png", mask)


def _listed(root, split, lines):
  (root / f"{split}.txt").write_text("\n".join(lines) + "\n")


def _speck(mask):
  """Class 3 as a single pixel."""
  mask = np.where(mask == 3, 0, mask)
  mask[32, 32] = 3
  return mask.astype(np.uint8)


def _dots(mask):
  """Class 3 as single pixels between the logits, one in four."""
  mask = np.where(mask == 3, 0, mask)
  mask[1::16, 1::16] = 3
  return mask.astype(np.uint8)


_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

# Name -> (how to plant it, code, severity, end of a file named or "").
FAULTS = {
  # Files.
  "image cut off": (
    lambda r: _cut(r / "images/s05.png"),
    ("undecodable", _ERROR, "images/s05.png"),
  ),
  "mask cut off": (
    lambda r: _cut(r / "masks/s05.png"),
    ("undecodable", _ERROR, "masks/s05.png"),
  ),
  "JPEG image without its last bytes": (
    lambda r: (
      PIL.Image.open(r / "images/s05.png").save(r / "images/s05.jpg"),
      (r / "images/s05.png").unlink(),
      _cut(r / "images/s05.jpg", 0.99),
    ),
    ("undecodable", _ERROR, "images/s05.jpg"),
  ),
  "mask damaged in the middle": (
    lambda r: _damage(r / "masks/s05.png"),
    ("undecodable", _ERROR, "masks/s05.png"),
  ),
  "empty image": (
    lambda r: (r / "images/s05.png").write_bytes(b""),
    ("undecodable", _ERROR, "images/s05.png"),
  ),
  "a page of text under an image's name": (
    lambda r: (r / "images/s05.png").write_text("<html>404</html>"),
    ("undecodable", _ERROR, "images/s05.png"),
  ),
  "a link to nothing": (
    lambda r: (
      (r / "masks/s05.png").unlink(),
      (r / "masks/s05.png").symlink_to("gone.png"),
    ),
    ("unreadable", _ERROR, "masks/s05.png"),
  ),
  "an image of a kind that is not read": (
    lambda r: PIL.Image.open(r / "images/s05.png").save(
      r / "images/s05.png", "PCX"
    ),
    ("unsupported-image", _ERROR, "images/s05.png"),
  ),
  "image without mask": (
    lambda r: (r / "masks/s05.png").unlink(),
    ("image-without-mask", _ERROR, "images/s05.png"),
  ),
  "mask without image": (
    lambda r: (r / "images/s05.png").rename(r / "images/other.png"),
    ("mask-without-image", _ERROR, "masks/s05.png"),
  ),
  "masks named after their images with _mask": (
    lambda r: (r / "masks/s05.png").rename(r / "masks/s05_mask.png"),
    ("mask-without-image", _ERROR, "masks/s05_mask.png"),
  ),
  "names that differ in case": (
    lambda r: (r / "masks/s05.png").rename(r / "masks/S05.png"),
    ("image-without-mask", _ERROR, "images/s05.png"),
  ),
  "two images of one name": (
    lambda r: scenes.save(r / "images/s05.jpg", _array(r / "images/s05.png")),
    ("duplicate-name", _ERROR, "images/s05.png"),
  ),
  "no masks at all": (
    lambda r: shutil.rmtree(r / "masks"),
    ("no-layout", _ERROR, ""),
  ),
  "the folder of the images given": (
    lambda r: [p.rename(r / p.name) for p in (r / "images").iterdir()],
    ("no-layout", _ERROR, ""),
  ),
  "folders of splits under other names": (
    lambda r: _in_folders(r, "train", "test"),
    ("split-folders", _WARNING, ""),
  ),
  "a list of classes of another name": (
    lambda r: (r / "Classes.yml").write_text("classes: [a, b, c, d]"),
    ("unread-lists", _WARNING, "Classes.yml"),
  ),
  "two lists of classes": (
    lambda r: [
      (r / f"classes.{end}").write_text(f"{start}a\n{dash}b\n{dash}c\n{dash}d")
      for end, start, dash in (("yaml", "classes:\n- ", "- "), ("txt", "", ""))
    ],
    ("unread-lists", _WARNING, "classes.txt"),
  ),
  "lists of the splits in a folder": (
    lambda r: [
      ((r / "splits").mkdir(exist_ok=True), p.rename(r / "splits" / p.name))
      for p in (r / "train.txt", r / "val.txt")
    ],
    ("unread-lists", _WARNING, "splits/val.txt"),
  ),
  "masks of an array format": (
    lambda r: np.save(r / "masks/s99.npy", np.zeros(3)),
    ("unread-files", _WARNING, "masks/s99.npy"),
  ),
  # Kinds of pictures.
  "masks saved as JPEG": (
    lambda r: (
      PIL.Image.open(r / "masks/s05.png").save(r / "masks/s05.jpg"),
      (r / "masks/s05.png").unlink(),
    ),
    ("jpeg-mask", _ERROR, "masks/s05.jpg"),
  ),
  "a JPEG called PNG": (
    lambda r: PIL.Image.open(r / "masks/s05.png").save(
      r / "masks/s05.png", "JPEG"
    ),
    ("jpeg-mask", _ERROR, "masks/s05.png"),
  ),
  "masks that are AVIF under another name": (
    lambda r: PIL.Image.open(r / "masks/s05.png").save(
      r / "masks/s05.png", "AVIF"
    ),
    ("jpeg-mask", _ERROR, "masks/s05.png"),
  ),
  "masks of JPEG 2000": (
    lambda r: PIL.Image.open(r / "masks/s05.png").save(
      r / "masks/s05.png", "JPEG2000"
    ),
    ("jpeg-mask", _ERROR, "masks/s05.png"),
  ),
  "masks that once were JPEG": (
    lambda r: _every_mask(r, lambda m: _as_jpeg(_TWO[m % 255 % 2])),
    ("stray-ids", _ERROR, "masks/s05.png"),
  ),
  "the photograph in place of the mask": (
    lambda r: shutil.copy(r / "images/s05.png", r / "masks/s05.png"),
    ("too-many-values", _ERROR, "masks/s05.png"),
  ),
  "photographs in place of all masks": (
    lambda r: [
      shutil.copy(r / f"images/{name}.png", r / f"masks/{name}.png")
      for name in _NAMES
    ],
    ("too-many-colours", _ERROR, ""),
  ),
  "a mask of colours among indexed ones": (
    lambda r: _mask(r, lambda m: _COLORS[m]),
    ("colour-mask", _ERROR, "masks/s05.png"),
  ),
  "an indexed mask among those of colours": (
    lambda r: [
      _mask(r, lambda m: _COLORS[m], name) for name in _NAMES if name != "s05"
    ],
    ("mixed-masks", _ERROR, "masks/s05.png"),
  ),
  "masks of colours and names only": (
    lambda r: (
      _in_colours(r, yaml=""),
      (r / "classes.txt").write_text("a\nb\nc\nd\n"),
    ),
    ("colour-mask", _ERROR, "masks/s05.png"),
  ),
  "masks of colours without a list": (
    lambda r: _in_colours(r, yaml=""),
    ("colour-classes", _WARNING, ""),
  ),
  "a colour that is not listed": (
    lambda r: (
      _in_colours(r),
      _mask(r, lambda m: np.where(m == 200, 201, m).astype(np.uint8)),
    ),
    ("unlisted-colour", _ERROR, "masks/s05.png"),
  ),
  "colours in the order blue, green, red": (
    lambda r: (_in_colours(r), _every_mask(r, lambda m: m[..., ::-1].copy())),
    ("unlisted-colour", _ERROR, "masks/s05.png"),
  ),
  "colours that differ a little": (
    lambda r: (
      _in_colours(r, yaml=""),
      _mask(r, lambda m: np.where(m == 200, 203, m).astype(np.uint8)),
    ),
    ("near-colours", _ERROR, "masks/s05.png"),
  ),
  "a transparent mask": (
    lambda r: (
      _in_colours(r),
      _mask(r, lambda m: np.dstack([m, (m[..., 0] > 0) * np.uint8(255)])),
    ),
    ("transparent-mask", _WARNING, "masks/s05.png"),
  ),
  "a transparent image": (
    lambda r: _image(r, lambda i: np.dstack([i, i[..., 0] // 2])),
    ("transparent-image", _WARNING, "images/s05.png"),
  ),
  "an image of ink colours": (
    lambda r: (
      PIL.Image.open(r / "images/s05.png")
      .convert("CMYK")
      .save(r / "images/s05.jpg"),
      (r / "images/s05.png").unlink(),
    ),
    ("odd-colours", _WARNING, "images/s05.jpg"),
  ),
  "a 16-bit image of 12-bit values": (
    lambda r: _image(r, lambda i: i[..., 0].astype(np.uint16) * 16),
    ("deep-image", _WARNING, "images/s05.png"),
  ),
  "an image of four bands": (
    lambda r: (
      (r / "images/s05.tif").write_bytes(
        tiff(np.dstack([_array(r / "images/s05.png")] * 2)[..., :4], (0,))
      ),
      (r / "images/s05.png").unlink(),
    ),
    ("extra-bands", _WARNING, "images/s05.tif"),
  ),
  "an image of fractions": (
    lambda r: (
      (r / "images/s05.tif").write_bytes(
        tiff(_array(r / "images/s05.png").astype(np.float32))
      ),
      (r / "images/s05.png").unlink(),
    ),
    ("unsupported-image", _ERROR, "images/s05.tif"),
  ),
  "a colour image of 16 bits": (
    lambda r: cv2.imwrite(
      str(r / "images/s05.png"),
      _array(r / "images/s05.png").astype(np.uint16) * 16,
    ),
    ("deep-image", _WARNING, "images/s05.png"),
  ),
  "a mask that declares what nothing is known of": (
    lambda r: (
      (r / "masks/s05.tif").write_bytes(
        tiff(
          _array(r / "masks/s05.png")[..., None],
          photometric=1,
          tags=[(42113, 2, "255")],
        )
      ),
      (r / "masks/s05.png").unlink(),
    ),
    ("declared-nodata", _WARNING, "masks/s05.tif"),
  ),
  "names in two forms of Unicode": (
    lambda r: (
      (r / "images/s05.png").rename(r / "images/caf\u00e9.png"),
      (r / "masks/s05.png").rename(r / "masks/cafe\u0301.png"),
      _listed(
        r, "train", [n for n in _NAMES[4:] if n != "s05"] + ["caf\u00e9"]
      ),
    ),
    ("matched-names", _WARNING, "masks/cafe\u0301.png"),
  ),
  "an animated image": (
    lambda r: PIL.Image.open(r / "images/s05.png").save(
      r / "images/s05.png",
      save_all=True,
      append_images=[PIL.Image.open(r / "images/s06.png")],
    ),
    ("several-pictures", _WARNING, "images/s05.png"),
  ),
  "palettes that differ": (
    _index_differently,
    ("palettes-differ", _ERROR, "masks/s05.png"),
  ),
  "a palette in another order than the list": (
    _index_in_other_order,
    ("palette-order", _WARNING, "masks/s05.png"),
  ),
  # Sizes.
  "mask turned by a quarter": (
    lambda r: _mask(r, lambda m: m.T.copy()),
    ("mask-transposed", _ERROR, "masks/s05.png"),
  ),
  "mask of half the size": (
    lambda r: _mask(r, lambda m: m[::2, ::2].copy()),
    ("mask-size", _ERROR, "masks/s05.png"),
  ),
  "mask cut at the edge": (
    lambda r: _mask(r, lambda m: m[:-1].copy()),
    ("mask-size", _ERROR, "masks/s05.png"),
  ),
  "a mask turned by its EXIF tag, and its image": (
    lambda r: [_tag(r / f"{kind}/s05.png", 3) for kind in ("images", "masks")],
    ("exif-orientation", _WARNING, "masks/s05.png"),
  ),
  "an image turned by its EXIF tag": (
    _turn_by_exif,
    ("exif-orientation", _WARNING, "images/s05.png"),
  ),
  "thumbnails": (
    lambda r: (
      _image(r, lambda i: i[:20, :20].copy()),
      _mask(r, lambda m: m[:20, :20].copy()),
    ),
    ("tiny-image", _WARNING, "images/s05.png"),
  ),
  # Labels.
  "an id that is not listed": (
    lambda r: (r / "classes.txt").write_text("a\nb\nc\n"),
    ("id-out-of-range", _ERROR, "masks/s05.png"),
  ),
  "ids of instances": (
    lambda r: _mask(r, lambda m: m.astype(np.uint16) * 1000),
    ("too-many-classes", _ERROR, ""),
  ),
  "grey levels as ids": (
    lambda r: _every_mask(r, lambda m: _GREY[m]),
    ("grey-levels", _ERROR, "masks/s05.png"),
  ),
  "gaps in the ids": (
    lambda r: _every_mask(r, lambda m: np.where(m == 3, 7, m).astype("u1")),
    ("gaps-in-ids", _WARNING, "masks/s05.png"),
  ),
  "a class that no mask has": (
    lambda r: (
      _every_mask(r, lambda m: m % 255),
      (r / "classes.txt").write_text("a\nb\nc\nd\ne\n"),
    ),
    ("class-absent", _WARNING, ""),
  ),
  "a class that may be what is ignored": (
    lambda r: (r / "classes.txt").write_text("a\nb\nc\nd\ne\n"),
    ("absent-while-ignored", _ERROR, "classes.txt"),
  ),
  "a class that is said not to be what is ignored": (
    lambda r: (r / "classes.yaml").write_text(
      "classes: [a, b, c, d, e]\nignore_label: 255\n"
    ),
    ("class-absent", _WARNING, ""),
  ),
  "a mask of fractions": (
    lambda r: _mask(r, lambda m: m / np.float32(2), "s05", "tif"),
    ("not-class-numbers", _ERROR, "masks/s05.tif"),
  ),
  "a mask of numbers that are none": (
    lambda r: _mask(
      r, lambda m: np.where(m == 255, np.nan, m).astype("f4"), "s05", "tif"
    ),
    ("not-class-numbers", _ERROR, "masks/s05.tif"),
  ),
  "a mask of 16 bits with its largest value as void": (
    lambda r: (
      _mask(r, lambda m: m + (m == 255) * np.uint16(65280)),
      (r / "classes.txt").write_text("a\nb\nc\nd\n"),
    ),
    ("id-out-of-range", _ERROR, "masks/s05.png"),
  ),
  "a mask of -1": (
    lambda r: _mask(r, lambda m: m - (m > 3) * np.int32(256), "s05", "tif"),
    ("id-out-of-range", _ERROR, "masks/s05.tif"),
  ),
  "a page for each class": (
    lambda r: (
      (r / "masks/s05.png").unlink(),
      PIL.Image.new("L", (96, 72)).save(
        r / "masks/s05.tif",
        save_all=True,
        append_images=[PIL.Image.new("L", (96, 72), 255)],
      ),
    ),
    ("several-masks", _ERROR, "masks/s05.tif"),
  ),
  "a mask of four inks": (
    lambda r: (
      (r / "masks/s05.png").unlink(),
      PIL.Image.new("CMYK", (96, 72)).save(r / "masks/s05.tif"),
    ),
    ("unsupported-mask", _ERROR, "masks/s05.tif"),
  ),
  "a class named twice": (
    lambda r: (r / "classes.txt").write_text("a\nb\na\nd\n"),
    ("wrong-class-list", _ERROR, "classes.txt"),
  ),
  "a list of classes that is no YAML": (
    lambda r: (r / "classes.yaml").write_text("classes: [a, b"),
    ("wrong-class-list", _ERROR, "classes.yaml"),
  ),
  "ids smoothed by a resize": (
    lambda r: _mask(r, lambda m: _smooth(m % 255 * 20)),
    ("blended-labels", _ERROR, "masks/s05.png"),
  ),
  "ids smoothed, all of them listed": (
    lambda r: (
      (r / "classes.txt").write_text("\n".join(map(str, range(99)))),
      _mask(r, lambda m: _smooth(m % 255 * 20)),
    ),
    ("blended-labels", _ERROR, "masks/s05.png"),
  ),
  "three classes smoothed by a resize": (
    lambda r: _every_mask(r, lambda m: _smooth(m % 255 % 2 * 2)),
    ("blended-labels", _WARNING, "masks/s05.png"),
  ),
  "black and white smoothed by a resize": (
    lambda r: _every_mask(r, lambda m: _smooth(_TWO[m % 255 % 2])),
    ("blended-labels", _ERROR, "masks/s05.png"),
  ),
  "colours smoothed by a resize": (
    lambda r: (_in_colours(r, yaml=""), _mask(r, _smooth)),
    ("blended-labels", _ERROR, "masks/s05.png"),
  ),
  "colours smoothed, with a list": (
    lambda r: (_in_colours(r), _mask(r, _smooth)),
    ("blended-labels", _ERROR, "masks/s05.png"),
  ),
  "black and white drawn with soft edges": (
    lambda r: [_draw_softly(r / f"masks/{name}.png") for name in _NAMES],
    ("blended-labels", _ERROR, "masks/s05.png"),
  ),
  "nothing is ignored": (
    lambda r: _every_mask(r, lambda m: m % 255),
    ("no-ignore-label", _WARNING, ""),
  ),
  "a mask that is ignored throughout": (
    lambda r: _mask(r, lambda m: np.full_like(m, 255)),
    ("all-ignored", _WARNING, "masks/s05.png"),
  ),
  "a split that is ignored throughout": (
    lambda r: [
      _mask(r, lambda m: np.full_like(m, 255), name) for name in _NAMES[:4]
    ],
    ("split-all-ignored", _ERROR, ""),
  ),
  "foreground saved as the ignore label": (
    lambda r: _every_mask(r, lambda m: np.where(m < 2, 255, m).astype("u1")),
    ("mostly-ignored", _WARNING, ""),
  ),
  "masks all zero": (
    lambda r: _every_mask(r, np.zeros_like),
    ("one-class", _ERROR, "masks/s05.png"),
  ),
  "a class for each whole image": (
    lambda r: [
      _mask(r, lambda m, i=i: np.full_like(m, i % 3), name)
      for i, name in enumerate(_NAMES)
    ],
    ("constant-masks", _WARNING, "masks/s05.png"),
  ),
  "one mask copied over others": (
    lambda r: [
      _copy(r, "s04", name, ["masks"]) for name in ("s05", "s06", "s07")
    ],
    ("equal-masks", _WARNING, "masks/s05.png"),
  ),
  "masks upside down": (
    lambda r: _every_mask(r, lambda m: m[::-1].copy()),
    ("masks-displaced", _WARNING, "masks/s05.png"),
  ),
  "masks moved against their images": (
    lambda r: _every_mask(r, lambda m: np.roll(m, (12, 12), (0, 1))),
    ("masks-displaced", _WARNING, "masks/s05.png"),
  ),
  "masks of other images": (
    _shift_masks,
    ("masks-off-images", _WARNING, "masks/s05.png"),
  ),
  "nearly all background": (
    lambda r: _every_mask(
      r, lambda m: np.where(np.indices(m.shape).sum(0) < 20, m, 0).astype("u1")
    ),
    ("dominant-class", _WARNING, ""),
  ),
  "a class of a few pixels": (
    lambda r: _every_mask(r, _speck),
    ("rare-classes", _WARNING, ""),
  ),
  "objects that vanish between the logits": (
    lambda r: _every_mask(r, _dots),
    ("vanishing-classes", _WARNING, "masks/s05.png"),
  ),
  # Splits.
  "an image in both lists": (
    lambda r: _listed(r, "val", ["s00", "s05"]),
    ("image-in-both-splits", _ERROR, "images/s05.png"),
  ),
  "a copy of an image of train in val": (
    lambda r: _copy(r, "s05", "s01"),
    ("image-in-both-splits", _ERROR, "images/s01.png"),
  ),
  "an image of train saved again in val": (
    _save_again,
    ("alike-in-both-splits", _WARNING, "images/s00.jpg"),
  ),
  "the list of train as that of val": (
    lambda r: shutil.copy(r / "train.txt", r / "val.txt"),
    ("val-inside-train", _WARNING, "images/s05.png"),
  ),
  "an image twice in the list of train": (
    lambda r: _listed(r, "train", [*_NAMES[4:], "s05"]),
    ("repeated-images", _WARNING, "images/s05.png"),
  ),
  "an image twice in train": (
    lambda r: _copy(r, "s05", "s06"),
    ("repeated-images", _WARNING, "images/s06.png"),
  ),
  "an image twice with other labels": (
    lambda r: _copy(r, "s05", "s06", ["images"]),
    ("conflicting-masks", _WARNING, "images/s06.png"),
  ),
  "a class only in val": (
    lambda r: [
      _mask(r, lambda m: np.where(m == 3, 0, m).astype("u1"), name)
      for name in _NAMES[4:]
    ],
    ("class-missing-in-train", _WARNING, ""),
  ),
  "a class only in train": (
    lambda r: [
      _mask(r, lambda m: np.where(m == 3, 0, m).astype("u1"), name)
      for name in _NAMES[:4]
    ],
    ("class-missing-in-val", _WARNING, ""),
  ),
  "a name that is not there": (
    lambda r: _listed(r, "train", [*_NAMES[4:], "s77"]),
    ("wrong-list", _ERROR, "train.txt"),
  ),
  "an empty list": (
    lambda r: (r / "val.txt").write_text("\n"),
    ("empty-split", _ERROR, ""),
  ),
  "a list that is no text": (
    lambda r: (r / "val.txt").write_bytes(b"\xff\xfe\x00\xd8"),
    ("not-text", _ERROR, "val.txt"),
  ),
  "images in no list": (
    lambda r: _listed(r, "train", _NAMES[6:]),
    ("unlisted-images", _WARNING, "images/s05.png"),
  ),
  # Images.
  "a black image": (
    lambda r: _image(r, np.zeros_like),
    ("constant-image", _WARNING, "images/s05.png"),
  ),
  "images of 0 to 1 saved as 8-bit": (
    lambda r: _every_image(r, lambda i: i // 128),
    ("unusual-brightness", _WARNING, ""),
  ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found_and_its_file_named(tmp_path, fault):
  """By the doctor and by training, which refuses it or prints it."""
  plant, (code, severity, file) = FAULTS[fault]
  root = scenes.write(tmp_path / "mine")
  plant(root)
  checkup = examine(scenes.config(root), overfit_steps=0)
  found = {f.code: f for f in checkup.findings if f.severity is severity}
  assert code in found, [(f.code, f.message) for f in checkup.findings]
  assert found[code].message and found[code].remedy
  if file:
    assert any(m.file.endswith(file) for m in found[code].mentions)
  if severity is Severity.WARNING and code not in ("no-ignore-label",):
    assert not checkup.errors, [(f.code, f.message) for f in checkup.errors]
  refused, said = _told_by_training(scenes.config(root).data)
  if severity is _ERROR and code in builder_faults.FAULTS:
    assert any(code == c and f.endswith(file) for c, f in refused), refused
  elif code in builder_faults.REMARKS:
    assert not refused or severity is _ERROR
    assert refused or any(line.startswith(f"{code}: ") for line in said), said


def _told_by_training(config) -> tuple[set[tuple[str, str]], list[str]]:
  """Codes and files of what is refused, and the lines printed."""
  try:
    return set(), build.remarks(open_dataset(config).directory)
  except BadExample as fault:
    return {(f.code, f.file) for f in (fault, *fault.others)}, []


def test_every_code_is_documented():
  """And every documented one is there; most are planted in this file."""
  text = (pathlib.Path(__file__).parent.parent / "docs/data.md").read_text()
  tables = text[text.index("| errors |") : text.index("Not found: a JPEG")]
  documented = {
    code
    for line in tables.splitlines()
    if line.startswith("|")
    for code in re.findall(r"`([a-z0-9-]+)`", line.split("|")[1])
  }
  planted = {code for _, (code, _, _) in FAULTS.values()}
  planted |= {code for _, (code, _, _) in CONFIGS.values()}
  planted |= {code for _, (code, _) in HOSTILE.values()}
  planted |= {"loss-not-finite", "loss-does-not-fall", "training-fails"}
  # Those of exports, channels and overlapping classes have tests of their own.
  known = {*builder_faults.FAULTS, *builder_faults.REMARKS}
  assert planted <= documented
  assert documented - planted <= known
