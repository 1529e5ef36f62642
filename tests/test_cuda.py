"""Programs lowered on a CPU for an NVIDIA GPU are those meant for the GPU.

The slow tests also compile them, with the CUDA plugin but without a GPU.
`$DEEPLAB_GPU` names the GPU's description, `target_config` of JAX's topology on
a machine that has one.
"""

import functools
import importlib.util
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh

from deeplab_jax import config as config_lib
from deeplab_jax import plan
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.inference import predict_fn
from deeplab_jax.inference.folding import fold
from deeplab_jax.models import mobilenet
from deeplab_jax.models.ops.convolution import conv
from deeplab_jax.models.trace import shapes_of
from deeplab_jax.optimizer import make_optimizer
from deeplab_jax.plan import plan_text
from deeplab_jax.plan.machines import Machine
from deeplab_jax.sharding import BATCH_AXIS
from deeplab_jax.tasks import find_task
from deeplab_jax.train.state import create_state
from deeplab_jax.train.step import make_train_step
from tests.tiny_segmenter import make_variables, small_model

_GROUPS = re.compile(r"(?:feature|batch)_group_count = (\d+)")
# Of signed integers; random numbers are made of unsigned ones.
_XOR = re.compile(r"stablehlo\.xor .* tensor<(?:\d+x){4}i")
# Of more arrays than an argmax has.
_REDUCED_TOGETHER = re.compile(r"stablehlo\.reduce\([^)]*\)(, \([^)]*\)){2}")


def _lowered(function, *arguments, platform="cuda") -> str:
  traced = function.trace(*arguments)
  return traced.lower(lowering_platforms=(platform,)).as_text()


def _depthwise_channels(variables) -> set[int]:
  leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
  return {
    leaf.shape[-1] for path, leaf in leaves if "depthwise" in str(path[-1])
  }


def _groups(text: str) -> set[int]:
  return {int(count) for count in _GROUPS.findall(text)} - {1}


def _config(backbone="mobilenet_v2"):
  config = config_lib.base_config()
  config.batch_size = 2
  config.data.update(name="shapes", crop_size=(33, 33))
  config.model.update(backbone=backbone, dtype="bfloat16")
  return config


def _training(monkeypatch):
  """A step of six of MobileNetV2's blocks."""
  layers = ((32, 2), (16, 1), (24, 2), (32, 2), (64, 2), (160, 2), (320, 1))
  monkeypatch.setattr(mobilenet, "_LAYERS", layers)
  for name in ("_LOW_LEVEL", "_STAGE_ENDS"):
    monkeypatch.setattr(mobilenet, name, {})
  config = _config()
  config.model.update(
    width_multiplier=0.25, output_stride=32, atrous_rates=(), decoder=()
  )
  num_classes = DATASETS[config.data.name].num_classes
  model = config_lib.make_model(config, num_classes)
  optimizer = make_optimizer(config)
  create = functools.partial(
    create_state, model, optimizer, config.data.crop_size, config.seed
  )
  state = shapes_of(create)
  mesh = Mesh(np.asarray(jax.devices()[:1]), (BATCH_AXIS,))
  task = find_task(config)
  step = make_train_step(model, task.make_loss(config), optimizer, config, mesh)
  return step, state, task.abstract_batch(config)


def _inference():
  model = small_model()
  variables = fold(model, make_variables(model))

  @jax.jit
  def run(variables, images, sizes):
    return predict_fn(model)(variables, images, sizes)[0]

  images, sizes = jnp.zeros((1, 65, 65, 3), jnp.uint8), jnp.full((1, 2), 65)
  return run, variables, images, sizes


def _check_no_remedies_for_the_cpu(text):
  assert not _XOR.search(text)
  assert "optimization_barrier" not in text
  assert not _REDUCED_TOGETHER.search(text)


def test_inference_shifts_without_the_remedies_for_the_cpu():
  program = _inference()
  on_cpu = _lowered(*program, platform="cpu")
  assert _XOR.search(on_cpu) and "optimization_barrier" in on_cpu
  text = _lowered(*program)
  _check_no_remedies_for_the_cpu(text)
  assert not _groups(text)


def test_training_convolves_by_groups_without_the_remedies_for_the_cpu(
  monkeypatch,
):
  program = _training(monkeypatch)
  on_cpu = _lowered(*program, platform="cpu")
  assert _REDUCED_TOGETHER.search(on_cpu)
  assert not _groups(on_cpu)
  text = _lowered(*program)
  _check_no_remedies_for_the_cpu(text)
  assert _groups(text) == _depthwise_channels({"params": program[1].params})


def test_a_strided_pointwise_convolution_takes_no_sliced_map():
  x, kernel = jnp.zeros((1, 5, 5, 3)), jnp.zeros((1, 1, 3, 4))
  run = jax.jit(functools.partial(conv, stride=2))
  text = _lowered(run, x, kernel)
  assert "stablehlo.convolution" in text and "slice" not in text
  assert "stablehlo.convolution" not in _lowered(run, x, kernel, platform="cpu")


@pytest.fixture(scope="module")
def gpus() -> Machine:
  """Two GPUs that are not here."""
  plugins = "jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"
  if not any(map(_is_installed, plugins)):
    pytest.skip("SKIPPED FOR LACK OF THE CUDA PLUGIN: pip install jax[cuda12]")
  if "DEEPLAB_GPU" not in os.environ:
    pytest.skip("SKIPPED FOR LACK OF A GPU'S DESCRIPTION: set DEEPLAB_GPU")
  found = topologies.get_topology_desc(
    "described",
    "cuda",
    target_config=pathlib.Path(os.environ["DEEPLAB_GPU"]).read_text(),
    topology="1x1x2",
  )
  return Machine("described", tuple(found.devices), memory=None)


def _is_installed(module):
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:  # not even the package that it would be in
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
  "backbone", ["mobilenet_v2", "resnet_50", "xception_41"]
)
def test_the_step_compiles_for_gpus(gpus, backbone):
  made = plan.make_plan(_config(backbone), gpus)
  assert "all-reduce" in made.program.collectives
  assert made.program.flops is None
  assert "unknown GFLOP" in plan_text.to_text(made)
