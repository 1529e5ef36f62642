"""What is common to all translations of a traced program."""

from typing import Any

from jax.extend import core

UNCHANGED = {"copy", "copy_p", "name", "optimization_barrier", "stop_gradient"}
"""Primitives that return their operands."""

_CALLS = {
  "jit": ("jaxpr",),
  "pjit": ("jaxpr",),
  "closed_call": ("call_jaxpr",),
  "core_call": ("call_jaxpr",),
  "remat2": ("jaxpr",),
  "checkpoint": ("jaxpr",),
  "custom_jvp_call": ("call_jaxpr",),
  "custom_vjp_call": ("call_jaxpr", "fun_jaxpr"),
  "custom_vjp_call_jaxpr": ("call_jaxpr", "fun_jaxpr"),
}
"""Primitives that call a program, and what that is called, by version."""


def inner_program(step: Any) -> core.ClosedJaxpr | None:
  """The program that a step calls once with its own operands."""
  if step.primitive.name not in _CALLS:
    return None
  program = next(
    step.params[name]
    for name in _CALLS[step.primitive.name]
    if name in step.params
  )
  if isinstance(program, core.Jaxpr):
    program = core.ClosedJaxpr(program, ())
  return program
