"""A training run: what it is made of, and `train_and_evaluate`."""

from deeplab_jax.train.run import train_and_evaluate

__all__ = ["train_and_evaluate"]
