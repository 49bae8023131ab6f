"""`PreferenceBatch`: rows of answers in pairs, one preferred to the other, for a step of DPO."""

from typing import NamedTuple

import numpy as np

from samosa_jax.data.batch import Batch


class PreferenceBatch(NamedTuple):
    """Rows packed with whole pairs: at most P in a row, the same P for all rows. A pytree for JAX.

    A chosen and a rejected answer are two sequences of their row, each with its prompt, and do not see each
    other. Of an answer count the tokens of weight above 0, each as one, whatever the weight.
    """

    batch: Batch
    sequence: np.ndarray  # int32 (B, T), of the row's pair p: 2p chosen, 2p + 1 rejected; -1 of neither
    pairs: np.ndarray  # float32 (B, P), 1 where the row has that pair, else 0
    # float32 (B, P, 2): log-probabilities of chosen and rejected, in sum over their tokens, under the model
    # that the policy started from; None to compute them in the step. Not read where there is no pair.
    reference: np.ndarray | None = None
