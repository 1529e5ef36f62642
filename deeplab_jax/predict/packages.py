"""Archives for the test servers of PASCAL VOC and Cityscapes, checked first.

VOC (host.robots.ox.ac.uk, "VOC2012 Results File Format"): indexed PNG with the
VOC palette at `results/VOC2012/Segmentation/comp6_test_cls/<image>.png`, comp5
for models that saw no pictures but VOC's own. Cityscapes: grey PNG of the data
set's own label ids at full size, any folder, named by city, sequence and frame.
"""

import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab_jax import atomic, remote, visualize
from deeplab_jax.data.classes import CITYSCAPES_IDS
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.predict.naming import LABELS, Job
from deeplab_jax.predict.sources import Source

_FAULTS_SHOWN = 10


class Server(NamedTuple):
  """What a test server takes.

  Attributes:
    dataset: the name of its data set.
    num_images: in its test split.
    image_name: pattern of a picture's stem; group 1 names the result.
    folder: of the results in the archive.
    ending: of the archive.
    encode: labels, uint8 (h, w), to the picture to send.
  """

  dataset: str
  num_images: int
  image_name: str
  folder: str
  ending: str
  encode: Callable[[np.ndarray], Image.Image]


def _voc_picture(labels: np.ndarray) -> Image.Image:
  return visualize.label_picture(labels, visualize.voc_colormap())


def _cityscapes_picture(labels: np.ndarray) -> Image.Image:
  return Image.fromarray(np.array(CITYSCAPES_IDS, np.uint8)[labels])


def _voc(competition: str) -> Server:
  return Server(
    dataset="voc2012",
    num_images=DATASETS["voc2012"].splits["test"],
    image_name=r"(\d{4}_\d{6})",
    folder=f"results/VOC2012/Segmentation/{competition}_test_cls/",
    ending=".tar.gz",
    encode=_voc_picture,
  )


SERVERS = {
  "voc2012_comp5": _voc("comp5"),
  "voc2012_comp6": _voc("comp6"),
  "cityscapes": Server(
    dataset="cityscapes",
    num_images=DATASETS["cityscapes"].splits["test_fine"],
    image_name=r"([a-z-]+_\d{6}_\d{6})(_leftImg8bit)?",
    folder="",
    ending=".zip",
    encode=_cityscapes_picture,
  ),
}


def pack(
  name: str, jobs: Sequence[Job], out: remote.AnyPath | str
) -> remote.AnyPath:
  """Packs the labels of a whole test split for its server.

  Args:
    name: a key of `SERVERS`.
    jobs: all pictures of the test split, already predicted.
    out: folder that holds `labels/<job name>`, and receives the archive.

  Returns:
    the archive's path.

  Raises:
    ValueError: lists what is missing, misnamed, of another size than its
      picture, or labelled with other classes than the data set's.
  """
  server = SERVERS[name]
  out = remote.as_path(out)
  faults = list(_faults(server, jobs, out))
  if faults:
    more = len(faults) - _FAULTS_SHOWN
    shown = faults[:_FAULTS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
    raise ValueError(f"not packed for {name}: " + "\n  ".join(shown))
  archive = out / f"{name}{server.ending}"
  write = _write_zip if server.ending == ".zip" else _write_tar
  with atomic.replacing(archive) as partial:
    write(partial, _entries(server, jobs, out))
  return archive


def _faults(
  server: Server, jobs: Sequence[Job], out: remote.AnyPath
) -> Iterator[str]:
  """What the server would refuse, a line each."""
  if len(jobs) != server.num_images:
    yield f"the test split has {server.num_images} pictures, got {len(jobs)}"
  seen = set()
  for job in jobs:
    match = re.fullmatch(server.image_name, job.source.stem)
    if not match:
      yield f"{job.source}: name is not like {server.image_name}"
    elif match[1] in seen:
      yield f"{job.source}: a second picture of that name"
    else:
      seen.add(match[1])
    yield from _label_faults(server, job, out / LABELS / job.name)


def _label_faults(
  server: Server, job: Job, path: remote.AnyPath
) -> Iterator[str]:
  if not path.is_file():
    yield f"{path}: missing"
    return
  with _open(path) as picture, _open(job.source) as source:
    if picture.size != source.size:
      yield f"{path}: size is {picture.size}, its picture's {source.size}"
    largest, classes = np.max(picture), DATASETS[server.dataset].num_classes
    if largest >= classes:
      yield f"{path}: label {largest}, allowed are 0..{classes - 1}"


def _open(path: Source) -> Image.Image:
  return Image.open(io.BytesIO(path.read_bytes()))


def _entries(
  server: Server, jobs: Sequence[Job], out: remote.AnyPath
) -> Iterator[tuple[str, bytes]]:
  """Names in the archive and contents."""
  for job in jobs:
    with _open(out / LABELS / job.name) as picture:
      encoded = server.encode(np.asarray(picture))
    stream = io.BytesIO()
    encoded.save(stream, "PNG")
    name = re.fullmatch(server.image_name, job.source.stem)[1]
    yield f"{server.folder}{name}.png", stream.getvalue()


def _write_zip(archive, entries) -> None:
  with zipfile.ZipFile(archive, "w") as target:
    for name, content in entries:
      target.writestr(name, content)


def _write_tar(archive, entries) -> None:
  with tarfile.open(archive, "w:gz") as target:
    for name, content in entries:
      info = tarfile.TarInfo(name)
      info.size = len(content)
      target.addfile(info, io.BytesIO(content))
