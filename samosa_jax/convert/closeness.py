"""How near the logits of two programs are: the same sums in another order differ by rounding alone."""

from dataclasses import dataclass

import numpy as np

from samosa_jax.config import ModelConfig

MAX_RELATIVE_ERROR = 1e-4  # of logits, by the largest of a row
PAST_WINDOW = 32  # tokens that a row goes on after the first that a window hides something from


@dataclass(frozen=True)
class Agreement:
    """How near the logits of both came."""

    num_logits: int
    max_error: float  # the largest difference
    relative_error: float  # by the largest logit of its row

    def __str__(self) -> str:
        return (
            f"{self.num_logits:,} logits within {self.max_error:.1e} "
            f"({self.relative_error:.1e} of the largest)"
        )


@dataclass(frozen=True, kw_only=True)
class FarLogit:
    """The first logit that differs by more than rounding."""

    row: int
    position: int
    token: int
    expected: float
    found: float
    allowed: float  # difference
    num_far: int  # logits of its row like it


def row_tokens(config: ModelConfig, *, least: int) -> int:
    """Tokens of a row in which every window hides something, as far as the context goes."""
    windows = [window for window in config.layer_windows if window is not None]
    return min(config.context_len, max([least, *(window + PAST_WINDOW for window in windows)]))


def compare_rows(expected: np.ndarray, found: np.ndarray) -> Agreement | FarLogit:
    """Logits (R, T, V) of equal shapes."""
    worst, worst_relative = 0.0, 0.0
    for row, (theirs, ours) in enumerate(zip(expected, found, strict=True)):
        difference, largest = np.abs(ours - theirs), float(np.abs(theirs).max())
        far = ~(difference <= MAX_RELATIVE_ERROR * largest)  # what is not a number is far as well
        if far.any():
            position, token = (int(i) for i in np.argwhere(far)[0])
            return FarLogit(
                row=row,
                position=position,
                token=token,
                expected=float(theirs[position, token]),
                found=float(ours[position, token]),
                allowed=MAX_RELATIVE_ERROR * largest,
                num_far=int(far.sum()),
            )
        error = float(difference.max())
        worst, worst_relative = max(worst, error), max(worst_relative, error / largest if error else 0.0)
    return Agreement(num_logits=expected.size, max_error=worst, relative_error=worst_relative)
