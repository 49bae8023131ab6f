"""Which device a computation is traced for, the one here or one only compiled for, and what it could do."""

import re
from typing import NamedTuple

import jax


class Device(NamedTuple):
    """What choosing a kernel depends on."""

    platform: str  # cpu, gpu, tpu
    kind: str  # as jax.Device.device_kind: "NVIDIA H100 80GB HBM3"

    @property
    def is_hopper(self) -> bool:
        """Whether it runs code for sm_90a: TMA, wgmma."""
        return self.platform == "gpu" and any(name in self.kind for name in ("H100", "H200", "H800", "H20"))

    @property
    def is_nvidia(self) -> bool:
        return self.platform == "gpu" and not any(
            name in self.kind for name in ("AMD", "MI2", "MI3", "Radeon")
        )


class Peaks(NamedTuple):
    """The most that a device can do, as its maker states it, at the maker's clock and power."""

    matmul: dict[str, float]  # operations a second (an addition counts as one), dense, by operand dtype
    bandwidth: float  # bytes a second, from and to device memory


def _tensor_cores(half: float, tf32: float, *, float8: float | None = None) -> dict[str, float]:
    """Half-precision operands with float32 accumulation; float32 ones are rounded to TF32, XLA's default.

    `float8` is for devices that have units for such operands.
    """
    rates = {"bfloat16": half, "float16": half, "float32": tf32}
    return rates if float8 is None else {**rates, "float8": float8}


# The first pattern that matches words of the device kind counts, so special ones come before general ones.
# NVIDIA's data sheets give most rates with structured sparsity; the dense ones here are half of that.
PEAKS: tuple[tuple[str, Peaks], ...] = (
    # https://www.nvidia.com/en-us/data-center/gb200-nvl72, one of its 72 GPUs
    ("GB200", Peaks(_tensor_cores(2500e12, 1250e12, float8=5000e12), 8.0e12)),
    # https://www.nvidia.com/en-us/data-center/grace-hopper-superchip: 96 GB HBM3, 144 GB HBM3e
    ("GH200 144G", Peaks(_tensor_cores(989e12, 494e12, float8=1979e12), 4.9e12)),
    ("GH200", Peaks(_tensor_cores(989e12, 494e12, float8=1979e12), 4.0e12)),
    # https://www.nvidia.com/en-us/data-center/h200: SXM, NVL
    ("H200 NVL", Peaks(_tensor_cores(835e12, 417e12, float8=1671e12), 4.8e12)),
    ("H200", Peaks(_tensor_cores(989e12, 494e12, float8=1979e12), 4.8e12)),
    # https://www.nvidia.com/en-us/data-center/h100, and the data sheet of the PCIe card: SXM, NVL, PCIe
    ("H100 NVL", Peaks(_tensor_cores(835e12, 417e12, float8=1671e12), 3.9e12)),
    ("H100 PCIe", Peaks(_tensor_cores(756e12, 378e12, float8=1513e12), 2.0e12)),
    ("H100|H800", Peaks(_tensor_cores(989e12, 494e12, float8=1979e12), 3.35e12)),  # H800: with slower links
    # https://www.nvidia.com/en-us/data-center/dgx-b200, a system of eight
    ("B200", Peaks(_tensor_cores(2250e12, 1125e12, float8=4500e12), 8.0e12)),
    # https://www.nvidia.com/en-us/data-center/a100
    ("A100-SXM4-80GB", Peaks(_tensor_cores(312e12, 156e12), 2.039e12)),
    ("A100 80GB PCIe", Peaks(_tensor_cores(312e12, 156e12), 1.935e12)),
    ("A100", Peaks(_tensor_cores(312e12, 156e12), 1.555e12)),
    ("A800", Peaks(_tensor_cores(312e12, 156e12), 2.039e12)),  # as an A100 of 80 GB, with slower links
    # https://www.nvidia.com/en-us/data-center/products/a10-gpu; the A10G of AWS, with fewer tensor cores
    ("A10", Peaks(_tensor_cores(125e12, 62.5e12), 600e9)),
    ("A10G", Peaks(_tensor_cores(70e12, 35e12), 600e9)),
    # https://www.nvidia.com/en-us/data-center/l40s, /l40 and /l4
    ("L40S", Peaks(_tensor_cores(362e12, 183e12, float8=733e12), 864e9)),
    ("L40", Peaks(_tensor_cores(181e12, 90.5e12, float8=362e12), 864e9)),
    ("L4", Peaks(_tensor_cores(121e12, 60e12, float8=242e12), 300e9)),
    # Tensor cores of float16 alone: https://www.nvidia.com/en-us/data-center/v100 (SXM) and /tesla-t4
    ("V100", Peaks({"float16": 125e12}, 900e9)),
    ("T4", Peaks({"float16": 65e12}, 320e9)),
    # The appendices of NVIDIA's Blackwell, Ada (2.01) and GA102 (2.1) architecture white papers, float32
    # accumulation.
    ("RTX 5090", Peaks(_tensor_cores(209.5e12, 104.8e12, float8=419e12), 1.792e12)),
    ("RTX 4090", Peaks(_tensor_cores(165.2e12, 82.6e12, float8=330.3e12), 1.008e12)),
    ("RTX 3090", Peaks(_tensor_cores(71e12, 35.6e12), 936e9)),
    # https://cloud.google.com/tpu/docs, system architecture, one chip
    ("TPU v6( lite|e)?", Peaks({"bfloat16": 918e12}, 1.638e12)),
    ("TPU v5 lite", Peaks({"bfloat16": 197e12}, 819e9)),
    ("TPU v5p?", Peaks({"bfloat16": 459e12}, 2.765e12)),
    ("TPU v4", Peaks({"bfloat16": 275e12}, 1.228e12)),
)

# Bytes a second that one device sends to others of its host, and receives at the same time: half of what the
# makers give for both directions together.
LINKS: tuple[tuple[str, float], ...] = (
    # NVLink: https://www.nvidia.com/en-us/data-center/h100 (900 GB/s both ways), /h200, /b200, /a100
    ("B200", 900e9),
    ("H100 PCIe", 64e9),
    ("(H100|H200) NVL", 450e9),
    ("GH200|H200|H100", 450e9),
    ("A100 80GB PCIe", 32e9),
    ("A100", 300e9),
    # PCIe 4.0 x16, through the host
    ("L40S|L4|RTX 4090|RTX 3090", 32e9),
)


def current_device() -> Device:
    """The device of the ambient mesh (`jax.set_mesh`), which may exist only on paper; else the first here."""
    mesh = jax.sharding.get_abstract_mesh()
    on_paper = None if mesh.empty else mesh.abstract_device
    if on_paper is not None:
        return Device(platform=on_paper.platform or "gpu", kind=on_paper.device_kind)
    device = jax.devices()[0]
    return Device(platform=device.platform, kind=device.device_kind)


def peak_flops(device: Device, dtype: str) -> float | None:
    """Operations a second of dense matrix products with operands of that dtype; None where it is unknown.

    "float8" is of any format with 8 bits.

    "float32" is the rate of TF32, which XLA's default precision rounds float32 operands to on a GPU.
    """
    peaks = _peaks(device)
    return None if peaks is None else peaks.matmul.get(dtype)


def computes_float8(device: Device) -> bool:
    """Whether products of float8 operands gain anything there; a CPU, which emulates them, may try them."""
    return device.platform == "cpu" or device.is_hopper or peak_flops(device, "float8") is not None


def peak_bandwidth(device: Device) -> float | None:
    """Bytes a second between the device and its memory; None where it is unknown."""
    peaks = _peaks(device)
    return None if peaks is None else peaks.bandwidth


def link_bandwidth(device: Device) -> float | None:
    """Bytes a second that it sends to other devices of its host; None where it is unknown."""
    return next((rate for words, rate in LINKS if re.search(rf"\b({words})\b", device.kind)), None)


def _peaks(device: Device) -> Peaks | None:
    return next((peaks for words, peaks in PEAKS if re.search(rf"\b({words})\b", device.kind)), None)
