"""Cross-entropy and its reference against float64 NumPy: values, gradients, memory, sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from samosa_kernels.cross_entropy import softmax_cross_entropy, softmax_cross_entropy_reference

VOCAB_SIZE, PADDED_VOCAB_SIZE, WIDTH = 60, 64, 16


def oracle(hidden, head, targets, weights, *, vocab_size, soft_cap, z_loss):
    """total, nll and the gradients of total in hidden and head, all float64."""
    hidden, head, weights = (np.asarray(x, np.float64) for x in (hidden, head, weights))
    hidden, targets, weights = hidden.reshape(-1, hidden.shape[-1]), np.ravel(targets), np.ravel(weights)
    logits = raw = hidden @ head[:vocab_size].T
    if soft_cap is not None:
        logits = soft_cap * np.tanh(raw / soft_cap)
    lse = np.logaddexp.reduce(logits, axis=1)
    rows = np.arange(len(targets))
    nll = np.sum(weights * (lse - logits[rows, targets]))
    total = nll + z_loss * np.sum(weights * lse**2)
    dlogits = np.exp(logits - lse[:, None]) * (1 + 2 * z_loss * lse)[:, None]
    dlogits[rows, targets] -= 1
    dlogits *= weights[:, None]
    if soft_cap is not None:
        dlogits *= 1 - np.tanh(raw / soft_cap) ** 2
    dhead = np.zeros_like(head)
    dhead[:vocab_size] = dlogits.T @ hidden
    return total, nll, dlogits @ head[:vocab_size], dhead


@functools.partial(jax.jit, static_argnames=("vocab_size", "soft_cap", "z_loss", "chunk_tokens", "impl"))
def run(hidden, head, targets, weights, *, impl=softmax_cross_entropy, **options):
    """total, nll and the gradients of total in hidden and head."""

    def total(hidden, head):
        loss = impl(hidden, head, targets, weights, **options)
        return loss.total, loss.nll

    (value, nll), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(hidden, head)
    return value, nll, *gradients


def make_inputs(*leading: int, dtype="float32", seed: int = 0):
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(*leading, WIDTH)), dtype)
    head = jnp.asarray(rng.normal(size=(PADDED_VOCAB_SIZE, WIDTH)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, VOCAB_SIZE, size=leading), jnp.int32)
    weights = jnp.asarray(rng.choice([0.0, 0.5, 1.0, 2.0], size=leading), jnp.float32)
    return hidden, head, targets, weights


PLAIN = {"vocab_size": VOCAB_SIZE, "soft_cap": None, "z_loss": 0.0}
BOTH = pytest.mark.parametrize("impl", [softmax_cross_entropy, softmax_cross_entropy_reference])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"soft_cap": 5.0},
        {"z_loss": 1e-2},
        {"vocab_size": PADDED_VOCAB_SIZE},
        {"soft_cap": 5.0, "z_loss": 1e-2},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("impl", "chunk_tokens"),
    [(softmax_cross_entropy, 8), (softmax_cross_entropy, 1000), (softmax_cross_entropy_reference, 8)],
)
def test_values_and_gradients(change, impl, chunk_tokens):
    inputs = make_inputs(37)
    options = PLAIN | change
    found = run(*inputs, impl=impl, **options, chunk_tokens=chunk_tokens)
    expected = oracle(*inputs, **options)
    for name, ours, theirs in zip(("total", "nll", "dhidden", "dhead"), found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)
    if change:
        plain = oracle(*inputs, **PLAIN)
        assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(plain[2:], expected[2:], strict=True))


@BOTH
def test_every_token_by_itself(impl):
    hidden, head, targets, weights = make_inputs(4, 9)
    options = PLAIN | {"soft_cap": 5.0, "chunk_tokens": 8}
    by_token = impl(hidden, head, targets, weights, **options).token_nll
    logits = 5 * np.tanh(np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)[:VOCAB_SIZE].T / 5)
    nll = (
        np.logaddexp.reduce(logits, axis=-1)
        - np.take_along_axis(logits, np.array(targets)[..., None], -1)[..., 0]
    )
    assert {0.0, 0.5, 2.0} <= set(np.ravel(weights).tolist())
    np.testing.assert_allclose(by_token, np.where(weights != 0, nll, 0.0), rtol=1e-5)
    slope = jax.grad(lambda hidden: impl(hidden, head, targets, weights, **options).token_nll.sum())(hidden)
    assert not slope.any()  # for reading only


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_any_batch_and_shape_of_rows(seed):
    inputs = make_inputs(3, 7, seed=seed)
    found = run(*inputs, **PLAIN, chunk_tokens=5)
    expected = oracle(*inputs, **PLAIN)
    assert found[2].shape == inputs[0].shape
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[2].reshape(-1, WIDTH), expected[2], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found[3], expected[3], atol=1e-5, rtol=1e-5)


@BOTH
def test_tokens_of_weight_zero_leave_no_trace(impl):
    hidden, head, targets, _ = make_inputs(20)
    weights = jnp.ones(20).at[3].set(0).at[19].set(0)
    options = PLAIN | {"impl": impl, "chunk_tokens": 8}
    clean = run(hidden, head, targets, weights, **options)
    spoilt = hidden.at[3].set(jnp.nan).at[19].set(jnp.inf)
    found = run(spoilt, head, targets.at[3].set(-1).at[19].set(10_000), weights, **options)
    for ours, theirs in zip(found, clean, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not found[2][3].any()
    nothing = run(hidden, head, targets, jnp.zeros(20), **options)
    assert not any(np.asarray(x).any() for x in nothing)


@BOTH
@pytest.mark.parametrize("target", [-1, VOCAB_SIZE, PADDED_VOCAB_SIZE, 10_000])
def test_a_target_outside_the_vocabulary_is_an_infinite_loss(target, impl):
    hidden, head, targets, _ = make_inputs(20)
    total, *_ = run(hidden, head, targets.at[4].set(target), jnp.ones(20), impl=impl, **PLAIN, chunk_tokens=8)
    assert total == np.inf


@pytest.mark.parametrize(("spoilt", "soft_cap"), [(np.nan, None), (np.nan, 15.0), (np.inf, None)])
def test_a_hidden_that_is_not_finite_is_a_loss_that_is_not(spoilt, soft_cap):
    hidden, head, targets, _ = make_inputs(20)
    options = PLAIN | {"soft_cap": soft_cap}
    total, *_ = run(hidden.at[7, 3].set(spoilt), head, targets, jnp.ones(20), **options, chunk_tokens=8)
    assert not np.isfinite(total)


@pytest.mark.parametrize("soft_cap", [None, 15.0])
def test_logits_far_apart_do_not_overflow(soft_cap):
    hidden, head, targets, weights = make_inputs(37)
    options = PLAIN | {"soft_cap": soft_cap}
    # Only the padding rows of the head are large: they must not push the others out of float32's range.
    for inputs in ((100 * hidden, head), (hidden, head.at[VOCAB_SIZE:].set(1e4))):
        found = run(*inputs, targets, weights, **options, chunk_tokens=8)
        expected = oracle(*inputs, targets, weights, **options)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("soft_cap", [None, 15.0])
def test_bfloat16_hidden(soft_cap):
    inputs = make_inputs(37, dtype="bfloat16")
    options = PLAIN | {"soft_cap": soft_cap}
    found = run(*inputs, **options, chunk_tokens=16)
    assert [x.dtype.name for x in found] == ["float32", "float32", "bfloat16", "float32"]
    for ours, theirs in zip(found, oracle(*inputs, **options), strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=0.03, atol=0.1)


def test_gradients_scale_with_the_cotangent_and_none_flow_through_nll():
    hidden, head, targets, weights = make_inputs(20)

    def total(scale, hidden):
        return scale * softmax_cross_entropy(hidden, head, targets, weights, **PLAIN, chunk_tokens=8).total

    def nll(hidden):
        return softmax_cross_entropy(hidden, head, targets, weights, **PLAIN, chunk_tokens=8).nll

    single, triple = (jax.grad(total, argnums=1)(scale, hidden) for scale in (1.0, 3.0))
    np.testing.assert_allclose(triple, 3 * single, rtol=1e-6)
    assert np.abs(single).max() > 0
    assert not jax.grad(nll)(hidden).any()


def test_three_matrix_products_with_gradients_and_one_without():
    hidden, head, targets, weights = make_inputs(20)

    def total(hidden, head):
        return softmax_cross_entropy(hidden, head, targets, weights, **PLAIN, chunk_tokens=8).total

    assert str(jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(hidden, head)).count("dot_general[") == 3
    compiled = jax.jit(total).lower(hidden, head).compile().as_text()
    assert compiled is not None
    assert compiled.count(" dot(") == 1


WIDE_VOCAB, CHUNK = 4096, 128
LOGITS = 4 * CHUNK * WIDE_VOCAB  # bytes of a chunk's


def temp_bytes(tokens: int, *, soft_cap, vocab_size=WIDE_VOCAB, impl=softmax_cross_entropy) -> int:
    """What XLA sets aside for values and gradients, beside arguments and results."""
    abstract = (
        jax.ShapeDtypeStruct((tokens, WIDTH), jnp.float32),
        jax.ShapeDtypeStruct((WIDE_VOCAB, WIDTH), jnp.float32),
        jax.ShapeDtypeStruct((tokens,), jnp.int32),
        jax.ShapeDtypeStruct((tokens,), jnp.float32),
    )
    options = {"vocab_size": vocab_size, "soft_cap": soft_cap, "z_loss": 1e-4, "chunk_tokens": CHUNK}
    memory = run.lower(*abstract, impl=impl, **options).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


@pytest.mark.parametrize("soft_cap", [None, 15.0])
def test_memory_does_not_grow_with_tokens_times_vocabulary(soft_cap):
    growth = temp_bytes(8192, soft_cap=soft_cap) - temp_bytes(2048, soft_cap=soft_cap)
    assert growth < 8 * 4 * 6144 * WIDTH  # a few arrays like hidden
    reference = softmax_cross_entropy_reference
    all_logits = [temp_bytes(tokens, soft_cap=soft_cap, impl=reference) for tokens in (2048, 8192)]
    assert all_logits[1] - all_logits[0] > 4 * 6144 * WIDE_VOCAB


@pytest.mark.parametrize(
    ("soft_cap", "vocab_size", "buffers"),
    [
        (None, WIDE_VOCAB, 1),
        (15.0, WIDE_VOCAB, 1),
        (15.0, WIDE_VOCAB - 5, 1),
        (None, WIDE_VOCAB - 5, 2),  # the mask of the padding columns is an array of its own
    ],
)
def test_logits_exist_for_a_chunk_once(soft_cap, vocab_size, buffers):
    others = 4 * WIDTH * (4 * WIDE_VOCAB + 4 * 2048)  # the head, hidden and their gradients, some twice
    assert temp_bytes(2048, soft_cap=soft_cap, vocab_size=vocab_size) < buffers * LOGITS + others
    assert others < LOGITS


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_shard_map(check_vma):
    hidden, head, targets, weights = make_inputs(4, 10)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    rows = PartitionSpec("data")

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(rows, PartitionSpec(), rows, rows),
        out_specs=PartitionSpec(),
        check_vma=check_vma,
    )
    def total(hidden, head, targets, weights):
        loss = softmax_cross_entropy(hidden, head, targets, weights, **PLAIN, chunk_tokens=4)
        return jax.lax.psum(loss.total, "data")

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(hidden, head, targets, weights)
    expected = oracle(hidden, head, targets, weights, **PLAIN)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradients[0].reshape(-1, WIDTH), expected[2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradients[1], expected[3], rtol=1e-5, atol=1e-5)


def test_refusals_say_why():
    hidden, head, targets, weights = make_inputs(20)
    with pytest.raises(ValueError, match=r"weights \(19,\) do not fit"):
        softmax_cross_entropy(hidden, head, targets, weights[1:], **PLAIN, chunk_tokens=8)
    with pytest.raises(ValueError, match=r"vocab_size is 65; it must lie in 1\.\.64"):
        softmax_cross_entropy(hidden, head, targets, weights, **PLAIN | {"vocab_size": 65}, chunk_tokens=8)
    with pytest.raises(ValueError, match="chunk_tokens is 0"):
        softmax_cross_entropy(hidden, head, targets, weights, **PLAIN, chunk_tokens=0)
    with pytest.raises(ValueError, match=r"soft_cap is 0\.0; it must be positive, or None"):
        softmax_cross_entropy(
            hidden, head, targets, weights, vocab_size=60, soft_cap=0.0, z_loss=0.0, chunk_tokens=8
        )
