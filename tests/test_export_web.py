"""The folder of format web: what lies in it, and mistakes in one line each.

What it does in a browser is in test_export_web_browser.py.
"""

import hashlib
import io
import json
import pathlib
import re
import tarfile

import cv2
import numpy as np
import pytest

from deeplab_jax import checkpoints
from deeplab_jax.export import speed, web_runtime
from deeplab_jax.export.__main__ import main
from tests import exported
from tests.tiny_segmenter import COLORS, tiny_model

exported.onnx_packages()
pytestmark = pytest.mark.usefixtures("tiny_backbone")
_NAMES = ("<script>alert(1)</script>", '"><img src=x>', "sky")
_ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model(tiny_backbone, tmp_path_factory):
  path = tmp_path_factory.mktemp("web") / "model"
  network = tiny_model(decoder=("conv2",))
  variables = exported.make_variables(network)
  variables = exported.with_large_logits(network, variables)
  dataset = {"class_names": _NAMES, "colors": COLORS}
  facts = {"license": "CC BY-NC 4.0", "source": "a test", "dataset": dataset}
  checkpoints.save_model(path, network, variables, **facts)
  return path


@pytest.fixture(scope="module")
def package(tmp_path_factory):
  """Something like the npm package onnxruntime-web, unpacked."""
  folder = tmp_path_factory.mktemp("npm") / "package"
  (folder / "dist").mkdir(parents=True)
  (folder / "package.json").write_text('{"version": "1.2.3"}')
  for name in web_runtime.FILES:
    (folder / "dist" / name).write_text(f"content of {name}")
  return folder


def _run(model, out, *flags) -> int:
  arguments = (model, "--format", "web", "--out", out, *flags)
  return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def page(model, package, tmp_path_factory):
  out = tmp_path_factory.mktemp("page") / "new"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(speed, "_SIZE", (33, 33))
    assert _run(model, out, "--runtime", package) == 0
  return out


def test_the_files_of_a_page(page):
  names = {
    str(path.relative_to(page)) for path in page.rglob("*") if path.is_file()
  }
  assert names == {
    *("index.html", "model.json", "model.onnx", "model.onnx.certificate.json"),
    *("network.js", "page.css", "page.js", "png.js", "sample.jpg", "view.js"),
    *("worker.js", "runtime/LICENSE.txt", "runtime/ort.wasm.min.js"),
    "runtime/ort-wasm-simd-threaded.js",
    "runtime/ort-wasm-simd-threaded.wasm",
  }
  wasm = page / "runtime/ort-wasm-simd-threaded.wasm"
  assert wasm.read_text() == "content of ort-wasm-simd-threaded.wasm"
  drawn = _ROOT / "notebooks/street.jpg"
  assert (page / "sample.jpg").read_bytes() == drawn.read_bytes()


def test_a_page_loads_what_lies_beside_it_and_nothing_else(page):
  ours = [p for p in page.iterdir() if p.suffix in (".html", ".css", ".js")]
  for path in ours:
    text = path.read_text()
    assert not re.search(r"https?://|//cdn|innerHTML|eval\(", text), path
    names = re.findall(
      r"""(?:from|src=|href=|fetch\(|beside\() ?"([^"]+)""", text
    )
    for name in names:
      assert name == "data:," or (page / name).is_file(), name
  assert "default-src 'none'" in (page / "index.html").read_text()


def test_every_element_that_scripts_ask_for_is_there(page):
  there = set(re.findall(r'\bid="(\w+)"', (page / "index.html").read_text()))
  asked = set()
  for path in page.glob("*.js"):
    asked |= set(re.findall(r'element\("(\w+)"\)', path.read_text()))
  assert asked and asked <= there


def test_what_a_page_says_of_its_network(page):
  facts = json.loads((page / "model.json").read_text())
  content = (page / "model.onnx").read_bytes()
  assert facts["sha256"] == hashlib.sha256(content).hexdigest()
  assert facts["bytes"] == len(content)
  assert facts["class_names"] == list(_NAMES)
  assert facts["colors"] == [list(color) for color in COLORS]
  assert facts["license"] == "CC BY-NC 4.0" and facts["source"] == "a test"
  assert facts["sizes"] == "any" and facts["runtime"].endswith(" 1.2.3")
  certificate = json.loads((page / "model.onnx.certificate.json").read_text())
  assert certificate["passed"] and certificate["sha256"] == facts["sha256"]
  assert "labels differ from Segmenter's" in facts["certificate"]


def _assert_one_line(capsys, message):
  printed = capsys.readouterr()
  (line,) = printed.err.splitlines()
  assert line.startswith(f"error: {message}")


def test_a_package_as_it_is_downloaded(package, tmp_path):
  path = tmp_path / "runtime.tgz"
  with tarfile.open(path, "w:gz") as archive:
    archive.add(package, "package")
  version, files = web_runtime.read(path)
  assert (version, files) == web_runtime.read(package)
  assert set(files) == set(web_runtime.FILES.values())


def test_a_damaged_package_is_refused(package, model, tmp_path, capsys):
  path = tmp_path / "runtime.tgz"
  with tarfile.open(path, "w:gz") as archive:
    archive.addfile(tarfile.TarInfo("package/package.json"), io.BytesIO())
  for wrong in (path, tmp_path, tmp_path / "missing", package / "package.json"):
    assert _run(model, tmp_path / "out", "--runtime", wrong) == 1
    _assert_one_line(capsys, f"{wrong} is no npm package onnxruntime-web with")
  assert not (tmp_path / "out").exists()


def test_without_network_the_remedy_is_named(
  model, tmp_path, capsys, monkeypatch
):
  monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(web_runtime, "URL", "http://127.0.0.1:1/runtime.tgz")
  assert _run(model, tmp_path / "out") == 1
  message = "cannot download http://127.0.0.1:1/runtime.tgz: "
  printed = capsys.readouterr().err.splitlines()[-1]
  assert printed.startswith(f"error: {message}")
  assert "give --runtime FILE_OR_FOLDER" in printed


_MISTAKES = {
  "output": (
    ["--output", "logits"],
    "the page of format web shows labels, got output logits; --format onnx",
  ),
  "sample": (["--sample", "missing.png"], "--sample missing.png: No such file"),
  "no sample": (["--sample", __file__], f"--sample {__file__} is no picture"),
  "stride": (["--output_stride", "12"], "output_stride must be 8, 16 or 32"),
}


@pytest.mark.parametrize("name", _MISTAKES)
def test_mistakes_are_told_in_one_line(model, package, tmp_path, capsys, name):
  flags, message = _MISTAKES[name]
  out = tmp_path / "out"
  assert _run(model, out, "--runtime", package, *flags) == 1
  _assert_one_line(capsys, message)
  assert not (out / "index.html").exists()


def test_what_is_there_is_kept(model, package, page, tmp_path, capsys):
  out = tmp_path / "out"
  out.mkdir()
  (out / "mine").write_text("mine")
  assert _run(model, out, "--runtime", package) == 1
  _assert_one_line(
    capsys, f"{out} is not empty; --overwrite replaces the files"
  )
  assert _run(model, out / "mine", "--runtime", package) == 1
  _assert_one_line(capsys, f"--out must be a folder, got the file {out}/mine")
  assert [path.name for path in out.iterdir()] == ["mine"]
  flags = ("--runtime", package, "--format", "onnx")
  assert _run(model, out / "a", *flags) == 1
  _assert_one_line(capsys, "--runtime is of format web alone")


def test_a_sample_of_ones_own_and_a_fixed_size(
  model, package, tmp_path, monkeypatch
):
  from deeplab_jax import export

  monkeypatch.setattr(speed, "_SIZE", (33, 33))
  picture = tmp_path / "mine.png"
  cv2.imwrite(str(picture), np.zeros((5, 7, 3), np.uint8))
  out = tmp_path / "out"
  out.mkdir()
  (out / "mine").write_text("mine")
  options = {"size": (33, 49), "runtime": package, "overwrite": True}
  facts = export.web(model, out, sample=picture, **options)
  assert facts["passed"] and facts["contents"].endswith("onnxruntime-web 1.2.3")
  told = json.loads((out / "model.json").read_text())
  assert told["sizes"] == [[33, 49]] and told["sample_note"] == ""
  assert (out / "sample.jpg").read_bytes() == picture.read_bytes()
  assert (out / "mine").read_text() == "mine"
