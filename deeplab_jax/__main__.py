"""Lists the commands: `python -m deeplab_jax`."""

import ast
import pathlib
import textwrap

_PACKAGE = pathlib.Path(__file__).parent
_HEAD = "python -m deeplab_jax.COMMAND, each of them with --help:\n"


def commands() -> dict[str, str]:
  """What each module does that can be run, by its name."""
  files = {path.stem: path for path in _PACKAGE.glob("*.py")}
  files |= {path.parent.name: path for path in _PACKAGE.glob("*/__main__.py")}
  return {
    name: _first_sentence(path)
    for name, path in sorted(files.items())
    if path != pathlib.Path(__file__) and '"__main__":' in path.read_text()
  }


def _first_sentence(path: pathlib.Path) -> str:
  text = ast.get_docstring(ast.parse(path.read_text())) or ""
  sentence = text.split("\n\n")[0].replace("\n", " ")
  return sentence.partition(": `python")[0].rstrip(".")


if __name__ == "__main__":
  print(_HEAD)
  for command, text in commands().items():
    print(
      textwrap.fill(f"  {command:<16}{text}", 80, subsequent_indent=" " * 18)
    )
