"""Operations by their definitions, as one primitive each.

They stand in the place of the forms that are made for one machine wherever a
program is for another one, is divided over devices, or is only looked at.
"""

import jax
import jax.numpy as jnp
from jax import lax

from deeplab_jax.models.ops.convolution import (
  PaddingRule,
  definition,
  paddings,
  same_padding,
)

attention = jax.nn.dot_product_attention
"""See `attention.attention`."""


def conv(x, kernel, *, stride=1, rate=1, padding: PaddingRule = "explicit"):
  """See `convolution.conv`."""
  pads = paddings(x, kernel, stride, rate, padding)
  return definition(x, kernel, pads=pads, stride=stride, rate=rate)


def depthwise_conv(x, kernel, *, padding, stride=1, rate=1, lowering=None):
  """See `depthwise.depthwise_conv`; any `lowering` is this one."""
  del lowering
  settings = {"pads": padding, "stride": stride, "rate": rate}
  return definition(x, kernel, **settings, groups=x.shape[-1])


def max_pool(x, padding: PaddingRule = "tensorflow"):
  """See `convolution.max_pool`."""
  pads = [same_padding(n, 3, 2, 1, padding) for n in x.shape[1:3]]
  window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
  return lax.reduce_window(
    x, -jnp.inf, lax.max, window, strides, [(0, 0), *pads, (0, 0)]
  )
