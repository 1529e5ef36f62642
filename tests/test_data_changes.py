"""What differs between two states of a data set, and that it is noticed."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest

from deeplab_jax.config import base_config
from deeplab_jax.data import build
from deeplab_jax.data.changes import Changes, changes, describe
from deeplab_jax.data.source import open_dataset


def _config(root, name="folder"):
  config = base_config().data
  config.update(name=name, data_dir=str(root.parent / "data"))
  if name == "folder":
    config.path = str(root)
  return config


def _write_pair(root, name, seed=0):
  """An image and a mask of the classes 0, 1 and 2."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (8, 8, 3), np.uint8)
  mask = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
  for folder, pixels in (("images", image), ("masks", mask)):
    (root / folder).mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(root / folder / f"{name}.png")


@pytest.fixture
def root(tmp_path):
  """A folder of the images a to h, all of them in both splits."""
  root = tmp_path / "mine"
  for name in "abcdefgh":
    _write_pair(root, name)
  _list(root, "abcdefgh")
  (root / "classes.txt").write_text("sky\nroad\ncar\n")
  return root


def _list(root, names, splits=("train", "val")):
  for split in splits:
    (root / f"{split}.txt").write_text("\n".join(names))


def _describe(root):
  return json.loads(json.dumps(describe(open_dataset(_config(root)))))


def _add(root):
  _write_pair(root, "new")
  _list(root, [*"abcdefgh", "new"], ["train"])


def _alter_mask(root):
  mask = np.zeros((8, 8), np.uint8)
  mask[0, :3] = 0, 1, 2
  PIL.Image.fromarray(mask).save(root / "masks/b.png")


_KINDS = {
  "added": (_add, ["train images: 8 -> 9 images; 1 added (new)"]),
  "removed": (
    lambda root: _list(root, "acdefgh", ["val"]),
    ["eval images: 8 -> 7 images; 1 removed (b)"],
  ),
  "image altered": (
    lambda root: _write_pair(root, "a", seed=1),
    ["train images: 1 altered (a)", "eval images: 1 altered (a)"],
  ),
  "mask altered": (
    _alter_mask,
    ["train images: 1 altered (b)", "eval images: 1 altered (b)"],
  ),
  "order": (
    lambda root: _list(root, "hgfedcba", ["train"]),
    ["train images: the same ones in another order"],
  ),
  "many": (
    lambda root: _list(root, "a", ["train"]),
    ["train images: 8 -> 1 images; 7 removed (b, c, d, e, f and 2 more)"],
  ),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_pictures_that_come_go_or_change_are_named(root, kind):
  change, lines = _KINDS[kind]
  before = _describe(root)
  change(root)
  assert changes(before, _describe(root)) == Changes([], lines)


_CLASSES = {
  "renamed": ("sky\nstreet\ncar\n", ["classes: 1 road -> street"]),
  "order": ("road\nsky\ncar\n", ["classes: 0 sky -> road, 1 road -> sky"]),
  "one more": (
    "sky\nroad\ncar\ntree\n",
    ["number of classes: 3 -> 4", "classes: 3 none -> tree"],
  ),
}


@pytest.mark.parametrize("kind", _CLASSES)
def test_other_classes_break_a_run(root, kind):
  text, lines = _CLASSES[kind]
  before = _describe(root)
  (root / "classes.txt").write_text(text)
  assert changes(before, _describe(root)).breaking == lines


def test_another_ignore_label_breaks_a_run(root):
  before = _describe(root)
  (root / "classes.txt").unlink()
  (root / "classes.yaml").write_text(
    "classes: [sky, road, car]\nignore_label: null\n"
  )
  found = changes(before, _describe(root)).breaking
  assert found == ["ignore label: 255 -> none"]


def test_classes_are_all_that_an_older_run_tells_of(root):
  before = {"name": "folder", "class_names": ["sky", "car", "road"]}
  assert changes(before, _describe(root)) == Changes(
    ["classes: 1 car -> road, 2 road -> car"], []
  )


def test_the_same_files_elsewhere_are_no_change(root):
  before = _describe(root)
  copy = shutil.copytree(root, root.parent / "copy", copy_function=shutil.copy)
  for path in copy.rglob("*.png"):
    path.touch()
  assert changes(before, _describe(copy)) == Changes([], [])


def test_digests_are_those_of_the_part_of_a_split(root):
  config = _config(root)
  config.update(train_split="train[2:4]+val[:1]", eval_split="val[-25%:]")
  described = describe(open_dataset(config))
  assert list(described["train"]["examples"]) == ["c", "d", "a"]
  assert list(described["eval"]["examples"]) == ["g", "h"]
  dataset = open_dataset(config)
  for split, source in (("train", dataset.train), ("eval", dataset.eval)):
    names = [source[i]["name"] for i in range(len(source))]
    assert names == list(described[split]["examples"])


def test_names_cannot_act_on_a_terminal(root):
  before = _describe(root)
  _write_pair(root, "caf\u00e9 \x1b[31m")
  _list(root, [*"abcdefgh", "caf\u00e9 \x1b[31m"], ["train"])
  (line,) = changes(before, _describe(root)).other
  assert line.endswith("1 added (caf\u00e9 \\x1b[31m)")


def _camvid(root, names):
  """A sample of CamVid in VOC layout, prepared; every split has `names`."""
  shutil.rmtree(root, ignore_errors=True)
  for split in ("train", "val", "test"):
    own = [f"{split}_{name}" for name in names]
    for name in own:
      _write_pair(root, name)
    (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    _list(root / "ImageSets/Segmentation", own, [split])
  (root / "images").rename(root / "JPEGImages")
  (root / "masks").rename(root / "SegmentationClass")
  for path in (root / "JPEGImages").iterdir():
    path.rename(path.with_suffix(".jpg"))
  data_dir = str(root.parent / "data")
  build.build("camvid", data_dir=data_dir, manual_dir=str(root), partial=True)
  return build.directory("camvid", data_dir)


def test_another_sample_of_a_named_data_set_is_noticed(tmp_path):
  root = tmp_path / "camvid"
  folder = _camvid(root, "ab")
  dataset = open_dataset(_config(root, "camvid"))
  before = describe(dataset)
  assert before["partial"] and before["version"] == folder.name
  shutil.rmtree(folder)
  _camvid(root, "abc")
  after = describe(open_dataset(_config(root, "camvid")))
  assert changes(before, after) == Changes(
    [],
    [
      "train images: 2 -> 3 images; 1 added (train_c)",
      "eval images: 2 -> 3 images; 1 added (val_c)",
    ],
  )


def test_another_version_and_the_whole_of_a_named_data_set_are_noticed(
  tmp_path,
):
  root = tmp_path / "camvid"
  _camvid(root, "ab")
  after = describe(open_dataset(_config(root, "camvid")))
  before = after | {"version": "1.0.0", "partial": False}
  assert changes(before, after).other == [
    f"version of the data set: 1.0.0 -> {after['version']}",
    "only a sample of the data set: False -> True",
  ]


def test_a_data_set_of_an_older_builder_is_compared_by_its_size(tmp_path):
  root = tmp_path / "camvid"
  before = describe(open_dataset(_old_camvid(root, "ab")))
  assert before["train"] == {"split": "train", "images": 2, "examples": None}
  shutil.rmtree(root.parent / "data")
  _camvid(root, "abc")
  after = describe(open_dataset(_config(root, "camvid")))
  lines = ["train images: 2 -> 3 images", "eval images: 2 -> 3 images"]
  assert changes(before, after) == Changes([], lines)


def _old_camvid(root, names):
  for path in _camvid(root, names).glob("examples-*.json"):
    path.unlink()
  return _config(root, "camvid")
