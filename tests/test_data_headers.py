"""What headers of pictures say, against arrays that were written."""

import io
import struct

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

from deeplab_jax import predict
from deeplab_jax.data import headers, limits
from deeplab_jax.data.builders import checks, masks
from deeplab_jax.data.builders.faults import BadExample


def tiff(bands, extra_samples=(), photometric=2, tags=(), circular=False):
  """A TIFF of (h, w, c) in one strip, as GDAL writes it.

  Args:
    bands: of uint8, uint16, int16 or float32.
    extra_samples: what the bands after the colours are; 0 is "anything".
    photometric: 1 for grey, 2 for red, green and blue.
    tags: further (tag, type, values); type 2 is text, 4 an integer.
    circular: whether the next page is said to be this one.
  """
  height, width, count = bands.shape
  data, bits = bands.tobytes(), bands.dtype.itemsize * 8
  kind = {"u": 1, "i": 2, "f": 3}[bands.dtype.kind]
  entries = [
    *((256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * count)),
    *((259, 3, [1]), (262, 3, [photometric]), (273, 4, [8])),
    *((277, 3, [count]), (278, 4, [height]), (279, 4, [len(data)])),
    *((284, 3, [1]), (339, 3, [kind] * count)),
    (33550, 12, [10.0, 10.0, 0.0]),  # as of a map
    *tags,
  ]
  if extra_samples:
    entries.append((338, 3, list(extra_samples)))
  data += b"\0" * (len(data) % 2)
  start = 8 + len(data)
  after = start + 2 + 12 * len(entries) + 4
  directory, tail = struct.pack("<H", len(entries)), b""
  for tag, type_, values in sorted(entries):
    if type_ == 2:
      raw, count = values.encode() + b"\0", len(values) + 1
    else:
      code = {3: "H", 4: "I", 12: "d"}[type_]
      raw, count = struct.pack(f"<{len(values)}{code}", *values), len(values)
    if len(raw) > 4:
      raw, tail = struct.pack("<I", after + len(tail)), tail + raw
      tail += b"\0" * (len(tail) % 2)
    directory += struct.pack("<HHI", tag, type_, count) + raw.ljust(4, b"\0")
  first = struct.pack("<I", start)
  after_it = first if circular else b"\0" * 4
  return b"II*\0" + first + data + directory + after_it + tail


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 8])
def test_bands_and_kind_of_a_tiff_are_read(dtype, bands):
  array = np.zeros((4, 6, bands), dtype)
  more = max(bands - 3, 0) if bands >= 3 else bands - 1
  photometric = 2 if bands >= 3 else 1
  header = headers.read(tiff(array, (0,) * more, photometric))
  assert (header.size, header.dtype, header.bands) == ((4, 6), dtype, bands)
  assert (header.colours, header.extra) == (3 if bands >= 3 else 1, more)


def test_alpha_is_no_further_band():
  array = np.zeros((4, 6, 5), np.uint8)
  header = headers.read(tiff(array, (2, 0)))
  assert (header.colours, header.alpha, header.extra) == (3, 1, 1)


def test_bands_of_grey_are_colours_as_gdal_writes_them():
  header = headers.read(tiff(np.zeros((4, 6, 4), np.uint16), (0,) * 3, 1))
  assert (header.colours, header.extra) == (3, 1)


@pytest.mark.parametrize(
  ("text", "number"), [("-9999", -9999), ("0", 0), ("none", None)]
)
def test_declared_nodata_is_read(text, number):
  array = np.zeros((4, 6, 1), np.int16)
  header = headers.read(tiff(array, photometric=1, tags=[(42113, 2, text)]))
  assert header.nodata == number


def test_declared_nan_is_read():
  array = np.zeros((4, 6, 1), np.float32)
  encoded = tiff(array, photometric=1, tags=[(42113, 2, "nan")])
  assert np.isnan(headers.read(encoded).nodata)


def test_smaller_copies_and_masks_are_no_pictures_of_their_own():
  """As a cloud-optimised GeoTIFF has them."""
  file, kinds = io.BytesIO(), (0, 1, 1, 4, 0)
  with PIL.TiffImagePlugin.AppendingTiffWriter(file, True) as out:
    for kind in kinds:
      page = PIL.Image.new("L", (8, 8))
      page.encoderinfo, page.encoderconfig = {"tiffinfo": {254: kind}}, ()
      PIL.TiffImagePlugin._save(page, out, "")
      out.newFrame()
  assert headers.read(file.getvalue()).pictures == 2


def test_pages_that_lead_in_a_circle_end():
  array = np.zeros((4, 6, 1), np.uint8)
  assert headers.read(tiff(array, photometric=1, circular=True)).pictures == 1


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_depth_of_a_png_is_read_though_decoders_reduce_it(dtype, channels):
  shape = (4, 6, channels) if channels > 1 else (4, 6)
  _, encoded = cv2.imencode(".png", np.zeros(shape, dtype))
  header = headers.read(encoded.tobytes())
  assert (header.format, header.size) == ("PNG", (4, 6))
  assert header.bits == np.dtype(dtype).itemsize * 8
  assert header.bands == channels and not header.extra


@pytest.mark.parametrize(
  ("kind", "options", "lossy"),
  [
    ("JPEG", {}, True),
    ("WEBP", {}, True),
    ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}, True),
    ("WEBP", {"lossless": True}, False),
    ("PNG", {}, False),
    ("TIFF", {"compression": "jpeg"}, True),
    ("TIFF", {"compression": "tiff_lzw"}, False),
  ],
)
def test_lossy_compression_is_found(kind, options, lossy):
  file = io.BytesIO()
  image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  PIL.Image.fromarray(image).save(file, kind, **options)
  assert headers.read(file.getvalue()).lossy is lossy


@pytest.mark.parametrize("content", [b"", b"II*\0", b"\x89PNG", b"no picture"])
def test_broken_header_is_none(content):
  assert headers.read(content) is None


def _encoded(picture, kind, **options) -> bytes:
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


def _pictures() -> list[bytes]:
  """One of each kind, small, of three numbers that fill areas."""
  labels = np.kron(np.arange(30).reshape(5, 6) % 3, np.ones((8, 8)))
  grey = PIL.Image.fromarray(labels.astype(np.uint8))
  index = grey.copy()
  index.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
  exif = PIL.Image.Exif()
  exif[PIL.ExifTags.Base.Orientation] = 6
  return [
    _encoded(grey, "PNG", exif=exif),
    _encoded(index, "PNG", transparency=0),
    _encoded(index, "GIF"),
    _encoded(grey, "BMP"),
    _encoded(grey, "TIFF", compression="tiff_lzw"),
    _encoded(grey.convert("1"), "TIFF", compression="group4"),
    _encoded(grey.convert("RGB"), "JPEG", exif=exif),
    _encoded(grey.convert("RGB"), "WEBP", lossless=True),
    tiff(labels[..., None].astype(np.float32), photometric=1),
    tiff(labels[..., None].astype(np.int16), photometric=1),
  ]


def test_any_damage_ends_in_a_fault_and_never_in_a_traceback(monkeypatch):
  monkeypatch.setattr(limits, "memory", lambda: 10**8)  # which claims exceed
  random, pictures, outcomes = np.random.default_rng(0), _pictures(), set()
  for turn in range(40 * len(pictures)):
    content = bytearray(pictures[turn % len(pictures)])
    for _ in range(random.integers(1, 6)):  # mostly where headers are
      end = min(len(content), random.choice((120, 400, 10**6)))
      content[random.integers(end)] = random.integers(256)
    content = bytes(content)
    for read in (masks.decode, checks.image_size):
      try:
        read("file", content)
        outcomes.add((read, True))
      except BadExample as fault:
        assert "\n" not in str(fault)
        outcomes.add((read, False))
    list(checks.remarks("file", content))
    list(checks.mask_remarks("file", content))
    checks.upright(content, (40, 48))
  assert len(outcomes) == 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_that_a_file_calls_grey_are_no_picture(tmp_path, dtype):
  """OpenCV would read the first of them alone, as grey."""
  encoded = tiff(np.zeros((6, 8, 3), dtype), (0, 0), photometric=1)
  with pytest.raises(BadExample, match="3 bands that the file calls grey"):
    checks.image_size("a.tif", encoded)
  (tmp_path / "a.tif").write_bytes(encoded)
  if dtype == np.uint16:
    with pytest.raises(ValueError, match="3 bands that the file calls grey"):
      predict.read_image(tmp_path / "a.tif")
