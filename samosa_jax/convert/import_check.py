"""Whether an imported model computes what the original does: logits of both, in float32, on equal tokens."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np

from samosa_jax.convert.closeness import Agreement, compare_rows, row_tokens
from samosa_jax.convert.foreign import Logits
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params

NUM_ROWS = 2
ROW_TOKENS = 64  # of which logits are compared; more where a window is longer


def draw_tokens(network: Network, *, num_known: int, special: Collection[int], seed: int = 0) -> np.ndarray:
    """Random tokens, int (rows, T), long enough that every window hides something.

    Args:
        num_known: tokens that the original knows.
        special: ids to leave out; they would begin turns.
    """
    length = row_tokens(network.config, least=ROW_TOKENS)
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
    nearness = compare_rows(expected, found)
    if isinstance(nearness, Agreement):
        return nearness
    raise UserError(
        f"{source} was not understood: the logit of token {nearness.token} at position {nearness.position} "
        f"of row {nearness.row} is {nearness.expected:.6g} there and {nearness.found:.6g} here "
        f"({nearness.num_far:,} of {expected[0].size:,} logits differ); nothing was written"
    )


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
