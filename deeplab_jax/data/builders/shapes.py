"""The quickstart data set: scenes of textured shapes, drawn by this program.

Made to be trained on in minutes without a download, yet to have what makes
segmentation hard: occlusion, thin parts, varied size, light and noise, colours
that classes share in part, and a border of ignored pixels as VOC has.
"""

import cv2
import numpy as np

from deeplab_jax.data.builders import scenes
from deeplab_jax.data.builders.segmentation import Example, SegmentationBuilder

_FIRST_SCENE = {"train": 0, "val": 1_000_000}


class Shapes(SegmentationBuilder, skip_registration=True):
  """Generates every scene from its number alone: the same bytes every time."""

  name = "shapes"

  def open(self) -> dict[str, list]:
    return {
      split: [f"{split}_{i:04d}" for i in range(count)]
      for split, count in self.dataset.splits.items()
    }

  def read(self, split: str, key: str) -> Example:
    number = _FIRST_SCENE[split] + int(key.removeprefix(f"{split}_"))
    image, mask = scenes.draw(np.random.default_rng(number))
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return Example(key, encoded.tobytes(), key, mask)
