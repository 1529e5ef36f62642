"""Labelling by several processes: shares, tar files, lists, resuming."""

import functools
import io
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from deeplab_jax import predict
from deeplab_jax.predict import shares, sources
from deeplab_jax.predict.shares import Share


def _png(value: int) -> bytes:
  stream = io.BytesIO()
  Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(stream, "PNG")
  return stream.getvalue()


def _shard(path: pathlib.Path, values: range) -> pathlib.Path:
  """A shard as WebDataset writes it: pictures and what belongs to them."""
  with tarfile.open(path, "w") as tar:
    for value in values:
      for name, content in (("png", _png(value)), ("cls", b"1")):
        info = tarfile.TarInfo(f"{value:04}.{name}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
  return path


def test_pictures_of_a_tar_file_are_read_as_files_are(tmp_path):
  shard = _shard(tmp_path / "train-0.tar", range(3))
  jobs = predict.find_jobs([shard], tmp_path / "out")
  assert [job.name for job in jobs] == [
    f"train-0/{value:04}.png" for value in range(3)
  ]
  for value, job in enumerate(jobs):
    assert (predict.read_image(job.source) == value).all()
    assert str(job.source) == f"{shard}/{value:04}.png"


def test_a_path_in_a_tar_file_leads_nowhere_else(tmp_path):
  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    info = tarfile.TarInfo("/../../b/./c.png")
    info.size = len(_png(1))
    tar.addfile(info, io.BytesIO(_png(1)))
  (job,) = predict.find_jobs([tmp_path / "a.tar"], tmp_path / "out")
  assert job.name == "a/b/c.png"


@pytest.mark.parametrize(
  ("name", "content", "says"),
  [
    ("a.tar", b"no tar" * 200, "no tar file, or cut off"),
    ("a.tar", None, "no pictures in"),
    ("a.tar.gz", b"", "must not be compressed"),
    ("a.tgz", b"", "must not be compressed"),
  ],
)
def test_tar_files_that_cannot_be_used_are_refused(
  tmp_path, name, content, says
):
  path = tmp_path / name
  if content is None:
    _shard(path, range(0))
  else:
    path.write_bytes(content)
  with pytest.raises(ValueError, match=says) as caught:
    predict.find_jobs([path], tmp_path / "out")
  assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_shares_are_disjoint_and_have_all(tmp_path):
  shard = _shard(tmp_path / "a.tar", range(7))
  for value in range(5):
    (tmp_path / f"{value}.png").write_bytes(_png(value))
  inputs = [shard, *sorted(tmp_path.glob("*.png"))]
  jobs = predict.find_jobs(inputs, tmp_path / "out")
  for count in (1, 2, 5, 20):
    parts = [shares.of_share(jobs, Share(i, count)) for i in range(count)]
    taken = [job for part in parts for job in part]
    assert len(taken) == len(set(taken)) == 12
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
  ("environment", "share"),
  [
    ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, (3, 8)),
    (
      {
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_TASK_COUNT": "3",
        "SLURM_ARRAY_TASK_MIN": "1",
      },
      (2, 3),
    ),
    ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
    ({"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "4"}, (0, 4)),
    ({"JAX_PROCESS_ID": "5", "JAX_NUM_PROCESSES": "6"}, (5, 6)),
  ],
)
def test_auto_takes_the_share_of_the_environment(
  monkeypatch, environment, share
):
  for pair in shares._NUMBERS:
    for name in pair:
      monkeypatch.delenv(name, raising=False)
  with pytest.raises(ValueError, match="--share auto needs one of these"):
    shares.parse("auto")
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert shares.parse("auto") == share


@pytest.mark.parametrize(
  "text", ["8", "8/8", "-1/8", "0/0", "a/b", "1/2/3", ""]
)
def test_a_wrong_share_is_refused(text):
  with pytest.raises(ValueError, match="--share must be INDEX/COUNT"):
    shares.parse(text)


def test_what_is_whole_is_left_out_and_half_a_file_is_not(tmp_path):
  for value in range(4):
    (tmp_path / f"{value}.png").write_bytes(_png(value))
  jobs = predict.find_jobs(sorted(tmp_path.glob("*.png")), tmp_path / "out")
  kinds = ["labels", "probabilities"]
  for folder, ending in (("labels", ".png"), ("probabilities", ".npy")):
    (tmp_path / "out" / folder).mkdir(parents=True)
    for value in (0, 1):
      (tmp_path / "out" / folder / f"{value}{ending}").touch()
  (tmp_path / "out" / "probabilities" / "1.npy").unlink()
  (tmp_path / "out" / "labels" / ".2.png.partial").touch()
  wanted = functools.partial(predict.results_of, kinds=kinds)
  left = shares.undone(jobs, tmp_path / "out", wanted)
  assert [job.name for job in left] == ["1.png", "2.png", "3.png"]


def test_other_settings_are_not_mixed(tmp_path):
  shares.require_same_settings(tmp_path, {"flip": False, "scales": (1,)}, True)
  shares.require_same_settings(tmp_path, {"flip": False, "scales": (1,)}, True)
  with pytest.raises(ValueError, match="flip: False -> True") as caught:
    shares.require_same_settings(tmp_path, {"flip": True, "scales": (1,)}, True)
  assert "\n" not in str(caught.value)
  shares.require_same_settings(tmp_path, {"flip": True, "scales": (1,)}, False)


def test_the_last_share_adds_up(tmp_path):
  facts = {"pictures": 3, "done": 2, "skipped": 0, "seconds": 1.5}
  failed = facts | {"failures": ["a.png: broken"]}
  fine = facts | {"done": 3, "skipped": 0, "seconds": 0.5, "failures": []}
  assert shares.write_summary(tmp_path, Share(1, 2), failed) is None
  total = shares.write_summary(tmp_path, Share(0, 2), fine)
  assert total == {
    "pictures": 6,
    "done": 5,
    "skipped": 0,
    "shares": 2,
    "seconds": 1.5,
    "failures": ["a.png: broken"],
  }
  assert shares.write_summary(tmp_path, Share(1, 2), failed) == total


def test_a_list_names_pictures_folders_and_tar_files(tmp_path):
  (tmp_path / "list").write_text("# pictures\n\na b.png \nfolder\n")
  assert sources.read_list(tmp_path / "list") == ["a b.png", "folder"]
  (tmp_path / "list").write_text("\n# none\n")
  with pytest.raises(ValueError, match=r"--list .*list names no picture"):
    sources.read_list(tmp_path / "list")
