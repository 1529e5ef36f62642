"""The smallest real run: steps of milliseconds, saved and evaluated often."""

from deeplab_jax.config import base_config
from deeplab_jax.models import BACKBONES
from tests.tiny_backbone import TINY


def get_config(arg=None):
  """Ignores `arg`; registers the backbone."""
  BACKBONES["tiny"] = TINY
  config = base_config()
  config.update(batch_size=4, steps=40, lr=0.05, eval_first=True)
  config.update(log_every=1, checkpoint_every=5, eval_every=20)
  config.update(keep_checkpoints=2)
  config.data.update(name="shapes", crop_size=(33, 33), eval_limit=6)
  config.model.update(
    backbone="tiny", output_stride=32, atrous_rates=(), decoder=()
  )
  config.eval.update(batch_size=4, pictures=2)
  return config
