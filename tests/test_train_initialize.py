"""Weights to start from that do not fit: one line, before any long work."""

import types

import pytest

from deeplab_jax import checkpoints, train
from deeplab_jax import config as config_lib
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.doctor import config_checks
from deeplab_jax.models import Classifier, DeepLab
from deeplab_jax.train.initialize import check_start, terms_of_use

_ARGUMENTS = {
  "backbone": "mobilenet_v2",
  "width_multiplier": 0.25,
  "atrous_rates": (),
  "decoder": (),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """Gives the path of a model, of which nothing but `model.json` is read."""
  folder = tmp_path_factory.mktemp("models")

  def store(kind=DeepLab, **arguments) -> str:
    path = folder / str(len(list(folder.iterdir())))
    if kind is DeepLab:
      arguments = _ARGUMENTS | arguments
    model = kind(num_classes=3, **arguments)
    checkpoints.save_model(path, model, {"params": {"x": {"y": [1.0]}}})
    return str(path)

  return store


def _config(path, parts="all", **arguments):
  config = config_lib.base_config()
  config.update(init_from=path, init_parts=parts)
  config.model.update(_ARGUMENTS | arguments)
  return config


@pytest.mark.parametrize(
  ("parts", "arguments", "found", "flags"),
  [
    (
      "all",
      {"width_multiplier": 0.5},
      "has width_multiplier 0.5;",
      "--config.model.width_multiplier=0.25",
    ),
    (
      "backbone",
      {"width_multiplier": 0.5, "decoder": ("conv2",)},
      "has width_multiplier 0.5;",
      "--config.model.width_multiplier=0.25",
    ),
    (
      "all",
      {"decoder": ("conv2",)},
      "has decoder ('conv2',);",
      "'--config.model.decoder=()'",
    ),
    (
      "all",
      {"atrous_rates": (2, 4), "image_pooling": False},
      "has atrous_rates (2, 4), image_pooling False;",
      "'--config.model.atrous_rates=()' --config.model.image_pooling=True",
    ),
    # Weights fit, but what is made of them differs.
    (
      "all",
      {"half_pixel": True, "pad_input": False, "output_stride": 8},
      "has half_pixel True, pad_input False;",
      "--config.model.half_pixel=False --config.model.pad_input=True",
    ),
  ],
)
def test_fields_that_differ_are_named_with_what_to_set(
  start, parts, arguments, found, flags
):
  path = start()
  config = _config(path, parts, **arguments)
  with pytest.raises(ValueError) as caught:
    check_start(config)
  message = str(caught.value)
  assert message == (
    f"config.init_from={path} holds another network than config.model, which "
    f"{found} set {flags}"
  )
  codes = [finding.code for finding in config_checks.before_data(config)]
  assert "config" in codes


@pytest.mark.parametrize(
  ("parts", "arguments"),
  [
    ("all", {}),
    ("all", {"output_stride": 8, "dropout_rate": 0.0}),
    ("all", {"decoder_convs": ((3, 8),)}),  # there is no decoder
    (
      "backbone",
      {"decoder": ("conv2",), "atrous_rates": (1, 2), "half_pixel": True},
    ),
  ],
)
def test_what_the_weights_fit_is_not_refused(start, parts, arguments):
  check_start(_config(start(), parts, **arguments))


def test_other_rates_fit_as_many_kernels(start):
  path = start(atrous_rates=(3, 6))
  check_start(_config(path, atrous_rates=(1, 2)))


def test_where_rates_begin_is_of_the_backbone(start):
  arguments = {"backbone": "resnet_50_torch", "width_multiplier": 1.0}
  path = start(rates_from="same_unit", **arguments)
  for parts in ("all", "backbone"):
    with pytest.raises(
      ValueError, match=r"set --config\.model\.rates_from=same"
    ):
      check_start(_config(path, parts, **arguments))


def test_a_classifier_gives_its_backbone_alone(start):
  path = start(Classifier, backbone="mobilenet_v2", width_multiplier=0.25)
  check_start(_config(path, "backbone"))
  with pytest.raises(ValueError, match="init_parts must be 'backbone' where"):
    check_start(_config(path))


def test_a_run_is_refused_before_data_is_built(start, tmp_path):
  config = _config(start(), width_multiplier=0.5)
  config.data.update(name="shapes", data_dir=str(tmp_path / "data"))
  with pytest.raises(ValueError, match=r"set --config\.model\.width"):
    train.train_and_evaluate(config, tmp_path / "run")
  assert not (tmp_path / "data").exists()


def test_the_licence_of_the_weights_goes_with_what_is_trained(tmp_path):
  def stored(name, license):
    checkpoints.write_model_json(
      tmp_path / name, DeepLab(3, **_ARGUMENTS), license=license
    )
    return str(tmp_path / name)

  def terms(init_from, workdir="none"):
    dataset = types.SimpleNamespace(info=DATASETS["camvid"])
    return terms_of_use(tmp_path / workdir, _config(init_from), dataset)

  own = DATASETS["camvid"].license
  assert terms("") == own
  assert terms(stored("free", "")) == own  # nothing is known of them
  found = terms(stored("given", "for research"))
  assert found == (
    f"{own}; of the weights that training started from: for research"
  )
  # A run that goes on keeps it, wherever its first weights have gone.
  stored("run", found)
  assert terms(str(tmp_path / "gone"), "run") == found
  assert terms(str(tmp_path / "gone")) == own
  # What has begun on the same data does not say it twice.
  assert terms(stored("same", own)) == own
