"""The engine against one full forward after another: the same tokens, whoever shares the batch with them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_model import BASE, EXTRAS, make_params
from tiny_training import mesh_of

from samosa_jax.config import ModelConfig
from samosa_jax.model.gpt import Network
from samosa_jax.rollout.engine import Engine
from samosa_jax.rollout.request import Generation, Prompt, Sampling

# A window of its own, positions of two clocks, and all that reads more than the token itself.
CONFIG = dataclasses.replace(EXTRAS, num_layers=2, window=24, window_pattern="SL", context_len=240)
END, PAUSE = 1, 2


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.build(CONFIG)


@pytest.fixture(scope="module")
def params(network: Network) -> Any:
    return make_params(network)


def make_engine(network: Network, params: Any, **options: Any) -> Engine:
    options = {"mesh": mesh_of(data=1), "max_batch": 4, "block_tokens": 4, "prefill_tokens": 128, **options}
    return Engine(network, params, **options)


@pytest.fixture(scope="module")
def engine(network: Network, params: Any) -> Engine:
    """Shared by tests that leave it idle."""
    return make_engine(network, params)


def some_prompt(length: int, seed: int = 0) -> Prompt:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, CONFIG.vocab_size, length).astype(np.int32)
    return Prompt(tokens, (np.arange(length) % 11) == 0)


@functools.cache
def forward(config: ModelConfig) -> Any:
    network = Network.build(config)

    @jax.jit
    def logits(params: Any, tokens: jax.Array, turns: jax.Array) -> jax.Array:
        position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        return network.logits(
            params,
            tokens,
            k_lo=jnp.zeros_like(position),
            k_hi=position + 1,
            position=position,
            turn_position=turns,
        )

    return logits


def full_logits(params: Any, prompt: Prompt, answer: list[int]) -> np.ndarray:
    """Logits (answer, V) before every token of an answer, by reading all of it at once."""
    tokens = np.zeros((1, CONFIG.context_len), np.int32)
    turns = np.zeros_like(tokens)
    length = len(prompt) + len(answer)
    tokens[0, :length] = [*prompt.tokens, *answer]
    turns[0, : len(prompt)] = prompt.turn_position
    turns[0, len(prompt) : length] = turns[0, len(prompt) - 1] + 1 + np.arange(len(answer))
    logits = np.asarray(forward(CONFIG)(params, tokens, turns))[0]
    return logits[len(prompt) - 1 : length - 1]


def assert_greedy(params: Any, generation: Generation) -> None:
    """Every sampled token is the likeliest, and its log-probability that of the full forward."""
    logits = full_logits(params, generation.prompt, generation.tokens)
    logprobs = np.asarray(jax.nn.log_softmax(logits))
    for step, (token, sampled) in enumerate(zip(generation.tokens, generation.sampled, strict=True)):
        if sampled:
            assert logits[step, token] >= logits[step].max() - 1e-3
            assert generation.logprobs[step] == pytest.approx(logprobs[step, token], abs=2e-3)


GREEDY = Sampling(temperature=0, max_tokens=13)


def test_answers_of_all_lengths_at_once(engine: Engine, params: Any):
    prompts = [some_prompt(length, seed) for seed, length in enumerate([1, 2, 30, 33, 34, 130, 200, 7, 90])]
    answers = [engine.submit(prompt, GREEDY, end_ids=())[0] for prompt in prompts]
    assert engine.num_waiting == 9
    most = 0
    while engine.has_work:
        engine.step()
        most = max(most, engine.num_running)
    assert most == 4
    for answer in answers:
        assert (answer.state, answer.finish_reason, len(answer.tokens)) == ("finished", "length", 13)
        assert_greedy(params, answer)


def test_an_answer_ends_with_the_first_of_its_ends(engine: Engine):
    (probe,) = engine.submit(some_prompt(30), GREEDY, end_ids=())
    engine.generate([probe])
    ends = probe.tokens[5:7]
    (answer,) = engine.submit(some_prompt(30), GREEDY, end_ids=ends)
    engine.generate([answer])
    first = min(probe.tokens.index(end) for end in ends)
    assert answer.tokens == probe.tokens[: first + 1]
    assert answer.finish_reason == "stop"


def test_a_request_joins_and_another_leaves(engine: Engine, params: Any):
    (first,) = engine.submit(some_prompt(20), Sampling(temperature=0, max_tokens=40), end_ids=())
    engine.step()
    (second,) = engine.submit(some_prompt(50, 1), GREEDY, end_ids=())
    (third,) = engine.submit(some_prompt(51, 2), Sampling(temperature=0, max_tokens=100), end_ids=())
    while not second.finish_reason:
        engine.step()
    assert first.state == "running"
    engine.cancel(third)
    assert (third.state, third.finish_reason) == ("finished", "cancelled")
    said = list(third.tokens)
    engine.generate([first])
    assert third.tokens == said
    for answer in (first, second, third):
        assert_greedy(params, answer)
    assert [len(first.tokens), len(second.tokens)] == [40, 13]


def test_waiting_requests_can_be_cancelled(engine: Engine):
    answers = engine.submit(some_prompt(9), GREEDY, end_ids=(), num_samples=2)
    engine.cancel(answers[0])
    (other,) = engine.submit(some_prompt(9), GREEDY, end_ids=())
    engine.cancel(other)
    assert engine.num_waiting == 1
    assert set(engine.step()) >= set(answers) | {other}
    engine.generate(answers)
    assert [len(answer.tokens) for answer in (*answers, other)] == [0, 13, 0]


def test_samples_of_one_prompt_differ_and_repeat(engine: Engine):
    sampling = Sampling(seed=7, max_tokens=12)
    again = [engine.submit(some_prompt(40), sampling, end_ids=(), num_samples=6) for _ in range(2)]
    engine.generate([answer for answers in again for answer in answers])
    one, other = ([answer.tokens for answer in answers] for answers in again)
    assert one == other
    assert len({tuple(tokens) for tokens in one}) == 6
    (alone,) = engine.submit(some_prompt(40), sampling, end_ids=())
    (unseeded,) = engine.submit(some_prompt(40), Sampling(max_tokens=12), end_ids=())
    engine.generate([alone, unseeded])
    assert alone.tokens == one[0]
    assert unseeded.tokens not in one


@pytest.mark.parametrize("num_forced", [1, 8, 13, 40])  # said in one block or two, or read at once
def test_a_paused_answer_goes_on_after_forced_tokens(engine: Engine, params: Any, num_forced: int):
    (probe,) = engine.submit(some_prompt(30), GREEDY, end_ids=())
    engine.generate([probe])
    stop = probe.tokens[4]
    at = probe.tokens.index(stop) + 1
    (answer,) = engine.submit(some_prompt(30), GREEDY, end_ids=(), pause_ids={stop})
    (other,) = engine.submit(some_prompt(31, 3), Sampling(temperature=0, max_tokens=60), end_ids=())
    while answer.state != "paused":
        engine.step()
    assert answer.tokens == probe.tokens[:at]
    with pytest.raises(ValueError, match="only a paused one can be resumed"):
        engine.resume(other)
    for _ in range(3):
        engine.step()  # the other one goes on meanwhile
    forced = [5 + 4 * number for number in range(num_forced - 1)] + [stop]  # which pauses only where drawn
    engine.resume(answer, forced)
    while answer.state not in ("paused", "finished"):
        engine.step()
    assert answer.tokens[at : at + num_forced] == forced
    assert answer.sampled[at - 1 : at + num_forced + 1] == [True, *[False] * num_forced, True]
    assert_greedy(params, answer)
    while answer.state == "paused":
        engine.resume(answer)  # on without a word
        engine.generate([answer])
    assert sum(answer.sampled) == 13
    assert_greedy(params, answer)
    engine.generate([other])
    assert_greedy(params, other)


def test_forced_tokens_may_fill_the_context(network: Network, params: Any):
    engine = make_engine(network, params, context_len=64)
    (probe,) = engine.submit(some_prompt(30), GREEDY, end_ids=())
    engine.generate([probe])
    (answer,) = engine.submit(some_prompt(30), GREEDY, end_ids=(), pause_ids={probe.tokens[0]})
    engine.generate([answer])
    engine.resume(answer, [7] * 100)
    engine.step()
    assert (answer.finish_reason, len(answer.tokens)) == ("length", 34)


def test_a_next_turn_reads_only_what_is_new(network: Network, params: Any):
    engine = make_engine(network, params)
    prompt = some_prompt(60)
    (first,) = engine.submit(prompt, GREEDY, end_ids=())
    engine.generate([first])
    assert first.cached_tokens == 0
    tokens = np.concatenate([prompt.tokens, first.tokens, [9, 8, 7]]).astype(np.int32)
    begins = np.concatenate([prompt.begins_turn, np.zeros(13, bool), [False, True, False]])
    following = Prompt(tokens, begins)
    assert engine.num_shared(following) == 72  # the last token said was never read
    (second,) = engine.submit(following, GREEDY, end_ids=())
    engine.generate([second])
    assert second.cached_tokens == 72
    assert_greedy(params, second)
    elsewhere = Prompt(tokens, np.arange(len(tokens)) == 0)  # other turns: not the same to HiRoPE
    assert engine.num_shared(elsewhere) < 12
    assert engine.num_cached_tokens == 72
    engine.update(params)
    assert engine.num_shared(following) == 0


@pytest.mark.parametrize("length", [60, 200])
def test_without_windows_a_row_can_be_taken_back(length: int):
    config = dataclasses.replace(CONFIG, window_pattern="L", window=None)
    network = Network.build(config)
    params = make_params(network)
    engine = make_engine(network, params)
    prompt = some_prompt(length)
    (first,) = engine.submit(prompt, GREEDY, end_ids=())
    engine.generate([first])
    changed = Prompt(np.append(prompt.tokens[:50], 4).astype(np.int32), prompt.begins_turn[:51])
    fresh = make_engine(network, params, prefix_bytes=0)
    (again,) = engine.submit(changed, GREEDY, end_ids=())
    (expected,) = fresh.submit(changed, GREEDY, end_ids=())
    engine.step()
    assert engine._batch._held().capacity == 128, "all rows are as wide as the longest earlier answer"
    engine.generate([again])
    fresh.generate([expected])
    assert (again.cached_tokens, expected.cached_tokens) == (50, 0)
    assert again.tokens == expected.tokens


def test_kept_rows_are_given_up_for_newer_ones(network: Network, params: Any):
    engine = make_engine(network, params, prefix_bytes=100_000)
    following = []
    for seed in range(8):
        (answer,) = engine.submit(some_prompt(100, seed), GREEDY, end_ids=())
        engine.generate([answer])
        tokens = np.array([*answer.prompt.tokens, *answer.tokens, 3], np.int32)
        following.append(Prompt(tokens, np.append(answer.prompt.begins_turn, np.zeros(14, bool))))
    assert 0 < len(engine._store) < 8
    assert engine._store.num_bytes <= 100_000
    assert [engine.num_shared(following[turn]) for turn in (0, 7)] == [0, 112]


def test_the_context_ends_an_answer(network: Network, params: Any):
    engine = make_engine(network, params, context_len=40)
    (answer,) = engine.submit(some_prompt(33), Sampling(temperature=0), end_ids=())
    engine.generate([answer])
    assert (len(answer.tokens), answer.finish_reason) == (7, "length")
    assert_greedy(params, answer)
    with pytest.raises(ValueError, match="the prompt has 40 tokens; there is room for 39 and an answer"):
        engine.submit(some_prompt(40), GREEDY, end_ids=())


def test_rules_of_all_kinds_in_one_batch(engine: Engine, params: Any):
    prompt = some_prompt(25)
    wishes = [
        GREEDY,
        Sampling(temperature=2.0, top_k=1, max_tokens=13),
        Sampling(temperature=0, max_tokens=13, top_logprobs=3),
        Sampling(temperature=0, max_tokens=13, frequency_penalty=100.0),
    ]
    answers = [engine.submit(prompt, wish, end_ids=())[0] for wish in wishes]
    engine.generate(answers)
    greedy, narrow, reported, varied = answers
    assert greedy.tokens == narrow.tokens == reported.tokens
    assert len(set(varied.tokens)) == 13
    assert varied.tokens[0] == greedy.tokens[0]
    logprobs = np.asarray(jax.nn.log_softmax(full_logits(params, prompt, reported.tokens)))
    for step, tops in enumerate(reported.top_logprobs):
        ids, values = zip(*tops, strict=True)
        np.testing.assert_allclose(values, np.sort(logprobs[step])[::-1][:3], atol=2e-3)
        assert ids[0] == reported.tokens[step]
    assert set(greedy.top_logprobs) == {()}


def test_on_a_mesh_it_says_the_same(network: Network, params: Any):
    prompts = [some_prompt(length, length) for length in (5, 17, 40, 41, 90)]

    def answers(**mesh: int) -> list[list[int]]:
        engine = make_engine(network, params, mesh=mesh_of(**mesh), max_batch=8)
        asked = [engine.submit(prompt, GREEDY, end_ids=())[0] for prompt in prompts]
        engine.generate(asked)
        for answer in asked:
            assert_greedy(params, answer)
        return [answer.tokens for answer in asked]

    assert answers(data=2, tensor=2) == answers(data=1)


def test_nothing_is_compiled_after_warm_up():
    network = Network.build(dataclasses.replace(BASE, context_len=160))
    engine = make_engine(network, make_params(network), max_batch=2, prefill_tokens=32)
    names: list[str] = []
    assert engine.warm_up(names.append) == len(names) > 10
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        rng = np.random.default_rng(0)
        for round in range(3):
            answers = []
            for _ in range(7):
                sampling = Sampling(
                    seed=int(rng.integers(2**31)),
                    max_tokens=int(rng.integers(1, 40)),
                    top_k=int(rng.integers(0, 3)),
                    presence_penalty=float(rng.integers(0, 2)) * (round == 2),
                )
                prompt = some_prompt(int(rng.integers(1, 150)), int(rng.integers(4)))
                answers += engine.submit(
                    prompt, sampling, end_ids={END}, pause_ids={PAUSE, 5}, num_samples=int(rng.integers(1, 3))
                )
                engine.step()
            while any(answer.state != "finished" for answer in answers):
                engine.step()
                for answer in answers:
                    if answer.state == "paused":
                        engine.resume(answer, [11] * int(rng.integers(0, 50)))
        assert engine.num_generated > 60
        assert compiled == []
        jax.jit(lambda x: x + 1.25)(jnp.ones(3)).block_until_ready()
        assert compiled  # the ear is not deaf
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch is 0"),
        ({"block_tokens": 0}, "block_tokens is 0"),
        ({"context_len": 241}, "context_len is 241; it must be at least 2 and at most 240"),
    ],
)
def test_sizes_that_make_no_sense(network: Network, params: Any, options: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        make_engine(network, params, **options)
