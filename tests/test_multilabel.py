"""Overlapping classes from a folder to every door, by thresholds."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import deeplab_jax
from deeplab_jax import config as config_lib
from deeplab_jax import doctor, export, metrics, plan, predict, tasks, train
from deeplab_jax.doctor import checkup_text, page
from deeplab_jax.models import preprocess, resize_bilinear
from deeplab_jax.predict.naming import class_folders
from tests import multilabel_scenes, processes
from tests.exported import onnx_packages, tflite_packages
from tests.multilabel_scenes import NAMES, make_config

pytestmark = pytest.mark.usefixtures("tiny_backbone")
_TRAIN = "tests/programs/train_multilabel.py"
_SCENES = multilabel_scenes.scenes(6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_backbone):
  """A folder, and a run on it."""
  folder = tmp_path_factory.mktemp("multilabel")
  root = multilabel_scenes.write(
    folder / "mine", "folder a class", _SCENES, val=3
  )
  score = train.train_and_evaluate(make_config(root), folder / "run")
  return root, folder / "run", score


def _rows(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def _definition(checkpoint, image):
  """Probabilities (h, w, classes) of a picture, the plain way."""
  model, variables, facts = deeplab_jax.checkpoints.load_variables(checkpoint)
  height, width = image.shape[:2]
  size = tuple(-(-(side - 1) // 32) * 32 + 1 for side in (height, width))
  padded = np.zeros((1, *size, 3), np.float32)
  padded[0, :height, :width] = preprocess(image, model.backbone)
  logits = resize_bilinear(jax.jit(model.apply)(variables, padded), size)
  probabilities = jax.nn.sigmoid(logits)[0, :height, :width]
  return np.asarray(probabilities), np.float32(facts["thresholds"])


def test_thresholds_are_chosen_kept_and_used_behind_every_door(
  trained, tmp_path, capsys
):
  root, workdir, score = trained
  facts = json.loads((workdir / "model.json").read_text())
  rows = [row for row in _rows(workdir) if "eval/miou" in row]
  assert [row["step"] for row in rows] == [6, 12]
  for row in rows:
    stored = facts["thresholds_by_step"][str(row["step"])]
    assert stored == [row[f"eval/threshold/{name}"] for name in NAMES]
  assert facts["thresholds"] == facts["thresholds_by_step"]["12"]
  assert (workdir / "pictures/step_12.png").is_file()

  segmenter = deeplab_jax.load(workdir)
  wanted, images, unclear = {}, {}, 0
  for name in list(_SCENES)[-3:]:
    images[name] = _SCENES[name][0]
    probabilities, thresholds = _definition(workdir, images[name])
    wanted[name] = (probabilities >= thresholds).astype(np.uint8)
    clear = np.abs(probabilities - thresholds) > 1e-4
    found = segmenter.outputs(
      images[name], "labels", "probabilities", "uncertainty"
    )
    assert found["labels"].dtype == np.uint8
    assert (found["labels"] == wanted[name])[clear].all() and clear.mean() > 0.9
    unclear += (~clear).sum()
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
    entropy = -sum(p * np.log2(p) for p in (probabilities, 1 - probabilities))
    np.testing.assert_allclose(found["uncertainty"], entropy.max(-1), atol=1e-4)
    wanted[name] = found["labels"]
    overlay = segmenter.overlay(images[name])
    nothing = ~found["labels"].any(-1)
    np.testing.assert_array_equal(overlay[nothing], images[name][nothing])

  # Evaluation, while training and of what is stored.
  outcomes = sum(
    metrics.outcome_counts(_SCENES[name][1], labels)
    for name, labels in wanted.items()
  )
  report = tasks.find_task(make_config(root)).report(
    workdir, make_config(root), tmp_path / "report"
  )
  assert np.abs(report.outcomes - outcomes).max() <= unclear
  assert report.miou == pytest.approx(score, abs=1e-6) == rows[-1]["eval/miou"]
  content = json.loads(
    (tmp_path / "report/evaluation/results.json").read_text()
  )
  assert content["thresholds"] == dict(zip(NAMES, facts["thresholds"]))
  text = (tmp_path / "report/evaluation/report.html").read_text()
  assert "Worst images" in text and "precision %" in text
  for name in NAMES:
    hits, missed, wrong = (
      report.outcomes[NAMES.index(name)][i] for i in ((1, 1), (1, 0), (0, 1))
    )
    assert content["recall"][name] == pytest.approx(hits / (hits + missed))
    assert content["iou"][name] == pytest.approx(hits / (hits + missed + wrong))

  # Files: a mask a class, which is a folder to train on again.
  for name, image in images.items():
    Image.fromarray(image).save(tmp_path / f"{name}.png")
  pictures = [str(tmp_path / f"{name}.png") for name in images]
  out = tmp_path / "out"
  assert predict.main([str(workdir), *pictures, "--out", str(out)]) == 0
  for name, labels in wanted.items():
    for index, class_name in enumerate(NAMES):
      mask = np.asarray(Image.open(out / f"labels/{class_name}/{name}.png"))
      np.testing.assert_array_equal(mask, 255 * labels[..., index])
    assert (out / f"overlays/{name}.png").is_file()
  capsys.readouterr()
  flags = ["--package", "voc2012_comp6", "--out", str(out)]
  assert predict.main([str(workdir), *pictures, *flags]) != 0
  assert "one class a pixel, but those of" in capsys.readouterr().err

  # The best checkpoint has thresholds of its own step.
  best = deeplab_jax.load(workdir / "best")
  (step,) = (p.name for p in (workdir / "best").iterdir() if p.name.isdecimal())
  assert best.thresholds == tuple(facts["thresholds_by_step"][step])
  given = (0.9, 0.5, 0.1)
  found = deeplab_jax.load(workdir, thresholds=given).outputs(
    images["s_3"], "labels", "probabilities"
  )
  expected = found["probabilities"] >= np.float32(given)
  np.testing.assert_array_equal(found["labels"], expected)


@pytest.mark.parametrize(
  "format",
  ["stablehlo", "onnx", pytest.param("tflite", marks=pytest.mark.slow)],
)
def test_a_file_gives_what_the_segmenter_gives(trained, format, tmp_path):
  _, workdir, _ = trained
  segmenter = deeplab_jax.load(workdir)
  image = _SCENES["s_4"][0]
  path = tmp_path / f"net.{format}"
  if format == "onnx":
    onnx_packages()
    import onnxruntime

    facts = export.onnx(workdir, path, size=(64, 80))
    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(None, {"image": image[None]})
  elif format == "tflite":
    tflite_packages()
    from ai_edge_litert.interpreter import Interpreter

    facts = export.tflite(workdir, path, size=(64, 80))
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (given,), (made,) = (
      interpreter.get_input_details(),
      interpreter.get_output_details(),
    )
    interpreter.set_tensor(given["index"], image[None])
    interpreter.invoke()
    found = interpreter.get_tensor(made["index"])
  else:
    facts = export.stablehlo(workdir, path, sizes=((64, 80),))
    found = np.asarray(export.load(path)(image[None]))
  assert facts["passed"] and facts["thresholds"] == list(segmenter.thresholds)
  assert found.dtype == np.uint8 and found.shape == (1, 64, 80, 3)
  assert (found[0] == segmenter(image)).mean() > 0.999
  with pytest.raises(ValueError, match="one class a pixel, but those of"):
    export.web(workdir, tmp_path / "page")


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(trained, tmp_path):
  root, workdir, score = trained
  shutil.copytree(workdir, tmp_path / "run")
  for folder in ("checkpoints", "best"):
    shutil.rmtree(tmp_path / "run" / folder / "12", ignore_errors=True)
  again = train.train_and_evaluate(make_config(root), tmp_path / "run")
  assert again == score

  def steady(path):
    return [
      {k: v for k, v in row.items() if "per_second" not in k}
      for row in _rows(path)
    ]

  assert steady(tmp_path / "run") == steady(workdir)
  names = [row for row in steady(workdir) if "train/loss" in row]
  assert len(names) == 12
  for row in names:
    total = row["train/binary_cross_entropy"] + row["train/dice"]
    assert row["train/binary_cross_entropy+dice"] == pytest.approx(
      total, rel=1e-5
    )
  facts = [
    json.loads((p / "model.json").read_text())
    for p in (tmp_path / "run", workdir)
  ]
  assert facts[0]["thresholds_by_step"] == facts[1]["thresholds_by_step"]


def test_two_processes_train_as_one(trained, tmp_path):
  """They draw, augment, sum and choose thresholds together."""
  root, *_ = trained
  wide = {"DEEPLAB_CACHE": str(tmp_path / "cache"), "JAX_ENABLE_X64": "1"}
  alone, together = tmp_path / "one", tmp_path / "two"
  every = [
    processes.start(_TRAIN, root, workdir, **wide, **own)
    for workdir, own in [
      (alone, {}),
      *((together, own) for own in processes.joined()),
    ]
  ]
  score, *scores = (
    float(processes.finish(process).splitlines()[-1]) for process in every
  )
  assert scores == pytest.approx([score, score], abs=1e-9)
  rows = zip(_rows(together), _rows(alone), strict=True)
  for found, expected in rows:
    for name in expected:
      if "per_second" not in name:
        assert found[name] == pytest.approx(expected[name], rel=1e-6), name
  facts = [
    json.loads((workdir / "model.json").read_text())
    for workdir in (together, alone)
  ]
  assert facts[0]["thresholds"] == pytest.approx(facts[1]["thresholds"])
  both = [workdir / "evaluation" for workdir in (together, alone)]
  found, wanted = (
    json.loads((folder / "results.json").read_text())["image_miou"]
    for folder in both
  )
  assert list(found) == list(wanted) and len(found) > 1
  assert found == pytest.approx(wanted, nan_ok=True)
  shown = [np.asarray(Image.open(folder / "examples.png")) for folder in both]
  np.testing.assert_array_equal(*shown)


def test_the_doctor_looks_at_every_plane(trained, tmp_path):
  root, _, _ = trained
  checkup = doctor.examine(make_config(root), overfit_steps=3)
  assert not checkup.errors
  (found,) = [f for f in checkup.findings if f.code == "overlapping-masks"]
  assert "masks/CLASS/NAME (18 files)" in found.message
  assert checkup.overfit.loss == "binary_cross_entropy+dice"
  assert "config.loss.positive_weights" in checkup_text.text(checkup)
  summary = checkup_text.to_dict(checkup)["data"]
  assert [entry["name"] for entry in summary["classes"]] == list(NAMES)
  planes = np.stack([_SCENES[f"s_{i}"][1] for i in range(3)])
  share = (planes == 1).sum((0, 1, 2)) / (planes != 255).sum((0, 1, 2))
  assert [e["train"] for e in summary["classes"]] == pytest.approx(list(share))
  assert len(page.render(checkup)) > 1000

  broken = {n: (x, y.copy()) for n, (x, y) in _SCENES.items()}
  for name in ("s_0", "s_1", "s_2"):
    broken[name][1][..., 1] = 0
  other = multilabel_scenes.write(tmp_path / "x", "array", broken, val=3)
  Image.fromarray(broken["s_4"][0][:50]).save(other / "images/s_4.png")
  checkup = doctor.examine(make_config(other))
  assert {"mask-size"} == {f.code for f in checkup.errors}
  (finding,) = [f for f in checkup.findings if f.code.endswith("-in-train")]
  assert "box (1)" in finding.message


def test_a_plan_knows_the_planes(trained):
  root, _, _ = trained
  made = plan.make_plan(make_config(root), plan.local_machine())
  pixels = 2 * 33 * 33
  assert made.program.memory.batch == pixels * (3 + len(NAMES))


_WRONG = {
  r"loss\.name must be of cross_entropy, binary_cross_entropy, focal, dice, "
  r"tversky with config\.task 'multilabel', whose head is of sigmoids, got "
  r"'lovasz_softmax'": {"loss.name": "dice+lovasz_softmax"},
  r"loss\.hard_pixel_fraction must be 1\.0": {"loss.hard_pixel_fraction": 0.5},
  r"loss\.name must be of .* whose head is of a softmax, got 'binary_cross_e": {
    "task": "segmentation",
    "loss.name": "binary_cross_entropy",
  },
  r"eval\.threshold must be from 0 to less than 1": {"eval.threshold": 1.5},
  r"and 0 but with task 'multilabel', got 0\.5": {
    "task": "segmentation",
    "loss.name": "cross_entropy",
    "loss.positive_weights": (),
    "eval.threshold": 0.5,
  },
  r"loss\.positive_weights must be \(\): the loss 'dice' takes": {
    "loss.name": "dice"
  },
  r"hard_pixel_fraction must be 1\.0 in a sum of losses with accumulate": {
    "task": "segmentation",
    "loss.name": "cross_entropy+dice",
    "loss.positive_weights": (),
    "loss.hard_pixel_fraction": 0.5,
    "accumulate_steps": 2,
  },
}


@pytest.mark.parametrize("said", _WRONG)
def test_what_does_not_fit_the_head_is_refused_in_one_line(said, tmp_path):
  with pytest.raises(ValueError, match=said) as error:
    config_lib.check(make_config(tmp_path, **_WRONG[said]))
  assert "\n" not in str(error.value)


def test_other_data_and_models_of_other_tasks_are_refused(trained, tmp_path):
  root, workdir, _ = trained
  config = make_config(root)
  config.loss.positive_weights = (1.0,)
  with pytest.raises(ValueError, match=r"positive_weights must be \(\) or 3"):
    config_lib.check_classes(config, 3)
  config = make_config(root, **{"data.name": "shapes"})
  with pytest.raises(
    ValueError, match=r"must be 'folder' with config\.task 'mu"
  ):
    tasks.find_task(config)
  with pytest.raises(ValueError, match="classes overlap: evaluate it with"):
    tasks.SEGMENTATION.report(workdir, make_config(root))
  content = json.loads((workdir / "model.json").read_text())
  for name in ("thresholds", "thresholds_by_step", "sha256"):
    content.pop(name)
  shutil.copytree(workdir, tmp_path / "run")
  (tmp_path / "run/model.json").write_text(json.dumps(content))
  with pytest.raises(ValueError, match="must hold a model of overlapping cla"):
    tasks.MULTILABEL.report(tmp_path / "run", make_config(root))
  with pytest.raises(ValueError, match="thresholds must be left out"):
    deeplab_jax.load(tmp_path / "run", thresholds=(0.5,) * 3)
  with pytest.raises(ValueError, match=r"must be 3 numbers above 0.*\(0.5,\)"):
    deeplab_jax.load(workdir, thresholds=(0.5,))


def test_folders_of_classes_have_names_that_file_systems_take():
  names = ["a/b", "a:b", "A_B", "", "..", "x" * 90]
  found = class_folders(names)
  assert found[:3] == ["a_b", "a_b_1", "A_B_2"] and len(found[5]) == 60
  assert len({name.casefold() for name in found}) == len(names)


def test_thresholds_are_the_best_by_iou_of_all_levels():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 2, (40, 50, 3)).astype(np.uint8)
  labels[..., 2] = 0
  probabilities = np.clip(
    0.3 * labels + rng.random(labels.shape) * 0.6, 0, 1
  ).astype(np.float32)
  probabilities[0, :2, 0] = 0.0, 1.0
  labels[:5] = 255
  levels = np.asarray(jax.jit(metrics.level_counts)(labels, probabilities))
  chosen = metrics.best_thresholds(levels)
  assert chosen[2] == 0.5
  for c in range(2):
    known = labels[..., c] != 255
    truth, p = labels[..., c][known] == 1, probabilities[..., c][known]
    ious = [
      (truth & (p >= k / 256)).sum() / (truth | (p >= k / 256)).sum()
      for k in range(1, 256)
    ]
    at = metrics.outcomes_at(levels, chosen)
    assert metrics.outcome_iou(at)[c] == pytest.approx(max(ious), abs=1e-12)
    yes = p >= chosen[c]
    counts = [[(truth == t)[yes == y].sum() for y in (0, 1)] for t in (0, 1)]
    np.testing.assert_array_equal(at[c], counts)
  device = jax.jit(lambda *x: metrics.outcome_counts(*x, jax.numpy))
  predictions = (probabilities >= np.float32(chosen)).astype(np.uint8)
  at = metrics.outcomes_at(levels, chosen)
  np.testing.assert_array_equal(device(labels, predictions), at)
  np.testing.assert_array_equal(metrics.outcome_counts(labels, predictions), at)


@pytest.mark.slow
def test_overlapping_scenes_are_learnt(tmp_path):
  scenes = multilabel_scenes.scenes(60, seed=5)
  root = multilabel_scenes.write(
    tmp_path / "mine", "channels of a PNG", scenes, val=12
  )
  config = make_config(root, steps=200, batch_size=8, eval_every=200)
  config.update(lr=3e-3, weight_decay=0.01, ema_decay=0.98)
  config.checkpoint_every = 200
  config.data.update(crop_size=(65, 65), rotation=0.0, min_scale=1.0)
  config.model.update(
    output_stride=16, decoder=("conv2",), decoder_convs=((3, 32),)
  )
  config.model.decoder_low_level_channels = 16
  assert train.train_and_evaluate(config, tmp_path / "run") > 0.8
