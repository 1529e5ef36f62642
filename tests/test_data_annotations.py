"""Exports of annotation tools: one set of scenes in every format."""

import pathlib

import numpy as np
import pytest

from deeplab_jax.data.annotations import find, report
from deeplab_jax.data.annotations.options import Options
from deeplab_jax.data.builders import folder_classes
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.doctor.samples import FolderSamples
from tests import annotation_scenes as scenes
from tests.annotation_scenes import FORMATS, NAMES, SCENES, SPLITS

_EMPTY = "empty"  # the scene without an object


def _read(root, **options):
  """The export, its classes, and the labels of each picture by its stem."""
  found = find.find(Tree.open(root), Options(**options))
  layout = found.layout
  classes = folder_classes.find(
    found.tree, layout.used_masks(), listed=found.listed
  )
  labels = {}
  for name, path in layout.masks.items():
    mask = classes.decode(path, found.tree.read(path))
    labels[pathlib.Path(name).name] = classes.labels_of(path, mask)
  return found, classes, labels


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  folders = {name: tmp_path_factory.mktemp("export") for name in FORMATS}
  for name, format_of in FORMATS.items():
    format_of.write(folders[name])
  return folders


@pytest.mark.parametrize("name", FORMATS)
def test_one_scene_has_one_mask_in_every_format(written, name):
  format_of = FORMATS[name]
  found, classes, labels = _read(written[name])
  assert classes.names == NAMES
  assert labels.keys() == SCENES.keys()
  for scene, got in labels.items():
    wanted = scenes.truth(scene, format_of.holes, format_of.crowd)
    np.testing.assert_array_equal(got, wanted, err_msg=scene)
  stems = {
    split: {pathlib.Path(key).name for key in keys}
    for split, keys in found.layout.splits.items()
  }
  assert stems == {split: set(listed) for split, listed in SPLITS.items()}
  for key, path in found.layout.images.items():
    scene = pathlib.Path(key).name
    assert found.tree.read(path) == scenes.png(scenes.image(scene))


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_lost_is_what_is_said(written, name):
  found, classes, _ = _read(written[name])
  lost = {}
  for drawn in found.drawings.values():
    for loss in drawn.losses:
      lost[loss.kind] = lost.get(loss.kind, 0) + loss.pixels
  assert lost == FORMATS[name].losses()
  said = report.lines(found, classes.names)
  assert FORMATS[name].title in said[0]
  if "masks are called" not in said[0]:
    assert f"{len(SCENES)} images, 3 classes" in said[0]
  for kind, pixels in FORMATS[name].losses().items():
    (line,) = (line for line in said if line.startswith(f"  {kind}:"))
    assert not pixels or f" {pixels} pixels" in line or "over" in line


@pytest.mark.parametrize("name", FORMATS)
def test_the_doctor_reads_the_same(written, name):
  samples = FolderSamples(Tree.open(written[name]))
  assert samples.faults == []
  assert samples.info.class_names == NAMES
  format_of = FORMATS[name]
  for split in SPLITS:
    for index, key in enumerate(samples.names(split)):
      sample = samples.read(split, index)
      assert sample.faults == []
      scene = pathlib.Path(key).name
      wanted = scenes.truth(scene, format_of.holes, format_of.crowd)
      np.testing.assert_array_equal(sample.label, wanted)
      np.testing.assert_array_equal(sample.image, scenes.image(scene))
