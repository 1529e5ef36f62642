"""Where wall time goes: every second to one part, whatever happened."""

import itertools
import json
import math

import pytest

from deeplab_jax import goodput
from deeplab_jax.config import arguments
from deeplab_jax.train import saving, timeline
from deeplab_jax.train.timeline import Event


def _events(run: str, began: float, *rows) -> list[Event]:
  """Events of one start from (name, step, seconds since the one before)."""
  events, at = [Event(run, "start", 0, began)], began
  for name, step, seconds in rows:
    at += seconds
    events.append(Event(run, name, step, at))
  return events


_FIRST = _events(
  "a",
  1000.0,
  ("imports", 0, 5.0),
  ("data", 0, 1.0),
  ("restored", 0, 2.0),
  ("waited", 0, 0.5),
  ("compiled", 1, 10.0),
  ("waited", 1, 1.0),
  ("steps", 10, 9.0),
  ("save", 10, 0.5),
  ("evaluation", 10, 4.0),
  ("waited", 10, 2.0),
  ("steps", 20, 10.0),
)


def test_parts_of_one_run_are_what_it_did():
  found = goodput.account(_FIRST)
  assert found.parts == {
    "useful steps": 19.0,
    "start-up": 6.0,
    "compile": 10.0,
    "restore": 2.0,
    "waiting for data": 3.5,
    "blocking saves": 0.5,
    "evaluation": 4.0,
    "steps done again": 0.0,
    "down time": 0.0,
  }
  assert found.wall == 45.0 == _FIRST[-1].at - _FIRST[0].at
  assert (found.starts, found.cut_off, found.step) == (1, 0, 20)


def test_what_a_later_start_does_again_is_not_useful():
  again = _events(
    "b",
    1100.0,
    ("imports", 0, 3.0),
    ("data", 0, 1.0),
    ("restored", 10, 1.0),
    ("compiled", 11, 2.0),
    ("steps", 30, 19.0),
    ("stop", 30, 1.0),
  )
  found = goodput.account([*_FIRST, *again])
  assert found.parts["steps done again"] == 10.0  # steps 11 to 20 of the first
  assert found.parts["useful steps"] == 9.0 + 19.0
  assert found.parts["down time"] == 1100.0 - 1045.0
  assert sum(found.parts.values()) == found.wall == 127.0
  assert (found.starts, found.cut_off, found.again) == (2, 1, 10)


def test_a_start_cut_off_before_its_state_loses_no_steps():
  short = _events("b", 1050.0, ("imports", 0, 3.0))
  found = goodput.account([*_FIRST, *short])
  assert found.parts["useful steps"] == 19.0
  assert found.parts["start-up"] == 9.0
  assert sum(found.parts.values()) == 53.0


def test_the_timeline_is_kept_back_until_there_is_something_to_train(tmp_path):
  line = timeline.Timeline(tmp_path)
  line.note("imports", 0)
  assert timeline.read(tmp_path) == []
  line.begin()
  line.waiting(1e9)  # never more than the time since the event before
  line.note("steps", 3)
  line.close()
  with (tmp_path / timeline.NAME).open("ab") as file:
    file.write(b'{"run": "cut o')
  second = timeline.Timeline(tmp_path)
  second.begin()
  second.close()
  events = timeline.read(tmp_path)
  names = [event.event for event in events]
  assert names == ["start", "imports", "waited", "steps", "start"]
  assert [event.step for event in events] == [0, 0, 0, 3, 0]
  times = [event.at for event in events[:4]]
  assert times == sorted(times)
  assert len({event.run for event in events}) == 2


def test_other_processes_write_nothing(tmp_path):
  line = timeline.Timeline(tmp_path, writes=False)
  line.begin()
  line.note("steps", 1)
  line.close()
  assert not list(tmp_path.iterdir())


def test_the_command_prints_parts_that_add_up(tmp_path, capsys):
  lines = [json.dumps(event._asdict()) for event in _FIRST]
  (tmp_path / timeline.NAME).write_text("\n".join(lines))
  assert goodput.main([str(tmp_path)]) == 0
  table = capsys.readouterr().out
  assert [line.split("  ")[0] for line in table.splitlines()[:9]] == list(
    goodput.PARTS
  )
  assert "useful steps              19.0 s   42.2%" in table
  assert "wall time                 45.0 s  100.0%" in table


@pytest.mark.parametrize("content", [None, "", "no json\n"])
def test_a_folder_without_events_is_refused_in_a_line(
  tmp_path, content, capsys
):
  if content is not None:
    (tmp_path / timeline.NAME).write_text(content)
  assert goodput.main([str(tmp_path)]) == 1
  error = capsys.readouterr().err
  assert error.startswith("error: WORKDIR must be that of a training, got ")
  assert error.count("\n") == 1


# ------------------------------------------------------------ how often to save


def _simulated_loss(between: float, cost: float, failures: float) -> float:
  """The share of time lost to saves of this distance and to failures.

  Exponential failures, restart at no cost: the time that `between` seconds of
  work take on average is M (exp((between + cost) / M) - 1).
  """
  taken = failures * math.expm1((between + cost) / failures)
  return 1 - between / taken


@pytest.mark.parametrize("cost", [0.05, 0.5, 2.0, 20.0])
@pytest.mark.parametrize("failures", [60.0, 600.0, 3600.0, 86400.0])
def test_the_interval_is_the_best_there_is(cost, failures):
  chosen = saving.interval(cost, failures)
  loss = _simulated_loss(chosen, cost, failures)
  others = (_simulated_loss(max(5, x), cost, failures) for x in range(1, 9999))
  assert loss < 1.01 * min(others)


def test_failures_and_costs_are_told_by_events():
  done = _events("b", 2000.0, ("steps", 5, 50.0), ("stop", 5, 50.0))
  cut = _events("c", 3000.0, ("steps", 5, 20.0), ("save", 5, 2.5))
  assert saving.failures_before([]) == (0, 0)
  assert saving.failures_before([*_FIRST, *done, *cut]) == (45 + 100 + 22.5, 2)
  assert saving.cost_before(done) == saving.cost_before([])
  assert saving.cost_before([*cut, *done, *_FIRST]) == (0.5 + 2.5) / 2


def _saved_steps(workdir, monkeypatch, cost, count=3000):
  """At which of `count` steps of a second each a start saves."""
  now = [0.0]
  monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
  times, saved = saving.SavingTimes(workdir, 0, log_every=10), []
  for step in range(1, count + 1):
    now[0] += 1.0
    if times.due(step):
      saved.append(step)
      times.saved(step, cost)
  return saved


def test_saves_are_soon_at_first_and_follow_their_cost(tmp_path, monkeypatch):
  saved = _saved_steps(tmp_path, monkeypatch, 4.0)
  assert saved[0] <= 20
  distances = [b - a for a, b in itertools.pairwise(saved)]
  # Half a failure in 3000 s, as far as is known.
  assert distances[-1] == pytest.approx(math.sqrt(2 * 4 * 6000), rel=0.1)
  held_up = 4.0 * len(saved) / 3000
  assert held_up < 1.2 * math.sqrt(4 / 3000)  # the sum of sqrt(c / 4t) dt


def test_a_start_knows_what_earlier_ones_met(tmp_path, monkeypatch):
  lines = [
    json.dumps(event._asdict())
    for i in range(8)
    for event in _events(
      f"{i}", 1000.0 * i, ("steps", 9, 398.0), ("save", 9, 2.0)
    )
  ]
  (tmp_path / timeline.NAME).write_text("\n".join(lines))
  saved = _saved_steps(tmp_path, monkeypatch, 2.0, 300)
  assert saved[0] == pytest.approx(math.sqrt(2 * 2 * 400), rel=0.15)


def test_auto_is_a_word_for_leaving_it_to_the_run():
  words = ["--config=quickstart", "--config.checkpoint_every=auto"]
  assert arguments.check_command_line(words)[1] == "--config.checkpoint_every=0"
