"""Softmax cross-entropy of a linear head: summed in one call beside its reference, or token by token."""

from samosa_kernels.cross_entropy.api import CrossEntropy, softmax_cross_entropy
from samosa_kernels.cross_entropy.reference import softmax_cross_entropy_reference
from samosa_kernels.cross_entropy.token_nll import token_nll

__all__ = ["CrossEntropy", "softmax_cross_entropy", "softmax_cross_entropy_reference", "token_nll"]
