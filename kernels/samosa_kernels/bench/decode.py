"""Decoding: one query for each row against a cache, at every step one key and value longer."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from samosa_kernels.attention.decode import (
    DECODE_IMPLEMENTATIONS,
    DecodeProblem,
    decode_attention,
    resolve_decode,
)
from samosa_kernels.bench.measure import Candidate, Comparison, Limits, prepare_jax
from samosa_kernels.device import current_device

STEPS = 16  # in one program, as generation runs them: a step alone would time its dispatch


def comparisons(
    *,
    lengths: tuple[int, ...],
    head_dims: tuple[int, ...],
    heads: tuple[tuple[int, int], ...],
    batches: tuple[int, ...],
    dtype: str,
    impls: tuple[str, ...] | None,
    limits: Limits,
) -> Iterator[Comparison]:
    """One for every combination; length is that of the cache, which is full but for the steps to come."""
    for head_dim in head_dims:
        for N, K in heads:
            for batch in batches:
                for length in lengths:
                    shape = (batch, K, length, head_dim)
                    problem = DecodeProblem(
                        device=current_device(), dtype=dtype, head_dim=head_dim, interpret=False
                    )
                    auto = resolve_decode("auto", problem)
                    candidates = tuple(
                        Candidate(
                            impl,
                            functools.partial(_prepare, impl, shape, N, dtype, limits),
                            is_auto=impl == auto,
                        )
                        for impl in DECODE_IMPLEMENTATIONS
                        if impls is None or impl in impls
                    )
                    labels: dict[str, str | int] = {
                        "what": "decode",
                        "length": length,
                        "batch": batch,
                        "head_dim": head_dim,
                        "heads": f"{N}/{K}",
                        "mask": "cache",
                        "pass": "forward",
                        "dtype": dtype,
                    }
                    seen = mean_keys_seen(length)
                    cache_bytes = round(2 * batch * K * seen * head_dim * jnp.dtype(dtype).itemsize)
                    flops = round(4 * head_dim * N * batch * seen)
                    yield Comparison(labels, flops, cache_bytes, "xla", candidates)


def first_position(length: int) -> int:
    """Of the steps: where the first one writes its key."""
    return max(0, length - STEPS)


def mean_keys_seen(length: int) -> float:
    """By a query, over the steps of a call."""
    return sum(min(first_position(length) + step + 1, length) for step in range(STEPS)) / STEPS


def _prepare(impl: str, shape: tuple[int, int, int, int], num_heads: int, dtype: str, limits: Limits):
    B, K, S, H = shape
    rng = np.random.default_rng(0)
    k_BKSH, v_BKSH, q_BNH = (
        jnp.asarray(rng.standard_normal(shape, np.float32), dtype)
        for shape in (shape, shape, (B, num_heads, H))
    )
    lo_B = jnp.zeros(B, jnp.int32)

    def steps(k_BKSH, v_BKSH, q_BNH, lo_B):
        def step(index: jax.Array, carry):
            k_BKSH, v_BKSH, q_BNH = carry
            position = jnp.minimum(first_position(S) + index, S - 1)
            # The cache must change, or its copies could be kept.
            new_BK1H = q_BNH.reshape(B, K, -1, H)[:, :, :1]
            k_BKSH, v_BKSH = (
                lax.dynamic_update_slice_in_dim(cache, new_BK1H, position, axis=2)
                for cache in (k_BKSH, v_BKSH)
            )
            hi_B = jnp.full(B, position + 1, jnp.int32)
            return k_BKSH, v_BKSH, decode_attention(q_BNH, k_BKSH, v_BKSH, lo_B, hi_B, impl=impl)

        return lax.fori_loop(0, STEPS, step, (k_BKSH, v_BKSH, q_BNH))

    return prepare_jax(steps, (k_BKSH, v_BKSH, q_BNH, lo_B), limits, carry=3, steps=STEPS)
