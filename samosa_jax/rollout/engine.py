"""Many answers written at once: prompts are read in batches, answers grow in blocks of a few tokens.

    engine = Engine(network, params, mesh=mesh, max_batch=16)
    (answer,) = engine.submit(Prompt.of_tokens(ids), Sampling(max_tokens=64), end_ids={end})
    while engine.has_work:
        for changed in engine.step(): ...

Requests join and leave between blocks. What the host decides (who runs, from which token, by which rules) it
sends with every block, so that the device holds nothing but the cache.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

import jax
import numpy as np

from samosa_jax.model.cache import cache_bytes
from samosa_jax.model.decoding import Weights
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import MESH_AXES
from samosa_jax.rollout.batch import MAX_STOP_IDS, Batch, Drawn, Row, one, rules_of, stop_array
from samosa_jax.rollout.buckets import Buckets, platform_of
from samosa_jax.rollout.prefix_store import Kept, PrefixStore
from samosa_jax.rollout.programs import Programs
from samosa_jax.rollout.prompt_reader import PromptReader, Reading
from samosa_jax.rollout.request import FinishReason, Generation, Prompt, Sampling

# What is forced upon an answer is said in its blocks, beside the tokens that others draw, if it has no more
# tokens than these; more is read at once, by programs of its own.
FORCED_TOKENS = 16


class Engine:
    """One model on one mesh. Not safe for threads: one of them owns it.

    Args:
        params: parameters as training has them; they are copied into the form that decoding reads. None: it
            gets them by `update`.
        max_batch: answers written at the same time.
        context_len: tokens of prompt and answer together; None: the model's.
        block_tokens: tokens written between two looks at what was written.
        prefix_bytes: for rows of finished answers, so that a next turn need not read them again.
        prefill_tokens: prompt tokens read between two blocks, so that long prompts do not stop the others.

    Raises:
        ValueError: a size makes no sense.
    """

    def __init__(
        self,
        network: Network,
        params: Params | None,
        *,
        mesh: jax.sharding.Mesh,
        max_batch: int = 16,
        context_len: int | None = None,
        block_tokens: int = 8,
        prefix_bytes: int = 2**28,
        prefill_tokens: int = 2048,
    ) -> None:
        longest = network.config.context_len
        self.context_len = longest if context_len is None else context_len
        for name, value in (
            ("max_batch", max_batch),
            ("block_tokens", block_tokens),
            ("prefill_tokens", prefill_tokens),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not 2 <= self.context_len <= longest:
            raise ValueError(f"context_len is {context_len}; it must be at least 2 and at most {longest}")
        self.network = network
        self.max_batch = max_batch
        self.num_generated = 0  # tokens drawn so far
        self.num_prompt_tokens = 0  # tokens of prompts so far
        self.num_cached_tokens = 0  # of those, tokens that did not have to be read
        self._buckets = Buckets.of(
            platform=platform_of(mesh),
            max_batch=max_batch,
            context_len=self.context_len,
            max_read=prefill_tokens,
            rows_multiple=mesh.shape[MESH_AXES[0]] * mesh.shape[MESH_AXES[1]],
        )
        self._programs = Programs(network, mesh)
        self._laid_out = None if params is None else self._programs.lay_out(params)
        self._store = PrefixStore(network.config, max_bytes=prefix_bytes)
        self._reader = PromptReader(self._programs, self._buckets, self._store, max_tokens=prefill_tokens)
        self._block_tokens = block_tokens
        self._batch = Batch(
            self._programs,
            self._buckets,
            block_tokens=block_tokens,
            vocab_size=network.config.vocab_size,
        )
        self._seeds = np.random.default_rng()
        self._changed: dict[Generation, None] = {}

    def submit(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        end_ids: Collection[int],
        pause_ids: Collection[int] = (),
        num_samples: int = 1,
    ) -> list[Generation]:
        """Answers to one prompt, which is read once for all of them.

        Sample i of a seed is the same whatever else runs, up to the rounding of batches of another size.

        Raises:
            ValueError: the prompt leaves no room for an answer, or there are too many ids to stop at.
        """
        if not 1 <= len(prompt) < self.context_len:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens; there is room for {self.context_len - 1} and an answer"
            )
        ends, pauses = frozenset(end_ids), frozenset(pause_ids)
        if len(ends | pauses) > MAX_STOP_IDS:
            raise ValueError(f"{len(ends | pauses)} tokens to stop at; at most {MAX_STOP_IDS} are possible")
        generations = [
            Generation(prompt, sampling, ends, pauses, sample=sample) for sample in range(num_samples)
        ]
        turns = prompt.turn_position
        self._reader.add(Reading(prompt.tokens[:-1], turns[:-1], deque(generations)))
        self.num_prompt_tokens += len(prompt)
        return generations

    def resume(self, generation: Generation, forced: Sequence[int] = ()) -> None:
        """Lets a paused answer go on, after tokens that it did not choose. Raises ValueError if it is not."""
        row = self._batch.row_of(generation)
        if row is None or generation.state != "paused":
            raise ValueError(f"the answer is {generation.state}; only a paused one can be resumed")
        taken = [int(token) for token in forced[: self._room(generation)]]
        generation.tokens += taken
        generation.sampled += [False] * len(taken)
        generation.logprobs += [0.0] * len(taken)
        generation.top_logprobs += [()] * len(taken)
        row.forced += taken
        self._count_down(row)
        if row.tokens_left == 0:
            self._finish(row, "length")
        else:
            generation.state = "running"

    def cancel(self, generation: Generation) -> None:
        """Ends an answer where it is; nothing happens to a finished one."""
        if generation.state == "finished":
            return
        row = self._batch.row_of(generation)
        if row is not None:
            self._finish(row, "cancelled")
        else:
            self._reader.drop(generation)
            self._end(generation, "cancelled")

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything; answers that wait to be resumed do not count."""
        return bool(self._reader or self._changed or self.num_running)

    @property
    def num_running(self) -> int:
        return sum(row.is_running for row in self._batch)

    @property
    def num_waiting(self) -> int:
        return self._reader.num_waiting

    def num_shared(self, prompt: Prompt) -> int:
        """Tokens at the beginning of a prompt that need not be read."""
        return self._store.num_shared(prompt.tokens[:-1], prompt.turn_position[:-1])

    def cache_bytes(self) -> int:
        """Bytes of keys and values when every row is full, without the kept prefixes."""
        return cache_bytes(
            self.network.config,
            num_rows=self._buckets.batches[-1],
            capacity=self._buckets.capacities[-1],
            dtype=np.dtype(self.network.compute_dtype),
        )

    def update(self, params: Params) -> None:
        """Goes on with other parameters. Raises ValueError while there are answers in the making."""
        self.release()
        self._laid_out = self._programs.lay_out(params)

    def release(self) -> None:
        """Gives back the memory of parameters and caches, until `update`. Raises ValueError as that does."""
        if self._reader or len(self._batch):
            raise ValueError("answers are being written with the parameters there are")
        self._laid_out = None
        self._store.clear()
        self._batch.shrink()

    @property
    def _weights(self) -> Weights:
        if self._laid_out is None:
            raise ValueError("the engine has no parameters; give it some with update")
        return self._laid_out

    def step(self, *, meanwhile: Callable[[], None] = lambda: None) -> list[Generation]:
        """Reads prompts, writes one block of every answer that runs; returns the answers with news.

        `meanwhile` is called once, while the device writes the block, if there is one.
        """
        num_places = self.max_batch - len(self._batch)
        for generations, reading in self._reader.read(self._weights, num_places=num_places):
            self._begin(generations, reading)
        for row in list(self._batch):
            if row.is_running and len(row.forced) > FORCED_TOKENS:
                self._read_forced(row)
        if self.num_running:
            for row, drawn in self._batch.write(self._weights, meanwhile=meanwhile):
                self._take_in(row, drawn)
        self._batch.shrink()
        changed, self._changed = list(self._changed), {}
        return changed

    def generate(self, generations: Iterable[Generation]) -> None:
        """Steps until these are finished or paused."""
        wanted = list(generations)
        while any(generation.state in ("waiting", "running") for generation in wanted):
            self.step()

    def warm_up(self, report: Callable[[str], None] = lambda name: None) -> int:
        """Compiles every program it can need; returns how many sets of shapes there are.

        `report` is told what comes next.
        """
        num_programs = 0
        for capacity in self._buckets.capacities:
            for part in (self._reader, self._batch):
                for name in part.warm_up(self._weights, capacity):
                    report(name)
                    num_programs += 1
        return num_programs

    def _begin(self, generations: Sequence[Generation], reading: Reading) -> None:
        """Gives answers a place, now that their prompt was read."""
        assert reading.cache is not None
        self._batch.add([self._first_row(generation, reading) for generation in generations], reading.cache)
        for generation in generations:
            generation.state = "running"

    def _first_row(self, generation: Generation, reading: Reading) -> Row:
        sampling, prompt = generation.sampling, generation.prompt
        seed = int(self._seeds.integers(2**63)) if sampling.seed is None else sampling.seed
        row = Row(
            generation=generation,
            pending=int(prompt.tokens[-1]),
            length=len(reading.tokens),
            turn_position=int(prompt.turn_position[-1]),
            key=random_key(seed, generation.sample),
            stop_ids=stop_array(generation.end_ids | generation.pause_ids),
            rules=rules_of(sampling),
        )
        if sampling.needs_tables:
            row.in_prompt = np.zeros(self.network.config.vocab_size, bool)
            row.in_prompt[prompt.tokens] = True
        generation.cached_tokens = reading.num_cached
        self.num_cached_tokens += reading.num_cached
        self._count_down(row)
        return row

    def _read_forced(self, row: Row) -> None:
        """Reads what was forced upon an answer since the last block."""
        unread = np.array([row.pending, *row.forced[:-1]], np.int32)
        turns = np.arange(row.turn_position, row.turn_position + len(unread), dtype=np.int32)
        # The row has rested, and the device does not remember how long it was.
        cache = self._programs.rewind(
            self._weights,
            self._batch.copy_of(row),
            lengths=one(row.length),
            last_tokens=one(row.last_read()),
        )
        cache = self._reader.extended(self._weights, cache, unread, turns, length=row.length)
        row.length += len(unread)
        row.turn_position += len(unread)
        row.pending, row.forced = row.forced[-1], []
        self._batch.put_back(row, cache)

    def _take_in(self, row: Row, drawn: Drawn) -> None:
        """What a row was forced to say in a block, and what it drew then."""
        generation = row.generation
        forced = row.forced[: self._block_tokens]
        if forced:
            row.forced = row.forced[len(forced) :]
            row.length += len(forced)
            row.turn_position += len(forced)
            row.pending = forced[-1]
        tokens = drawn.tokens
        if not tokens:
            return
        generation.tokens += tokens
        generation.sampled += [True] * len(tokens)
        generation.logprobs += drawn.logprobs
        generation.top_logprobs += drawn.top_logprobs
        row.num_drawn += len(tokens)
        row.length += len(tokens)
        row.turn_position += len(tokens)
        row.pending = tokens[-1]
        self.num_generated += len(tokens)
        self._changed[generation] = None
        self._count_down(row)
        if row.pending in generation.end_ids:
            self._finish(row, "stop")
        elif row.pending in generation.pause_ids:
            generation.state = "paused"
        elif row.tokens_left == 0:
            self._finish(row, "length")

    def _room(self, generation: Generation) -> int:
        return self.context_len - len(generation.prompt) - len(generation.tokens)

    def _count_down(self, row: Row) -> None:
        room, wanted = self._room(row.generation), row.generation.sampling.max_tokens
        row.tokens_left = room if wanted is None else min(room, wanted - row.num_drawn)

    def _finish(self, row: Row, reason: FinishReason) -> None:
        try:
            if self._store.keeps_anything:
                self._keep(row)
        finally:  # a row whose cache is lost must not stay
            self._batch.remove(row)
            self._end(row.generation, reason)

    def _end(self, generation: Generation, reason: FinishReason) -> None:
        generation.state, generation.finish_reason = "finished", reason
        self._changed[generation] = None

    def _keep(self, row: Row) -> None:
        """Puts aside what was read, for a prompt that begins with it."""
        prompt, said = row.generation.prompt, row.generation.tokens
        turns = prompt.turn_position
        answer_turns = turns[-1] + 1 + np.arange(len(said), dtype=np.int32)
        self._store.add(
            Kept(
                tokens=np.append(prompt.tokens, np.array(said, np.int32))[: row.length],
                turn_position=np.append(turns, answer_turns)[: row.length],
                cache=self._batch.copy_of(row, capacity=self._buckets.capacity_for(row.length + 1)),
            )
        )


def random_key(seed: int, sample: int) -> np.ndarray:
    """uint32 (2,), of one sample's random numbers; close seeds and samples have unlike ones."""
    return np.random.SeedSequence([seed % 2**64, sample]).generate_state(2, np.uint32)
