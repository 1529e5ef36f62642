"""What a run that is continued may find changed since it was begun."""

import json
import pathlib

import jax

from deeplab_jax.checkpoints import write_json
from deeplab_jax.data.changes import Changes, Record, changes

_DATA = "data.json"


def data_changes(workdir: pathlib.Path, data: Record) -> Changes:
  """What differs in the data from that which `workdir` was trained on so far.

  Args:
    workdir: of the run; where nothing is trained yet, nothing has changed.
    data: what `describe` says of the data set that is open.
  """
  steps = workdir / "checkpoints"
  if not steps.is_dir() or not any(p.name.isdigit() for p in steps.iterdir()):
    return Changes([], [])
  return changes(_stored(workdir), data)


def _stored(workdir: pathlib.Path) -> Record:
  """What is known of a run's data; older runs tell of the classes only."""
  if (workdir / _DATA).is_file():
    return json.loads((workdir / _DATA).read_text())
  if (workdir / "model.json").is_file():
    return json.loads((workdir / "model.json").read_text())["dataset"]
  return {}


def write_data(workdir: pathlib.Path, data: Record) -> None:
  """Stores what `describe` says, for whoever continues the run."""
  if jax.process_index() == 0:
    write_json(workdir / _DATA, data)


def settle(workdir: pathlib.Path, found: Changes, allowed: bool) -> str:
  """Lines that tell of changes; "" if there are none.

  Raises:
    ValueError: one changes the meaning of the run, and that is not `allowed`.
  """
  if found.breaking and not allowed:
    raise ValueError(
      f"{workdir} was begun with something else: {'; '.join(found.breaking)}; "
      "undo this, give another --workdir, or go on with --allow_changes"
    )
  lines = [f"\n  {line}" for line in found.breaking + found.other]
  return f"changed since this run was begun:{''.join(lines)}" if lines else ""
