"""How likely a network finds a continuation of a context: the number behind every choice that is ranked.

    scorer = Scorer(network, params, mesh=mesh, token_bytes=tokenizer.token_bytes)
    scores = scorer.score([Continuation.of_text(context, continuation), ...])

Logits exist only where a continuation is asked about, not over its context, which is most of what is read.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from samosa_jax.evals.packing import PackedBatch, Rows, Text, pack
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.sharding import batch_sharding

TOKENS_AT_ONCE = {"cpu": 4096}  # read by one device
TOKENS_AT_ONCE_ELSEWHERE = 32_768
QUESTIONS_AT_ONCE = 512  # whose logits exist at the same time, on one device
AHEAD = 2  # batches that a device has to do while the host packs the next

Tokens = Sequence[int] | np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Continuation:
    """Tokens whose probability is asked for, after those of a context that has at least one."""

    context: np.ndarray  # int32 (C,)
    continuation: np.ndarray  # int32 (N,), N at least 1
    turn_position: np.ndarray  # int32 (C + N,), of both

    @classmethod
    def of_text(cls, context: Tokens, continuation: Tokens) -> "Continuation":
        """In plain text, where there are no turns: positions go through. The context begins with <|bos|>."""
        return cls.of_turns(context, continuation, np.arange(len(context) + len(continuation)))

    @classmethod
    def of_turns(cls, context: Tokens, continuation: Tokens, turn_position: np.ndarray) -> "Continuation":
        """In a conversation; `turn_position` restarts at every turn.

        Raises ValueError for an empty context or continuation.
        """
        if not len(context) or not len(continuation):
            raise ValueError(
                f"a context of {len(context)} tokens and a continuation of {len(continuation)}; "
                "each needs at least one"
            )
        return cls(
            context=np.asarray(context, np.int32),
            continuation=np.asarray(continuation, np.int32),
            turn_position=np.asarray(turn_position, np.int32),
        )


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one continuation.

    Attributes:
        logprob: natural, summed over the tokens; NaN from a network that computes no number.
        num_tokens: of the continuation that were scored: all, unless it alone is longer than the context_len.
        num_bytes: that these stand for.
        is_greedy: every token is the likeliest one where it stands (of equally likely ones the one with the
            lowest id), so that greedy decoding writes the continuation. False if not all of it was scored.
        num_cut: tokens at the beginning of the context that found no room.
    """

    logprob: float
    num_tokens: int
    num_bytes: int
    is_greedy: bool
    num_cut: int


@dataclass
class Spent:
    """What scoring has taken since the scorer was made."""

    seconds: float = 0.0
    continuations: int = 0
    tokens: int = 0  # read, without padding
    padding: int = 0
    programs: int = 0  # compiled

    def __sub__(self, earlier: "Spent") -> "Spent":
        return Spent(*(getattr(self, name) - getattr(earlier, name) for name in vars(self)))


class Scorer:
    """Scores continuations under one network, on all devices of a mesh."""

    def __init__(
        self,
        network: Network,
        params: Params,
        *,
        mesh: jax.sharding.Mesh,
        token_bytes: np.ndarray,
        context_len: int | None = None,
        tokens_at_once: int | None = None,
    ) -> None:
        """
        Args:
            params: on the mesh.
            token_bytes: int (vocab_size,), bytes that each token stands for.
            context_len: tokens that the network reads at most; None: as many as it was made for.
            tokens_at_once: that one device reads.
        """
        platform = mesh.devices.flat[0].platform
        self.context_len = context_len or network.config.context_len
        self._params = params
        self._token_bytes = token_bytes
        self._num_groups = mesh.shape["data"] * mesh.shape["fsdp"]
        self._tokens_at_once = tokens_at_once or TOKENS_AT_ONCE.get(platform, TOKENS_AT_ONCE_ELSEWHERE)
        self._sharding = batch_sharding(mesh)
        self._read = _make_reader(network, mesh=mesh, num_groups=self._num_groups)
        self.spent = Spent()

    def score(
        self,
        continuations: Sequence[Continuation],
        *,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Score]:
        """In the order given. What does not fit the context_len loses its beginning.

        `on_progress` hears of (tokens scored, tokens to score).
        """
        began = time.perf_counter()
        plan = _plan(continuations, context_len=self.context_len)
        logprobs = np.full(plan.num_questions, np.nan)
        is_greedy = np.zeros(plan.num_questions, bool)
        batches = pack(
            plan.texts,
            context_len=self.context_len,
            num_groups=self._num_groups,
            tokens_per_group=self._tokens_at_once,
        )
        waiting: deque[tuple[PackedBatch, tuple[jax.Array, jax.Array]]] = deque()
        done = 0

        def take() -> None:
            nonlocal done
            batch, on_devices = waiting.popleft()
            found, likeliest = jax.device_get(on_devices)
            is_asked = batch.answers >= 0
            where = batch.answers[is_asked]
            logprobs[where] = found[is_asked]
            is_greedy[where] = likeliest[is_asked]
            done += len(where)
            on_progress(done, plan.num_questions)

        with CompilationCounter() as compiled:
            for batch in batches:
                rows = jax.tree.map(lambda array: jax.device_put(array, self._sharding), batch.rows)
                waiting.append((batch, self._read(self._params, rows)))
                self.spent.tokens += batch.num_tokens
                self.spent.padding += batch.rows.tokens.size - batch.num_tokens
                if len(waiting) > AHEAD:
                    take()
            while waiting:
                take()
        self.spent.programs += compiled.count
        self.spent.continuations += len(continuations)
        self.spent.seconds += time.perf_counter() - began
        return [
            self._score(continuation, plan, number, logprobs, is_greedy)
            for number, continuation in enumerate(continuations)
        ]

    def _score(
        self,
        continuation: Continuation,
        plan: "_Plan",
        number: int,
        logprobs: np.ndarray,
        is_greedy: np.ndarray,
    ) -> Score:
        asked = slice(plan.first_question[number], plan.first_question[number + 1])
        num_tokens = asked.stop - asked.start
        scored = continuation.continuation[-num_tokens:]
        is_whole = num_tokens == len(continuation.continuation)
        return Score(
            logprob=float(logprobs[asked].sum()),
            num_tokens=num_tokens,
            num_bytes=int(self._token_bytes[scored].sum()),
            is_greedy=is_whole and bool(is_greedy[asked].all()),
            num_cut=plan.num_cut[number],
        )


class CompilationCounter:
    """Counts the programs that XLA compiles, or takes from its cache on disk, while it is entered."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "CompilationCounter":
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: str | int) -> None:
        self.count += event.endswith("backend_compile_duration")


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is read for the continuations; their tokens are numbered through, one question each."""

    texts: list[Text]
    first_question: list[int]  # of each continuation, and the end
    num_cut: list[int]

    @property
    def num_questions(self) -> int:
        return self.first_question[-1]


def _plan(continuations: Sequence[Continuation], *, context_len: int) -> _Plan:
    texts: dict[tuple[bytes, bytes], Text] = {}
    whole: list[Text] = []
    first_question, num_cut = [0], []
    for one in continuations:
        tokens = np.concatenate([one.context, one.continuation])
        # The last token is asked about and never read.
        excess = max(0, len(tokens) - 1 - context_len)
        num_cut.append(min(excess, len(one.context) - 1))
        tokens, turn_position = tokens[excess:], one.turn_position[excess:]
        num_asked = min(len(one.continuation), len(tokens) - 1)
        read, end = tokens[:-1], len(tokens)
        at, targets = list(range(end - 1 - num_asked, end - 1)), tokens[end - num_asked :].tolist()
        answers = list(range(first_question[-1], first_question[-1] + num_asked))
        first_question.append(answers[-1] + 1)
        key = (read.tobytes(), turn_position[:-1].tobytes())
        text = texts.get(key)
        if text is None or len(text.at) + num_asked > context_len:
            text = Text(tokens=read, turn_position=turn_position[:-1], at=[], targets=[])
            texts[key] = text
            whole.append(text)
        text.at.extend(at)
        text.targets.extend(targets)
        text.answers.extend(answers)
    return _Plan(texts=whole, first_question=first_question, num_cut=num_cut)


def _make_reader(
    network: Network, *, mesh: jax.sharding.Mesh, num_groups: int
) -> Callable[[Params, Rows], tuple[jax.Array, jax.Array]]:
    """A function of (parameters, rows) -> log-probabilities (G, Q), and which are of the likeliest token."""

    @jax.jit
    def read(params: Params, rows: Rows) -> tuple[jax.Array, jax.Array]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            hidden = network.hidden(
                params,
                jnp.asarray(rows.tokens),
                k_lo=jnp.asarray(rows.k_lo),
                k_hi=jnp.asarray(rows.k_hi),
                position=jnp.asarray(rows.position),
                turn_position=jnp.asarray(rows.turn_position),
            )
            by_group = hidden.reshape(num_groups, -1, hidden.shape[-1])
            asked = jnp.take_along_axis(by_group, jnp.asarray(rows.at)[:, :, None], axis=1)
            return _in_chunks(network, params, asked, jnp.asarray(rows.targets))

    return read


def _in_chunks(
    network: Network, params: Params, asked: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of hidden states (G, Q, D) and targets (G, Q): log-probabilities, and which are the likeliest."""
    G, Q, D = asked.shape
    size = max(part for part in range(1, min(Q, QUESTIONS_AT_ONCE) + 1) if Q % part == 0)

    def of_chunk(chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden, target = chunk
        logits = network.project(params, hidden)
        own = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
        return own - jax.nn.logsumexp(logits, axis=-1), jnp.argmax(logits, axis=-1) == target

    chunks = (
        asked.reshape(G, Q // size, size, D).swapaxes(0, 1),
        targets.reshape(G, Q // size, size).swapaxes(0, 1),
    )
    logprobs, is_top = lax.map(of_chunk, chunks)
    return logprobs.swapaxes(0, 1).reshape(G, Q), is_top.swapaxes(0, 1).reshape(G, Q)
