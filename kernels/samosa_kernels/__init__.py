"""Attention and cross-entropy for JAX, each kernel beside its reference. Knows only JAX."""

from samosa_kernels.attention import (
    AttentionOutput,
    KeyRanges,
    attention,
    causal_ranges,
    decode_attention,
    resolve_implementation,
    training_problem,
)
from samosa_kernels.cross_entropy import CrossEntropy, softmax_cross_entropy, token_nll
from samosa_kernels.device import Device, current_device

__all__ = [
    "AttentionOutput",
    "CrossEntropy",
    "Device",
    "KeyRanges",
    "attention",
    "causal_ranges",
    "current_device",
    "decode_attention",
    "resolve_implementation",
    "softmax_cross_entropy",
    "token_nll",
    "training_problem",
]
