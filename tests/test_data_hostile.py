"""Folders made to hang, to fill the memory, or to run in circles."""

import gc
import gzip
import io
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from deeplab_jax import predict
from deeplab_jax.data import limits
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.source import open_dataset
from deeplab_jax.doctor import examine
from tests import doctor_scenes as scenes
from tests.test_data_headers import tiff


def _claim(path: pathlib.Path, side: int) -> None:
  """Lets the header of a PNG claim `side` x `side` pixels."""
  content = bytearray(path.read_bytes())
  content[16:24] = side.to_bytes(4, "big") * 2
  content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
  path.write_bytes(content)


def _claim_in_tiff(path: pathlib.Path, side: int) -> None:
  file = io.BytesIO()
  PIL.Image.new("L", (9, 7)).save(file, "TIFF")
  content = file.getvalue()
  for tag, old in ((256, 9), (257, 7)):
    before = tag.to_bytes(2, "little") + b"\4\0\1\0\0\0"
    assert before + old.to_bytes(4, "little") in content
    content = content.replace(
      before + old.to_bytes(4, "little"), before + side.to_bytes(4, "little")
    )
  path.unlink()
  path.with_suffix(".tif").write_bytes(content)


def _replace_by(path: pathlib.Path, make) -> None:
  path.unlink()
  make(path)


def _bomb(root):
  """Nine lists of nine of the one before: a billion names."""
  lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
  lines += [
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)
  ]
  (root / "classes.yaml").write_text("\n".join([*lines, "classes: *a9"]))


def _many_ways(root):
  """No circle, but 10 ** 8 ways from the first folder to the last."""
  folders = [root / "images" / f"deep{i}" for i in range(9)]
  for folder in folders:
    folder.mkdir()
  for folder, below in itertools.pairwise(folders):
    for i in range(10):
      (folder / f"way{i}").symlink_to(below)


# Name -> (how to plant it, code, end of the file named).
HOSTILE = {
  "a link to the folder itself": (
    lambda r: (r / "images/again").symlink_to(r),
    ("linked-in-circle", "again"),
  ),
  "two links that lead to each other": (
    lambda r: (
      (r / "a").mkdir(),
      (r / "b").mkdir(),
      (r / "a/b").symlink_to(r / "b"),
      (r / "b/a").symlink_to(r / "a"),
    ),
    ("linked-in-circle", ""),
  ),
  "links to links to links": (_many_ways, ("linked-in-circle", "")),
  "a link to itself": (
    lambda r: _replace_by(r / "images/s05.png", lambda p: p.symlink_to(p)),
    ("unreadable", "images/s05.png"),
  ),
  "a pipe for an image": (
    lambda r: _replace_by(r / "images/s05.png", os.mkfifo),
    ("unreadable", "images/s05.png"),
  ),
  "a pipe for a mask": (
    lambda r: _replace_by(r / "masks/s05.png", os.mkfifo),
    ("unreadable", "masks/s05.png"),
  ),
  "a pipe for a list": (
    lambda r: _replace_by(r / "train.txt", os.mkfifo),
    ("unreadable", "train.txt"),
  ),
  "a pipe for the classes": (
    lambda r: os.mkfifo(r / "classes.yaml"),
    ("unreadable", "classes.yaml"),
  ),
  "a device for a mask": (
    lambda r: _replace_by(
      r / "masks/s05.png", lambda p: p.symlink_to("/dev/zero")
    ),
    ("unreadable", "masks/s05.png"),
  ),
  "a file of a terabyte": (
    lambda r: os.truncate(r / "masks/s05.png", 10**12),
    ("unreadable", "masks/s05.png"),
  ),
  "a mask that claims to be huge": (
    lambda r: _claim(r / "masks/s05.png", 50_000),
    ("too-large", "masks/s05.png"),
  ),
  "an image that claims to be huge": (
    lambda r: _claim(r / "images/s05.png", 50_000),
    ("too-large", "images/s05.png"),
  ),
  "a TIFF that claims to be huge": (
    lambda r: _claim_in_tiff(r / "masks/s05.png", 50_000),
    ("too-large", "masks/s05.tif"),
  ),
  "classes that unfold to billions": (_bomb, ("wrong-class-list", "yaml")),
  "classes in ten thousand brackets": (
    lambda r: (r / "classes.yaml").write_text("[" * 10_000),
    ("wrong-class-list", "yaml"),
  ),
  "a program in place of an image": (
    lambda r: (r / "images/s05.png").write_bytes(
      b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 72\n%%EndComments\n"
      b"showpage\n%%EOF\n"
    ),
    ("undecodable", "images/s05.png"),
  ),
}


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch):
  """As in a container of 8 GB: what fits must not depend on the machine."""
  monkeypatch.setattr(limits, "memory", lambda: 8 * 10**9)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folder_is_refused_by_name(tmp_path, name):
  plant, (code, file) = HOSTILE[name]
  root = scenes.write(tmp_path / "mine", count=6)
  plant(root)
  config = scenes.config(root)
  checkup = examine(config, overfit_steps=0)
  found = {f.code: f for f in checkup.errors}
  assert code in found, [(f.code, f.message) for f in checkup.findings]
  mentions = found[code].mentions
  assert any(m.file.endswith(file) for m in mentions), mentions
  with pytest.raises(ValueError, match=rf"{file}: .*; .*") as refused:
    open_dataset(config.data)
  assert refused.value.code == code


def test_pictures_to_predict_are_refused_before_they_are_read(tmp_path):
  os.mkfifo(tmp_path / "pipe.png")
  (tmp_path / "device.png").symlink_to("/dev/zero")
  scenes.save(tmp_path / "huge.png", np.zeros((4, 5), np.uint8))
  _claim(tmp_path / "huge.png", 50_000)
  for name, message in (
    ("pipe.png", "not a regular file"),
    ("device.png", "not a regular file"),
    ("huge.png", "50000 x 50000 pixels, memory holds 500 million"),
  ):
    with pytest.raises((OSError, ValueError), match=message):
      predict.read_image(tmp_path / name)
  paths = [tmp_path / "pipe.png", tmp_path / "device.png"]
  assert predict.remarks(paths) == []


def test_member_of_a_zip_that_unfolds_to_gigabytes_is_refused(tmp_path):
  path = tmp_path / "bomb.zip"
  with (
    zipfile.ZipFile(
      path, "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as archive,
    archive.open("a/huge.png", "w", force_zip64=True) as file,
  ):
    for _ in range(21):
      file.write(bytes(100_000_000))
  with pytest.raises(ValueError, match=r"huge\.png: .*2\.1 GB when unpacked"):
    Tree.open(path).read("a/huge.png")


def test_archive_that_unpacks_to_more_than_the_disk_holds_is_refused(
  tmp_path, monkeypatch
):
  """And leaves nothing behind."""
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
  (tmp_path / "temporary").mkdir()
  full = shutil.disk_usage(tmp_path)._replace(free=0)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
  (tmp_path / "bomb.tgz").write_bytes(gzip.compress(bytes(1_000_000)))
  with pytest.raises(ValueError, match=r"bomb\.tgz: .* more than fits"):
    Tree.open(tmp_path / "bomb.tgz")
  gc.collect()
  assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
  ("files", "expected"),
  [
    (
      {
        "proc/self/cgroup": "0::/user/job\n",
        "sys/fs/cgroup/user/job/memory.max": "max\n",
        "sys/fs/cgroup/user/memory.max": "5000\n",
      },
      [5000],
    ),
    (
      {
        "proc/self/cgroup": "4:memory,x:/a/b\n3:cpu:/a\n0::/\n",
        "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "7000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
      },
      [7000, 9223372036854771712],
    ),
    ({"proc/self/cgroup": "0::/../outside\n"}, []),
    ({}, []),
  ],
)
def test_limit_of_a_control_group_is_found(tmp_path, files, expected):
  for name, text in files.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
  assert list(limits._cgroup_limits(tmp_path)) == expected


def test_reading_what_was_built_prints_nothing(tmp_path):
  """OpenCV's lines on a map's tags, libpng's on profiles: at every read."""
  root = scenes.write(tmp_path / "mine", count=4)
  images = {}
  for name, profile in (
    ("s00", b"no profile at all"),
    ("s01", PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB"))),
  ):
    path = root / f"images/{name}.png"
    images[name] = np.array(PIL.Image.open(path))
    if not isinstance(profile, bytes):
      profile = profile.tobytes()
    scenes.save(path, images[name], icc_profile=profile)
  images["s02"] = np.array(PIL.Image.open(root / "images/s02.png"))
  (root / "images/s02.tif").write_bytes(tiff(images["s02"]))
  (root / "images/s02.png").unlink()
  (root / "train.txt").write_text("s00\ns01\ns02\n")
  (root / "val.txt").write_text("s03\n")
  config = scenes.config(root)
  dataset = open_dataset(config.data)
  for i, image in enumerate(images.values()):
    np.testing.assert_array_equal(dataset.train[i]["image"], image)
  program = (
    "import pathlib, sys\n"
    "from deeplab_jax.data.source import Dataset\n"
    "train = Dataset(pathlib.Path(sys.argv[1])).train\n"
    "print(sum(int(train[i]['image'].sum()) for i in range(3)))"
  )
  done = subprocess.run(
    [sys.executable, "-c", program, str(dataset.directory)],
    capture_output=True,
    text=True,
    check=True,
  )
  expected = sum(int(image.sum()) for image in images.values())
  assert (done.stdout.strip(), done.stderr) == (str(expected), "")
