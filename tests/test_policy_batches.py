"""Rows of sampled answers: every sampled token stands in one place, sees its own answer and counts there."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samosa_jax.config import ModelConfig
from samosa_jax.model.gpt import Network
from samosa_jax.rl.policy_batches import Layout, PolicyTokens, make_policy_batch
from samosa_jax.rl.policy_loss import make_policy_loss
from samosa_jax.rl.rewards import Completion
from samosa_jax.rl.rollouts import Answered
from samosa_jax.rollout.request import Prompt

LENGTH = 24
COMPLETION = Completion(item="1", sample=0, messages=(), written="", reason="stop", num_tokens=0, marks=())


def answered(prompt_len: int, sampled: list[bool], *, seed: int = 0) -> Answered:
    """Of random tokens; two turns before the answer, where there is room for them."""
    rng = np.random.default_rng(seed)
    begins = np.zeros(prompt_len, bool)
    begins[[0, prompt_len - 1]] = True
    mask = np.array(sampled, bool)
    return Answered(
        completion=COMPLETION,
        prompt=Prompt(rng.integers(0, 61, prompt_len).astype(np.int32), begins),
        tokens=rng.integers(0, 61, len(mask)).astype(np.int32),
        sampled=mask,
        logprobs=np.where(mask, -rng.random(len(mask)), 0.0).astype(np.float32),
    )


ANSWERS = st.lists(
    st.builds(
        answered,
        st.integers(1, 8),
        st.lists(st.booleans(), min_size=1, max_size=LENGTH - 7),
        seed=st.integers(0, 99),
    ),
    min_size=1,
    max_size=12,
)


@given(answers=ANSWERS, rows=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_every_answer_stands_once_and_whole(answers: list[Answered], rows: int):
    tokens = PolicyTokens.of(answers)
    assert tokens.num_sampled.tolist() == [int(answer.sampled.sum()) for answer in answers]
    layout = Layout.of(tokens.bounds, np.arange(len(answers)), rows=rows, context_len=LENGTH)
    used = layout.index[layout.index >= 0]
    last = tokens.bounds[1:] - 1
    assert sorted(used) == sorted(set(range(len(tokens.tokens))) - set(last.tolist()))
    assert layout.num_tokens == len(tokens.tokens) - len(answers)
    times = len(layout.index) / rows
    assert times == 2 ** round(np.log2(times))

    weights = np.arange(1.0, len(answers) + 1)
    batch = make_policy_batch(
        tokens, layout, weights=weights, advantages=-weights, old=None, reference=tokens.logprobs
    )
    rows_, columns = np.nonzero(batch.batch.weights)
    found = []
    for row, column in zip(rows_, columns, strict=True):
        start = int(batch.batch.k_lo[row, column])
        answer = answers[int(batch.batch.weights[row, column]) - 1]
        whole = np.append(answer.prompt.tokens, answer.tokens)
        at = column - start
        # The token read, what it sees, and what is predicted there.
        np.testing.assert_array_equal(batch.batch.tokens[row, start : column + 1], whole[: at + 1])
        assert batch.batch.targets[row, column] == whole[at + 1]
        assert batch.batch.k_hi[row, column] == column + 1
        assert batch.batch.position[row, column] == at
        assert batch.advantages[row, column] == -batch.batch.weights[row, column]
        place = at + 1 - len(answer.prompt)
        assert answer.sampled[place]
        assert batch.sampler[row, column] == answer.logprobs[place]
        np.testing.assert_array_equal(batch.reference, batch.sampler)
        turns = np.append(
            answer.prompt.turn_position, answer.prompt.turn_position[-1] + 1 + np.arange(len(answer.tokens))
        )
        assert batch.batch.turn_position[row, column] == turns[at]
        found.append((int(batch.batch.weights[row, column]), place))
    assert sorted(found) == [
        (number, place)
        for number, answer in enumerate(answers, start=1)
        for place in np.flatnonzero(answer.sampled)
    ]
    assert not batch.batch.k_hi[layout.index < 0].any()  # padding sees nothing

    back = np.zeros(len(tokens.tokens), np.float32)
    layout.collect(batch.sampler, into=back)
    np.testing.assert_array_equal(back, tokens.logprobs)


def test_forced_tokens_carry_nothing():
    """The engine says what was sampled: a result in the midst of an answer is read, and never trained on."""
    answer = answered(3, [True, True, False, False, False, True])
    tokens = PolicyTokens.of([answer])
    layout = Layout.of(tokens.bounds, np.array([0]), rows=1, context_len=LENGTH)
    ones = np.ones(1)
    batch = make_policy_batch(tokens, layout, weights=ones, advantages=ones, old=None, reference=None)
    expected = [0, 0, 1, 1, 0, 0, 0, 1]
    np.testing.assert_array_equal(batch.batch.weights[0, :8], expected)
    np.testing.assert_array_equal(batch.advantages[0, :8], expected)
    np.testing.assert_array_equal(batch.batch.tokens[0, 3:8], answer.tokens[:5])


def test_answers_that_do_not_count_take_no_room():
    answers = [answered(4, [True] * 10, seed=seed) for seed in range(6)]
    tokens = PolicyTokens.of(answers)
    everything = Layout.of(tokens.bounds, np.arange(6), rows=1, context_len=LENGTH)
    some = Layout.of(tokens.bounds, np.array([1, 4]), rows=1, context_len=LENGTH)
    none = Layout.of(tokens.bounds, np.array([], np.int64), rows=2, context_len=LENGTH)
    assert len(everything.index) == 8  # six answers of which only one fits a row
    assert len(some.index) == 2
    assert none.index.shape == (2, LENGTH)
    assert none.num_tokens == 0
    with pytest.raises(ValueError, match="a row holds 1"):
        Layout.of(np.array([0, LENGTH + 2]), np.array([0]), rows=1, context_len=LENGTH)


def test_the_loss_of_packed_rows_is_that_of_one_answer_a_row():
    network = Network.build(
        ModelConfig(
            vocab_size=61,
            context_len=LENGTH,
            num_layers=1,
            model_dim=16,
            num_heads=2,
            num_kv_heads=2,
            head_dim=8,
            mlp_dim=32,
            position="hirope",
        )
    )
    params = jax.jit(network.init)(jax.random.key(0))
    loss_fn = make_policy_loss(
        network, clip_low=0.2, clip_high=0.2, kl_coef=0.1, reference="precomputed", chunk_tokens=8
    )
    answers = [answered(3, [True, False, True, True], seed=seed) for seed in range(6)]
    tokens = PolicyTokens.of(answers)
    weights, advantages = np.linspace(0.5, 2, 6), np.linspace(-1, 1, 6)

    def loss(rows: int, context_len: int) -> tuple[int, float]:
        layout = Layout.of(tokens.bounds, np.arange(6), rows=rows, context_len=context_len)
        batch = make_policy_batch(
            tokens,
            layout,
            weights=weights,
            advantages=advantages,
            old=tokens.logprobs,
            reference=tokens.logprobs * 0.9,
        )
        return len(layout.index), float(jax.jit(loss_fn)(params, batch, None).sum)

    packed_rows, packed = loss(1, LENGTH)
    single_rows, single = loss(1, 7)
    assert packed_rows < single_rows
    assert packed == pytest.approx(single, rel=1e-5)
    assert abs(packed) > 0.1
