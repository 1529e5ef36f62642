"""oneDNN computes the convolutions that XLA does, and in no form that hangs."""

import json
import os
import pathlib
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from jax import lax

from deeplab_jax.inference import onednn, verdict
from deeplab_jax.models.blocks import gelu
from deeplab_jax.models.ops.convolution import same_padding
from tests.needs import needs_onednn, needs_onednn_bfloat16

_ROOT = pathlib.Path(__file__).parent.parent
# kernel size, channels, features (0: depthwise), stride, rate, padding rule.
_GEOMETRIES = (
  (1, 24, 40, 1, 1, "explicit"),
  (1, 16, 8, 2, 1, "explicit"),
  (3, 3, 32, 2, 1, "tensorflow"),
  (3, 16, 24, 1, 1, "explicit"),
  (3, 8, 8, 1, 12, "explicit"),
  (3, 8, 8, 2, 1, "explicit"),
  (7, 3, 16, 2, 1, "explicit"),
  (3, 40, 0, 1, 1, "explicit"),
  (3, 33, 0, 2, 1, "tensorflow"),
  (3, 16, 0, 1, 4, "explicit"),
  (3, 16, 0, 1, (2, 4), "explicit"),
  (5, 24, 0, 2, 1, "tensorflow"),
  (4, 3, 24, 4, 1, "patches"),
  (2, 16, 24, 2, 1, "whole patches"),
  (7, 24, 0, 1, 1, "explicit"),
  # In phases.
  (5, 24, 0, 1, (3, 2), "explicit"),
  (7, 8, 0, 1, (1, 2), "explicit"),
)
_DTYPES = (
  "float32",
  pytest.param("bfloat16", marks=needs_onednn_bfloat16),
)


def _arrays(kernel_size, channels, features, sides, batch):
  random = np.random.default_rng(0)
  inputs, outputs = (channels, features) if features else (1, channels)
  x = random.standard_normal((batch, *sides, channels), np.float32)
  shape = (kernel_size, kernel_size, inputs, outputs)
  return x, random.standard_normal(shape, np.float32)


def _pads(x, kernel, stride, rates, rule):
  return tuple(
    same_padding(size, taps, stride, rate, rule)
    for size, taps, rate in zip(x.shape[1:3], kernel.shape, rates)
  )


@needs_onednn
@pytest.mark.parametrize(
  "geometry, sides, batch",
  [
    *((geometry, (33, 28), 1) for geometry in _GEOMETRIES),
    *((geometry, (26, 25), 3) for geometry in _GEOMETRIES),
    (_GEOMETRIES[0], (1, 57), 2),  # tokens
  ],
)
@pytest.mark.parametrize("dtype", _DTYPES)
def test_convolution_equals_its_definition(dtype, geometry, sides, batch):
  kernel_size, channels, features, stride, rate, rule = geometry
  x, kernel = _arrays(kernel_size, channels, features, sides, batch)
  x, kernel = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)
  rates = rate if isinstance(rate, tuple) else (rate, rate)
  pads = _pads(x, kernel, stride, rates, rule)
  assert onednn.takes(x, kernel, pads, stride, rate)
  expected = lax.conv_general_dilated(
    x.astype(jnp.float32),
    kernel.astype(jnp.float32),
    (stride, stride),
    pads,
    rhs_dilation=rates,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=1 if features else channels,
  )
  random = np.random.default_rng(1)
  bias = random.standard_normal(expected.shape[-1:], np.float32)
  shortcut = random.standard_normal(expected.shape, np.float32)
  shortcut = jnp.asarray(shortcut, dtype)
  cases = [
    (None, None),
    (nn.relu, None),
    (nn.relu6, shortcut),
    (None, shortcut),
    (nn.silu, None),
    (gelu, None),
  ]
  for activation, added in cases:
    want = expected + bias + (0 if added is None else added)
    want = want if activation is None else activation(want)
    got = jax.jit(
      lambda x, kernel, bias, added, activation=activation: onednn.convolution(
        x,
        kernel,
        bias,
        padding=pads,
        stride=stride,
        rate=rate,
        shortcut=added,
        activation=activation,
      )
    )(x, kernel, bias, added)
    assert got.dtype == dtype
    error = np.abs(np.asarray(got, np.float32) - want)
    if dtype == "float32":
      assert error.max() < 1e-4 * np.abs(expected).max()
    else:  # The sum is rounded once, to eight bits.
      assert (
        error <= 2**-8 * np.abs(want) + 1e-4 * np.abs(expected).max()
      ).all()


@pytest.mark.parametrize(
  "sides, kernel_size, channels, features, rate, dtype",
  [
    ((33, 33), 3, 16, 0, 6, "float32"),
    ((9, 40), 3, 16, 0, 4, "float32"),
    ((23, 33), 5, 16, 0, 4, "float32"),
    ((1, 1), 1, 16, 8, 1, "float32"),
    ((1, 40), 3, 16, 8, 1, "float32"),
    ((11, 40), 7, 16, 0, 1, "float32"),
    ((22, 33), 7, 16, 0, 2, "float32"),
    ((33, 33), 3, 16, 0, 6, "bfloat16"),
    ((33, 33), 3, 16, 8, 1, "float16"),
    ((33, 33), 3, 16, 8, 1, "float64"),
  ],
)
def test_what_is_slow_or_hangs_is_not_taken(
  sides, kernel_size, channels, features, rate, dtype
):
  x, kernel = _arrays(kernel_size, channels, features, sides, batch=1)
  pads = _pads(x, kernel, 1, (rate, rate), "explicit")
  x, kernel = x.astype(dtype), kernel.astype(dtype)
  assert not onednn.takes(x, kernel, pads, rate=rate)


_NETWORKS = """
import jax, jax.numpy as jnp
from deeplab_jax.inference.folding import fold, layers_in_onednn
from deeplab_jax.inference import onednn
from deeplab_jax.models import DeepLab
from deeplab_jax.models.trace import shapes_of
for stride in (8, 16, 32):
  for backbone in {backbones}:
    model = DeepLab(5, backbone, output_stride=stride, dtype="{dtype}")
    images = jax.ShapeDtypeStruct((1, {side}, {side}, 3), jnp.float32)
    shapes = shapes_of(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
    variables = fold(model, variables)
    with layers_in_onednn():
      lowered = jax.jit(model.apply).lower(variables, images)
    program = onednn.compiled(lowered)
    program(variables, jnp.ones(images.shape)).block_until_ready()
"""


def _forms(
  isa: str, side: int, backbones: tuple[str, ...], dtype: str = "float32"
) -> set[str]:
  """The names of the forms in which oneDNN convolves."""
  settings = {
    "ONEDNN_VERBOSE": "1",
    "ONEDNN_MAX_CPU_ISA": isa,
    "JAX_PLATFORMS": "cpu",
  }
  program = _NETWORKS.format(side=side, backbones=backbones, dtype=dtype)
  result = subprocess.run(
    [sys.executable, "-c", program],
    env=os.environ | settings,
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=600,
    check=True,
  )
  lines = (line.split(",") for line in result.stdout.splitlines())
  found = {fields[6] for fields in lines if fields[5:6] == ["convolution"]}
  assert found
  return found


@needs_onednn
@pytest.mark.parametrize(
  "isa", ["DEFAULT", pytest.param("AVX2", marks=pytest.mark.slow)]
)
def test_no_layer_is_computed_in_the_form_that_hangs(isa):
  found = _forms(isa, 65, ("mobilenet_v2",))
  assert not any("gemm" in name for name in found), found


@needs_onednn_bfloat16
def test_layers_are_computed_by_the_instructions_for_bfloat16():
  found = _forms("DEFAULT", 65, ("mobilenet_v2",), "bfloat16")
  assert all(name.endswith(("bf16", "amx")) for name in found), found


@needs_onednn
@pytest.mark.slow
@pytest.mark.parametrize("side", [65, 321, 513])
@pytest.mark.parametrize(
  "isa, dtype",
  [
    ("DEFAULT", "float32"),
    ("AVX2", "float32"),
    pytest.param("DEFAULT", "bfloat16", marks=needs_onednn_bfloat16),
  ],
)
def test_no_network_is_computed_in_the_form_that_hangs(isa, dtype, side):
  backbones = (
    *("mobilenet_v2", "resnet_50", "resnet_101_beta", "xception_65"),
    *("convnext_atto", "vit_small_patch14_dinov2", "tf_efficientnetv2_b0"),
    *("mobilenetv4_conv_small", "mobilenet_v3_large_seg"),
  )
  found = _forms(isa, side, backbones, dtype)
  assert not any("gemm" in name for name in found), found


@needs_onednn
def test_programs_with_calls_are_not_stored(tmp_path, monkeypatch):
  name = "jax_persistent_cache_min_compile_time_secs"
  before = getattr(jax.config, name)
  program = """
import sys, warnings
warnings.simplefilter("error")
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
from deeplab_jax.inference import onednn
def f(x, kernel, bias):
  pads = ((0, 0), (0, 0))
  return onednn.convolution(x, kernel, bias, padding=pads)
arrays = [jnp.ones(s) for s in ((1, 9, 9, 4), (1, 1, 4, 8), (8,))]
assert (onednn.compiled(jax.jit(f).lower(*arrays))(*arrays) == 5).all()
assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
def g(x):
  return x + 1
onednn.compiled(jax.jit(g).lower(arrays[0]))
"""
  subprocess.run(
    [sys.executable, "-c", program],
    env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)},
    cwd=_ROOT,
    check=True,
  )
  assert not list(tmp_path.glob("jit_f-*"))
  assert list(tmp_path.glob("jit_g-*"))  # others are
  assert getattr(jax.config, name) == before


def test_it_can_be_switched_off_and_on(monkeypatch):
  def answer():
    return onednn.is_available.__wrapped__()

  monkeypatch.setattr(verdict, "passes", lambda dtype: False)
  monkeypatch.setenv("DEEPLAB_ONEDNN", "yes")
  with pytest.raises(ValueError, match="DEEPLAB_ONEDNN must be 0 or 1"):
    answer()
  monkeypatch.delenv("DEEPLAB_ONEDNN")
  assert not answer()
  monkeypatch.setattr(verdict, "passes", lambda dtype: True)
  is_possible = answer()
  monkeypatch.setenv("DEEPLAB_ONEDNN", "0")
  assert not answer()
  monkeypatch.setattr(verdict, "passes", lambda dtype: False)
  monkeypatch.setenv("DEEPLAB_ONEDNN", "1")
  assert answer() == is_possible


@pytest.mark.parametrize(
  "flags, passing, expected",
  [
    ("avx2 avx512_bf16", {"float32", "bfloat16"}, (True, True, False)),
    ("avx2 avx512_bf16", {"float32"}, (True, False, False)),
    ("avx2 avx512_bf16", {"bfloat16"}, (False, False, False)),
    ("avx2 avx512f", {"float32", "bfloat16"}, (True, False, False)),
    ("sse4_2", {"float32", "bfloat16"}, (False, False, False)),
  ],
)
def test_each_type_needs_its_instructions_and_its_trial(
  monkeypatch, caplog, flags, passing, expected
):
  monkeypatch.delenv("DEEPLAB_ONEDNN", raising=False)
  monkeypatch.setattr(verdict, "passes", passing.__contains__)
  monkeypatch.setattr(pathlib.Path, "exists", lambda path: True)
  monkeypatch.setattr(pathlib.Path, "read_text", lambda path: flags)
  monkeypatch.setattr(onednn, "is_available", onednn.is_available.__wrapped__)
  types = (jnp.float32, jnp.bfloat16, jnp.float16)
  assert tuple(map(onednn.is_available, types)) == expected
  is_said = "no instructions for bfloat16" in caplog.text
  assert is_said == ("avx512_bf16" not in flags)


@needs_onednn
@pytest.mark.parametrize(
  "fault, reason",
  [
    ("none", None),
    pytest.param(
      *("another activation", r"are wrong: . x . taps.* are off by"),
      marks=pytest.mark.slow,
    ),
    ("another kernel", "are wrong|ended the process|could not be tried"),
    ("dies", "ended the process that tried them by signal 11"),
    ("hangs", "gave no answer in 2 s"),
    pytest.param(
      *("raises", "could not be tried: RuntimeError: no such call"),
      marks=pytest.mark.slow,
    ),
    ("gemm", "take a form that may hang: gemm"),
  ],
)
@pytest.mark.parametrize("dtype", _DTYPES)
def test_a_trial_says_no_to_what_is_wrong(
  tmp_path, monkeypatch, caplog, dtype, fault, reason
):
  monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path))
  monkeypatch.setenv("FAULT", fault)
  monkeypatch.setattr(verdict, "TRIAL", "tests.programs.faulty_onednn")
  if fault == "hangs":
    monkeypatch.setattr(verdict, "_SECONDS", 2)
  assert verdict.passes.__wrapped__(dtype) == (reason is None)
  (kept,) = tmp_path.rglob("*.json")
  if reason is None:
    assert not caplog.records
    return
  (record,) = caplog.records
  assert re.search(reason, record.getMessage()), record.getMessage()
  assert "\n" not in record.getMessage()
  # It is not tried again, but after a day or with another jaxlib.
  monkeypatch.setattr(verdict, "TRIAL", "tests.programs.no_such_module")
  assert not verdict.passes.__wrapped__(dtype)
  assert caplog.records[-1].getMessage() == record.getMessage()
  content = json.loads(kept.read_text())
  content["time"] -= 25 * 3600
  kept.write_text(json.dumps(content))
  assert not verdict.passes.__wrapped__(dtype)
  assert "no_such_module" in caplog.records[-1].getMessage()
  monkeypatch.setattr(jaxlib, "__version__", "99.0.0")
  assert not verdict.passes.__wrapped__(dtype)
  assert len(list(tmp_path.rglob("*.json"))) == 2


@needs_onednn
def test_a_good_verdict_is_kept_and_a_damaged_one_is_made_again(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path))
  monkeypatch.setattr(verdict, "_fault", lambda dtype: None)
  assert verdict.passes.__wrapped__("float32")
  monkeypatch.setattr(verdict, "_fault", lambda dtype: "are wrong")
  assert verdict.passes.__wrapped__("float32")
  (kept,) = tmp_path.rglob("*.json")
  kept.write_text("{")
  assert not verdict.passes.__wrapped__("float32")
  # Where nothing can be kept, every process tries.
  monkeypatch.setenv("DEEPLAB_CACHE", str(kept))
  assert not verdict.passes.__wrapped__("float32")
