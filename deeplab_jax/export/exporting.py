"""From a checkpoint to a file with its certificate."""

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from deeplab_jax import atomic, remote
from deeplab_jax.export import agreement, certificate, machine, speed
from deeplab_jax.export.formats import find_format
from deeplab_jax.export.job import Job, Size, read_job

_VERSIONS = ("jax", "jaxlib", "flax", "numpy")


class CertificateFailed(ValueError):
  """A file does not compute what the network computes; says where it is."""


def export(
  checkpoint: str | os.PathLike,
  out: str | os.PathLike,
  format: str,
  *,
  sizes: Sequence[Size] = (),
  overwrite: bool = False,
  tell: Callable[[str], None] = lambda line: None,
  **options: Any,
) -> dict[str, Any]:
  """Writes a stored network as a file that needs no code of ours.

  Args:
    checkpoint: as `deeplab_jax.load` takes it.
    out: the file. Its certificate is written beside it, as
      OUT.certificate.json.
    format: a key of `FORMATS`.
    sizes: heights and widths of the pictures; () for any.
    overwrite: whether files that are there may be replaced.
    tell: is given lines about what was found.
    **options: `output`, `scales`, `flip`, `output_stride`, `precision` and
      `calibrate`, see `read_job`.

  Returns:
    the certificate, as JSON holds it.

  Raises:
    CertificateFailed: the file computes something else; it is kept as
      OUT.failed, its certificate beside it.
    ImportError: the format needs a package that is not installed.
    ValueError: an argument is wrong, or the format cannot express the network.
  """
  found, out = find_format(format), remote.as_path(out)
  _check_out(out, overwrite)
  found.check(tuple(sizes))
  job = read_job(checkpoint, sizes=sizes, **options)
  if job.precision not in found.precisions:
    raise ValueError(
      f"a file of format {format} has numbers of "
      f"{' or '.join(found.precisions)}, got precision {job.precision}; "
      "--format tflite has others"
    )
  judge = certificate if job.precision == "float32" else agreement
  content = found.make(job)
  opened = found.open_file(content, job)
  facts = {
    **_description(job, format, content),
    "contents": opened.parts,
    "runtime": found.runtime,
    "versions": machine.versions(*_VERSIONS, *found.packages),
    "cpu": machine.cpu(),
    **judge.measure(job, opened),
  }
  tell(judge.line(facts))
  if not facts["passed"]:
    out = out.with_name(f"{out.name}.failed")
  else:
    facts["milliseconds"] = speed.compare(job, opened)
    tell(speed.line(facts["milliseconds"], found.runtime))
  _write(out, content, facts)
  if not facts["passed"]:
    raise CertificateFailed(
      f"the file computes something else than the network: kept as {out}, with "
      f"{certificate_of(out).name}"
    )
  return facts


def certificate_of(out: remote.AnyPath) -> remote.AnyPath:
  """Where the certificate of a file is."""
  return out.with_name(f"{out.name}.certificate.json")


def _check_out(out: remote.AnyPath, overwrite: bool) -> None:
  """Finds out before any work whether the files can be written."""
  if out.is_dir():
    raise ValueError(f"--out must be a file, got the folder {out}")
  for path in (out, certificate_of(out)):
    if path.exists() and not overwrite:
      raise ValueError(f"{path} is there; --overwrite replaces it")
  remote.require_writable(out.parent)
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(f"--out {out}: {error.strerror}") from error


def _write(out: remote.AnyPath, content: bytes, facts: dict[str, Any]) -> None:
  atomic.write_json(certificate_of(out), {"file": out.name, **facts})
  atomic.write_bytes(out, content)


def _description(job: Job, format: str, content: bytes) -> dict[str, Any]:
  """What was exported, and what a user must know of it."""
  pixels = job.protocol.max_pixels
  return {
    "format": format,
    "bytes": len(content),
    "sha256": hashlib.sha256(content).hexdigest(),
    **job.metadata(),
    "sizes": [list(size) for size in job.sizes] or "any",
    "reference": "a Segmenter of CHECKPOINT with these settings, in float32",
    "remark": (
      "the file sees every picture whole; Segmenter cuts those whose crop has "
      f"more than {pixels} pixels into windows, so that labels of these differ"
    ),
  }
