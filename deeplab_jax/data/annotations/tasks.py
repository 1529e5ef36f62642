"""The tasks of Label Studio's json, in whichever way they are written.

A document is a list of tasks, in full or minimal (JSON_MIN, with a row for each
annotation), one task, or one annotation with its task, as Label Studio writes
them to cloud storage: files that are called by the annotation's number.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

from deeplab_jax.data.annotations.drawing import Loss

_NO_AREA = ("keypointlabels", "vectorlabels")
_OUTLINES = ("points", "rle", "imageDataURL", "radiusX", "width")
_LOOKED_AT = 20  # tasks of a document that are read to recognise the format


def is_document(document: Any) -> bool:
  """Whether a document is of this format."""
  if isinstance(document, dict):
    return _is_annotation(document) or _is_full(document)
  return _is_tasks(document)


def _as_list(document: Any) -> Any:
  """A document of one task as that of a list of one."""
  return [document] if isinstance(document, dict) else document


def _is_annotation(document: Any) -> bool:
  """Whether a document is an annotation alone, with its task in it."""
  if not isinstance(document, dict) or not isinstance(
    document.get("task"), dict
  ):
    return False
  return "result" in document and isinstance(document["task"].get("data"), dict)


def _is_tasks(document: Any) -> bool:
  if not isinstance(document, list) or not document:
    return False
  tasks = [task for task in document if isinstance(task, dict)]
  is_full = any(map(_is_full, tasks[:_LOOKED_AT]))
  return is_full or any(map(_regions_of_minimal, tasks))


def _is_full(task: dict[str, Any]) -> bool:
  is_done = "annotations" in task or "completions" in task
  return is_done and isinstance(task.get("data"), dict)


def _regions_of_minimal(task: dict[str, Any]) -> list[dict[str, Any]]:
  """The regions of a task of JSON_MIN, whatever their field is called."""
  return [
    region
    for value in task.values()
    if isinstance(value, list)
    for region in value
    if isinstance(region, dict) and "original_width" in region
  ]


# Document, name for messages, task, and further rows of the same task.
Task = tuple[str, str, Any, list[dict[str, Any]]]


def tasks_of(found: list[tuple[str, Any]]) -> list[Task]:
  """The tasks of all documents, given with their paths."""
  alone = [(path, one) for path, one in found if _is_annotation(one)]
  tasks = [
    task
    for path, document in found
    if not _is_annotation(document)
    for task in _tasks(path, _as_list(document))
  ]
  return [*tasks, *_tasks_of_annotations(alone)]


def _tasks(path: str, document: list[Any]) -> Iterator[Task]:
  """The tasks of a document; of JSON_MIN, which has a row for each annotation,
  the first row of each with the others."""
  rows: dict[Any, Task] = {}
  for index, task in enumerate(document):
    is_minimal = isinstance(task, dict) and "data" not in task
    key = task.get("id", index + 1) if isinstance(task, dict) else index + 1
    if is_minimal and "id" in task and key in rows:
      rows[key][3].append(task)
      continue
    found = path, f"task {key}", task, []
    if is_minimal:
      rows[key] = found
    yield found


def _tasks_of_annotations(found: list[tuple[str, Any]]) -> Iterator[Task]:
  """The tasks of annotations that are files of their own, those of one folder
  and task together; the file of a task is that of the annotation which counts.
  """
  together = collections.defaultdict(list)
  for path, annotation in found:
    key = path.rpartition("/")[0], str(annotation["task"].get("id", path))
    together[key].append((path, annotation))
  for (_, key), of_task in together.items():
    # As lists have them: in the order in which they were made.
    of_task.sort(key=lambda pair: _number(pair[1].get("id")))
    of_task.sort(key=lambda pair: _rank(pair[1]))
    path, first = of_task[0]
    task = first["task"] | {"annotations": [one for _, one in of_task]}
    yield path, f"task {key}", task, []


def _number(key: Any) -> tuple[int, str]:
  """What orders the ids of annotations."""
  return (int(key) if str(key).isdecimal() else 0), str(key)


def _is_cancelled(annotation: dict[str, Any]) -> bool:
  return bool(annotation.get("was_cancelled") or annotation.get("skipped"))


def _rank(annotation: dict[str, Any]) -> tuple[bool, bool]:
  """What orders the annotations of a task: the first counts."""
  return _is_cancelled(annotation), not annotation.get("ground_truth")


def regions_of(
  task: Any,
) -> tuple[list[dict[str, Any]], list[Loss]]:
  """The regions of a task, and what of it has no area or is not taken."""
  if not isinstance(task.get("data"), dict):
    found, losses = _regions_of_minimal(task), []
  else:
    done = task.get("annotations", task.get("completions")) or []
    done = sorted((a for a in done if not _is_cancelled(a)), key=_rank)
    found = done[0]["result"] if done else []
    losses = [
      Loss("several-annotations", f"annotation {a.get('id')}") for a in done[1:]
    ]
  losses += [
    Loss("no-area", f"region {r.get('id', i)}")
    for i, r in enumerate(found, 1)
    if any(name in {**r, **value_of(r)} for name in _NO_AREA)
  ]
  named = [r for r in found if names_of(r)]
  known = {r.get("id") for r in named}
  losses += [
    Loss("no-class", f"region {r.get('id', i)}")
    for i, r in enumerate(found, 1)
    if r not in named and r.get("id") not in known and _is_unnamed(r)
  ]
  return named, losses


def _is_unnamed(region: dict[str, Any]) -> bool:
  """Whether a region has an outline and nothing that says what it is.

  Of what else is asked about a region (choices, text) there is a result with
  the same outline.
  """
  value = value_of(region)
  lists = [k for k, v in value.items() if isinstance(v, list) and v]
  is_asked = set(lists) - {"points", "rle"}
  return any(name in value for name in _OUTLINES) and not is_asked


def value_of(region: dict[str, Any]) -> dict[str, Any]:
  """What a region is, which JSON_MIN does not put into a field of its own."""
  return region.get("value", region)


def names_of(region: dict[str, Any]) -> list[str]:
  """The classes of a region that has an area, whatever it was drawn with."""
  return [
    str(name)
    for kind, names in value_of(region).items()
    if kind.endswith("labels") and kind not in _NO_AREA
    for name in names or []
  ]
