"""Primitive by primitive: small functions as ONNX graphs, for any size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deeplab_jax.export import program
from deeplab_jax.export.onnx_builder import IMAGE
from deeplab_jax.export.onnx_graph import build
from deeplab_jax.export.onnx_values import Unsupported
from tests import exported

exported.onnx_packages()
_ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def _softmax_by_hand(x):
  shifted = jnp.exp(x - x.max(-1, keepdims=True))
  return shifted / shifted.sum(-1, keepdims=True)


def _widened(x):
  """A pixel's value repeated over an axis, and summed over it."""
  return jnp.broadcast_to(x[..., :1], (*x.shape[:3], 7)).sum(-1) + x[..., 0]


def _means(x):
  return x - x.mean((1, 2), keepdims=True) + x.mean(3)[..., None]


def _of_constants(x):
  rows = jnp.broadcast_to(jnp.asarray(_ROWS[:, :1]).T, (*x.shape[:3], 3))
  return x * rows + rows.sum(-1, keepdims=True)


def _lines(x):
  """Three axes and two, and back."""
  flat = x.reshape(x.shape[0], -1, 3)
  flat = flat @ jnp.asarray(_ROWS)
  return (flat - flat.max(1, keepdims=True)).reshape(*x.shape[:3], 4)


def _strip(x):
  gate = jax.nn.sigmoid(x.mean(2, keepdims=True) + x.mean(1, keepdims=True))
  return x.transpose(0, 2, 1, 3).transpose(0, 2, 1, 3) * gate


def _places(x):
  rows = jnp.arange(x.shape[1])[:, None, None] / x.shape[1]
  return x * rows + x.shape[2]


def _chosen(x):
  other = jnp.where(x > 0.3, -x, x**3)
  return jnp.where((x < 0.1) | ~(x < 0.9), other, jnp.clip(x, 0.2, 0.6))


def _parts(x):
  first, last = jnp.split(x, [1], axis=3)
  padded = lax.pad(last, 2.0, [(0, 0, 0), (1, 2, 0), (0, 3, 0), (1, 0, 0)])
  return padded[:, 1 : 1 + x.shape[1], : x.shape[2]][..., ::-1] + first


def _with_itself(x):
  largest = x.max(1, keepdims=True) + jnp.zeros_like(x)
  return jnp.concatenate([x, x * 0 + 1, largest], -1)


_FUNCTIONS = {
  "softmax": jax.nn.softmax,
  "softmax by hand": _softmax_by_hand,
  "log softmax": jax.nn.log_softmax,
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "mish": jax.nn.mish,
  "hard swish": jax.nn.hard_swish,
  "selu": jax.nn.selu,
  "widened": _widened,
  "means": _means,
  "of constants": _of_constants,
  "lines": _lines,
  "strip": _strip,
  "places": _places,
  "chosen": _chosen,
  "parts": _parts,
  "pooled": lambda x: lax.reduce_window(
    x, 0.0, lax.add, (1, 3, 2, 1), (1, 2, 1, 1), "VALID"
  ),
  "every second": lambda x: x[:, ::2][:, :, 1::2],
  "largest": lambda x: x.argmax(-1) + x[..., 1],
  "largest of rows": lambda x: x.argmax(1).astype(jnp.float32),
  "flipped": lambda x: jnp.flip(x, (1, 3))[:, :, ::-1],
  "with itself": _with_itself,
}


def _run(function, images):
  """What `function` of float maps becomes in ONNX Runtime."""
  import onnx
  import onnxruntime

  abstract = program.abstract_images(None)
  traced = jax.make_jaxpr(lambda x: (function(x.astype(jnp.float32) / 255),))(
    abstract
  )
  graph = build(traced, (), ("y",))
  helper = onnx.helper
  nodes = [
    helper.make_node(n.op, n.inputs, n.outputs, **n.attributes)
    for n in graph.nodes
  ]
  constants = [
    onnx.numpy_helper.from_array(array, name)
    for name, array in graph.constants.items()
  ]
  shape = ["b", "h", "w", 3]
  image = helper.make_tensor_value_info(IMAGE, onnx.TensorProto.UINT8, shape)
  (rank,) = (len(aval.shape) for aval in traced.out_avals)
  result = helper.make_tensor_value_info(
    "y", onnx.TensorProto.FLOAT, [None] * rank
  )
  made = helper.make_model(
    helper.make_graph(nodes, "g", [image], [result], constants),
    opset_imports=[helper.make_opsetid("", 18)],
    ir_version=9,
  )
  onnx.checker.check_model(made, full_check=True)
  session = onnxruntime.InferenceSession(
    made.SerializeToString(), providers=["CPUExecutionProvider"]
  )
  return session.run(None, {IMAGE: images})[0]


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_a_function_computes_the_same(name):
  function = _FUNCTIONS[name]
  random = np.random.default_rng(0)
  for shape in ((2, 5, 7, 3), (1, 9, 4, 3)):
    images = random.integers(0, 256, shape, np.uint8)
    wanted = function(jnp.asarray(images, jnp.float32) / 255)
    found = _run(function, images)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("function", "what"),
  [
    (lambda x: jnp.sort(x, axis=-1), "the primitive sort"),
    (lambda x: x[:, ::2, ::2], "pixels chosen one by one .*gather"),
    (lambda x: jnp.cumsum(x, axis=1), "the primitive cumsum"),
    (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), "over several axes"),
    (lambda x: lax.map(lambda y: y * 2, x), "the primitive scan"),
    (lambda x: lax.cond(x.sum() > 1, jnp.sin, jnp.cos, x), "primitive cond"),
    (
      lambda x: lax.conv_transpose(x, jnp.ones((3, 3, 3, 2)), (2, 2), "SAME"),
      "a transposed convolution",
    ),
  ],
  ids=[
    "sort",
    "two axes",
    "cumsum",
    "attention",
    "map",
    "cond",
    "transposed convolution",
  ],
)
def test_what_is_on_no_list_is_named(function, what):
  with pytest.raises(Unsupported, match=what):
    _run(function, np.zeros((1, 8, 8, 3), np.uint8))
