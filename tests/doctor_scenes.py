"""Small scenes that are sound in every respect, for the doctor's tests."""

import functools
import io
import pathlib

import cv2
import numpy as np
import PIL.Image
from ml_collections import ConfigDict

from deeplab_jax.config import base_config

SIZE = (72, 96)
PAINT = np.array(
  [(120, 140, 120), (220, 70, 60), (60, 80, 220), (230, 210, 70)], np.uint8
)


def draw(
  seed: int, classes: int = 4, size: tuple[int, int] = SIZE
) -> tuple[np.ndarray, np.ndarray]:
  """An image (h, w, 3) and its mask (h, w): discs in the paint of their class.

  Boundaries are ignored, as VOC's are.
  """
  rng = np.random.default_rng(seed)
  mask = np.zeros(size, np.uint8)
  for number in range(max(2 * classes, 6)):
    center = rng.integers((0, 0), size[::-1]).tolist()
    radius = int(rng.integers(6, 14))
    cv2.circle(mask, center, radius + 1, 255, -1)
    cv2.circle(mask, center, radius, number % classes, -1)
  paint = np.vstack([PAINT, rng.integers(40, 220, (256, 3))])[mask]
  noise = rng.normal(0, 12, (*size, 3)) + 25 * rng.normal(size=(1, 1, 3))
  return np.clip(paint + noise, 0, 255).astype(np.uint8), mask


def write(
  root: pathlib.Path, count: int = 12, values=None, suffix="png", **options
) -> pathlib.Path:
  """`count` scenes in images/ and masks/, a third of them for validation.

  `values` replaces the labels, by number: grey values (256,), or colours.
  """
  for folder in ("images", "masks"):
    (root / folder).mkdir(parents=True, exist_ok=True)
  for seed in range(count):
    image, mask = _files(seed, suffix, **options)
    (root / f"images/s{seed:02d}.{suffix}").write_bytes(image)
    path = root / f"masks/s{seed:02d}.png"
    if values is None:
      path.write_bytes(mask)
    else:
      save(path, values[draw(seed, **options)[1]])
  names = [f"s{seed:02d}" for seed in range(count)]
  for split, listed in (
    ("train", names[count // 3 :]),
    ("val", names[: count // 3]),
  ):
    (root / f"{split}.txt").write_text("\n".join(listed) + "\n")
  return root


@functools.cache  # many tests begin with the same scenes
def _files(seed: int, suffix: str, **options) -> tuple[bytes, bytes]:
  """What the files of a scene's image and mask hold."""
  contents = []
  for array, ending in zip(draw(seed, **options), (suffix, "png")):
    content = io.BytesIO()
    kind = PIL.Image.registered_extensions()[f".{ending}"]
    PIL.Image.fromarray(array).save(content, kind)
    contents.append(content.getvalue())
  return tuple(contents)


def save(path: pathlib.Path, array: np.ndarray, **options) -> None:
  """Writes a picture of the kind that the array and the suffix say."""
  PIL.Image.fromarray(array).save(path, **options)


def config(root: pathlib.Path, **fields) -> ConfigDict:
  """A config that suits the scenes in `root`; dots are written `__`."""
  result = base_config()
  result.data.update(name="folder", path=str(root), crop_size=(65, 65))
  result.data.data_dir = str(root.parent / "data")
  result.model.update(backbone="mobilenet_v2", batch_norm_momentum=0.9)
  result.batch_size = 4
  result.update_from_flattened_dict(
    {name.replace("__", "."): value for name, value in fields.items()}
  )
  return result
