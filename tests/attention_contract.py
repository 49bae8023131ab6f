"""What every implementation of attention must do, each against its definition in float64 NumPy.

A subclass of AttentionContract names an implementation and the sizes that try it: several tiles, odd ends.
"""

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from samosa_kernels import KeyRanges, attention, causal_ranges


class Case(NamedTuple):
    B: int
    T: int
    N: int
    K: int
    window: int | None = None
    S: int | None = None  # keys; None: as many as queries

    @property
    def name(self) -> str:
        return f"B{self.B}T{self.T}N{self.N}K{self.K}W{self.window or 0}" + (f"S{self.S}" if self.S else "")


def seen_keys(lo: np.ndarray, hi: np.ndarray, window: int | None, num_keys: int) -> np.ndarray:
    """(B, T, S) bool, as the contract says it."""
    T = lo.shape[1]
    query, key = np.arange(T)[:, None], np.arange(num_keys)
    seen = (key >= lo[:, :, None]) & (key < hi[:, :, None])
    if num_keys == T:
        seen &= key <= query
    return seen if window is None else seen & (key > query - window)


def oracle(q, k, v, lo, hi, window, dout, dlse):
    """out, lse and the gradients in q, k, v, all float64, of sum(out * dout) + sum(lse * dlse)."""
    q, k, v, dout, dlse = (np.asarray(x, np.float64) for x in (q, k, v, dout, dlse))
    B, _, N, H = q.shape
    S, K = k.shape[1:3]
    k_all, v_all = np.repeat(k, N // K, 2), np.repeat(v, N // K, 2)
    seen = seen_keys(np.asarray(lo), np.asarray(hi), window, S)[:, None]
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
    dk = np.einsum("bnts,btnh->bsnh", dscores, q).reshape(B, S, K, N // K, H).sum(3)
    dv = np.einsum("bnts,btnh->bsnh", probs, dout).reshape(B, S, K, N // K, H).sum(3)
    return out, lse.swapaxes(1, 2), dq, dk, dv


@functools.partial(jax.jit, static_argnames=("window", "impl", "interpret"))
def run(q, k, v, lo, hi, dout, dlse, *, window, impl, interpret=False):
    """out, lse and gradients by the implementation under test; dlse must be 0 where lse is -inf."""

    def outputs(q, k, v):
        return tuple(attention(q, k, v, KeyRanges(lo, hi), window=window, impl=impl, interpret=interpret))

    (out, lse), pull = jax.vjp(outputs, q, k, v)
    return out, lse, *pull((dout, dlse))


def make_inputs(B, T, N, K, H, *, S=None, dtype="float32", seed=0):
    """Queries, keys, values and cotangents; rows packed with documents and padded at the end.

    With S keys: the queries come after S - T others.
    """
    rng = np.random.default_rng(seed)
    S = T if S is None else S
    q, k, v, dout = (
        jnp.asarray(rng.normal(size=(B, n, m, H)), dtype) for n, m in ((T, N), (S, K), (S, K), (T, N))
    )
    lo = np.zeros((B, T), np.int32)
    hi = np.tile(np.arange(1, T + 1, dtype=np.int32), (B, 1)) + max(0, S - T)
    for row in range(B):
        starts = np.sort(rng.integers(0, T, size=2 * row))
        for start in starts:
            lo[row, start:] = start
        padding = rng.integers(0, T // 4 + 1) * row
        if padding:
            lo[row, -padding:] = hi[row, -padding:] = 0
    hi = np.minimum(hi, S)
    dlse = np.where(hi > lo, 1.0, 0.0)[..., None] * rng.normal(size=(B, T, N))
    return q, k, v, jnp.asarray(lo), jnp.asarray(hi), dout, jnp.asarray(dlse, jnp.float32)


class AttentionContract:
    """Subclasses, named Test..., set these."""

    impl: ClassVar[str]
    cases: ClassVar[tuple[Case, ...]]  # at least one with a window shorter than T, one with B > 1
    small: ClassVar[Case]  # for the tests of one property each: B 2, a few tiles, no window
    interpret: ClassVar[bool] = False
    head_dims: ClassVar[tuple[int, ...]] = (8,)
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    max_examples: ClassVar[int] = 30  # of random ranges
    # Largest difference to float64, absolute and relative, by dtype.
    tolerances: ClassVar[dict[str, tuple[float, float]]] = {"float32": (2e-5, 2e-5), "bfloat16": (0.06, 0.03)}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        cls: Any = metafunc.cls
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", cls.cases, ids=lambda case: case.name)
        if "dtype" in metafunc.fixturenames:
            metafunc.parametrize("dtype", cls.dtypes)
        if "head_dim" in metafunc.fixturenames:
            metafunc.parametrize("head_dim", cls.head_dims)

    def inputs(self, case: Case, *, head_dim: int | None = None, dtype: str | None = None):
        H = head_dim or self.head_dims[0]
        B, T, N, K, _, S = case
        return make_inputs(B, T, N, K, H, S=S, dtype=dtype or self.dtypes[0])

    def run(self, inputs, *, window=None):
        return run(*inputs, window=window, impl=self.impl, interpret=self.interpret)

    def assert_close(self, found, expected, dtype: str | None = None) -> None:
        atol, rtol = self.tolerances[dtype or self.dtypes[0]]
        for name, ours, theirs in zip(("out", "lse", "dq", "dk", "dv"), found, expected, strict=True):
            np.testing.assert_allclose(
                np.asarray(ours, np.float64), theirs, atol=atol, rtol=rtol, err_msg=name
            )

    def test_values_and_gradients(self, case: Case):
        inputs = self.inputs(case)
        q, k, v, lo, hi, dout, dlse = inputs
        expected = oracle(q, k, v, lo, hi, case.window, dout, dlse)
        self.assert_close(self.run(inputs, window=case.window), expected)
        if case.window is not None and case.window < case.T:
            without = oracle(q, k, v, lo, hi, None, dout, dlse)
            assert np.abs(without[0] - expected[0]).max() > 1e-2  # the window matters to this comparison
        if case.T > 1 and case.B > 1 and case.S is None:
            plain = oracle(q, k, v, *causal_ranges(case.B, case.T), case.window, dout, dlse)
            assert case.window == 1 or np.abs(plain[0] - expected[0]).max() > 1e-2  # and so do the ranges

    def test_every_dtype_and_head_width(self, dtype: str, head_dim: int):
        inputs = self.inputs(self.small, head_dim=head_dim, dtype=dtype)
        found = self.run(inputs)
        assert [x.dtype.name for x in found] == [dtype, "float32", dtype, dtype, dtype]
        q, k, v, lo, hi, dout, dlse = inputs
        self.assert_close(found, oracle(q, k, v, lo, hi, None, dout, dlse), dtype)

    def test_plain_causal(self):
        q, k, v, _, _, dout, _ = self.inputs(self.small)
        B, T = q.shape[:2]

        def values(q, k, v):
            return attention(q, k, v, None, window=None, impl=self.impl, interpret=self.interpret).out

        out, pull = jax.vjp(jax.jit(values), q, k, v)
        zeros = np.zeros(q.shape[:3])
        expected = oracle(q, k, v, *causal_ranges(B, T), None, dout, zeros)
        atol, rtol = self.tolerances[self.dtypes[0]]
        for ours, theirs in zip((out, *pull(dout)), (expected[0], *expected[2:]), strict=True):
            np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, atol=atol, rtol=rtol)

    def test_rows_without_keys(self):
        q, k, v, lo, hi, dout, dlse = self.inputs(self.small)
        hi = hi.at[0, 5].set(0).at[1].set(lo[1])
        out, lse, dq, dk, dv = self.run((q, k, v, lo, hi, dout, jnp.zeros_like(dlse)))
        for empty in (out[0, 5], out[1], dq[0, 5], dq[1], dk[1], dv[1]):
            assert not np.asarray(empty).any()
        assert np.all(np.asarray(lse[1]) == -np.inf)
        assert np.all(np.asarray(lse[0, 5]) == -np.inf)
        assert all(np.isfinite(x).all() for x in (out, dq, dk, dv))
        assert np.abs(out[0, 6]).max() > 0

    def test_large_scores_do_not_overflow(self):
        q, k, v, lo, hi, dout, dlse = self.inputs(self.small)
        found = self.run((100 * q, 100 * k, v, lo, hi, dout, dlse))
        expected = oracle(100 * q, 100 * k, v, lo, hi, None, dout, dlse)
        np.testing.assert_allclose(np.asarray(found[0], np.float64), expected[0], atol=2e-2, rtol=1e-2)
        assert all(np.isfinite(x).all() for x in (found[0], *found[2:]))

    def test_any_ranges(self):
        """Bounds in any order, out of bounds too: traced ranges cannot be refused, so they must be right."""
        B, T, *_ = self.small
        bounds = st.lists(st.integers(-5, T + 5), min_size=B * T, max_size=B * T)

        @settings(max_examples=self.max_examples)
        @given(lows=bounds, highs=bounds)
        def holds(lows, highs):
            lo, hi = (np.asarray(values, np.int32).reshape(B, T) for values in (lows, highs))
            q, k, v, _, _, dout, dlse = self.inputs(self.small)
            dlse = dlse * np.any(seen_keys(lo, hi, 11, T), axis=-1, keepdims=True)
            found = self.run((q, k, v, lo, hi, dout, dlse), window=11)
            self.assert_close(found, oracle(q, k, v, lo, hi, 11, dout, dlse))

        holds()

    @pytest.mark.parametrize("check_vma", [True, False])
    def test_inside_shard_map(self, check_vma: bool):
        B, T, N, K, *_ = self.small
        q, k, v, lo, hi, dout, dlse = self.inputs(Case(2 * B, T, N, K))
        mesh = jax.make_mesh(
            (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
        )
        rows = PartitionSpec("data")
        sharded = jax.shard_map(
            functools.partial(run, window=None, impl=self.impl, interpret=self.interpret),
            mesh=mesh,
            in_specs=rows,
            out_specs=rows,
            check_vma=check_vma,
        )
        self.assert_close(sharded(q, k, v, lo, hi, dout, dlse), oracle(q, k, v, lo, hi, None, dout, dlse))
