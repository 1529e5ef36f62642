"""metrics.jsonl across interruptions."""

import json
import resource

import pytest
from tensorboardX.proto import event_pb2

from deeplab_jax.train import records


def _rows(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def _write(workdir, step, *values, **options):
  opened = records.Records(workdir, step, **options)
  for at, row in values:
    opened.write(at, row)
  opened.close()
  return opened


def test_continuing_drops_what_will_be_written_again(tmp_path):
  _write(
    tmp_path,
    0,
    (1, {"train/loss": 3.0}),
    (2, {"train/loss": 2.0}),
    (2, {"eval/miou": 0.5}),
    (3, {"train/loss": 9.0}),
  )
  opened = _write(tmp_path, 2, (3, {"train/loss": 1.0}))
  assert _rows(tmp_path) == [
    {"step": 1, "train/loss": 3.0},
    {"step": 2, "train/loss": 2.0},
    {"step": 2, "eval/miou": 0.5},
    {"step": 3, "train/loss": 1.0},
  ]
  assert opened.score(2) == 0.5
  assert opened.score(3) is None
  assert opened.last_evaluation() == {"step": 2, "miou": 0.5}


def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1, "train/loss": 3.0}\n{"step": 2, "tra')
  _write(tmp_path, 5, (6, {"train/loss": 1.0}))
  assert [row["step"] for row in _rows(tmp_path)] == [1, 6]


def test_a_class_without_pixels_is_null(tmp_path):
  _write(tmp_path, 0, (1, {"eval/miou": 0.5, "eval/iou/car": float("nan")}))
  assert _rows(tmp_path)[0]["eval/iou/car"] is None


def test_other_processes_leave_the_files_alone(tmp_path):
  _write(tmp_path, 0, (1, {"train/loss": 3.0}))
  _write(tmp_path, 0, (1, {"train/loss": 4.0}), writes=False)
  assert _rows(tmp_path) == [{"step": 1, "train/loss": 3.0}]


def test_last_evaluation_of_a_new_run_is_empty(tmp_path):
  assert _write(tmp_path, 0).last_evaluation() == {}


@pytest.mark.parametrize(
  "damage",
  [
    *(b"", b'{"step": 2, "tra', b"\0" * 30, b"\xff\xfe{", b"7", b"{}"),
    *(b'{"step": true}', b'{"step": 2, "eval/miou": "x"}'),
    b'{"step": 2, "train/loss": [1]}',
  ],
)
def test_a_damaged_line_loses_no_other(tmp_path, caplog, damage):
  lines = [b'{"step": %d, "train/loss": 3.0}' % step for step in (1, 2, 3)]
  lines[1] = damage
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b"\n".join(lines) + b"\n")
  assert [row["step"] for row in records.read(path)] == [1, 3]
  assert ("damaged lines [2]" in caplog.text) == bool(damage)
  _write(tmp_path, 3, (4, {"train/loss": 1.0}))
  assert [row["step"] for row in _rows(tmp_path)] == [1, 3, 4]


def test_nothing_is_written_before_the_first_row(tmp_path):
  _write(tmp_path, 0, (1, {"train/loss": 3.0}), (2, {"train/loss": 2.0}))

  def written():
    stats = {path: path.stat() for path in tmp_path.rglob("*")}
    return {path: (s.st_mtime_ns, s.st_size) for path, s in stats.items()}

  before = written()
  for step in (1, 2):
    _write(tmp_path, step)
  assert written() == before


def test_tensorboard_finds_the_figures_that_are_known(tmp_path, caplog):
  caplog.set_level("INFO")
  row = {"train/loss": 3.0, "eval/iou/car": float("nan"), "a+b c": 4.0}
  _write(tmp_path, 4, (5, row), (6, {"train/loss": 2.5}))
  (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
  content, events = path.read_bytes(), []
  while content:
    size = int.from_bytes(content[:8], "little")
    events.append(event_pb2.Event.FromString(content[12 : 12 + size]))
    content = content[16 + size :]
  version, start, *scalars = events
  assert version.file_version == "brain.Event:2"
  assert (start.step, start.session_log.status) == (5, 1)
  found = [
    (e.step, v.tag, v.simple_value) for e in scalars for v in e.summary.value
  ]
  assert found == [
    (5, "train/loss", 3.0),
    (5, "a_b_c", 4.0),
    (6, "train/loss", 2.5),
  ]
  assert not caplog.messages


def test_a_full_disk_is_told_and_not_waited_for(tmp_path):
  opened = records.Records(tmp_path, 0)
  opened.write(1, {"a": 1.0})
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
  try:
    with pytest.raises(OSError, match="File too large"):
      for step in range(2, 500):
        opened.write(step, {"a": 1.0})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    opened.close()
  assert len(_rows(tmp_path)) > 20
