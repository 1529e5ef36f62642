"""CamVid, 11 classes, 480 x 360: MobileNetV2 from its ImageNet weights.

  python -m deeplab_jax.prepare camvid
  python -m deeplab_jax.import_weights FILE --model mobilenet_v2 \
    --out models/mobilenet_v2_imagenet
  python -m deeplab_jax.main --config configs/camvid.py --workdir runs/camvid

FILE is any MobileNetV2 trained on ImageNet; batch norms that came folded into
their convolutions are calibrated on the first batch.

Arguments: runlocal.
Hardware: 2 CPU cores, 0.8 s a step. With --config.steps=600 in 16 minutes on a
busy machine: mIoU 46.3 % on val, 86.6 % of its pixels right; the whole run of
3000 steps: not yet run.
"""

from ml_collections import ConfigDict

from deeplab_jax.config import base_config, parse_arg, runlocal


def get_config(arg: str | None = None) -> ConfigDict:
  """ASPP and decoder, trained on random crops, evaluated on whole frames."""
  arg = parse_arg(arg)
  config = base_config()
  config.model.backbone = "mobilenet_v2"
  config.model.batch_norm_momentum = 0.99
  config.init_from = "models/mobilenet_v2_imagenet"
  config.init_parts = "backbone"
  config.update(batch_size=8, steps=3000, lr=0.01, last_layer_multiplier=5.0)
  config.update(log_every=20, checkpoint_every=100, eval_every=500)
  config.data.update(name="camvid", crop_size=(257, 257))
  config.eval.batch_size = 4
  return runlocal(config) if arg.runlocal else config
