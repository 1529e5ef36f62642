"""The mistakes in a config that are found before any work."""

import math
import re

import jax
import pytest
from ml_collections import ConfigDict

from deeplab_jax import config as config_lib
from deeplab_jax import doctor, evaluate, plan, train
from deeplab_jax.config import ranges
from tests.changed_config import changed


def test_a_classifier_needs_a_crop_of_its_own():
  config = changed(task="classification", data__crop_size=(0, 0))
  with pytest.raises(ValueError, match=r"crop_size must be 16 or more on both"):
    config_lib.check(config)


def test_check_passes_the_base_config():
  config_lib.check(changed(), num_devices=8)


def test_check_passes_float64_where_jax_has_it():
  with jax.enable_x64(True):
    config_lib.check(changed(model__dtype="float64"))


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      {"model__output_stride": 12},
      r"config\.model: output_stride must be 8, 16 or 32; got 12",
    ),
    (
      {"model__backbone": "xception_66"},
      r"config\.model: backbone must be one of .*got 'xception_66'",
    ),
    (
      {"data__crop_size": (512, 513)},
      r"data\.crop_size .* got \(512, 513\); the nearest is \(513, 513\)",
    ),
    (
      {
        "model__backbone": "convnext_atto",
        "model__whole_patches": True,
        "model__pad_input": False,
        "data__crop_size": (64, 15),
      },
      r"data\.crop_size must be 16 or more on both sides, got \(64, 15\)",
    ),
    (
      {"data__name": "shape"},
      r"data\.name must be one of .* got 'shape'; did you mean 'shapes'",
    ),
    ({"init_parts": "head"}, r"init_parts must be one of all, backbone, got"),
    ({"lr_policy": "linear"}, r"lr_policy must be one of poly, step, cosine, "),
    ({"model__dtype": "float16"}, r"dtype must be one of float32, bfloat16"),
    ({"model__dtype": "float64"}, r"got 'float64', which .*JAX_ENABLE_X64=1"),
    ({"batch_size": 12}, r"batch_size .* 8 devices, got 12; try 16"),
    (
      {"batch_size": 24, "accumulate_steps": 2},
      r"by the 8 devices times 2 accumulate_steps, got 24; try 32",
    ),
    (
      {"batch_size": 16, "accumulate_steps": 2, "batch_norm_groups": 3},
      r"groups must divide batch_size / accumulate_steps = 8, got 3",
    ),
    ({"batch_norm_groups": 0}, r"batch_norm_groups must be above 0, got 0"),
    ({"accumulate_steps": 0}, r"accumulate_steps must be above 0, got 0"),
    ({"task": "detection"}, r"task must be one of segmentation, classific"),
    (
      {"task": "classification", "model__head": "dpc"},
      r"model\.head must be 'aspp', as a classifier has none, got dpc",
    ),
    (
      {"task": "classification", "data__crop_size": (15, 299)},
      r"crop_size must be 16 or more on both sides, got \(15, 299\)",
    ),
    (
      {"loss__name": "entropy"},
      r"loss\.name must be one of .*, got 'entropy'; did you mean 'cross_ent",
    ),
    (
      {"task": "classification", "loss__class_weights": (1.0, 2.0)},
      r"class_weights must be \(\): a classifier's loss takes no other, got",
    ),
    (
      {"task": "classification", "loss__name": "dice"},
      r"loss\.name must be one of cross_entropy, got 'dice'",
    ),
    (
      {"loss__name": "dice+entropy"},
      r"loss\.name must be one of .*, got 'entropy'; did you mean",
    ),
    (
      {"loss__name": "dice+dice"},
      r"must be losses that differ, got dice\+dice",
    ),
    (
      {"loss__name": "dice+focal", "loss__weights": (1.0,)},
      r"loss\.weights must be \(\) or 2 positive numbers, one for each of ",
    ),
    (
      {"loss__name": "dice+focal", "loss__weights": (1.0, 0.0)},
      r"loss\.weights must be .*, got \(1\.0, 0\.0\)",
    ),
    ({"loss__weights": (2.0,)}, r"must be \(\): one loss has no weights, got"),
    (
      {"loss__name": "dice", "loss__class_weights": (1.0, 2.0)},
      r"class_weights must be \(\): the loss 'dice' takes no other, got",
    ),
    (
      {"loss__auxiliary_weight": 1.0},
      r"auxiliary_weight must be 0\.4: model\.auxiliary is no second head, got",
    ),
    (
      {"model__auxiliary": "conv5"},
      r"auxiliary must be one of .*'conv2', 'features'\); got 'conv5'",
    ),
    (
      {"loss__name": "focal", "loss__focal_power": -1.0},
      r"loss\.focal_power must be 0 or more, got -1\.0",
    ),
    ({"steps": 0}, r"config\.steps must be above 0, got 0"),
    ({"slow_start_steps": 30_000}, r"slow_start_steps must be from 0 to less"),
    ({"eval__scales": ()}, r"eval\.scales must be one or more positive"),
    ({"eval__output_stride": 12}, r"eval\.output_stride must be 0 .*got 12"),
    ({"data__max_scale": 0.25}, r"data\.max_scale must be min_scale \(0\.5\)"),
    ({"data__color_jitter": (2.0, 0.0, 0.0)}, r"color_jitter must be three"),
    (
      {"loss__hard_pixel_fraction": 0.0},
      r"hard_pixel_fraction must be above 0, at",
    ),
    ({"momentum": -0.1}, r"config\.momentum must be from 0 to less than 1, g"),
    ({"optimizer": "adam"}, r"optimizer must be one of sgd, adamw, got 'adam'"),
    ({"adam_beta2": 0.9}, r"beta2 must be 0\.999, as optimizer 'sgd' has none"),
    (
      {"optimizer": "adamw", "adam_beta2": 1.0},
      r"adam_beta2 must be from 0 to less than 1, got 1\.0",
    ),
    ({"layer_decay": 1.1}, r"layer_decay must be above 0, at most 1, got 1\.1"),
    ({"clip_norm": -1.0}, r"clip_norm must be 0 or more, got -1\.0"),
    ({"ema_decay": 1.0}, r"ema_decay must be from 0 to less than 1, got 1\.0"),
    ({"freeze": (3,)}, r"freeze must be a tuple of patterns, .*, got \(3,\)"),
    (
      {"freeze": ("aspp", "head"), "model__backbone": "mobilenet_v2"},
      r"with aspp, backbone, decoder, logits, such as .*; got 'head', which m",
    ),
    (
      {"freeze_stride": 1, "model__backbone": "mobilenet_v2"},
      r"stride must be 0 or a stride of the backbone's units, 2, 4, 8, 16, 32;",
    ),
    (
      {"freeze": ("*",), "model__backbone": "mobilenet_v2"},
      r"freeze and freeze_stride must leave something to train, got \('\*',\)",
    ),
    (
      {"thaw_step": 3},
      r"thaw_step must be 0 where nothing is frozen by freeze",
    ),
    (
      {"thaw_step": 30_000, "freeze": ("aspp",)},
      r"thaw_step must be from 0 to less than the 30000 steps, got 30000",
    ),
    (
      {"loss__label_smoothing": 1.0},
      r"label_smoothing must be from 0 to less than 1, got",
    ),
    (
      {"freeze_stride": 3, "model__backbone": "mobilenet_v2"},
      r"backbone's units, 2, 4, 8, 16, 32; got 3",
    ),
    (
      {"data__resize_factor": 16},
      r"resize_factor must be 0 where data\.resize_min is 0, got 16",
    ),
    (
      {"data__resize_min": 65, "data__resize_max": 33},
      r"resize_max must be 0, .*, or data\.resize_min \(65\) or more, got 33",
    ),
    (
      {"eval__tile": 100},
      r"config\.eval\.tile must be 0, or a multiple of 32 plus 1, got 100",
    ),
    ({"lr": math.inf}, r"lr must be above 0, a finite number, got inf"),
  ],
)
def test_check_names_the_field_and_the_remedy(fields, message):
  with pytest.raises(ValueError, match=message):
    config_lib.check(changed(**fields), num_devices=8)


def _fields(*kinds: type) -> list[str]:
  """Names of the fields whose values are of these kinds."""
  config = config_lib.base_config()
  flat = {n: _field(config, n) for n in config_lib.field_names(config)}
  return [name for name, value in flat.items() if type(value) in kinds]


def _field(config: ConfigDict, name: str):
  for part in name.split("."):
    config = config[part]
  return config


def test_every_number_has_a_range():
  of_their_own = {
    *("mesh_height", "slow_start_steps", "freeze_stride", "thaw_step"),
    *("data.channels", "data.late_crop_step"),
    *("eval.output_stride", "eval.threshold"),
  }
  numbers = {n for n in _fields(int, float) if not n.startswith("model.")}
  assert numbers == of_their_own | set(ranges.RANGES)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    *((name, -1) for name in _fields(int)),
    *((n, x) for n in _fields(float) for x in (-1.0, math.nan, math.inf)),
    *((n, ("a", "b")) for n in _fields(tuple) if n != "freeze"),
    *((name, (math.nan,)) for name in _fields(tuple)),
    *((name, (-1.5, 1.5)) for name in _fields(tuple)),
  ],
)
def test_no_field_takes_what_cannot_be(name, value):
  config = changed(model__backbone="mobilenet_v2")
  config.update_from_flattened_dict({name: value})
  with pytest.raises(ValueError, match=re.escape(name.split(".")[-1])):
    config_lib.check(config)
    config_lib.check_classes(config, 2)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0), (1.0, 1.25), ()])
@pytest.mark.parametrize("tile", [0, 1, 33, 64, 65, 97, 129, 1025])
@pytest.mark.parametrize("size", [(0, 0), (0, 5), (513, 513)])
def test_the_protocol_is_refused_before_and_not_after_training(
  scales, tile, size
):
  config = changed(eval__scales=scales, eval__tile=tile, data__eval_size=size)
  refused = []
  for begin in (config_lib.check, evaluate.make_protocol):
    try:
      begin(config)
    except ValueError:
      refused.append(begin)
  assert len(refused) in (0, 2)


@pytest.mark.parametrize(
  ("task", "name", "message"),
  [
    ("segmentation", "imagenet2012", r"no masks, .*configs/imagenet\.py"),
    ("classification", "voc2012", r"has masks, .*'classification' cannot use"),
    ("classification", "folder", r"has masks, .*configs/voc\.py"),
  ],
)
def test_a_data_set_of_another_task_is_refused(task, name, message, tmp_path):
  config = changed(task=task, data__name=name)
  with pytest.raises(ValueError, match=message):
    train.train_and_evaluate(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("fields", "line"),
  [
    (
      {"loss__class_weights": (1.0, 2.0)},
      "config.loss.class_weights must be () or 7 numbers, one per class, none "
      "negative, not all 0, got (1.0, 2.0)",
    ),
    (
      {"data__copy_paste": 0.5, "data__copy_paste_classes": (7,)},
      "config.data.copy_paste_classes must be indices from 0 to 6, got (7,)",
    ),
    (
      {"data__rotation": 200.0},
      "config.data.rotation must be from 0 to 180, got 200.0",
    ),
    (
      {"loss__name": "dice+focal", "loss__weights": (1.0, -1.0)},
      "config.loss.weights must be () or 2 positive numbers, one for each of "
      "['dice', 'focal'], got (1.0, -1.0)",
    ),
    (
      {"freeze": ("head",)},
      "config.freeze must be patterns of parameters, which begin with aspp, "
      "backbone, decoder, logits, such as aspp/aspp0/kernel; got 'head', which "
      "matches none",
    ),
  ],
  ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_every_door_refuses_in_the_same_line(
  fields, line, shapes_dir, tmp_path
):
  config = changed(
    model__backbone="mobilenet_v2", data__data_dir=shapes_dir, **fields
  )
  refused = []
  for begin in (
    lambda: train.train_and_evaluate(config, tmp_path / "run"),
    lambda: plan.make_plan(config, plan.local_machine()),
  ):
    with pytest.raises(ValueError) as caught:
      begin()
    refused.append(str(caught.value))
  found = doctor.examine(config, limit=1, overfit_steps=0).errors
  refused += [error.message for error in found]
  assert refused == [line] * 3
