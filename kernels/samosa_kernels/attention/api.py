"""`attention`: grouped-query attention over key ranges, by what suits the device."""

import functools
import importlib
import logging
from types import ModuleType
from typing import NamedTuple

import jax

from samosa_kernels.attention.problem import Problem
from samosa_kernels.attention.ranges import (
    KeyRanges,
    MaskShape,
    causal_ranges,
    check_ranges,
    effective_ranges,
)
from samosa_kernels.device import Device, current_device


class AttentionOutput(NamedTuple):
    out: jax.Array  # (B, T, N, H), dtype of the queries
    lse: jax.Array  # (B, T, N), float32: log-sum-exp of the scaled scores; -inf where no key is seen


# Each is a module that has attention_NAME(q, k, v, effective ranges, mask=MaskShape, interpret=bool) -> (out,
# lse), differentiable in q, k and v, and refusal(Problem): why it cannot, or None. Imported when asked for: a
# version of JAX may lack what one of them is written with.
IMPLEMENTATIONS = ("reference", "chunked", "cudnn", "triton", "hopper")

# What "auto" stands for, by platform: the first that can do it, and why it is there.
AUTO: dict[str, tuple[tuple[str, str], ...]] = {
    "cpu": (("chunked", "scores stay in cache, tiles above the diagonal are skipped"),),
    "gpu": (
        ("triton", "skips every tile that no query sees, in either direction"),
        ("chunked", "needs no (T, S) array and no kernel"),
    ),
    "tpu": (("chunked", "needs no (T, S) array and no kernel"),),
}

DTYPES = ("float32", "bfloat16")

logger = logging.getLogger(__name__)


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ranges: KeyRanges | None,
    *,
    window: int | None,
    impl: str = "auto",
    interpret: bool = False,
) -> AttentionOutput:
    """softmax(q k^T / sqrt(H)) v, the query at i seeing keys s of lo[i] <= s < hi[i] and i - window < s <= i.

    N is a multiple of K: query head n reads key head n // (N / K). `ranges` None means [0, i + 1): plain
    causal attention, which some implementations need to be sure of. `window` (static) counts the query
    itself; None: no limit. A query that sees no key has output 0, lse -inf and no gradient. With S other than
    T, queries against a cache, ranges alone say what is seen, and window must be None. float32 or bfloat16;
    softmax in float32.

    In a rematerialised layer the names "attn_out" and "attn_lse" mark what to save so that the backward runs
    no forward again. `impl` is "auto" or a key of IMPLEMENTATIONS; `interpret` runs a Pallas kernel in its
    interpreter, on any device, slowly.

    Knows no mesh: automatic sharding would gather what its loops and kernels run over, so call it inside
    jax.shard_map, which it needs no communication in. Raises ValueError on shapes, dtypes or an `impl` that
    cannot run, saying why, and on ranges that are known, not traced, and out of bounds or decreasing.
    """
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    if k_BSKH.shape != (B, S, K, H) or v_BSKH.shape != k_BSKH.shape or N % K:
        raise ValueError(
            f"attention got q {q_BTNH.shape}, k {k_BSKH.shape}, v {v_BSKH.shape}; expected (B, T, N, H) "
            "and twice (B, S, K, H) with N a multiple of K"
        )
    if not q_BTNH.dtype == k_BSKH.dtype == v_BSKH.dtype or q_BTNH.dtype.name not in DTYPES:
        raise ValueError(
            f"attention got q {q_BTNH.dtype}, k {k_BSKH.dtype}, v {v_BSKH.dtype}; "
            "expected all float32 or all bfloat16"
        )
    if window is not None and window < 1:
        raise ValueError(f"attention window is {window}; it must be at least 1, or None for no limit")
    if S != T and (ranges is None or window is not None):
        raise ValueError(
            f"attention got {T} queries and {S} keys: only with as many keys as queries is it known which "
            "key is a query's own; pass ranges, and no window"
        )
    if ranges is not None:
        if ranges.lo.shape != (B, T) or ranges.hi.shape != (B, T):
            raise ValueError(
                f"attention got ranges {ranges.lo.shape}, {ranges.hi.shape}; expected twice {(B, T)}"
            )
        check_ranges(ranges, S)
    limit = None if window is None or window >= T else window
    mask = MaskShape(causal=S == T, window=limit, plain=ranges is None)
    problem = Problem(
        device=current_device(),
        dtype=q_BTNH.dtype.name,
        head_dim=H,
        group=N // K,
        mask=mask,
        interpret=interpret,
    )
    name = resolve_implementation(impl, problem)
    run = getattr(_module(name), f"attention_{name}")
    effective = effective_ranges(causal_ranges(B, T) if ranges is None else ranges, mask, S)
    out, lse = run(q_BTNH, k_BSKH, v_BSKH, effective, mask=mask, interpret=interpret)
    return AttentionOutput(out=out, lse=lse)


@functools.cache
def resolve_implementation(impl: str, problem: Problem) -> str:
    """The name `impl` stands for, said once of "auto"; ValueError, with the reason, if it cannot run."""
    if impl != "auto":
        if impl not in IMPLEMENTATIONS:
            raise ValueError(f"attention impl is {impl!r}; use auto or one of {', '.join(IMPLEMENTATIONS)}")
        reason = refusal(impl, problem)
        if reason is not None:
            raise ValueError(f"attention impl={impl} cannot run: {reason}")
        return impl
    device = problem.device
    if device.platform not in AUTO:
        raise ValueError(
            f"attention impl=auto knows {', '.join(AUTO)}, not {device.platform!r}; name an implementation"
        )
    for chosen, reason in AUTO[device.platform]:
        if refusal(chosen, problem) is None:
            _say_once(f"attention: auto chose {chosen} on {device.kind}: {reason}")
            return chosen
    raise ValueError(f"attention impl=auto found none for {problem}")


def refusal(impl: str, problem: Problem) -> str | None:
    """Why an implementation, one of IMPLEMENTATIONS, cannot do this, in one line; None if it can."""
    try:
        module = _module(impl)
    except ImportError as error:
        return f"this JAX ({jax.__version__}) lacks what it is written with: {error}"
    return module.refusal(problem)


def _module(impl: str) -> ModuleType:
    return importlib.import_module(f"samosa_kernels.attention.{impl}")


@functools.cache
def _say_once(line: str) -> None:
    logger.info(line)


def training_problem(device: Device, *, dtype: str, head_dim: int, group: int, window: int | None) -> Problem:
    """What a training step over packed documents asks: tells before it is traced what will compute it."""
    mask = MaskShape(causal=True, window=window, plain=False)
    return Problem(
        device=device,
        dtype=dtype,
        head_dim=head_dim,
        group=group,
        mask=mask,
        interpret=False,
    )
