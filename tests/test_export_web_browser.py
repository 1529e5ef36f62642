"""The page of format web in headless Chromium, without any other network.

Chromium, its driver and onnxruntime-web come from npm's registry, into a folder
that is removed.
"""

import json
import os
import pathlib
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from PIL import Image

from deeplab_jax import checkpoints
from deeplab_jax.export import certificate, speed, web_runtime
from deeplab_jax.export.job import read_job
from deeplab_jax.export.web_folder import export_web
from tests import exported
from tests.served import serve
from tests.tiny_segmenter import tiny_model

exported.onnx_packages()
pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures("tiny_backbone"),
  pytest.mark.skipif(
    not shutil.which("node") or not shutil.which("npm"),
    reason="SKIPPED FOR LACK OF NODE: no browser can be driven",
  ),
]
_TESTS = pathlib.Path(__file__).parent
_PACKAGES = ("puppeteer-core@25", "@sparticuz/chromium@153.0.0")
_HOSTILE = (
  "<script>alert(1)</script>",
  '"><img src=x>',
  "</li><b>",
  "a\u202eb",
)


def _run(*command, folder, **variables) -> str:
  """What a program prints; a test that it fails in says what it said."""
  found = subprocess.run(
    [str(part) for part in command],
    cwd=folder,
    env=os.environ | variables,
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert found.returncode == 0, found.stderr
  return found.stdout


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
  """A folder with Chromium, its driver and our program."""
  folder = tmp_path_factory.mktemp("tools")
  (folder / "package.json").write_text('{"private": true}')
  flags = ("--ignore-scripts", "--no-audit", "--no-fund")
  try:
    _run("npm", "view", _PACKAGES[0], "version", folder=folder)
  except (AssertionError, OSError) as error:
    pytest.skip(f"SKIPPED FOR LACK OF NPM OR ITS REGISTRY: {error}")
  _run("npm", "install", *flags, *_PACKAGES, folder=folder)
  shutil.copy(_TESTS / "programs/browse_page.mjs", folder)
  yield folder
  shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def package(tools, tmp_path_factory):
  """onnxruntime-web, as a user's first export downloads it."""
  with pytest.MonkeyPatch.context() as patch:
    folder = tmp_path_factory.mktemp("cache")
    patch.setenv("DEEPLAB_CACHE", str(folder))
    web_runtime.read()
  yield folder / web_runtime.URL.rsplit("/", 1)[-1]
  shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def hostile_model(tiny_backbone, tmp_path_factory):
  """300 classes, of which some are named like HTML."""
  path = tmp_path_factory.mktemp("hostile") / "model"
  network = tiny_model(num_classes=300)
  variables = exported.make_variables(network)
  variables = exported.with_large_logits(network, variables)
  names = [f"{_HOSTILE[i % 4]}{i}" for i in range(300)]
  checkpoints.save_model(
    path, network, variables, dataset={"class_names": names}
  )
  return path


def _browse(page, tools, out, *pictures):
  """What our program saw on a page, and the paths that were asked for."""
  with serve(page) as (address, requests):
    printed = _run(
      *("node", "browse_page.mjs", f"{address}/", out, *pictures),
      folder=tools,
      TMPDIR=str(tools),
    )
  found = json.loads(printed.splitlines()[-1].replace("\u00d7", "x"))
  assert found["errors"] == [] and found["refused"] == []
  there = {f"/{path.relative_to(page)}" for path in page.rglob("*")} | {"/"}
  assert set(requests) <= there
  return found


def _read(path):
  """A label map, the kind of its PNG, and its palette."""
  with Image.open(path) as picture:
    colors = np.reshape(picture.getpalette() or (), (-1, 3)).tolist()
    return np.asarray(picture), picture.mode, colors


def _assert_equals_segmenter(segmenter, image, saved):
  """No clear label of a saved map differs; gives how many others do."""
  found = _read(saved)[0]
  wanted = segmenter.outputs(image, "labels", "probabilities")
  assert found.shape == wanted["labels"].shape
  top = np.sort(wanted["probabilities"], axis=-1)
  clear = top[..., -1] - top[..., -2] > certificate.TOLERANCE
  differs = found != wanted["labels"]
  assert not (differs & clear).any() and clear.mean() > 0.9
  return int(differs.sum())


def _picture(folder, height, width):
  """A part of the drawn street, and a lossless file of it."""
  street = cv2.imread(str(_TESTS.parent / "notebooks/street.jpg"))
  picture = cv2.resize(street, (3 * width // 2, 3 * height // 2))
  picture = picture[:height, :width]
  path = folder / "given.png"
  cv2.imwrite(str(path), picture)
  return np.ascontiguousarray(picture[..., ::-1]), path


def _sample(page):
  image = cv2.imread(str(page / "sample.jpg"))
  return np.ascontiguousarray(image[..., ::-1])


def test_a_trained_network_in_a_browser(tools, package, tmp_path, monkeypatch):
  monkeypatch.setattr(speed, "_SIZE", (65, 65))
  model, page = _TESTS.parent / "zoo/camvid_mobilenet_v2", tmp_path / "page"
  export_web(model, page, runtime=package)
  image, path = _picture(tmp_path, 233, 317)
  found = _browse(page, tools, tmp_path, path)
  segmenter = read_job(model).segmenter
  count = _assert_equals_segmenter(
    segmenter, _sample(page), tmp_path / "sample_labels.png"
  )
  count += _assert_equals_segmenter(
    segmenter, image, tmp_path / "given_labels.png"
  )
  print(f"{count} labels differ")
  saved, kind, colors = _read(tmp_path / "sample_labels.png")
  assert kind == "P" and colors == np.asarray(segmenter.colors).tolist()
  answer = found["answers"]["sample.jpg"]
  assert answer["license"].startswith("CC BY-NC 4.0")
  assert answer["size"] == "480 x 360"
  assert answer["legend"].startswith("Road\n")
  share = (saved == 3).mean()
  assert answer["legend"].split("\n")[1] == f"{100 * share:.1f} %"
  given = _read(tmp_path / "given_labels.png")[0]
  most = (given == np.bincount(given.ravel()).argmax()).mean()
  assert found["alone"] == pytest.approx(most)
  assert found["answers"]["camera"]["size"] == "577 x 433"


def test_hostile_names_and_many_classes_in_a_browser(
  tools, package, hostile_model, tmp_path, monkeypatch
):
  monkeypatch.setattr(speed, "_SIZE", (65, 65))
  page = tmp_path / "page"
  export_web(hostile_model, page, runtime=package)
  _, path = _picture(tmp_path, 1100, 1000)
  found = _browse(page, tools, tmp_path, path)
  segmenter = read_job(hostile_model).segmenter
  saved = tmp_path / "sample_labels.png"
  assert _read(saved)[1] == "I;16"
  _assert_equals_segmenter(segmenter, _sample(page), saved)
  assert found["elements"] == 1  # the script of the page itself
  said = found["answers"]["sample.jpg"]
  assert "<script>alert(1)</script>" in said["legend"]
  assert "\u202e" not in said["legend"]
  seen = len(np.unique(_read(saved)[0]))
  assert said["absent"] == f"Not seen here: {300 - seen} of 300 classes"
  status = found["answers"]["given.png"]["status"]
  assert status == "given.png, 1000 x 1100 pixels, resized to 953 x 1048"


def test_a_page_of_one_size_stretches_pictures(
  tools, package, hostile_model, tmp_path
):
  page = tmp_path / "page"
  export_web(hostile_model, page, runtime=package, sizes=[(49, 65)])
  found = _browse(page, tools, tmp_path)
  assert found["answers"]["sample.jpg"]["size"] == "65 x 49"
  assert np.asarray(Image.open(tmp_path / "sample_labels.png")).shape == (
    49,
    65,
  )
