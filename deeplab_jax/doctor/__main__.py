"""What is wrong with this data or config, by name, before training.

  python -m deeplab_jax.doctor --config configs/folder.py \
    --config.data.path=DIR --json findings.json --html report.html

Exit status 1 if there are errors, 0 if there are only warnings or nothing.
"""

import sys

from absl import flags

from deeplab_jax import atomic, doctor, messages, runtime
from deeplab_jax.config import door
from deeplab_jax.doctor import checkup_text, page

_CONFIG = door.config_flag()
_JSON = flags.DEFINE_string("json", None, "File for the findings.")
_HTML = flags.DEFINE_string("html", None, "File for a page with pictures.")
_IMAGES = flags.DEFINE_integer(
  "images", 2000, "Images read of each split; 0 = all.", lower_bound=0
)
_STEPS = flags.DEFINE_integer(
  "overfit_steps", 40, "Steps of training on one batch.", lower_bound=0
)
_SECONDS = flags.DEFINE_float(
  "overfit_seconds", 120.0, "Time for these steps.", lower_bound=0.0
)


def main() -> None:
  """Examines, prints, writes; exits with 1 if there are errors."""
  runtime.start_runtime()
  checkup = doctor.examine(
    _CONFIG.value,
    limit=_IMAGES.value,
    overfit_steps=_STEPS.value,
    overfit_seconds=_SECONDS.value,
  )
  print(messages.printable_lines(checkup_text.text(checkup)))
  if _JSON.value:
    atomic.write_json(_JSON.value, checkup_text.to_dict(checkup))
  if _HTML.value:
    atomic.write_text(_HTML.value, page.render(checkup))
    print(f"pictures: {_HTML.value}")
  sys.exit(1 if checkup.errors else 0)


if __name__ == "__main__":
  door.run(main)
