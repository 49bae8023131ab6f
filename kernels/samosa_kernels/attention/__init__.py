"""Attention over key ranges: one call, several implementations, one oracle."""

from samosa_kernels.attention.api import (
    IMPLEMENTATIONS,
    AttentionOutput,
    attention,
    refusal,
    resolve_implementation,
    training_problem,
)
from samosa_kernels.attention.decode import decode_attention
from samosa_kernels.attention.problem import Problem
from samosa_kernels.attention.ranges import KeyRanges, MaskShape, causal_ranges

__all__ = [
    "IMPLEMENTATIONS",
    "AttentionOutput",
    "KeyRanges",
    "MaskShape",
    "Problem",
    "attention",
    "causal_ranges",
    "decode_attention",
    "refusal",
    "resolve_implementation",
    "training_problem",
]
