"""Learning-rate schedules: the factor on every group's learning rate, as a function of the step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from samosa_jax.config import ScheduleConfig

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]  # steps already made -> float32 scalar


def make_schedule(config: ScheduleConfig, *, num_steps: int) -> Schedule:
    """The factor of the step that follows `step` steps, for `step` in 0..num_steps - 1.

    It climbs linearly and reaches 1 with the last of `warmup_steps`, so that not even the first step is
    wasted at 0. Then it holds (`constant`), or falls to `final_frac`: along half a cosine over all that is
    left (`cosine`), straight over all that is left (`linear`), or straight over the last `decay_frac` of the
    run (`wsd`: warm up, stay, decay; Hu et al. 2024, arXiv:2404.06395). `final_frac` belongs to the step
    after the last, so that final_frac 0 wastes none either.
    """
    left = max(num_steps - config.warmup_steps, 1)
    decay_steps = max(round(config.decay_frac * num_steps), 1) if config.kind == "wsd" else left
    decays = config.kind in ("cosine", "linear") or (config.kind == "wsd" and config.decay_frac > 0)

    def factor(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warmup = jnp.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
        if not decays:
            return warmup
        progress = jnp.clip(1 - (num_steps - step) / decay_steps, 0.0, 1.0)
        fall = (1 - jnp.cos(jnp.pi * progress)) / 2 if config.kind == "cosine" else progress
        return warmup * (1 - (1 - config.final_frac) * fall)

    return factor
