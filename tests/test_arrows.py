"""The arrows of the house: see `tests/arrows.py` and docs/architecture.md."""

import pathlib

import pytest

from tests import arrows

_CHECKOUT = pathlib.Path(__file__).parent.parent

_MADE_UP = {
  "__init__": "import importlib",
  "models/__init__": "from deeplab_jax.models.layers import Layer",
  "models/layers": (
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
    "  from deeplab_jax.train import state\n"
    "else:\n  import deeplab_jax.models.ops as ops"
  ),
  "models/ops": "def f():\n  from deeplab_jax.models import Layer",
  "sharding": "from deeplab_jax import models",
  "train": "try:\n  import deeplab_jax.main\nfinally:\n  import jax.numpy as n",
  "main": "from deeplab_jax.train import step",
  "porch": "",
}


@pytest.fixture(scope="module")
def imports():
  return arrows.read(_CHECKOUT)


@pytest.fixture(scope="module")
def files(imports):
  return arrows.between_files(imports)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
  folder = tmp_path_factory.mktemp("checkout")
  for name, text in _MADE_UP.items():
    path = folder / "deeplab_jax" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
  return arrows.read(folder)


def test_made_up_faults_are_found(made_up):
  files = arrows.between_files(made_up)
  rooms = arrows.between_rooms(files)
  assert "jax.numpy" in made_up["deeplab_jax.train"]
  assert arrows.without_floor(rooms) == ["porch"]
  assert arrows.not_downwards(files) == [
    "deeplab_jax.sharding imports deeplab_jax.models",  # beside it
    "deeplab_jax.train imports deeplab_jax.main",
  ]
  assert arrows.circles(rooms) == {frozenset({"train", "main"})}
  models = ("models", "models.layers", "models.ops")
  assert arrows.circles(files) == {
    frozenset(f"deeplab_jax.{name}" for name in models),
    frozenset({"deeplab_jax.train", "deeplab_jax.main"}),
  }


def test_every_room_stands_on_one_floor(files):
  named = [name for floor in arrows.FLOORS for name in floor]
  assert sorted(named) == sorted(arrows.between_rooms(files))


def test_the_picture_in_the_document_is_true(files):
  text = (_CHECKOUT / "docs/architecture.md").read_text()
  drawn = arrows.picture(arrows.between_rooms(files))
  assert drawn in text, "paste what `python -m tests.arrows` prints first"


def test_the_document_has_a_paragraph_on_every_room(files):
  text = (_CHECKOUT / "docs/architecture.md").read_text()
  rooms = arrows.between_rooms(files).keys() - {arrows.PACKAGE}
  assert [name for name in rooms if f"\n**{name}**" not in text] == []


def test_imports_between_rooms_run_down(files):
  assert arrows.not_downwards(files) == []


def test_no_rooms_import_in_a_circle(files):
  assert arrows.circles(arrows.between_rooms(files)) == set()


def test_no_files_import_in_a_circle(files):
  assert arrows.circles(files) == set()


def test_doors_are_not_imported(files):
  imported = set().union(*files.values())
  commands = {name for name in files if name.endswith(".__main__")}
  assert imported & {*commands, "deeplab_jax"} == set()
  assert {"main", "prepare"} & set(map(arrows.room, imported)) == set()


def test_names_are_imported_in_full(imports):
  names = set().union(*imports.values())
  assert [name for name in names if name.startswith(".")] == []


def test_data_imports_no_jax(imports):
  libraries = {
    name.partition(".")[0]
    for module, names in imports.items()
    if arrows.room(module) == "data"
    for name in names
  }
  assert libraries & {"jax", "jaxlib", "flax", "optax", "orbax"} == set()


def test_loading_a_model_imports_little(files):
  loaded = arrows.loaded(_CHECKOUT)
  rooms = {arrows.room(name) for name in loaded if name in files}
  assert rooms - {"deeplab_jax"} == {
    *("inference", "checkpoints", "models", "atomic", "messages"),
    "remote",  # what an address is
    "sharding",  # places pictures that devices share
    *("runtime", "cache"),  # know where the verdict on oneDNN is kept
    "visualize",  # draws `Segmenter.overlay`, in colours of
    "data",
  }
  data = {name for name in loaded if name.startswith("deeplab_jax.data.")}
  assert data == {"deeplab_jax.data.classes"}
  # What training, plots, data sets and other frameworks need: each takes a
  # noticeable part of a second, or may not be installed.
  needless = {"optax", "grain", "matplotlib", "ml_collections", "tensorboardX"}
  needless |= {"tensorflow", "tensorflow_datasets", "torch"}
  assert loaded & needless == set()
