"""The paper's whole chain (section 4), each run starting from the last one.

ImageNet -> COCO with VOC's classes -> VOC train_aug at output stride 16 -> VOC
trainval at 8 with frozen batch norm -> evaluation at 16 and at 8, by the
commands that users type, at `:runlocal` size on samples of the data.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from deeplab_jax.checkpoints import items
from deeplab_jax.data import build

_ROOT = pathlib.Path(__file__).parent.parent
_SAMPLES = {
  "imagenet2012": "imagenet-sample",
  "coco_voc": "coco-sample",
  "voc2012": "voc2012-sample",
}
_MAIN = (sys.executable, "-m", "deeplab_jax.main")
_TWO_PROCESSES = ("env", "PROCESSES=2", "bash", str(_ROOT / "launch/local.sh"))
# In three steps the published statistics do not, and all images look alike.
_SETTLES = "--config.model.batch_norm_momentum=0.1"

pytestmark = pytest.mark.slow


class _Chain:
  """Runs commands on the samples below one folder."""

  def __init__(self, shared: pathlib.Path, folder: pathlib.Path):
    self.folder = folder
    for name, sample in _SAMPLES.items():
      build.build(
        name,
        data_dir=str(folder / "data"),
        manual_dir=str(shared / "data" / sample),
        partial=True,
      )

  def run(self, name: str, config: str, *flags, command=_MAIN) -> str:
    """Runs `configs/CONFIG` in the workdir NAME; returns what was printed."""
    done = subprocess.run(
      [
        *(*command, "--config", f"configs/{config}"),
        *("--workdir", str(self.folder / name)),
        f"--config.data.data_dir={self.folder / 'data'}",
        _SETTLES,
        *flags,
      ],
      cwd=_ROOT,
      env={
        **os.environ,
        "PYTHON": sys.executable,
        "JAX_PLATFORMS": "cpu",
        "DEEPLAB_CACHE": str(self.folder / "cache"),
      },
      capture_output=True,
      text=True,
      timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  def start_from(self, name: str) -> str:
    return f"--config.init_from={self.folder / name}"

  def variables(self, name: str) -> dict[str, np.ndarray]:
    """The weights after the last step of a run, by name."""
    step = self.folder / name / "checkpoints/3"
    return items.flatten(items.restore(step / "variables"))

  def rows(self, name: str) -> list[dict]:
    lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]

  def results(self, name: str) -> dict:
    path = self.folder / name / "evaluation/results.json"
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def chain(shared, tmp_path_factory) -> tuple[_Chain, dict[str, str]]:
  """All of it, run once, and what each command printed.

  Seeds differ: with the same one, a backbone drawn anew would be that of the
  run before at its start.
  """
  chain = _Chain(shared, tmp_path_factory.mktemp("chain"))
  run, finetune = chain.run, "voc.py:finetune,runlocal"
  final = f"--checkpoint={chain.folder / 'finetune'}"
  printed = {
    "imagenet": run("imagenet", "imagenet.py:runlocal", "--config.seed=1"),
    "top5": run("imagenet", "imagenet.py:runlocal", "--mode=eval"),
    "coco": run(
      *("coco", "coco.py:runlocal", "--config.seed=2"),
      chain.start_from("imagenet"),
    ),
    "voc": run(
      *("voc", "voc.py:runlocal", "--config.seed=3", chain.start_from("coco")),
      "--config.init_parts=all",
      command=_TWO_PROCESSES,
    ),
    "finetune": run(
      *("finetune", finetune, "--config.seed=4", chain.start_from("voc"))
    ),
    "at_16": run(
      *("at_16", finetune, "--mode=eval", final),
      "--config.eval.output_stride=16",
    ),
    "at_8": run("at_8", finetune, "--mode=eval", final),
  }
  return chain, printed


def _loaded(printed: str) -> dict[str, tuple[int, ...]]:
  """The report of what was loaded: (loaded, skipped, drawn anew) by scope."""
  lines = printed.splitlines()
  (head,) = [i for i, x in enumerate(lines) if x.startswith("variables of")]
  table = {}
  for line in lines[head + 1 :]:
    scope, *counts = line.split()
    table[scope] = tuple(int(count) for count in counts)
    if scope == "total":
      return table


def _scopes(variables: dict[str, np.ndarray]) -> dict[str, int]:
  """The number of variables by scope."""
  scopes = [name.split("/")[1] for name in variables]
  return {scope: scopes.count(scope) for scope in sorted(set(scopes))}


def _distances(before: dict, after: dict, scope: str) -> list[float]:
  """How far the kernels of a scope moved from run to run, of their norms."""
  names = [
    name
    for name in after
    if name.startswith(f"params/{scope}") and name.endswith("kernel")
  ]
  assert names
  return [
    np.linalg.norm(after[name] - before[name]) / np.linalg.norm(before[name])
    for name in names
  ]


def test_every_run_of_the_chain_has_its_result(chain):
  chain, printed = chain
  splits = {
    "imagenet": ("eval/top1", "imagenet2012: 199 images in val"),
    "coco": ("eval/miou", "coco_voc: 25 images in train, 18 images in val"),
    "voc": ("eval/miou", "voc2012: 46 images in train_aug, 50 images in val"),
    "finetune": ("eval/miou", "96 images in trainval, 50 images in val"),
  }
  for name, (score, data) in splits.items():
    rows = chain.rows(name)
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert len(losses) == 3 and np.isfinite(losses).all()
    (result,) = [row[score] for row in rows if score in row]
    assert data in printed[name]
    content = json.loads((chain.folder / name / "model.json").read_text())
    assert content["evaluation"][score.removeprefix("eval/")] == result
  assert "2 x cpu, 2 process(es)" in printed["voc"]
  figures = chain.results("imagenet")
  assert 0 <= figures["eval/top1"] <= figures["eval/top5"] <= 1
  assert "top-1" in printed["top5"] and "top-5" in printed["top5"]


def test_coco_starts_from_the_backbone_of_the_classifier_alone(chain):
  chain, printed = chain
  classifier, coco = chain.variables("imagenet"), chain.variables("coco")
  table, wanted = _loaded(printed["coco"]), _scopes(coco)
  unused = {x: n for x, n in _scopes(classifier).items() if x != "backbone"}
  for scope, (loaded, skipped, drawn) in table.items():
    if scope != "total":
      assert skipped == unused.get(scope, 0)
      there = wanted.get(scope, 0)
      expected = (there, 0) if scope == "backbone" else (0, there)
      assert (loaded, drawn) == expected, scope
  assert table["backbone"][0] == wanted["backbone"] > 200
  # Three steps move the weights by 1 %; other weights are about 1.4 away.
  assert max(_distances(classifier, coco, "backbone")) < 0.05


@pytest.mark.parametrize(
  ("source", "name"), [("coco", "voc"), ("voc", "finetune")]
)
def test_later_runs_start_from_all_weights(chain, source, name):
  chain, printed = chain
  before, after = chain.variables(source), chain.variables(name)
  table = _loaded(printed[name])
  expected = {scope: (n, 0, 0) for scope, n in _scopes(after).items()}
  assert table == {**expected, "total": (len(after), 0, 0)}
  for scope in ("backbone", "aspp", "decoder"):
    assert max(_distances(before, after, scope)) < 0.05
  # VOC starts from the logits of COCO, which three steps move further.
  assert max(_distances(before, after, "logits")) < 0.5


def test_frozen_batch_norm_kept_its_statistics(chain):
  chain, _ = chain
  voc, finetune = chain.variables("voc"), chain.variables("finetune")
  moved = [
    name for name in voc if not np.array_equal(voc[name], finetune[name])
  ]
  assert moved and all(name.startswith("params/") for name in moved)
  coco = chain.variables("coco")
  statistics = [name for name in coco if name.startswith("batch_stats/")]
  assert all((coco[name] != voc[name]).any() for name in statistics)


def test_the_result_is_evaluated_at_both_strides(chain):
  chain, printed = chain
  at_16, at_8 = chain.results("at_16"), chain.results("at_8")
  for stride, results in ((16, at_16), (8, at_8)):
    assert results["settings"]["output_stride"] == stride
    assert "report: " in printed[f"at_{stride}"]
    assert results["images"] == 2
  (row,) = [row for row in chain.rows("finetune") if "eval/miou" in row]
  assert at_8["miou"] == pytest.approx(row["eval/miou"], abs=1e-12)
  assert at_16["calibration_error"] != at_8["calibration_error"]
