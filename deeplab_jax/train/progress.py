"""A bar on a terminal, plain lines in a log file."""

import time

import rich.console
import rich.progress

from deeplab_jax import messages

_COLUMNS = (
  rich.progress.TextColumn("step"),
  rich.progress.MofNCompleteColumn(),
  rich.progress.BarColumn(),
  rich.progress.TextColumn("{task.fields[figures]}"),
)


class Progress:
  """Shows how far a run is. Use it as a context manager.

  Attributes:
    result: of the latest evaluation, such as "mIoU 45.00%", shown from then on.
  """

  def __init__(self, steps: int, first_step: int, visible: bool = True):
    """Shows `first_step` of `steps`; nothing at all unless `visible`."""
    self.result = ""
    self._console = rich.console.Console(quiet=not visible, highlight=False)
    self._steps = steps
    self._bar = rich.progress.Progress(
      *_COLUMNS,
      console=self._console,
      disable=not (visible and self._console.is_terminal),
    )
    self._task = self._bar.add_task(
      "", total=steps, completed=first_step, figures=""
    )
    self._timed_from: tuple[int, float] | None = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.stop()

  def advance(self, step: int) -> None:
    """Moves the bar to `step`; it is there once the first has been made.

    Steps are timed from the first one's end: that was compiled before.
    """
    if self._timed_from is None:
      self._timed_from = step, time.monotonic()
    self._bar.start()
    self._bar.update(self._task, completed=step)

  def show(
    self, step: int, loss: float, images_per_second: float | None
  ) -> None:
    """Shows the figures of a logging step; the rate is None where unknown."""
    figures = f"loss {loss:.3f}"
    if images_per_second is not None:
      figures += f"  {images_per_second:.1f} images/s"
    if self.result:
      figures += f"  {self.result}"
    figures += self._left(step)
    self._bar.update(self._task, completed=step, figures=figures)
    if self._bar.disable:
      self.say(f"step {step}/{self._steps}  {figures}")

  def _left(self, step: int) -> str:
    """The time that is left; nothing before a second step has been timed."""
    first, began = self._timed_from or (step, 0.0)
    if step <= first:
      return ""
    rate = (time.monotonic() - began) / (step - first)
    minutes, seconds = divmod(round(rate * (self._steps - step)), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"  {clock}:{seconds:02} left"

  def say(self, text: str) -> None:
    """Prints lines, above the bar if there is one."""
    text = messages.printable_lines(text)
    self._console.print(text, markup=False, soft_wrap=True)
