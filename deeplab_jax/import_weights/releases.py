"""The released checkpoints of the official model zoo.

As published in tensorflow/models, research/deeplab/g3doc/model_zoo.md: all
under Apache-2.0. Names, archives and figures are the zoo's.
"""

import dataclasses
from typing import Any

LICENSE = "Apache-2.0 (tensorflow/models, research/deeplab)"
_URL = "https://download.tensorflow.org/models/{}.tar.gz"
# The zoo publishes no checksums; these are of others who have the archives.
_CHECKSUMS = {
  # Open Model Zoo (openvinotoolkit), models/public/deeplabv3/model.yml.
  "deeplabv3_mnv2_pascal_train_aug_2018_01_29": "sha384:"
  "d3f2b27bb00c485ca45d68731f7198a23926cb865dd010fc444bcad9158e3341"
  "3cd60da2588a9be3ff1e8c9b4557362b",
  # IBM/MAX-Image-Segmenter, md5sums.txt; others list the first one's SHA-256
  # beside the same MD5.
  "deeplabv3_mnv2_pascal_trainval_2018_01_29": "sha256:"
  "2b7fe43461c2d9d56b3ed6baed5547fc066361ba12ab84c8e85f0c31914c034f",
  "deeplabv3_pascal_trainval_2018_01_04": "md5:"
  "7a4c217c0f122544678a4f590141ccf7",
}

_FULL_RANGE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_NARROW_RANGE = (0.75, 1.0, 1.25)
_WIDE_RANGE = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@dataclasses.dataclass(frozen=True)
class Result:
  """A published figure and how it was measured.

  Attributes:
    output_stride: of the evaluation.
    miou: in percent.
    split: evaluated on, `"val"` or `"test"`.
    scales: of the image.
    flip: whether mirrored images took part.
    multiply_adds: in 10^9, None where not published.
    pixel_accuracy: in percent, None where not published.
  """

  output_stride: int
  miou: float
  split: str = "val"
  scales: tuple[float, ...] = (1.0,)
  flip: bool = False
  multiply_adds: float | None = None
  pixel_accuracy: float | None = None


@dataclasses.dataclass(frozen=True)
class Release:
  """One archive.

  Attributes:
    archive: its name, without folder and extension.
    arguments: of `DeepLab`, beside those that follow from the data set.
    dataset: name of the data set of the classes; None for ImageNet, whose
      weights initialise a backbone.
    pretraining: what the weights were trained on, in order.
    crop_size: height and width of the evaluation.
    resize: shortest side, longest side and factor that images are brought to
      before (`data.resize_min`, `resize_max`, `resize_factor`); None: as is.
    results: published ones.
    megabytes: size of the archive, None where not published.
    missing: what of the network is not built here; empty if nothing.
  """

  archive: str
  arguments: dict[str, Any]
  dataset: str | None
  pretraining: str
  crop_size: tuple[int, int] = (513, 513)
  resize: tuple[int, int, int] | None = None
  results: tuple[Result, ...] = ()
  megabytes: float | None = None
  missing: str = ""

  @property
  def url(self) -> str:
    return _URL.format(self.archive)

  @property
  def checksum(self) -> str:
    """Of the archive, "<algorithm>:<hexadecimal>"; "" where none is known."""
    return _CHECKSUMS.get(self.archive, "")


def _mobilenet(**changes: Any) -> dict[str, Any]:
  plain = {"backbone": "mobilenet_v2", "atrous_rates": (), "decoder": ()}
  return plain | changes


_XCEPTION_65 = {"backbone": "xception_65"}
_XCEPTION_71_DPC = {"backbone": "xception_71", "head": "dpc"}
_CITYSCAPES_CROP = (1025, 2049)


def _lite(size: str) -> dict[str, Any]:
  return {
    "backbone": f"mobilenet_v3_{size}_seg",
    "head": "lraspp",
    "decoder": ("conv3",),
  }


VOC = {
  "mobilenetv2_dm05_coco_voc_trainaug": Release(
    "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01",
    _mobilenet(width_multiplier=0.5),
    "voc2012",
    "ImageNet, MS-COCO, VOC 2012 train_aug",
    results=(Result(16, 70.19, multiply_adds=0.88),),
    megabytes=7.6,
  ),
  "mobilenetv2_dm05_coco_voc_trainval": Release(
    "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01",
    _mobilenet(width_multiplier=0.5),
    "voc2012",
    "ImageNet, MS-COCO, VOC 2012 train_aug + trainval",
    results=(Result(8, 71.83, "test", multiply_adds=2.84),),
    megabytes=7.6,
  ),
  "mobilenetv2_coco_voc_trainaug": Release(
    "deeplabv3_mnv2_pascal_train_aug_2018_01_29",
    _mobilenet(),
    "voc2012",
    "ImageNet, MS-COCO, VOC 2012 train_aug",
    results=(
      Result(16, 75.32, multiply_adds=2.75),
      Result(8, 77.33, "val", _FULL_RANGE, True, multiply_adds=152.59),
    ),
    megabytes=23,
  ),
  "mobilenetv2_coco_voc_trainval": Release(
    "deeplabv3_mnv2_pascal_trainval_2018_01_29",
    _mobilenet(),
    "voc2012",
    "ImageNet, MS-COCO, VOC 2012 train_aug + trainval",
    results=(Result(8, 80.25, "test", _FULL_RANGE, True, 152.59),),
    megabytes=23,
  ),
  "xception65_coco_voc_trainaug": Release(
    "deeplabv3_pascal_train_aug_2018_01_04",
    _XCEPTION_65,
    "voc2012",
    "ImageNet, MS-COCO, VOC 2012 train_aug",
    results=(
      Result(16, 82.20, multiply_adds=54.17),
      Result(8, 83.58, "val", _FULL_RANGE, True, 3055.35),
    ),
    megabytes=439,
  ),
  "xception65_coco_voc_trainval": Release(
    "deeplabv3_pascal_trainval_2018_01_04",
    _XCEPTION_65,
    "voc2012",
    "ImageNet, MS-COCO, VOC 2012 train_aug + trainval",
    results=(Result(8, 87.80, "test", _FULL_RANGE, True, 3055.35),),
    megabytes=439,
  ),
}
CITYSCAPES = {
  "mobilenetv2_coco_cityscapes_trainfine": Release(
    "deeplabv3_mnv2_cityscapes_train_2018_02_05",
    _mobilenet(),
    "cityscapes",
    "ImageNet, MS-COCO, Cityscapes train_fine",
    _CITYSCAPES_CROP,
    results=(
      Result(16, 70.71, multiply_adds=21.27),
      Result(8, 73.57, "val", _NARROW_RANGE, True, 433.24),
    ),
    megabytes=23,
  ),
  "mobilenetv3_large_cityscapes_trainfine": Release(
    "deeplab_mnv3_large_cityscapes_trainfine_2019_11_15",
    _lite("large"),
    "cityscapes",
    "Cityscapes train_fine",
    _CITYSCAPES_CROP,
    results=(Result(32, 72.41, multiply_adds=15.95),),
    megabytes=17,
  ),
  "mobilenetv3_small_cityscapes_trainfine": Release(
    "deeplab_mnv3_small_cityscapes_trainfine_2019_11_15",
    _lite("small"),
    "cityscapes",
    "Cityscapes train_fine",
    _CITYSCAPES_CROP,
    results=(Result(32, 68.99, multiply_adds=4.63),),
    megabytes=5,
  ),
  "xception65_cityscapes_trainfine": Release(
    "deeplabv3_cityscapes_train_2018_02_06",
    _XCEPTION_65,
    "cityscapes",
    "ImageNet, Cityscapes train_fine",
    _CITYSCAPES_CROP,
    results=(
      Result(16, 78.79, multiply_adds=418.64),
      Result(8, 80.42, "val", _NARROW_RANGE, True, 8677.92),
    ),
    megabytes=439,
  ),
  "xception71_dpc_cityscapes_trainfine": Release(
    "deeplab_cityscapes_xception71_trainfine_2018_09_08",
    _XCEPTION_71_DPC,
    "cityscapes",
    "ImageNet, MS-COCO, Cityscapes train_fine",
    _CITYSCAPES_CROP,
    results=(Result(16, 80.31, multiply_adds=502.07),),
    megabytes=445,
  ),
  "xception71_dpc_cityscapes_trainval": Release(
    "deeplab_cityscapes_xception71_trainvalfine_2018_09_08",
    _XCEPTION_71_DPC,
    "cityscapes",
    "ImageNet, MS-COCO, Cityscapes trainval_fine and coarse",
    _CITYSCAPES_CROP,
    results=(Result(8, 82.66, "test", _WIDE_RANGE, True),),
    megabytes=446,
  ),
  "edgetpu-deeplab": Release(
    "edgetpu-deeplab_2020_03_09",
    {"atrous_rates": (), "decoder": ()},
    "cityscapes",
    "ImageNet, Cityscapes",
    _CITYSCAPES_CROP,
    results=(
      Result(32, 70.6, multiply_adds=5.6),
      Result(16, 74.1, multiply_adds=7.1),
    ),
    missing="the EdgeTPU MobileNet backbone",
  ),
  "edgetpu-deeplab-slim": Release(
    "edgetpu-deeplab-slim_2020_03_09",
    {"atrous_rates": (), "decoder": (), "width_multiplier": 0.75},
    "cityscapes",
    "ImageNet, Cityscapes",
    _CITYSCAPES_CROP,
    results=(
      Result(32, 70.0, multiply_adds=3.5),
      Result(16, 73.2, multiply_adds=4.3),
    ),
    missing="the EdgeTPU MobileNet backbone and a head of 128 filters",
  ),
}
ADE20K = {
  "mobilenetv2_ade20k_train": Release(
    "deeplabv3_mnv2_ade20k_train_2018_12_03",
    _mobilenet(decoder=("conv2",)),
    "ade20k",
    "ImageNet, ADE20K train (long side 257)",
    (257, 257),
    (257, 257, 16),
    results=(Result(16, 32.04, pixel_accuracy=75.41),),
    megabytes=24.8,
  ),
  "xception65_ade20k_train": Release(
    "deeplabv3_xception_ade20k_train_2018_05_29",
    _XCEPTION_65,
    "ade20k",
    "ImageNet, ADE20K train (long side 513)",
    resize=(513, 513, 16),
    results=(Result(8, 45.65, "val", _FULL_RANGE, True, pixel_accuracy=82.52),),
    megabytes=439,
  ),
}


def _imagenet(
  archive: str,
  backbone: str,
  megabytes: float,
  pretraining: str = "ImageNet",
) -> Release:
  arguments = {"backbone": backbone}
  return Release(archive, arguments, None, pretraining, megabytes=megabytes)


IMAGENET = {
  "xception41_imagenet": _imagenet(
    "xception_41_2018_05_09", "xception_41", 288
  ),
  "xception65_imagenet": _imagenet(
    "deeplabv3_xception_2018_01_04", "xception_65", 447
  ),
  "xception65_imagenet_coco": _imagenet(
    "xception_65_coco_pretrained_2018_10_02",
    "xception_65",
    292,
    "ImageNet, MS-COCO",
  ),
  "xception71_imagenet": _imagenet(
    "xception_71_2018_05_09", "xception_71", 474
  ),
  "resnet50_beta_imagenet": _imagenet(
    "resnet_v1_50_2018_05_04", "resnet_50_beta", 274
  ),
  "resnet101_beta_imagenet": _imagenet(
    "resnet_v1_101_2018_05_04", "resnet_101_beta", 477
  ),
}

RELEASES = VOC | CITYSCAPES | ADE20K | IMAGENET


def find_release(name: str) -> Release:
  """The release of `name`.

  Raises:
    ValueError: there is none, or its network is not built here.
  """
  if name not in RELEASES:
    raise ValueError(
      f"{name} is neither a file nor a released checkpoint; those are"
      f" {', '.join(RELEASES)}"
    )
  release = RELEASES[name]
  if release.missing:
    raise ValueError(f"{name} cannot be imported: it needs {release.missing}")
  return release
