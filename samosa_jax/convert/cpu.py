"""The device on which models are compared with those of other programs."""

import os
from typing import Any

import jax

from samosa_jax.errors import UserError


def cpu(*, why: str) -> list[Any]:
    """The first CPU, which keeps all numbers in float32. Raises UserError, with `why`, if JAX has none."""
    try:
        return jax.devices("cpu")[:1]
    except RuntimeError as error:
        raise UserError(
            f"{why}, which JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')} leaves out; add cpu to it"
        ) from error
