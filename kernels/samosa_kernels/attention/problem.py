"""What an implementation is asked to do, as far as it decides whether it can."""

from typing import NamedTuple

from samosa_kernels.attention.ranges import MaskShape
from samosa_kernels.device import Device


class Problem(NamedTuple):
    """Everything static about a call of `attention` but its sizes. Hashable."""

    device: Device
    dtype: str
    head_dim: int
    group: int  # query heads to a key head
    mask: MaskShape
    interpret: bool  # in Pallas's interpreter, on any device
