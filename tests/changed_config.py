"""The base config with fields replaced, for tests of what follows."""

from ml_collections import ConfigDict

from deeplab_jax import config as config_lib


def changed(**fields) -> ConfigDict:
  """The base config with fields of it, or of its parts, replaced."""
  config = config_lib.base_config()
  config.data.name = "shapes"
  config.update_from_flattened_dict(
    {name.replace("__", "."): value for name, value in fields.items()}
  )
  return config
