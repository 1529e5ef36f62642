"""The networks on jax's side: what a user of the configs gets."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.timing import Case, Program
from deeplab_jax import sharding
from deeplab_jax.config import base_config, make_model
from deeplab_jax.inference import logits_fn, onednn, predict_fn
from deeplab_jax.inference.folding import fold, layers_in_onednn
from deeplab_jax.losses import Loss, cross_entropy
from deeplab_jax.models import DeepLab, preprocess
from deeplab_jax.models.backbones import find_backbone
from deeplab_jax.models.trace import shapes_of
from deeplab_jax.optimizer import make_optimizer
from deeplab_jax.train.state import TrainState
from deeplab_jax.train.step import make_train_step

NUM_CLASSES = 21
_SQUARE = 16
_SPREAD = {"scale": (1, 0.1), "bias": (0, 0.1), "mean": (0, 0.1)}


def make_config(case: Case) -> ConfigDict:
  """The base config for `case`; without dropout, so that losses compare."""
  config = base_config()
  config.model.update(backbone=case.model, dtype=case.dtype, dropout_rate=0.0)
  config.weight_decay = find_backbone(case.model).weight_decay
  config.batch_size = case.batch
  config.data.crop_size = (case.size, case.size)
  return config


def random_variables(model: DeepLab) -> Any:
  """Variables as NumPy arrays, drawn so that activations stay moderate."""
  images = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32)
  shapes = shapes_of(model.init, jax.random.key(0), images)
  generator = np.random.default_rng(0)

  def draw(path, leaf):
    name = path[-1].key
    value = generator.standard_normal(leaf.shape, np.float32)
    if name == "var":
      return np.exp(value / 5)
    if name in _SPREAD:
      centre, spread = _SPREAD[name]
      return np.float32(centre) + np.float32(spread) * value
    fan_in = np.prod(leaf.shape[:3])
    return value * np.float32((1 / fan_in) ** 0.5)

  return jax.tree.map_with_path(draw, shapes)


@functools.cache
def settled_variables(backbone: str) -> Any:
  """Random variables with the batch statistics of random images.

  Without these, features of a random network hardly depend on the image, and
  every pixel gets the same label.
  """
  case = Case("", backbone, "", size=129, batch=4)
  model = make_model(make_config(case), NUM_CLASSES)
  model = model.clone(batch_norm_momentum=0.0)
  variables = random_variables(model)
  images = preprocess(random_batch(case)["image"], backbone)
  apply = jax.jit(
    functools.partial(model.apply, train=True, mutable=["batch_stats"])
  )
  _, changed = apply(variables, images)

  def settle(path, leaf):
    # Of four pooled images the variance can be next to nothing.
    least = 1e-2 if path[-1].key == "var" else -np.inf
    return np.maximum(leaf, least)

  stats = jax.tree.map_with_path(settle, changed["batch_stats"])
  return {"params": variables["params"], "batch_stats": stats}


def random_batch(case: Case) -> dict[str, np.ndarray]:
  """Images of squares and labels of noise, a tenth of the pixels ignored."""
  generator = np.random.default_rng(1)
  shape = (case.batch, case.size, case.size)
  labels = generator.integers(0, NUM_CLASSES, shape, np.uint8)
  labels[generator.random(shape) < 0.1] = 255
  squares = (case.batch, *[-(-case.size // _SQUARE)] * 2, 3)
  images = generator.integers(0, 256, squares, np.uint8)
  images = images.repeat(_SQUARE, 1).repeat(_SQUARE, 2)
  images = np.ascontiguousarray(images[:, : case.size, : case.size])
  return {"image": images, "label": labels}


def start_inference(case: Case, variables: Any, images: np.ndarray) -> Program:
  """Compiles images to logits at stride 4, or to labels at full size."""
  model = make_model(make_config(case), NUM_CLASSES)
  sizes = jnp.full((case.batch, 2), case.size, jnp.int32)

  def run(variables, images):
    if case.what == "logits":
      return logits_fn(model)(variables, images)
    return predict_fn(model)(variables, images, sizes)[0]

  return start_folded(model, run, variables, images)


def start_folded(
  model: nn.Module,
  run: Callable[[Any, jax.Array], jax.Array],
  variables: Any,
  images: np.ndarray,
) -> Program:
  """Compiles `run` for the folded `variables` of `model`, as a user does."""
  variables = jax.device_put(fold(model, variables))
  images = jax.device_put(images)
  in_onednn = onednn.is_available(model.dtype)

  def run_in_form(variables, images):
    with layers_in_onednn() if in_onednn else contextlib.nullcontext():
      return run(variables, images)

  program = onednn.compiled(jax.jit(run_in_form).lower(variables, images))
  return Program(
    call=lambda: program(variables, images),
    wait=jax.block_until_ready,
    output=_comparable(program(variables, images)),
    **_memory(program),
  )


def start_training(
  case: Case, variables: Any, batch: dict[str, np.ndarray]
) -> Program:
  """Compiles `make_train_step`'s step; the output is of two steps."""
  config = make_config(case)
  model = make_model(config, NUM_CLASSES)
  optimizer = make_optimizer(config)
  mesh = sharding.make_mesh()
  params, batch_stats = variables["params"], variables["batch_stats"]
  state = TrainState(
    jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params)
  )
  state = jax.device_put(state, sharding.replicated(mesh))
  batch = sharding.global_batch(batch, mesh)
  loss = Loss("cross_entropy", cross_entropy)
  step = make_train_step(model, loss, optimizer, config, mesh)
  program = step.lower(state, batch).compile()
  held = [state]
  del state

  def call():
    held[0], metrics = program(held[0], batch)
    return held[0], metrics

  losses = [float(call()[1]["cross_entropy"]) for _ in range(2)]
  return Program(
    call, jax.block_until_ready, np.array(losses), **_memory(program)
  )


def _comparable(output: jax.Array) -> np.ndarray:
  """In a type that NumPy has."""
  return np.asarray(
    output, None if output.dtype != jnp.bfloat16 else np.float32
  )


def _memory(program: Any) -> dict[str, int]:
  """What a compiled program takes, by the compiler."""
  memory = program.memory_analysis()
  peak = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )
  return {"memory": peak, "temporaries": memory.temp_size_in_bytes}


def start_function(
  run: Callable[..., jax.Array], arrays: Sequence[np.ndarray], dtype: str
) -> Program:
  """Compiles `run` for `arrays` in `dtype`."""
  arrays = [jnp.asarray(array, dtype) for array in arrays]
  program = onednn.compiled(jax.jit(run).lower(*arrays))
  return Program(
    lambda: program(*arrays),
    jax.block_until_ready,
    np.asarray(program(*arrays), np.float32),
  )
