"""Attention and cross-entropy for JAX, each kernel beside its reference. Knows only JAX."""

from samosa_kernels.attention import AttentionOutput, attention, resolve_implementation
from samosa_kernels.cross_entropy import CrossEntropy, softmax_cross_entropy
from samosa_kernels.key_ranges import KeyRanges, causal_ranges

__all__ = [
    "AttentionOutput",
    "CrossEntropy",
    "KeyRanges",
    "attention",
    "causal_ranges",
    "resolve_implementation",
    "softmax_cross_entropy",
]
