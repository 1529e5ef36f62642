"""Exports that are recognised but broken, and what may be meant of others."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest

import deeplab_jax
from deeplab_jax import config as config_lib
from deeplab_jax import doctor, prepare, train
from deeplab_jax.config import base_config
from deeplab_jax.data import build
from deeplab_jax.data.annotations import find, report
from deeplab_jax.data.annotations.options import Options
from deeplab_jax.data.builders import folder_classes
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.source import open_dataset
from deeplab_jax.doctor import checkup_text, page
from deeplab_jax.doctor.samples import FolderSamples
from tests import annotation_scenes as scenes
from tests.annotation_scenes import FORMATS, NAMES, SCENES

_TINY = pathlib.Path(__file__).parent / "programs/tiny_config.py"


def _edit(path, change):
  document = json.loads(path.read_text())
  change(document)
  path.write_text(json.dumps(document))


def _annotation(document, **fields):
  document["annotations"][0].update(fields)


def _coco(**fields):
  def spoil(root):
    file = root / "annotations/instances_train2017.json"
    _edit(file, lambda document: _annotation(document, **fields))

  return spoil


def _first_value(**fields):
  def change(tasks):
    for task in tasks:
      for region in task["annotations"][1]["result"]:
        if "points" in region["value"]:
          region["value"].update(fields)
          return

  return lambda root: _edit(root / "train.json", change)


def _shape(**fields):
  def change(document):
    document["shapes"][1].update(fields)

  return lambda root: _edit(root / "train/holes.json", change)


def _object(**fields):
  def change(document):
    document["objects"][0].update(fields)

  return lambda root: _edit(root / "train/ann/holes.png.json", change)


def _line(text):
  return lambda root: scenes.write(root / "train/labels/holes.txt", text)


def _unlink(*names):
  def spoil(root):
    for name in names:
      (root / name).unlink()

  return spoil


def _segments(root):
  def change(document):
    document["annotations"][0]["segments_info"].pop()

  _edit(root / "annotations/panoptic_train.json", change)


# Format, what is done to it, the code of the fault, and what names the place.
_CASES = {
  "coco picture": (
    *("coco", _unlink("train2017/holes.png"), "missing-picture"),
    r"instances_train2017\.json, image 1",
  ),
  "coco class": (
    *("coco", _coco(category_id=77), "unknown-category"),
    r"image 1 .*annotation 100: .*77",
  ),
  "coco size": (
    "coco rle",
    _coco(segmentation={"size": [9, 9], "counts": [81]}),
    *("rle-size", r"annotation 100: .*64x48.*9x9"),
  ),
  "coco count": (
    "coco rle",
    _coco(segmentation={"size": [48, 64], "counts": [81]}),
    *("rle-size", r"annotation 100: "),
  ),
  "coco text": (
    "coco packed",
    _coco(segmentation={"size": [48, 64], "counts": "~~"}),
    *("bad-annotation", r"annotation 100: "),
  ),
  "coco odd": (
    *("coco", _coco(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "bad-annotation"),
    r"annotation 100: ",
  ),
  "coco box": (
    *("coco", _coco(segmentation=[]), "no-outline", r"annotation 100: "),
  ),
  "coco nan": (
    "coco",
    _coco(segmentation=[[1, 2, 3, float("nan"), 5, 6]]),
    *("coordinates-far-outside", r"annotation 100: .*nan"),
  ),
  "coco image": (
    *("coco", _coco(image_id=99), "unknown-picture", r"annotation 100: .*99"),
  ),
  "panoptic segment": (
    *("panoptic", _segments, "unknown-segment", r"image 1 .*holes\.png"),
  ),
  "panoptic file": (
    "panoptic",
    _unlink("annotations/panoptic_train/holes.png"),
    *("missing-file", r"image 1 .*holes\.png"),
  ),
  "yolo beyond": (
    "yolo",
    _line("0 0.1 0.1 0.5 0.1 0.5 1.5"),
    *("beyond-the-whole", r"holes\.txt, line 1: .*1\.5"),
  ),
  "yolo class": (
    *("yolo", _line("0 0 0 1 0 1 1\n3 0 0 1 0 1 1"), "unknown-category"),
    r"holes\.txt, line 2: .*0\.\.2.*3",
  ),
  "yolo box": (
    *("yolo", _line("0 0.5 0.5 0.2 0.2"), "no-outline"),
    r"holes\.txt, line 1: ",
  ),
  "labelme class": (
    *("labelme", _shape(label="cow"), "unknown-category"),
    r"holes\.json, shape 2: .*cow",
  ),
  "labelme picture": (
    *("labelme", _unlink("train/holes.png"), "missing-picture"),
    r"holes\.json: .*holes\.png",
  ),
  "labelme json": (
    "labelme",
    lambda root: (root / "train/holes.json").write_text('{"shapes": ['),
    *("not-json", r"holes\.json: "),
  ),
  "label studio percent": (
    "label_studio",
    _first_value(points=[[1, 1], [50, 1], [50, 120]]),
    *("beyond-the-whole", r"train\.json, task 1, region r1: .*120"),
  ),
  "label studio brush": (
    "label_studio",
    lambda root: _edit(
      root / "train.json",
      lambda tasks: tasks[0]["annotations"][1]["result"][0]["value"].update(
        rle=scenes.brush(np.ones((4, 4), bool))
      ),
    ),
    *("rle-size", r"train\.json, task 1, region r0: "),
  ),
  "supervisely class": (
    *("supervisely", _object(classTitle="cow"), "unknown-category"),
    r"holes\.png\.json, object 900: .*cow",
  ),
  "coco crowd": (
    *("coco", _coco(iscrowd=[0]), "bad-annotation", r"annotation 100: .*\[0\]"),
  ),
  "labelme circle": (
    "labelme",
    _shape(shape_type="circle", points=[[1, 1], [2, 2], [3, 3]]),
    *("bad-annotation", r"holes\.json, shape 2: .*circle of 3 points"),
  ),
  "labelme nameless": (
    *("labelme", _shape(label=None), "bad-annotation"),
    r"holes\.json, shape 2: .*without label",
  ),
  "label studio classes": (
    "label_studio",
    _first_value(polygonlabels=["road", "car"]),
    *("bad-annotation", r"task 1, region r1: .*several classes.*road, car"),
  ),
  "label studio kind": (
    *("label_studio", _first_value(points=None), "bad-annotation"),
    r"task 1, region r1: ",
  ),
  "supervisely kind": (
    *("supervisely", _object(geometryType="cuboid"), "bad-annotation"),
    r"holes\.png\.json, object 900: .*cuboid",
  ),
  "yolo nan": (
    *("yolo", _line("0 nan 0 1 0 1 1"), "beyond-the-whole"),
    r"holes\.txt, line 1: .*nan",
  ),
  "cvat picture": (
    *("cvat", _unlink("JPEGImages/holes.png"), "missing-picture"),
    r"SegmentationClass/holes\.png: ",
  ),
}


def _config(root, **fields):
  config = base_config().data
  folder = str(root.parent / "data")
  fields = {"name": "folder", "path": str(root), "data_dir": folder} | fields
  config.update(fields)
  return config


# Those that are built as well, which takes longer.
_BUILT = ("coco class", "coco image", "labelme json", "yolo beyond")


@pytest.mark.parametrize("case", _CASES)
def test_what_is_broken_is_named_and_never_drawn(tmp_path, case):
  name, spoil, code, place = _CASES[case]
  FORMATS[name].write(tmp_path)
  spoil(tmp_path)
  samples = FolderSamples(Tree.open(tmp_path))
  read = {
    key: samples.read(split, index)
    for split in ("train", "val")
    for index, key in enumerate(samples.names(split))
  }
  faults = {fault for sample in read.values() for fault in sample.faults}
  faults |= set(samples.faults)
  assert {fault.code for fault in faults} == {code}
  assert all(re.search(place, str(fault)) for fault in faults)
  assert samples.info.class_names == NAMES
  assert len(read) == len(SCENES)
  for key, sample in read.items():
    is_whole = sample.label is not None and sample.image is not None
    assert is_whole == ("holes" not in key or code == "unknown-picture")


@pytest.mark.parametrize("case", _BUILT)
def test_what_is_broken_is_refused_or_left_out(tmp_path, capfd, case):
  name, spoil, code, place = _CASES[case]
  root = tmp_path / "export"
  FORMATS[name].write(root)
  spoil(root)
  with pytest.raises(BadExample, match=place) as refused:
    open_dataset(_config(root))
  assert refused.value.code == code
  dataset = open_dataset(_config(root, skip_bad=True))
  said = capfd.readouterr().err
  assert "left-out" in said and re.search(place, said)
  assert f"{FORMATS[name].title}, 5 images, 3 classes and background" in said
  kept = [
    source[index]["name"]
    for source in (dataset.train, dataset.eval)
    for index in range(len(source))
  ]
  if code == "unknown-picture":
    assert len(kept) == len(SCENES)
  else:
    assert len(kept) == len(SCENES) - 1
    assert not any("holes" in key for key in kept)


def test_the_doctor_shows_the_worst_and_what_is_left_out(tmp_path):
  scenes.coco(tmp_path / "export")
  _CASES["coco class"][1](tmp_path / "export")
  config = base_config()
  config.data = _config(tmp_path / "export", crop_size=(33, 33))
  checkup = doctor.examine(config, overfit_steps=0)
  assert [f.code for f in checkup.errors] == ["unknown-category"]
  overlap = next(f for f in checkup.warnings if f.code == "overlap")
  assert overlap.mentions[0].detail.startswith("car over road 900 pixels")
  text = checkup_text.text(checkup)
  assert "COCO json, 5 images, 3 classes and background" in text
  assert "car over road" in page.render(checkup)
  config.data.skip_bad = True
  checkup = doctor.examine(config, overfit_steps=0)
  assert "unknown-category" in [f.code for f in checkup.warnings]
  assert checkup.errors == []


def _copy(source, target):
  return lambda root: (root / target).write_bytes((root / source).read_bytes())


def _cut_off(name):
  return lambda root: scenes.write(root / name, '{"images": [')


def _more_panoptic(root):
  _cut_off("more/panoptic_val.json")(root)
  path = root / "annotations/panoptic_train.json"

  def change(document):
    first = document["annotations"][0]
    document["annotations"] += [
      first | {"file_name": "again.png"},
      first | {"image_id": 99},
    ]

  _edit(path, change)


# Format, what is added, and what names it.
_ALONE = {
  "coco": (
    _cut_off("annotations/instances_more.json"),
    r"instances_more\.json: must be JSON",
  ),
  "panoptic": (
    _more_panoptic,
    r"more/panoptic_val\.json: must be JSON|annotation 5 of the list: image_id "
    r"must .*got 99|annotation of again\.png: an image must have one",
  ),
  "yolo": (
    _copy("train/labels/holes.txt", "train/labels/zz.txt"),
    r"zz\.txt: .*must have a picture",
  ),
  "roboflow": (
    _copy("train/holes_mask.png", "train/zz_mask.png"),
    r"zz_mask\.png: .*must have an image",
  ),
  "supervisely": (
    _copy("train/ann/holes.png.json", "train/ann/zz.png.json"),
    r"zz\.png\.json: .*must have a picture",
  ),
  "labelme": (
    _copy("train/holes.json", "train/zz.json"),
    r"zz\.json: .*listed once, got it in .*holes\.json",
  ),
  "label_studio": (
    _copy("train.json", "train again.json"),
    r"train\.json, task \d: .*listed once, got it in .*train again\.json",
  ),
}


@pytest.mark.parametrize("name", _ALONE)
def test_annotations_of_no_picture_or_another_s(tmp_path, name):
  add, said = _ALONE[name]
  FORMATS[name].write(tmp_path)
  add(tmp_path)
  found, _, _ = _lines(tmp_path)
  assert found.faults and all(re.search(said, str(f)) for f in found.faults)
  assert sum(map(len, found.layout.splits.values())) == len(SCENES)


# Files, what is said of them.
_UNNAMED = {
  "yolo without names": (
    {"images/a.png": b"", "labels/a.txt": b"0 0 0 1 0 1 1"},
    r"must have a data\.yaml with names",
  ),
  "yolo of other names": (
    {"a.png": b"", "a.txt": b"0 0 0 1 0 1 1", "d.yaml": b"nc: 3\nnames: [x]"},
    r"d\.yaml: .*1 names, but nc: 3",
  ),
  "yolo of no text": (
    {"a.png": b"", "a.txt": b"0 0 0 1 0 1 1", "d.yaml": b"names: [no]"},
    r"d\.yaml: .*False: write names between quotes",
  ),
  "cvat": (
    {"labelmap.txt": b"a:0,0,0::\nb:1,2::", "SegmentationClass/a.png": b""},
    r"labelmap\.txt: .*'b:1,2::'",
  ),
  "roboflow": (
    {"a.jpg": b"", "a_mask.png": b"", "_classes.csv": b"No, Name\nx, road"},
    r"_classes\.csv: each line must be the number and the name",
  ),
  "roboflow of one split": (
    {"a/_classes.csv": b"a;road", "b/_classes.csv": b"0,x", "a_mask.png": b""},
    r"a/_classes\.csv: must have the classes of .*b/_classes\.csv",
  ),
  "labelme": (
    {"a.json": b'{"shapes": [], "imagePath": "a.png"}', "a.png": b""},
    r"a\.json: must have an object of a class",
  ),
}


@pytest.mark.parametrize("case", _UNNAMED)
def test_classes_without_names_are_said(tmp_path, case):
  files, said = _UNNAMED[case]
  for name, content in files.items():
    scenes.write(tmp_path / name, content)
  with pytest.raises(BadExample, match=said):
    find.find(Tree.open(tmp_path))


def test_a_document_is_found_among_many_others(tmp_path):
  scenes.coco(tmp_path)
  for number in range(20):
    scenes.write(tmp_path / f"annotations/annotations_{number}.json", "{}")
  for options in ({}, {"format": "coco"}):
    found, _, _ = _lines(tmp_path, **options)
    assert found.title == FORMATS["coco"].title


_SHAPE = {"label": "road", "polygon": [[0, 0], [9, 0], [9, 9]]}
_REGION = {"a.png12": {"filename": "a.png", "regions": []}}
# A document of another tool, and how the tool is called.
_UNREAD = {
  "annotations.xml": ("<annotations><image name='a'/>", r"CVAT for images"),
  "tracks.xml": ("<annotations><track id='0'/>", r"CVAT for video"),
  "boxes.xml": ("<annotation><bndbox/></annotation>", r"Pascal VOC's XML of"),
  "old.xml": ("<annotation><polygon/></annotation>", r"LabelMe's XML"),
  "obj.names": ("road", r"YOLO 1\.1"),
  "via.json": (_REGION, r"VGG Image Annotator"),
  "project.json": ({"_via_img_metadata": _REGION}, r"VGG Image Annotator"),
  "v7.json": ({"annotations": [], "item": {"slots": []}}, r"V7 Darwin"),
  "sa.json": ({"metadata": {}, "instances": []}, r"SuperAnnotate"),
  "hasty.json": ({"project_name": "", "label_classes": []}, r"Hasty"),
  "dl.json": ({"annotations": [], "filename": "", "_id": ""}, r"Dataloop"),
  "out/12": ({"id": 12, "result": [], "task": 5}, r"a Label Studio annotation"),
  "labelbox.json": ([{"ID": "x", "Labeled Data": "y"}], r"Labelbox"),
  "rows.json": ([{"data_row": {}}], r"Labelbox"),
  "encord.json": ([{"label_hash": "", "data_units": {}}], r"Encord"),
  "bdd.json": ([{"name": "a.png", "labels": []}], r"Scalabel"),
  "release.json": ({"dataset": {"samples": []}}, r"Segments\.ai"),
  "default.json": ({"items": [], "categories": {}}, r"Datumaro"),
  "map.json": ({"type": "FeatureCollection", "features": []}, r"GeoJSON"),
  "city.json": ({"imgHeight": 1, "objects": [_SHAPE]}, r"Cityscapes or Mapil"),
  "results.json": ([{"image_id": 1, "category_id": 1}], r"a list of COCO's re"),
  "bare.json": ({"images": [], "annotations": []}, r"without categories"),
  "test.json": ({"images": [], "categories": []}, r"without annotations"),
}


@pytest.mark.parametrize("name", _UNREAD)
def test_formats_of_other_tools_are_called_by_name(tmp_path, name):
  content, title = _UNREAD[name]
  text = content if isinstance(content, str) else json.dumps(content)
  scenes.write(tmp_path / "images/a.png", b"")
  scenes.write(tmp_path / name, text)
  said = rf"{re.escape(name)}: this is .*{title}.*is not read: export "
  with pytest.raises(BadExample, match=said) as refused:
    find.find(Tree.open(tmp_path))
  assert "\n" not in str(refused.value)


def _lines(root, **options):
  found = find.find(Tree.open(root), Options(**options))
  classes = folder_classes.find(
    found.tree, found.layout.used_masks(), listed=found.listed
  )
  return found, classes, report.lines(found, classes.names)


def _one_picture(root, *segmentations):
  """COCO's json of a picture with some objects of two classes in turn."""
  scenes.write(root / "a.png", scenes.png(scenes.image("holes")))
  annotations = [
    {
      "id": i,
      "image_id": 1,
      "category_id": 1 + i % 2,
      "segmentation": [outline],
      "iscrowd": 0,
    }
    for i, outline in enumerate(segmentations)
  ]
  document = {
    "images": [{"id": 1, "file_name": "x/a.png", "height": 48, "width": 64}],
    "annotations": annotations,
    "categories": [{"id": i, "name": f"k{i}"} for i in (1, 2, 3)],
  }
  scenes.write(root / "export.json", json.dumps(document))


def test_losses_of_odd_outlines_are_counted(tmp_path):
  _one_picture(
    tmp_path,
    [-10, 4, 6, 4, 6, 10, -10, 10],  # 16 x 6, of which 10 x 6 are outside
    [100, 100, 110, 100, 110, 110, 100, 110],  # all of it
    [1, 1, 5, 5],
    [20, 20, 40, 40, 40, 20, 20, 40],  # a bow
    [50, 0, 50.3, 0, 50.3, 40, 50, 40],
  )
  found, _, said = _lines(tmp_path)
  (drawn,) = found.drawings.values()
  lost = {(loss.kind, loss.name): loss.pixels for loss in drawn.losses}
  assert lost == {
    ("outside", "annotation 0"): 60,
    ("outside", "annotation 1"): 100,
    ("few-points", "annotation 2"): 0,
    ("self-crossing", "annotation 3"): 0,
    ("vanished", "annotation 4"): 0,
  }
  text = "\n".join(said)
  assert "2 objects in 1 pictures reach outside of the picture: 160" in text
  assert "classes never used: k3" in text
  samples = FolderSamples(Tree.open(tmp_path))
  assert samples.names("val") == ["a"]
  codes = [remark.code for remark in samples.read("val", 0).remarks]
  assert {kind for kind, _ in lost} <= set(codes)
  assert samples.said == said


def test_order_of_drawing(tmp_path):
  big, small = [0, 0, 40, 0, 40, 40, 0, 40], [10, 10, 20, 10, 20, 20, 10, 20]
  _one_picture(tmp_path, small, big)  # small is k1, big k2

  def middle(order):
    found, classes, _ = _lines(tmp_path, order=order)
    (path,) = found.layout.masks.values()
    mask = classes.decode(path, found.tree.read(path))
    return classes.names[classes.labels_of(path, mask)[15, 15]]

  orders = ("", "area", "listed", "k2,k1", "k1, k2", "k2")
  assert [*map(middle, orders)] == ["k1", "k1", "k2", "k1", "k2", "k2"]
  with pytest.raises(BadExample, match=r"must name classes.*k1.*got 'cow'"):
    middle("k1,cow")


def test_two_formats_are_asked_about(tmp_path):
  scenes.coco(tmp_path)
  scenes.yolo(tmp_path)
  with pytest.raises(
    BadExample, match=r"COCO json and YOLO.*format=coco or .*format=yolo"
  ):
    find.find(Tree.open(tmp_path))
  for name in ("coco", "yolo"):
    _, _, said = _lines(tmp_path, format=name)
    assert said[0].startswith(FORMATS[name].title)
  with pytest.raises(BadExample, match=r"must hold LabelMe json, as data\.for"):
    find.find(Tree.open(tmp_path), Options(format="labelme"))
  with pytest.raises(ValueError, match=r"data\.format .* one of masks, coco"):
    open_dataset(_config(tmp_path, format="COCO"))


@pytest.mark.parametrize("name", ["coco", "yolo", "labelme", "label_studio"])
def test_pictures_without_annotation(tmp_path, name):
  FORMATS[name].write(tmp_path)
  found, _, said = _lines(tmp_path)
  assert sum(map(len, found.layout.splits.values())) == len(SCENES)
  assert any("1 pictures without annotation: taken for" in s for s in said)
  found, _, said = _lines(tmp_path, unannotated="skip")
  assert sum(map(len, found.layout.splits.values())) == len(SCENES) - 1
  assert any("1 pictures without annotation: left out" in s for s in said)


def test_options_are_for_folders_and_name_the_build(tmp_path):
  scenes.coco(tmp_path / "export")
  places = {
    build.directory("folder", "", str(tmp_path / "export"), options=options)
    for options in (Options(), Options(order="listed"), Options(format="coco"))
  }
  assert len(places) == 3
  with pytest.raises(ValueError, match=r"data\.order .* for the data set fold"):
    build.directory("shapes", options=Options(order="area"))
  config = base_config().data
  config.update(name="shapes", skip_bad=True, data_dir=str(tmp_path))
  with pytest.raises(ValueError, match=r"data\.skip_bad is for .* folder"):
    open_dataset(config)


def test_prepare_says_what_it_read(tmp_path, capsys):
  scenes.label_studio(tmp_path / "export")
  places = ["--manual_dir", str(tmp_path / "export"), "--data_dir"]
  command = ["folder", *places, str(tmp_path / "data")]
  assert prepare.main(command) == 0
  said = capsys.readouterr().out
  assert "Label Studio json, 5 images, 3 classes and background" in said
  assert "car over road" in said
  assert prepare.main([*command, "--format=coc"]) == 1
  assert "must be one of masks, coco" in capsys.readouterr().err
  assert prepare.main([*command, "--unannotated=skip"]) == 0
  assert "without annotation: left out" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_archives_are_read_as_they_are(tmp_path, capsys, kind):
  scenes.coco(tmp_path / "export")
  pack = shutil.make_archive(tmp_path / "pack", kind, tmp_path / "export")
  samples = FolderSamples(build.user_files(pack))  # as the doctor
  assert samples.faults == [] and samples.info.class_names == NAMES
  place = ["--manual_dir", pack, "--data_dir", str(tmp_path / "data")]
  assert prepare.main(["folder", *place]) == 0
  assert "COCO json, 5 images, 3 classes" in capsys.readouterr().out
  config = base_config().data
  config.update(name="folder", path=pack, data_dir=str(tmp_path / "data"))
  dataset = open_dataset(config)  # what was prepared: the archive is named
  for split, source in (("train", dataset.train), ("val", dataset.eval)):
    for index, key in enumerate(samples.names(split)):
      np.testing.assert_array_equal(
        source[index]["label"], samples.read(split, index).label
      )
      assert source[index]["name"] == key


@pytest.mark.parametrize(
  "name", ["a.JSON.bak", "a.zip", "a.tar.bz2", "nowhere"]
)
def test_what_is_no_folder_or_archive_is_refused_at_every_door(
  tmp_path, capsys, name
):
  path = tmp_path / name
  if name == "a.tar.bz2":
    scenes.write(tmp_path / "b/a.txt", "some text")
    shutil.make_archive(tmp_path / "a", "bztar", tmp_path / "b")
  elif name != "nowhere":
    path.write_text("{}")
  said = {
    "a.JSON.bak": r"must be a folder, or an archive .*, got '.*a\.JSON\.bak'",
    "nowhere": r"must be a folder, or an archive .*, got '.*nowhere'",
  }.get(name, r"a\..*must be a folder, a zip or a tar file")
  config = base_config()
  config.data.update(name="folder", path=str(path), data_dir=str(tmp_path))
  with pytest.raises(ValueError, match=said) as refused:
    open_dataset(config.data)
  checkup = doctor.examine(config, overfit_steps=0)
  assert [finding.message for finding in checkup.errors] == [str(refused.value)]
  place = ["--manual_dir", str(path), "--data_dir", str(tmp_path)]
  assert prepare.main(["folder", *place]) == 1
  assert capsys.readouterr().err == f"error: {refused.value}\n"


def test_a_json_chooses_among_several_in_its_folder(
  tmp_path, capsys, monkeypatch
):
  root = tmp_path / "export"
  scenes.coco(root)
  for other in ("labels_v1.json", "annotations/instances_broken.json"):
    scenes.write(root / other, "[")
  path = root / "annotations/instances_train2017.json"
  files = build.user_files(str(path))
  samples = FolderSamples(files)  # as the doctor
  assert samples.faults == [] and samples.info.class_names == NAMES
  assert "COCO json, 3 images, 3 classes and background" in samples.said
  place = ["--manual_dir", str(path), "--data_dir", str(tmp_path / "data")]
  assert prepare.main(["folder", *place]) == 0
  said = capsys.readouterr().out
  assert "folder/instances_train2017_json_" in said
  drawn = "val is a tenth of the pictures, drawn by their names"
  assert drawn in said and drawn in "\n".join(samples.said)
  config = _config(root, path=str(path))
  dataset = open_dataset(config)  # what was prepared
  names = [
    s[i]["name"] for s in (dataset.train, dataset.eval) for i in range(len(s))
  ]
  assert sorted(names) == sorted(scenes.SPLITS["train"])
  before = build.directory("folder", "", str(path))
  monkeypatch.chdir(path.parent)
  assert build.directory("folder", "", path.name) == before
  scenes.write(root / "labels_v1.json", "[]")
  assert build.directory("folder", "", str(path)) == before
  scenes.write(path, path.read_text() + " ")
  assert build.directory("folder", "", str(path)) != before


# What is in a json that is given as data.path, and what is said of it.
_NO_LISTS = {
  "other": (
    "{}",
    r"a\.json: a json given as data\.path must be one that lists",
  ),
  "cut off": ('{"images": [', r"a\.json: must be JSON"),
  "of one picture": (
    '{"shapes": [], "imagePath": "a.png"}',
    r"a\.json: a json given as data\.path must be one that lists",
  ),
}


@pytest.mark.parametrize("case", _NO_LISTS)
def test_other_documents_are_refused_at_every_door(tmp_path, capsys, case):
  text, said = _NO_LISTS[case]
  scenes.suffixed(tmp_path / "export")  # images and masks, which do not count
  path = tmp_path / "export/a.json"
  scenes.write(path, text)
  config = base_config()
  config.data.update(name="folder", path=str(path), data_dir=str(tmp_path))
  with pytest.raises(ValueError, match=said):
    open_dataset(config.data)
  checkup = doctor.examine(config, overfit_steps=0)
  assert re.search(said, checkup_text.text(checkup))
  place = ["--manual_dir", str(path), "--data_dir", str(tmp_path)]
  assert prepare.main(["folder", *place]) == 1
  assert re.search(said, capsys.readouterr().err)
  assert prepare.main(["folder", "--multilabel", *place]) == 1
  assert "is not for classes that overlap" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_on_an_export(tmp_path, capfd):
  root, workdir = tmp_path / "export", tmp_path / "run"
  scenes.coco(root)
  config = config_lib.load(str(_TINY))
  config.update(steps=4, eval_every=0, eval_first=False)
  config.data.update(
    name="folder", path=str(root), data_dir=str(tmp_path / "data")
  )
  train.train_and_evaluate(config, workdir)
  assert "COCO json, 5 images, 3 classes" in capfd.readouterr().err
  segmenter = deeplab_jax.load(str(workdir))
  assert tuple(segmenter.class_names) == NAMES
  labels = segmenter(scenes.image("holes"))
  assert labels.shape == scenes.SIZE and labels.max() < len(NAMES)
