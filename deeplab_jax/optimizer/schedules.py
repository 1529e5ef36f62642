"""The learning rate as a function of the step."""

import ml_collections
import optax

LR_POLICIES = ("poly", "step", "cosine")


def learning_rate(config: ml_collections.ConfigDict) -> optax.Schedule:
  """The learning rate as a function of the number of updates made before.

  `poly`: from `lr` to `lr_end` over `steps`, as (1 - t) ** `lr_power`;
  `cosine`: the same way, as (1 + cos(pi * t)) / 2; `step`: `lr` times
  `lr_decay_factor` every `lr_decay_steps`. The first `slow_start_steps` run at
  `slow_start_lr`, or rise from it to `lr` in a line with `slow_start_burn_in`;
  the policy starts after them.
  """
  slow = config.slow_start_steps
  steps = max(config.steps - slow, 1)
  if config.lr_policy == "poly":
    main = optax.polynomial_schedule(
      config.lr, config.lr_end, config.lr_power, steps
    )
  elif config.lr_policy == "cosine":
    main = optax.cosine_decay_schedule(
      config.lr, steps, alpha=config.lr_end / config.lr
    )
  elif config.lr_policy == "step":
    main = optax.exponential_decay(
      config.lr, config.lr_decay_steps, config.lr_decay_factor, staircase=True
    )
  else:
    allowed = ", ".join(map(repr, LR_POLICIES))
    raise ValueError(
      f"lr_policy must be one of {allowed}, got {config.lr_policy!r}"
    )
  if slow == 0:
    return main
  rise = config.lr - config.slow_start_lr if config.slow_start_burn_in else 0.0
  # Not optax.linear_schedule, which cancels: it is 2e-5 off at the start.
  return optax.join_schedules(
    [lambda step: config.slow_start_lr + rise * step / slow, main], [slow]
  )
