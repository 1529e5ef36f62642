"""ADE20K, 150 classes and an ignored background, as the official guide has it.

  python -m deeplab_jax.prepare ade20k
  python -m deeplab_jax.main --config configs/ade20k.py \
    --config.init_from=models/xception_65_imagenet --workdir runs/ade20k

Images are resized to a short side of 513, unless the long one would exceed it,
in training and evaluation: mIoU is that of the resized images.

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
  config.update(steps=150_000, eval_every=15_000, checkpoint_every=1000)
  config.data.update(name="ade20k", resize_min=513, resize_max=513)
  config.data.update(resize_factor=16, eval_size=(513, 513))
  return runlocal(config) if arg.runlocal else config
