"""Attention: which masks, how much work they leave, and who computes it."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samosa_kernels.attention import (
    IMPLEMENTATIONS,
    KeyRanges,
    MaskShape,
    attention,
    causal_ranges,
    resolve_implementation,
    training_problem,
)
from samosa_kernels.attention.ranges import effective_ranges
from samosa_kernels.bench import torch_attention
from samosa_kernels.bench.measure import Candidate, Comparison, Limits, prepare_jax
from samosa_kernels.device import current_device

PASSES = ("forward", "forward+backward")
PLAIN = ("xla", "jax_nn")  # what JAX offers without this library


class Mask(NamedTuple):
    """causal, window:W or documents:L, the mean length of a row's documents."""

    kind: str
    size: int | None = None

    @property
    def name(self) -> str:
        return self.kind if self.size is None else f"{self.kind} {self.size}"

    @property
    def window(self) -> int | None:
        return self.size if self.kind == "window" else None


def parse_mask(text: str) -> Mask:
    kind, _, size = text.partition(":")
    if kind == "causal" and not size:
        return Mask("causal")
    if kind in ("window", "documents") and size.isdecimal() and int(size) > 0:
        return Mask(kind, int(size))
    raise ValueError(f"{text!r} is no mask; use causal, window:1024 or documents:800")


class AttentionCase(NamedTuple):
    length: int
    head_dim: int
    heads: tuple[int, int]  # of queries, of keys
    mask: Mask
    direction: str  # one of PASSES
    batch: int
    dtype: str

    def ranges(self) -> KeyRanges:
        """What every query sees, as int32 NumPy (B, T), causality and window folded in."""
        shape = (self.batch, self.length)
        hi = np.broadcast_to(np.arange(1, self.length + 1, dtype=np.int32), shape)
        lo = np.zeros(shape, np.int32)
        if self.mask.kind == "documents":
            rng = np.random.default_rng(0)
            for row in lo:
                starts = rng.random(self.length) < 1 / (self.mask.size or 1)
                row[:] = np.maximum.accumulate(np.where(starts, np.arange(self.length), 0))
        if self.mask.window is not None:
            lo = np.maximum(lo, hi - self.mask.window)
        return KeyRanges(lo=jnp.asarray(lo), hi=jnp.asarray(hi))

    def flops(self) -> int:
        """Operations of the pairs of query and key that are seen: two products forward, five backward."""
        lo, hi = (np.asarray(bound, np.int64) for bound in self.ranges())
        pairs = int(np.maximum(hi - lo, 0).sum())
        forward = 4 * self.head_dim * self.heads[0] * pairs
        return forward if self.direction == "forward" else forward + forward * 5 // 2

    def inputs(self) -> tuple[Any, ...]:
        """q, k, v, the gradient of the output, and the ranges: normal numbers, on the device."""
        rng = np.random.default_rng(1)
        N, K = self.heads
        arrays = (
            jnp.asarray(
                rng.standard_normal((self.batch, self.length, heads, self.head_dim), np.float32), self.dtype
            )
            for heads in (N, K, K, N)
        )
        return *arrays, self.ranges()


def comparisons(
    *,
    lengths: tuple[int, ...],
    head_dims: tuple[int, ...],
    heads: tuple[tuple[int, int], ...],
    masks: tuple[Mask, ...],
    passes: tuple[str, ...],
    tokens: int,
    dtype: str,
    impls: tuple[str, ...] | None,
    torch: bool,
    limits: Limits,
) -> Iterator[Comparison]:
    """One for every combination, with a batch of about `tokens` tokens."""
    for head_dim in head_dims:
        for pair in heads:
            for direction in passes:
                for mask in masks:
                    for length in lengths:
                        batch = max(1, tokens // length)
                        case = AttentionCase(length, head_dim, pair, mask, direction, batch, dtype)
                        yield _comparison(case, impls=impls, torch=torch, limits=limits)


def implementation_names(torch: bool) -> tuple[str, ...]:
    return *PLAIN, *IMPLEMENTATIONS, *(torch_attention.BACKENDS if torch else ())


def _comparison(case: AttentionCase, *, impls, torch: bool, limits: Limits) -> Comparison:
    inputs = functools.cache(case.inputs)  # made when the first candidate asks for them, shared by all
    N, K = case.heads
    auto = resolve_implementation(
        "auto",
        training_problem(
            current_device(), dtype=case.dtype, head_dim=case.head_dim, group=N // K, window=case.mask.window
        )._replace(mask=MaskShape(True, case.mask.window, plain=case.mask.kind != "documents")),
    )
    candidates = []
    for impl in implementation_names(torch):
        if impls is not None and impl not in impls:
            continue
        if impl in torch_attention.BACKENDS:
            prepare = functools.partial(torch_attention.prepare, impl, case, inputs)
        else:
            prepare = functools.partial(_prepare, impl, case, inputs, limits)
        candidates.append(Candidate(impl, prepare, is_auto=impl == auto))
    labels: dict[str, str | int] = {
        "what": "attention",
        "length": case.length,
        "batch": case.batch,
        "head_dim": case.head_dim,
        "heads": f"{N}/{K}",
        "mask": case.mask.name,
        "pass": case.direction,
        "dtype": case.dtype,
    }
    return Comparison(labels, case.flops(), None, "xla", tuple(candidates))


def _prepare(impl: str, case: AttentionCase, inputs: Callable[[], tuple[Any, ...]], limits: Limits):
    documents = case.mask.kind == "documents"
    window = case.mask.window

    def output(q, k, v, ranges: KeyRanges) -> jax.Array:
        if impl == "xla":
            return attention_xla(q, k, v, ranges if documents else None, window=window)
        if impl == "jax_nn":
            return attention_jax_nn(q, k, v, ranges if documents else None, window=window)
        return attention(q, k, v, ranges if documents else None, window=window, impl=impl).out

    def forward(q, k, v, dout, ranges):
        del dout
        return output(q, k, v, ranges)

    def forward_and_backward(q, k, v, dout, ranges):
        out, pull = jax.vjp(lambda q, k, v: output(q, k, v, ranges), q, k, v)
        return out, pull(dout)

    function = forward if case.direction == "forward" else forward_and_backward
    return prepare_jax(function, inputs(), limits)


def _seen(ranges: KeyRanges, *, window: int | None) -> jax.Array:
    """(B, T, S) bool, or (1, T, S) where all rows are alike."""
    ranges = effective_ranges(ranges, MaskShape(True, window, plain=False), ranges.lo.shape[1])
    key = jnp.arange(ranges.lo.shape[1], dtype=jnp.int32)
    return (key >= ranges.lo[..., None]) & (key < ranges.hi[..., None])


def attention_xla(q_BTNH, k_BSKH, v_BSKH, ranges: KeyRanges | None, *, window: int | None) -> jax.Array:
    """What one writes without a library: two products and a masked softmax, differentiated by JAX."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    seen_BTS = _seen(causal_ranges(1, T) if ranges is None else ranges, window=window)
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores = jnp.einsum("btkgh,bskh->bkgts", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32)
    scores = jnp.where(seen_BTS[:, None, None], scores / math.sqrt(H), -jnp.inf)
    probs_BKGTS = jax.nn.softmax(scores, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", probs_BKGTS, v_BSKH).reshape(B, T, N, H)


def attention_jax_nn(q_BTNH, k_BSKH, v_BSKH, ranges: KeyRanges | None, *, window: int | None) -> jax.Array:
    if ranges is not None:
        seen_BNTS = _seen(ranges, window=window)[:, None]
        return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=seen_BNTS)
    local = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, is_causal=True, local_window_size=local)
