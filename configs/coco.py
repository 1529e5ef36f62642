"""COCO with the 21 VOC classes: the step between ImageNet and VOC 2012.

  python -m deeplab_jax.prepare coco_voc
  python -m deeplab_jax.main --config configs/coco.py \
    --config.init_from=models/xception_65_imagenet --workdir runs/coco

Its result starts the next: `configs/voc.py` with
`--config.init_from=runs/coco --config.init_parts=all`. The papers give no
schedule for this step; batch size and rate are those of VOC.

Arguments: backbone=NAME (xception_65), runlocal.
Hardware: 8 accelerators of 16 GiB, as `configs/voc.py`. Wall time and mIoU: not
yet run.
"""

from ml_collections import ConfigDict

from deeplab_jax.config import base_config, parse_arg, runlocal
from deeplab_jax.models.backbones import find_backbone


def get_config(arg: str | None = None) -> ConfigDict:
  """Output stride 16, batch norm trained."""
  arg = parse_arg(arg, backbone="xception_65")
  config = base_config()
  config.model.backbone = arg.backbone
  config.weight_decay = find_backbone(arg.backbone).weight_decay
  config.init_parts = "backbone"
  config.update(steps=200_000, eval_every=20_000, checkpoint_every=2000)
  config.data.name = "coco_voc"
  return runlocal(config) if arg.runlocal else config
