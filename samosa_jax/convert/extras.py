"""Packages that only some exports need."""

import importlib.util
from collections.abc import Iterable

from samosa_jax.errors import UserError


def require_packages(names: Iterable[str], *, extra: str, purpose: str) -> None:
    """Raises UserError with the extra of samosa-jax that holds them, if one is not installed."""
    missing = next((name for name in names if importlib.util.find_spec(name) is None), None)
    if missing is not None:
        raise UserError(
            f"{purpose} needs the package {missing}, which is not installed; "
            f"`pip install 'samosa-jax[{extra}]'` brings it"
        )
