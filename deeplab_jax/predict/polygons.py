"""The regions of a label raster as polygons, for maps: GeoJSON, GeoPackage."""

import json
import pathlib
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from deeplab_jax import atomic
from deeplab_jax.data import bands

FORMATS = {"geojson": ".geojson", "gpkg": ".gpkg"}
_WHAT = "raster whose polygons are wanted"
_WGS84 = "EPSG:4326"
_APPLICATION, _VERSION = 0x47504B47, 10300  # "GPKG", of version 1.3
_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (
  srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY,
  organization TEXT NOT NULL, organization_coordsys_id INTEGER NOT NULL,
  definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (
  table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL,
  identifier TEXT UNIQUE, description TEXT DEFAULT '',
  last_change DATETIME NOT NULL DEFAULT
    (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER);
CREATE TABLE gpkg_geometry_columns (
  table_name TEXT NOT NULL, column_name TEXT NOT NULL,
  geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL,
  z TINYINT NOT NULL, m TINYINT NOT NULL,
  CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name));
CREATE TABLE labels (
  fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom BLOB,
  label INTEGER, class TEXT);
"""
# What the standard asks for in every file: two systems that are none, and the
# degrees of GPS.
_SYSTEMS = (
  ("Undefined Cartesian SRS", -1, "NONE", -1, "undefined"),
  ("Undefined geographic SRS", 0, "NONE", 0, "undefined"),
)


def write(
  raster: pathlib.Path,
  out: pathlib.Path,
  kind: str,
  class_names: Sequence[str],
) -> None:
  """Writes the regions of equal labels, but for those of no-data.

  Args:
    raster: of labels, with its no-data declared.
    out: the file.
    kind: of `FORMATS`. GeoJSON has longitude and latitude, as its standard
      asks for; GeoPackage has the coordinates of the raster.
    class_names: one per label.

  Raises:
    ValueError: GeoJSON of a raster without coordinate system, which gives no
      longitude; a raster whose place only some points have.
  """
  rasterio = bands.import_rasterio(_WHAT)
  with rasterio.open(raster) as labels:
    if labels.gcps[0]:
      raise ValueError(
        "has a place by control points alone, which polygons cannot have: warp "
        "it first (gdalwarp), or leave out --polygons"
      )
    if kind == "geojson" and labels.crs is None:
      raise ValueError(
        "has no coordinate system, without which GeoJSON knows no place: give "
        "--polygons gpkg"
      )
    with atomic.replacing(out) as partial:
      writer = _write_geojson if kind == "geojson" else _write_geopackage
      writer(labels, partial, class_names)


def _regions(labels: Any) -> Iterator[tuple[dict[str, Any], int]]:
  """Polygons in the raster's coordinates, as GeoJSON has them, and labels."""
  import rasterio
  from rasterio import features

  band = rasterio.band(labels, 1)  # which GDAL reads row by row
  for geometry, value in features.shapes(band, transform=labels.transform):
    if value != labels.nodata:
      yield geometry, int(value)


def _write_geojson(
  labels: Any, path: pathlib.Path, names: Sequence[str]
) -> None:
  from rasterio.warp import transform_geom

  with path.open("w", encoding="utf-8") as file:
    file.write('{"type": "FeatureCollection", "features": [')
    for number, (geometry, label) in enumerate(_regions(labels)):
      placed = transform_geom(labels.crs, _WGS84, geometry, precision=9)
      feature = {
        "type": "Feature",
        "properties": {"label": label, "class": names[label]},
        "geometry": placed,
      }
      file.write((",\n" if number else "\n") + json.dumps(feature))
    file.write("\n]}\n")


def _write_geopackage(
  labels: Any, path: pathlib.Path, names: Sequence[str]
) -> None:
  """A file as OGC's GeoPackage Encoding Standard 1.3 has it."""
  system = _system(labels.crs)
  box = labels.bounds
  extent = (box.left, min(box.bottom, box.top), box.right, max(box[1], box[3]))
  with sqlite3.connect(path) as database:
    database.execute(f"PRAGMA application_id = {_APPLICATION}")
    database.execute(f"PRAGMA user_version = {_VERSION}")
    database.executescript(_TABLES)
    database.executemany(
      "INSERT OR REPLACE INTO gpkg_spatial_ref_sys "
      "(srs_name, srs_id, organization, organization_coordsys_id, definition) "
      "VALUES (?, ?, ?, ?, ?)",
      [*_SYSTEMS, _wgs84(), system],
    )
    database.execute(
      "INSERT INTO gpkg_contents (table_name, data_type, identifier, min_x, "
      "min_y, max_x, max_y, srs_id) VALUES ('labels', 'features', 'labels', "
      "?, ?, ?, ?, ?)",
      (*extent, system[1]),
    )
    database.execute(
      "INSERT INTO gpkg_geometry_columns VALUES "
      "('labels', 'geom', 'POLYGON', ?, 0, 0)",
      (system[1],),
    )
    database.executemany(
      "INSERT INTO labels (geom, label, class) VALUES (?, ?, ?)",
      (
        (_blob(geometry, system[1]), label, names[label])
        for geometry, label in _regions(labels)
      ),
    )
  database.close()


def _wgs84() -> tuple[str, int, str, int, str]:
  from rasterio.crs import CRS

  return ("WGS 84", 4326, "EPSG", 4326, CRS.from_epsg(4326).to_wkt())


def _system(crs: Any) -> tuple[str, int, str, int, str]:
  """The row of a coordinate system."""
  if crs is None:
    return _SYSTEMS[0]
  authority = crs.to_authority() or ("NONE", "100000")
  number = int(authority[1]) if authority[1].isdecimal() else 100000
  return (crs.to_string()[:80], number, authority[0], number, crs.to_wkt())


def _blob(geometry: dict[str, Any], system: int) -> bytes:
  """A polygon as the standard stores it: a header, then WKB."""
  head = b"GP\0\x01" + struct.pack("<i", system)
  rings = geometry["coordinates"]
  parts = [head, b"\x01", struct.pack("<II", 3, len(rings))]
  for ring in rings:
    parts.append(struct.pack("<I", len(ring)))
    parts += [struct.pack("<dd", x, y) for x, y in ring]
  return b"".join(parts)
