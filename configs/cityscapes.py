"""Cityscapes as in the paper, section 4.4 and table 7.

  python -m deeplab_jax.prepare cityscapes --manual_dir DIR
  python -m deeplab_jax.main --config configs/cityscapes.py \
    --config.init_from=models/xception_65_imagenet --workdir runs/cityscapes

Whole frames of 1024 x 2048 are evaluated. The rows of table 7, by argument, and
what the paper reports on val:

  (none)                                        78.79 %
  image_pooling=false                           79.14 %
  backbone=xception_71,image_pooling=false      79.55 %

The released weights' figures are also given at output stride 8 for scales 0.75,
1 and 1.25 and their mirror images: `--config.eval.output_stride=8
--config.eval.scales="(0.75, 1.0, 1.25)" --config.eval.flip=true`.

Arguments: backbone=NAME (xception_65), image_pooling=BOOL (true), runlocal.
Hardware: 8 accelerators of 16 GiB: the step of Xception-71 takes 10.9 GiB of a
TPU v5e, as compiled by `deeplab_jax.plan`. Wall time and mIoU: not yet run.
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
