"""A second head: it trains, labels nothing, and need not be loaded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax import checkpoints, losses, optimizer, sharding
from deeplab_jax import config as config_lib
from deeplab_jax.checkpoints import items
from deeplab_jax.models import DeepLab, preprocess
from deeplab_jax.tasks.segmentation import make_loss
from deeplab_jax.train.checkpoints import Checkpoints
from deeplab_jax.train.initialize import initialize_from
from deeplab_jax.train.state import TrainState, create_state
from deeplab_jax.train.step import make_train_step
from tests.programs import train_tiny
from tests.trees import by_name

pytestmark = pytest.mark.usefixtures("tiny_backbone")


def _model(auxiliary="conv3", num_classes=3) -> DeepLab:
  return DeepLab(
    num_classes,
    backbone="tiny",
    output_stride=32,
    atrous_rates=(),
    image_pooling=False,
    decoder=(),
    dropout_rate=0.0,
    auxiliary=auxiliary,
  )


def _config(**changes):
  config = config_lib.base_config()
  config.update(changes)
  return config


def _state(model: DeepLab, seed=0) -> TrainState:
  rule = optimizer.make_optimizer(_config())
  return jax.jit(lambda: create_state(model, rule, (17, 17), seed))()


@pytest.fixture(scope="module")
def start(tiny_backbone) -> TrainState:
  return jax.device_get(_state(_model()))


@functools.partial(jax.jit, static_argnums=0)
def _heads(model, params, batch_stats, images):
  """Logits of the network and of the second head, in training."""
  variables = {"params": params, "batch_stats": batch_stats}
  collections = ["batch_stats", "intermediates"]
  logits, changed = model.apply(
    variables, images, train=True, mutable=collections
  )
  (other,) = jax.tree.leaves(changed["intermediates"])
  return logits, other


def test_it_labels_nothing(start):
  images = jnp.ones((1, 33, 49, 3))
  apply = jax.jit(_model().apply, static_argnames="mutable")
  with_it = apply(start.variables, images, mutable=("intermediates",))
  without = jax.jit(_model("").apply)(start.variables, images)
  assert jax.tree.leaves(with_it[1]) == []
  np.testing.assert_array_equal(with_it[0], without)
  _, other = _heads(_model(), start.params, start.batch_stats, images)
  assert other.shape == (1, 5, 7, 3)  # at stride 8
  names = {name for name in start.params if name not in ("aspp", "logits")}
  assert names == {"backbone", "auxiliary"}


@pytest.mark.parametrize("groups", [1, 2])
def test_its_loss_joins_by_its_weight_and_reaches_all_of_it(start, groups):
  config = _config(lr=0.1, steps=9, batch_norm_groups=groups)
  config.loss.auxiliary_weight = 0.3
  model, mesh = _model(), sharding.make_mesh()
  rule = optimizer.make_optimizer(config)
  step = make_train_step(model, make_loss(config), rule, config, mesh)
  batch = train_tiny.batch_of(0)
  placed = jax.device_put(start, sharding.replicated(mesh))
  after, metrics = step(placed, batch)
  images = jnp.split(preprocess(batch["image"], "tiny"), groups)
  values = []
  for logits in zip(
    *(_heads(model, start.params, start.batch_stats, x) for x in images)
  ):
    logits = jnp.concatenate(logits)
    values.append(losses.mean(*losses.cross_entropy(logits, batch["label"])))
  expected = values[0] + 0.3 * values[1]
  np.testing.assert_allclose(metrics["cross_entropy"], expected, rtol=1e-5)
  old, new = by_name(start.params), by_name(after.params)
  assert not [name for name in old if np.array_equal(old[name], new[name])]


def test_it_stays_behind_where_others_load(start, tmp_path):
  saver = Checkpoints(tmp_path, keep=1)
  saver.save(start)
  saver.close()
  checkpoints.write_model_json(tmp_path, _model(), dataset={"name": "toy"})
  model, variables, _ = checkpoints.load_variables(tmp_path)
  assert model.auxiliary == ""
  assert "auxiliary" not in items.flatten(variables["params"])
  assert set(variables["params"]) == {"backbone", "aspp", "logits"}
  without = _state(_model(""), 1)
  begun, report = initialize_from(without, tmp_path, "all")
  np.testing.assert_array_equal(
    begun.params["logits"]["kernel"], start.params["logits"]["kernel"]
  )
  assert "auxiliary/conv/kernel" in str(report.skipped)


def test_it_is_drawn_anew_where_the_start_has_none(start, tmp_path):
  plain = jax.device_get(_state(_model(""), 1))
  saver = Checkpoints(tmp_path, keep=1)
  saver.save(plain)
  saver.close()
  begun, _ = initialize_from(jax.device_put(start), tmp_path, "all")
  for name, source in (("auxiliary", start), ("logits", plain)):
    found, expected = (by_name(x.params[name]) for x in (begun, source))
    for leaf in expected:
      np.testing.assert_array_equal(found[leaf], expected[leaf])
