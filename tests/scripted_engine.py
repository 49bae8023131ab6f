"""An engine whose model says what a test tells it to: it plays tokens by the contract of `rollout.engine`."""

import threading
from collections.abc import Callable, Collection, Sequence

from samosa_jax.rollout.request import FinishReason, Generation, Prompt, Sampling

Script = Callable[[Prompt, int], Sequence[int]]  # of a prompt and the number of the sample, what it samples


class ScriptedEngine:
    """Gives `block` tokens to each of at most max_batch answers in a step.

    A script that ends goes on with `filler`. Attributes for tests: `go`, which a step waits for;
    `failures`, raised by the next steps; `submitted`, the prompts.
    """

    def __init__(
        self, script: Script, *, filler: int, context_len: int = 2048, max_batch: int = 4, block: int = 4
    ) -> None:
        self.context_len = context_len
        self.max_batch = max_batch
        self.go = threading.Event()
        self.go.set()
        self.failures: list[Exception] = []
        self.submitted: list[Prompt] = []
        self._script = script
        self._filler = filler
        self._block = block
        self._waiting: list[Generation] = []
        self._running: list[Generation] = []
        self._rest: dict[Generation, list[int]] = {}
        self._changed: dict[Generation, None] = {}
        self._owner: int | None = None

    @property
    def has_work(self) -> bool:
        is_running = any(generation.state == "running" for generation in self._running)
        return bool(self._waiting or self._changed or is_running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_places_taken(self) -> int:
        return len(self._running)

    def submit(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        end_ids: Collection[int],
        pause_ids: Collection[int] = (),
        num_samples: int = 1,
    ) -> list[Generation]:
        self._check_owner()
        if len(prompt) >= self.context_len:
            raise ValueError("the prompt does not fit")
        self.submitted.append(prompt)
        generations = [
            Generation(prompt, sampling, frozenset(end_ids), frozenset(pause_ids), sample)
            for sample in range(num_samples)
        ]
        for number, generation in enumerate(generations):
            self._rest[generation] = list(self._script(prompt, number))
        self._waiting += generations
        return generations

    def step(self, *, meanwhile: Callable[[], None] = lambda: None) -> list[Generation]:
        meanwhile()
        self._check_owner()
        self.go.wait()
        if self.failures:
            raise self.failures.pop(0)
        while self._waiting and len(self._running) < self.max_batch:
            generation = self._waiting.pop(0)
            generation.state = "running"
            self._running.append(generation)
        for generation in [generation for generation in self._running if generation.state == "running"]:
            for _ in range(self._block):
                if generation.state == "running":
                    rest = self._rest[generation]
                    self._append(generation, rest.pop(0) if rest else self._filler, sampled=True)
        changed, self._changed = list(self._changed), {}
        return changed

    def resume(self, generation: Generation, forced: Sequence[int]) -> None:
        self._check_owner()
        assert generation.state == "paused"
        generation.state = "running"
        for token in forced:
            self._append(generation, token, sampled=False)

    def cancel(self, generation: Generation) -> None:
        self._check_owner()
        assert generation.state != "finished"
        if generation in self._waiting:
            self._waiting.remove(generation)
        self._finish(generation, "cancelled")

    def _append(self, generation: Generation, token: int, *, sampled: bool) -> None:
        generation.tokens.append(token)
        generation.sampled.append(sampled)
        generation.logprobs.append(-0.5 if sampled else 0.0)
        generation.top_logprobs.append(((token, -0.5),) if generation.sampling.top_logprobs else ())
        self._changed[generation] = None
        room = self.context_len - len(generation.prompt) - len(generation.tokens)
        if sampled and token in generation.end_ids:
            self._finish(generation, "stop")
        elif room == 0 or sum(generation.sampled) == generation.sampling.max_tokens:
            self._finish(generation, "length")
        elif sampled and token in generation.pause_ids:
            generation.state = "paused"

    def _finish(self, generation: Generation, reason: FinishReason) -> None:
        generation.state = "finished"
        generation.finish_reason = reason
        self._changed[generation] = None
        if generation in self._running:
            self._running.remove(generation)

    def _check_owner(self) -> None:
        """One thread owns an engine."""
        self._owner = self._owner or threading.get_ident()
        assert self._owner == threading.get_ident()
