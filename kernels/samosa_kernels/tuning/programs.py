"""The program that runs one kernel alone with given tiles: what the tuner compiles and times."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from samosa_kernels.attention.decode_triton import decode_triton
from samosa_kernels.attention.hopper_dkv import hopper_dkv
from samosa_kernels.attention.hopper_dq import hopper_dq
from samosa_kernels.attention.hopper_forward import hopper_forward
from samosa_kernels.attention.ranges import KeyRanges
from samosa_kernels.attention.triton_backward import triton_dkv, triton_dq
from samosa_kernels.attention.triton_forward import triton_forward
from samosa_kernels.tuning.config import TuningConfig

FORWARD: dict[str, Callable[..., Any]] = {"triton_forward": triton_forward, "hopper_forward": hopper_forward}
BACKWARD: dict[str, Callable[..., Any]] = {
    "triton_dq": triton_dq,
    "triton_dkv": triton_dkv,
    "hopper_dq": hopper_dq,
    "hopper_dkv": hopper_dkv,
}
DECODE: dict[str, Callable[..., Any]] = {"triton_decode": decode_triton}

GROUP = 4  # query heads to a key head
KV_HEADS = 4
TOKENS = 16384  # of all rows together, so that the device is busy at every length
DECODE_ROWS = 8


class Program(NamedTuple):
    """A call of one kernel as a function of arrays."""

    function: Callable[..., Any]
    arguments: tuple[jax.ShapeDtypeStruct, ...]
    fed_back: int  # the argument that the first result can stand for, so that calls can depend on each other


def make_program(kernel: str, tuning: TuningConfig, *, head_dim: int, length: int, dtype: str) -> Program:
    """Causal attention over 16384 tokens in rows of `length`, or decoding against 8 caches of `length`.

    16 query heads on 4 key heads.
    """
    rows = max(1, TOKENS // length)
    heads = GROUP * KV_HEADS
    lo_BT = hi_BT = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    q_BTNH = dout_BTNH = jax.ShapeDtypeStruct((rows, length, heads, head_dim), dtype)
    k_BSKH = v_BSKH = jax.ShapeDtypeStruct((rows, length, KV_HEADS, head_dim), dtype)
    lse_BNT = delta_BNT = jax.ShapeDtypeStruct((rows, heads, length), jnp.float32)

    if kernel in DECODE:
        q_BNH = jax.ShapeDtypeStruct((DECODE_ROWS, heads, head_dim), dtype)
        k_BKSH = v_BKSH = jax.ShapeDtypeStruct((DECODE_ROWS, KV_HEADS, length, head_dim), dtype)
        lo_B = hi_B = jax.ShapeDtypeStruct((DECODE_ROWS,), jnp.int32)

        def decode(q, k, v, lo, hi):
            return DECODE[kernel](q, k, v, lo, hi, tuning=tuning, interpret=False)

        return Program(decode, (q_BNH, k_BKSH, v_BKSH, lo_B, hi_B), fed_back=0)

    if kernel in FORWARD:

        def forward(q, k, v, lo, hi):
            return FORWARD[kernel](q, k, v, KeyRanges(lo, hi), tuning=tuning, interpret=False)

        return Program(forward, (q_BTNH, k_BSKH, v_BSKH, lo_BT, hi_BT), fed_back=0)

    def backward(q, k, v, lo, hi, dout, lse, delta):
        ranges = KeyRanges(lo, hi)
        return BACKWARD[kernel](q, k, v, ranges, dout, lse, delta, tuning=tuning, interpret=False)

    arguments = (q_BTNH, k_BSKH, v_BSKH, lo_BT, hi_BT, dout_BTNH, lse_BNT, delta_BNT)
    return Program(backward, arguments, fed_back=1 if kernel.endswith("dkv") else 0)
