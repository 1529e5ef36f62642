"""The released x0.5 MobileNetV2, end to end: imported, loaded, evaluated.

50 real images of PASCAL VOC val through the command, the model directory,
`load` and the metrics; the figures were computed with the original graph.
"""

import json

import numpy as np
import pytest
from PIL import Image

import deeplab_jax
from deeplab_jax import metrics
from deeplab_jax.import_weights.convert import convert

RELEASE = "mobilenetv2_dm05_coco_voc_trainaug"


@pytest.fixture(scope="module")
def original(shared):
  return shared / "weights" / "deeplabv3_mnv2_dm05_pascal_trainaug"


@pytest.fixture(scope="module")
def folder(original, tmp_path_factory):
  out = tmp_path_factory.mktemp("official") / "model"
  convert(RELEASE, out, archive=str(original / "frozen_inference_graph.pb"))
  return out


@pytest.fixture(scope="module")
def examples(shared):
  """Image, label and name of the 50 images of the sample's val split."""
  voc = shared / "data/voc2012-sample/VOCdevkit/VOC2012"
  names = (voc / "ImageSets/Segmentation/val.txt").read_text().split()
  assert len(names) == 50

  def read(path):
    return np.asarray(Image.open(voc / path))

  return [
    (read(f"JPEGImages/{n}.jpg"), read(f"SegmentationClass/{n}.png"), n)
    for n in names
  ]


# That of stride 16 is in tests/test_evaluate.py, too.
@pytest.mark.parametrize(
  ("output_stride", "miou"),
  [(8, 70.83), pytest.param(16, 70.25, marks=pytest.mark.slow)],
)
def test_miou_over_the_voc_sample_equals_the_original(
  original, folder, examples, output_stride, miou
):
  segmenter = deeplab_jax.load(folder, output_stride=output_stride)
  confusion = sum(
    metrics.confusion_matrix_numpy(label, segmenter(image), 21)
    for image, label, _ in examples
  )
  assert (~np.isnan(metrics.iou_per_class(confusion))).sum() == 19
  assert abs(100 * metrics.mean_iou(confusion) - miou) < 0.02
  path = original / "golden" / f"metrics_os{output_stride}.json"
  golden = json.loads(path.read_text())["val"]
  wanted = np.array(golden["confusion_rows_truth_cols_prediction"])
  # A pixel may flip where two logits are within rounding.
  assert np.abs(confusion - wanted).sum() <= 20
  assert segmenter.num_compilations == 1


def test_label_maps_equal_the_original_graph(original, folder, examples):
  segmenter = deeplab_jax.load(folder, output_stride=8)
  for image, _, name in examples[:3]:
    path = original / "golden" / "predictions_os8" / f"{name}.png"
    wanted = np.asarray(Image.open(path))
    assert (segmenter(image) != wanted).sum() <= 2
