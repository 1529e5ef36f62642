"""Who imports whom in deeplab_jax, read from its source: rooms and floors.

  python -m tests.arrows [CHECKOUT]

prints the picture of docs/architecture.md, the imports that do not run down,
the circles, what `deeplab_jax.load` imports, and the lines of every folder; of
this checkout or of another, such as `git worktree add CHECKOUT COMMIT` makes.

A room is a module or a folder right inside `deeplab_jax`. A file imports from
its own room and from rooms on floors below. Imports within functions count;
those under `if TYPE_CHECKING:` do not, as they never happen.
"""

import ast
import collections
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping

PACKAGE = "deeplab_jax"
FLOORS = (
  ("cache", "messages", "remote"),
  ("atomic",),
  ("download",),
  ("data", "models", "runtime", "sharding"),
  (
    *("checkpoints", "losses", "metrics", "optimizer", "peers", "summary"),
    "visualize",
  ),
  ("config", "import_weights", "inference", "tables"),
  ("evaluate", "export", "predict"),
  ("tasks",),
  ("train",),
  (
    "__main__",
    "compare",
    "doctor",
    "goodput",
    "main",
    "plan",
    "prepare",
    PACKAGE,
  ),
)
"""The rooms, lowest floor first; last the doors, which nothing imports.

The package's own `__init__.py`, which hands out the public names, is one.
"""

Graph = Mapping[str, set[str]]

_LOADED = "import sys, deeplab_jax; deeplab_jax.load; print(*sys.modules)"


def read(checkout: pathlib.Path) -> dict[str, set[str]]:
  """The dotted names that each module of the package imports."""
  imports = {}
  for path in sorted((checkout / PACKAGE).rglob("*.py")):
    parts = path.relative_to(checkout).with_suffix("").parts
    module = ".".join(parts).removesuffix(".__init__")
    imports[module] = set(_names(ast.parse(path.read_text())))
  return imports


def _names(tree: ast.AST) -> Iterator[str]:
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      home = "." * node.level + (node.module or "")
      yield from (f"{home}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
      yield from _names(ast.Module(node.orelse, []))
    else:
      yield from _names(node)


def between_files(imports: Graph) -> dict[str, set[str]]:
  """The modules of the package that each of them imports."""
  return {
    module: {_module(name, imports) for name in names} - {module, ""}
    for module, names in imports.items()
  }


def _module(name: str, imports: Graph) -> str:
  """The module of the package that holds `name`; "" for names of others."""
  while name and name not in imports:
    name = name.rpartition(".")[0]
  return name


def room(module: str) -> str:
  """The room of a module: `deeplab_jax.data.source` stands in `data`."""
  return [*module.split("."), PACKAGE][1]


def between_rooms(files: Graph) -> dict[str, set[str]]:
  """The other rooms from which each room imports."""
  rooms = {room(module): set() for module in files}
  for module, imported in files.items():
    rooms[room(module)] |= set(map(room, imported)) - {room(module)}
  return rooms


def without_floor(rooms: Graph) -> list[str]:
  """The rooms that `FLOORS` does not name."""
  return sorted(rooms.keys() - {name for floor in FLOORS for name in floor})


def not_downwards(files: Graph) -> list[str]:
  """The imports between rooms that do not lead to a floor further down."""
  floors = {name: i for i, floor in enumerate(FLOORS) for name in floor}
  return [
    f"{module} imports {imported}"
    for module in files
    for imported in sorted(files[module])
    if room(module) != room(imported)
    and {room(module), room(imported)} <= floors.keys()
    and floors[room(module)] <= floors[room(imported)]
  ]


def picture(rooms: Graph) -> str:
  """Every room and those that it imports from, highest floor first."""
  width = max(map(len, rooms))
  lines = []
  for floor in reversed(FLOORS):
    lines += [
      f"{name:{width}}  {' '.join(sorted(rooms[name]))}".rstrip()
      for name in floor
      if name in rooms
    ]
    lines.append("")
  return "\n".join(lines).strip()


def circles(graph: Graph) -> set[frozenset[str]]:
  """The largest groups in which each member leads to every other."""
  reached = {node: _reached(graph, node) for node in graph}
  return {
    frozenset(other for other in reached[node] if node in reached[other])
    for node in graph
    if node in reached[node]
  }


def _reached(graph: Graph, start: str) -> set[str]:
  found, ahead = set(), [start]
  while ahead:
    new = graph[ahead.pop()] - found
    found |= new
    ahead += new
  return found


def loaded(checkout: pathlib.Path) -> set[str]:
  """All modules, others' too, that `deeplab_jax.load` imports."""
  command = [sys.executable, "-c", _LOADED]
  done = subprocess.run(
    command, cwd=checkout, capture_output=True, text=True, check=True
  )
  return set(done.stdout.split())


def main(checkout: str = ".") -> None:
  """Prints the counts."""
  folder = pathlib.Path(checkout)
  files = between_files(read(folder))
  rooms = between_rooms(files)
  count = sum(map(len, rooms.values()))
  print(picture(rooms))
  print(f"{len(rooms)} rooms, {count} imports between them")
  print(f"on no floor: {' '.join(without_floor(rooms)) or 'none'}")
  _print_list("imports that do not run down", not_downwards(files))
  for what, graph in {"rooms": rooms, "files": files}.items():
    found = [" ".join(sorted(circle)) for circle in circles(graph)]
    _print_list(f"circles of {what}", found)
  ours = {module for module in loaded(folder) if module in files}
  names = " ".join(sorted(set(map(room, ours)) - {PACKAGE}))
  print(f"deeplab_jax.load imports {len(ours)} modules of ours: {names}")
  for part, lines in _lines(folder).items():
    print(f"{lines:6} lines of {part}")


def _print_list(title: str, lines: list[str]) -> None:
  print(f"{title}: {len(lines)}", *lines, sep="\n  ")


def _lines(checkout: pathlib.Path) -> dict[str, int]:
  """Lines of Python by folder."""
  lines: dict[str, int] = collections.Counter()
  for top in (PACKAGE, "benchmarks", "configs", "tests"):
    for path in sorted((checkout / top).rglob("*.py")):
      part = str(path.parent.relative_to(checkout))
      lines[part] += len(path.read_text().splitlines())
  return lines


if __name__ == "__main__":
  main(*sys.argv[1:])
