"""Remembers how far tests on golden files were from them, and tabulates it.

`make exactness` runs those tests and writes `docs/exactness.md`.
"""

import pathlib
from typing import NamedTuple

_HEADING = """\
# Exactness

Every stored output of the official TensorFlow implementation, and the worst
error of ours against it. `make exactness` writes this page: it runs the tests
that hold these errors under the tolerances beside them.

Network cases are float32, errors the largest absolute difference over the
largest absolute value. Labels: share that differs where the top two logits are
further apart than the tolerance. Training cases are computed in float64; with
batch norm trained, rounding in the official run's own float32 statistics parts
the trajectories, hence the wider tolerances after the first step.

Names and shapes alone were compared, for want of stored outputs, of the dense
prediction cell (Xception-71) and of MobileNetV3.

Where the official implementation is odd, the default is the following.

- **Probabilities of several scales** are the mean of the softmaxes; the official
  graph hands out a second softmax of that mean, which changes no label. Its test
  applies the second one.
- **mIoU** is the official mean, over classes with a labelled or a predicted pixel;
  `eval/miou_of_labelled_classes` leaves out those never labelled, which a single
  stray pixel would otherwise count as 0.
- **Training crops** are uint8: the official floats, rounded to the nearest level.
  Padding of 127.5 becomes 128 there, 0.004 after normalisation. Evaluation and
  prediction pad exactly.
- **Moving variance** takes the unbiased batch variance, as the official fused
  kernel does, and is updated from the global batch, not from the first device's.

| golden file | quantity | worst error | tolerance |
| --- | --- | --- | --- |
"""


class Row(NamedTuple):
  """One line of the table."""

  file: str
  quantity: str
  error: float
  tolerance: float


class Exactness:
  """Holds errors to tolerances; keeps the worst of each file and quantity."""

  def __init__(self):
    self._worst: dict[tuple[str, str], Row] = {}

  def check(
    self, file: str, quantity: str, error: float, tolerance: float
  ) -> None:
    """Fails if `error` exceeds `tolerance`; NaN does."""
    key = (file, quantity)
    if key not in self._worst or not error <= self._worst[key].error:
      self._worst[key] = Row(file, quantity, float(error), tolerance)
    assert error <= tolerance, f"{file}, {quantity}: {error} > {tolerance}"

  def write(self, path: pathlib.Path) -> None:
    """Writes the table in Markdown."""
    lines = [
      f"| {row.file} | {row.quantity} | {row.error:.1e} | {row.tolerance:.0e} |"
      for _, row in sorted(self._worst.items())
    ]
    path.write_text(_HEADING + "\n".join(lines) + "\n")
