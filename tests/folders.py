"""Configs of a user's folder, for tests."""

import pathlib

from ml_collections import ConfigDict

from deeplab_jax import config as config_lib


def make_config(root: pathlib.Path, **fields) -> ConfigDict:
  """A tiny network on the folder `root`, with `fields` of `config.data`."""
  config = config_lib.base_config()
  config.update(batch_size=2, steps=3)
  config.model.update(backbone="tiny", atrous_rates=(), decoder=())
  config.data.update(name="folder", path=str(root), crop_size=(33, 33))
  config.data.update(data_dir=str(root.parent / "built"), **fields)
  return config
