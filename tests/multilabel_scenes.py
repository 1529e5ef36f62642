"""Folders of overlapping classes, in all ways that files may be laid out."""

import pathlib

import cv2
import numpy as np
from PIL import Image

from deeplab_jax import config as config_lib

NAMES = ("disc", "box", "glow")
_TINTS = np.array([[120, -60, -40], [-50, 110, -50], [-30, -50, 120]])


def scene(
  rng: np.random.Generator, size: tuple[int, int] = (64, 80)
) -> tuple[np.ndarray, np.ndarray]:
  """A picture (h, w, 3) whose three kinds of shapes show through each other,
  and uint8 (h, w, 3): where each kind is, 255 where nobody knows."""
  planes = [np.zeros(size, np.uint8) for _ in NAMES]
  for plane, draw in zip(planes, (_disc, _box, _band)):
    if rng.random() < 0.85:
      draw(rng, plane)
  label = np.stack(planes, -1)
  image = 110 + label @ _TINTS + rng.normal(0, 6, (*size, 3))
  label[:3] = 255
  return np.clip(image, 0, 255).astype(np.uint8), label


def _disc(rng, plane):
  center = [int(rng.integers(10, side - 10)) for side in plane.shape[::-1]]
  cv2.circle(plane, center, int(rng.integers(10, 20)), 1, -1)


def _box(rng, plane):
  height, width = plane.shape
  x, y = int(rng.integers(0, width - 30)), int(rng.integers(0, height - 25))
  size = rng.integers(18, 30, 2)
  cv2.rectangle(plane, (x, y), (x + int(size[0]), y + int(size[1])), 1, -1)


def _band(rng, plane):
  height, width = plane.shape
  ends = int(rng.integers(0, height)), int(rng.integers(0, height))
  cv2.line(plane, (0, ends[0]), (width, ends[1]), 1, int(rng.integers(8, 14)))


def scenes(count: int, seed: int = 0) -> dict[str, tuple]:
  """Named scenes."""
  rng = np.random.default_rng(seed)
  return {f"s_{i}": scene(rng) for i in range(count)}


def write(
  root: pathlib.Path, how: str, found: dict, val: int = 2, listed: bool = True
) -> pathlib.Path:
  """Writes a folder, the last `val` scenes being those of validation.

  Args:
    root: created.
    how: a key of `WAYS`.
    found: of `scenes`.
    val: how many.
    listed: whether there is a list of the classes.
  """
  for name, (image, label) in found.items():
    _save(root / f"images/{name}.png", image)
    WAYS[how](root / "masks", name, label)
  if listed:
    (root / "classes.txt").write_text("\n".join(NAMES))
  names = list(found)
  (root / "train.txt").write_text("\n".join(names[:-val]))
  (root / "val.txt").write_text("\n".join(names[-val:]))
  return root


def _save(path: pathlib.Path, array: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path)


def _pages(masks, name, label):
  masks.mkdir(exist_ok=True, parents=True)
  pages = [Image.fromarray(label[..., i]) for i in range(label.shape[2])]
  pages[0].save(
    masks / f"{name}.tif",
    save_all=True,
    append_images=pages[1:],
    compression="tiff_deflate",
  )


def _array(masks, name, array):
  masks.mkdir(exist_ok=True, parents=True)
  np.save(masks / f"{name}.npy", array)


def _each(pattern, values=(0, 1, 255), suffix="png", names=NAMES):
  table = np.zeros(256, np.uint8)
  table[[0, 1, 255]] = values

  def save(masks, name, label):
    for index, class_name in enumerate(names):
      path = pattern.format(name=name, class_name=class_name)
      _save(masks / f"{path}.{suffix}", table[label[..., index]])

  return save


WAYS = {
  "channels of a PNG": lambda m, n, x: _save(m / f"{n}.png", x),
  "with alpha beside": lambda m, n, x: _save(
    m / f"{n}.png", np.concatenate([x, np.full_like(x[..., :1], 255)], -1)
  ),
  "pages of a TIFF": _pages,
  "array": lambda m, n, x: _array(m, n, x),
  "array, classes first": lambda m, n, x: _array(
    m, n, np.moveaxis(x, -1, 0).astype(np.float32)
  ),
  "folder a class": _each("{class_name}/{name}"),
  "folder a class, in capitals": _each(
    "{class_name}/{name}", names=[name.upper() for name in NAMES]
  ),
  "folder an image": _each("{name}/{class_name}", suffix="bmp"),
  "suffix a class": _each("{name}_{class_name}"),
  "other numbers": _each("{name}-{class_name}", values=(0, 7, 255)),
}


def make_config(root: pathlib.Path, **changes):
  """Of a short run of the tiny backbone on a folder, with `changes`."""
  config = config_lib.base_config()
  config.update(task="multilabel", batch_size=2, steps=12, lr=0.02)
  config.update(log_every=1, checkpoint_every=6, eval_every=6)
  config.update(optimizer="adamw", ema_decay=0.5)
  config.data.update(name="folder", path=str(root), crop_size=(33, 33))
  config.data.data_dir = str(root.parent / "data")
  config.data.update(rotation=10.0, classmix=0.5, noise=4.0)
  config.model.update(
    backbone="tiny", output_stride=32, atrous_rates=(), decoder=()
  )
  config.loss.name = "binary_cross_entropy+dice"
  config.loss.positive_weights = (2.0, 1.0, 1.0)
  config.eval.pictures = 2
  config.update_from_flattened_dict(changes)
  return config
