"""Decoding of picture files that may be broken or hostile."""

import PIL.Image

from deeplab_jax.data import headers, limits
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.headers import Header


def palette_of(image: PIL.Image.Image) -> tuple[tuple[int, int, int], ...]:
  """Colours of the palette of `image`; none if it is not indexed."""
  flat = image.getpalette() if image.mode == "P" else []
  return tuple(tuple(flat[i : i + 3]) for i in range(0, len(flat), 3))


def check_size(file: str, size: tuple[int, int]) -> None:
  """Refuses an image whose height and width claim more than memory holds."""
  try:
    limits.check_pixels(size, limits.num_readers())
  except ValueError as error:
    raise BadExample(file, "too-large", str(error)) from error


def decode(file: str, encoded: bytes, header: Header | None) -> PIL.Image.Image:
  """An image with its pixels, as Pillow decodes them.

  Args:
    file: its name, for messages.
    encoded: the contents of its file.
    header: as `headers.read` gives it.

  Raises:
    BadExample: it is none, is damaged, or is larger than memory.
  """
  try:
    image = headers.open_picture(encoded)
    check_size(file, image.size[::-1])
    image.load()
  except BadExample:
    raise
  except Exception as error:  # whatever a decoder makes of broken bytes
    is_unknown = isinstance(error, PIL.UnidentifiedImageError)
    told = " ".join(str(error).split())  # on one line
    reason = "of no known format" if is_unknown else told
    raise BadExample(
      file, "undecodable", f"cannot be decoded as an image ({reason})"
    ) from error
  if header is None:  # what a lenient decoder makes of it is not to be trusted
    raise BadExample(
      file, "undecodable", "cannot be decoded as an image (damaged header)"
    )
  return image
