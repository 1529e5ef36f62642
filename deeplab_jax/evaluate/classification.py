"""A classifier on a split: top-1 and top-5 accuracy."""

import collections
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from deeplab_jax import atomic, peers, remote, sharding
from deeplab_jax.checkpoints import load_variables
from deeplab_jax.data import classification
from deeplab_jax.data.changes import describe
from deeplab_jax.data.source import Dataset, open_dataset
from deeplab_jax.models import Classifier, preprocess
from deeplab_jax.models.divided import by_rows


def evaluate(
  model: Classifier,
  variables: Any,
  config: ConfigDict,
  *,
  dataset: Dataset,
  mesh: Mesh,
  should_stop: Callable[[], bool] = lambda: False,
  picture: remote.AnyPath | None = None,
) -> dict[str, float] | None:
  """Top-1 and top-5 accuracy of the evaluation split, each image once.

  Args:
    model: the network.
    variables: {"params", "batch_stats"}, replicated over `mesh`.
    config: `data` and `eval.batch_size` are read.
    dataset: what has the split.
    mesh: all devices of all processes.
    should_stop: asked before each batch.
    picture: not written: there is nothing to draw.

  Returns:
    "eval/top1", "eval/top5" in 0..1 and "eval/images_per_second"; None if told
    to stop.
  """
  began = time.monotonic()
  step = _make_step(model, mesh)
  totals = collections.Counter()
  batches = _eval_batches(dataset, config, mesh)
  for number, batch in enumerate(batches, 1):
    peers.meets(f"batch {number} of the evaluation")
    if sharding.any_process(should_stop()):
      return None
    arrays = {name: batch[name] for name in ("image", "label")}
    counts = step(variables, **sharding.global_batch(arrays, mesh))
    totals.update({name: int(count) for name, count in counts.items()})
  images = totals.pop("images")
  figures = {f"eval/{name}": hits / images for name, hits in totals.items()}
  speed = images / (time.monotonic() - began)
  return figures | {"eval/images_per_second": speed}


def report(
  checkpoint: str | os.PathLike,
  config: ConfigDict,
  workdir: str | os.PathLike | None = None,
  compare: str | os.PathLike | None = None,
) -> dict[str, float]:
  """Evaluates a stored classifier; writes WORKDIR/evaluation/results.json.

  Without a workdir it only prints.

  Raises:
    ValueError: no classifier there, or something to compare with, which only
      segmentation has.
  """
  if compare:
    raise ValueError(
      f"--compare is of segmentation: classifiers have none, got {compare}"
    )
  if workdir is not None:
    remote.require_writable(workdir)
  mesh = sharding.make_mesh(config.mesh_height)
  model, variables, _ = load_variables(checkpoint, kind="classifier")
  dataset = open_dataset(config.data, testing=True)
  described = json.dumps(describe(dataset, ["eval"]))
  sharding.require_same(described, f"the data in {dataset.directory}")
  variables = sharding.replicate(variables, mesh)
  figures = evaluate(model, variables, config, dataset=dataset, mesh=mesh)
  if jax.process_index() == 0:
    print(f"top-1 {figures['eval/top1']:.2%}, top-5 {figures['eval/top5']:.2%}")
    if workdir is not None:
      path = remote.as_path(workdir) / "evaluation" / "results.json"
      atomic.write_json(path, figures)
      print(f"report: {path}")
  return figures


def _eval_batches(
  dataset: Dataset, config: ConfigDict, mesh: Mesh
) -> Iterator[dict[str, Any]]:
  """This process's rows of all batches, their number raised to the parts."""
  shares = sharding.batch_shares(mesh)
  return classification.eval_batches(
    dataset,
    config.data,
    batch_size=-(-config.eval.batch_size // shares) * shares,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    limit=config.data.eval_limit,
  )


@functools.lru_cache(maxsize=8)
def _make_step(model: Classifier, mesh: Mesh) -> Callable:
  """The compiled step, kept from one evaluation of a run to the next."""

  def step(variables, image, label):
    logits = model.apply(variables, preprocess(image, model.backbone))
    _, best = jax.lax.top_k(logits, 5)
    hits = best == label[:, None]  # never in rows that fill up, of label -1
    images = (label >= 0).sum()
    return {"images": images, "top1": hits[:, 0].sum(), "top5": hits.sum()}

  step = by_rows(step, mesh, sharding.HEIGHT_AXIS)
  return jax.jit(step, out_shardings=sharding.replicated(mesh))
