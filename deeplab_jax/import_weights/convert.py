"""From a file of published weights to an imported model directory."""

import dataclasses
import glob
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from deeplab_jax import checkpoints, remote
from deeplab_jax.data.classes import IGNORE, bit_colors
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.import_weights import hub
from deeplab_jax.import_weights.architecture import (
  infer_arguments,
  is_classifier,
)
from deeplab_jax.import_weights.download import download
from deeplab_jax.import_weights.fit import Report, fit, official_shapes
from deeplab_jax.import_weights.pytorch import is_torch, usual_arguments
from deeplab_jax.import_weights.releases import (
  LICENSE,
  RELEASES,
  Release,
  find_release,
)
from deeplab_jax.import_weights.sources import read_stored
from deeplab_jax.import_weights.torch_deeplabs import (
  TorchDeepLab,
  flatten,
  recognise,
  to_official,
)
from deeplab_jax.models import model_from_dict

# Of a head that is drawn anew for nobody knows which classes: PASCAL VOC's.
_DEFAULT_CLASSES = 21
_THRESHOLD = 0.5  # of a sigmoid, as torch's users have it


def convert(
  source: str,
  out: remote.AnyPath | str,
  *,
  archive: str | None = None,
  dataset: str | None = None,
  license: str = "",
  moving_averages: bool = False,
  thresholds: Sequence[float] | None = None,
  seed: int = 0,
  **given: Any,
) -> Report:
  """Writes the model directory `out`.

  The weights tell most of the network. With another number of classes than
  theirs, the logits layer is drawn anew; from an ImageNet classifier, the
  whole head.

  Args:
    source: a path as `read` takes it, or a key of `releases.RELEASES`. Of a
      folder of the Hub its config.json is read, too.
    out: created if missing.
    archive: the file of a release, which is then not downloaded.
    dataset: a key of `DATASETS`, for the classes' names and colours; a
      release's own by default.
    license: of the weights; a release's own by default.
    moving_averages: as for `from_tensorflow`.
    thresholds: the probability from which on a class is there, one for each or
      one for all: the network was trained with a sigmoid for each, and its
      classes may overlap. None takes 0.5 where there is one class, or where the
      config.json of a folder says sigmoid; else classes exclude each other.
    seed: of what is drawn.
    **given: arguments of `DeepLab`.

  Returns:
    What was loaded, skipped and drawn anew.

  Raises:
    ValueError: anything is wrong with the source, or with what was given.
  """
  out = remote.as_path(out)
  remote.require_writable(out)
  checkpoints.refuse_to_replace(out)
  release, path = _locate(source, archive)
  dataset = dataset or (release.dataset if release else None)
  config = hub.read_config(path)
  read = _read(path, config, given)
  hub.refuse_another(config, read.inferred["backbone"])
  _check("the arguments given", given, read.inferred)
  if release:
    _check(f"the release {source}", release.arguments, read.inferred)
  count = _num_classes(dataset, given, read.inferred)
  arguments = _release_arguments(release) | read.usual | read.inferred | given
  model = model_from_dict(arguments | {"num_classes": count})
  if thresholds is None and hub.says_sigmoid(config):
    thresholds = (_THRESHOLD,)
  facts = _facts(dataset, count, _thresholds(thresholds, count))
  if read.network:
    read.network.check_depth(official_shapes(model))
    if dataset is None and read.inferred["num_classes"] == count:
      names = hub.told_class_names(config, count)
      facts["dataset"]["class_names"] = names or facts["dataset"]["class_names"]
  backbone_only = is_classifier(read.arrays) or (
    release and not release.dataset
  )
  variables, report = fit(
    read.arrays,
    model,
    parts="backbone" if backbone_only else "all",
    reinitialize_logits=read.inferred.get("num_classes") not in (None, count),
    moving_averages=moving_averages,
    seed=seed,
  )
  said = [_of_sigmoids(facts)] if "thresholds" in facts else []
  report = dataclasses.replace(report, notes=(*read.notes, *said))
  checkpoints.save_model(
    out,
    model,
    variables,
    **facts,
    source=_source(release.url if release else str(path), path)
    + (", moving averages" if report.averaged else ""),
    license=license or (LICENSE if release else "unknown"),
    evaluation={} if report.reinitialized else _evaluation(release),
  )
  return report


class _Read(NamedTuple):
  """What a file holds, and what it says of its network.

  Attributes:
    arrays: by official name.
    inferred: arguments of `DeepLab` that names and shapes tell.
    usual: those that leave no trace there, as they mostly are.
    network: the DeepLab of torch that it is, if it is one.
    notes: lines on choices that the weights did not make.
  """

  arrays: Mapping[str, Any]
  inferred: dict[str, Any]
  usual: dict[str, Any]
  network: TorchDeepLab | None = None
  notes: tuple[str, ...] = ()


def _read(
  path: pathlib.Path, config: hub.Config, given: Mapping[str, Any]
) -> _Read:
  """Reads `path`, beside which `config` lies."""
  stored = read_stored(path)
  if not is_torch(stored):
    shapes = {name: np.shape(array) for name, array in stored.items()}
    return _Read(stored, infer_arguments(shapes), {})
  network, arrays = recognise(flatten(stored)), to_official(stored)
  if network:
    told = hub.told_arguments(config, network.head.output_stride)
    usual = network.usual(told | given) | told
    notes = network.notes(told | given)
    return _Read(arrays, network.arguments, usual, network, notes)
  shapes = {name: np.shape(array) for name, array in arrays.items()}
  inferred, usual = infer_arguments(shapes), usual_arguments(stored)
  shown = usual | inferred
  said = ", ".join(f"{n} {shown[n]!r}" for n in sorted(usual.keys() - given))
  note = f"as where the names of the weights are from: {said}"
  return _Read(arrays, inferred, usual, None, (note,) if said else ())


def _locate(
  source: str, archive: str | None
) -> tuple[Release | None, pathlib.Path]:
  """The release, if `source` names one, and the path to read."""
  path = pathlib.Path(source).expanduser()
  exists = glob.glob(f"{glob.escape(str(path))}*")
  if archive is None and exists and source not in RELEASES:
    return None, path
  release = find_release(source)
  if archive:
    return release, pathlib.Path(archive)
  return release, download(release.url, release.checksum)


def _release_arguments(release: Release | None) -> dict[str, Any]:
  """Of `DeepLab`, with the output stride of the first published result."""
  if release is None:
    return {}
  if not release.results:
    return release.arguments
  return release.arguments | {"output_stride": release.results[0].output_stride}


def _check(
  who: str, claimed: Mapping[str, Any], inferred: Mapping[str, Any]
) -> None:
  """Raises one error with all that the variables contradict."""
  conflicts = [
    f"{name}: {claimed[name]!r}, but the variables have {inferred[name]!r}"
    for name in sorted(set(claimed) & set(inferred) - {"num_classes"})
    if not _agree(name, claimed[name], inferred[name])
  ]
  if conflicts:
    raise ValueError(
      f"{who} and the weights contradict each other: {'; '.join(conflicts)}"
    )


def _agree(name, claimed, inferred) -> bool:
  """Of rates, the variables tell only the number."""
  if name == "atrous_rates":
    return len(claimed) == len(inferred)
  return claimed == inferred


def _num_classes(dataset, given, inferred) -> int:
  if dataset is None:
    return given.get(
      "num_classes", inferred.get("num_classes", _DEFAULT_CLASSES)
    )
  if dataset not in DATASETS:
    raise ValueError(
      f"dataset must be one of {', '.join(sorted(DATASETS))}; got {dataset!r}"
    )
  count = DATASETS[dataset].num_classes
  if given.get("num_classes", count) != count:
    raise ValueError(
      f"num_classes is {given['num_classes']}, but the data set {dataset} has"
      f" {count} classes: leave one of the two out"
    )
  return count


def _thresholds(
  given: Sequence[float] | None, num_classes: int
) -> list[float] | None:
  """Those of the classes; None where these exclude each other.

  Raises:
    ValueError: they are not numbers of 0..1, one for each class or one.
  """
  if given is None:
    return [_THRESHOLD] if num_classes == 1 else None
  are_fine = all(isinstance(t, int | float) and 0 < t <= 1 for t in given)
  if not are_fine or len(given) not in (1, num_classes):
    each = "" if num_classes == 1 else f" for all, or {num_classes}"
    raise ValueError(
      f"thresholds must be one number above 0, at most 1{each}; got "
      f"{tuple(given)}"
    )
  every = list(map(float, given))
  return every if len(every) == num_classes else every * num_classes


def _of_sigmoids(facts: Mapping[str, Any]) -> str:
  """A line on how labels are made."""
  pairs = zip(facts["dataset"]["class_names"], facts["thresholds"])
  shown = ", ".join(f"{name!r} from {least:g} on" for name, least in pairs)
  return (
    f"a sigmoid for each class, which is there by its probability, {shown} "
    "(--thresholds): labels are a mask of each"
  )


def _facts(
  dataset: str | None, num_classes: int, thresholds: list[float] | None
) -> dict[str, Any]:
  """What model.json says of the classes."""
  facts = {"dataset": _dataset(dataset, num_classes, bool(thresholds))}
  return facts | ({"thresholds": thresholds} if thresholds else {})


def _dataset(
  name: str | None, num_classes: int, overlap: bool
) -> dict[str, Any]:
  """The classes as model.json holds them; none black where they `overlap`."""
  if name is None:
    names = [f"class {i}" for i in range(num_classes)]
    return {
      "name": "unknown",
      "class_names": ["foreground"] if num_classes == 1 else names,
      "colors": bit_colors(num_classes + overlap)[overlap:],
      "ignore_label": IGNORE,
    }
  info = dataclasses.asdict(DATASETS[name])
  fields = ("name", "class_names", "colors", "ignore_label")
  return {field: info[field] for field in fields}


def _source(origin: str, path: pathlib.Path) -> str:
  if not path.is_file():
    return origin
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return f"{origin} (sha256 {digest})"


def _evaluation(release: Release | None) -> dict[str, Any]:
  """Published figures, and what they were measured with."""
  if release is None:
    return {}
  return {
    "crop_size": release.crop_size,
    "resize": release.resize,
    "results": [dataclasses.asdict(result) for result in release.results],
    "pretraining": release.pretraining,
  }
