"""Numbers as a reader wants them: rounded where digits say nothing, exact where they do."""

import math
from collections.abc import Mapping
from typing import Any

NONE = "–"


def figure(value: float | None) -> str:
    """Four significant digits."""
    if value is None:
        return NONE
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def score(value: float, *, metric: str) -> str:
    """A result, as precise as an interval warrants: shares of 1 in percent."""
    if not math.isfinite(value):
        return "not finite"
    return share(value) if is_share(metric) else f"{value:.4f}"


def is_share(metric: str) -> bool:
    """Whether 1 is all of it."""
    return metric.startswith(("accuracy", "centered", "pass@")) or metric.endswith("_rate")


def share(value: float, *, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def count(value: float) -> str:
    return f"{value:,.0f}"


def large(value: float) -> str:
    """4.10 M, 3.2 B."""
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= unit:
            return f"{value / unit:.3g} {letter}"
    return count(value)


def setting(value: Any) -> str:
    """A value of a configuration."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {setting(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(setting(item) for item in value) + "]"
    return str(value) if value != "" else '""'
