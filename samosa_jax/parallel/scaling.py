"""How well more devices will do, by closed formula: what a step sends against what it computes.

A prediction, not a measurement. It counts bytes alone, at the full rate of the links, and lets none of them
pass while the devices compute: the first is kinder than reality, the second harsher.
"""

from typing import NamedTuple


class Scaling(NamedTuple):
    """A step on several devices."""

    compute_seconds: float
    link_seconds: float

    @property
    def efficiency(self) -> float:
        """Tokens a second of one device, as a share of those that it makes alone."""
        return self.compute_seconds / (self.compute_seconds + self.link_seconds)


def predict_scaling(
    *,
    sent_bytes: float,
    link_bandwidth: float,
    tokens_per_step: int,
    flops_per_token: float,
    num_devices: int,
    peak_flops: float,
    mfu: float,
) -> Scaling:
    """A step of tokens_per_step over all devices, each of which sends sent_bytes meanwhile.

    Args:
        sent_bytes: by one device in one step: `zero1_bytes`, or `collectives.total_bytes` of a compiled step.
        link_bandwidth: bytes a second in one direction, `samosa_kernels.device.link_bandwidth`.
        peak_flops, mfu: of one device, and the share of it that a step on one device reaches.
    """
    return Scaling(
        compute_seconds=tokens_per_step * flops_per_token / (num_devices * mfu * peak_flops),
        link_seconds=sent_bytes / link_bandwidth,
    )


def zero1_bytes(num_params: int, *, replicas: int, param_bytes: int = 2, gradient_bytes: int = 4) -> int:
    """The least that a device sends in a step of ZeRO-1 (Rajbhandari et al. 2019, arXiv:1910.02054).

    Every parameter is gathered once in the compute dtype and every gradient scattered once in float32,
    whatever the number of microbatches. In either, a device passes on all of the array but its own part.
    """
    return num_params * (param_bytes + gradient_bytes) * (replicas - 1) // replicas
