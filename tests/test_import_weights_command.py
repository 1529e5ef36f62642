"""The import command: releases, downloads, model directories, messages."""

import io
import json
import tarfile

import jax
import numpy as np
import pytest

from deeplab_jax import checkpoints
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.import_weights import (
  from_tensorflow,
  official_shapes,
  read,
  releases,
)
from deeplab_jax.import_weights.__main__ import main
from deeplab_jax.import_weights.download import download
from deeplab_jax.import_weights.releases import RELEASES
from deeplab_jax.models import DeepLab
from tests.served import serve

SMALL = {"width_multiplier": 0.5, "atrous_rates": (), "decoder": ()}


@pytest.fixture(scope="module")
def graph(shared):
  folder = "deeplabv3_mnv2_dm05_pascal_trainaug"
  return shared / "weights" / folder / "frozen_inference_graph.pb"


@pytest.fixture(scope="module")
def quantised(shared):
  folder = "mobilenet_v2_1.0_224_imagenet_ptq"
  return shared / "weights" / folder / "weights_int8.npz"


def _run(*arguments) -> int:
  return main([str(argument) for argument in arguments])


def test_file_becomes_a_model_directory(graph, tmp_path):
  assert _run(graph, "--model", "mobilenet_v2", "--out", tmp_path / "m") == 0
  model, variables, facts = checkpoints.load_variables(tmp_path / "m")
  assert model == DeepLab(21, "mobilenet_v2", **SMALL)
  wanted = from_tensorflow(read(graph), model)
  jax.tree.map(np.testing.assert_array_equal, variables, wanted)
  assert facts["dataset"]["class_names"][20] == "class 20"
  assert facts["source"].startswith(f"{graph} (sha256 63cefc9e94c55557ca54")
  assert facts["evaluation"] == {}


def test_release_carries_its_facts(graph, tmp_path, capsys):
  name = "mobilenetv2_dm05_coco_voc_trainaug"
  assert _run(name, "--archive", graph, "--out", tmp_path / "m") == 0
  assert "total                 272" in capsys.readouterr().out
  facts = json.loads((tmp_path / "m" / "model.json").read_text())
  assert facts["model"]["output_stride"] == 16
  assert facts["dataset"]["name"] == "voc2012"
  assert facts["dataset"]["class_names"][15] == "person"
  assert facts["dataset"]["colors"][15] == [192, 128, 128]
  assert facts["dataset"]["ignore_label"] == 255
  assert facts["preprocessing"]["mean"] == [127.5] * 3
  assert facts["license"].startswith("Apache-2.0")
  assert RELEASES[name].url in facts["source"]
  assert facts["evaluation"]["crop_size"] == [513, 513]
  (result,) = facts["evaluation"]["results"]
  assert (result["output_stride"], result["miou"]) == (16, 70.19)


def test_other_data_set_redraws_the_logits(graph, tmp_path, capsys):
  arguments = (graph, "--dataset", "camvid", "--out", tmp_path / "m")
  assert _run(*arguments) == 0
  row = capsys.readouterr().out.splitlines()[-3]
  assert row.split() == ["logits", "0", "2", "2"]
  model, _, facts = checkpoints.load_variables(tmp_path / "m")
  assert model.num_classes == 11
  assert facts["dataset"]["class_names"][0] == "Sky"


def test_imagenet_weights_become_a_backbone(quantised, tmp_path, capsys):
  head = ("--atrous_rates=6", "--decoder=conv3", "--decoder_convs=(3,32),(1,8)")
  assert _run(quantised, *head, "--out", tmp_path / "m") == 0
  model, variables, _ = checkpoints.load_variables(tmp_path / "m")
  assert model == DeepLab(
    21,
    "mobilenet_v2",
    atrous_rates=(6,),
    decoder=("conv3",),
    decoder_convs=((3, 32), (1, 8)),
  )
  kernel = variables["params"]["backbone"]["stem"]["kernel"]
  arrays = np.load(quantised)
  stored = arrays["MobilenetV2/Conv/weights"].astype(np.float32)
  scale = arrays["MobilenetV2/Conv/weights#scale"]
  np.testing.assert_array_equal(kernel, stored * scale)
  total = capsys.readouterr().out.splitlines()[-2].split()
  assert total == ["total", "255", "4", str(len(official_shapes(model)) - 255)]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      ["--model=xception_65", "--decoder=conv2"],
      "backbone: 'xception_65', but the variables have 'mobilenet_v2'; "
      "decoder: ('conv2',), but the variables have ()",
    ),
    (["--dataset=imagenet"], "dataset must be one of ade20k, "),
    (
      ["--dataset=camvid", "--num_classes=21"],
      "num_classes is 21, but the data set camvid has 11 classes",
    ),
    (["--output_stride=12"], "output_stride must be 8, 16 or 32; got 12"),
  ],
)
def test_contradictions_are_one_clear_error(
  graph, tmp_path, capsys, arguments, message
):
  assert _run(graph, *arguments, "--out", tmp_path / "m") == 1
  assert message in capsys.readouterr().err
  assert not (tmp_path / "m").exists()


def test_wrong_sources_are_one_clear_error(graph, tmp_path, capsys):
  out = ("--out", tmp_path / "m")
  cases = {
    ("xception65_voc",): "neither a file nor a released checkpoint; those are"
    " mobilenetv2_dm05_coco_voc_trainaug, ",
    ("edgetpu-deeplab",): "needs the EdgeTPU MobileNet backbone",
    ("xception65_coco_voc_trainaug", "--archive", graph): "the release"
    " xception65_coco_voc_trainaug and the weights contradict each other",
    ("xception65_coco_voc_trainaug", "--archive", "no.npz"): "no.npz does not"
    " exist",
  }
  for arguments, message in cases.items():
    assert _run(*arguments, *out) == 1
    assert message in capsys.readouterr().err


def test_lost_logits_are_not_drawn_silently(graph, tmp_path, capsys):
  arrays = read(graph)
  del arrays["logits/semantic/weights"]
  np.savez(tmp_path / "lost.npz", **arrays)
  assert _run(tmp_path / "lost.npz", "--out", tmp_path / "m") == 1
  assert "missing (1):\n  logits/semantic/weights" in capsys.readouterr().err


def test_existing_model_is_not_overwritten(graph, tmp_path, capsys):
  assert _run(graph, "--out", tmp_path) == 0
  assert _run(graph, "--out", tmp_path) == 1
  assert "holds a model already" in capsys.readouterr().err


@pytest.mark.parametrize("name", RELEASES)
def test_releases_describe_networks_and_data_sets_that_exist(name):
  release = RELEASES[name]
  assert release.dataset is None or release.dataset in DATASETS
  if not release.missing:
    DeepLab(21, **release.arguments)  # Checks its arguments.


def test_releases_are_those_of_the_model_zoo(shared):
  text = (shared / "reference" / "official-deeplab.md").read_text()
  rows = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in text.splitlines()
    if line.startswith("|")
  ]
  archives = {row[0]: row[1] for row in rows if len(row) == 8}
  del archives["name"], archives["---"]
  segmentation = {n: r for n, r in RELEASES.items() if r.dataset}
  assert {n: r.archive for n, r in segmentation.items()} == archives
  figures = {row[0]: row[3] for row in rows if row[0] in archives}
  for name, release in segmentation.items():
    mious = [f"{r.miou:.2f}".rstrip("0") for r in release.results]
    published = figures[name]
    assert all(miou in published for miou in mious), name
  assert all(release.archive in text for release in RELEASES.values())


@pytest.fixture
def site(tmp_path):
  """A folder and the address that serves it."""
  folder = tmp_path / "site"
  folder.mkdir()
  with serve(folder) as (address, _):
    yield folder, address


def _write_archive(path, member):
  with tarfile.open(path, "w:gz") as archive:
    archive.addfile(tarfile.TarInfo(member), io.BytesIO())


def test_download_is_kept_as_it_was_first(site, tmp_path):
  folder, address = site
  _write_archive(folder / "good.tar.gz", "model.ckpt.index")
  url = f"{address}/good.tar.gz"
  path = download(url, folder=tmp_path / "cache")
  assert path.read_bytes() == (folder / "good.tar.gz").read_bytes()
  (folder / "good.tar.gz").unlink()
  assert download(url, folder=tmp_path / "cache") == path
  _write_archive(path, "other.ckpt.index")
  with pytest.raises(ValueError, match=rf"{path} .*must be .*delete it to do"):
    download(url, folder=tmp_path / "cache")


def test_release_is_downloaded_into_the_cache_and_verified(
  graph, site, tmp_path, capsys, monkeypatch
):
  folder, address = site
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setattr(releases, "_URL", f"{address}/{{}}.tar.gz")
  name = "mobilenetv2_dm05_coco_voc_trainaug"
  archive = f"{RELEASES[name].archive}.tar.gz"
  with tarfile.open(folder / archive, "w:gz") as packed:
    packed.add(graph, "model/frozen_inference_graph.pb")
  assert _run(name, "--out", tmp_path / "first") == 0
  said = f"no checksum is published for {address}/{archive}; recorded sha256 "
  assert said in capsys.readouterr().out
  kept = tmp_path / "deeplab_jax" / archive
  assert kept.with_name(f"{archive}.sha256").is_file()
  _write_archive(kept, "model.ckpt.index")
  assert _run(name, "--out", tmp_path / "second") == 1
  error = capsys.readouterr().err
  assert error.startswith(f"error: {kept} from {address}/{archive}: its sha256")
  assert error.count("\n") == 1


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("absent", "404"),
    ("cut", r"the connection broke after \d+ of \d+ bytes"),
    ("page", "not a gzip file"),
    ("half", "Compressed file ended before the end-of-stream"),
    ("other", r"no checkpoint among its files \['README'\]"),
  ],
)
def test_broken_download_names_address_and_remedy(
  site, tmp_path, name, message
):
  folder, address = site
  _write_archive(folder / "cut.tar.gz", "model.ckpt.index")
  _write_archive(folder / "other.tar.gz", "README")
  whole = (folder / "cut.tar.gz").read_bytes()
  (folder / "half.tar.gz").write_bytes(whole[:-20])
  (folder / "page.tar.gz").write_text("<html>Not what you asked for</html>")
  url = f"{address}/{name}.tar.gz"
  with pytest.raises(ValueError, match=message) as error:
    download(url, folder=tmp_path / "cache")
  assert url in str(error.value)
  assert "--archive FILE" in str(error.value)
  assert not list((tmp_path / "cache").glob("*"))
