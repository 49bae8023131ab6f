"""How the classes of the configuration say what is wrong with a value: one line that names the key."""

import math

from samosa_jax.errors import ConfigError


def require(condition: bool, message: str) -> None:
    """Raises ConfigError(message) unless condition holds."""
    if not condition:
        raise ConfigError(message)


def require_at_least(low: float, part: object, section: str, names: str) -> None:
    """Raises ConfigError for the first of the named fields of part that is below low, or not finite."""
    for name in names.split():
        value = getattr(part, name)
        key = f"{section}.{name}".removeprefix(".")
        require(low <= value < math.inf, f"{key} is {value}; it must be at least {low}")


def require_positive(part: object, section: str, names: str) -> None:
    """Raises ConfigError for the first of the named fields of part that is not positive and finite."""
    for name in names.split():
        value = getattr(part, name)
        require(0 < value < math.inf, f"{section}.{name} is {value}; it must be positive and finite")
