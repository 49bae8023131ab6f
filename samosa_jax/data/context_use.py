"""How much of a document its tokens see before them, and what they lose where a row's end cuts it."""

from typing import NamedTuple

import numpy as np

from samosa_jax.data.pipeline import StepDescription


class ContextUse(NamedTuple):
    """Of the tokens of a step, where attention stays inside documents."""

    mean_seen: float  # tokens of its document that one sees before it, on average
    mean_uncut: float  # as many as it would see, up to the context, if no row's end cut a document
    far_frac: float  # share that sees at least half a context before it


def context_use(step: StepDescription, *, context_len: int) -> ContextUse:
    """Of a step of text, as `TrainPipeline.describe` gives it."""
    parts = [part for row in step.rows for part in row.parts]
    seen = np.concatenate([np.arange(part.stop - part.start) for part in parts])
    uncut = np.concatenate([np.arange(part.start, part.stop) for part in parts])
    return ContextUse(
        mean_seen=float(seen.mean()),
        mean_uncut=float(np.minimum(uncut, context_len - 1).mean()),
        far_frac=float((seen >= context_len // 2).mean()),
    )
