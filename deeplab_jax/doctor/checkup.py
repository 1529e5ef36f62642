"""The whole examination: config, files, labels, splits, a little training."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from deeplab_jax import config as config_lib
from deeplab_jax.data import build, segmentation
from deeplab_jax.data.builders.faults import FAULTS, BadExample
from deeplab_jax.data.reading import reading_of
from deeplab_jax.data.source import Dataset, open_dataset
from deeplab_jax.doctor import (
  config_checks,
  file_checks,
  label_checks,
  overfit,
  overlapping,
  split_checks,
)
from deeplab_jax.doctor import survey as survey_lib
from deeplab_jax.doctor.findings import Finding, Mention, Severity, error
from deeplab_jax.doctor.overfit import Overfit
from deeplab_jax.doctor.overlapping import MultilabelSamples
from deeplab_jax.doctor.samples import FolderSamples, RecordSamples, Samples
from deeplab_jax.doctor.survey import Survey
from deeplab_jax.models import padding_value

# Every check of a data set, in the order of the report.
CHECKS: tuple[Callable[[Survey], Iterator[Finding]], ...] = (
  file_checks.faults,
  file_checks.remarks,
  file_checks.rules,
  split_checks.empty,
  split_checks.in_both,
  split_checks.alike,
  split_checks.repeated,
  label_checks.nothing_to_learn,
  label_checks.unused_ids,
  split_checks.missing_classes,
  label_checks.no_ignore_label,
  label_checks.mostly_ignored,
  label_checks.constant_masks,
  label_checks.equal_masks,
  label_checks.alignment,
  label_checks.imbalance,
  label_checks.vanishing,
  overlapping.classes,
)

# Every check of how a config without fault of its own suits its data set.
FIT_CHECKS: tuple[Callable[[Survey], Iterator[Finding]], ...] = (
  split_checks.normalisation,
  split_checks.crop_size,
  split_checks.atrous_rates,
  split_checks.batch_size,
  config_checks.class_weights,
)


_DO = "do what the message says"


@dataclasses.dataclass(frozen=True)
class Checkup:
  """All that was found.

  Attributes:
    findings: errors first.
    survey: of the data; None where it could not be opened.
    overfit: the training on one batch; None where it was not tried.
  """

  findings: tuple[Finding, ...]
  survey: Survey | None
  overfit: Overfit | None

  @property
  def errors(self) -> list[Finding]:
    """The findings that are errors."""
    return [f for f in self.findings if f.severity is Severity.ERROR]

  @property
  def warnings(self) -> list[Finding]:
    """The findings that are warnings."""
    return [f for f in self.findings if f.severity is Severity.WARNING]


def examine(
  config: ConfigDict,
  *,
  limit: int = 2000,
  overfit_steps: int = 40,
  overfit_seconds: float = 120.0,
) -> Checkup:
  """Examines what `config` would train on.

  Args:
    config: see `config.base_config`; it may be wrong.
    limit: images read of each split, evenly spread; 0 = all.
    overfit_steps: steps of training on one batch; 0 = none. None are made if
      there are errors.
    overfit_seconds: time for these steps.
  """
  findings = list(config_checks.before_data(config))
  survey, result = None, None
  try:
    if config_checks.has_masks(config):
      data = _Data(config.data, config.task == "multilabel")
      survey = _survey(config, data.samples, limit)
      config = survey.config
      checks = CHECKS if _has_errors(findings) else CHECKS + FIT_CHECKS
      findings += itertools.chain(*(check(survey) for check in checks))
    if survey and not _has_errors(findings):
      _read_batches(data.dataset, config)
      if overfit_steps:
        result = overfit.run(
          config, data.dataset, overfit_steps, overfit_seconds
        )
        findings += overfit.findings(result, config)
  except BadExample as fault:
    mention, kind = Mention(fault.file, fault.problem), FAULTS[fault.code]
    findings.append(error(fault.code, kind.message, kind.remedy, [mention]))
  except ValueError as mistake:
    findings.append(error("refused", str(mistake), _DO))
  except jax.errors.JaxRuntimeError as failure:
    findings.append(_failure(failure))
  findings.sort(key=lambda finding: finding.severity is not Severity.ERROR)
  return Checkup(tuple(findings), survey, result)


class _Data:
  """The data set: its examples, and the same as training opens it.

  A user's folder is walked here, unless it is published and named; it is
  opened, and so built, only when asked for, after its files have been found
  sound.
  """

  def __init__(self, data_config: ConfigDict, multilabel: bool = False):
    self._config, self._multilabel = data_config, multilabel
    has_files = data_config.name == "folder" and not build.is_published_name(
      data_config.data_dir, data_config.path
    )
    self._files = build.user_files(data_config.path) if has_files else None

  @functools.cached_property
  def dataset(self) -> Dataset:
    return open_dataset(
      self._config, files=self._files, multilabel=self._multilabel
    )

  @functools.cached_property
  def samples(self) -> Samples:
    if self._files is None:
      return RecordSamples(self.dataset)
    reading = reading_of(self._config, self._multilabel)
    value_range = tuple(self._config.get("value_range") or ())
    if self._multilabel:
      return MultilabelSamples(self._files, reading, value_range)
    return FolderSamples(self._files, reading, value_range)


def _survey(config: ConfigDict, samples: Samples, limit: int) -> Survey:
  """What was read, with the crop that these images ask for in its config."""
  survey = survey_lib.take(config, samples, _logits_stride(config), limit)
  sizes = [facts.image.size for facts in survey.of("train") if facts.image]
  largest = tuple(map(max, zip(*sizes))) if sizes else None
  config = config_lib.with_crop(config, largest)
  return dataclasses.replace(survey, config=config)


def _logits_stride(config: ConfigDict) -> int:
  try:
    return config_lib.make_model(config, num_classes=2).logits_stride
  except ValueError:  # a finding of the config already
    return 4


def _has_errors(findings: list[Finding]) -> bool:
  return any(finding.severity is Severity.ERROR for finding in findings)


def _read_batches(dataset: Dataset, config: ConfigDict) -> None:
  """Reads one batch of each kind.

  Raises:
    ValueError: training or evaluating would be refused.
  """
  sizes = segmentation.eval_sizes(dataset, config.data)
  first = segmentation.Views(sizes[0], (segmentation.whole(0, sizes[0]),))
  for batches in (
    segmentation.train_batches(
      dataset,
      config.data,
      batch_size=config.batch_size,
      seed=config.seed,
      padding_value=padding_value(
        config.model.backbone, dataset.info.channels, dataset.info.value_range
      ),
    ),
    segmentation.eval_batches(dataset, config.data, [first]),
  ):
    next(iter(batches))


def _failure(failure: Exception) -> Finding:
  """An error of the device, which is nearly always out of memory."""
  return error(
    "training-fails",
    f"a training step fails: {str(failure).splitlines()[0]}",
    "lower --config.batch_size or --config.data.crop_size; see "
    "python -m deeplab_jax.plan for what fits",
  )
