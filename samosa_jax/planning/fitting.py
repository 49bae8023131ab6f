"""How many rows fit a device at once, and how much of the forward has to be computed twice for it."""

from collections.abc import Sequence
from dataclasses import dataclass

from samosa_jax.planning.memory import MemoryModel, Remat, StepMemory

# From none to all of a layer computed twice; a policy costs more time than those before it.
POLICIES: tuple[Remat, ...] = ("none", "attention", "mlp", "full")
# The closed model is this far from the compiler at most (tests/test_plan.py): what must fit is taken larger.
MODEL_ERROR = 0.08
# Matrix products of so many rows fill an H100: 132 multiprocessors, each with a tile of 128 x 128 or more.
# More tokens at once are no faster, so that recomputing to have them is a loss.
ENOUGH_TOKENS = 16_384


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The most rows at once under one policy, and what they take; both None where not even one row fits."""

    remat: Remat
    device_rows: int | None
    memory: StepMemory | None


def largest_that_fits(
    model: MemoryModel, *, rows: Sequence[int], remat: Remat, usable_bytes: int | None
) -> Fit:
    """`rows` are the counts to choose from, largest first; without a limit the first of them fits."""
    for count in rows:
        memory = model.at(device_rows=count, remat=remat)
        if usable_bytes is None or fits(memory, usable_bytes):
            return Fit(remat=remat, device_rows=count, memory=memory)
    return Fit(remat=remat, device_rows=None, memory=None)


def fits(memory: StepMemory, usable_bytes: int) -> bool:
    """Whether it does even where the model is wrong by MODEL_ERROR."""
    return (1 + MODEL_ERROR) * memory.peak <= usable_bytes


def fit_every_policy(model: MemoryModel, *, rows: Sequence[int], usable_bytes: int | None) -> list[Fit]:
    """A Fit of every policy, in the order of POLICIES."""
    return [largest_that_fits(model, rows=rows, remat=remat, usable_bytes=usable_bytes) for remat in POLICIES]


def choose(fitted: Sequence[Fit], *, context_len: int) -> Fit | None:
    """The first policy with room for ENOUGH_TOKENS at once, or for every row there is; else the roomiest.

    None where nothing fits. With more policies than one equally roomy, the one that recomputes least.
    """
    possible = [fit for fit in fitted if fit.device_rows is not None]
    if not possible:
        return None
    most = max(fit.device_rows or 0 for fit in possible)
    enough = min(most, -(-ENOUGH_TOKENS // context_len))
    return next(fit for fit in possible if (fit.device_rows or 0) >= enough)
