"""The server of docs/deploy.md serves a file as it is written there."""

import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

from deeplab_jax.export import as_onnx
from tests import exported
from tests.tiny_segmenter import random_image, tiny_model

exported.onnx_packages()
pytestmark = pytest.mark.usefixtures("tiny_backbone")
_PAGE = pathlib.Path(__file__).parent.parent / "docs/deploy.md"


@pytest.fixture(scope="module")
def served(tiny_backbone, tmp_path_factory):
  """The address of a server, and the file that it serves, opened here."""
  folder = tmp_path_factory.mktemp("served")
  text = _PAGE.read_text().split("## Over HTTP")[1]
  (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)[:1]
  assert len(code.splitlines()) <= 35
  (folder / "serve.py").write_text(code)
  job = exported.make_job(tiny_model())
  content = as_onnx.make(job)
  (folder / "model.onnx").write_bytes(content)
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  address = f"127.0.0.1:{port}"
  command = [sys.executable, "serve.py", "model.onnx", address]
  process = subprocess.Popen(command, cwd=folder)
  try:
    _wait(port, process)
    yield f"http://{address}/", as_onnx.open_file(content, job)
  finally:
    process.terminate()
    process.wait(30)


def _wait(port, process):
  for _ in range(300):
    assert process.poll() is None
    with socket.socket() as attempt:
      if attempt.connect_ex(("127.0.0.1", port)) == 0:
        return
    time.sleep(0.1)
  raise TimeoutError("the server does not listen")


def _post(address, body):
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  with opener.open(urllib.request.Request(address, body), timeout=60) as answer:
    return answer.read()


def test_a_picture_comes_back_as_labels(served):
  address, opened = served
  image = random_image(45, 70)
  png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
  found = cv2.imdecode(np.frombuffer(_post(address, png), np.uint8), -1)
  np.testing.assert_array_equal(found, opened.run(image[None])[0])


@pytest.mark.parametrize("body", [b"", b"no picture"])
def test_what_is_no_picture_is_refused(served, body):
  with pytest.raises(urllib.error.HTTPError, match="400"):
    _post(served[0], body)
