"""Every attention against its definition in float64 NumPy: values, gradients, memory, work."""

import functools
import logging

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from samosa_kernels import KeyRanges, attention, attention_chunked, causal_ranges
from samosa_kernels.attention import IMPLEMENTATIONS, resolve_implementation

implementations = pytest.mark.parametrize("impl", sorted(IMPLEMENTATIONS))


def seen_keys(lo: np.ndarray, hi: np.ndarray, window: int | None) -> np.ndarray:
    """(B, T, S) bool, as the contract says it."""
    T = lo.shape[1]
    query, key = np.arange(T)[:, None], np.arange(T)
    seen = (key >= lo[:, :, None]) & (key < hi[:, :, None]) & (key <= query)
    return seen if window is None else seen & (key > query - window)


def oracle(q, k, v, lo, hi, window, dout, dlse):
    """out, lse and the gradients in q, k, v, all float64, of sum(out * dout) + sum(lse * dlse)."""
    q, k, v, dout, dlse = (np.asarray(x, np.float64) for x in (q, k, v, dout, dlse))
    B, T, N, H = q.shape
    K = k.shape[2]
    k_all, v_all = np.repeat(k, N // K, 2), np.repeat(v, N // K, 2)
    seen = seen_keys(np.asarray(lo), np.asarray(hi), window)[:, None]
    scores = np.where(seen, np.einsum("btnh,bsnh->bnts", q, k_all) / np.sqrt(H), -np.inf)
    with np.errstate(divide="ignore"):
        highest = np.where(seen.any(-1), scores.max(-1), 0.0)
        weights = np.exp(scores - highest[..., None])
        lse = highest + np.log(weights.sum(-1))
    probs = weights / np.maximum(weights.sum(-1), 1e-300)[..., None]
    out = np.einsum("bnts,bsnh->btnh", probs, v_all)
    dprobs = np.einsum("btnh,bsnh->bnts", dout, v_all)
    along = (probs * dprobs).sum(-1, keepdims=True) - dlse.swapaxes(1, 2)[..., None]
    dscores = probs * (dprobs - along) / np.sqrt(H)
    dq = np.einsum("bnts,bsnh->btnh", dscores, k_all)
    dk = np.einsum("bnts,btnh->bsnh", dscores, q).reshape(B, T, K, N // K, H).sum(3)
    dv = np.einsum("bnts,btnh->bsnh", probs, dout).reshape(B, T, K, N // K, H).sum(3)
    return out, lse.swapaxes(1, 2), dq, dk, dv


@functools.partial(jax.jit, static_argnames=("window", "impl"))
def run(q, k, v, lo, hi, dout, dlse, *, window, impl):
    """out, lse and gradients by the implementation under test; dlse must be 0 where lse is -inf."""
    (out, lse), pull = jax.vjp(
        lambda q, k, v: tuple(attention(q, k, v, KeyRanges(lo, hi), window=window, impl=impl)), q, k, v
    )
    return out, lse, *pull((dout, dlse))


def make_inputs(B, T, N, K, H, dtype="float32", seed=0):
    """Queries, keys, values and cotangents; rows packed with documents and padded at the end."""
    rng = np.random.default_rng(seed)
    q, k, v, dout = (jnp.asarray(rng.normal(size=(B, T, n, H)), dtype) for n in (N, K, K, N))
    lo = np.zeros((B, T), np.int32)
    hi = np.tile(np.arange(1, T + 1, dtype=np.int32), (B, 1))
    for row in range(B):
        starts = np.sort(rng.integers(0, T, size=2 * row))
        for start in starts:
            lo[row, start:] = start
        padding = rng.integers(0, T // 4 + 1) * row
        if padding:
            lo[row, -padding:] = hi[row, -padding:] = 0
    dlse = np.where(hi > lo, 1.0, 0.0)[..., None] * rng.normal(size=(B, T, N))
    return q, k, v, jnp.asarray(lo), jnp.asarray(hi), dout, jnp.asarray(dlse, jnp.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16 queries, so that short rows already have many of them."""
    monkeypatch.setattr(attention_chunked, "MAX_BLOCK", 16)
    monkeypatch.setattr(attention_chunked, "MIN_BLOCK", 16)
    jax.clear_caches()


@pytest.mark.usefixtures("small_blocks")
@implementations
class TestEveryImplementation:
    @pytest.mark.parametrize(
        ("B", "T", "N", "K", "window"),
        [
            (2, 1, 2, 1, None),  # a single token
            (3, 7, 4, 2, None),  # less than a block
            (3, 53, 6, 2, None),  # blocks that do not divide T
            (2, 150, 3, 1, None),  # loops over blocks inside segments
            (2, 150, 2, 2, 9),  # a window shorter than a block, in loops
            (3, 53, 4, 1, 20),  # a window longer than a block
            (1, 20, 2, 2, 64),  # a window longer than the row
            (2, 20, 2, 1, 1),  # only itself
        ],
    )
    def test_values_and_gradients(self, impl, B, T, N, K, window):
        inputs = make_inputs(B, T, N, K, H=8)
        found = run(*inputs, window=window, impl=impl)
        q, k, v, lo, hi, dout, dlse = inputs
        expected = oracle(q, k, v, lo, hi, window, dout, dlse)
        for name, ours, theirs in zip(("out", "lse", "dq", "dk", "dv"), found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=2e-5, err_msg=name)
        if window is not None and window < T:
            without = oracle(q, k, v, lo, hi, None, dout, dlse)
            assert np.abs(without[0] - expected[0]).max() > 1e-2  # the window matters to this comparison
        if T > 1 and B > 1:
            plain = oracle(q, k, v, *causal_ranges(B, T), window, dout, dlse)
            assert window == 1 or np.abs(plain[0] - expected[0]).max() > 1e-2  # and so do the ranges

    def test_bfloat16(self, impl):
        inputs = make_inputs(2, 40, 4, 2, H=16, dtype="bfloat16")
        found = run(*inputs, window=None, impl=impl)
        assert [x.dtype.name for x in found] == ["bfloat16", "float32", *["bfloat16"] * 3]
        q, k, v, lo, hi, dout, dlse = inputs
        for ours, theirs in zip(found, oracle(q, k, v, lo, hi, None, dout, dlse), strict=True):
            np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, atol=0.06, rtol=0.03)

    def test_rows_without_keys(self, impl):
        q, k, v, lo, hi, dout, dlse = make_inputs(2, 20, 2, 1, H=4)
        hi = hi.at[0, 5].set(0).at[1].set(lo[1])
        out, lse, dq, dk, dv = run(q, k, v, lo, hi, dout, jnp.zeros_like(dlse), window=None, impl=impl)
        for empty in (out[0, 5], out[1], dq[0, 5], dq[1], dk[1], dv[1]):
            assert not np.asarray(empty).any()
        assert np.all(np.asarray(lse[1]) == -np.inf)
        assert np.all(np.asarray(lse[0, 5]) == -np.inf)
        assert all(np.isfinite(x).all() for x in (out, dq, dk, dv))
        assert np.abs(out[0, 6]).max() > 0

    def test_large_scores_do_not_overflow(self, impl):
        q, k, v, lo, hi, dout, dlse = make_inputs(2, 20, 2, 1, H=4)
        found = run(100 * q, 100 * k, v, lo, hi, dout, dlse, window=None, impl=impl)
        expected = oracle(100 * q, 100 * k, v, lo, hi, None, dout, dlse)
        np.testing.assert_allclose(found[0], expected[0], atol=1e-2)
        assert all(np.isfinite(x).all() for x in (found[0], *found[2:]))

    @settings(max_examples=30, deadline=None)
    @given(data=st.data())
    def test_any_ranges(self, impl, data):
        B, T = 2, 40
        bounds = st.lists(st.integers(-5, T + 5), min_size=B * T, max_size=B * T)
        lo, hi = (np.asarray(data.draw(bounds), np.int32).reshape(B, T) for _ in range(2))
        q, k, v, _, _, dout, dlse = make_inputs(B, T, 2, 1, H=4)
        dlse = dlse * np.any(seen_keys(lo, hi, 11), axis=-1, keepdims=True)
        found = run(q, k, v, lo, hi, dout, dlse, window=11, impl=impl)
        for ours, theirs in zip(found, oracle(q, k, v, lo, hi, 11, dout, dlse), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=2e-5)

    @pytest.mark.parametrize("check_vma", [True, False])
    def test_inside_shard_map(self, impl, check_vma):
        q, k, v, lo, hi, dout, dlse = make_inputs(4, 53, 2, 1, H=4)
        mesh = jax.make_mesh(
            (4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4]
        )
        rows = PartitionSpec("data")
        sharded = jax.shard_map(
            functools.partial(run, window=None, impl=impl),
            mesh=mesh,
            in_specs=rows,
            out_specs=rows,
            check_vma=check_vma,
        )
        found = sharded(q, k, v, lo, hi, dout, dlse)
        for ours, theirs in zip(found, oracle(q, k, v, lo, hi, None, dout, dlse), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=2e-5)


def matmul_flops(jaxpr) -> int:
    """Multiplications and additions of the matrix products, loops counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * int(np.prod([left[dim] for dim in contracted]))
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(
            matmul_flops(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params)
        )
    return total


def gradient_of(length: int, window: int | None, impl: str):
    """A function of (q, k, v) giving their gradients, and abstract arguments for it: B1 N4 K2 H16."""

    def loss(q, k, v):
        return jnp.sum(attention(q, k, v, causal_ranges(1, length), window=window, impl=impl).out)

    abstract = [jax.ShapeDtypeStruct((1, length, heads, 16), jnp.float32) for heads in (4, 2, 2)]
    return jax.grad(loss, argnums=(0, 1, 2)), abstract


def work(length: int, window: int | None, impl: str) -> int:
    function, abstract = gradient_of(length, window, impl)
    return matmul_flops(jax.make_jaxpr(function)(*abstract).jaxpr)


def temp_bytes(length: int, window: int | None, impl: str) -> int:
    function, abstract = gradient_of(length, window, impl)
    memory = jax.jit(function).lower(*abstract).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def test_chunked_skips_what_no_query_sees():
    everything = 7 * 2 * 4 * 4096**2 * 16  # seven products with all T * S scores
    assert work(4096, None, "chunked") < 0.6 * everything
    assert (
        work(4096, 512, "chunked") < 0.17 * everything
    )  # (512 + 128) / 4096, and no more than a block too many
    assert work(8192, 512, "chunked") < 2.1 * work(4096, 512, "chunked")
    assert work(4096, None, "reference") > 0.8 * everything


def test_chunked_memory_grows_with_length_and_window(monkeypatch):
    monkeypatch.setattr(attention_chunked, "MAX_SEGMENTS", 2)  # less to compile; memory hardly depends on it
    full = {length: temp_bytes(length, None, "chunked") for length in (2048, 8192)}
    assert full[8192] < 6 * full[2048]  # quadratic would be 16
    assert full[8192] < 0.2 * 4 * 4 * 8192**2  # of the float32 scores
    assert temp_bytes(8192, 256, "chunked") < 0.5 * full[8192]
    assert temp_bytes(2048, None, "reference") > 4 * 4 * 2048**2


def test_saved_output_spares_the_forward():
    def layer(q, k, v):
        return jnp.sum(jnp.sin(attention(q, k, v, causal_ranges(1, 32), window=None, impl="chunked").out))

    policy = jax.checkpoint_policies.save_only_these_names("attn_out", "attn_lse")
    saving, forgetting = jax.checkpoint(layer, policy=policy), jax.checkpoint(layer)
    q, k, v, *_ = make_inputs(1, 32, 2, 1, H=4)

    def products(function):
        return matmul_flops(jax.make_jaxpr(jax.grad(function))(q, k, v).jaxpr)

    assert products(saving) == products(layer)
    assert products(forgetting) > products(saving)


def test_auto_says_once_what_it_chose(caplog):
    resolve_implementation.cache_clear()
    with caplog.at_level(logging.INFO, logger="samosa_kernels.attention"):
        assert resolve_implementation("auto", "cpu") == "chunked"
        resolve_implementation("auto", "cpu")
    assert [record.getMessage() for record in caplog.records] == [
        "attention: auto chose chunked on cpu: scores stay in cache, blocks above the diagonal are skipped"
    ]


def test_refusals_say_why():
    q, k, v, lo, hi, *_ = make_inputs(1, 8, 4, 2, H=4)
    ranges = KeyRanges(lo, hi)
    with pytest.raises(ValueError, match="impl is 'flash'; use auto or one of chunked, reference"):
        attention(q, k, v, ranges, window=None, impl="flash")
    with pytest.raises(ValueError, match="not 'metal'"):
        resolve_implementation("auto", "metal")
    with pytest.raises(ValueError, match="N a multiple of K"):
        attention(q[:, :, :3], k, v, ranges, window=None)
    with pytest.raises(ValueError, match="ranges"):
        attention(q, k, v, KeyRanges(lo[:, 1:], hi), window=None)
    with pytest.raises(ValueError, match="all float32 or all bfloat16"):
        attention(q, k.astype(jnp.bfloat16), v, ranges, window=None)
    with pytest.raises(ValueError, match="window is 0"):
        attention(q, k, v, ranges, window=0)
