"""One set of scenes, written in every format that annotation tools export.

The truth is drawn here from the corners, by NumPy alone; the writers write what
their format can hold, and say what it cannot.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import pathlib
import zlib
from collections.abc import Callable

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet

SIZE = (48, 64)
NAMES = ("background", "road", "car", "pole")
COLORS = ((0, 0, 0), (128, 64, 128), (0, 0, 142), (220, 220, 0))
IGNORE = 255


@dataclasses.dataclass(frozen=True)
class Thing:
  """An object: class, outline and holes of corners (x, y) in whole pixels."""

  name: str
  outline: tuple[tuple[float, float], ...]
  holes: tuple[tuple[tuple[float, float], ...], ...] = ()
  is_crowd: bool = False


def box(x0, y0, x1, y1):
  return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


_STEPS = ((2, 2), (60, 2), (60, 20), (40, 20), (40, 40), (2, 40))
# From the largest to the smallest, as all orders of drawing then agree.
SCENES: dict[str, list[Thing]] = {
  "holes": [
    Thing("road", _STEPS, (box(10, 8, 20, 14),)),
    Thing("car", box(30, 10, 50, 30)),
  ],
  "crowd": [
    Thing("car", box(20, 5, 60, 45), is_crowd=True),
    Thing("road", box(0, 0, 30, 20)),
  ],
  "thin": [
    Thing("road", box(0, 30, 64, 48)),
    Thing("pole", box(10, 10, 11, 40)),
    Thing("pole", box(20.6, 4, 20.8, 40)),
  ],
  "nested": [
    Thing("road", box(4, 4, 60, 44)),
    Thing("car", box(10, 10, 40, 40)),
    Thing("pole", box(14, 14, 18, 18)),
  ],
  "empty": [],
}
SPLITS = {"train": ("holes", "crowd", "thin"), "val": ("nested", "empty")}


def image(name: str) -> np.ndarray:
  """A picture of noise, its own for each name."""
  rng = np.random.default_rng(sorted(SCENES).index(name))
  return rng.integers(0, 256, (*SIZE, 3), np.uint8)


def inside(outline) -> np.ndarray:
  """Pixels (h, w) whose centre an outline goes around, by the even-odd rule."""
  y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
  odd = np.zeros(SIZE, bool)
  for (x0, y0), (x1, y1) in zip(outline, (*outline[1:], outline[0])):
    if y0 != y1:
      at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
      odd ^= ((y0 > y) != (y1 > y)) & (x < at)
  return odd


def region(thing: Thing, holes: bool = True) -> np.ndarray:
  pixels = inside(thing.outline)
  for hole in thing.holes if holes else ():
    pixels &= ~inside(hole)
  return pixels


def truth(name: str, holes: bool = True, crowd: str = "ignore") -> np.ndarray:
  """Labels (h, w) of a scene.

  Args:
    name: of the scene.
    holes: whether the format has holes; else they are filled.
    crowd: "ignore", or "leave" where the format has no such regions.
  """
  labels = np.zeros(SIZE, np.uint8)
  for thing in sorted(SCENES[name], key=lambda thing: not thing.is_crowd):
    if not thing.is_crowd:
      labels[region(thing, holes)] = NAMES.index(thing.name)
    elif crowd == "ignore":
      labels[region(thing)] = IGNORE
  return labels


def png(array: np.ndarray, palette=None) -> bytes:
  file = io.BytesIO()
  picture = PIL.Image.fromarray(array)
  if palette is not None:
    picture = PIL.Image.frombytes("P", picture.size, array.tobytes())
    rest = 256 - len(palette)
    picture.putpalette([v for c in [*palette, *[(9, 9, 9)] * rest] for v in c])
  picture.save(file, "PNG")
  return file.getvalue()


def write(path: pathlib.Path, content: bytes | str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  content = content.encode() if isinstance(content, str) else content
  path.write_bytes(content)


def _each():
  """Split, number and name of every scene."""
  number = 0
  for split, names in SPLITS.items():
    for name in names:
      number += 1
      yield split, number, name


def runs(pixels: np.ndarray) -> list[int]:
  """COCO's run lengths, down the columns, of 0 first."""
  flat = np.concatenate([[0], pixels.ravel(order="F").astype(int), [0]])
  changes = np.flatnonzero(np.diff(flat)).tolist()
  edges = [0, *changes]
  counts = np.diff([*edges, pixels.size]).tolist()
  return counts


# ------------------------------------------------------------------- writers


def _coco_things(kind: str, thing: Thing, key: int):
  from pycocotools import mask as coco_mask

  pixels = region(thing)
  if kind == "polygons" and not thing.is_crowd:
    rings = [thing.outline, *thing.holes]
    segmentation = [[float(v) for p in ring for v in p] for ring in rings]
  elif kind == "packed":
    packed = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    segmentation = {
      "size": list(SIZE),
      "counts": packed["counts"].decode(),
    }
  else:
    segmentation = {"size": list(SIZE), "counts": runs(pixels)}
  return {
    "id": key,
    "category_id": 10 * NAMES.index(thing.name),
    "segmentation": segmentation,
    "iscrowd": int(thing.is_crowd),
    "area": float(pixels.sum()),
    "bbox": [0, 0, 1, 1],
  }


def coco(root: pathlib.Path, kind: str = "polygons") -> None:
  for split in SPLITS:
    images, annotations = [], []
    for where, number, name in _each():
      if where != split:
        continue
      write(root / f"{split}2017/{name}.png", png(image(name)))
      entry = {"id": number, "file_name": f"{name}.png"}
      images.append(entry | {"height": SIZE[0], "width": SIZE[1]})
      for thing in reversed(SCENES[name]):  # the order must not matter
        key = 100 * number + len(annotations)
        annotation = _coco_things(kind, thing, key)
        annotations.append(annotation | {"image_id": number})
    categories = [
      {"id": 10 * NAMES.index(name), "name": name, "supercategory": "x"}
      for name in NAMES[1:]
    ]
    document = {
      "info": {},
      "images": images,
      "annotations": annotations,
      "categories": categories,
    }
    write(
      root / f"annotations/instances_{split}2017.json", json.dumps(document)
    )


def panoptic(root: pathlib.Path) -> None:
  for split in SPLITS:
    images, annotations = [], []
    for where, number, name in _each():
      if where != split:
        continue
      write(root / f"{split}/{name}.jpg", png(image(name)))
      labels = truth(name)
      codes, segments = np.zeros(SIZE, np.int64), []
      for label in np.unique(labels[labels != IGNORE]).tolist():
        code = 1000 * number + 7 * label + 300
        codes[labels == label] = code
        segments.append({"id": code, "category_id": label, "iscrowd": 0})
      colors = np.stack([codes % 256, codes // 256 % 256, codes // 65536], -1)
      file = root / f"annotations/panoptic_{split}/{name}.png"
      write(file, png(colors.astype(np.uint8)))
      size = {"height": SIZE[0], "width": SIZE[1]}
      images.append({"id": number, "file_name": f"{name}.jpg"} | size)
      annotations.append(
        {
          "image_id": number,
          "file_name": f"{name}.png",
          "segments_info": segments,
        }
      )
    document = {
      "images": images,
      "annotations": annotations,
      "categories": [
        {"id": i, "name": n, "isthing": 0, "color": list(COLORS[i])}
        for i, n in enumerate(NAMES)
      ],
    }
    write(root / f"annotations/panoptic_{split}.json", json.dumps(document))


def yolo(root: pathlib.Path) -> None:
  for split, _, name in _each():
    folder = {"train": "train", "val": "valid"}[split]
    write(root / f"{folder}/images/{name}.png", png(image(name)))
    lines = []
    for thing in SCENES[name]:
      if not thing.is_crowd:
        shares = np.array(thing.outline, float) / SIZE[::-1]
        numbers = " ".join(f"{v:.6f}" for v in shares.ravel())
        lines.append(f"{NAMES.index(thing.name) - 1} {numbers}")
    write(root / f"{folder}/labels/{name}.txt", "\n".join(lines))
  write(
    root / "data.yaml",
    "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    f"nc: 3\nnames: {list(NAMES[1:])}\n",
  )


def roboflow(root: pathlib.Path) -> None:
  for split, _, name in _each():
    folder = root / {"train": "train", "val": "valid"}[split]
    write(folder / f"{name}.jpg", png(image(name)))
    write(folder / f"{name}_mask.png", png(truth(name)))
    rows = "\n".join(f"{i}, {n}" for i, n in enumerate(NAMES))
    write(folder / "_classes.csv", f"Pixel Value, Class\n{rows}\n")


def labelme(root: pathlib.Path) -> None:
  for split, _, name in _each():
    shapes = []
    for thing in sorted(SCENES[name], key=lambda thing: not thing.is_crowd):
      label = "__ignore__" if thing.is_crowd else thing.name
      shape = {"label": label, "group_id": None, "flags": {}}
      if thing.holes:
        ys, xs = np.nonzero(region(thing))
        y0, x0, y1, x1 = ys.min(), xs.min(), ys.max(), xs.max()
        part = region(thing)[y0 : y1 + 1, x0 : x1 + 1]
        shape |= {
          "shape_type": "mask",
          "points": [[float(x0), float(y0)], [float(x1), float(y1)]],
          "mask": base64.b64encode(png(part)).decode(),
        }
      elif len(thing.outline) == 4:
        corners = [thing.outline[2], thing.outline[0]]  # in any order
        shape |= {"shape_type": "rectangle", "points": corners}
      else:
        shape |= {"shape_type": "polygon", "points": thing.outline}
      shapes.append(shape)
    write(root / f"{split}/{name}.png", png(image(name)))
    document = {
      "version": "5.5.0",
      "flags": {},
      "shapes": shapes,
      "imagePath": f"..\\{split}\\{name}.png",
      "imageData": None,
      "imageHeight": SIZE[0],
      "imageWidth": SIZE[1],
    }
    write(root / f"{split}/{name}.json", json.dumps(document))
  write(root / "labels.txt", "__ignore__\n_background_\nroad\ncar\npole\n")


def cvat(root: pathlib.Path) -> None:
  rows = [
    f"{name}:{','.join(map(str, color))}::"
    for name, color in zip((*NAMES[1:], NAMES[0]), (*COLORS[1:], COLORS[0]))
  ]
  head = "# label:color_rgb:parts:actions"
  write(root / "labelmap.txt", "\n".join([head, *rows]) + "\n")
  for split, _, name in _each():
    labels = truth(name, crowd="leave")
    write(root / f"JPEGImages/{name}.png", png(image(name)))
    colors = np.array(COLORS, np.uint8)[labels]
    write(root / f"SegmentationClass/{name}.png", png(colors))
    write(root / f"SegmentationObject/{name}.png", png(colors))
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    with (lists / f"{split}.txt").open("a") as file:
      file.write(f"{name}\n")


def brush(pixels: np.ndarray) -> list[int]:
  """Label Studio's run lengths of a mask."""
  alpha = np.where(pixels, 255, 0).astype(np.uint8)
  values = np.repeat(alpha.ravel(), 4).tolist()
  bits = f"{len(values):032b}{7:05b}" + "".join(
    f"{n - 1:04b}" for n in (3, 4, 8, 16)
  )
  start = 0
  while start < len(values):
    end = start
    while end < len(values) and values[end] == values[start]:
      end += 1
    end = min(end, start + 65536)
    bits += f"1{3:02b}{end - start - 1:016b}{values[start]:08b}"
    start = end
  bits += "0" * (-len(bits) % 8)
  return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def label_studio(root: pathlib.Path) -> None:
  for split in SPLITS:
    tasks = []
    for where, number, name in _each():
      if where != split:
        continue
      result = []
      for thing in SCENES[name]:
        region_of = {
          "id": f"r{len(result)}",
          "original_width": SIZE[1],
          "original_height": SIZE[0],
          "image_rotation": 0,
          "from_name": "label",
          "to_name": "image",
        }
        if thing.is_crowd:
          continue
        if thing.holes:
          region_of["type"] = "brushlabels"
          region_of["value"] = {
            "format": "rle",
            "rle": brush(region(thing)),
            "brushlabels": [thing.name],
          }
        else:
          points = np.array(thing.outline, float) / SIZE[::-1] * 100
          region_of["type"] = "polygonlabels"
          region_of["value"] = {
            "points": points.tolist(),
            "polygonlabels": [thing.name],
            "closed": True,
          }
        result.append(region_of)
      write(root / f"images/{name}.png", png(image(name)))
      tasks.append(
        {
          "id": number,
          "data": {"image": f"/data/upload/3/0a1b2c3d-{name}.png"},
          "annotations": [
            {"id": 1, "was_cancelled": True, "result": []},
            {"id": 2, "was_cancelled": False, "result": result},
          ],
          "predictions": [],
        }
      )
    write(root / f"{split}.json", json.dumps(tasks))
  write(root / "classes.txt", "\n".join(NAMES))


def pixel_corners(outline) -> list[list[float]]:
  """Corners of an outline of right angles as pixels that are within it, which
  is how Supervisely has them."""
  left, top = np.min(outline, 0)
  return [[float(x - (x > left)), float(y - (y > top))] for x, y in outline]


def supervisely(root: pathlib.Path) -> None:
  classes = [
    {"title": name, "shape": "any", "color": f"#{bytes(color).hex()}"}
    for name, color in zip(NAMES[1:], COLORS[1:])
  ]
  write(root / "meta.json", json.dumps({"classes": classes, "tags": []}))
  for split, _, name in _each():
    objects = []
    for thing in SCENES[name]:
      if thing.is_crowd or not region(thing).any():
        continue  # neither crowds nor what is thinner than a pixel
      entry = {"id": 900 + len(objects), "classTitle": thing.name, "tags": []}
      if thing.name == "car":
        ys, xs = np.nonzero(region(thing))
        part = region(thing)[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        rgba = np.repeat(part[..., None].astype(np.uint8) * 255, 4, -1)
        data = base64.b64encode(zlib.compress(png(rgba))).decode()
        corner = [int(xs.min()), int(ys.min())]
        entry["geometryType"] = "bitmap"
        entry["bitmap"] = {"data": data, "origin": corner}
      else:
        entry["geometryType"] = "polygon"
        entry["points"] = {
          "exterior": pixel_corners(thing.outline),
          "interior": [pixel_corners(hole) for hole in thing.holes],
        }
      objects.append(entry)
    write(root / f"{split}/img/{name}.png", png(image(name)))
    size = {"height": SIZE[0], "width": SIZE[1]}
    document = {"description": "", "tags": [], "size": size}
    write(
      root / f"{split}/ann/{name}.png.json",
      json.dumps(document | {"objects": objects}),
    )


def parquet(root: pathlib.Path) -> None:
  for split, names in SPLITS.items():
    folder = {"train": "train", "val": "validation"}[split]
    kind = pyarrow.struct(
      [("bytes", pyarrow.binary()), ("path", pyarrow.string())]
    )
    images = [{"bytes": png(image(n)), "path": f"{n}.png"} for n in names]
    masks = [{"bytes": png(truth(n)), "path": f"{n}.png"} for n in names]
    table = pyarrow.table(
      {
        "image": pyarrow.array(images, kind),
        "annotation": pyarrow.array(masks, kind),
        "scene": pyarrow.array(range(len(names))),
      }
    )
    features = {
      "image": {"_type": "Image"},
      "annotation": {"_type": "Image"},
      "scene": {"_type": "Value", "dtype": "int64"},
      "objects": {
        "feature": {"_type": "ClassLabel", "names": list(NAMES)},
        "_type": "Sequence",
      },
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (root / "data").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(
      table.replace_schema_metadata(metadata),
      root / f"data/{folder}-00000-of-00001.parquet",
      row_group_size=2,
    )


def suffixed(root: pathlib.Path) -> None:
  for split, _, name in _each():
    write(root / f"images/{split}/{name}.jpg", png(image(name)))
    write(root / f"masks/{split}/{name}_mask.png", png(truth(name), COLORS))
  write(root / "classes.txt", "\n".join(NAMES))


def beside(root: pathlib.Path) -> None:
  for split, _, name in _each():
    write(root / f"{split}/{name}.jpg", png(image(name)))
    write(root / f"{split}/{name}_seg.png", png(truth(name)))
  write(root / "classes.txt", "\n".join(NAMES))


@dataclasses.dataclass(frozen=True)
class Format:
  """A writer, and what its format cannot hold.

  Attributes:
    write: writes all scenes into a folder.
    title: how the format is called in the line that is said.
    holes: whether holes are kept.
    crowd: as `truth` takes it.
    draws: whether objects are drawn, not masks read.
    vanished: what is said of an object that has no pixel; "" if the format
      has no such objects.
  """

  write: Callable[[pathlib.Path], None]
  title: str
  holes: bool = True
  crowd: str = "ignore"
  draws: bool = True
  vanished: str = "vanished"

  def losses(self) -> dict[str, int]:
    """Pixels of each kind of loss that is to be reported of all scenes."""
    if not self.draws:
      return {}
    found = {"overlap": 0} | ({self.vanished: 0} if self.vanished else {})
    for things in SCENES.values():
      drawn = np.full(SIZE, -1)
      for thing in things:
        if not thing.is_crowd:
          pixels = region(thing, self.holes)
          label = NAMES.index(thing.name)
          found["overlap"] += int((pixels & ~np.isin(drawn, (-1, label))).sum())
          drawn[pixels] = label
    if self.title == "COCO json":
      crowds = [t for ts in SCENES.values() for t in ts if t.is_crowd]
      found["crowd"] = int(sum(region(thing).sum() for thing in crowds))
    if self.write is coco:
      filled = [inside(h) for t in SCENES["holes"] for h in t.holes]
      found["hole-filled"] = int(sum(pixels.sum() for pixels in filled))
    return found


FORMATS = {
  "coco": Format(coco, "COCO json", holes=False),
  "coco rle": Format(
    functools.partial(coco, kind="runs"), "COCO json", vanished="empty"
  ),
  "coco packed": Format(
    functools.partial(coco, kind="packed"), "COCO json", vanished="empty"
  ),
  "panoptic": Format(panoptic, "COCO panoptic", draws=False),
  "yolo": Format(yolo, "YOLO segments", holes=False, crowd="leave"),
  "roboflow": Format(roboflow, "Roboflow semantic masks", draws=False),
  "labelme": Format(labelme, "LabelMe json"),
  "cvat": Format(cvat, "CVAT", crowd="leave", draws=False),
  "label_studio": Format(label_studio, "Label Studio json", crowd="leave"),
  "supervisely": Format(supervisely, "Supervisely", crowd="leave", vanished=""),
  "parquet": Format(parquet, "Hugging Face parquet", draws=False),
  "suffixed": Format(suffixed, "masks are called *_mask for *", draws=False),
  "beside": Format(beside, "masks are called *_seg for *", draws=False),
}
