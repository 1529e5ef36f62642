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
  rich.progress.TimeRemainingColumn(),
  rich.progress.TextColumn("left"),
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
    self._steps, self._first_step = steps, first_step
    self._bar = rich.progress.Progress(
      *_COLUMNS,
      console=self._console,
      disable=not (visible and self._console.is_terminal),
    )
    self._task = self._bar.add_task(
      "", total=steps, completed=first_step, figures=""
    )
    self._began = time.monotonic()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.stop()

  def advance(self, step: int) -> None:
    """Moves the bar to `step`; it is there once the first has been made."""
    self._bar.start()
    self._bar.update(self._task, completed=step)

  def show(self, step: int, loss: float, images_per_second: float) -> None:
    """Shows the figures of a logging step."""
    figures = f"loss {loss:.3f}  {images_per_second:.1f} images/s"
    if self.result:
      figures += f"  {self.result}"
    self._bar.update(self._task, completed=step, figures=figures)
    if self._bar.disable:
      rate = (time.monotonic() - self._began) / (step - self._first_step)
      left = round(rate * (self._steps - step))
      figures += f"  {left // 60}:{left % 60:02} left"
      self.say(f"step {step}/{self._steps}  {figures}")

  def say(self, text: str) -> None:
    """Prints lines, above the bar if there is one."""
    text = messages.printable_lines(text)
    self._console.print(text, markup=False, soft_wrap=True)
