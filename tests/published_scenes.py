"""A small data set in an emulated object store: how tests open and read it."""

import pytest

from deeplab_jax import config as config_lib
from deeplab_jax.data.source import open_dataset
from deeplab_jax.remote import Address
from tests import stores, tiny_runs

BOTH = pytest.mark.parametrize("served", stores.SCHEMES, indirect=True)


def data_config(path, data_dir, **fields):
  """`config.data` of a folder, or of what is published under a name."""
  config = config_lib.load(str(tiny_runs.CONFIG)).data
  config.update(name="folder", path=str(path), data_dir=str(data_dir), **fields)
  return config


def open_published(put: Address):
  """As a host that has not got the folder."""
  return open_dataset(data_config(put.parent.name, put.parent.parent.parent))


def records_of(dataset, split="train") -> list[dict]:
  """All examples of a split."""
  source = dataset.source(split)
  return [source.encoded(index) for index in range(len(source))]


def one_line(caught) -> str:
  """The message of what pytest has caught."""
  assert "\n" not in str(caught.value)
  return str(caught.value)
