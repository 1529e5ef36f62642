"""One picture, one answer: by definition, by `Segmenter`, by evaluation.

The definition is the network applied to the picture alone, padded to its crop:
no canvas, no batch, nothing folded. A network that is registered is in these
tests by being registered.
"""

import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deeplab_jax import config as config_lib
from deeplab_jax import evaluate, import_weights, inference
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.data.source import open_dataset
from deeplab_jax.evaluate import loop
from deeplab_jax.inference import crops
from deeplab_jax.inference.protocol import Protocol
from deeplab_jax.models import BACKBONES, DeepLab, preprocess, vit
from deeplab_jax.models.arguments import HEADS, LITE_HEADS
from deeplab_jax.models.ops.resize import resize_bilinear
from deeplab_jax.models.trace import shapes_of
from tests import heads_of_others
from tests.every_backbone import EVERY_BACKBONE, ONE_OF_EACH
from tests.random_variables import abstract_variables, random_variables
from tests.tiny_segmenter import COLORS, NAMES, random_image

pytestmark = pytest.mark.usefixtures("tiny_backbone")
SIZES = ((40, 90), (65, 33))  # with padding to a crop, and without
_CUSTOM = {
  heads_of_others.StripPooling: False,
  heads_of_others.FlaxLayers: False,
  heads_of_others.RateBySize: False,
  heads_of_others.SizeOfInput: False,
  heads_of_others.Coordinates: False,
  heads_of_others.FixedGrid: False,
  heads_of_others.PreActivation: True,
  heads_of_others.SpatialActivation: False,
}
# Kept to a crop, and compiled for every crop: the others do as the latter.
_QUICK_CUSTOM = {heads_of_others.PreActivation, heads_of_others.RateBySize}


def _network(**arguments) -> DeepLab:
  return DeepLab(**{"num_classes": len(NAMES)} | arguments)


def _small(**arguments) -> DeepLab:
  return _network(**{"backbone": "tiny"} | arguments)


_VARIANTS = {
  "no decoder": {"decoder": ()},
  "two decoders": {
    "decoder": ("conv3", "conv2"),
    "decoder_convs": ((3, 16), (1, 8)),
    "decoder_separable": False,
  },
  "dense branches": {"aspp_separable": False, "output_stride": 8},
  "no branches": {"atrous_rates": (), "output_stride": 32},
  "no pooling": {"image_pooling": False, "decoder": ("conv4",)},
  "as torch's": {
    "half_pixel": True,
    "pad_input": False,
    "aspp_channels": 24,
    "head_convs": ((3, 32),),
    "separable_norm": False,
  },
  "as they are": {"pad_input": False, "decoder": ()},
  **{f"head {head}": {"head": head, "decoder": ("conv3",)} for head in HEADS},
}


@functools.cache
def _variables(model):
  """Random ones whose logits reach 10: rounding is relative to the largest,
  and softmax makes of a thousandth of a logit what the tests would see."""
  image = preprocess(random_image(65, 65)[None], model.backbone)
  variables = random_variables(model, image)
  largest = jnp.abs(jax.jit(model.apply)(variables, image)).max()

  def scale(layer):
    shape = getattr(layer.get("bias"), "shape", None)
    if shape == (model.num_classes,) and "scale" not in layer:
      return jax.tree.map(lambda x: x * 10 / largest, layer)
    return {
      name: scale(x) if isinstance(x, dict) else x for name, x in layer.items()
    }

  return variables | {"params": scale(variables["params"])}


def _definition(model, variables, image, protocol):
  """Probabilities (h, w, classes), the plain way, and by how much others may
  differ: what 1e-4 of the largest logit can do to them."""
  height, width = image.shape[:2]
  crop = protocol.crop((height, width), model.crop_stride)
  padded = np.zeros((1, *crop, 3), np.float32)
  normal = preprocess(image[None], model.backbone)
  padded[:, :height, :width] = normal
  logits = jax.jit(model.apply)(variables, padded)
  logits = resize_bilinear(logits, crop, model.half_pixel)
  logits = logits[0, :height, :width]
  tolerance = 1e-4 * max(1, float(jnp.abs(logits).max())) / 2
  return np.asarray(jax.nn.softmax(logits)), tolerance


def _check(found_labels, expected):
  """Labels are those of `expected` where its two largest differ clearly.

  Returns which pixels these are.
  """
  top = np.sort(expected, axis=-1)
  clear = top[..., -1] - top[..., -2] > 1e-4
  differs = found_labels != expected.argmax(-1)
  assert not (differs & clear).any(), (differs & clear).sum()
  return clear.ravel()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """Pictures of all sizes, twice over, in mixed order."""
  root = tmp_path_factory.mktemp("answer") / "pictures"
  _write_pictures(root, SIZES + SIZES[::-1])
  return root


def _write_pictures(root, sizes):
  for kind in ("images", "masks"):
    (root / kind).mkdir(parents=True)
  for index, size in enumerate(sizes):
    image = random_image(*size, seed=index)
    Image.fromarray(image).save(root / f"images/{index}.png")
    mask = image[..., 0] % len(NAMES)
    mask[0, 0] = len(NAMES) - 1
    Image.fromarray(mask).save(root / f"masks/{index}.png")
  (root / "classes.txt").write_text("\n".join(NAMES))
  names = "".join(f"{index}\n" for index in range(len(sizes)))
  for split in ("train", "val"):
    (root / f"{split}.txt").write_text(names)


@pytest.fixture(scope="module")
def dataset(folder):
  return open_dataset(_config(folder).data)


def _config(folder, batch_size=1, tile=0, **settings):
  config = config_lib.base_config()
  config.data.update(
    name="folder", path=str(folder), data_dir=f"{folder}_built"
  )
  limits = {"tile": tile, "max_pixels": tile and 1}
  pictures = len(list((folder / "images").iterdir()))
  config.eval.update(
    batch_size=batch_size, pictures=pictures, **limits, **settings
  )
  return config


def _evaluated(model, variables, folder, dataset, **settings):
  """Label maps by the name of the picture."""
  evaluation = evaluate.evaluate(
    model,
    variables,
    _config(folder, **settings),
    dataset=dataset,
    show_progress=True,
  )
  assert evaluation.num_images == len(evaluation.examples)
  return {
    example.name: (example.image, example.predictions)
    for example in evaluation.examples
  }


def _assert_one_answer(
  model, folder, dataset, batch_sizes=(1, 4), is_random=False
):
  """At 1e-4, and nearly every pixel of each picture has a clear label; by what
  the promise says, and a tenth of all pixels, of networks that `is_random`:
  they may hardly tell classes apart in pictures of a few pixels."""
  variables = _variables(model)
  protocol = Protocol()
  segmenter = inference.Segmenter(
    model, variables, class_names=NAMES, colors=COLORS
  )
  results = [
    _evaluated(model, variables, folder, dataset, batch_size=size)
    for size in batch_sizes
  ]
  names = sorted(results[0])
  assert len(names) == len(list((folder / "images").iterdir()))
  clear = []
  for name in names[: len(names) // 2]:  # the others have the same sizes
    image = results[0][name][0]
    expected, tolerance = _definition(model, variables, image, protocol)
    found = segmenter.outputs(image, "labels", "probabilities")
    if not is_random:
      tolerance = 1e-4
      clear.append(_check(segmenter(image), expected))
    np.testing.assert_allclose(found["probabilities"], expected, atol=tolerance)
    for labels in (found["labels"], *(result[name][1] for result in results)):
      clear.append(_check(labels, expected))
  if is_random:
    assert np.concatenate(clear).mean() > 0.1
  else:
    assert min(map(np.mean, clear)) > 0.9


@pytest.mark.parametrize("head", _CUSTOM, ids=lambda head: head.__name__)
def test_heads_of_others_are_kept_to_a_crop_or_not(monkeypatch, head):
  monkeypatch.setattr("deeplab_jax.models.deeplab.ASPP", head)
  model = _small(decoder=())
  images = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32)
  variables = shapes_of(model.init, jax.random.key(0), images)
  reason = crops.why_not_confinable(model, variables)
  assert (reason is None) == _CUSTOM[head], reason


@pytest.mark.parametrize(
  "head",
  [
    pytest.param(head, marks=[pytest.mark.slow] * (head not in _QUICK_CUSTOM))
    for head in _CUSTOM
  ],
  ids=lambda head: head.__name__,
)
def test_heads_of_others_answer_as_defined(monkeypatch, folder, dataset, head):
  monkeypatch.setattr("deeplab_jax.models.deeplab.ASPP", head)
  _forget_networks()
  _assert_one_answer(_small(decoder=()), folder, dataset, batch_sizes=(2,))
  _forget_networks()


def test_what_a_network_does_on_large_canvases_only_is_found_late(
  monkeypatch, folder, dataset
):
  monkeypatch.setattr(
    "deeplab_jax.models.deeplab.ASPP", heads_of_others.OtherwiseWhenLarge
  )
  monkeypatch.setattr(crops, "_SIZES", ((1, 2), (3, 2)))
  _forget_networks()
  model = _small(decoder=())
  assert crops.why_not_confinable(model, _variables(model)) is None
  _assert_one_answer(model, folder, dataset, batch_sizes=(2,))
  segmenter = inference.Segmenter(
    model, _variables(model), class_names=NAMES, colors=COLORS
  ).compile(*SIZES)
  before = segmenter.num_compilations
  segmenter(random_image(*SIZES[-1]))
  assert segmenter.num_compilations == before
  _forget_networks()


def _forget_networks():
  """These are equal but for what was put into them."""
  _variables.cache_clear()
  loop._make_step.cache_clear()
  abstract_variables.cache_clear()


@pytest.mark.parametrize(
  "variant", ["two decoders", "head lraspp", "as torch's"]
)
def test_network_answers_as_defined(folder, dataset, variant):
  model = _small(**_VARIANTS[variant])
  batch_sizes = (1, 4) if variant == "two decoders" else (3,)
  _assert_one_answer(model, folder, dataset, batch_sizes)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_answers_as_defined(folder, dataset, backbone):
  _assert_one_answer(_network(backbone=backbone), folder, dataset)


@pytest.mark.slow
@pytest.mark.parametrize("variant", _VARIANTS)
@pytest.mark.parametrize("backbone", ONE_OF_EACH)
@pytest.mark.usefixtures("shallow_backbones")
def test_every_network_answers_as_defined(folder, dataset, backbone, variant):
  """Of every kind of unit; the random networks below are of all backbones."""
  _forget_networks()
  model = _network(backbone=backbone, **_VARIANTS[variant])
  _assert_one_answer(model, folder, dataset)
  _forget_networks()


@pytest.mark.parametrize("backbone", EVERY_BACKBONE)
@pytest.mark.usefixtures("shallow_backbones")
def test_every_backbone_can_be_kept_to_a_crop(backbone):
  model = _network(backbone=backbone)
  images = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32)
  variables = shapes_of(model.init, jax.random.key(0), images)
  reason = crops.why_not_confinable(model, variables)
  if backbone in ("mobilenet_v2_padded_torch", "mobilenet_v2_valid_torch"):
    assert reason  # the borders are no zeros
  elif backbone in vit.VARIANTS:
    assert reason  # attention sees all of the canvas
  else:
    assert reason is None


@pytest.mark.parametrize("variant", _VARIANTS)
def test_heads_and_decoders_can_be_kept_to_a_crop(variant):
  model = _small(**_VARIANTS[variant])
  reason = crops.why_not_confinable(model, _variables(model))
  if model.head == "lraspp":  # its windows cover the canvas
    assert "reduce_window" in reason
  elif not model.pad_input:
    assert "size" in reason
  else:
    assert reason is None


@pytest.mark.parametrize(
  "settings",
  [
    {"scales": (0.5, 1.25), "flip": True},
    {"tile": 65},
    {"output_stride": 8},
  ],
)
def test_settings_mean_the_same_behind_every_door(folder, dataset, settings):
  model = _small(decoder=())
  variables = _variables(model)
  options = dict(settings)
  stride = options.pop("output_stride", 16)
  if "tile" in options:
    options["max_pixels"] = 1
  segmenter = inference.Segmenter(
    model.clone(output_stride=stride),
    variables,
    class_names=NAMES,
    colors=COLORS,
    **options,
  )
  result = _evaluated(
    model, variables, folder, dataset, batch_size=3, **settings
  )
  clear = [
    _check(labels, segmenter.probabilities(image))
    for image, labels in result.values()
  ]
  assert min(map(np.mean, clear)) > 0.9


def _random_networks(count):
  """Networks of random arguments, and random sizes of pictures."""
  random = np.random.default_rng(0)
  for index in range(count):
    head = str(random.choice(HEADS, p=[0.7, 0.1, 0.1, 0.1]))
    stride = int(random.choice([8, 16, 32]))
    backbone = str(random.choice(list(BACKBONES)))
    decoders = [("conv2",), ("conv3",), ("conv3", "conv2"), ("conv4",), ()]
    decoder = ("conv3",) if head in LITE_HEADS else decoders[random.integers(5)]
    rates = random.integers(1, 10, random.integers(0, 4)) * 2
    sizes = random.integers(1, 200, (2, 2))
    width = float(random.choice([0.25, 0.5]))
    yield (
      index,
      tuple(map(tuple, sizes.tolist())),
      {
        "backbone": backbone,
        "head": head,
        "output_stride": stride,
        "decoder": decoder,
        "atrous_rates": tuple(rates.tolist()),
        "aspp_separable": bool(random.integers(2)),
        "decoder_separable": bool(random.integers(2)),
        "image_pooling": bool(random.integers(2)) or not len(rates),
        "width_multiplier": width if BACKBONES[backbone].has_width else 1.0,
      },
    )


@pytest.mark.slow
@pytest.mark.parametrize("index, sizes, arguments", list(_random_networks(200)))
def test_random_networks_answer_as_defined(
  request, tmp_path, index, sizes, arguments
):
  """A quarter of them at full depth, the others of few units of every kind."""
  if index % 4:
    request.getfixturevalue("shallow_backbones")
  folder = tmp_path / "pictures"
  _write_pictures(folder, sizes + sizes[::-1])
  dataset = open_dataset(_config(folder).data)
  model = _network(**arguments)
  _assert_one_answer(
    model, folder, dataset, batch_sizes=(1 + index % 4,), is_random=True
  )
  _forget_networks()
  jax.clear_caches()  # each is a quarter of a gigabyte


@pytest.mark.slow
def test_a_large_picture_among_others_changes_no_label(shared, tmp_path):
  sample = shared / "data/voc2012-sample"
  root = tmp_path / "pictures"
  (listed,) = sample.rglob("ImageSets/Segmentation/val.txt")
  (folder,) = sample.rglob("SegmentationClass")
  masks = [folder / f"{name}.png" for name in listed.read_text().split()]
  labels = {}
  for large in (False, True):
    folder = root.with_name(f"pictures_{large}")
    for kind in ("images", "masks"):
      (folder / kind).mkdir(parents=True)
    for mask in masks:
      image = mask.parents[1] / f"JPEGImages/{mask.stem}.jpg"
      shutil.copy(image, folder / "images")
      shutil.copy(mask, folder / "masks")
    if large:
      image = Image.open(image).resize((2000, 1500))
      image.save(folder / "images/large.jpg")
      Image.open(mask).resize((2000, 1500)).save(folder / "masks/large.png")
    labels[large] = _voc_labels(folder, shared)
  assert len(labels[False]) == 50 and len(labels[True]) == 51
  for name, expected in labels[False].items():
    np.testing.assert_array_equal(labels[True][name], expected)


def _voc_labels(folder, shared):
  """Label maps of all pictures in `folder` by the released MobileNetV2 x0.5."""
  (folder / "classes.yaml").write_text(
    f"classes: {list(DATASETS['voc2012'].class_names)}\nignore_label: 255\n"
  )
  names = sorted(path.stem for path in (folder / "images").iterdir())
  for split in ("train", "val"):
    (folder / f"{split}.txt").write_text("\n".join(names))
  model = DeepLab(
    num_classes=21,
    backbone="mobilenet_v2",
    width_multiplier=0.5,
    atrous_rates=(),
    decoder=(),
  )
  weights = shared / "weights/deeplabv3_mnv2_dm05_pascal_trainaug"
  with np.load(weights / "variables.npz") as arrays:
    variables = import_weights.from_tensorflow(dict(arrays), model)
  config = _config(folder, batch_size=4)
  config.eval.pictures = len(names)
  found = evaluate.evaluate(model, variables, config, least_crop=(513, 513))
  return {picture.name: picture.predictions for picture in found.examples}
