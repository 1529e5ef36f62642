"""Evaluation of a small folder against counts made one image at a time."""

import base64
import dataclasses
import html.parser
import io
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
from PIL import Image

from deeplab_jax import (
  checkpoints,
  evaluate,
  import_weights,
  inference,
  metrics,
  peers,
  sharding,
)
from deeplab_jax import config as config_lib
from deeplab_jax.data import build
from deeplab_jax.data import source as source_lib
from deeplab_jax.evaluate import classification
from deeplab_jax.models import DeepLab, preprocess, resize_bilinear
from tests import processes
from tests.programs.evaluate_tiny import (
  SIZE,
  evaluate_folder,
  fingerprint,
  make_config,
)
from tests.random_variables import random_variables
from tests.tiny_segmenter import tiny_model

pytestmark = pytest.mark.usefixtures("tiny_backbone")
_PROGRAM = pathlib.Path(__file__).parent / "programs/evaluate_tiny.py"
NUM_IMAGES = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """Images of several sizes with masks of classes 0, 1 and void."""
  root = tmp_path_factory.mktemp("data") / "mine"
  random = np.random.default_rng(0)
  for kind in ("images", "masks"):
    (root / kind).mkdir(parents=True)
  for index in range(NUM_IMAGES):
    size = random.integers(30, 66, 2)
    image = random.integers(0, 256, (*size, 3), np.uint8)
    mask = (random.random(size) < 0.3).astype(np.uint8)
    mask[:, 10:13] = 255
    Image.fromarray(image).save(root / f"images/{index:02}.png")
    Image.fromarray(mask).save(root / f"masks/{index:02}.png")
  (root / "classes.yaml").write_text(
    "classes: [ground, tree, sky]\nignore_label: 255\n"
  )
  names = "".join(f"{index:02}\n" for index in range(NUM_IMAGES))
  for split in ("train", "val"):
    (root / f"{split}.txt").write_text(names)
  return root


@pytest.fixture(scope="module")
def variables():
  return random_variables(tiny_model(), np.zeros((1, *SIZE, 3), np.float32))


@pytest.fixture(scope="module")
def evaluation(folder) -> evaluate.Evaluation:
  return evaluate_folder(str(folder))


@pytest.fixture(scope="module")
def predictions(folder, variables) -> dict[str, np.ndarray]:
  """Label maps by the definition, one image at a time."""
  model = tiny_model()

  @jax.jit
  def label(inputs):
    logits = model.apply(variables, inputs)
    return resize_bilinear(logits, SIZE).argmax(-1)[0]

  found = {}
  for path in sorted((folder / "images").iterdir()):
    image = np.asarray(Image.open(path))
    height, width = image.shape[:2]
    inputs = np.zeros((1, *SIZE, 3), np.float32)
    normal = preprocess(image[None], model.backbone)[0]
    inputs[0, :height, :width] = normal
    found[path.stem] = np.asarray(label(inputs))[:height, :width]
  return found


@pytest.fixture(scope="module")
def expected_confusion(folder, predictions) -> np.ndarray:
  counts = np.zeros((3, 3), int)
  for name, predicted in predictions.items():
    mask = np.asarray(Image.open(folder / f"masks/{name}.png"))
    for truth in range(3):
      for guess in range(3):
        pixels = (mask == truth) & (predicted == guess)
        counts[truth, guess] += pixels.sum()
  return counts


def test_every_image_counts_once(evaluation, expected_confusion):
  assert evaluation.num_images == NUM_IMAGES
  assert evaluation.settings["least_crop"] == list(SIZE)
  assert evaluation.confusion.sum() == expected_confusion.sum()
  # Rounding may turn single pixels where two logits are equal.
  difference = np.abs(evaluation.confusion - expected_confusion).sum()
  assert difference <= 4
  assert (expected_confusion.sum(0) > 100).sum() > 1


def test_figures_follow_from_the_counts(evaluation):
  confusion = evaluation.confusion.astype(float)
  hits = np.diag(confusion)
  union = confusion.sum(0) + confusion.sum(1) - hits
  iou = hits / union
  content = evaluation.to_dict()
  assert content["miou"] == pytest.approx(iou.mean())
  assert content["iou"]["tree"] == pytest.approx(iou[1])
  assert content["pixel_accuracy"] == pytest.approx(
    hits.sum() / confusion.sum()
  )
  assert content["classes_in_mean"] == 3 and content["absent_classes"] == []
  assert len(content["trimap_miou"]) == len(content["border_miou"]) == 40
  assert len(content["image_miou"]) == NUM_IMAGES
  assert json.loads(json.dumps(content)) == content
  logged = evaluation.as_metrics()
  assert logged["eval/miou"] == content["miou"]
  assert logged["eval/iou/sky"] == 0


def test_worst_and_best_images_are_in_order(evaluation):
  mious = sorted(evaluation.detail.image_mious.values())
  assert [e.miou for e in evaluation.detail.worst] == mious[:6]
  assert [e.miou for e in evaluation.detail.best] == mious[::-1][:6]


def test_classes_that_do_not_occur_are_left_out(evaluation):
  confusion = evaluation.confusion.copy()
  confusion[:, 2] = 0
  part = evaluate.Evaluation(
    evaluation.dataset, {"split": "val"}, confusion, NUM_IMAGES, 1.0, []
  )
  content = part.to_dict()
  assert content["absent_classes"] == ["sky"]
  assert content["classes_in_mean"] == 2 and content["iou"]["sky"] is None
  console = rich.console.Console(width=100)
  with console.capture() as captured:
    console.print(part.table())
  assert "mIoU of 2/3 classes" in captured.get()
  assert "absent" in captured.get()


def test_picture_shows_the_examples(evaluation, tmp_path):
  # Two evenly spaced of the eleven.
  assert [e.name for e in evaluation.examples] == ["00", "05"]
  evaluation.write_picture(tmp_path / "deep/er/picture.png")
  with Image.open(tmp_path / "deep/er/picture.png") as picture:
    assert picture.width > 1000


def test_another_output_stride_and_views_change_the_answer(
  folder, variables, evaluation
):
  config = make_config(str(folder))
  config.eval.update(output_stride=8, scales=(1.0,), flip=True)
  dense = evaluate.evaluate(tiny_model(), variables, config)
  assert dense.settings["output_stride"] == 8 and dense.settings["flip"]
  assert dense.confusion.sum() == evaluation.confusion.sum()
  assert (dense.confusion != evaluation.confusion).any()
  assert dense.detail is None and len(dense.examples) == 2


def test_evaluation_computes_in_what_is_asked_for(
  folder, variables, evaluation
):
  assert evaluation.settings["dtype"] == "float32"
  config = make_config(str(folder))
  config.eval.dtype = "bfloat16"
  found = evaluate.evaluate(tiny_model(), variables, config)
  assert found.settings["dtype"] == "bfloat16"
  moved = np.abs(found.confusion - evaluation.confusion).sum()
  assert 0 < moved < 0.05 * evaluation.confusion.sum()
  # A network of that dtype by itself is one and the same.
  config.eval.dtype = ""
  model = tiny_model().clone(dtype=jnp.dtype("bfloat16"))
  own = evaluate.evaluate(model, variables, config)
  np.testing.assert_array_equal(own.confusion, found.confusion)


def test_evaluation_limit_and_stop(folder, variables):
  config = make_config(str(folder))
  config.data.eval_limit = 3
  config.eval.pictures = 8
  few = evaluate.evaluate(tiny_model(), variables, config)
  assert few.num_images == 3
  assert [e.name for e in few.examples] == ["00", "01", "02"]
  stopped = evaluate.evaluate(
    tiny_model(), variables, config, should_stop=lambda: True
  )
  assert stopped is None


@pytest.mark.parametrize("told_at", [1, 2])
def test_evaluations_stop_together_and_say_where_processes_meet(
  folder, variables, monkeypatch, told_at
):
  """A process that went on alone would wait for the others for ever."""
  meetings = []
  monkeypatch.setattr(peers, "meets", meetings.append)

  def others(_):
    return len(meetings) == told_at

  monkeypatch.setattr(sharding, "any_process", others)
  config, model = make_config(str(folder)), tiny_model()
  assert evaluate.evaluate(model, variables, config) is None
  batch = {"image": np.zeros((2, 5, 5, 3)), "label": np.zeros(2)}
  monkeypatch.setattr(classification, "_eval_batches", lambda *_: [batch] * 3)
  monkeypatch.setattr(classification, "_make_step", lambda *_: _no_hits)
  of_segmentation, meetings[:] = list(meetings), []
  figures = classification.evaluate(
    *(None, None, config), dataset=None, mesh=sharding.make_mesh()
  )
  assert figures is None
  assert meetings == of_segmentation
  assert meetings[-1] == f"batch {told_at} of the evaluation"


def _no_hits(variables, image, label):
  return {"images": 2, "top1": 0, "top5": 0}


def test_evaluation_refuses_other_number_of_classes(folder, variables):
  with pytest.raises(ValueError, match="'folder' has 3 classes, the model 5"):
    evaluate.evaluate(
      DeepLab(num_classes=5), variables, make_config(str(folder))
    )


@pytest.fixture(scope="module")
def reported(folder, variables, tmp_path_factory) -> pathlib.Path:
  """A workdir with an imported model and its report."""
  workdir = tmp_path_factory.mktemp("report") / "run"
  evaluation = {"crop_size": SIZE}
  checkpoints.save_model(
    workdir, tiny_model(), variables, evaluation=evaluation
  )
  evaluate.report(workdir, make_config(str(folder)), workdir)
  return workdir


def test_report_writes_figures_and_pictures(reported, evaluation):
  out = reported / "evaluation"
  content = json.loads((out / "results.json").read_text())
  assert content["confusion_matrix"] == evaluation.confusion.tolist()
  assert content["peak_memory_bytes"] > 1e6
  for name in ("examples", "iou", "confusion", "reliability", "trimap"):
    with Image.open(out / f"{name}.png") as picture:
      assert min(picture.size) > 100


class _Links(html.parser.HTMLParser):
  """Collects where a page's images come from, and its text."""

  def __init__(self):
    super().__init__()
    self.sources, self.text = [], ""

  def handle_starttag(self, tag, attrs):
    assert tag not in ("script", "link", "iframe")
    self.sources += [value for name, value in attrs if name == "src"]

  def handle_data(self, data):
    self.text += data


def test_report_page_needs_no_other_file(reported, evaluation):
  page = _Links()
  page.feed((reported / "evaluation/report.html").read_text())
  # 4 plots, and 4 pictures each of the 6 worst and the 6 best images.
  assert len(page.sources) == 4 + 4 * 12
  for source in page.sources:
    kind, data = source.split(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    Image.open(io.BytesIO(base64.b64decode(data))).verify()
  assert f"mIoU {100 * evaluation.miou:.2f}\xa0%" in page.text
  assert "means over 3 of 3 classes" in page.text


def test_report_without_a_workdir_only_prints(
  reported, folder, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  found = evaluate.report(reported, make_config(str(folder)))
  assert f"{100 * found.miou:.2f}" in capsys.readouterr().out
  assert not list(tmp_path.iterdir())


def test_report_is_on_the_test_split_unless_another_is_named(
  reported, folder, monkeypatch
):
  config = make_config(str(folder))
  info = source_lib.dataset_info(config.data)
  tested = dataclasses.replace(info, test_split="train")
  monkeypatch.setattr(source_lib, "_stored_info", lambda _: tested)
  model, variables, _ = checkpoints.load_variables(reported)
  in_training = evaluate.evaluate(model, variables, config)
  assert in_training.settings["split"] == "val"
  assert evaluate.report(reported, config).settings["split"] == "train"
  config.data.eval_split = "val"
  assert evaluate.report(reported, config).settings["split"] == "val"


def test_report_compares_with_another(reported, folder, tmp_path):
  config = make_config(str(folder))
  config.eval.output_stride = 8
  evaluate.report(reported, config, tmp_path / "dense", compare=reported)
  page = (tmp_path / "dense/evaluation/report.html").read_text()
  assert "compared with tiny, output stride 16" in page
  before = json.loads((reported / "evaluation/results.json").read_text())
  assert f"mIoU (other {100 * before['miou']:.2f}\xa0%)" in page
  with pytest.raises(ValueError, match="nothing to compare with"):
    evaluate.report(reported, config, tmp_path, compare=tmp_path / "nowhere")
  other = {"class_names": ["a"], "dataset": "letters"}
  (tmp_path / "other.json").write_text(json.dumps(other))
  with pytest.raises(ValueError, match="'letters', whose classes are not"):
    evaluate.report(reported, config, tmp_path, compare=tmp_path / "other.json")


def _released(shared, folder):
  """The config, model and variables of a released network on its sample."""
  build.build(
    "voc2012",
    data_dir=str(folder),
    manual_dir=str(shared / "data/voc2012-sample"),
    partial=True,
  )
  config = config_lib.base_config()
  config.data.update(name="voc2012", data_dir=str(folder), eval_size=(513, 513))
  config.eval.update(batch_size=4, pictures=0)
  model = DeepLab(
    num_classes=21,
    backbone="mobilenet_v2",
    width_multiplier=0.5,
    atrous_rates=(),
    decoder=(),
  )
  weights = shared / "weights/deeplabv3_mnv2_dm05_pascal_trainaug"
  with np.load(weights / "variables.npz") as arrays:
    variables = import_weights.from_tensorflow(dict(arrays), model)
  return config, model, variables


@pytest.mark.slow
def test_released_model_in_bfloat16_on_the_voc_sample(shared, tmp_path):
  config, model, variables = _released(shared, tmp_path)
  config.eval.dtype = "bfloat16"
  found = evaluate.evaluate(model, variables, config)
  assert found.settings["dtype"] == "bfloat16"
  assert 100 * found.miou == pytest.approx(70.25, abs=0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
  "dtype, least, allowed", [("float32", 0, 0.02), ("bfloat16", 1e-4, 0.2)]
)
def test_pictures_of_the_released_model_score_as_its_evaluation(
  shared, tmp_path, dtype, least, allowed
):
  """Labelled one by one, on most CPUs by oneDNN."""
  _, model, variables = _released(shared, tmp_path)
  root = shared / "data/voc2012-sample/VOCdevkit/VOC2012"
  names = (root / "ImageSets/Segmentation/val.txt").read_text().split()
  exact, found = (
    inference.Segmenter(
      model.clone(dtype=jnp.dtype(chosen)),
      variables,
      class_names=list(map(str, range(21))),
      colors=[(0, 0, 0)] * 21,
      evaluation_size=(513, 513),
    )
    for chosen in ("float32", dtype)
  )
  counts, changed = 0, []
  for name in names:
    image = np.asarray(Image.open(root / f"JPEGImages/{name}.jpg"))
    truth = np.asarray(Image.open(root / f"SegmentationClass/{name}.png"))
    labels = found(image)
    counts += metrics.confusion_matrix_numpy(truth, labels, 21)
    changed.append((labels != exact(image)).mean())
  miou = 100 * metrics.mean_iou_labelled(counts)
  assert miou == pytest.approx(70.25, abs=allowed)
  assert least <= np.mean(changed) <= 100 * least


@pytest.mark.usefixtures("optimized")
def test_released_model_on_the_voc_sample(shared, tmp_path):
  config, model, variables = _released(shared, tmp_path)
  weights = shared / "weights/deeplabv3_mnv2_dm05_pascal_trainaug"
  found = evaluate.evaluate(model, variables, config, detailed=True)
  golden = json.loads((weights / "golden/metrics_os16.json").read_text())["val"]
  wanted = np.array(golden["confusion_rows_truth_cols_prediction"])
  assert found.num_images == golden["images"] == 50
  assert np.abs(found.confusion - wanted).sum() <= 20
  assert found.absent_classes == ["cat", "motorbike"]
  assert 100 * found.miou == pytest.approx(70.25, abs=0.02)
  # The paper's figure 5: worse near boundaries, steeply so at first.
  curve = np.array(found.to_dict()["trimap_miou"])
  assert (np.diff(curve) > 0).all()
  assert curve[9] - curve[0] > 2 * (curve[39] - curve[9]) / 3 > 0.05
  assert found.summary()["boundary_miou"] < found.miou - 0.1


def _by_two_processes(folder):
  """What the first of two, with two devices each, prints."""
  cache = {"DEEPLAB_CACHE": str(folder.parent / "cache")}
  both = [
    processes.start(_PROGRAM, folder, devices=2, **cache, **environment)
    for environment in processes.joined()
  ]
  found, _ = (processes.finish(process) for process in both)
  found = json.loads(found.splitlines()[-1])
  assert found["settings"]["devices"] == 4
  return found


def test_two_processes_of_two_devices_find_the_same(folder, evaluation):
  found, expected = _by_two_processes(folder), evaluation.to_dict()
  assert found["images"] == NUM_IMAGES
  for name, pictures in (
    ("examples", evaluation.examples),
    ("worst", evaluation.detail.worst),
    ("best", evaluation.detail.best),
  ):
    assert found[name] == [fingerprint(picture) for picture in pictures], name
  # Single pixels may turn where two logits are equal but for rounding.
  for name, tolerance in (
    ("confusion_matrix", 3),
    ("boundary_iou", 1e-3),
    ("trimap_miou", 1e-3),
    ("image_miou", 1e-2),
  ):
    np.testing.assert_allclose(
      *(_flat(content[name]) for content in (found, expected)), atol=tolerance
    )
  assert list(found["image_miou"]) == list(expected["image_miou"])
  assert found["miou"] == pytest.approx(expected["miou"], abs=1e-3)


def test_a_process_may_have_no_picture(folder, tmp_path):
  for kind in ("images", "masks"):
    (tmp_path / "one" / kind).mkdir(parents=True)
    shutil.copy(folder / kind / "03.png", tmp_path / "one" / kind)
  shutil.copy(folder / "classes.yaml", tmp_path / "one")
  for split in ("train", "val"):
    (tmp_path / "one" / f"{split}.txt").write_text("03\n")
  expected = evaluate_folder(str(tmp_path / "one"))
  found = _by_two_processes(tmp_path / "one")
  assert found["images"] == 1
  assert found["examples"] == [fingerprint(expected.examples[0])]
  assert found["image_miou"] == pytest.approx(expected.detail.image_mious)
  trimaps = found["trimap_miou"], expected.to_dict()["trimap_miou"]
  np.testing.assert_allclose(*map(np.array, trimaps), atol=1e-3)


def _flat(content) -> np.ndarray:
  values = content.values() if isinstance(content, dict) else content
  return np.array(list(values), float)
