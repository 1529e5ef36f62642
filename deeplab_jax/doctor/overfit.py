"""Overfits one batch: the quickest proof that labels can be learnt at all."""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from deeplab_jax import config as config_lib
from deeplab_jax import sharding
from deeplab_jax.data import segmentation
from deeplab_jax.data.classes import IGNORE
from deeplab_jax.data.source import Dataset
from deeplab_jax.doctor import config_checks
from deeplab_jax.doctor.findings import Finding, error, warning
from deeplab_jax.models import padding_value
from deeplab_jax.optimizer import make_optimizer
from deeplab_jax.tasks import find_task
from deeplab_jax.train.initialize import initialize_from
from deeplab_jax.train.state import init_state
from deeplab_jax.train.step import make_train_step

_CPU_PIXELS = 4 * 129 * 129  # of a batch there; a step then takes a second
_FEWEST_STEPS = 15  # fewer tell nothing
_FALL = 0.6  # of the first loss: what the last must be below
_TRIES = 20  # batches, to find one with labels
# The losses whose values are known to mean something.
_JUDGED = ("cross_entropy", "binary_cross_entropy")


@dataclasses.dataclass(frozen=True)
class Overfit:
  """How it went.

  Attributes:
    losses: values of the loss, one a step.
    chance: the loss of predicting each class as often as it occurs; None for a
      loss other than cross-entropy.
    batch: images, height and width.
    names: the images.
    seconds: it took, compiling included.
    loss: its name.
  """

  losses: tuple[float, ...]
  chance: float | None
  batch: tuple[int, int, int]
  names: tuple[str, ...]
  seconds: float
  loss: str = _JUDGED[0]

  @property
  def fell(self) -> bool | None:
    """Whether the loss fell as it should.

    None if there were too few steps to tell, or nobody knows how far this loss
    should fall.
    """
    if len(self.losses) < _FEWEST_STEPS or self.loss not in _JUDGED:
      return None
    return float(np.median(self.losses[-5:])) < _FALL * self.losses[0]

  def __str__(self) -> str:
    rows, height, width = self.batch
    return (
      f"{rows} crops of {width}x{height}, {len(self.losses)} steps in "
      f"{self.seconds:.0f} s: {self.loss} {self.losses[0]:.3f} -> "
      f"{self.losses[-1]:.3f} ({self._verdict()})"
    )

  def _verdict(self) -> str:
    if self.loss not in _JUDGED:
      return f"how far {self.loss} should fall is not known"
    verdict = {
      True: "as it should",
      False: "NOT as it should",
      None: "too few steps in the time allowed to tell",
    }
    return (
      f"{verdict[self.fell]}; class frequencies alone give {self.chance:.3f}"
    )


def run(
  config: ConfigDict, dataset: Dataset, steps: int, seconds: float
) -> Overfit:
  """Trains the config's network on one batch, again and again.

  The learning rate is the config's first one, without slow start; dropout and
  weight decay are off. On a CPU the batch is cut to what takes seconds. Random
  weights are drawn if those to start from are not there yet.

  Args:
    config: the experiment's.
    dataset: what `config.data` describes.
    steps: at most so many.
    seconds: no step begins later than this after the first one ended.

  Raises:
    ValueError: training would refuse the data or the weights to start from.
  """
  began = time.monotonic()
  config = _settings(config, steps)
  images = config_lib.image_arguments(dataset.info)
  model = config_lib.make_model(config, dataset.info.num_classes, **images)
  optimizer = make_optimizer(config)
  mesh = sharding.make_mesh(config.mesh_height)
  crop_size = tuple(config.data.crop_size)
  state = init_state(model, optimizer, crop_size, config.seed, mesh)
  if config.init_from:
    start = config.init_from, config.init_parts, config.init_channels
    state, _ = initialize_from(state, *start)
  batch = _batch(config, dataset)
  names = tuple(batch.pop("name"))
  placed = sharding.global_batch(batch, mesh)
  loss = find_task(config).make_loss(config)
  train_step = make_train_step(model, loss, optimizer, config, mesh)
  losses = []
  deadline = math.inf
  while len(losses) < steps and time.monotonic() < deadline:
    state, metrics = train_step(state, placed)
    losses.append(float(metrics[loss.name]))
    if len(losses) == 1:  # compiled by now
      deadline = time.monotonic() + seconds
    if not math.isfinite(losses[-1]):
      break
  return Overfit(
    losses=tuple(losses),
    chance=_chance(batch["label"], config) if loss.name in _JUDGED else None,
    batch=batch["label"].shape[:3],
    names=names,
    seconds=time.monotonic() - began,
    loss=loss.name,
  )


def findings(result: Overfit, config: ConfigDict) -> Iterator[Finding]:
  """What the losses say."""
  if not math.isfinite(result.losses[-1]):
    yield error(
      "loss-not-finite",
      f"the loss is {result.losses[-1]} after {len(result.losses)} steps on "
      f"one batch ({', '.join(result.names)}) at learning rate {config.lr:g}",
      f"lower the learning rate, such as --config.lr={config.lr / 10:g}",
    )
  elif result.fell is False:
    yield warning(
      "loss-does-not-fall",
      f"on one batch the loss went from {result.losses[0]:.3f} to "
      f"{result.losses[-1]:.3f} in {len(result.losses)} steps at learning rate "
      f"{config.lr:g}",
      "check that masks belong to their images (--html); try a learning rate "
      f"of {config.lr / 10:g} and of {config.lr * 10:g}",
    )


def _settings(config: ConfigDict, steps: int) -> ConfigDict:
  """The config at its first learning rate, on a batch of bearable size."""
  config = config.copy_and_resolve_references()
  config.update(
    slow_start_steps=0,
    lr_policy="step",
    lr_decay_steps=steps + 1,
    steps=steps + 1,
    weight_decay=0.0,
    thaw_step=min(config.thaw_step, steps),
    ema_decay=0.0,
  )
  config.model.dropout_rate = 0.0
  config.loss.update(hard_pixel_fraction=1.0, hard_pixel_steps=0)
  config.loss.label_smoothing = 0.0
  if config_checks.no_start(config):  # random weights have no statistics yet
    config.update(init_from="", train_batch_norm=True)
  devices = jax.device_count()
  if jax.default_backend() == "cpu":
    side = min(*config.data.crop_size, _CPU_PIXELS**0.5 / 2)
    stride = config.model.output_stride
    side = max(int((side - 1) // stride), 1) * stride + 1
    config.data.crop_size = (side, side)
    config.batch_size = min(config.batch_size, 4)
  if devices % config.mesh_height:  # it is to be trained elsewhere
    config.mesh_height = 1
  shares = devices // config.mesh_height
  config.batch_size = max(-(-config.batch_size // shares), 1) * shares
  return config


def _batch(config: ConfigDict, dataset: Dataset) -> dict[str, np.ndarray]:
  """The first batch of training, or the first that has labels."""
  batches = segmentation.train_batches(
    dataset,
    config.data,
    batch_size=config.batch_size,
    seed=config.seed,
    padding_value=padding_value(
      config.model.backbone, dataset.info.channels, dataset.info.value_range
    ),
  )
  for batch in itertools.islice(batches, _TRIES):
    if (batch["label"] != IGNORE).any():
      return batch
  raise ValueError(
    f"data.train_split must give crops with labelled pixels, got none in "
    f"{_TRIES} batches; enlarge data.crop_size or label more"
  )


def _chance(labels: np.ndarray, config: ConfigDict) -> float:
  """Entropy of the classes of the labelled pixels, in nats, each weighed."""
  if labels.ndim == 4:
    return _chance_of_planes(labels, config)
  counts = np.bincount(labels[labels != IGNORE])
  shares = counts[counts > 0] / counts.sum()
  weights = np.array(config.loss.class_weights or [1.0] * len(counts))
  weights = weights[: len(counts)][counts > 0]
  return float(-(weights * shares * np.log(shares)).sum())


def _chance_of_planes(labels: np.ndarray, config: ConfigDict) -> float:
  """The same of yes and no, over all labelled pixels of overlapping classes."""
  yes, no = ((labels == x).sum((0, 1, 2)).astype(float) for x in (1, 0))
  shares = yes / np.maximum(yes + no, 1)
  ones = np.ones(len(yes))
  positive = np.array(config.loss.positive_weights or ones)
  weights = np.array(config.loss.class_weights or ones)
  # What is best to answer everywhere, if yes weighs so much.
  best = positive * shares / np.maximum(positive * shares + 1 - shares, 1e-12)
  with np.errstate(divide="ignore", invalid="ignore"):
    entropy = np.nan_to_num(-positive * shares * np.log(best))
    entropy += np.nan_to_num(-(1 - shares) * np.log1p(-best))
  return float((weights * entropy * (yes + no)).sum() / (yes + no).sum())
