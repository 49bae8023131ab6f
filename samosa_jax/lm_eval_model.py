"""`SamosaLM`: a trained model as EleutherAI's lm-evaluation-harness asks models, text in and text out.

    results = lm_eval.simple_evaluate(model=SamosaLM(open_trained(Path("runs/base"))), tasks=["hellaswag"])

What a request means is the harness's (https://github.com/EleutherAI/lm-evaluation-harness): spaces at the end
of a context belong to the continuation, what is longer than the model reads loses its beginning, and a text
without end is scored in windows. Plain text begins with <|bos|> and never becomes another special token; a
text that begins with the name of <|bos|>, as chats do, has its special tokens by name.

Needs the package lm_eval; `samosa lm-eval` looks for it before it imports this module.
"""

import functools
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from samosa_jax.config import MeshConfig
from samosa_jax.data.chat.conversation import ConversationError, parse_prompt
from samosa_jax.data.chat.template import chat_template_text, render_text
from samosa_jax.data.tokenizer import BOS, Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.asking import seed_of
from samosa_jax.evals.likelihood import Continuation, Score, Scorer
from samosa_jax.keys import near_miss
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.rollout.engine import Engine
from samosa_jax.rollout.request import Generation, Prompt, Sampling
from samosa_jax.rollout.turn import END_MARKS, Turn
from samosa_jax.trained import Trained, make_engines
from samosa_jax.training.checkpoint import seal_digest

MAX_GEN_TOKS = 256  # tokens of an answer where the task names no number; the harness's own default
SCORED_AT_ONCE = 16_384  # continuations; the harness's cache takes them in after each such portion
FILTERS = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
GENERATION_KEYS = ("until", "max_gen_toks", "do_sample", "temperature", "num_beams", *FILTERS)


class SamosaLM(LM):
    """Answers the three kinds of requests with one checkpoint, on all its devices.

    Attributes:
        num_requests: answered or being answered.
        truncated: by task, requests that lost a beginning.
    """

    def __init__(self, trained: Trained, *, tensor: int = 1, max_batch: int = 16, seed: int = 0) -> None:
        """
        Args:
            tensor: devices that heads and feed-forward width are split over.
            max_batch: answers written at the same time.
            seed: of answers that are drawn at a temperature above 0.
        """
        super().__init__()
        self.num_requests = 0
        self.truncated: Counter[str] = Counter()
        self._trained = trained
        self._tokenizer = trained.tokenizer
        self._tensor = tensor
        self._max_batch = max_batch
        self._seed = seed

    def __str__(self) -> str:
        return f"{self._trained.name}, step {self._trained.step}"

    @property
    def max_length(self) -> int:
        """Tokens that the model reads at most."""
        return self._trained.network.config.context_len

    @property
    def tokenizer_name(self) -> str:
        """Names the prompts that the harness keeps for another time."""
        return f"samosa-{self._tokenizer.fingerprint[:16]}"

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes down about the model."""
        return {
            "model_num_parameters": self._trained.num_params,
            "model_dtype": str(self._trained.network.compute_dtype),
            "model_revision": f"step {self._trained.step}",
            "model_sha": seal_digest(self._trained.folder),
        }

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The text of the one template, in Jinja; None if chats are not asked for."""
        if isinstance(chat_template, str):
            raise UserError(
                f"--apply_chat_template={chat_template}; {self._trained.name} has one template, without a "
                "name: give --apply_chat_template alone"
            )
        return chat_template_text() if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as text with the special tokens by name, ready for the assistant to speak.

        Without `add_generation_prompt` the last message is the assistant's, which is to be continued.
        """
        asked, begun = (chat_history, "") if add_generation_prompt else _without_last(chat_history)
        try:
            return render_text(parse_prompt({"messages": asked}), for_answer=True) + begun
        except ConversationError as error:
            raise UserError(f"the task makes a chat that this model was not trained on: {error}") from error

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of (context, continuation): log-probability, and whether greedy decoding writes it."""
        self.num_requests += len(requests)
        asked = [_arguments(request) for request in requests]
        pairs = split_texts(asked, self._tokenizer)
        for request, texts, (context, continuation) in zip(requests, asked, pairs, strict=True):
            self.truncated[str(request.task_name)] += self._num_excess(context, continuation) > 0
            if not continuation:
                raise UserError(
                    f"{request.task_name}: the continuation {texts[1]!r} of item {request.doc_id} adds no "
                    "token to its context; the task has to put a space or a line break between them"
                )
        answers: list[tuple[float, bool]] = []
        for start in range(0, len(requests), SCORED_AT_ONCE):
            portion = slice(start, start + SCORED_AT_ONCE)
            scores = self._score(pairs[portion], disable_tqdm=disable_tqdm)
            for request, score in zip(requests[portion], scores, strict=True):
                answers.append((score.logprob, score.is_greedy))
                self.cache_hook.add_partial("loglikelihood", request.args, answers[-1])
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts: every token once, after as many as the model reads."""
        self.num_requests += len(requests)
        encoded = self._tokenizer.encode_batch(
            [_arguments(request)[0] for request in requests], num_threads=os.cpu_count() or 1
        )
        windows = [
            [make_disjoint_window(window) for window in self._windows(tokens.tolist())] for tokens in encoded
        ]
        scores = iter(self._score([pair for own in windows for pair in own], disable_tqdm=disable_tqdm))
        answers = [math.fsum(next(scores).logprob for _ in own) for own in windows]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers to (prompt, settings), without their stop strings; in chats also without thoughts."""
        self.num_requests += len(requests)
        wanted = self._wanted(requests)
        vars(self).pop("_scorer", None)  # an engine has parameters of its own
        answers = [""] * len(requests)
        with tqdm(total=len(requests), desc="Writing answers", disable=disable_tqdm) as bar:
            for number, text in _written(self._engine, self._tokenizer, wanted):
                answers[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
                bar.update()
        return answers

    @functools.cached_property
    def _scorer(self) -> Scorer:
        mesh = make_mesh(MeshConfig(tensor=self._tensor), devices=self._trained.devices)
        return Scorer(
            self._trained.network,
            self._trained.params_on(mesh),
            mesh=mesh,
            token_bytes=self._tokenizer.token_bytes,
        )

    @functools.cached_property
    def _engine(self) -> Engine:
        (engine,) = make_engines(self._trained, max_batch=self._max_batch, tensor=self._tensor)
        return engine

    def _windows(self, tokens: list[int]) -> list[tuple[list[int], list[int]]]:
        return list(
            get_rolling_token_windows(
                token_list=tokens,
                prefix_token=self._tokenizer.bos_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
        )

    def _score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, disable_tqdm: bool
    ) -> list[Score]:
        """Of (context, continuation) tokens, in their order. Raises UserError where there is no number."""
        vars(self).pop("_engine", None)  # it has parameters of its own
        continuations = [self._continuation(*pair) for pair in pairs]
        with tqdm(desc="Scoring tokens", disable=disable_tqdm) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            scores = self._scorer.score(continuations, on_progress=show)
        if any(math.isnan(score.logprob) for score in scores):
            raise UserError(
                f"{self._trained.folder} gives no number (NaN) for a text; its training has diverged: name "
                "an earlier --step"
            )
        return scores

    def _num_excess(self, context: Sequence[int], continuation: Sequence[int]) -> int:
        """Tokens that find no room; the last one is never read."""
        return max(0, len(context) + len(continuation) - 1 - self.max_length)

    def _continuation(self, context: Sequence[int], continuation: Sequence[int]) -> Continuation:
        # Turns are counted in what is left, as for answers.
        context = context[min(self._num_excess(context, continuation), len(context) - 1) :]
        whole = prompt_of([*context, *continuation], self._tokenizer)
        return Continuation.of_turns(context, continuation, whole.turn_position)

    def _wanted(self, requests: Sequence[Instance]) -> list["_Wanted"]:
        """What to write, all of it looked at before anything is. Raises UserError."""
        arguments = [_arguments(request) for request in requests]
        encoded = encode_texts([text for text, _ in arguments], self._tokenizer)
        asked: Counter[tuple[object, ...]] = Counter()
        wanted = []
        for request, (text, given) in zip(requests, arguments, strict=True):
            key = (request.task_name, request.doc_id, request.idx)
            settings = read_settings(given, task=str(request.task_name))
            room = self.max_length - settings.max_tokens
            if room < 1:
                raise UserError(
                    f"{request.task_name} asks for answers of {settings.max_tokens} tokens; "
                    f"{self._trained.name} reads and writes {self.max_length} together: give fewer, as in "
                    f"--gen_kwargs max_gen_toks={self.max_length // 2}"
                )
            tokens = encoded[text]
            self.truncated[str(request.task_name)] += len(tokens) > room
            wanted.append(
                _Wanted(
                    prompt=prompt_of(tokens[-room:], self._tokenizer),
                    sampling=settings.sampling(seed=seed_of(self._seed, *key, asked[key])),
                    stop=settings.stop,
                    is_chat=text.startswith(BOS),
                )
            )
            asked[key] += 1
        return wanted


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """The generation_kwargs of a task, understood."""

    max_tokens: int
    stop: tuple[str, ...]
    temperature: float
    filters: Mapping[str, Any]

    def sampling(self, *, seed: int) -> Sampling:
        return Sampling(
            temperature=self.temperature, max_tokens=self.max_tokens, seed=seed, **dict(self.filters)
        )


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    prompt: Prompt
    sampling: Sampling
    stop: tuple[str, ...]
    is_chat: bool


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, list[int]]:
    """The tokens of each text, <|bos|> first; one that begins with it has its special tokens by name."""
    distinct = list(dict.fromkeys(texts))
    chats = [text for text in distinct if text.startswith(BOS)]
    plain = [text for text in distinct if not text.startswith(BOS)]
    encoded = tokenizer.encode_batch(plain, num_threads=os.cpu_count() or 1)
    return {text: tokenizer.encode_with_specials(text) for text in chats} | {
        text: [tokenizer.bos_id, *tokens.tolist()] for text, tokens in zip(plain, encoded, strict=True)
    }


def split_texts(pairs: Sequence[tuple[Any, ...]], tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """The tokens of contexts and of continuations, which begin where the tokens of the context alone end.

    Spaces at the end of a context are the continuation's, as most tokens begin with theirs.
    """
    contexts = [context.rstrip() for context, _ in pairs]
    wholes = ["".join(pair) for pair in pairs]
    ids = encode_texts([*contexts, *wholes], tokenizer)
    found = []
    for context, whole in zip(contexts, wholes, strict=True):
        start = len(ids[context])
        found.append((ids[whole][:start], ids[whole][start:]))
    return found


def prompt_of(tokens: Sequence[int], tokenizer: Tokenizer) -> Prompt:
    """Tokens with their turns, by the rule of the chat template; in plain text all is one turn."""
    ids = np.asarray(tokens, np.int32)
    is_user = ids == tokenizer.special_ids["<|user_start|>"]
    begins = (ids == tokenizer.bos_id) | (ids == tokenizer.special_ids["<|assistant_start|>"])
    return Prompt(ids, begins | is_user & (np.cumsum(is_user) > 1))


def read_settings(given: Mapping[str, Any], *, task: str) -> GenerationSettings:
    """The settings of a request. Raises UserError for what is unknown here, or out of range."""
    kwargs: dict[str, Any] = {**normalize_gen_kwargs(dict(given), MAX_GEN_TOKS)}
    for name, value in kwargs.items():
        if name not in GENERATION_KEYS or (name == "num_beams" and value != 1):
            hint = near_miss(name, GENERATION_KEYS) or f"; there are {', '.join(GENERATION_KEYS)}"
            raise UserError(
                f"generation_kwargs of {task}: {name}={value!r} is nothing that this engine can do{hint}"
            )
    stop = kwargs["until"] or ()
    settings = GenerationSettings(
        max_tokens=kwargs["max_gen_toks"],
        stop=tuple(dict.fromkeys(text for text in stop if text)),
        temperature=float(kwargs.get("temperature", 1.0)) if kwargs["do_sample"] else 0.0,
        filters={name: kwargs[name] for name in FILTERS if name in kwargs},
    )
    try:
        settings.sampling(seed=0)
    except ValueError as error:
        raise UserError(f"generation_kwargs of {task}: {error}") from error
    return settings


def _arguments(request: Instance) -> tuple[Any, ...]:
    return request.args


def _without_last(chat_history: list[dict[str, str]]) -> tuple[list[dict[str, str]], str]:
    *asked, begun = chat_history
    return asked, begun["content"]


def _written(engine: Engine, tokenizer: Tokenizer, wanted: Sequence[_Wanted]) -> Iterator[tuple[int, str]]:
    """(number, text) of each answer, as they end."""
    ends = [tokenizer.special_ids[mark] for mark in END_MARKS]
    running: dict[Generation, tuple[int, Turn]] = {}
    for number, one in enumerate(wanted):
        (generation,) = engine.submit(one.prompt, one.sampling, end_ids=ends)
        running[generation] = number, Turn(tokenizer, stop=one.stop, reads_marks=one.is_chat)
    num_read: Counter[Generation] = Counter()
    while running:
        for generation in engine.step():
            if generation not in running:
                continue
            number, turn = running[generation]
            for token in generation.tokens[num_read[generation] :]:
                turn.read(token)
            num_read[generation] = len(generation.tokens)
            if turn.is_over or generation.state == "finished":
                del running[generation]
                if generation.state != "finished":
                    engine.cancel(generation)
                turn.finish()
                yield number, "".join(delta.text for delta in turn.take_deltas() if delta.kind == "text")
