"""The benchmark command, small, and torch's networks against jax's."""

import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import file_programs, goodput, networks
from benchmarks.timing import Case, Contender, Program, Result, measure
from deeplab_jax.config import make_model
from deeplab_jax.train import timeline

_ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_command_writes_table_and_samples_without_torch(tmp_path):
  command = [sys.executable, "-m", "tests.programs.benchmark_tiny"]
  command += ["--out", str(tmp_path)]
  command += ["--parts", "inference,training", "--models", "tiny"]
  command += ["--size", "65", "--training_size", "33", "--rounds", "2"]
  command += ["--outputs", "labels", "--threads", "1"]
  # Stands in the way of torch where that is installed.
  (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
  environment = os.environ | {"PYTHONPATH": str(tmp_path)}
  subprocess.run(
    command, cwd=_ROOT, env=environment, check=True, capture_output=True
  )
  table = (tmp_path / "benchmark.md").read_text()
  assert "| tiny, labels, 65 px, batch 1, float32 | jax |" in table
  samples = (tmp_path / "benchmark.json").read_text()
  content = json.loads(samples)
  assert len(samples.splitlines()) == 3 + len(content["results"])
  assert {"date", "commit", "cpu", "load before"} <= set(content["facts"])
  assert [row["part"] for row in content["results"]] == [
    "inference",
    "training",
  ]
  for row in content["results"]:
    assert row["error"] is None
    assert len(row["seconds"]) == 2
    assert row["memory"] > 0
    assert row["p10"] <= row["median"]


@pytest.mark.parametrize("model", ["mobilenet_v2", "resnet_101", "xception_65"])
def test_torch_networks_give_the_logits_of_jax(model):
  torch_programs = pytest.importorskip(
    "benchmarks.torch_programs", exc_type=ImportError
  )
  case = Case("inference", model, "logits", 49)
  variables = _random_variables(case)
  images = networks.random_batch(case)["image"]
  ours = networks.start_inference(case, variables, images).output
  for contender in torch_programs.inference(case, "cpu", variables, images):
    if contender.name.startswith("torch eager"):
      theirs = contender.start().output
      np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_files_give_the_labels_of_jax(runtime):
  pytest.importorskip(runtime)
  case = Case("inference", "mobilenet_v2", "labels", 49)
  variables = networks.settled_variables(case.model)
  images = networks.random_batch(case)["image"]
  ours = networks.start_inference(case, variables, images).output
  (program,) = file_programs.inference(case, (runtime,), variables, images)
  found = program.start()
  assert len(np.unique(ours)) > 5
  assert np.mean(found.output != ours) <= 1e-3
  np.testing.assert_array_equal(found.call(), found.output)


@pytest.mark.slow
def test_torch_steps_have_the_losses_of_jax():
  torch_programs = pytest.importorskip(
    "benchmarks.torch_programs", exc_type=ImportError
  )
  case = Case("training", "mobilenet_v2", "training step", 33, 4)
  variables = networks.settled_variables("mobilenet_v2")
  batch = networks.random_batch(case)
  ours = networks.start_training(case, variables, batch).output
  decay = networks.make_config(case).weight_decay
  first, *_ = torch_programs.training(case, "cpu", variables, batch, decay)
  # The second loss, after an update, multiplies rounding errors.
  np.testing.assert_allclose(first.start().output, ours, rtol=3e-3)


def test_leaves_left_over_are_an_error():
  pytest.importorskip("torch")
  from benchmarks.torch_deeplab import DeepLab
  from benchmarks.torch_weights import load

  case = Case("inference", "mobilenet_v2", "logits", 33)
  variables = _random_variables(case)
  variables["params"]["decoder"]["more"] = {"kernel": np.zeros((1, 1, 1, 1))}
  with pytest.raises(ValueError, match=r"copied \d+ of \d+ leaves"):
    load(DeepLab("mobilenet_v2"), variables)


def test_measure_interleaves_and_reports_failures():
  order = []

  def contender(name, output):
    program = Program(
      lambda: order.append(name), lambda _: None, np.array(output)
    )
    return Contender(name, lambda: program)

  def fail():
    raise MemoryError("too large")

  contenders = [contender("a", 1), Contender("b", fail), contender("c", 2)]
  a, b, c = measure(contenders, rounds=2, check=lambda x, y: float(abs(x - y)))
  assert b.error == "MemoryError: too large"
  assert (a.difference, c.difference) == (None, 1.0)
  assert len(a.seconds) == len(c.seconds) == 2
  # Twice each to start, then in turn, another one first every round; each
  # counted pass follows one that is not.
  assert "".join(order) == "aacc" + "aacc" + "ccaa"


def test_measure_refuses_outputs_that_differ():
  def check(reference, output):
    raise ValueError("worlds apart")

  program = Program(lambda: None, lambda _: None, np.zeros(1))
  contenders = [Contender(name, lambda: program) for name in "ab"]
  with pytest.raises(ValueError, match="b: worlds apart"):
    measure(contenders, rounds=1, check=check)


def test_percentiles_are_of_the_samples():
  result = Result("a", seconds=[float(i) for i in range(11)])
  assert (result.percentile(50), result.percentile(10)) == (5, 1)


def _random_variables(case):
  model = make_model(networks.make_config(case), networks.NUM_CLASSES)
  return networks.random_variables(model)


def test_the_bound_of_goodput_is_that_of_daly():
  interval = goodput.best_interval(3600.0, 0.0, 1.0)
  assert interval == pytest.approx((2 * 3600) ** 0.5, rel=0.02)
  share = goodput.efficiency(interval, 3600.0, 0.0, 1.0)
  assert share == pytest.approx(1 - (2 / 3600) ** 0.5, abs=1e-3)
  with_restart = goodput.efficiency(interval, 3600.0, 36.0, 1.0)
  assert with_restart == pytest.approx(share * math.exp(-0.01))


def test_goodput_kills_until_its_time_is_over(tmp_path):
  sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
  log = tmp_path / "log"
  assert 1 <= goodput.kill_again_and_again(sleeping, log, 0.1, 1.0) <= 50
  with pytest.raises(RuntimeError, match="ended by itself"):
    goodput.kill_again_and_again([sys.executable, "-c", ""], log, 60.0, 60.0)


def test_a_row_of_goodput_tells_where_the_time_went():
  def events(run, at, *rest):
    return [timeline.Event(run, *e[:2], at + e[2]) for e in rest]

  first = events(
    "a", 0.0, ("start", 0, 0.0), ("imports", 0, 2.0), ("restored", 0, 3.0),
    ("compiled", 1, 4.0), ("steps", 50, 53.0), ("save", 50, 54.0),
    ("steps", 60, 64.0),
  )  # fmt: skip
  second = events(
    "b", 70.0, ("start", 0, 0.0), ("imports", 0, 2.0), ("restored", 50, 3.0),
    ("compiled", 51, 6.0), ("steps", 80, 35.0),
  )  # fmt: skip
  row = dict(zip(goodput._HEADINGS, goodput.row(60.0, 1, first + second)))
  assert row["wall, s"] == "105" and row["useful"] == f"{78 / 105:.1%}"
  assert row["steps done again"] == f"{10 / 105:.1%}"
  assert row["down time"] == f"{6 / 105:.1%}"
  assert (row["R, s"], row["C, s"]) == ("5.00", "1.00")
