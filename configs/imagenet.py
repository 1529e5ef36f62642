"""ImageNet pretraining of a backbone, as in the paper, section 4.

  python -m deeplab_jax.prepare imagenet2012 --manual_dir DIR
  python -m deeplab_jax.main --config configs/imagenet.py \
    --workdir runs/imagenet

and with `--mode eval` for the top-1 and top-5 accuracy of what was trained. The
result starts any segmentation config: `--config.init_from=runs/imagenet` with
`init_parts="backbone"`. The paper trains with 50 asynchronous workers of 32
images each: here they are one batch, and rates and epochs follow its size. It
does not say for how long: 120 epochs are ours.

Arguments: backbone=NAME (xception_65), runlocal.
Hardware: 32 accelerators of 16 GiB: the step takes 14.4 GiB of a TPU v5e, as
compiled by `deeplab_jax.plan`. Wall time and top-1 accuracy (in place of mIoU):
not yet run.
"""

from ml_collections import ConfigDict

from deeplab_jax.config import base_config, parse_arg, runlocal
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.models.backbones import find_backbone

_EPOCHS = 120
_EPOCHS_OF_A_RATE = 2


def get_config(arg: str | None = None) -> ConfigDict:
  """Random parts of 299 x 299; top-1 and top-5 accuracy of the middles."""
  arg = parse_arg(arg, backbone="xception_65")
  config = base_config()
  config.task = "classification"
  config.model.update(backbone=arg.backbone, output_stride=32)
  config.batch_size = 1600
  images = DATASETS["imagenet2012"].splits["train"]
  batch_size = config.get_ref("batch_size")  # flags may yet change it
  config.steps = _EPOCHS * images // batch_size
  config.update(lr=0.05, lr_policy="step", lr_decay_factor=0.94)
  config.lr_decay_steps = _EPOCHS_OF_A_RATE * images // batch_size
  config.update(momentum=0.9, nesterov=True)
  config.weight_decay = find_backbone(arg.backbone).weight_decay
  config.update(eval_every=5000, checkpoint_every=1000)
  config.data.update(name="imagenet2012", crop_size=(299, 299))
  config.eval.batch_size = 200
  return runlocal(config) if arg.runlocal else config
