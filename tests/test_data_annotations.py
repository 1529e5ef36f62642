"""Exports of annotation tools: one set of scenes in every format."""

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

from deeplab_jax.data.annotations import find, report
from deeplab_jax.data.annotations.options import Options
from deeplab_jax.data.builders import folder_classes
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.doctor.samples import FolderSamples
from tests import annotation_scenes as scenes
from tests.annotation_scenes import FORMATS, NAMES, SCENES, SPLITS

_EMPTY = "empty"  # the scene without an object


def _read(root, **options):
  """The export, its classes, and the labels of each picture by its stem."""
  found = find.find(Tree.open(root), Options(**options))
  layout = found.layout
  classes = folder_classes.find(
    found.tree, layout.used_masks(), listed=found.listed
  )
  labels = {}
  for name, path in layout.masks.items():
    mask = classes.decode(path, found.tree.read(path))
    labels[pathlib.Path(name).name] = classes.labels_of(path, mask)
  return found, classes, labels


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  folders = {name: tmp_path_factory.mktemp("export") for name in FORMATS}
  for name, format_of in FORMATS.items():
    format_of.write(folders[name])
  return folders


@pytest.mark.parametrize("name", FORMATS)
def test_one_scene_has_one_mask_in_every_format(written, name):
  format_of = FORMATS[name]
  found, classes, labels = _read(written[name])
  assert classes.names == NAMES
  assert labels.keys() == SCENES.keys()
  for scene, got in labels.items():
    wanted = scenes.truth(scene, format_of.holes, format_of.crowd)
    np.testing.assert_array_equal(got, wanted, err_msg=scene)
  stems = {
    split: {pathlib.Path(key).name for key in keys}
    for split, keys in found.layout.splits.items()
  }
  assert stems == {split: set(listed) for split, listed in SPLITS.items()}
  for key, path in found.layout.images.items():
    scene = pathlib.Path(key).name
    assert found.tree.read(path) == scenes.png(scenes.image(scene))


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_lost_is_what_is_said(written, name):
  found, classes, _ = _read(written[name])
  lost = {}
  for drawn in found.drawings.values():
    for loss in drawn.losses:
      lost[loss.kind] = lost.get(loss.kind, 0) + loss.pixels
  assert lost == FORMATS[name].losses()
  said = report.lines(found, classes.names)
  assert FORMATS[name].title in said[0]
  if "masks are called" not in said[0]:
    assert f"{len(SCENES)} images, 3 classes" in said[0]
  for kind, pixels in FORMATS[name].losses().items():
    (line,) = (line for line in said if line.startswith(f"  {kind}:"))
    assert not pixels or f" {pixels} pixels" in line or "over" in line


@pytest.mark.parametrize("name", FORMATS)
def test_the_doctor_reads_the_same(written, name):
  samples = FolderSamples(Tree.open(written[name]))
  assert samples.faults == []
  assert samples.info.class_names == NAMES
  format_of = FORMATS[name]
  for split in SPLITS:
    for index, key in enumerate(samples.names(split)):
      sample = samples.read(split, index)
      assert sample.faults == []
      scene = pathlib.Path(key).name
      wanted = scenes.truth(scene, format_of.holes, format_of.crowd)
      np.testing.assert_array_equal(sample.label, wanted)
      np.testing.assert_array_equal(sample.image, scenes.image(scene))


def _text(pattern, *pairs):
  """Replaces expressions in all files that match."""

  def change(root):
    for path in root.glob(pattern):
      text = path.read_text()
      for old, new in pairs:
        text = re.sub(old, new, text, flags=re.MULTILINE)
      path.write_text(text)

  return change


def _json(pattern, edit):
  """Replaces what json files hold by what `edit` makes of it."""

  def change(root):
    for path in root.glob(pattern):
      path.write_text(json.dumps(edit(json.loads(path.read_text()))))

  return change


def _every_annotation(edit):
  def of_document(document):
    for annotation in document["annotations"]:
      annotation.update(edit(annotation))
    return document

  return _json("annotations/*.json", of_document)


def _capitals(document):
  for image in document["images"]:
    image["file_name"] = image["file_name"].upper()
  return document


def _as_text(document):
  """Ids as text, in one place or another, and pictures without sizes."""
  for image in document["images"]:
    image["height"] = image.pop("width") and None
  for category in document["categories"]:
    category["id"] = str(category["id"])
  for annotation in document["annotations"]:
    annotation["image_id"] = str(annotation["image_id"])
  return document


def _spaces(document):
  for shape in document["shapes"]:
    shape["label"] = f" {shape['label']}"
  return document


def _derived(root):
  """What labelme_export_json leaves: no pictures to learn from."""
  for name in ("img", "label", "label_viz"):
    image = scenes.png(scenes.image("holes"))
    scenes.write(root / f"train/holes_json/{name}.png", image)
  scenes.write(
    root / "train/holes_json/label_names.txt", "_background_\nroad\n"
  )


def _tools_apart(tasks):
  """As of <Labels> with <Polygon> and <Brush>: two results for each region."""
  for task in tasks:
    result = task["annotations"][1]["result"]
    for region in list(result):
      value = region["value"]
      kind = next(key for key in value if key.endswith("labels"))
      names = value.pop(kind)
      region["type"] = kind.removesuffix("labels")
      twin = {"type": "labels", "value": {**value, "labels": names}}
      result.append({**region, **twin})
  return tasks


def _minimal(tasks):
  """As JSON_MIN, of two annotators, the second of whom drew nothing right."""
  rows = []
  for task in tasks:
    regions = [
      {**r["value"], "original_width": 64, "original_height": 48}
      for r in task["annotations"][1]["result"]
    ]
    rows.append({"id": task["id"], **task["data"], "label": regions})
    rows.append({**rows[-1], "label": regions[:1], "annotation_id": 77})
  return rows


def _bitmasks(tasks):
  for task in tasks:
    for region in task["annotations"][1]["result"]:
      value = region["value"]
      if "rle" in value:
        pixels = scenes.region(SCENES["holes"][0]).astype(np.uint8) * 255
        rgba = np.stack([*[np.zeros_like(pixels)] * 3, pixels], -1)
        data = base64.b64encode(scenes.png(rgba)).decode()
        region["value"] = {
          "imageDataURL": f"data:image/png;base64,{data}",
          "bitmasklabels": value["brushlabels"],
        }
  return tasks


def _local_files(tasks):
  for task in tasks:
    name = task["data"]["image"].rpartition("-")[2]
    task["data"]["image"] = f"/data/local-files/?d=C%3A%5Cimages%5C{name}"
  return tasks


def _thumbs(tasks):
  for task in tasks:
    task["data"] = {"thumb": "thumb.png", **task["data"]}
  return tasks


def _cloud_storage(root):
  """A file an annotation, of which some lack a suffix; the files of a task are
  not in the order in which its annotations were made."""
  for split in SPLITS:
    for task in json.loads((root / f"{split}.json").read_text()):
      cancelled, done = task.pop("annotations")
      other = done | {"result": done["result"][:1]}
      first = 10 ** (task["id"] + 1) - 2  # such as 98: "100" is before "99"
      for key, one in enumerate((cancelled, done, other), first):
        name = (str(key), f"{key}.json", f"annotation_{key}")[key % 3]
        document = one | {"id": key, "task": task}
        scenes.write(root / f"{split}/{name}", json.dumps(document))
    (root / f"{split}.json").unlink()


def _task_each(root):
  for split in SPLITS:
    for task in json.loads((root / f"{split}.json").read_text()):
      scenes.write(root / f"{split}/t{task['id']}.json", json.dumps(task))
    (root / f"{split}.json").unlink()


def _table(row, end="\n", *head):
  """Roboflow's table of classes, written in another way."""
  rows = [*head, *(row.format(i, name) for i, name in enumerate(NAMES))]
  text = end.join(rows) + end

  def change(root):
    for path in root.glob("*/_classes.csv"):
      scenes.write(path, text)

  return change


def _capital_folders(root):
  for path in [*root.glob("*/images"), *root.glob("*/labels")]:
    path.rename(path.parent / path.name.capitalize())


def _rows(root):
  """Masks as rows of numbers, and a test split without any."""
  for path in root.glob("data/*.parquet"):
    table = pyarrow.parquet.read_table(path)
    names = [
      cell["path"].removesuffix(".png") for cell in table["image"].to_pylist()
    ]
    rows = [scenes.truth(name).tolist() for name in names]
    index = table.column_names.index("annotation")
    metadata = dict(table.schema.metadata)
    features = json.loads(metadata[b"huggingface"])
    features["info"]["features"]["annotation"] = {"_type": "Array2D"}
    table = table.set_column(index, "annotation", pyarrow.array(rows))
    metadata[b"huggingface"] = json.dumps(features)
    table = table.replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path)
    test = table.drop_columns("annotation")
  pyarrow.parquet.write_table(test, root / "data/test-00000-of-00001.parquet")


def _parts(document):
  """Polygons as parts of a multipolygon, beside a corner of each, which must
  not cancel out what is drawn."""
  for entry in document["objects"]:
    if entry["geometryType"] == "polygon":
      points = entry.pop("points")
      parts = [points, {"exterior": points["exterior"][:1] * 3}]
      entry |= {"geometryType": "multipolygon", "parts": parts}
  return document


def _by_class(root):
  """Objects of one kind a class, which only the class then has."""
  for path in root.glob("*/ann/*.json"):
    document = json.loads(path.read_text())
    for entry in document["objects"]:
      del entry["geometryType"]
    path.write_text(json.dumps(document))
  meta = json.loads((root / "meta.json").read_text())
  for entry in meta["classes"]:
    entry["shape"] = "bitmap" if entry["title"] == "car" else "polygon"
  scenes.write(root / "meta.json", json.dumps(meta))


# Format, and what is other in the files of some users, to no effect.
_TWINS = {
  "coco marks as text": (
    "coco",
    _every_annotation(lambda a: {"iscrowd": str(a["iscrowd"])}),
  ),
  "coco list of run lengths": (
    "coco packed",
    _every_annotation(lambda a: {"segmentation": [a["segmentation"]]}),
  ),
  "coco ids as text": ("coco", _json("annotations/*.json", _as_text)),
  "panoptic ids as text": ("panoptic", _json("annotations/*.json", _as_text)),
  "coco capital letters": ("coco", _json("annotations/*.json", _capitals)),
  "yolo names by number": (
    "yolo",
    _text(
      "data.yaml", (r"\['road', 'car', 'pole'\]", "{0: road, 1: car, 2: pole}")
    ),
  ),
  "yolo tabs and floats": (
    "yolo",
    _text("*/labels/*.txt", (r"^(\d) ", r"\1.0\t ")),
  ),
  "yolo capital folders": ("yolo", _capital_folders),
  "yolo other yaml": (
    "yolo",
    lambda root: scenes.write(root / "a.yaml", "names: null\nnc: 80\n"),
  ),
  "roboflow without spaces": (
    "roboflow",
    _table("{0},{1}", "\n", "Pixel Value,Class"),
  ),
  "roboflow semicolons": (
    "roboflow",
    _table("{0};{1}", "\r\n", "\ufeffpixel value; class"),
  ),
  "roboflow quotes": (
    "roboflow",
    _table('"{0}","{1}"', "\n", '"Pixel Value","Class"'),
  ),
  "roboflow names first": (
    "roboflow",
    _table("{1}, {0}", "\n", "Class, Pixel Value"),
  ),
  "roboflow tabs without head": ("roboflow", _table("{0}\t{1}", "\n")),
  "labelme spaces": ("labelme", _json("*/*.json", _spaces)),
  "labelme derived": ("labelme", _derived),
  "cvat spaces": ("cvat", _text("labelmap.txt", (":", " : "), (",", ", "))),
  "cvat lists of files": (
    "cvat",
    _text("ImageSets/Segmentation/*.txt", (r"(?<=\w)$", ".png")),
  ),
  "cvat parts": ("cvat", _text("labelmap.txt", ("::", ":head,foot:run"))),
  "label studio tools apart": ("label_studio", _json("*.json", _tools_apart)),
  "label studio minimal": ("label_studio", _json("*.json", _minimal)),
  "label studio bitmasks": ("label_studio", _json("*.json", _bitmasks)),
  "label studio cloud storage": ("label_studio", _cloud_storage),
  "label studio a task each": ("label_studio", _task_each),
  "label studio local files": ("label_studio", _json("*.json", _local_files)),
  "label studio thumbs": ("label_studio", _json("*.json", _thumbs)),
  "supervisely background": (
    "supervisely",
    _text("meta.json", (r'"classes": \[', '"classes": [{"title": "__bg__"}, ')),
  ),
  "supervisely kinds of classes": ("supervisely", _by_class),
  "supervisely parts": ("supervisely", _json("*/ann/*.json", _parts)),
  "parquet rows": ("parquet", _rows),
}


@pytest.mark.parametrize("twin", _TWINS)
def test_what_users_files_have_besides(tmp_path, twin):
  name, change = _TWINS[twin]
  format_of = FORMATS[name]
  format_of.write(tmp_path)
  change(tmp_path)
  found, classes, labels = _read(tmp_path)
  assert (classes.names, found.faults) == (NAMES, ())
  assert labels.keys() == SCENES.keys()
  for scene, got in labels.items():
    wanted = scenes.truth(scene, format_of.holes, format_of.crowd)
    np.testing.assert_array_equal(got, wanted, err_msg=scene)


def _yaml(text, **lists):
  """Other splits in data.yaml, and lists of pictures."""

  def change(root):
    scenes.write(root / "data.yaml", f"{text}\nnames: [road, car, pole]\n")
    for split, lines in lists.items():
      scenes.write(root / f"{split}.list.txt", "\n".join(lines))

  return change


def _moved(text, **folders):
  """The same with other folders in place of train and valid."""

  def change(root):
    _yaml(text)(root)
    for old, new in folders.items():
      (root / new).parent.mkdir(exist_ok=True, parents=True)
      (root / old).rename(root / new)

  return change


_TRAIN, _VAL = (sorted(SPLITS[split]) for split in ("train", "val"))
_HERE = [f"./images/{name}.PNG" for name in _TRAIN]
_ELSEWHERE = [f"C:\\a\\valid\\images\\{name}.png" for name in _VAL]
_BOTH = (_TRAIN, _VAL)
_DRAWN = (["crowd", "holes"], ["thin"])
# What is done to YOLO's files; train and val; what is said, or a fault.
_YOLO_SPLITS = {
  "absolute": (_yaml("train: /a/train/images\nval: /a/valid/images"), _BOTH),
  "path": (
    _yaml("path: /a\ntrain: [train/images]\nvalidation: valid\ntest:"),
    _BOTH,
  ),
  "no names of splits": (
    _moved("train: /a/1/images\nval: ../a/2/images", train="1", valid="2"),
    _BOTH,
  ),
  "within": (_yaml("train: images/\nval: valid/images"), _BOTH),
  "lists": (
    _yaml(
      "path: ..\ntrain: train.list.txt\nval: ./val.list.txt",
      train=_HERE,
      val=_ELSEWHERE,
    ),
    _BOTH,
  ),
  "a list lacks one": (
    _yaml("train: train\nval: val.list.txt", val=_ELSEWHERE[:1]),
    (_TRAIN, _VAL[:1]),
    r"unlisted-images.*nested\.png",
  ),
  "one folder": (
    _moved("train: all/images\nval: all/images", train="all", valid="b/c"),
    _DRAWN,
    r"3 pictures are in train and in val alike, as .*data\.yaml says",
    r"val is a tenth of the pictures, drawn by their names",
  ),
  "val is not there": (
    _moved("train: a/images\nval: b/images", train="a", valid="b/c"),
    _DRAWN,
    r"val of .*data\.yaml is not there: b/images",
    r"val is a tenth of the pictures, drawn by their names",
  ),
  "listed but not there": (
    _yaml("train: train\nval: val.list.txt", val=[*_ELSEWHERE, "zz.png"]),
    _BOTH,
    r"val\.list\.txt: must list images that are there, got 'zz\.png'",
  ),
}


@pytest.mark.parametrize("case", _YOLO_SPLITS)
def test_splits_of_yolo(tmp_path, case):
  change, splits, *wanted = _YOLO_SPLITS[case]
  scenes.yolo(tmp_path)
  change(tmp_path)
  found = find.find(Tree.open(tmp_path))
  got = {
    split: sorted(pathlib.PurePosixPath(name).name for name in names)
    for split, names in found.layout.splits.items()
  }
  assert (got["train"], got["val"]) == splits
  said = [*found.lines, *found.layout.lines()]
  said += [*map(str, found.faults), *map(str, found.remarks)]
  assert all(any(re.search(w, line) for line in said) for w in wanted)
  assert bool(wanted) == bool(said)


def test_pictures_of_numbers_in_parquet(tmp_path):
  """As lists (h, w, 3) and (3, h, w), which have no names."""
  first, *others = SCENES
  image, labels = scenes.image(first), scenes.truth(first)
  turned = [np.moveaxis(scenes.image(name), 2, 0) for name in others]
  for split, pictures in (("train", [image]), ("validation", turned)):
    cells = [picture.tolist() for picture in pictures]
    table = {"image": cells, "label": [labels.tolist()] * len(cells)}
    path = tmp_path / f"{split}.parquet"
    pyarrow.parquet.write_table(pyarrow.table(table), path)
  found = find.find(Tree.open(tmp_path))
  got = [
    np.asarray(PIL.Image.open(io.BytesIO(found.tree.read(path))))
    for _, path in sorted(found.layout.images.items())
  ]
  wanted = [image, *(np.moveaxis(picture, 0, 2) for picture in turned)]
  np.testing.assert_array_equal(got, wanted)


def test_folders_around_are_none(tmp_path):
  scenes.cvat(tmp_path / "VOCdevkit/VOC2012")
  (tmp_path / "VOCdevkit/VOC2012/labelmap.txt").unlink()  # as VOC's own
  found = find.find(Tree.open(tmp_path))
  stems = {s: sorted(names) for s, names in found.layout.splits.items()}
  assert stems == {s: sorted(names) for s, names in SPLITS.items()}
