"""What the level of text needs of an engine: tokens in, tokens out. `rollout.engine.Engine` is one."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from samosa_jax.rollout.request import Generation, Prompt, Sampling


class Engine(Protocol):
    """One thread owns it and calls all that is here."""

    @property
    def context_len(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        ...

    @property
    def max_batch(self) -> int:
        """Answers that are decoded at the same time."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether something waits for a place or runs; what is paused does not."""
        ...

    @property
    def num_waiting(self) -> int: ...

    def submit(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        end_ids: Collection[int],
        pause_ids: Collection[int] = (),
        num_samples: int = 1,
    ) -> list[Generation]:
        """num_samples answers to a prompt of fewer than context_len tokens."""
        ...

    def step(self, *, meanwhile: Callable[[], None] = ...) -> list[Generation]:
        """A few more tokens for all that run; returns those with news. Calls `meanwhile` as they are made."""
        ...

    def resume(self, generation: Generation, forced: Sequence[int]) -> None:
        """Lets a paused one go on, after tokens that are forced into it."""
        ...

    def cancel(self, generation: Generation) -> None:
        """Finishes it and frees its place."""
        ...
