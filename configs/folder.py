"""Your own pictures and masks: a trained network, tuned to them.

  python -m deeplab_jax.main --config configs/folder.py \
    --config.data.path=DIR --workdir runs/mine

starts from the street scenes of zoo/camvid_mobilenet_v2, whose weights are for
personal and research use only. Any other model may stand in its place, whatever
its network is, such as one released for VOC:

  python -m deeplab_jax.import_weights mobilenetv2_coco_voc_trainaug \
    --out models/mobilenet_v2_voc
  python -m deeplab_jax.main \
    --config configs/folder.py:init_from=models/mobilenet_v2_voc \
    --config.data.path=DIR --workdir runs/mine

or a head drawn anew on an encoder that others have trained:

  python -m deeplab_jax.import_weights convnext_tiny.safetensors \
    --out models/convnext_tiny
  python -m deeplab_jax.main --config configs/folder.py:backbone=convnext_tiny \
    --config.init_from=models/convnext_tiny \
    --config.data.path=DIR --workdir runs/mine

DIR is what an annotation tool exported, or images/ and masks/, as docs/data.md
describes. Crops are as large as the images, up to 513 x 513.

Arguments: init_from=MODEL (zoo/camvid_mobilenet_v2; nothing draws random
weights), whose network the fields of `config.model` follow; backbone=NAME in
its place, whose weights are random unless `config.init_from` names some, with
the weight decay of its training; runlocal; modern, a recipe of today: AdamW by
depth, warm-up and cosine, an average of the weights, colours, turns and CutMix,
for small data sets above all; not yet run.
Hardware: any. Wall time and mIoU: those of your data, not yet run.
"""

import pathlib

from ml_collections import ConfigDict

from deeplab_jax.config import base_config, follow_model, parse_arg, runlocal
from deeplab_jax.models.backbones import find_backbone

_SHIPPED = str(pathlib.Path(__file__).parents[1] / "zoo/camvid_mobilenet_v2")


def _modern(config: ConfigDict) -> None:
  """What people do now that the paper did not."""
  config.update(optimizer="adamw", lr=1e-4, weight_decay=0.05)
  config.update(layer_decay=0.9, clip_norm=1.0, lr_policy="cosine")
  config.update(slow_start_steps=250, slow_start_lr=0.0)
  config.update(slow_start_burn_in=True, ema_decay=0.999)
  config.data.update(scale_step=0.05, rotation=10.0, cutmix=0.25)
  config.data.color_jitter = (0.3, 0.3, 0.3)


def get_config(arg: str | None = None) -> ConfigDict:
  """The model with new logits; frozen batch norm suits small batches."""
  arg = parse_arg(arg, init_from=_SHIPPED, backbone="", modern=False)
  config = base_config()
  config.model.backbone = "mobilenet_v2"
  if arg.backbone and arg.init_from in ("", _SHIPPED):
    config.model.backbone, config.init_parts = arg.backbone, "backbone"
    config.weight_decay = find_backbone(arg.backbone).weight_decay
  elif arg.init_from:
    follow_model(config, arg.init_from)
    _check_backbone(arg, config.model.backbone)
  # A head that is drawn anew has no statistics that could be frozen.
  config.train_batch_norm = not config.init_from or config.init_parts != "all"
  config.update(batch_size=8, steps=5000, lr=0.001, last_layer_multiplier=10.0)
  config.update(eval_every=1000, checkpoint_every=500)
  config.data.update(name="folder", crop_size=(0, 0))
  if arg.modern:
    _modern(config)
  return runlocal(config) if arg.runlocal else config


def _check_backbone(arg: ConfigDict, stored: str) -> None:
  """Refuses a backbone beside a model that has another."""
  if arg.backbone not in ("", stored) and not arg.runlocal:
    raise ValueError(
      f"config argument backbone must be {stored}, as init_from={arg.init_from}"
      f" has it, or be left out; got {arg.backbone!r}"
    )
