"""How an annotation export is to be read: what `config.data` says of it."""

from __future__ import annotations

import dataclasses

AREA, LISTED = "area", "listed"
UNANNOTATED = ("", "background", "skip")
FORMATS = (
  *("masks", "coco", "panoptic", "yolo", "roboflow", "labelme", "cvat"),
  *("label_studio", "supervisely", "parquet"),
)


@dataclasses.dataclass(frozen=True)
class Options:
  """Fields of `config.data`, and flags of `prepare`.

  Attributes:
    format: one of `FORMATS`; "" is the one that the files have.
    order: which object is drawn over another: "area", the smaller; "listed",
      the later; names of classes with commas between, those of a class named
      later; "" as the format has it.
    unannotated: pictures without annotation are "background", or "skip" leaves
      them out; "" takes them for background, but refuses them in a folder of
      images and masks.
  """

  format: str = ""
  order: str = ""
  unannotated: str = ""

  def __post_init__(self):
    """Raises ValueError, which names the field, for what is not allowed."""
    if self.format not in ("", *FORMATS):
      raise ValueError(
        f"data.format (--format of prepare) must be one of "
        f"{', '.join(FORMATS)}, or empty to take what the files are, got "
        f"{self.format!r}"
      )
    if self.unannotated not in UNANNOTATED:
      raise ValueError(
        "data.unannotated (--unannotated of prepare) must be "
        f"background, skip or empty, got {self.unannotated!r}"
      )
    if self.order not in ("", AREA, LISTED) and not all(self.classes_in_order):
      raise ValueError(
        "data.order (--order of prepare) must be area, listed, or names of "
        f"classes with commas between, got {self.order!r}"
      )

  @property
  def classes_in_order(self) -> list[str]:
    """The names of classes that `order` gives; none if it is a word."""
    if self.order in ("", AREA, LISTED):
      return []
    return [name.strip() for name in self.order.split(",")]

  @property
  def are_default(self) -> bool:
    """Whether nothing is asked for."""
    return self == DEFAULT


DEFAULT = Options()
