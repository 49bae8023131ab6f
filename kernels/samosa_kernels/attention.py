"""`attention`: grouped-query causal attention over key ranges, by what suits the device."""

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from samosa_kernels.attention_chunked import attention_chunked
from samosa_kernels.attention_reference import attention_reference
from samosa_kernels.key_ranges import KeyRanges


class AttentionOutput(NamedTuple):
    out: jax.Array  # (B, T, N, H), dtype of the queries
    lse: jax.Array  # (B, T, N), float32: log-sum-exp of the scaled scores; -inf where no key is seen


IMPLEMENTATIONS: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {
    "reference": attention_reference,
    "chunked": attention_chunked,
}

# What "auto" stands for, by jax.default_backend(): the implementation and why.
AUTO = {
    "cpu": ("chunked", "scores stay in cache, blocks above the diagonal are skipped"),
    "gpu": ("chunked", "the one here that needs no (T, S) array"),
    "tpu": ("chunked", "the one here that needs no (T, S) array"),
}

SUPPORTED_DTYPES = (jnp.float32, jnp.bfloat16)

logger = logging.getLogger(__name__)


@functools.cache
def resolve_implementation(impl: str, backend: str) -> str:
    """The name that `impl` stands for on `backend`, or ValueError; says once what "auto" chose."""
    if impl in IMPLEMENTATIONS:
        return impl
    if impl != "auto":
        raise ValueError(
            f"attention impl is {impl!r}; use auto or one of {', '.join(sorted(IMPLEMENTATIONS))}"
        )
    if backend not in AUTO:
        raise ValueError(
            f"attention impl=auto knows {', '.join(AUTO)}, not {backend!r}; name an implementation"
        )
    chosen, reason = AUTO[backend]
    logger.info("attention: auto chose %s on %s: %s", chosen, backend, reason)
    return chosen


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ranges: KeyRanges,
    *,
    window: int | None,
    impl: str = "auto",
) -> AttentionOutput:
    """softmax(q k^T / sqrt(H)) v, the query at i seeing keys s of lo[i] <= s < hi[i] and i - window < s <= i.

    N is a multiple of K: query head n reads key head n // (N / K). S equals T. `window` (static) counts the
    query itself; None: no limit. A query that sees no key has output 0, lse -inf and no gradient. float32 or
    bfloat16; softmax in float32. In a rematerialised layer the names "attn_out" and "attn_lse" mark what to
    save so that the backward runs no forward again.

    Knows no mesh: under automatic sharding the loop over rows would gather them, so call it inside
    jax.shard_map, which it needs no communication in. Raises ValueError on shapes, dtypes or an `impl`
    that cannot run, saying why.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    if k_BSKH.shape != (B, T, K, H) or v_BSKH.shape != k_BSKH.shape or N % K:
        raise ValueError(
            f"attention got q {q_BTNH.shape}, k {k_BSKH.shape}, v {v_BSKH.shape}; expected (B, T, N, H) "
            "and twice (B, T, K, H) with N a multiple of K"
        )
    if ranges.lo.shape != (B, T) or ranges.hi.shape != (B, T):
        raise ValueError(
            f"attention got ranges {ranges.lo.shape}, {ranges.hi.shape}; expected twice {(B, T)}"
        )
    if not q_BTNH.dtype == k_BSKH.dtype == v_BSKH.dtype or q_BTNH.dtype not in SUPPORTED_DTYPES:
        raise ValueError(
            f"attention got q {q_BTNH.dtype}, k {k_BSKH.dtype}, v {v_BSKH.dtype}; "
            "expected all float32 or all bfloat16"
        )
    if window is not None and window < 1:
        raise ValueError(f"attention window is {window}; it must be at least 1, or None for no limit")
    run = IMPLEMENTATIONS[resolve_implementation(impl, jax.default_backend())]
    out, lse = run(q_BTNH, k_BSKH, v_BSKH, ranges, window=window)
    return AttentionOutput(out=out, lse=lse)
