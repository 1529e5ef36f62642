"""A run whose network is a sum, so that a start takes a fraction of a second.

The loop, records, checkpoints, pictures and restarts are the real ones.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax import atomic, goodput, remote, sharding
from deeplab_jax.checkpoints import fetching, items, wholeness
from deeplab_jax.config import base_config
from deeplab_jax.models import DeepLab
from deeplab_jax.tasks import SEGMENTATION
from deeplab_jax.train import run
from deeplab_jax.train.state import TrainState

STEPS = 6
_SCORES = {0: 0.1, 2: 0.6, 4: 0.3, 6: 0.5}


def _state() -> TrainState:
  leaf = jnp.arange(600.0).reshape(20, 30)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params={"kernel": leaf},
    batch_stats={"mean": leaf[0]},
    opt_state=({"momentum": leaf},),
  )


def _initializer(model, optimizer, crop_size, seed, mesh, averaged):
  return jax.jit(_state, out_shardings=sharding.replicated(mesh))


def _make_train_step(model, loss, optimizer, config, mesh):
  def step(state: TrainState, batch):
    shift = batch["image"].sum()
    params = {"kernel": state.params["kernel"] + shift}
    figures = ("loss", "gradient_norm", "learning_rate")
    state = state.replace(step=state.step + 1, params=params)
    return state, dict.fromkeys(figures, 1.0 / shift)

  if jax.process_count() == 1:
    return step  # which need not be compiled
  return jax.jit(step, out_shardings=sharding.replicated(mesh))


def _batches(dataset, config, step: int):
  while True:
    step += 1
    yield {"name": [str(step)], "image": np.full((1, 2), step, np.float32)}


def _evaluate(scores, model, variables, config, *, picture, **_):
  if jax.process_index() == 0:
    kernel = np.asarray(variables["params"]["kernel"])
    atomic.write_bytes(picture, kernel.tobytes())
  step = int(picture.stem.removeprefix("step_"))
  return {"eval/miou": scores[step]}


def train(workdir: remote.AnyPath, best: int, data: pathlib.Path) -> None:
  """A run whose best step is `best`: the real one around a small network."""
  config = base_config()
  config.update(steps=STEPS, eval_every=2, checkpoint_every=1, log_every=1)
  config.update(batch_size=jax.process_count(), keep_checkpoints=1)
  config.eval_first = True
  config.data.update(name="shapes", data_dir=str(data))
  scores = _SCORES | {best: 0.9}
  task = SEGMENTATION._replace(
    train_batches=_batches,
    evaluate=lambda *args, **options: _evaluate(scores, *args, **options),
  )
  run.find_task = lambda _: task
  run.initializer = _initializer
  run.config_lib.make_model = lambda *_, **images: DeepLab(21, **images)
  run.make_optimizer = lambda *_: None
  run.make_train_step = _make_train_step
  run._summary = lambda *_: ""
  run.train_and_evaluate(config, workdir)


def outcome(workdir: remote.AnyPath, here: pathlib.Path) -> dict:
  """All that a run leaves, the clock apart.

  Args:
    workdir: of the run.
    here: where steps of an object store are copied to.
  """
  trees = {}
  kinds = {"checkpoints": ("variables", "training"), "best": ("variables",)}
  for kind, names in kinds.items():
    # A kill may leave an old one beside the newest one.
    step = wholeness.steps(workdir / kind)[0]
    if isinstance(step, remote.Address):
      fetching.fetch(step, here / kind / step.name)
      step = here / kind / step.name
    assert wholeness.fault(step, *names) is None
    for name in names:
      tree = items.flatten(items.restore(step / name))
      trees |= {
        f"{kind}/{step.name}/{name}/{leaf}": np.asarray(x).tolist()
        for leaf, x in tree.items()
      }
  rows = [
    {k: v for k, v in json.loads(line).items() if "per_second" not in k}
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  pictures = {
    path.name: path.read_bytes().hex()
    for path in (workdir / "pictures").iterdir()
  }
  found = goodput.goodput(workdir)
  assert found.step == STEPS
  assert abs(sum(found.parts.values()) - found.wall) <= 0.01 * found.wall
  return {"trees": trees, "rows": rows, "pictures": pictures}
