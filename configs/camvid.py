"""CamVid, 11 classes, 480 x 360: MobileNetV2 from its ImageNet weights.

  python -m deeplab_jax.prepare camvid
  python -m deeplab_jax.import_weights FILE --model mobilenet_v2 \
    --out models/mobilenet_v2_imagenet
  python -m deeplab_jax.main --config configs/camvid.py --workdir runs/camvid

FILE is any MobileNetV2 trained on ImageNet; batch norms that came folded into
their convolutions get the statistics of the first batch.

Arguments: runlocal; trainval, which trains for longer, and on val, too; modern,
a recipe of today, alone or with trainval, for as long: AdamW, warm-up and
cosine, an average of the weights, Dice beside cross-entropy, more augmentation.
Hardware: 2 CPU cores, 0.65 s a step where nothing else runs, 0.75 of modern.
mIoU on test, one scale, output stride 16: 58.3 % (68.0 % on val); with trainval
60.2 %; with modern 66.3 % (76.1 %), which is zoo/camvid_mobilenet_v2; with both
65.3 %. See docs/results.md.
"""

from ml_collections import ConfigDict

from deeplab_jax.config import base_config, parse_arg, runlocal

# Inverse fourth root of each class's share of the train pixels; 1 in the mean.
_CLASS_WEIGHTS = (
  *(0.97, 0.89, 1.97, 0.83, 1.35, 1.11),
  *(1.89, 1.91, 1.26, 2.2, 2.67),
)


_RARE = (2, 6, 9, 10)  # poles, signs, pedestrians, bicyclists


def _modern(config: ConfigDict) -> None:
  """What people do now that the paper did not."""
  config.update(optimizer="adamw", lr=1e-3, layer_decay=0.9, weight_decay=0.05)
  config.update(lr_policy="cosine", steps=6000, clip_norm=1.0)
  config.update(slow_start_steps=300, slow_start_lr=0.0)
  config.update(slow_start_burn_in=True, ema_decay=0.999)
  config.loss.name = "cross_entropy+dice"
  config.data.update(min_scale=0.5, max_scale=2.0, scale_step=0.05)
  config.data.color_jitter = (0.4, 0.4, 0.4)
  config.data.update(rotation=10.0, blur=1.0, noise=5.0, classmix=0.5)
  config.data.update(copy_paste=0.5, copy_paste_classes=_RARE)


def get_config(arg: str | None = None) -> ConfigDict:
  """ASPP and decoder, trained on random crops, evaluated on whole frames."""
  arg = parse_arg(arg, trainval=False, modern=False)
  config = base_config()
  config.model.backbone = "mobilenet_v2"
  config.model.atrous_rates = (3, 6, 9)  # a crop has 17 features a side
  config.model.batch_norm_momentum = 0.97
  config.init_from = "models/mobilenet_v2_imagenet"
  config.init_parts = "backbone"
  config.update(batch_size=8, steps=5000, lr=0.05, last_layer_multiplier=2.0)
  config.update(log_every=20, checkpoint_every=400, eval_every=1600)
  config.data.update(name="camvid", crop_size=(257, 257))
  config.data.update(min_scale=0.75, max_scale=1.75)
  config.data.color_jitter = (0.3, 0.3, 0.3)
  config.loss.class_weights = _CLASS_WEIGHTS
  config.eval.batch_size = 4
  if arg.trainval:
    config.data.update(train_split="train+val", eval_split="test")
    config.steps = config.steps * 7 // 5
    config.eval_every = 0  # evaluated once, in the end
  if arg.modern:
    _modern(config)
  return runlocal(config) if arg.runlocal else config
