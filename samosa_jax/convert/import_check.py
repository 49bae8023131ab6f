"""Whether an imported model computes what the original does: logits of both, in float32, on equal tokens."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from samosa_jax.convert.foreign import Logits
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params

MAX_RELATIVE_ERROR = 1e-4  # of logits, by the largest of a row
NUM_ROWS = 2
ROW_TOKENS = 64  # of which logits are compared; more where a window is longer
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


def draw_tokens(network: Network, *, num_known: int, special: Collection[int], seed: int = 0) -> np.ndarray:
    """Random tokens, int (rows, T), long enough that every window hides something.

    Args:
        num_known: tokens that the original knows.
        special: ids to leave out; they would begin turns.
    """
    config = network.config
    windows = [window for window in config.layer_windows if window is not None]
    length = min(config.context_len, max([ROW_TOKENS, *(window + PAST_WINDOW for window in windows)]))
    ordinary = np.setdiff1d(np.arange(num_known), sorted(special))
    return np.random.default_rng(seed).choice(ordinary, (NUM_ROWS, length))


def compare_logits(
    network: Network, params: Params, theirs: Logits, tokens: np.ndarray, *, source: str
) -> Agreement:
    """Logits of our network and of the original after tokens (rows, T) of whole texts.

    Raises:
        UserError: they differ by more than rounding; names `source` and the first logit that does.
    """
    expected = theirs(tokens)
    found = _our_logits(network, params, tokens)[..., : expected.shape[-1]]
    expected = expected[..., : found.shape[-1]]
    worst, worst_relative = 0.0, 0.0
    for row, (ours, original) in enumerate(zip(found, expected, strict=True)):
        difference, largest = np.abs(ours - original), float(np.abs(original).max())
        wrong = ~(difference <= MAX_RELATIVE_ERROR * largest)  # what is not a number is wrong as well
        if wrong.any():
            position, token = (int(i) for i in np.argwhere(wrong)[0])
            raise UserError(
                f"{source} was not understood: the logit of token {token} at position {position} of row "
                f"{row} is {original[position, token]:.6g} there and {ours[position, token]:.6g} here "
                f"({int(wrong.sum()):,} of {wrong.size:,} logits differ); nothing was written"
            )
        error = float(difference.max())
        worst, worst_relative = max(worst, error), max(worst_relative, error / largest if error else 0.0)
    return Agreement(num_logits=expected.size, max_error=worst, relative_error=worst_relative)


def _our_logits(network: Network, params: Params, tokens: np.ndarray) -> np.ndarray:
    """float32 (rows, T, vocab_size), row by row; a whole text is one turn."""
    exact = Network.build(network.config, compute_dtype="float32")
    position = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]

    @jax.jit
    def forward(params: Params, row: jax.Array) -> jax.Array:
        return exact.logits(
            params,
            row,
            k_lo=jnp.zeros_like(position),
            k_hi=position + 1,
            position=position,
            turn_position=position,
        )

    with jax.default_matmul_precision("highest"):
        return np.concatenate([np.asarray(forward(params, jnp.asarray(row[None]))) for row in tokens])
