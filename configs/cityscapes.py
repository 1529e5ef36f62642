"""Cityscapes as in the paper, section 4.4 and table 7.

  python -m deeplab_jax.prepare cityscapes --manual_dir DIR
  python -m deeplab_jax.main --config configs/cityscapes.py \
    --config.init_from=models/xception_65_imagenet --workdir runs/cityscapes

Whole frames of 1024 x 2048 are evaluated. The paper's best has Xception-71
and no image pooling: `:backbone=xception_71,image_pooling=false`.

Arguments: backbone=NAME (xception_65), image_pooling=BOOL (true), runlocal.
Hardware: 8 accelerators. Wall time and mIoU: not yet run.
"""

from ml_collections import ConfigDict

from deeplab_jax.config import base_config, parse_arg, runlocal
from deeplab_jax.models.backbones import find_backbone


def get_config(arg: str | None = None) -> ConfigDict:
  """Trained on the 2975 finely annotated frames, crops of 769."""
  arg = parse_arg(arg, backbone="xception_65", image_pooling=True)
  config = base_config()
  config.model.backbone = arg.backbone
  config.model.image_pooling = arg.image_pooling
  config.weight_decay = find_backbone(arg.backbone).weight_decay
  config.init_parts = "backbone"
  config.update(steps=90_000, eval_every=10_000, checkpoint_every=1000)
  config.data.update(name="cityscapes", crop_size=(769, 769))
  config.data.eval_size = (1025, 2049)
  return runlocal(config) if arg.runlocal else config
