"""`--mode eval`: a stored model on a split, and a folder that tells of it."""

import functools
import json
import os
import resource
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import rich
from ml_collections import ConfigDict

from deeplab_jax import atomic, messages, remote, sharding, visualize
from deeplab_jax.checkpoints import load_variables
from deeplab_jax.data.changes import describe
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.data.source import open_dataset
from deeplab_jax.evaluate import page
from deeplab_jax.evaluate.loop import evaluate
from deeplab_jax.evaluate.results import Evaluation
from deeplab_jax.inference.protocol import stored_least_crop, stored_thresholds
from deeplab_jax.models import DeepLab

E = TypeVar("E")  # an evaluation


def report(
  checkpoint: str | os.PathLike,
  config: ConfigDict,
  workdir: str | os.PathLike | None = None,
  compare: str | os.PathLike | None = None,
) -> Evaluation:
  """Evaluates in detail, prints a table and writes WORKDIR/evaluation.

  The folder receives `results.json`, `report.html` with everything in it, and
  the pictures `examples.png`, `iou.png`, `confusion.png`, `reliability.png`,
  `trimap.png`.

  Args:
    checkpoint: a workdir, a step in it, its `best`, or an imported model
      directory; the model is the one stored there.
    config: `data` and `eval` say on what and how; the split is the data set's
      `test_split`, if it has one, unless `data.eval_split` names another.
    workdir: where the folder `evaluation` goes; None writes nothing.
    compare: another evaluation to show beside this one: its workdir, or its
      `results.json`.

  Returns:
    what was found.

  Raises:
    ValueError: nothing to compare with, or of other classes; a wrong field; the
      model's classes in another order.
  """
  if workdir is not None:
    remote.require_writable(workdir)
  model, variables, facts = load_variables(checkpoint)
  if stored_thresholds(facts) is not None:
    raise ValueError(
      f"{checkpoint} holds a model whose classes overlap: evaluate it with "
      "--config.task=multilabel, got 'segmentation'"
    )
  return report_on(
    checkpoint,
    (model, variables, facts),
    config,
    workdir,
    compare,
    evaluate=functools.partial(evaluate, detailed=True),
    write=write,
  )


def report_on(
  checkpoint: str | os.PathLike,
  stored: tuple[DeepLab, Any, dict[str, Any]],
  config: ConfigDict,
  workdir: str | os.PathLike | None,
  compare: str | os.PathLike | None,
  *,
  evaluate: Callable[..., E],
  write: Callable[[E, remote.AnyPath, dict[str, Any] | None], None],
  multilabel: bool = False,
) -> E:
  """What reports of all kinds of models do; see `report`.

  Args:
    checkpoint: where the model is, for messages.
    stored: the model, its variables and facts.
    config: `data` and `eval` say on what and how.
    workdir: as `report` has it.
    compare: as `report` has it.
    evaluate: gives the evaluation, of the arguments of `loop.evaluate`.
    write: writes it into a folder, with what it is compared with.
    multilabel: whether the classes of the data overlap.
  """
  mesh = sharding.make_mesh(config.mesh_height)
  model, variables, facts = stored
  least_crop = stored_least_crop(facts)
  dataset = open_dataset(config.data, testing=True, multilabel=multilabel)
  described = json.dumps(describe(dataset, ["eval"]))
  sharding.require_same(described, f"the data in {dataset.directory}")
  _check_order(facts, dataset.info)
  other = compare and _read_other(remote.as_path(compare), dataset.info)
  variables = sharding.replicate(variables, mesh)
  first = jax.process_index() == 0
  evaluation = evaluate(
    model,
    variables,
    config,
    dataset=dataset,
    least_crop=least_crop,
    mesh=mesh,
    show_progress=first,
  )
  if first:
    rich.print(evaluation.table())
    _say_least_crop(least_crop, config, checkpoint)
  if first and workdir is not None:
    folder = remote.as_path(workdir) / "evaluation"
    write(evaluation, folder, other)
    print(f"report: {messages.printable(folder / 'report.html')}")
  return evaluation


def _check_order(facts: dict[str, Any], info: DatasetInfo) -> None:
  """Refuses the classes that a model knows in another order.

  Other names are no fault: those of a folder without a list are made up.
  """
  names = list(info.class_names)
  trained = (facts.get("dataset") or {}).get("class_names") or []
  if sorted(trained) == sorted(names) and trained != names:
    raise ValueError(
      f"the classes of data.name {info.name!r} must have the order that the "
      f"model was trained with, {', '.join(trained)}; got {', '.join(names)}"
    )


def _say_least_crop(
  least_crop: tuple[int, int], config: ConfigDict, checkpoint: str | os.PathLike
) -> None:
  """Where the config asks for another padding than the model is served with."""
  wanted = tuple(config.data.eval_size)
  if wanted not in ((0, 0), least_crop):
    print(
      f"pictures were padded to at least {least_crop}, as {checkpoint} holds "
      f"it, not to data.eval_size {wanted}"
    )


def write(
  evaluation: Evaluation, folder: remote.AnyPath, other: dict[str, Any] | None
) -> None:
  """Writes the folder of a detailed evaluation, see `report`."""
  content = evaluation.to_dict() | {"peak_memory_bytes": peak_memory()}
  atomic.write_json(folder / "results.json", content)
  evaluation.write_picture(folder / "examples.png")
  plots = page.draw_plots(evaluation, other)
  for name, figure in plots.items():
    visualize.write_figure(folder / f"{name}.png", figure)
  text = page.render(evaluation, content, plots, other)
  atomic.write_text(folder / "report.html", text)


def _read_other(path: remote.AnyPath, info: DatasetInfo) -> dict[str, Any]:
  """The `results.json` to compare with, checked."""
  if path.is_dir():
    path = path / "evaluation" / "results.json"
  if not path.is_file():
    raise ValueError(
      f"nothing to compare with at {path}: give a workdir evaluated with "
      "--mode eval, or its evaluation/results.json"
    )
  content = json.loads(path.read_text())
  wanted = "multilabel" if info.multilabel else "segmentation"
  found = content.get("task", "segmentation")
  if found != wanted:
    raise ValueError(f"{path} must be of the task {wanted}, got {found}")
  if content["class_names"] != list(info.class_names):
    raise ValueError(
      f"{path} is of {content['dataset']!r}, whose classes are not those of "
      f"{info.name!r}"
    )
  return content


def peak_memory() -> int:
  """Of the first device, or of this process where devices do not tell."""
  stats = jax.local_devices()[0].memory_stats() or {}
  kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return stats.get("peak_bytes_in_use", kilobytes * 1024)
