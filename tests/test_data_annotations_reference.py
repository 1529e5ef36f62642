"""Exports that the tools' own libraries write are read as they were meant.

Skipped without them: `pip install -r requirements-annotations.txt`.
"""

import json
import pathlib
import shutil

import cv2
import numpy as np
import pytest

from deeplab_jax.data.annotations import drawing, find, supervisely
from deeplab_jax.data.annotations.brush import decode_brush
from deeplab_jax.data.builders import folder_classes
from deeplab_jax.data.builders.trees import Tree
from tests import annotation_scenes as scenes
from tests.annotation_scenes import IGNORE, NAMES, SCENES, SIZE, SPLITS

_AROUND = np.ones((3, 3), np.uint8)  # a pixel and its neighbours
# The libraries' own warnings are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


def _labels(root):
  """Labels of each picture by its stem, and the stems of each split."""
  found = find.find(Tree.open(root))
  layout = found.layout
  classes = folder_classes.find(
    found.tree, layout.used_masks(), listed=found.listed
  )
  assert sorted(classes.names) == sorted(NAMES)
  numbers = np.arange(256, dtype=np.uint8)
  numbers[: len(NAMES)] = [NAMES.index(name) for name in classes.names]
  labels = {}
  for name, path in layout.masks.items():
    mask = classes.decode(path, found.tree.read(path))
    labels[pathlib.Path(name).name] = numbers[classes.labels_of(path, mask)]
    assert found.tree.read(layout.images[name])
  splits = {
    split: {pathlib.Path(name).name for name in names}
    for split, names in layout.splits.items()
  }
  return labels, splits


def _check(root, but=(), **loses):
  labels, splits = _labels(root)
  assert splits == {split: set(names) for split, names in SPLITS.items()}
  for name in SCENES.keys() - set(but):
    wanted = scenes.truth(name, **({"crowd": "leave"} | loses))
    np.testing.assert_array_equal(labels[name], wanted, err_msg=name)


def _items(datumaro, as_masks):
  """The scenes as Datumaro has them."""
  from datumaro.components.media import Image

  for split, names in SPLITS.items():
    for name in names:
      objects = []
      for thing in SCENES[name]:
        options = {
          "label": NAMES.index(thing.name) - (not as_masks),
          "z_order": len(objects),
          "id": len(objects) + 1,
          "attributes": {"is_crowd": False},  # else masks are written as such
        }
        if thing.is_crowd:
          continue
        if as_masks or thing.holes:
          pixels = scenes.region(thing).astype(np.uint8)
          if pixels.any():
            objects.append(datumaro.Mask(pixels, **options))
        else:
          points = [float(v) for point in thing.outline for v in point]
          objects.append(datumaro.Polygon(points, **options))
      yield datumaro.DatasetItem(
        id=name,
        subset=split,
        media=Image.from_numpy(data=scenes.image(name)),
        annotations=objects,
      )


@pytest.mark.parametrize("name", ["coco_instances", "coco", "voc_segmentation"])
def test_exports_of_datumaro(tmp_path, name):
  datumaro = pytest.importorskip("datumaro", reason="no datumaro is installed")
  as_masks = name == "voc_segmentation"
  names = NAMES if as_masks else NAMES[1:]
  categories = {
    datumaro.AnnotationType.label: datumaro.LabelCategories.from_iterable(names)
  }
  if as_masks:
    colors = dict(enumerate(scenes.COLORS))
    categories[datumaro.AnnotationType.mask] = datumaro.MaskCategories(colors)
  dataset = datumaro.Dataset.from_iterable(
    list(_items(datumaro, as_masks)), categories=categories
  )
  root = tmp_path / "export"
  dataset.export(str(root), name, save_media=True)
  for path in root.glob("annotations/panoptic_*"):  # a second format
    path.unlink() if path.is_file() else shutil.rmtree(path)
  # Datumaro makes an outline of the mask with a hole, a pixel smaller.
  _check(root, but=() if as_masks else ("holes",))


def _outlined(scene):
  """What an outline tells of a scene; one of less than three points would be
  written as a box."""
  things = [x for x in SCENES[scene] if not x.is_crowd and not x.holes]
  return [x for x in things if scenes.region(x).any(0).sum() > 1]


@pytest.mark.parametrize("name", ["coco", "yolo", "labelme"])
def test_exports_of_supervision(tmp_path, name):
  sv = pytest.importorskip("supervision", reason="no supervision is installed")
  if name == "yolo":
    text = "train: train/images\nval: val/images\n"
    scenes.write(tmp_path / "data.yaml", f"{text}names: {list(NAMES[1:])}\n")
  for split, names in SPLITS.items():
    images, found = {}, {}
    for scene in names:
      path = f"{scene}.png"
      images[path] = scenes.image(scene)
      things = _outlined(scene)
      masks = np.array([scenes.region(x) for x in things], bool)
      found[path] = sv.Detections.empty()
      if things:
        found[path] = sv.Detections(
          sv.mask_to_xyxy(masks),
          masks,
          class_id=np.array([NAMES.index(x.name) - 1 for x in things]),
        )
    dataset = sv.DetectionDataset(list(NAMES[1:]), images, found)
    folder = str(tmp_path / split)
    if name == "yolo":
      dataset.as_yolo(f"{folder}/images", f"{folder}/labels")
    elif name == "coco":
      place = str(tmp_path / f"annotations/{split}.json")
      dataset.as_coco(folder, place)
    else:
      dataset.as_labelme(folder, folder)
  labels, splits = _labels(tmp_path)
  assert splits == {split: set(names) for split, names in SPLITS.items()}
  for scene in SCENES.keys() - {"holes"}:
    # An outline of a mask goes through the middles of its outer pixels.
    wanted = np.zeros(SIZE, np.uint8)
    for thing in _outlined(scene):
      wanted[scenes.region(thing)] = NAMES.index(thing.name)
    around = np.pad(wanted, 1, constant_values=IGNORE)
    sure = cv2.dilate(around, _AROUND) == cv2.erode(around, _AROUND)
    sure = sure[1:-1, 1:-1]
    np.testing.assert_array_equal(labels[scene][sure], wanted[sure])
    assert (labels[scene] != wanted).mean() < 0.1


def test_shapes_of_labelme(tmp_path):
  """But for the border of a shape, which LabelMe counts to it."""
  utils = pytest.importorskip("labelme.utils", reason="no labelme is installed")
  rng = np.random.default_rng(0)
  counts = {"polygon": 3, "rectangle": 2, "circle": 2, "oriented_rectangle": 4}
  for number, (kind, count) in enumerate(15 * list(counts.items())):
    points = rng.uniform(2, 46, (count, 2))
    if kind == "oriented_rectangle":
      ahead, aside = rng.uniform(4, 20, 2) * [1, -1], rng.uniform(4, 20)
      turned = ahead[::-1] * [1, -1] / np.linalg.norm(ahead) * aside
      points = points[0] + np.array([0 * ahead, ahead, ahead + turned, turned])
    shape = {"label": "car", "points": points.tolist(), "shape_type": kind}
    document = {"shapes": [shape], "imagePath": "a.png"}
    document |= {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    root = tmp_path / str(number)
    for stem in "ab":  # one picture alone has no split
      document["imagePath"] = f"{stem}.png"
      scenes.write(root / f"{stem}.png", scenes.png(scenes.image("holes")))
      scenes.write(root / f"{stem}.json", json.dumps(document))
    found = find.find(Tree.open(root))
    classes = folder_classes.find(
      found.tree, found.layout.used_masks(), listed=found.listed
    )
    path = found.layout.masks["a"]
    labels = classes.labels_of(
      path, classes.decode(path, found.tree.read(path))
    )
    theirs = utils.shape_to_mask(SIZE, shape["points"], kind).astype(np.uint8)
    inner, outer = (f(theirs, _AROUND) for f in (cv2.erode, cv2.dilate))
    assert ((inner <= labels) & (labels <= outer)).all(), (kind, points)


def test_strokes_of_label_studio():
  brush = pytest.importorskip(
    "label_studio_sdk.converter.brush", reason="no label-studio-sdk"
  )
  rng = np.random.default_rng(0)
  for size in (SIZE, (1, 1), (7, 31)):
    pixels = rng.random(size) < 0.3
    pixels[: size[0] // 2] = True
    values = np.repeat(pixels[..., None] * 255, 4, -1).astype(np.uint8)
    encoded = list(brush.encode_rle(values.ravel().tolist()))
    np.testing.assert_array_equal(decode_brush(encoded, size), pixels)
    own = scenes.brush(pixels)
    np.testing.assert_array_equal(brush.decode_rle(own), values.ravel())


def test_projects_of_supervisely(tmp_path):
  sly = pytest.importorskip("supervisely", reason="no supervisely is installed")
  classes = [
    sly.ObjClass(name, sly.AnyGeometry, color=list(color))
    for name, color in zip(NAMES[1:], scenes.COLORS[1:])
  ]
  meta = sly.ProjectMeta(sly.ObjClassCollection(classes))
  scenes.write(tmp_path / "meta.json", json.dumps(meta.to_json()))
  by_name = {entry.name: entry for entry in classes}
  for split, names in SPLITS.items():
    for name in names:
      objects = []
      for thing in SCENES[name]:
        pixels = scenes.region(thing)
        if thing.is_crowd or not pixels.any():
          continue
        shape = sly.Bitmap(pixels)  # its outlines count whole pixels
        objects.append(sly.Label(shape, by_name[thing.name]))
      annotation = sly.Annotation(SIZE, objects)
      file = tmp_path / f"{split}/img/{name}.png"
      scenes.write(file, scenes.png(scenes.image(name)))
      text = json.dumps(annotation.to_json())
      scenes.write(tmp_path / f"{split}/ann/{name}.png.json", text)
  _check(tmp_path)


def test_outlines_of_supervisely():
  """Polygons with holes, rectangles and turned boxes, also at the border."""
  sly = pytest.importorskip("supervisely", reason="no supervisely is installed")
  rng = np.random.default_rng(0)
  for number in range(60):
    corners = rng.integers(-4, 60, (5, 2)).tolist()
    figures = {
      "polygon": sly.Polygon(
        [sly.PointLocation(y, x) for x, y in corners],
        [[sly.PointLocation(y, x) for x, y in corners[1:4]]] * (number % 2),
      ),
      "rectangle": sly.Rectangle(
        *np.sort(rng.integers(0, 40, (2, 2)), 0).ravel()
      ),
      "oriented_bbox": sly.OrientedBBox(10, 12, 33, 40, angle=number / 7),
    }
    if several := getattr(sly, "Multipolygon", None):  # of newer versions
      other = [sly.PointLocation(y, x) for x, y in corners[1:]]
      parts = [figures["polygon"], sly.Polygon(other)]
      figures["multipolygon"] = several(parts)
    for kind, figure in figures.items():
      entry = json.loads(json.dumps(figure.to_json()))
      shapes = supervisely.shapes_of("object 1", 1, kind, entry)
      drawn = drawing.draw("a.json", shapes, SIZE, "listed")
      np.testing.assert_array_equal(drawn.labels, figure.get_mask(SIZE))


def test_parquet_of_datasets(tmp_path):
  datasets = pytest.importorskip("datasets", reason="no datasets is installed")
  features = datasets.Features(
    {
      "image": datasets.Image(),
      "label": datasets.Image(),
      "classes": datasets.Sequence(datasets.ClassLabel(names=list(NAMES))),
    }
  )
  for split, names in SPLITS.items():
    folder = {"train": "train", "val": "validation"}[split]
    cells = {
      "image": [{"bytes": scenes.png(scenes.image(n)), "path": f"{n}.png"}
                for n in names],
      "label": [{"bytes": scenes.png(scenes.truth(n)), "path": f"{n}_m.png"}
                for n in names],
      "classes": [[0, 1] for _ in names],
    }  # fmt: skip
    table = datasets.Dataset.from_dict(cells, features=features)
    file = tmp_path / f"data/{folder}-00000-of-00001.parquet"
    file.parent.mkdir(exist_ok=True)
    table.to_parquet(str(file))
  _check(tmp_path, crowd="ignore")
