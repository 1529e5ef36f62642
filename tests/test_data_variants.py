"""What users' folders and exports also look like: read alike, or refused
alike, by `prepare`, by what `main` opens, and by the doctor."""

import base64
import io
import json
import pathlib
import re

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from deeplab_jax import prepare
from deeplab_jax.config import base_config
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.reading import reading_of
from deeplab_jax.data.source import open_dataset
from deeplab_jax.doctor.samples import FolderSamples

_SIZE = 12, 20
_BOXES = {"road": (2, 2, 9, 7), "car": (11, 4, 18, 11)}  # x, y, x, y
_NAMES = ("background", *_BOXES)
_COLORS = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)], np.uint8)
_DRAWN = "val is a tenth of the pictures, drawn by their names"


def _truth():
  labels = np.zeros(_SIZE, np.uint8)
  for number, (x0, y0, x1, y1) in enumerate(_BOXES.values(), 1):
    labels[y0:y1, x0:x1] = number
  return labels


def _image(seed=0):
  return np.random.default_rng(seed).integers(0, 255, (*_SIZE, 3), np.uint8)


def _corners(name):
  x0, y0, x1, y1 = _BOXES[name]
  return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _png(array):
  file = io.BytesIO()
  PIL.Image.fromarray(array).save(file, "PNG")
  return file.getvalue()


def _write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  if isinstance(content, dict | list):
    content = json.dumps(content)
  if isinstance(content, str):
    path.write_text(content, encoding="utf-8")
  else:
    path.write_bytes(content)


def _pictures(root, names="abc", suffix="png"):
  for seed, name in enumerate(names):
    _write(root / f"{name}.{suffix}", _png(_image(seed)))


def _pairs(images, masks, names=("a", "b", "c")):
  """Writes images and masks into folders of such names."""

  def write(root):
    _pictures(root / images, names)
    for name in names:
      _write(root / masks / f"{name}.png", _png(_truth()))

  return write


def _arrays(dtype, change=lambda labels: labels):
  def write(root):
    _pictures(root / "images")
    (root / "masks").mkdir()
    for name in "abc":
      np.save(root / f"masks/{name}.npy", change(_truth()).astype(dtype))

  return write


def _beside(root):
  _pictures(root, suffix="jpg")
  for name in "abc":
    _write(root / f"{name}.png", _png(_truth()))


def _begun(root):
  for seed, name in enumerate("abc"):
    _write(root / f"images/image_{name}.png", _png(_image(seed)))
    _write(root / f"masks/mask_{name}.png", _png(_truth()))


def _coco(segmentation, **fields):
  def write(root):
    _pictures(root / "images", suffix="jpg")
    for name in "abc":  # which are no pictures of the export
      _write(root / f"old/{name}.jpg.png", _png(_image(9)))
    images = [{"id": i, "file_name": f"{n}.jpg"} for i, n in enumerate("abc")]
    annotations = [
      {
        "id": 10 * i + k,
        "image_id": i,
        "category_id": k,
        "segmentation": segmentation(name),
        "bbox": [1, 2, 3, 4],
        **fields,
      }
      for i in range(3)
      for k, name in enumerate(_BOXES, 1)
    ]
    categories = [{"id": k, "name": n} for k, n in enumerate(_BOXES, 1)]
    document = {"images": images, "annotations": annotations}
    _write(root / "a.json", document | {"categories": categories})

  return write


def _flat(name):
  return [value for corner in _corners(name) for value in corner]


def _runs(name):
  inside = (_truth() == _NAMES.index(name)).ravel(order="F")
  ends = np.flatnonzero(np.diff(inside)) + 1
  counts = np.diff([0, *ends.tolist(), inside.size]).tolist()
  return {"size": [str(_SIZE[0]), float(_SIZE[1])], "counts": counts}


def _yolo(line, data=""):
  def write(root):
    _pictures(root / "images")
    _write(root / "data.yaml", f"names: [road, car]\n{data}")
    for name in "abc":
      _write(root / f"labels/{name}.txt", line)

  return write


def _labelme(**fields):
  """With the pictures inside, as data URLs."""

  def write(root):
    for seed, name in enumerate("abc"):
      data = base64.b64encode(_png(_image(seed))).decode()
      shapes = [
        {"label": label, "points": _corners(label), "shape_type": "polygon"}
        | fields
        for label in _BOXES
      ]
      document = {"shapes": shapes, "imagePath": f"C:\\x\\{name}.png"}
      document |= dict(zip(("imageHeight", "imageWidth"), _SIZE))
      document["imageData"] = f"data:image/png;base64,{data}"
      _write(root / f"{name}.json", document)
    _write(root / "labels.txt", "road\ncar\nCar\n")

  return write


def _label_studio(root):
  """Without the sizes of pictures; the last has what a model predicted."""
  _pictures(root)
  tasks = []
  scale = 100 / np.array(_SIZE[::-1])
  for number, name in enumerate("abc"):
    regions = [
      {
        "id": label,
        "type": "polygonlabels",
        "value": {
          "points": (np.array(_corners(label)) * scale).tolist(),
          "polygonlabels": [label],
        },
      }
      for label in _BOXES
    ]
    done = [{"id": number, "result": regions}]
    key, other = ("annotations", "predictions")[:: -1 if name == "c" else 1]
    task = {"id": number, "data": {"image": f"/u/{name}.png"}}
    tasks.append(task | {key: done, other: []})
  _write(root / "tasks.json", tasks)
  _write(root / "labels.txt", "road\ncar\n")


def _cvat(root):
  """With VOC's class of what is ignored."""
  _pictures(root / "JPEGImages")
  names = [*_NAMES, "ignored"]
  colors = [*_COLORS.tolist(), (224, 224, 192)]
  listed = zip(names, colors)
  lines = [f"{n}:{','.join(map(str, c))}::" for n, c in listed]
  _write(root / "labelmap.txt", "\n".join(lines))
  for name in "abc":
    mask = _COLORS[_truth()]
    mask[0] = colors[-1]
    _write(root / f"SegmentationClass/{name}.png", _png(mask))


def _parquet(root):
  """With a class for each picture, which is none of its masks."""
  cell = [{"bytes": _png(_image(i)), "path": f"{i}.png"} for i in range(3)]
  mask = [{"bytes": _png(_truth()), "path": None}] * 3
  table = pyarrow.table(
    {"image": cell, "segmentation_mask": mask, "label": [0, 1, 2]}
  )
  features = {name: {"_type": "Image"} for name in table.column_names[:2]}
  features["label"] = {"_type": "ClassLabel", "names": ["cat", "dog", "cow"]}
  metadata = {"huggingface": json.dumps({"info": {"features": features}})}
  root.mkdir()
  pyarrow.parquet.write_table(
    table.replace_schema_metadata(metadata), root / "train.parquet"
  )


def _line(number, name):
  shares = (np.array(_corners(name)) / _SIZE[::-1]).ravel()
  return f"{number} {' '.join(map(str, shares))}\n"


_LINES = "".join(_line(*named) for named in enumerate(_BOXES))
_POSE = "0 .5 .5 .2 .2 .1 .1 .5 .1 .5 .5\n"
_IN_CLASSES = tuple(f"class_{i}" for i in range(3))
_SPLITS = ("train2017/a", "val2017/b", "test2017/c")
# What is written; names of classes; what is said of it; fields of data.
_READ = {
  "plain": (_pairs("images", "masks"), _IN_CLASSES, [_DRAWN]),
  "capitals": (_pairs("Images", "Masks"), _IN_CLASSES, [_DRAWN]),
  "numbered": (
    _pairs("images", "masks", _SPLITS),
    _IN_CLASSES,
    [r"unlisted-images: .*test2017/c"],
  ),
  "beside": (_beside, _IN_CLASSES, [r"masks are called \*\.png for \*\.jpg"]),
  "beginnings": (_begun, _IN_CLASSES, [r"masks are called mask_\* for image_"]),
  "bool": (
    _arrays(bool, lambda labels: labels == 1),
    _IN_CLASSES[:2],
    [_DRAWN],
  ),
  "int64": (_arrays(np.int64), _IN_CLASSES, [_DRAWN]),
  "big-endian": (_arrays(">i2", np.asfortranarray), _IN_CLASSES, [_DRAWN]),
  "floats": (_arrays(float, lambda labels: labels[None]), _IN_CLASSES, []),
  "coco flat": (_coco(_flat, iscrowd=0.0), _NAMES, ["COCO json", _DRAWN]),
  "coco runs": (_coco(_runs, iscrowd="False"), _NAMES, ["COCO json"]),
  "yolo": (_yolo(_LINES, "train: images\nval: images"), _NAMES, [_DRAWN]),
  "labelme": (
    _labelme(),
    (*_NAMES, "Car"),
    ["LabelMe json", "differ in their spelling alone: car, Car"],
  ),
  "label studio": (
    _label_studio,
    _NAMES,
    ["1 pictures have predictions alone", "1 pictures without annotation"],
  ),
  "cvat": (_cvat, _NAMES, ["3 images, 2 classes and background"]),
  "parquet": (_parquet, _IN_CLASSES, ["Hugging Face parquet"]),
}
# What is written, and how it is refused.
_REFUSED = {
  "halves": (_arrays(float, lambda x: x / 2), r"masks/a\.npy: .*got 0\.5"),
  "four planes": (
    _arrays(np.uint8, lambda x: np.dstack([x] * 4)),
    r"masks/a\.npy: .*got \(12, 20, 4\) of uint8",
  ),
  "coco box": (_coco(lambda name: [[]]), r"annotation 1: .*got a box or"),
  "yolo box": (
    _yolo(f"{_LINES}1 .5 .5 .2 .2"),
    r"a\.txt, line 3: .*got a box.*skip_bad",
  ),
  "yolo pose": (
    _yolo(_POSE, "kpt_shape: [3, 2]"),
    r"data\.yaml: .*keypoints \(kpt_shape\)",
  ),
  "labelme data": (
    _labelme(shape_type="mask", mask="data:image/png;base64,???"),
    r"a\.json, shape 1",
  ),
}


def _config(root, **fields):
  config = base_config().data
  folder = str(root.parent / "built")
  config.update(name="folder", path=str(root), data_dir=folder, **fields)
  return config


def _prepared(config, capsys):
  """The exit status of `prepare`, and what it says."""
  places = ["--manual_dir", config.path, "--data_dir", config.data_dir]
  status = prepare.main(["folder", *places])
  return status, "".join(capsys.readouterr())


def _examined(config):
  """What the doctor reads, and all that it says."""
  samples = FolderSamples(
    Tree.open(pathlib.Path(config.path)), reading_of(config)
  )
  read = {
    key: samples.read(split, index)
    for split in ("train", "val")
    for index, key in enumerate(samples.names(split))
  }
  notes = [*samples.faults, *(f for s in read.values() for f in s.faults)]
  remarks = [*samples.remarks, *(r for s in read.values() for r in s.remarks)]
  notes += [f"{r.code}: {r.file} {r.detail}" for r in remarks]
  return samples, read, "\n".join([*samples.said, *map(str, notes)])


@pytest.mark.parametrize("case", _READ)
def test_variants_are_read_alike_at_every_door(tmp_path, capsys, case):
  write, names, wanted = _READ[case]
  root = tmp_path / "mine"
  write(root)
  config = _config(root)
  status, said = _prepared(config, capsys)
  assert status == 0, said
  samples, read, said_too = _examined(config)
  for pattern in wanted:
    assert re.search(pattern, said) and re.search(pattern, said_too)
  dataset = open_dataset(config)  # what is prepared: as `main` would build it
  assert dataset.info.class_names == samples.info.class_names == names
  found = [s[i] for s in (dataset.train, dataset.eval) for i in range(len(s))]
  assert [x["name"] for x in found] == list(read)
  if case == "numbered":
    assert list(read) == ["train2017/a", "val2017/b"]
  for example in found:
    labels = _truth() if case != "bool" else _truth() == 1
    if case == "cvat":
      labels[0] = 255
    if case == "label studio" and example["name"] == "c":
      labels[:] = 0
    np.testing.assert_array_equal(example["label"], labels)
    sample = read[example["name"]]
    np.testing.assert_array_equal(sample.label, labels)
    np.testing.assert_array_equal(sample.image, example["image"])
    if case in ("labelme", "coco flat"):
      seed = "abc".index(example["name"])
      np.testing.assert_array_equal(example["image"], _image(seed))


@pytest.mark.parametrize("case", _REFUSED)
def test_variants_are_refused_alike_at_every_door(tmp_path, capsys, case):
  write, wanted = _REFUSED[case]
  root = tmp_path / "mine"
  write(root)
  config = _config(root)
  status, said = _prepared(config, capsys)
  assert status == 1 and re.search(wanted, said)
  assert "Traceback" not in said and said.count("error: ") == 1
  with pytest.raises(ValueError, match=wanted):
    open_dataset(config)
  try:
    said = _examined(config)[2]
  except ValueError as error:
    said = str(error)
  assert re.search(wanted, said)
