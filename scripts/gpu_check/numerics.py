"""Holds kernels against their definitions on this device.

    python -m scripts.gpu_check.numerics --out results.jsonl --what chunked [--quick]

`--what` is an implementation of attention, or "decode", "cross_entropy" or "newton_schulz". Newton-Schulz is
compared with float64 NumPy, the others with the float32 definition of the same inputs, in full precision on
the device. One record a comparison, the smallest shapes first.
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from samosa_kernels import KeyRanges, attention, softmax_cross_entropy
from samosa_kernels.attention import MaskShape, Problem, decode, refusal
from samosa_kernels.device import current_device
from samosa_kernels.newton_schulz import JORDAN, orthogonalize

from scripts.gpu_check.records import Records

DTYPES = ("float32", "bfloat16")
MEAN_DOCUMENT = 800  # tokens, in shapes long enough


class Tolerance(NamedTuple):
    """The largest error of a result relative to its reference: root mean squares, and largest entries."""

    rms: float
    peak: float


# bfloat16 rounds to 2^-9 of a value, and gradients go through several such roundings. On an accelerator XLA
# rounds the operands of a float32 product too, to TF32's 2^-11 on a GPU.
TOLERANCES = {
    ("cpu", "float32"): Tolerance(rms=1e-5, peak=1e-4),
    ("accelerator", "float32"): Tolerance(rms=3e-3, peak=2e-2),
    ("cpu", "bfloat16"): Tolerance(rms=1e-2, peak=4e-2),
    ("accelerator", "bfloat16"): Tolerance(rms=1e-2, peak=4e-2),
}
# The quintic multiplies small singular values, and the rounding in them, by up to 3.4 in each of five steps.
NEWTON_SCHULZ_FACTOR = 8


class Shape(NamedTuple):
    """One problem of attention."""

    B: int
    T: int
    N: int
    K: int
    H: int
    S: int | None = None  # keys; None: as many as queries
    window: int | None = None
    documents: bool = True  # packed ones, with padding at the end of a row
    dtype: str = "bfloat16"

    @property
    def name(self) -> str:
        extras = [
            f" S{self.S}" if self.S else "",
            f" window {self.window}" if self.window else "",
            " documents" if self.documents else " plain",
            f" {self.dtype}",
        ]
        return f"B{self.B} T{self.T} N{self.N} K{self.K} H{self.H}" + "".join(extras)


SMALL: tuple[Shape, ...] = (
    Shape(1, 128, 2, 2, 64, documents=False),
    Shape(2, 256, 4, 2, 64),
    Shape(2, 256, 4, 2, 128),
    Shape(2, 256, 4, 1, 64, window=100),
    Shape(2, 333, 4, 4, 128),
    Shape(2, 100, 4, 2, 64, S=356),
    Shape(1, 256, 2, 1, 64, dtype="float32"),
)
QUICK = (SMALL[0], SMALL[3], SMALL[5])
LARGE: tuple[Shape, ...] = (
    Shape(2, 2048, 16, 4, 128, documents=False),
    Shape(4, 2048, 16, 16, 64),
    Shape(4, 2048, 16, 4, 128),
    Shape(2, 4096, 16, 4, 128, window=1024),
    Shape(1, 3001, 8, 2, 64, window=512),
    Shape(1, 777, 8, 2, 128, S=3001),
)


def problem_of(shape: Shape) -> Problem:
    """What `attention` will ask an implementation for this shape."""
    same = shape.S is None
    return Problem(
        device=current_device(),
        dtype=shape.dtype,
        head_dim=shape.H,
        group=shape.N // shape.K,
        mask=MaskShape(causal=same, window=shape.window, plain=not shape.documents and same),
        interpret=False,
    )


def make_ranges(shape: Shape, random: np.random.Generator) -> KeyRanges:
    """Documents of random length and, in all rows but the first, padding: queries that see no key."""
    B, T = shape.B, shape.T
    S = shape.S or T
    column = np.arange(T, dtype=np.int32)
    lo = np.zeros((B, T), np.int32)
    hi = np.tile(column + 1 + (S - T), (B, 1)).astype(np.int32)
    if shape.documents:
        begins = random.random((B, T)) < 1 / min(MEAN_DOCUMENT, T / 3)
        np.maximum.accumulate(np.where(begins, column, 0), axis=1, out=lo)
        for row in range(1, B):
            padding = T // (8 * row)
            lo[row, T - padding :] = hi[row, T - padding :] = 0
    return KeyRanges(jnp.asarray(lo), jnp.asarray(hi))


def check_attention(shape: Shape, impl: str) -> dict[str, float]:
    """Errors of out, lse, dq, dk and dv; raises what the implementation raises."""
    random = np.random.default_rng(0)
    B, T, N, K, H = shape[:5]
    S = shape.S or T
    ranges = make_ranges(shape, random)
    q, k, v, dout = (
        jnp.asarray(random.normal(size=size), shape.dtype)
        for size in ((B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H))
    )
    sees_BT1 = np.asarray(ranges.hi > ranges.lo)[..., None]
    dlse = jnp.asarray(np.where(sees_BT1, random.normal(size=(B, T, N)), 0.0), jnp.float32)
    given = None if not shape.documents and shape.S is None else ranges

    def run(impl: str, q: jax.Array, k: jax.Array, v: jax.Array, dout: jax.Array) -> list[jax.Array]:
        def outputs(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            output = attention(q, k, v, given, window=shape.window, impl=impl)
            return output.out, output.lse

        (out, lse), pull = jax.vjp(outputs, q, k, v)
        return [out, lse, *pull((dout, dlse))]

    ours = jax.jit(lambda *arrays: run(impl, *arrays))(q, k, v, dout)
    with jax.default_matmul_precision("highest"):
        full = [array.astype(jnp.float32) for array in (q, k, v, dout)]
        theirs = jax.jit(lambda *arrays: run("reference", *arrays))(*full)
    ours[1], theirs[1] = (jnp.where(jnp.isneginf(lse) & ~sees_BT1, 0.0, lse) for lse in (ours[1], theirs[1]))
    return errors(dict(zip(("out", "lse", "dq", "dk", "dv"), zip(ours, theirs, strict=True), strict=True)))


def errors(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """The largest relative errors over the results, root mean square and peak, and which result has them."""
    found: dict[str, dict[str, float]] = {}
    for name, pair in pairs.items():
        ours, theirs = (np.asarray(array, np.float64) for array in pair)
        difference = np.abs(ours - theirs)
        found[name] = {
            "rms": float(np.sqrt(np.mean(difference**2) / np.mean(theirs**2))),
            "peak": float(difference.max() / np.abs(theirs).max()),
            "absolute": float(difference.max()),
        }
    # A NaN is larger than every number.
    worst = {
        key: max((values[key] for values in found.values()), key=lambda x: (np.isnan(x), x))
        for key in ("rms", "peak", "absolute")
    }
    return worst | {"by_result": found}


def check_cross_entropy(tokens: int, vocab_size: int, width: int, dtype: str) -> dict[str, Any]:
    """Loss and gradients with soft-cap, z-loss, padded columns and tokens of weight 0, in several chunks."""
    random = np.random.default_rng(0)
    V = -(-vocab_size // 64) * 64
    hidden = jnp.asarray(random.normal(size=(tokens, width)), dtype)
    # Numbers that bfloat16 holds: the kernel casts the head to the dtype of hidden.
    head = jnp.asarray(random.normal(size=(V, width)) / np.sqrt(width), dtype).astype(jnp.float32)
    targets = jnp.asarray(random.integers(vocab_size, size=tokens), jnp.int32)
    weights = jnp.asarray(random.random(tokens) < 0.9, jnp.float32)
    cap, z_loss = 15.0, 1e-3

    def ours(hidden: jax.Array, head: jax.Array) -> jax.Array:
        chunk = -(-tokens // 3)
        return softmax_cross_entropy(
            hidden,
            head,
            targets,
            weights,
            vocab_size=vocab_size,
            soft_cap=cap,
            z_loss=z_loss,
            chunk_tokens=chunk,
        ).total

    def definition(hidden: jax.Array, head: jax.Array) -> jax.Array:
        logits = cap * jnp.tanh(hidden @ head[:vocab_size].T / cap)
        lse = jax.nn.logsumexp(logits, axis=-1)
        nll = lse - jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return jnp.sum(weights * (nll + z_loss * lse**2))

    loss, grads = jax.jit(jax.value_and_grad(ours, (0, 1)))(hidden, head)
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(jax.value_and_grad(definition, (0, 1)))(hidden.astype(jnp.float32), head)
    return errors(
        {
            "loss": (loss, expected[0]),
            "dhidden": (grads[0], expected[1][0]),
            "dhead": (grads[1], expected[1][1]),
        }
    )


def check_newton_schulz(stack: int, rows: int, columns: int, dtype: str) -> dict[str, Any]:
    """Five steps against the same polynomial of the singular values, in float64."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(stack, rows, columns)), dtype)
    found = jax.jit(orthogonalize)(x)
    u, s, vt = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    s /= np.sqrt(np.sum(s**2, axis=-1, keepdims=True))
    a, b, c = JORDAN[0]
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    return errors({"update": (found, u * s[:, None] @ vt)})


def check_decode(impl: str, sizes: tuple[int, int, int, int, int], dtype: str) -> dict[str, Any]:
    """One query a row against a cache, of which each row sees another stretch and the last row nothing."""
    B, N, K, S, H = sizes
    random = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(random.normal(size=size), dtype) for size in ((B, N, H), (B, K, S, H), (B, K, S, H))
    )
    lo = jnp.asarray(random.integers(0, S // 2, size=B), jnp.int32)
    hi = jnp.asarray(random.integers(S // 2, S + 1, size=B), jnp.int32).at[-1].set(0)
    ours = jax.jit(lambda q, k, v: decode.decode_attention(q, k, v, lo, hi, impl=impl))(q, k, v)
    with jax.default_matmul_precision("highest"):
        full = [array.astype(jnp.float32) for array in (q, k, v)]
        theirs = jax.jit(lambda q, k, v: decode.decode_attention(q, k, v, lo, hi, impl="reference"))(*full)
    return errors({"out": (ours, theirs)})


class Comparison(NamedTuple):
    """One kernel, one shape."""

    name: str
    dtype: str
    check: Callable[[], dict[str, Any]]
    refusal: str | None = None


def attention_comparisons(impl: str, *, quick: bool) -> Iterator[Comparison]:
    for shape in QUICK if quick else SMALL + LARGE:
        check = functools.partial(check_attention, shape, impl)
        yield Comparison(shape.name, shape.dtype, check, refusal(impl, problem_of(shape)))


def cross_entropy_comparisons(*, quick: bool) -> Iterator[Comparison]:
    for sizes in ((200, 1000, 64), (4096, 50_257, 768))[: 1 if quick else None]:
        for dtype in DTYPES:
            name = "{} tokens, vocabulary {}, width {}".format(*sizes)
            check = functools.partial(check_cross_entropy, *sizes, dtype)
            yield Comparison(f"{name} {dtype}", dtype, check)


def newton_schulz_comparisons(*, quick: bool) -> Iterator[Comparison]:
    for sizes in ((2, 64, 64), (2, 64, 256), (4, 768, 768), (2, 768, 3072))[: 2 if quick else None]:
        for dtype in DTYPES:
            name = "{} matrices {} x {}".format(*sizes)
            check = functools.partial(check_newton_schulz, *sizes, dtype)
            yield Comparison(f"{name} {dtype}", dtype, check)


def decode_comparisons(*, quick: bool) -> Iterator[Comparison]:
    all_sizes = ((2, 4, 2, 256, 64), (3, 8, 2, 1000, 128), (64, 16, 4, 4096, 128))
    for impl, found in decode.DECODE_IMPLEMENTATIONS.items():
        for sizes in all_sizes[: 1 if quick else None]:
            for dtype in DTYPES:
                name = "{} B{} N{} K{} S{} H{}".format(impl, *sizes)
                problem = decode.DecodeProblem(current_device(), dtype, head_dim=sizes[-1], interpret=False)
                check = functools.partial(check_decode, impl, sizes, dtype)
                if impl != "reference":
                    yield Comparison(f"{name} {dtype}", dtype, check, found.refusal(problem))


def comparisons(what: str, *, quick: bool) -> Iterator[Comparison]:
    if what == "cross_entropy":
        return cross_entropy_comparisons(quick=quick)
    if what == "newton_schulz":
        return newton_schulz_comparisons(quick=quick)
    if what == "decode":
        return decode_comparisons(quick=quick)
    return attention_comparisons(what, quick=quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a file to add JSON lines to")
    parser.add_argument("--what", required=True)
    parser.add_argument("--quick", action="store_true", help="small shapes alone")
    arguments = parser.parse_args()
    records = Records(arguments.out)
    platform = "cpu" if current_device().platform == "cpu" else "accelerator"
    for name, dtype, check, reason in comparisons(arguments.what, quick=arguments.quick):
        record: dict[str, Any] = {"what": arguments.what, "case": name}
        if reason is not None:
            records.add(**record, verdict="refused", message=reason)
            continue
        factor = NEWTON_SCHULZ_FACTOR if arguments.what == "newton_schulz" else 1
        tolerance = Tolerance(*(factor * value for value in TOLERANCES[platform, dtype]))
        begun = time.perf_counter()
        try:
            found = check()
        except Exception as error:  # any: one shape that cannot be compiled says nothing about the next
            records.add(**record, verdict="error", message=f"{type(error).__name__}: {error}"[:2000])
            continue
        passed = found["rms"] <= tolerance.rms and found["peak"] <= tolerance.peak
        records.add(
            **record,
            verdict="pass" if passed else "FAIL",
            **found,
            tolerance=tolerance._asdict(),
            seconds=time.perf_counter() - begun,
        )


if __name__ == "__main__":
    main()
