"""The config files, and what they are read and filled up with."""

import pathlib
import runpy
import shutil
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from deeplab_jax import checkpoints, optimizer, sharding, tasks, train
from deeplab_jax import config as config_lib
from deeplab_jax.config import reference
from deeplab_jax.data import augmentation
from deeplab_jax.models import (
  Classifier,
  DeepLab,
  convnext,
  efficient,
  model_to_dict,
  vit,
)
from deeplab_jax.models.arguments import IMAGE_ARGUMENTS
from deeplab_jax.models.trace import shapes_of
from deeplab_jax.train.state import create_state
from deeplab_jax.train.step import make_train_step
from tests.changed_config import changed

_CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
_FILES = sorted(_CONFIGS.glob("*.py"))
_ENCODERS = (*convnext.VARIANTS, *efficient.VARIANTS, *vit.VARIANTS)
_REQUIREMENTS = [p.name for p in _CONFIGS.parent.glob("requirements*.txt")]


def _load(path: pathlib.Path, arg: str = "") -> ConfigDict:
  return config_lib.load(f"{path}:{arg}")


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_every_config_is_locked_and_says_how_it_ended(
  path, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  config = _load(path)
  assert config.is_locked and config.data.is_locked
  text = runpy.run_path(str(path))["__doc__"]
  assert "python -m deeplab_jax.main --config configs/" + path.name in text
  assert "Hardware:" in text and "mIoU" in text


@pytest.mark.parametrize(
  ("path", "arg"),
  [
    *((path, "") for path in _FILES),
    *((_CONFIGS / f"{x}.py", "modern") for x in ("camvid", "folder", "voc")),
  ],
  ids=lambda value: value if isinstance(value, str) else value.stem,
)
@pytest.mark.usefixtures("tiny_backbone")
def test_every_config_traces_a_step_with_runlocal(path, arg):
  config, whole = _load(path, f"runlocal,{arg}"), _load(path, arg)
  config_lib.check(config)
  assert config.steps == 3 and config.init_from == ""
  assert config.data.name == whole.data.name
  if config.task == "segmentation":
    config.model.update(backbone="tiny", width_multiplier=1.0)
  model = config_lib.make_model(config, num_classes=7)
  rule = optimizer.make_optimizer(config)
  crop = tuple(config.data.crop_size)
  averaged = config.ema_decay > 0
  start = shapes_of(lambda: create_state(model, rule, crop, 0, averaged))
  assert (start.average is None) != (arg == "modern")
  task, mesh = tasks.find_task(config), sharding.make_mesh()
  loss, batch = task.make_loss(config), task.abstract_batch(config)
  step = make_train_step(model, loss, rule, config, mesh)
  after, _ = jax.eval_shape(step, start, batch)
  assert jax.tree.structure(after) == jax.tree.structure(start)


def test_runlocal_shrinks_the_backbone_unless_it_was_asked_for():
  path = _CONFIGS / "voc.py"
  assert _load(path, "runlocal").model.backbone == "mobilenet_v2"
  asked = _load(path, "runlocal,backbone=resnet_50")
  assert asked.model.backbone == "resnet_50"
  assert asked.weight_decay == 1e-4
  assert _load(path, "runlocal,finetune").model.output_stride == 8


def test_imagenet_schedule_follows_the_batch_size():
  config = _load(_CONFIGS / "imagenet.py")
  config.batch_size = 32
  assert config.lr_decay_steps == 2 * 1281167 // 32
  assert config.steps == 120 * 1281167 // 32


@pytest.mark.parametrize("backbone", ["xception_65", "xception_71"])
@pytest.mark.parametrize("pooling", ["true", "false"])
def test_cityscapes_has_the_rows_of_table_7(backbone, pooling):
  arg = f"backbone={backbone},image_pooling={pooling}"
  config = _load(_CONFIGS / "cityscapes.py", arg)
  config_lib.check(config, num_devices=8)
  assert tuple(config.data.crop_size) == (769, 769)
  crop = jax.ShapeDtypeStruct((1, 769, 769, 3), np.float32)
  model = config_lib.make_model(config, num_classes=19)
  logits, variables = shapes_of(model.init_with_output, jax.random.key(0), crop)
  params = variables["params"]
  assert ("image_pooling" in params["aspp"]) == (pooling == "true")
  # The entry flow of Xception-71 has two blocks more (figure 4 of the paper).
  blocks = sum("entry_flow_block" in name for name in params["backbone"])
  assert blocks == {"xception_65": 3, "xception_71": 5}[backbone]
  assert logits.shape == (1, 193, 193, 19)


def test_voc_is_tuned_gently_at_stride_8_after_training_at_16():
  first, then = (_load(_CONFIGS / "voc.py", arg) for arg in ("", "finetune"))
  assert (first.model.output_stride, then.model.output_stride) == (16, 8)
  assert (first.lr, then.lr) == (0.007, 1e-4)
  assert first.train_batch_norm and not then.train_batch_norm
  assert (first.data.train_split, then.data.train_split) == (
    "train_aug",
    "trainval",
  )
  assert (first.init_parts, then.init_parts) == ("backbone", "all")


def _stored(folder, model) -> str:
  """A model directory without weights."""
  checkpoints.write_model_json(folder, model)
  return str(folder)


@pytest.mark.parametrize("name", ["camvid", "voc", "folder"])
def test_a_modern_recipe_is_sound_and_leaves_the_default_alone(name):
  path = _CONFIGS / f"{name}.py"
  modern, paper = _load(path, "modern"), _load(path)
  config_lib.check(modern)
  config_lib.check_classes(modern, 11 if name == "camvid" else 21)
  assert modern.optimizer == "adamw" and modern.ema_decay > 0
  base = config_lib.base_config()
  for field in ("optimizer", "lr_policy", "ema_decay", "clip_norm", "freeze"):
    assert paper[field] == base[field], field
  assert paper.loss.name == "cross_entropy"
  for field in augmentation.FIELDS:
    assert paper.data[field] == base.data[field], field


def test_folder_follows_the_network_that_it_starts_from(tmp_path):
  shipped = _load(_CONFIGS / "folder.py")
  assert checkpoints.read_model(shipped.init_from) == DeepLab(
    num_classes=11,
    backbone="mobilenet_v2",
    atrous_rates=(3, 6, 9),
    batch_norm_momentum=0.97,
  )
  assert tuple(shipped.model.atrous_rates) == (3, 6, 9)
  assert shipped.init_parts == "all" and not shipped.train_batch_norm
  (tmp_path / "half").mkdir()
  half = DeepLab(
    num_classes=21,
    backbone="mobilenet_v2",
    width_multiplier=0.5,
    atrous_rates=(),
    decoder=(),
    decoder_convs=((3, 64),),
    dropout_rate=0.5,
  )
  path = _stored(tmp_path / "half", half)
  for named in (path, f"{path}/checkpoints/7", f"{path}/best"):
    config = _load(_CONFIGS / "folder.py", f"init_from={named}")
    config_lib.check(config)
    assert config.init_from == named
    made = config_lib.make_model(config, 21)
    assert made == half.clone(dropout_rate=0.1)
  random = _load(_CONFIGS / "folder.py", "init_from=")
  assert random.init_from == "" and random.train_batch_norm


def test_folder_takes_the_backbone_of_a_classifier(tmp_path):
  model = Classifier(num_classes=9, backbone="resnet_50", output_stride=32)
  path = _stored(tmp_path / "imagenet", model)
  config = _load(_CONFIGS / "folder.py", f"init_from={path}")
  assert config.model.backbone == "resnet_50"
  assert config.init_parts == "backbone" and config.train_batch_norm


def test_folder_takes_a_backbone_by_name(tmp_path):
  config = _load(_CONFIGS / "folder.py", "backbone=resnet_50")
  assert (config.model.backbone, config.init_from) == ("resnet_50", "")
  assert config.init_parts == "backbone" and config.train_batch_norm
  assert config.weight_decay == 1e-4
  path = _stored(tmp_path / "model", DeepLab(5, "mobilenet_v2"))
  both = f"init_from={path},backbone=resnet_50"
  with pytest.raises(ValueError, match=r"must be mobilenet_v2, as init_from="):
    _load(_CONFIGS / "folder.py", both)


def test_folder_names_a_model_that_is_not_there(tmp_path):
  with pytest.raises(ValueError, match=r"no model at .*/nowhere: give a work"):
    _load(_CONFIGS / "folder.py", f"init_from={tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
  ("largest", "fields", "expected"),
  [
    ((96, 128), {}, (97, 129)),
    ((97, 129), {}, (97, 129)),
    ((98, 130), {}, (113, 145)),
    ((5, 2000), {}, (17, 513)),
    ((96, 128), {"model__output_stride": 32}, (97, 129)),
    ((700, 530), {"model__output_stride": 32}, (513, 513)),
    (
      (1000, 2000),
      {"data__resize_min": 97, "data__resize_max": 193},
      (97, 193),
    ),
    (None, {}, (513, 513)),
    ((96, 128), {"data__crop_size": (65, 65)}, (65, 65)),
  ],
)
def test_a_crop_follows_the_largest_image(largest, fields, expected):
  config = changed(**({"data__crop_size": (0, 0)} | fields))
  config_lib.check(config)
  settled = config_lib.with_crop(config, largest)
  config_lib.check(settled)
  assert settled.data.crop_size == expected
  given = fields.get("data__crop_size", (0, 0))
  assert config.data.crop_size == given


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "arg"),
  [("quickstart", "runlocal"), ("folder", "runlocal")]
  + [("folder", f"runlocal,backbone={encoder}") for encoder in _ENCODERS],
)
def test_a_config_without_a_sample_runs_with_runlocal(
  name, arg, shared, tmp_path
):
  config = _load(_CONFIGS / f"{name}.py", arg)
  config.data.data_dir = str(tmp_path / "data")
  if name == "folder":
    config.data.path = str(shared / "data/camvid")  # in VOC layout
    config.train_batch_norm = True  # there are no weights to start from
  miou = train.train_and_evaluate(config, tmp_path / "run")
  assert 0 <= miou <= 1


def test_check_overrides_names_the_nearest_field():
  message = r"no field 'data\.crop_sizes'; did you mean 'data\.crop_size'"
  with pytest.raises(ValueError, match=message):
    config_lib.check_overrides(["--config.data.crop_sizes=(65, 65)"])


def test_load_names_a_misspelt_field_of_the_file(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(
    "from deeplab_jax.config import base_config\n"
    "def get_config(arg=None):\n"
    "  config = base_config()\n"
    "  config.batch_sise = 4\n"
    "  return config\n"
  )
  message = r"mine\.py: config has no field 'batch_sise'; .* 'batch_size'"
  with pytest.raises(ValueError, match=message):
    config_lib.load(str(path))


def test_load_names_a_missing_file(tmp_path):
  with pytest.raises(ValueError, match=r"must be a file .*nothing\.py"):
    config_lib.load(str(tmp_path / "nothing.py"))


@pytest.mark.parametrize("spec", ["voc", "voc.py", "configs/voc.py"])
def test_a_config_of_the_package_is_found_from_anywhere(
  spec, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  loaded = config_lib.load(f"{spec}:backbone=resnet_50")
  assert loaded.model.backbone == "resnet_50"
  words = ["--workdir=x", "--config", f"{spec}:finetune", "--config.lr=1"]
  found = config_lib.check_command_line(words)
  assert [*found[:2], *found[3:]] == ["--workdir=x", "--config", words[-1]]
  path, _, arguments = found[2].partition(":")
  assert pathlib.Path(path).samefile(_CONFIGS / "voc.py")
  assert arguments == "finetune"


def test_a_file_of_ones_own_goes_before_a_config_of_the_package(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  source = "from deeplab_jax.config import base_config\n"
  source += "def get_config(arg=None):\n  config = base_config()\n"
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs/voc.py").write_text(
    source + "  config.seed = 7\n  return config\n"
  )
  assert config_lib.load("configs/voc.py").seed == 7
  assert config_lib.load("voc").seed == 0


def test_every_config_comes_with_the_package():
  assert config_lib.config_names() == [path.stem for path in _FILES]


@pytest.mark.slow
def test_a_wheel_has_the_configs(tmp_path):
  pytest.importorskip("setuptools")
  checkout = tmp_path / "checkout"
  shutil.copytree(_CONFIGS.parent / "deeplab_jax", checkout / "deeplab_jax")
  for name in ("pyproject.toml", "README.md", *_REQUIREMENTS):
    shutil.copy(_CONFIGS.parent / name, checkout)
  pip = (sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps")
  options = ("--no-build-isolation", "--wheel-dir", str(tmp_path), ".")
  subprocess.run([*pip, *options], cwd=checkout, check=True)
  (wheel,) = tmp_path.glob("*.whl")
  names = zipfile.ZipFile(wheel).namelist()
  found = [n for n in names if n.startswith("deeplab_jax/configs/")]
  assert len(found) == len(_FILES)


def test_the_page_of_the_fields_is_current_and_has_them_all():
  page = (_CONFIGS.parent / "docs/config.md").read_text()
  assert page == reference.markdown(), (
    "run python -m deeplab_jax.config.reference > docs/config.md"
  )
  config = config_lib.base_config()
  parts = {name for name in config if isinstance(config[name], ConfigDict)}
  for name in set(config_lib.field_names(config)) - parts:
    assert page.count(f"`{name}=") == 1, name


def test_check_overrides_passes_every_field_there_is():
  names = config_lib.field_names(config_lib.base_config())
  assert {"lr", "data", "data.crop_size", "model.multi_grid"} <= set(names)
  config_lib.check_overrides(f"--config.{name}=1" for name in names)
  config_lib.check_overrides(["--config=a.py", "--workdir=x", "--nocheck"])


def test_parse_arg_takes_the_types_of_the_defaults():
  arg = config_lib.parse_arg(
    "backbone=resnet_101,stride=8,runlocal", backbone="a", stride=16, big=False
  )
  assert arg.to_dict() == {
    "backbone": "resnet_101",
    "stride": 8,
    "big": False,
    "runlocal": True,
  }


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("backbones=x", r"one of \['backbone'.*got 'backbones'; did you mean"),
    ("stride=wide", r"stride must be of type int, got 'wide'"),
    ("runlocal=maybe", r"runlocal must be true or false, got maybe"),
  ],
)
def test_parse_arg_names_what_it_cannot_take(arg, message):
  with pytest.raises(ValueError, match=message):
    config_lib.parse_arg(arg, backbone="a", stride=16)


def test_model_fields_are_the_arguments_of_the_model():
  fields = config_lib.base_config().model.to_dict()
  arguments = model_to_dict(DeepLab(num_classes=2))
  of_data = {"num_classes", *IMAGE_ARGUMENTS}
  assert fields == {k: v for k, v in arguments.items() if k not in of_data}


def test_make_model_builds_what_the_config_says():
  config = changed(
    model__backbone="mobilenet_v2",
    model__dtype="bfloat16",
    model__output_stride=8,
    model__decoder=(),
  )
  model = config_lib.make_model(config, num_classes=5)
  assert (model.num_classes, model.backbone) == (5, "mobilenet_v2")
  assert model.dtype == "bfloat16"
  assert model.logits_stride == 8
