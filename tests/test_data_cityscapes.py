"""Cityscapes from zip files built of the sample, ids mapped to train ids."""

import shutil

import numpy as np
import PIL.Image
import pytest

from deeplab_jax.data import build
from deeplab_jax.data.builders.checks import BadExample
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.data.source import Dataset
from tests.archives import pack

# The official table: id -> train id.
_TRAIN_IDS = {
  7: 0,
  8: 1,
  11: 2,
  12: 3,
  13: 4,
  17: 5,
  19: 6,
  20: 7,
  21: 8,
  22: 9,
}
_TRAIN_IDS |= {23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17}
_TRAIN_IDS |= {33: 18}


@pytest.fixture(scope="module")
def manual_dir(shared, tmp_path_factory):
  root = tmp_path_factory.mktemp("cityscapes")
  sample = shared / "data/cityscapes-sample"
  manual = root / "manual"
  pack(sample, manual / "leftImg8bit_trainvaltest.zip", "leftImg8bit")
  pack(sample, manual / "gtFine_trainvaltest.zip", "gtFine")
  # Coarse masks: the fine ones once more, under the names of gtCoarse.
  coarse = root / "coarse/gtCoarse/train/aachen"
  coarse.mkdir(parents=True)
  for mask in (sample / "gtFine/train/aachen").glob("*_labelIds.png"):
    shutil.copy(mask, coarse / mask.name.replace("gtFine", "gtCoarse"))
  pack(root / "coarse", manual / "gtCoarse.zip")
  return manual


@pytest.fixture(scope="module")
def folder(manual_dir):
  data_dir = str(manual_dir.parent / "data")
  build.build(
    "cityscapes", data_dir=data_dir, manual_dir=str(manual_dir), partial=True
  )
  return build.directory("cityscapes", data_dir)


@pytest.mark.parametrize("split", ["train_fine", "train_coarse"])
def test_archives_read_back_equal_to_the_source(folder, shared, split):
  source = Dataset(folder, DATASETS["cityscapes"]).source(split)
  assert len(source) == 4
  sample = shared / "data/cityscapes-sample"
  for i in (0, 3):
    example = source[i]
    name = example["name"]
    image = PIL.Image.open(sample / f"leftImg8bit/{name}_leftImg8bit.png")
    np.testing.assert_array_equal(example["image"], np.array(image))
    path = sample / f"gtFine/{name}_gtFine_labelIds.png"
    ids = np.array(PIL.Image.open(path))
    expected = np.full(ids.shape, 255)
    for dataset_id, train_id in _TRAIN_IDS.items():
      expected[ids == dataset_id] = train_id
    np.testing.assert_array_equal(example["label"], expected)
  assert source[0]["name"] == "train/aachen/aachen_000000_000019"
  assert source.largest == (1024, 2048)


def test_counts_are_those_of_the_data_set(manual_dir, tmp_path):
  with pytest.raises(ValueError, match=r"train_fine must have 2975 .* got 4"):
    build.build(
      "cityscapes", data_dir=str(tmp_path), manual_dir=str(manual_dir)
    )


def test_unknown_id_names_the_mask(shared, tmp_path):
  files = tmp_path / "files"
  shutil.copytree(shared / "data/cityscapes-sample", files)
  mask = next(files.rglob("*_labelIds.png"))
  mask.parent.chmod(0o755)
  mask.unlink()
  PIL.Image.fromarray(np.full((1024, 2048), 34, np.uint8)).save(mask)
  with pytest.raises(
    BadExample, match=rf"{mask}: values must be 0\.\.33, got 34"
  ):
    build.build(
      "cityscapes",
      data_dir=str(tmp_path),
      manual_dir=str(files),
      partial=True,
    )


def test_login_is_asked_for_without_manual_dir(tmp_path):
  message = (
    r"--manual_dir must have leftImg8bit_trainvaltest\.zip from https://"
  )
  with pytest.raises(ValueError, match=message):
    build.build("cityscapes", data_dir=str(tmp_path))
