"""How fast a run will go, what it costs, and how it scales over devices: predictions with their sources."""

import itertools
import math
from dataclasses import dataclass

from samosa_jax.parallel.scaling import predict_scaling, zero1_bytes
from samosa_jax.planning.devices import LINK_SHARE, PlannedDevice

# Share of the peak (model FLOPs utilisation) by parameters that matrix products read, in bfloat16 on one GPU:
# what this implementation aims at on H100 and H200, not yet measured. Public runs beside them on 8 x H100:
# nanochat d24 50 % (its dev/LEADERBOARD.md), GPT-2 XL of llm.c 48 % (karpathy/llm.c discussion 677),
# modded-nanogpt 124M 34 % (record 6), a dense 2.7B in JAX 56 % (marin-community/marin issue 6979).
EXPECTED_MFU: tuple[tuple[float, float], ...] = (
    (124e6, 0.38),
    (350e6, 0.45),
    (1.1e9, 0.52),
    (2.5e9, 0.54),
)
MFU_SOURCE = {
    "h100": "aimed at, not measured: 38 % at 124 M, 45 % at 350 M, 52 % at 1.1 B, 54 % at 2.5 B",
    "h200": "as on an H100, which has the same arithmetic",
    "a100": "assumed as on an H100; nothing was measured",
    "rtx4090": "assumed as on an H100; nothing was measured",
}
# How much faster whole steps get with float8 products, beside bfloat16: karpathy/nanochat's d26 on 8 x H100
# made 740 thousand tokens a second of 630 (its dev/LOG.md, 2026-02-02), with one scale per tensor as here.
FLOAT8_GAIN = 1.17


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one device sends in a step, and what that costs if nothing of it is hidden behind computing.

    Attributes:
        sent_bytes: over the links, by one device.
        seconds: at LINK_SHARE of the link's rate on paper.
        efficiency: share of the step that computes, 0..1.
    """

    num_devices: int
    sent_bytes: int
    seconds: float
    efficiency: float


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Of the whole run on all devices.

    Attributes:
        mfu: of one device computing, before communication; of its bfloat16 peak, also for float8.
        source: of that number.
        tokens_per_sec: of all devices together, communication included.
        seconds: of all steps; compilation, evaluation and saving are not counted.
        cost: in the unit of the price; None without a price.
    """

    mfu: float
    source: str
    tokens_per_sec: float
    step_seconds: float
    seconds: float
    cost: float | None
    scaling: tuple[Traffic, ...]


def expected_mfu(num_parameters: float) -> float:
    """Between the entries of EXPECTED_MFU straight over log(parameters), level above the last.

    `num_parameters` counts what matrix products read (`sizes.scaling_parameters`). A small model is held up
    by everything but its products: under the first entry the share falls with the square root of its size,
    a guess.
    """
    first, last = EXPECTED_MFU[0], EXPECTED_MFU[-1]
    if num_parameters <= first[0]:
        return first[1] * math.sqrt(num_parameters / first[0])
    if num_parameters >= last[0]:
        return last[1]
    for (low, at_low), (high, at_high) in itertools.pairwise(EXPECTED_MFU):
        if num_parameters <= high:
            along = math.log(num_parameters / low) / math.log(high / low)
            return at_low + along * (at_high - at_low)
    raise AssertionError("unreachable: the last entry bounds the size")


def scaling(
    *,
    device: PlannedDevice,
    num_values: int,
    itemsize: int,
    device_tokens: float,
    flops_per_token: int,
    mfu: float,
    up_to: int,
) -> tuple[Traffic, ...]:
    """From one device to `up_to` by doubling, each with `device_tokens` tokens a step for itself.

    Parameters are gathered once and gradients scattered once, as `parallel.scaling` counts them; nothing
    for a device without links or a known peak.
    """
    if device.link_bandwidth is None or device.peak_flops is None:
        return ()
    counts = [2**power for power in range(up_to.bit_length()) if 2**power < up_to] + [up_to]
    found = []
    for count in counts:
        sent = zero1_bytes(num_values, replicas=count, param_bytes=itemsize)
        predicted = predict_scaling(
            sent_bytes=sent,
            link_bandwidth=LINK_SHARE * device.link_bandwidth,
            tokens_per_step=round(count * device_tokens),
            flops_per_token=flops_per_token,
            num_devices=count,
            peak_flops=device.peak_flops,
            mfu=mfu,
        )
        found.append(
            Traffic(
                num_devices=count,
                sent_bytes=sent,
                seconds=predicted.link_seconds,
                efficiency=predicted.efficiency,
            )
        )
    return tuple(found)


def predict_pace(
    *,
    device: PlannedDevice,
    num_devices: int,
    mfu: float | None,
    matmul_dtype: str,
    scaling_parameters: int,
    flops_per_token: int,
    batch_tokens: int,
    num_steps: int,
    num_values: int,
    itemsize: int,
    cost_per_hour: float,
) -> Pace | None:
    """None on a device whose peak nobody states. `mfu` replaces the expected one, which `matmul_dtype` float8
    raises; `cost_per_hour` is of the whole machine.
    """
    if device.peak_flops is None:
        return None
    share, source = mfu, "given"
    if share is None:
        share, source = expected_mfu(scaling_parameters), MFU_SOURCE[device.name]
        if matmul_dtype == "float8":
            share *= FLOAT8_GAIN
            source += f"; times {FLOAT8_GAIN} for float8, measured by nanochat d26 (of the bfloat16 peak)"
    compute_seconds = batch_tokens / num_devices * flops_per_token / (share * device.peak_flops)
    traffic = scaling(
        device=device,
        num_values=num_values,
        itemsize=itemsize,
        device_tokens=batch_tokens / num_devices,
        flops_per_token=flops_per_token,
        mfu=share,
        up_to=num_devices,
    )
    step_seconds = compute_seconds + (traffic[-1].seconds if traffic else 0.0)
    seconds = num_steps * step_seconds
    return Pace(
        mfu=share,
        source=source,
        tokens_per_sec=batch_tokens / step_seconds,
        step_seconds=step_seconds,
        seconds=seconds,
        cost=cost_per_hour * seconds / 3600 if cost_per_hour else None,
        scaling=traffic,
    )
