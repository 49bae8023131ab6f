"""Per-token negative log-likelihood against float64 NumPy: values, gradients, memory, sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from samosa_kernels import softmax_cross_entropy, token_nll

VOCAB_SIZE, PADDED_VOCAB_SIZE, WIDTH = 60, 64, 16
PLAIN = {"vocab_size": VOCAB_SIZE, "soft_cap": None}


def oracle(hidden, head, targets, cotangents, *, vocab_size, soft_cap):
    """nll of every token, and the gradients in hidden and head under the cotangents, all float64."""
    hidden, head, cotangents = (np.asarray(x, np.float64) for x in (hidden, head, cotangents))
    raw = hidden @ head[:vocab_size].T
    logits = raw if soft_cap is None else soft_cap * np.tanh(raw / soft_cap)
    lse = np.logaddexp.reduce(logits, axis=1)
    rows = np.arange(len(targets))
    dlogits = np.exp(logits - lse[:, None])
    dlogits[rows, targets] -= 1
    dlogits *= cotangents[:, None]
    if soft_cap is not None:
        dlogits *= 1 - (logits / soft_cap) ** 2
    dhead = np.zeros_like(head)
    dhead[:vocab_size] = dlogits.T @ hidden
    return lse - logits[rows, targets], dlogits @ head[:vocab_size], dhead


@functools.partial(jax.jit, static_argnames=("vocab_size", "soft_cap", "chunk_tokens"))
def run(hidden, head, targets, cotangents, **options):
    """nll, and its gradients in hidden and head under the cotangents."""
    nll, pull_back = jax.vjp(lambda hidden, head: token_nll(hidden, head, targets, **options), hidden, head)
    return nll, *pull_back(cotangents)


def make_inputs(num_tokens: int, *, dtype="float32", seed: int = 0):
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(num_tokens, WIDTH)), dtype)
    head = jnp.asarray(rng.normal(size=(PADDED_VOCAB_SIZE, WIDTH)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, VOCAB_SIZE, size=num_tokens), jnp.int32)
    cotangents = jnp.asarray(rng.normal(size=num_tokens), jnp.float32)
    return hidden, head, targets, cotangents


@pytest.mark.parametrize("chunk_tokens", [8, 1000])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"soft_cap": 5.0},
        {"vocab_size": PADDED_VOCAB_SIZE},
        {"soft_cap": 5.0, "vocab_size": PADDED_VOCAB_SIZE},
    ],
    ids=str,
)
def test_values_and_gradients(change, chunk_tokens):
    inputs = make_inputs(37)
    options = PLAIN | change
    found = run(*inputs, **options, chunk_tokens=chunk_tokens)
    expected = oracle(*inputs, **options)
    for name, ours, theirs in zip(("nll", "dhidden", "dhead"), found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)
    if change:
        plain = oracle(*inputs, **PLAIN)
        assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(plain, expected, strict=True))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), num_tokens=st.sampled_from([1, 5, 6, 21]))
def test_any_number_of_tokens_and_any_cotangents(seed, num_tokens):
    inputs = make_inputs(num_tokens, seed=seed)
    found = run(*inputs, **PLAIN, chunk_tokens=5)
    for ours, theirs in zip(found, oracle(*inputs, **PLAIN), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("soft_cap", [None, 15.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_under_equal_cotangents_it_is_the_gradient_of_the_summed_cross_entropy(dtype, soft_cap):
    hidden, head, targets, _ = make_inputs(37, dtype=dtype)
    options = PLAIN | {"soft_cap": soft_cap, "chunk_tokens": 8}

    def summed(hidden, head):
        return softmax_cross_entropy(hidden, head, targets, jnp.full(37, 0.5), z_loss=0.0, **options).total

    total, gradients = jax.jit(jax.value_and_grad(summed, argnums=(0, 1)))(hidden, head)
    nll, *found = run(hidden, head, targets, jnp.full(37, 0.5), **options)
    np.testing.assert_allclose(0.5 * nll.sum(), total, rtol=1e-6)
    for ours, theirs in zip(found, gradients, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    unequal = run(hidden, head, targets, jnp.linspace(0, 1, 37), **options)
    assert np.abs(unequal[2] - gradients[1]).max() > 0.1


@pytest.mark.parametrize("soft_cap", [None, 15.0])
def test_bfloat16_hidden(soft_cap):
    inputs = make_inputs(37, dtype="bfloat16")
    options = PLAIN | {"soft_cap": soft_cap}
    found = run(*inputs, **options, chunk_tokens=16)
    assert [x.dtype.name for x in found] == ["float32", "bfloat16", "float32"]
    for ours, theirs in zip(found, oracle(*inputs, **options), strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=0.03, atol=0.1)


def test_tokens_without_cotangent_leave_no_trace():
    hidden, head, targets, cotangents = make_inputs(20)
    cotangents = cotangents.at[3].set(0).at[19].set(0)
    options = PLAIN | {"chunk_tokens": 8}
    clean = run(hidden, head, targets, cotangents, **options)
    spoilt = hidden.at[3].set(jnp.nan).at[19].set(jnp.inf)
    found = run(spoilt, head, targets.at[3].set(-1).at[19].set(10_000), cotangents, **options)
    for ours, theirs in zip(found[1:], clean[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not found[1][3].any()
    assert np.abs(clean[1][4]).max() > 0


@pytest.mark.parametrize("soft_cap", [None, 15.0])
@pytest.mark.parametrize("target", [-1, VOCAB_SIZE, PADDED_VOCAB_SIZE, 10_000])
def test_a_target_outside_the_vocabulary_costs_infinity(target, soft_cap):
    hidden, head, targets, cotangents = make_inputs(20)
    options = PLAIN | {"soft_cap": soft_cap, "chunk_tokens": 8}
    nll, *_ = run(hidden, head, targets.at[4].set(target), cotangents, **options)
    assert nll[4] == np.inf
    assert np.isfinite(np.delete(nll, 4)).all()


@pytest.mark.parametrize("soft_cap", [None, 15.0])
def test_logits_far_apart_do_not_overflow(soft_cap):
    hidden, head, targets, cotangents = make_inputs(37)
    options = PLAIN | {"soft_cap": soft_cap}
    # Only the padding rows of the head are large: they must not push the others out of float32's range.
    for inputs in ((100 * hidden, head), (hidden, head.at[VOCAB_SIZE:].set(1e4))):
        found = run(*inputs, targets, cotangents, **options, chunk_tokens=8)
        expected = oracle(*inputs, targets, cotangents, **options)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_leading_dimensions_are_kept():
    hidden, head, targets, cotangents = make_inputs(24)
    flat = run(hidden, head, targets, cotangents, **PLAIN, chunk_tokens=5)
    folded = run(
        hidden.reshape(2, 3, 4, WIDTH),
        head,
        targets.reshape(2, 3, 4),
        cotangents.reshape(2, 3, 4),
        **PLAIN,
        chunk_tokens=5,
    )
    assert folded[0].shape == (2, 3, 4)
    for ours, theirs in zip(folded, flat, strict=True):
        np.testing.assert_array_equal(np.ravel(ours), np.ravel(theirs))


def test_one_matrix_product_forward_and_four_with_gradients():
    hidden, head, targets, cotangents = make_inputs(20)
    options = PLAIN | {"chunk_tokens": 8}
    forward = jax.jit(functools.partial(token_nll, **options)).lower(hidden, head, targets).compile()
    assert (forward.as_text() or "").count(" dot(") == 1
    both = run.lower(hidden, head, targets, cotangents, **options).compile()
    assert (both.as_text() or "").count(" dot(") == 4


WIDE_VOCAB, CHUNK = 4096, 128


def temp_bytes(tokens: int, soft_cap: float | None) -> int:
    """What XLA sets aside for values and gradients, beside arguments and results."""
    abstract = (
        jax.ShapeDtypeStruct((tokens, WIDTH), jnp.float32),
        jax.ShapeDtypeStruct((WIDE_VOCAB, WIDTH), jnp.float32),
        jax.ShapeDtypeStruct((tokens,), jnp.int32),
        jax.ShapeDtypeStruct((tokens,), jnp.float32),
    )
    options = {"vocab_size": WIDE_VOCAB - 5, "soft_cap": soft_cap, "chunk_tokens": CHUNK}
    memory = run.lower(*abstract, **options).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


@pytest.mark.parametrize("soft_cap", [None, 15.0])
def test_memory_is_that_of_a_chunk(soft_cap):
    small, large = temp_bytes(2048, soft_cap), temp_bytes(8192, soft_cap)
    assert large - small < 8 * 4 * 6144 * WIDTH  # a few arrays like hidden
    assert large < 4 * 8192 * WIDE_VOCAB / 8  # all logits would take eight times as much
    chunk, others = 4 * CHUNK * WIDE_VOCAB, 4 * WIDTH * (4 * WIDE_VOCAB + 4 * 2048)
    assert small < 2 * chunk + others
    assert others < chunk


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_shard_map(check_vma):
    hidden, head, targets, cotangents = make_inputs(40)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    rows = PartitionSpec("data")
    sharded = jax.shard_map(
        functools.partial(token_nll, **PLAIN, chunk_tokens=4),
        mesh=mesh,
        in_specs=(rows, PartitionSpec(), rows),
        out_specs=rows,
        check_vma=check_vma,
    )

    @jax.jit
    def run_sharded(hidden, head):
        nll, pull_back = jax.vjp(lambda hidden, head: sharded(hidden, head, targets), hidden, head)
        return nll, *pull_back(cotangents)

    expected = oracle(hidden, head, targets, cotangents, **PLAIN)
    for ours, theirs in zip(run_sharded(hidden, head), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_refusals_say_why():
    hidden, head, targets, _ = make_inputs(20)
    with pytest.raises(ValueError, match=r"targets \(19,\) .* do not fit"):
        token_nll(hidden, head, targets[1:], **PLAIN, chunk_tokens=8)
    with pytest.raises(ValueError, match=r"head_VD \(64, 15\)"):
        token_nll(hidden, head[:, 1:], targets, **PLAIN, chunk_tokens=8)
    with pytest.raises(ValueError, match=r"vocab_size is 65; it must lie in 1\.\.64"):
        token_nll(hidden, head, targets, vocab_size=65, soft_cap=None, chunk_tokens=8)
    with pytest.raises(ValueError, match="chunk_tokens is 0"):
        token_nll(hidden, head, targets, **PLAIN, chunk_tokens=0)
