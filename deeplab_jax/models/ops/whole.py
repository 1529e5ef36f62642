"""Operations that whoever traces a network may take whole.

A program for this machine is made of the forms that XLA runs fastest. One for
another runtime wants a convolution to be one node, and one for images of any
size must not ask whether a side is above a number. Within `replaced` another
function stands in the place of an operation of this folder; outside, nothing
changes. Since it is the operations that are replaced, not the layers that call
them, a layer of whatever kind is taken for what it does.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable)

_NOTHING: Mapping[str, Callable] = {}
_replacements: contextvars.ContextVar[Mapping[str, Callable]] = (
  contextvars.ContextVar("replacements", default=_NOTHING)
)


def whole(function: _Function) -> _Function:
  """Makes `function` one that `replaced` can replace, by its name."""

  @functools.wraps(function)
  def call(*args, **kwargs):
    chosen = _replacements.get().get(function.__name__, function)
    return chosen(*args, **kwargs)

  return call


@contextlib.contextmanager
def replaced(replacements: Mapping[str, Callable]) -> Iterator[None]:
  """Within it, calls of operations go to others.

  Args:
    replacements: functions of the same arguments, by the names of operations.
      Those that are not named stay what they are.
  """
  token = _replacements.set(replacements)
  try:
    yield
  finally:
    _replacements.reset(token)
