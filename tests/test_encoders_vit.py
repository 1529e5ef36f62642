"""Vision transformers against networks written plainly, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax.export import as_onnx, as_stablehlo, as_tflite
from deeplab_jax.import_weights import from_torch
from deeplab_jax.import_weights.__main__ import main
from deeplab_jax.import_weights.fit import _leaves
from deeplab_jax.import_weights.pytorch import to_official, usual_arguments
from deeplab_jax.models import DeepLab, positions, vit
from deeplab_jax.models.backbones import build_backbone
from deeplab_jax.models.ops.resize import resize_bilinear
from deeplab_jax.models.trace import shapes_of
from deeplab_jax.models.units import backbone_units
from deeplab_jax.summary import multiply_adds
from tests import exported, torch_encoders
from tests.random_variables import abstract_variables, random_variables

_V2, _REGISTERS, _V3 = (
  f"vit_small_{name}"
  for name in ("patch14_dinov2", "patch14_reg4_dinov2", "patch16_dinov3")
)
_HEADLESS = {"atrous_rates": (), "decoder": ()}
# What torch gives for the line below, resized to 3, 5 and 8.
_LINE = (1, -2, 4, 0, 3)
_RESIZED = {
  "timm": (
    (-0.30769, 1.68372, 1.81538),
    _LINE,
    (1.21587, -0.48647, -1.85388, 2.5614, 3.25354, 0.07605, 1.61423, 3.21587),
  ),
  "transformers": (
    (-0.27778, 4.0, 1.83333),
    _LINE,
    (1.2785, -0.77393, -1.81451, 2.5379, 3.34418, 0.09161, 1.38757, 3.2785),
  ),
  "authors": (
    (-0.15075, 3.80044, 1.25947),
    (1.02163, -2.0566, 3.8968, 0.10516, 2.76369),
    (1.28154, -0.71926, -1.88104, 2.34397, 3.50467, 0.20074, 1.17615, 3.22095),
  ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small(monkeypatch):
  """All of them with 128 channels and four blocks."""
  for name, variant in vit.VARIANTS.items():
    features = 128 if "small" in name else 192
    small = variant._replace(features=features, depth=4)
    monkeypatch.setitem(vit.VARIANTS, name, small)
  _leaves.cache_clear()
  abstract_variables.cache_clear()
  yield
  _leaves.cache_clear()
  abstract_variables.cache_clear()


def _plain(name):
  """The plain network, and a function of images to its tokens."""
  network = torch_encoders.Encoder()
  network.channels, *sizes = vit.VARIANTS[name]

  def tokens(images):
    images = images.transpose(0, 3, 1, 2)
    return torch_encoders.vision_transformer(network, images, *sizes)

  return network, tokens


@functools.cache
def _state(name):
  """Its state dict; nothing is computed."""
  network, tokens = _plain(name)
  jax.eval_shape(tokens, _images())
  return network.state


def _images():
  # No multiples of a patch, of other sides; the grid is smaller than 37 x 37.
  return np.random.default_rng(0).standard_normal((1, 71, 45, 3), np.float32)


def _variables(name):
  model = DeepLab(3, name, **_HEADLESS)
  variables = from_torch(_state(name), model, parts="backbone")
  return {"params": variables["params"]["backbone"]}


@pytest.mark.parametrize(
  "name", [_V2, pytest.param(_REGISTERS, marks=pytest.mark.slow), _V3]
)
def test_features_are_those_of_timm(name):
  module = build_backbone(name, output_stride=16)
  forward = jax.jit(lambda v, x: module.apply(v, x, False))
  x, low_levels = forward(_variables(name), _images())
  found = (*low_levels.values(), x)
  sizes = [(18, 12), (9, 6), (5, 3), (5, 3)]
  assert [y.shape[1:3] for y in found] == sizes
  for y, tokens in zip(found, jax.jit(_plain(name)[1])(_images())):
    wanted = resize_bilinear(tokens, y.shape[1:3])
    assert np.abs(y - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("rule", _RESIZED)
def test_positions_are_resized_as_torch_does(rule):
  line = jnp.tile(jnp.array(_LINE, jnp.float32)[:, None, None], (1, 5, 1))
  for wanted in _RESIZED[rule]:
    grid = positions.resized(line, (len(wanted), 5), rule, False)
    np.testing.assert_allclose(grid[:, 0, 0], wanted, atol=2e-5)
    other = positions.resized(
      line.transpose(1, 0, 2), (5, len(wanted)), rule, False
    )
    np.testing.assert_allclose(other[0, :, 0], wanted, atol=2e-5)
  same = positions.resized(line, (5, 5), rule, True)
  np.testing.assert_array_equal(same, line)


def test_rules_differ_where_the_sources_do():
  images = jnp.asarray(_images())
  found = {}
  for name in (_V2, _REGISTERS, _V3):
    module = vit.Embed(vit.VARIANTS[name], "timm", False, jnp.float32)
    variables = random_variables(module, images)
    for rule in ("timm", "transformers", "authors"):
      patches, _ = module.clone(positions_of=rule).apply(variables, images)
      waves = positions.rotary((3, 4), 5, 64, rule)
      found[name, rule] = patches, waves
  for name, kind, same in (
    (_V2, 0, ()),
    (_REGISTERS, 0, ("transformers", "authors")),
    (_V3, 1, ("transformers",)),
  ):
    for rule in ("transformers", "authors"):
      one, other = (found[name, r][kind] for r in ("timm", rule))
      alike = all(map(np.array_equal, one, other))
      assert alike == (rule in same), (name, rule)


def test_whole_patches_leave_the_rest_out():
  shapes = {}
  for whole in (False, True):
    module = build_backbone(_V2, output_stride=8, whole_patches=whole)
    (x, low), _ = shapes_of(
      functools.partial(module.init_with_output, use_batch_stats=False),
      jax.random.key(0),
      jnp.zeros((1, 30, 15, 3)),
    )
    shapes[whole] = [y.shape[1:3] for y in (*low.values(), x)]
  assert shapes[False] == [(8, 4), (4, 2), (2, 1), (4, 2)]
  assert shapes[True] == [(7, 3), (3, 1), (1, 1), (3, 1)]


# ------------------------------------------------------------------ state dicts


def _as_hugging_face(state):
  """With the names of files on the Hub; of DINOv3 of the network itself."""
  renamed = {}
  for name, array in state.items():
    for ours, theirs in (
      ("blocks.", "encoder.layer." if "pos_embed" in state else "model.layer."),
      ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
      ("cls_token", "embeddings.cls_token"),
      ("reg_token", "embeddings.register_tokens"),
      ("pos_embed", "embeddings.position_embeddings"),
      ("ls1.gamma", "layer_scale1.lambda1"),
      ("ls2.gamma", "layer_scale2.lambda1"),
      ("gamma_1", "layer_scale1.lambda1"),
      ("gamma_2", "layer_scale2.lambda1"),
      ("attn.proj", "attention.output.dense"),
    ):
      name = name.replace(ours, theirs)
    if name.startswith("norm"):
      name = f"layer{name}"
    if "qkv" not in name:
      renamed[name] = array
      continue
    for part, piece in zip(("query", "key", "value"), np.split(array, 3)):
      renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = piece
  return renamed | {"embeddings.mask_token": np.zeros((1, 128))}


def _as_authors(state):
  renamed = {"mask_token": np.zeros((1, 128), np.float32)}
  for name, array in state.items():
    if name == "reg_token":
      name = "register_tokens" if "pos_embed" in state else "storage_tokens"
    name = name.replace("gamma_", "ls") + ".gamma" * ("gamma_" in name)
    renamed[name] = array
  if "pos_embed" not in state:
    for i in range(4):
      bias = np.full(3 * 128, 0.0, np.float32)
      mask = np.ones(3 * 128, np.float32)
      bias[128:256], mask[128:256] = 7, 0  # of keys, of no effect
      renamed[f"blocks.{i}.attn.qkv.bias"] = bias
      renamed[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    renamed["rope_embed.periods"] = positions.periods(64, "authors")
  return renamed


@pytest.mark.parametrize("name", [_V2, _REGISTERS, _V3])
def test_all_spellings_name_the_same_arrays(name):
  state = _state(name)
  wanted = to_official(state)
  for renamed in (
    _as_hugging_face(state),
    _as_authors(state),
    {f"dinov2.{n}": a for n, a in _as_hugging_face(state).items()},
  ):
    found = to_official(renamed)
    assert found.keys() == wanted.keys()
    for official, array in found.items():
      np.testing.assert_array_equal(array, wanted[official], err_msg=official)


def test_names_tell_whose_positions_they_are():
  for name in (_V2, _V3):
    state = _state(name)
    assert usual_arguments(state) == {"positions_of": "timm"}
    other = usual_arguments(_as_hugging_face(state))
    assert other == {"positions_of": "transformers"}
    assert usual_arguments(_as_authors(state)) == {"positions_of": "authors"}
  plain = {"rope_embed.periods": positions.periods(64, "timm")}
  plain = _as_authors(_state(_V3)) | plain
  assert usual_arguments(plain) == {"positions_of": "timm"}


def test_command_carries_the_rule_and_refuses_other_networks(tmp_path, capsys):
  from deeplab_jax import checkpoints

  source = tmp_path / "weights.npz"
  np.savez(source, **_as_authors(_state(_V2)))
  out = tmp_path / "model"
  arguments = [str(source), "--out", str(out), "--atrous_rates=", "--decoder="]
  for wrong in (_REGISTERS, "vit_base_patch14_dinov2", _V3):
    assert main([*arguments, "--model", wrong]) != 0
    message = capsys.readouterr().err
    assert f"backbone: {wrong!r}, but the variables have {_V2!r}" in message
  assert main(arguments) == 0
  assert "positions_of 'authors'" in capsys.readouterr().out
  assert checkpoints.read_model(out).positions_of == "authors"


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    (_V2, {"pos_embed": np.zeros((1, 257, 128))},
     r"pos_embed must have 1369 positions, .* got 257"),
    (_V2, {"reg_token": np.zeros((1, 2, 128))},
     r"of 4 blocks with 128 channels, patches of 14 pixels, 2 registers and"
     r" 1369 learned positions; known are vit_small"),
    (_V2, {"blocks.4.norm1.weight": np.zeros(128)}, "of 5 blocks with 128"),
    (_V3, {"blocks.0.mlp.gate_proj.weight": np.zeros((8, 8))},
     r"gated layers \(blocks.0.mlp.gate_proj.weight\)"),
    (_V3, {"blocks.0.attn.qkv.bias": np.ones(384)},
     r"blocks.0.attn.qkv.bias must be 0 for keys"),
    (_V2, {"blocks.0.attn.gate.weight": np.ones((1, 1))},
     r"looks like DINOv2 or DINOv3, but has unexpected names: .*gate"),
  ],
)  # fmt: skip
def test_other_transformers_are_refused(name, change, message):
  with pytest.raises(ValueError, match=message):
    to_official(_state(name) | change)


def test_other_periods_are_refused():
  state = _as_authors(_state(_V3))
  state["rope_embed.periods"] = np.ones(16)
  with pytest.raises(ValueError, match=r"periods must be 100 \*\* .* got 1, 1"):
    usual_arguments(state)


def test_registers_where_none_are_expected_are_refused():
  model = DeepLab(3, _V2, **_HEADLESS)
  with pytest.raises(ValueError) as error:
    from_torch(_state(_REGISTERS), model, parts="backbone")
  assert str(error.value) == (
    f"backbone is {_V2!r} in the model, but the state dict is of {_REGISTERS!r}"
  )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"positions_of": "dino"}, "positions_of must be one of .*; got 'dino'"),
    ({"backbone": "resnet_50", "positions_of": "authors"}, "has no positions"),
    ({"output_stride": 14}, "output_stride must be 8, 16 or 32; got 14"),
    ({"width_multiplier": 2}, "has one width"),
  ],
)
def test_bad_arguments_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    DeepLab(**{"num_classes": 3, "backbone": _V2} | arguments)


def test_pictures_below_a_patch_are_refused_with_whole_patches():
  module = build_backbone(_V2, output_stride=16, whole_patches=True)
  with pytest.raises(ValueError, match=r"14 pixels or more .* got 13 x 40"):
    module.init(jax.random.key(0), jnp.zeros((1, 13, 40, 3)), False)


# -------------------------------------------------------------- around networks


def test_units_have_the_stride_of_their_patches():
  for name, stride in ((_V2, 14), (_V3, 16)):
    units = backbone_units(name, 1.0)
    blocks = [f"block{i}" for i in range(4)]
    assert list(units) == ["embed", *blocks, "last_norm"]
    assert set(units.values()) == {stride}


def test_multiply_adds_are_as_by_hand():
  counts = multiply_adds(DeepLab(3, _REGISTERS, **_HEADLESS), (29, 57))
  patches, tokens, c = 3 * 5, 3 * 5 + 5, 128
  block = tokens * 12 * c**2 + 2 * tokens**2 * c
  assert counts.by_module["backbone/embed"] == patches * 14 * 14 * 3 * c
  assert counts.by_module["backbone/block1"] == block
  assert counts.by_module["backbone/block1/attention/products"] == (
    2 * tokens**2 * c
  )
  tree = abstract_variables(counts.model, (1, 29, 57, 3))
  sizes = [leaf.size for leaf in jax.tree.leaves(tree["params"])]
  assert counts.parameters == sum(sizes)


@pytest.mark.slow
def test_gradients_reach_all_and_paths_are_dropped():
  module = build_backbone(_REGISTERS, output_stride=16, drop_path_rate=0.5)
  images = jnp.asarray(_images()).repeat(2, 0)
  variables = random_variables(module, images, False)

  @jax.jit
  def run(params, seed):
    rngs = {"dropout": jax.random.key(seed)}
    x, _ = module.apply({"params": params}, images, False, rngs=rngs)
    return jnp.square(x * jnp.arange(x.size).reshape(x.shape)).sum()

  run = jax.jit(jax.value_and_grad(run))
  runs = [run(variables["params"], seed) for seed in (0, 1, 0)]
  assert runs[0][0] == runs[2][0] != runs[1][0]
  largest = jax.tree.map(
    lambda *found: max(np.abs(x).max() for x in found), *(r[1] for r in runs)
  )
  still = [
    jax.tree_util.keystr(path)
    for path, value in jax.tree_util.tree_leaves_with_path(largest)
    if not value > 0
  ]
  assert not still


@pytest.mark.slow
def test_bfloat16_is_near_float32():
  images, found = _images(), {}
  for dtype in (jnp.float32, jnp.bfloat16):
    module = build_backbone(_V3, output_stride=16, dtype=dtype)
    x, low = jax.jit(lambda v, x, m=module: m.apply(v, x, False))(
      _variables(_V3), images
    )
    assert x.dtype == low["conv2"].dtype == dtype
    found[dtype] = np.asarray(x, np.float32)
  error = np.abs(found[jnp.bfloat16] - found[jnp.float32])
  assert error.mean() < 0.03 * np.abs(found[jnp.float32]).mean()


def _job(name, **options):
  return exported.make_job(DeepLab(3, name, **_HEADLESS), **options)


@pytest.mark.parametrize("name", [_V2, _V3])
def test_onnx_files_of_one_size_equal_the_definition(name):
  exported.onnx_packages()
  job = _job(name, sizes=((37, 50),))
  exported.assert_equals_definition(job, exported.open_onnx(job), (37, 50))


@pytest.mark.slow
@pytest.mark.parametrize("name", [_V2, _V3])
def test_other_files_of_one_size_equal_the_definition(name):
  exported.tflite_packages()
  job = _job(name, sizes=((37, 50),))
  opened = as_tflite.open_file(as_tflite.make(job), job)
  exported.assert_equals_definition(job, opened, (37, 50))
  opened = exported.open_stablehlo(job)
  exported.assert_equals_definition(job, opened, (37, 50))


@pytest.mark.parametrize("format", [as_onnx, as_stablehlo])
def test_files_of_any_size_are_refused(format):
  with pytest.raises(ValueError, match=r"given sizes alone, .* --size HxW"):
    format.make(_job(_V2))
