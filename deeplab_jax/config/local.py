"""`:runlocal`, which shrinks every config to seconds on a CPU."""

from ml_collections import ConfigDict

SMALL_BACKBONE = "mobilenet_v2"
"""What `runlocal` trains where no backbone is asked for."""

# Where the small samples of a data set have no more than one of its splits.
_SAMPLE_SPLITS = {
  "cityscapes": "train_fine",
  "ade20k": "val",
  "imagenet2012": "val",
}


def runlocal(config: ConfigDict) -> ConfigDict:
  """`config` shrunk to three steps on small crops of its own data set.

  Images are made small before they are cropped or evaluated, and only two are
  evaluated. A sample of the data set is enough; see `_SAMPLE_SPLITS`.
  """
  crop = _crop(config)
  config.update(init_from="", batch_size=2, steps=3, slow_start_steps=0)
  config.update(log_every=1, checkpoint_every=3, eval_every=0)
  config.update(eval_first=False, keep_checkpoints=1, accumulate_steps=1)
  config.batch_norm_groups = 1
  config.thaw_step = min(config.thaw_step, 2)
  config.data.update(crop_size=(crop, crop), workers=0, eval_limit=2)
  config.data.update(late_crop_step=0, late_crop_size=(0, 0))
  config.data.update(resize_min=crop, resize_max=2 * crop - 1, resize_factor=0)
  # A small sample may not have the classes.
  config.data.update(copy_paste=0.0, copy_paste_classes=())
  config.data.eval_size = (2 * crop - 1, 2 * crop - 1)
  split = _SAMPLE_SPLITS.get(config.data.name)
  if split:
    config.data.update(train_split=split, eval_split=split)
  config.loss.update(class_weights=(), positive_weights=())
  config.eval.update(scales=(1.0,), flip=False, batch_size=1, pictures=2)
  return config


def _crop(config: ConfigDict) -> int:
  """Side of a crop that has 5 x 5 features at most; 3 x 3 at stride 32."""
  stride = config.model.output_stride
  return min(4 * stride, 64) + 1
