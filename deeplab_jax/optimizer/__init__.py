"""How weights change: update rules, learning rates, freezing, averages.

`rules` makes of gradients the changes of weights, `schedules` says at what rate
in which step, `freezing` which weights stay as they are, `average` is the
moving average that is evaluated and shipped in place of the weights.
"""

from deeplab_jax.optimizer.average import average, average_decay
from deeplab_jax.optimizer.freezing import check_freezing, frozen
from deeplab_jax.optimizer.rules import (
  decay_loss,
  decay_mask,
  make_optimizer,
)
from deeplab_jax.optimizer.schedules import learning_rate

__all__ = [
  "average",
  "average_decay",
  "check_freezing",
  "decay_loss",
  "decay_mask",
  "frozen",
  "learning_rate",
  "make_optimizer",
]
