"""Batches of training, for tests of the input."""

from deeplab_jax.data import segmentation
from deeplab_jax.data.source import open_dataset

GREY = (127.5, 127.5, 127.5)


def train_batches(config, count, **kwargs) -> list[dict]:
  """The first `count` batches of `config`, four crops each."""
  arguments = {"batch_size": 4, "seed": 7, "padding_value": GREY} | kwargs
  batches = segmentation.train_batches(
    open_dataset(config), config, **arguments
  )
  return [next(batches) for _ in range(count)]
