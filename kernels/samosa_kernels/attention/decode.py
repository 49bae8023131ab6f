"""`decode_attention`: one query per row against a cache of keys and values, by what suits the device."""

import functools
import logging
import math
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from samosa_kernels.device import Device, current_device
from samosa_kernels.products import product_float32
from samosa_kernels.tuning import find_tuning

logger = logging.getLogger(__name__)


class DecodeProblem(NamedTuple):
    """Everything static about a call of `decode_attention` but its sizes. Hashable."""

    device: Device
    dtype: str
    head_dim: int
    interpret: bool


class DecodeImplementation(NamedTuple):
    """One way to compute it."""

    # (q, k, v, lo, hi, interpret=bool) -> out, for ranges inside 0..S.
    run: Callable[..., jax.Array]
    refusal: Callable[[DecodeProblem], str | None]  # why it cannot do this, or None


def _no_interpreter(problem: DecodeProblem) -> str | None:
    return "it is no Pallas kernel: there is nothing to interpret" if problem.interpret else None


def _triton_refusal(problem: DecodeProblem) -> str | None:
    try:  # here, because JAX will drop Triton one day and the others must outlive it
        from samosa_kernels.attention import triton_ops
    except ImportError as error:
        return f"this JAX ({jax.__version__}) lacks what it is written with: {error}"
    return triton_ops.refusal(
        problem.device, dtype=problem.dtype, head_dim=problem.head_dim, interpret=problem.interpret
    )


def _decode_reference(
    q_BNH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    lo_B: jax.Array,
    hi_B: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """All in float32, and as the definition reads."""
    del interpret  # refused
    B, N, H = q_BNH.shape
    K, S = k_BKSH.shape[1:3]
    q, k, v = (x.astype(jnp.float32) for x in (q_BNH, k_BKSH, v_BKSH))
    scores_BKGS = jnp.einsum("bkgh,bksh->bkgs", q.reshape(B, K, N // K, H), k) / math.sqrt(H)
    key = jnp.arange(S, dtype=jnp.int32)
    seen = ((key >= lo_B[:, None]) & (key < hi_B[:, None]))[:, None, None, :]
    row_sees = seen.any(-1, keepdims=True)
    # A row without keys is sent through the softmax with all of them, then dropped: no NaN in its gradient.
    probs = jax.nn.softmax(jnp.where(seen | ~row_sees, scores_BKGS, -jnp.inf), axis=-1)
    out = jnp.einsum("bkgs,bksh->bkgh", jnp.where(seen, probs, 0.0), v)
    return out.reshape(B, N, H).astype(q_BNH.dtype)


def _decode_xla(
    q_BNH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    lo_B: jax.Array,
    hi_B: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Two products with the cache as it lies, batched over key heads: the group's queries are their rows."""
    del interpret  # refused
    B, N, H = q_BNH.shape
    K, S = k_BKSH.shape[1:3]
    q_BKGH = q_BNH.reshape(B, K, N // K, H)
    scores_BKGS = product_float32(q_BKGH, k_BKSH, contract=(3, 3), batch=(0, 1)) / math.sqrt(H)
    key = jnp.arange(S, dtype=jnp.int32)
    seen = ((key >= lo_B[:, None]) & (key < hi_B[:, None]))[:, None, None, :]
    scores = jnp.where(seen, scores_BKGS, -jnp.inf)
    highest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - jnp.where(highest == -jnp.inf, 0.0, highest))
    total_BKG = weights.sum(axis=-1)
    out = product_float32(weights.astype(v_BKSH.dtype), v_BKSH, contract=(3, 2), batch=(0, 1))
    out = out / jnp.where(total_BKG == 0, 1.0, total_BKG)[..., None]
    return out.reshape(B, N, H).astype(q_BNH.dtype)


def _decode_triton(
    q_BNH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    lo_B: jax.Array,
    hi_B: jax.Array,
    *,
    interpret: bool,
) -> jax.Array:
    from samosa_kernels.attention.decode_triton import decode_triton

    S, H = k_BKSH.shape[2:]
    kind = current_device().kind
    tuning = find_tuning("triton_decode", device_kind=kind, dtype=q_BNH.dtype.name, head_dim=H, length=S)
    run = jax.custom_vjp(functools.partial(decode_triton, tuning=tuning, interpret=interpret))
    run.defvjp(_no_gradient, _no_gradient)
    return run(q_BNH, k_BKSH, v_BKSH, lo_B, hi_B)


def _no_gradient(*_: object) -> NoReturn:
    raise NotImplementedError("decode_attention impl=triton has no gradient; impl=xla has one")


DECODE_IMPLEMENTATIONS: dict[str, DecodeImplementation] = {
    "reference": DecodeImplementation(_decode_reference, _no_interpreter),
    "xla": DecodeImplementation(_decode_xla, _no_interpreter),
    "triton": DecodeImplementation(_decode_triton, _triton_refusal),
}

# What "auto" stands for, by device: the first that can do it, and why it is there.
DECODE_AUTO: dict[str, tuple[tuple[str, str], ...]] = {
    "cpu": (("xla", "two matrix products that read the cache as it lies"),),
    "gpu": (
        ("triton", "reads only the keys in range, split over all processors"),
        ("xla", "Triton cannot run here"),
    ),
    "tpu": (("xla", "two matrix products that read the cache as it lies"),),
}


def decode_attention(
    q_BNH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    lo_B: jax.Array,
    hi_B: jax.Array,
    *,
    impl: str = "auto",
    interpret: bool = False,
) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v for one query per row, which sees the keys s of lo <= s < hi: out (B, N, H).

    The cache stands heads first, (B, K, S, H), so that each head's keys are contiguous. N is a multiple of K:
    query head n reads key head n // (N / K). Bounds are int32 (B,) and clipped to 0..S; what lies outside
    them may hold anything finite; a row with hi <= lo has output 0. float32 or bfloat16; softmax in float32.

    `impl` is "auto" or one of reference, xla, triton; `interpret` runs the Triton kernel in Pallas's
    interpreter, on any device, slowly. Meant for generation: triton has no gradient and raises
    NotImplementedError when asked for one. Knows no mesh: call it inside jax.shard_map. Raises ValueError on
    shapes, dtypes or an `impl` that cannot run, saying why.
    """
    if q_BNH.ndim != 3 or k_BKSH.ndim != 4:
        raise ValueError(
            f"decode_attention got q {q_BNH.shape}, k {k_BKSH.shape}; expected (B, N, H), (B, K, S, H)"
        )
    B, N, H = q_BNH.shape
    K, S = k_BKSH.shape[1:3]
    if k_BKSH.shape != (B, K, S, H) or v_BKSH.shape != k_BKSH.shape or N % K:
        raise ValueError(
            f"decode_attention got q {q_BNH.shape}, k {k_BKSH.shape}, v {v_BKSH.shape}; expected (B, N, H) "
            "and twice (B, K, S, H) with N a multiple of K"
        )
    if lo_B.shape != (B,) or hi_B.shape != (B,):
        raise ValueError(f"decode_attention got bounds {lo_B.shape}, {hi_B.shape}; expected twice {(B,)}")
    if not q_BNH.dtype == k_BKSH.dtype == v_BKSH.dtype or q_BNH.dtype.name not in ("float32", "bfloat16"):
        raise ValueError(
            f"decode_attention got q {q_BNH.dtype}, k {k_BKSH.dtype}, v {v_BKSH.dtype}; "
            "expected all float32 or all bfloat16"
        )
    problem = DecodeProblem(device=current_device(), dtype=q_BNH.dtype.name, head_dim=H, interpret=interpret)
    run = DECODE_IMPLEMENTATIONS[resolve_decode(impl, problem)].run
    lo_B, hi_B = jnp.maximum(lo_B, 0), jnp.minimum(hi_B, S)
    return run(q_BNH, k_BKSH, v_BKSH, lo_B, hi_B, interpret=interpret)


@functools.cache
def resolve_decode(impl: str, problem: DecodeProblem) -> str:
    """The name that `impl` stands for; "auto" says what it chose. ValueError, with the reason, if not."""
    if impl == "auto":
        return _choose(problem)
    if impl not in DECODE_IMPLEMENTATIONS:
        raise ValueError(
            f"decode_attention impl is {impl!r}; use auto or one of {', '.join(DECODE_IMPLEMENTATIONS)}"
        )
    reason = DECODE_IMPLEMENTATIONS[impl].refusal(problem)
    if reason is not None:
        raise ValueError(f"decode_attention impl={impl} cannot run: {reason}")
    return impl


def _choose(problem: DecodeProblem) -> str:
    device = problem.device
    for chosen, reason in DECODE_AUTO.get(device.platform, ()):
        if DECODE_IMPLEMENTATIONS[chosen].refusal(problem) is None:
            _say_once(f"decode_attention: auto chose {chosen} on {device.kind}: {reason}")
            return chosen
    raise ValueError(f"decode_attention impl=auto found none for {problem}; name an implementation")


@functools.cache
def _say_once(line: str) -> None:
    logger.info(line)
