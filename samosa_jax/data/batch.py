"""`Batch`: what the pipeline hands to a training step, and the only place where a mask is decided."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Rows of one optimizer step (or of one evaluation), all arrays (B, T). A pytree for JAX.

    A query at position i of a row sees the keys [k_lo[i], k_hi[i]) of its row, never later ones:
    k_hi <= i + 1. Padding is an empty range with weight 0.
    """

    tokens: np.ndarray  # int32, what the model reads
    targets: np.ndarray  # int32, what it must predict: the next token
    weights: np.ndarray  # float32, what each prediction counts; 0 is no supervision
    k_lo: np.ndarray  # int32, first key seen
    k_hi: np.ndarray  # int32, one past the last key seen
    position: np.ndarray  # int32, restarts at every document or dialogue
    turn_position: np.ndarray  # int32, restarts at every turn; equal to position in plain text
