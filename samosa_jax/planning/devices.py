"""The devices that a plan can be made for: what they hold and do, and where each number comes from."""

from dataclasses import dataclass
from typing import Literal

from samosa_kernels.device import Device, link_bandwidth, peak_flops

from samosa_jax.errors import UserError

DeviceName = Literal["h100", "h200", "a100", "rtx4090", "cpu"]

# Of a device's memory, what a training step may fill. `samosa train` lets JAX take 0.92 of it
# (samosa_jax/gpu_settings.py), as NCCL and CUDA need 1 to 2 GB; fragmentation costs a little more.
USABLE_SHARE = 0.9
# Of a link's rate on paper, what large collectives reach: all-reduces of nccl-tests go at 230 to 250 GB/s on
# 8 x A100 and, the switch adding up, at 460 to 480 on 8 x H100
# (https://docs.alayanew.com/en/docs/tech-blog/2026-05-06-nccl-tests); 0.8 leaves room for messages that are
# smaller, and for a reduce-scatter, which the switch does not help.
LINK_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class PlannedDevice:
    """One device of the machine that is planned for.

    Attributes:
        kind: as `jax.Device.device_kind` spells it.
        memory_bytes: all of it; None for a CPU, whose memory is the machine's.
        has_target: whether kernels/targets describes it, so that programs can be compiled for it.
    """

    name: DeviceName
    platform: str
    kind: str
    memory_bytes: int | None
    has_target: bool

    @property
    def usable_bytes(self) -> int | None:
        """What a step may fill."""
        return None if self.memory_bytes is None else int(USABLE_SHARE * self.memory_bytes)

    @property
    def peak_flops(self) -> float | None:
        """Dense bfloat16 FLOPs a second; None for a CPU."""
        return peak_flops(Device(platform=self.platform, kind=self.kind), "bfloat16")

    @property
    def link_bandwidth(self) -> float | None:
        """Bytes a second that it sends to the others of its host, on paper; None for a CPU."""
        return link_bandwidth(Device(platform=self.platform, kind=self.kind))


_DEVICES: tuple[PlannedDevice, ...] = (
    PlannedDevice(  # https://www.nvidia.com/en-us/data-center/h100
        name="h100",
        platform="gpu",
        kind="NVIDIA H100 80GB HBM3",
        memory_bytes=84_929_347_584,  # as the driver reports it
        has_target=True,
    ),
    PlannedDevice(  # https://www.nvidia.com/en-us/data-center/h200
        name="h200",
        platform="gpu",
        kind="NVIDIA H200",
        memory_bytes=150_110_011_392,
        has_target=True,
    ),
    PlannedDevice(  # https://www.nvidia.com/en-us/data-center/a100
        name="a100",
        platform="gpu",
        kind="NVIDIA A100-SXM4-80GB",
        memory_bytes=85_899_345_920,
        has_target=True,
    ),
    PlannedDevice(  # 24 GB; Ada architecture white paper
        name="rtx4090",
        platform="gpu",
        kind="NVIDIA GeForce RTX 4090",
        memory_bytes=25_757_220_864,
        has_target=True,
    ),
    PlannedDevice(name="cpu", platform="cpu", kind="cpu", memory_bytes=None, has_target=False),
)


def find_device(name: str) -> PlannedDevice:
    """Raises UserError for a device that is not in the table."""
    for device in _DEVICES:
        if device.name == name:
            return device
    known = ", ".join(device.name for device in _DEVICES)
    raise UserError(f"--device is {name!r}; there are {known}")


def device_like(kind: str) -> PlannedDevice | None:
    """The device of the table whose `device_kind` this is, as a present device reports it."""
    return next((device for device in _DEVICES if device.name != "cpu" and device.kind == kind), None)
