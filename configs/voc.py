"""PASCAL VOC 2012 as in the paper, sections 4.1 and 4.2.

Train on train_aug at output stride 16, batch norm trained:

  python -m deeplab_jax.prepare voc2012
  python -m deeplab_jax.main --config configs/voc.py \
    --config.init_from=models/xception_65_imagenet --workdir runs/voc

then on trainval at output stride 8, batch norm frozen, from the result:

  python -m deeplab_jax.main --config configs/voc.py:finetune \
    --config.init_from=runs/voc --workdir runs/voc_finetune

and evaluate at the strides that both were trained at:

  python -m deeplab_jax.main --config configs/voc.py --mode eval \
    --checkpoint runs/voc_finetune --workdir runs/voc_at_8 \
    --config.eval.output_stride=8

A backbone alone is taken from `init_from` at first; after `configs/coco.py`,
`--config.init_from=runs/coco --config.init_parts=all` takes the head, too.

Arguments: backbone=NAME (xception_65), finetune, runlocal; modern, a recipe of
today in place of the first command's: AdamW by depth, warm-up and cosine, an
average of the weights, a second head, ClassMix; not yet run.
Hardware: 8 accelerators of 16 GiB: the steps take 4.6 GiB of a TPU v5e, and at
output stride 8 10.1 GiB, as compiled by `deeplab_jax.plan`. Wall time and mIoU:
not yet run.
"""

from ml_collections import ConfigDict

from deeplab_jax.config import base_config, parse_arg, runlocal
from deeplab_jax.models.backbones import find_backbone


def _modern(config: ConfigDict) -> None:
  """What people do now that the paper did not."""
  config.update(optimizer="adamw", lr=1e-4, weight_decay=0.05)
  config.update(last_layer_multiplier=10.0, layer_decay=0.9, clip_norm=1.0)
  config.update(lr_policy="cosine", slow_start_steps=1500, slow_start_lr=0.0)
  config.update(slow_start_burn_in=True, ema_decay=0.9998)
  config.model.auxiliary = "conv4"
  config.data.update(scale_step=0.05, classmix=0.5)
  config.data.color_jitter = (0.4, 0.4, 0.4)


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of the first command, or of the second with `finetune`."""
  arg = parse_arg(arg, backbone="xception_65", finetune=False, modern=False)
  config = base_config()
  config.model.backbone = arg.backbone
  config.weight_decay = find_backbone(arg.backbone).weight_decay
  config.init_parts = "backbone"
  config.update(eval_every=5000, checkpoint_every=1000)
  config.data.update(name="voc2012", train_split="train_aug")
  config.data.eval_size = (513, 513)
  if arg.modern:
    _modern(config)
  if arg.finetune:
    config.update(init_parts="all", lr=1e-4, train_batch_norm=False)
    config.data.train_split = "trainval"
    config.model.output_stride = 8
  return runlocal(config) if arg.runlocal else config
