"""Fixtures: a small data set, and the same in an emulated object store.

Test files name this module in `pytest_plugins`.
"""

import pathlib
import threading
from collections.abc import Iterator

import pytest
import tensorflow_datasets as tfds

from deeplab_jax.data import published
from deeplab_jax.data.source import open_dataset
from deeplab_jax.remote import Address
from tests import doctor_scenes, stores
from tests.published_scenes import data_config

_SHARDS = 4


@pytest.fixture(scope="module", params=["gs"])
def served(request):
  with stores.serve(request.param) as found:
    yield found


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> pathlib.Path:
  """A user's folder of 8 and 4 pictures with masks."""
  root = doctor_scenes.write(tmp_path_factory.mktemp("scenes") / "mine")
  (root / "classes.txt").write_text("ground\nred\nblue\nyellow\n")
  return root


@pytest.fixture(scope="module")
def built(scenes) -> pathlib.Path:
  """The same as a data set in this machine's folders, of 4 files a split."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(tfds.download, "DownloadConfig", _in_shards)
    return open_dataset(data_config(scenes, scenes.parent / "data")).directory


def _in_shards(**options):
  return _DOWNLOAD_CONFIG(num_shards=_SHARDS, **options)


_DOWNLOAD_CONFIG = tfds.download.DownloadConfig


@pytest.fixture
def bucket(served, monkeypatch, tmp_path) -> Iterator[Address]:
  """A folder of the bucket; data sets are built in several files."""
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "none"))
  monkeypatch.setattr(tfds.download, "DownloadConfig", _in_shards)
  with stores.folder_of_test(served, tmp_path, monkeypatch) as found:
    yield found
    for thread in threading.enumerate():
      if thread.name == "staging":
        thread.join()


@pytest.fixture
def put(built, bucket) -> Address:
  """The data set, published."""
  target = bucket / "folder" / built.parent.name / built.name
  published.upload(built, target, "rules 3, nodata None")
  return target


@pytest.fixture
def reads(monkeypatch) -> list[tuple]:
  """The names of the files that are read from the store, and from where on."""
  found, read = [], Address.read_bytes

  def read_bytes(self, begin=0, end=None):
    found.append((self.name, begin))
    return read(self, begin, end)

  monkeypatch.setattr(Address, "read_bytes", read_bytes)
  return found
