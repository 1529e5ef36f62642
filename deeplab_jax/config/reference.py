"""The page of all fields of a config, made from the code that defines them.

python -m deeplab_jax.config.reference > docs/config.md
"""

import inspect
import re
import textwrap
from collections.abc import Iterator

from ml_collections import ConfigDict

from deeplab_jax.config import fields
from deeplab_jax.models import DeepLab

_HEAD = """# Every field of a config

Made from the code by `python -m deeplab_jax.config.reference`; every door
prints it for `--help config`. A flag such as `--config.data.crop_size=(65,65)`
sets a field. Each is shown with its default; those of one entry belong
together.
"""
_PARTS = {
  "": ("The run", fields.base_config),
  "data": ("The data", fields.data_fields),
  "loss": ("The loss", fields.loss_fields),
  "eval": ("The evaluation", fields.eval_fields),
}
_COMMENT = re.compile(r"^ *# ?(.*)$")
_WRAPPED = textwrap.TextWrapper(
  80, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
)
_KEY = re.compile(r'^ *"(\w+)": ')
_ATTRIBUTE = re.compile(r"^  (\w+): (.*(?:\n    .*)*)", re.MULTILINE)


def markdown() -> str:
  """The page."""
  config = fields.base_config()
  sections = [_HEAD]
  for part, (title, source) in _PARTS.items():
    entries = list(_commented(inspect.getsource(source)))
    sections.append(_section(title, part, entries, config))
  attributes = _ATTRIBUTE.findall(inspect.getdoc(DeepLab))
  entries = [
    ([name], text) for name, text in attributes if name in config.model
  ]
  sections.append(_section("The network", "model", entries, config))
  return "\n".join(sections)


def _section(
  title: str,
  part: str,
  entries: list[tuple[list[str], str]],
  config: ConfigDict,
) -> str:
  values, prefix = (config[part], f"{part}.") if part else (config, "")
  lines = [f"## {title}\n"]
  for names, text in entries:
    keys = ", ".join(
      f"`{prefix}{name}={values[name]!r}`"
      for name in names
      if not isinstance(values[name], ConfigDict)
    )
    entry = f"{keys}: {' '.join(text.split())}"
    lines.append(_WRAPPED.fill(entry))
  return "\n".join(lines) + "\n"


def _commented(source: str) -> Iterator[tuple[list[str], str]]:
  """Names of keys that follow each other, and the comment above them."""
  comment, names = [], []
  for line in source.splitlines():
    if match := _COMMENT.match(line):
      if names:
        yield names, " ".join(comment)
        comment, names = [], []
      comment.append(match[1])
    elif match := _KEY.match(line):
      names.append(match[1])
  if names:
    yield names, " ".join(comment)


if __name__ == "__main__":
  print(markdown(), end="")
