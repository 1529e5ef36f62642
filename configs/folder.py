"""Your own pictures and masks: a released MobileNetV2, tuned to them.

  python -m deeplab_jax.import_weights mobilenetv2_coco_voc_trainaug \
    --out models/mobilenet_v2_voc
  python -m deeplab_jax.main --config configs/folder.py \
    --config.data.path=DIR --workdir runs/mine

DIR is laid out as `deeplab_jax/data/builders/folder_layout.py` describes.

Arguments: runlocal.
Hardware: any. Wall time and mIoU: those of your data, not yet run.
"""

from ml_collections import ConfigDict

from deeplab_jax.config import base_config, parse_arg, runlocal


def get_config(arg: str | None = None) -> ConfigDict:
  """The released head, new logits; frozen batch norm suits small batches."""
  arg = parse_arg(arg)
  config = base_config()
  config.model.backbone = "mobilenet_v2"
  config.model.update(atrous_rates=(), decoder=())  # as it was released
  config.init_from = "models/mobilenet_v2_voc"
  config.train_batch_norm = False
  config.update(batch_size=8, steps=5000, lr=0.001, last_layer_multiplier=10.0)
  config.update(eval_every=1000, checkpoint_every=500)
  config.data.name = "folder"
  return runlocal(config) if arg.runlocal else config
