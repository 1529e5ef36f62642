"""A whole split through the network into counts.

Confusion matrices are counted on the devices and summed over them; what looks
at whole images (trimap, Boundary IoU) is counted on the host of the process
that read them, while the devices work on the next batch.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import rich.progress
from jax.sharding import Mesh
from ml_collections import ConfigDict

from deeplab_jax import metrics, peers, sharding
from deeplab_jax.data import segmentation
from deeplab_jax.data.segmentation import Views
from deeplab_jax.data.source import Dataset, open_dataset
from deeplab_jax.evaluate.batches import Group, groups, plan
from deeplab_jax.evaluate.results import Evaluation
from deeplab_jax.evaluate.tally import Tally
from deeplab_jax.inference import predict_fn
from deeplab_jax.inference.crops import why_not_confinable
from deeplab_jax.inference.folding import fold, keeps_digits
from deeplab_jax.inference.protocol import Protocol
from deeplab_jax.models import DeepLab, for_inference
from deeplab_jax.models.divided import by_rows
from deeplab_jax.models.ops.canvas import NotConfinable


def evaluate(
  model: DeepLab,
  variables: Any,
  config: ConfigDict,
  *,
  dataset: Dataset | None = None,
  least_crop: tuple[int, int] | None = None,
  mesh: Mesh | None = None,
  should_stop: Callable[[], bool] = lambda: False,
  detailed: bool = False,
  show_progress: bool = False,
) -> Evaluation | None:
  """Evaluates `model` on the evaluation split of a data set.

  Every process of a run calls this; all get the same figures.

  Args:
    model: the network; `output_stride` and `dtype` of `config.eval` may replace
      its own.
    variables: `{"params", "batch_stats"}`, replicated over `mesh`.
    config: `data` and `eval` are read.
    dataset: opened from `config.data` by default; one who evaluates several
      times opens it once.
    least_crop: height and width that pictures are padded to at least, as a
      stored model has it; None takes `config.data.eval_size`.
    mesh: all devices of all processes by default, of which
      `config.mesh_height` share each picture.
    should_stop: asked before each batch.
    detailed: whether to count what `Detail` holds, too.
    show_progress: whether to draw a progress bar.

  Returns:
    what was found, None if told to stop.

  Raises:
    ValueError: the model has not the data set's classes, or a field of
      `config.data` is wrong.
  """
  began = time.monotonic()
  mesh = mesh or sharding.make_mesh(config.mesh_height)
  dataset = dataset or open_dataset(config.data)
  info = dataset.info
  protocol = make_protocol(config, least_crop)
  how = protocol.scales, protocol.flip, mesh, detailed
  tallied = tally_split(
    model,
    variables,
    config,
    dataset=dataset,
    protocol=protocol,
    mesh=mesh,
    make_step=lambda model: _make_step(model, *how),
    make_tally=lambda sizes, work: Tally(
      info.num_classes,
      sizes,
      work,
      config.eval.pictures,
      detailed,
      model.value_range,
    ),
    should_stop=should_stop,
    show_progress=show_progress,
  )
  if tallied is None:
    return None
  tally, settings = tallied
  return tally.result(info, settings, began)


T = TypeVar("T", bound="Tally")


def tally_split(
  model: DeepLab,
  variables: Any,
  config: ConfigDict,
  *,
  dataset: Dataset,
  protocol: Protocol,
  mesh: Mesh,
  make_step: Callable[[DeepLab], Callable],
  make_tally: Callable[[list, list], T],
  should_stop: Callable[[], bool],
  show_progress: bool,
) -> tuple[T, dict[str, Any]] | None:
  """Sends all pictures of the evaluation split through the network.

  Args:
    model: the network.
    variables: its `{"params", "batch_stats"}`, replicated over `mesh`.
    config: `data` and `eval` are read.
    dataset: what has the split.
    protocol: how pictures are brought before the network.
    mesh: all devices of all processes.
    make_step: gives the compiled function of variables, image, label, size and
      perhaps crop to counts and a map of each picture, for the network as it is
      evaluated.
    make_tally: gives what adds these up, for the sizes of all pictures and what
      the batches show.
    should_stop: asked before each batch.
    show_progress: whether to draw a progress bar.

  Returns:
    the tally, and what a reader of the figures must know; None if told to stop.

  Raises:
    ValueError: the model has not the data set's classes.
  """
  info = dataset.info
  if model.num_classes != info.num_classes:
    raise ValueError(
      f"data.name {info.name!r} has {info.num_classes} classes, the "
      f"model {model.num_classes}: evaluate it on what it was trained on"
    )
  found, wanted = (
    f"{x.channels} channels of {x.image_dtype}" for x in (info, model)
  )
  if found != wanted:
    raise ValueError(
      f"data.name {info.name!r} has images of {found}, the model takes "
      f"{wanted}: set data.channels, or evaluate it on what it was trained on"
    )
  model = for_inference(
    model, config.eval.output_stride or None, config.eval.dtype or None
  )
  if keeps_digits(model):
    variables = sharding.replicate(fold(model, variables), mesh)
  step = make_step(model)
  sizes = segmentation.eval_sizes(dataset, config.data)

  def tally_groups(may_share: Callable[[], bool]):
    found = groups(sizes, protocol, model.crop_stride, may_share)
    work = _work(found, config.eval.batch_size, mesh)
    tally = make_tally(sizes, work)
    batches = _batches(dataset, config, work, show_progress)
    with contextlib.closing(batches):  # so that another bar may be drawn
      for number, (views, shared, batch) in enumerate(batches, 1):
        peers.meets(f"batch {number} of the evaluation")
        if sharding.any_process(should_stop()):
          return None
        names = ["image", "label", "size", *(["crop"] if shared else [])]
        arrays = sharding.global_batch({n: batch[n] for n in names}, mesh)
        # The step runs on while the host counts the batch before.
        tally.add(views, batch, *step(variables, **arrays))
    return tally, _settings(dataset, model, protocol, found)

  try:
    return tally_groups(lambda: why_not_confinable(model, variables) is None)
  except NotConfinable:  # The network does something else at a canvas's size.
    return tally_groups(lambda: False)


def make_protocol(
  config: ConfigDict, least_crop: tuple[int, int] | None = None
) -> Protocol:
  """The protocol of `config.eval`.

  Args:
    config: `eval` is read, and `data.eval_size`.
    least_crop: that of a stored model; None takes `data.eval_size`.
  """
  size = tuple(least_crop or config.data.eval_size)
  limits = {name: config.eval[name] for name in ("max_pixels", "tile")}
  return Protocol(
    scales=tuple(config.eval.scales),
    flip=config.eval.flip,
    least_crop=(1, 1) if size == (0, 0) else size,
    **{name: value for name, value in limits.items() if value},
  )


def _work(
  found: list[Group], batch_size: int, mesh: Mesh
) -> list[tuple[Views, bool]]:
  """This process's rows of all batches, and whether crops share a canvas.

  The rows of a batch are raised to the number of parts that it has.
  """
  shares = sharding.batch_shares(mesh)
  rows = -(-batch_size // shares) * shares
  place = jax.process_index(), jax.process_count()
  return [
    (views, group.shared)
    for group in found
    for views in plan(group, rows // jax.process_count(), *place)
  ]


def _batches(
  dataset: Dataset,
  config: ConfigDict,
  work: list[tuple[Views, bool]],
  show_progress: bool,
) -> Iterator[tuple[Views, bool, dict[str, Any]]]:
  """`work`, and the arrays that it stands for."""
  shown = [views for views, _ in work]
  batches = segmentation.eval_batches(dataset, config.data, shown)
  tracked = rich.progress.track(
    zip(work, batches),
    "evaluating",
    total=len(work),
    disable=not show_progress,
  )
  for (views, shared), batch in tracked:
    yield views, shared, batch


@functools.lru_cache(maxsize=8)
def _make_step(
  model: DeepLab,
  scales: tuple[float, ...],
  flip: bool,
  mesh: Mesh,
  detailed: bool,
) -> Callable:
  """The compiled step, kept from one evaluation of a run to the next."""
  predict = predict_fn(model, scales, flip)

  def step(variables, image, label, size, crop=None):
    labels, probabilities = predict(variables, image, size, crop)
    classes = model.num_classes
    counts = {"confusion": metrics.confusion_matrix(label, labels, classes)}
    if detailed:
      counts["calibration"] = metrics.calibration_counts(
        probabilities.max(-1), labels, label, classes
      )
    return counts, labels

  step = by_rows(step, mesh, sharding.HEIGHT_AXIS)
  placements = sharding.replicated(mesh), sharding.divided(mesh)
  return jax.jit(step, out_shardings=placements)


def _settings(
  dataset: Dataset, model: DeepLab, protocol: Protocol, found: list[Group]
) -> dict[str, Any]:
  """What a reader of the figures must know."""
  crops = [window.crop for group in found for _, window in group.members]
  return {
    "split": dataset.eval_split,
    "backbone": model.backbone,
    "output_stride": model.output_stride,
    "dtype": jnp.dtype(model.dtype).name,
    "least_crop": list(protocol.least_crop),
    "crop_size": [max(sides) for sides in zip(*crops)],
    "scales": list(protocol.scales),
    "flip": protocol.flip,
    "devices": jax.device_count(),
    "device": jax.devices()[0].device_kind,
  }
