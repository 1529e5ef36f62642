"""Pictures shared by eight forced CPU devices: networks, labels, evaluation."""

import json
import pathlib
from typing import Any

import cv2
import jax
import numpy as np
import pytest

from deeplab_jax import config as config_lib
from deeplab_jax import evaluate, sharding, train
from tests import processes, tiny_runs
from tests.tiny_segmenter import random_image, segmenter, tiny_model

_PROGRAMS = pathlib.Path(__file__).parent / "programs"
_PROGRAM = _PROGRAMS / "share_pictures.py"
_DOORS = _PROGRAMS / "share_doors.py"


def _run(*words: str, **environment: str) -> dict[str, Any]:
  """What `programs/share_pictures.py` prints."""
  process = processes.start(_PROGRAM, *words, devices=8, **environment)
  return json.loads(processes.finish(process, timeout=3000).splitlines()[-1])


def test_inference_is_that_of_one_device(tmp_path):
  """A picture of 203 rows at two scales, and evaluation of several sizes."""
  rng = np.random.default_rng(0)
  for i in range(3):
    image = random_image(49 + 16 * i, 65, seed=i)
    mask = rng.integers(0, 3, image.shape[:2]).astype(np.uint8)
    for folder, array in (("images", image), ("masks", mask)):
      path = tmp_path / "data" / folder / f"{i}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      assert cv2.imwrite(str(path), array)
  found = _run("infer", str(tmp_path / "data"), "1", "8")
  alone = {name: np.array(value) for name, value in found.pop("1").items()}
  assert alone["labels"].shape == (203, 131)
  assert alone["confusion"].sum() >= 49 * 65  # what is held out
  for shared in found.values():
    assert (shared["labels"] != alone["labels"]).mean() < 1e-3  # found: 0
    np.testing.assert_allclose(
      shared["uncertainty"], alone["uncertainty"], atol=1e-4
    )
    assert np.abs(shared["confusion"] - alone["confusion"]).sum() <= 4


@pytest.mark.slow
@pytest.mark.parametrize(
  ("backbone", "side", "heights"),
  [
    ("mobilenet_v2", "65", ("8", "4", "2")),
    ("resnet_101", "33", ("8", "4", "2")),
    ("xception_65", "33", ("8", "4", "2")),
    ("convnext_atto", "65", ("8", "2")),
    ("vit_small_patch16_dinov3", "65", ("8", "2")),
  ],
)
def test_backbones_train_as_on_one_device(backbone, side, heights):
  """With batch norm; in float64, so that no rounding can grow.

  At stride 16 there are rows for 5 of 8 devices, or for 3.
  """
  every = _run("train", backbone, side, *heights, JAX_ENABLE_X64="1")
  for height, found in every.items():
    for name in ("metrics", "params", "batch_stats", "opt_state"):
      assert found[name] < 1e-6, (height, name)
    assert found["collective-permute"] > 0
    if backbone.startswith("vit_"):
      continue  # every token looks at all
    # Logits and coarser maps, no finer ones.
    gathered = found["gathered"]
    finest = max(rows for _, rows, _, channels in gathered if channels == 3)
    assert all(rows <= finest for _, rows, _, _ in gathered), gathered


@pytest.mark.slow
def test_doors_are_those_of_pictures_that_no_devices_share(
  shapes_dir, tmp_path
):
  """And a run goes on with other devices to share a picture."""
  every = []
  for heights in (("8", "2", "4"), ("1",)):
    words = tmp_path / heights[0], shapes_dir, *heights
    process = processes.start(_DOORS, *words, devices=8)
    every.append(json.loads(processes.finish(process, 3000).splitlines()[-1]))
  found, expected = every
  assert len(found["train"]) == 5
  np.testing.assert_allclose(found["train"], expected["train"], rtol=1e-3)
  assert found["eval"] == pytest.approx(expected["eval"], abs=1e-3)
  shared, alone = (np.array(x["predict"]) for x in every)
  assert shared.shape == (70, 41, 7)
  np.testing.assert_allclose(shared, alone, atol=1e-3)
  assert found["doctor"] == expected["doctor"] == []


def test_doors_refuse_devices_that_are_not_there(tmp_path):
  config = config_lib.load(str(tiny_runs.CONFIG))
  config.mesh_height = 2
  line = r"mesh_height must be one of \[1\], which divide the 1 devices, got 2"
  with pytest.raises(ValueError, match=f"^config.{line}"):
    train.train_and_evaluate(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()
  with pytest.raises(ValueError, match=f"^{line}"):
    evaluate.evaluate(tiny_model(), None, config)


def test_heights_that_do_not_fit_are_refused():
  config = config_lib.base_config()
  for height, line in (
    (0, r"config.mesh_height must be 1 or more, got 0"),
    (
      3,
      r"config.mesh_height must be one of \[1, 2, 4, 8\], which divide the 8",
    ),
    (16, r"config.mesh_height must be one of .*, got 16"),
  ):
    config.mesh_height = height
    with pytest.raises(ValueError, match=line):
      config_lib.check(config, 8)
  config.update(mesh_height=2, batch_size=6)
  line = r"divisible by the 8 devices / 2 mesh_height = 4, got 6; try 8"
  with pytest.raises(ValueError, match=line):
    config_lib.check(config, 8)
  config.update(mesh_height=8, batch_size=1)
  config_lib.check(config, 8)
  config_lib.check(config)  # where devices are not known yet
  one = jax.devices()[:1]
  with pytest.raises(ValueError, match=r"mesh_height must be one of \[1\]"):
    sharding.make_mesh(2, one)


def test_segmenters_refuse_more_devices_than_there_are(tiny_backbone):
  for height in (0, 2):
    line = f"mesh_height must be from 1 to 1, the devices here, got {height}"
    with pytest.raises(ValueError, match=line):
      segmenter(mesh_height=height)
