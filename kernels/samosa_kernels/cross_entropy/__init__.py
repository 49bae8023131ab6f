"""Softmax cross-entropy of a linear head: one call, beside its reference."""

from samosa_kernels.cross_entropy.api import CrossEntropy, softmax_cross_entropy
from samosa_kernels.cross_entropy.reference import softmax_cross_entropy_reference

__all__ = ["CrossEntropy", "softmax_cross_entropy", "softmax_cross_entropy_reference"]
