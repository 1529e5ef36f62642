"""The curves of a run as a picture, to be looked at while it goes on."""

from deeplab_jax import remote, visualize
from deeplab_jax.tasks import Task
from deeplab_jax.train import records


def write(workdir: remote.AnyPath, task: Task) -> None:
  """Writes WORKDIR/curves.png of WORKDIR/metrics.jsonl, if that holds any."""
  rows = records.read(workdir / "metrics.jsonl")
  if rows:
    figure = visualize.curves_figure(
      {workdir.name: rows}, task.score, task.title
    )
    visualize.write_figure(workdir / "curves.png", figure)
