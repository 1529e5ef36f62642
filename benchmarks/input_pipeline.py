"""Images per second and core of the training input, against two others.

  python benchmarks/input_pipeline.py [--source FOLDER] [--seconds 10]
  python -m benchmarks.run --parts input [--source FOLDER] [--seconds 10]

FOLDER is in PASCAL VOC's layout; its 500 x 375 images, with their masks, are
scaled (0.5 to 2.0), padded, cropped to 513 x 513 and mirrored, in batches of
16, each contender in a process of its own, three rounds in turn. A rate is
images per second of CPU time, all threads of the process together, so other
work on the machine hardly moves it; the median of the rounds is shown.

  ours   `deeplab_jax.data.segmentation`, reading ArrayRecord
  more   the same with every augmentation of docs/recipes.md
  naive  Pillow: decode, resize the whole image, pad, crop, mirror; float32
  tf     tf.data with the operations of the official implementation; float32
"""

import argparse
import io
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image

_CROP = 513
_BATCH = 16
_SCALES = np.arange(2, 9) / 4
_ROUNDS = 3
_CONTENDERS = ("ours", "more", "naive", "tf")
_AUGMENTATION = {
  "color_jitter": (0.4, 0.4, 0.4),
  "rotation": 10.0,
  "vertical_flip": True,
  "blur": 1.0,
  "noise": 5.0,
  "cutout": 0.3,
  "cutmix": 0.5,
  "classmix": 0.5,
  "copy_paste": 0.5,
  "copy_paste_classes": (5,),
}
_SAMPLE = (
  pathlib.Path(__file__).resolve().parents[2]
  / "shared/data/voc2012-sample/VOCdevkit/VOC2012"
)


def main() -> None:
  """Measures one contender if --contender says so, else all, as a table."""
  options = _parser().parse_args()
  if options.contender:
    print(json.dumps(_measure(options)))
    return
  rates: dict[str, list[float]] = {name: [] for name in _CONTENDERS}
  for _, name in itertools.product(range(_ROUNDS), _CONTENDERS):
    rates[name].append(_measure_apart(options, name))
  print("| contender | images/s/core |\n|---|---|")
  for name, found in rates.items():
    print(f"| {name} | {statistics.median(found):.0f} |")


def run_input(options: argparse.Namespace) -> Iterator:
  """The part "input" of `benchmarks.run`: CPU seconds per image."""
  from benchmarks.timing import Case, Result

  options.source = options.source or _SAMPLE
  case = Case("input", "VOC images", "CPU time of a crop", _CROP, 1, "uint8")
  results = {name: Result(name) for name in _CONTENDERS}
  for _, name in itertools.product(
    range(min(options.rounds, _ROUNDS)), _CONTENDERS
  ):
    try:
      rate = _measure_apart(options, name)
      results[name].seconds.append(1 / rate)
    except subprocess.CalledProcessError as error:  # no tensorflow, no source
      results[name].error = error.stderr.strip().splitlines()[-1][:200]
  yield case, list(results.values())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--source", type=pathlib.Path, default=_SAMPLE)
  parser.add_argument("--seconds", type=float, default=10)
  parser.add_argument("--contender", choices=_CONTENDERS)
  return parser


def _measure_apart(options: argparse.Namespace, name: str) -> float:
  command = [sys.executable, __file__, "--contender", name]
  command += ["--source", options.source, "--seconds", str(options.seconds)]
  environment = os.environ | {
    "PYTHONPATH": str(pathlib.Path(__file__).resolve().parent.parent),
    "TF_CPP_MIN_LOG_LEVEL": "3",
  }
  result = subprocess.run(
    command, env=environment, capture_output=True, text=True, check=True
  )
  return json.loads(result.stdout.splitlines()[-1])


def _measure(options: argparse.Namespace) -> float:
  """Images per second of CPU time."""
  files = _files(options.source)
  with tempfile.TemporaryDirectory() as folder:
    batches = globals()[f"_{options.contender}"](files, folder)
    for _ in range(3):  # start-up and what is read ahead
      next(batches)
    start, images = time.process_time(), 0
    while time.process_time() - start < options.seconds:
      next(batches)
      images += _BATCH
    return images / (time.process_time() - start)


def _files(source: pathlib.Path) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Image and mask of each 500 x 375 image."""
  pairs = []
  for mask in sorted((source / "SegmentationClass").glob("*.png")):
    image = source / f"JPEGImages/{mask.stem}.jpg"
    with PIL.Image.open(image) as opened:
      if opened.size == (500, 375):
        pairs.append((image, mask))
  return pairs


def _more(files: list, folder: str) -> Iterator:
  return _ours(files, folder, **_AUGMENTATION)


def _ours(files: list, folder: str, **changes: Any) -> Iterator:
  from deeplab_jax.config import base_config
  from deeplab_jax.data import segmentation
  from deeplab_jax.data.source import open_dataset

  mine = pathlib.Path(folder, "mine")
  for kind, paths in zip(("images", "masks"), zip(*files)):
    (mine / kind).mkdir(parents=True)
    for path in paths:
      (mine / kind / path.name).symlink_to(path)
  config = base_config().data
  config.update(name="folder", path=str(mine), data_dir=folder, **changes)
  dataset = open_dataset(config)
  return segmentation.train_batches(
    dataset, config, batch_size=_BATCH, seed=0, padding_value=(127.5,) * 3
  )


def _naive(files: list, folder: str) -> Iterator:
  del folder
  rng = np.random.default_rng(0)
  encoded = [(i.read_bytes(), m.read_bytes()) for i, m in files]
  while True:
    rows = [
      _naive_row(rng, *encoded[rng.integers(len(encoded))])
      for _ in range(_BATCH)
    ]
    yield tuple(np.stack(column) for column in zip(*rows))


def _naive_row(rng: np.random.Generator, image: bytes, mask: bytes) -> tuple:
  image = PIL.Image.open(io.BytesIO(image)).convert("RGB")
  mask = PIL.Image.open(io.BytesIO(mask))
  scale = rng.choice(_SCALES)
  size = int(image.width * scale), int(image.height * scale)
  image = image.resize(size, PIL.Image.Resampling.BILINEAR)
  mask = mask.resize(size, PIL.Image.Resampling.NEAREST)
  missing = [(0, max(_CROP - side, 0)) for side in size[::-1]]
  image = np.pad(
    np.asarray(image, np.float32), [*missing, (0, 0)], constant_values=127.5
  )
  mask = np.pad(np.asarray(mask), missing, constant_values=255)
  top, left = (int(rng.integers(side - _CROP + 1)) for side in mask.shape)
  window = np.s_[top : top + _CROP, left : left + _CROP]
  image, mask = image[window], mask[window]
  if rng.random() < 0.5:
    image, mask = image[:, ::-1], mask[:, ::-1]
  return image, mask


def _tf(files: list, folder: str) -> Iterator:
  del folder
  import tensorflow as tf

  # Labels as grey PNG: TensorFlow would expand the palette to colours.
  encoded = [(image.read_bytes(), _as_grey(mask)) for image, mask in files]
  dataset = tf.data.Dataset.from_tensor_slices(tuple(map(list, zip(*encoded))))
  dataset = dataset.shuffle(len(files)).repeat()
  dataset = dataset.map(_tf_row, num_parallel_calls=tf.data.AUTOTUNE)
  return iter(dataset.batch(_BATCH).prefetch(tf.data.AUTOTUNE))


def _as_grey(path: pathlib.Path) -> bytes:
  file = io.BytesIO()
  with PIL.Image.open(path) as mask:
    PIL.Image.fromarray(np.asarray(mask)).save(file, "PNG")
  return file.getvalue()


def _tf_row(image, mask):  # tensors of encoded bytes
  import tensorflow as tf

  image = tf.cast(tf.io.decode_jpeg(image, 3), tf.float32)[None]
  mask = tf.io.decode_png(mask, 1)[None]
  scale = tf.gather(
    tf.constant(_SCALES, tf.float32),
    tf.random.uniform([], 0, len(_SCALES), tf.int32),
  )
  size = tf.cast(tf.cast(tf.shape(image)[1:3], tf.float32) * scale, tf.int32)
  resize = tf.compat.v1.image
  image = resize.resize_bilinear(image, size, align_corners=True)[0]
  mask = resize.resize_nearest_neighbor(mask, size, align_corners=True)[0]
  missing = tf.maximum(_CROP - size, 0)
  padding = [[0, missing[0]], [0, missing[1]], [0, 0]]
  image = tf.pad(image - 127.5, padding) + 127.5
  mask = tf.pad(mask, padding, constant_values=255)
  room = tf.shape(mask)[:2] - _CROP + 1
  top = tf.random.uniform([], 0, room[0], tf.int32)
  left = tf.random.uniform([], 0, room[1], tf.int32)
  image = image[top : top + _CROP, left : left + _CROP]
  mask = mask[top : top + _CROP, left : left + _CROP]
  if tf.random.uniform([]) < 0.5:
    image, mask = tf.reverse(image, [1]), tf.reverse(mask, [1])
  return tf.ensure_shape(image, (_CROP, _CROP, 3)), mask


if __name__ == "__main__":
  main()
