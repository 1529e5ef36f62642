"""Figures that documents give twice are the same, and have one source."""

import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_README = (_ROOT / "README.md").read_text()


def _figures(text: str, unit: str = "") -> set[str]:
  """The numbers with a point in `text`, such as 60.2, before `unit`."""
  return set(re.findall(rf"\b(\d+\.\d+)\b{unit}", text))


def _results(name: str) -> str:
  """The lines of the README's table of results that name `name`."""
  table = _README.split("## Results")[1]
  lines = [li for li in table.splitlines() if li.startswith("|") and name in li]
  return "\n".join(lines)


@pytest.mark.parametrize("name", ["quickstart", "camvid"])
def test_readme_has_the_figures_of_a_configs_docstring(name):
  path = _ROOT / f"configs/{name}.py"
  docstring = path.read_text().split('"""')[1]
  quoted = _figures(_results(f"configs/{name}.py"), " %")
  assert quoted and quoted <= _figures(docstring, " %")


def test_camvid_figures_are_those_of_the_tables():
  tables = (_ROOT / "docs/results/tables.md").read_text()
  for run in ("camvid", "camvid_trainval"):
    (miou,) = re.findall(
      rf"^\| {run} \| 16 \| 1 \| 1 \| ([\d.]+)", tables, re.M
    )
    assert f"{float(miou):.1f} %" in _results("configs/camvid.py")


def test_readme_has_the_imported_models_figures_of_docs_inference():
  inference = (_ROOT / "docs/inference.md").read_text()
  quoted = _figures(_results("mobilenetv2_dm05") + _results("the same"))
  assert quoted and quoted <= _figures(inference)


def test_readme_has_the_times_of_docs_performance():
  (sentence,) = re.findall(r"On two CPU cores .*?:", _README, re.S)
  performance = (_ROOT / "docs/performance.md").read_text()
  assert len(_figures(sentence)) == 8
  assert _figures(sentence) <= _figures(performance)
