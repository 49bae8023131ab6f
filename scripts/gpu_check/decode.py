"""Times decode attention: one query a sequence over caches of several layers, larger together than the L2.

    python -m scripts.gpu_check.decode --out results.jsonl [--quick]

One record an implementation and batch. Several tokens are decoded in one program, each layer's output being
the next one's query, so that launching costs what it does in generation. The bytes are those of the keys and
values in range: everything else is small.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from samosa_kernels.attention.decode import (
    DECODE_IMPLEMENTATIONS,
    DecodeProblem,
    decode_attention,
    resolve_decode,
)
from samosa_kernels.device import current_device, peak_bandwidth

from scripts.gpu_check.records import Records

DTYPE = "bfloat16"


class Generation(NamedTuple):
    """What is decoded, and how often it is timed."""

    num_layers: int = 22
    N: int = 16
    K: int = 4
    H: int = 128
    S: int = 4096  # keys, all in range
    tokens: int = 16  # in one program
    repeats: int = 5


def measure(impl: str, batch: int, size: Generation) -> dict[str, Any]:
    """Raises what the implementation raises."""
    num_layers, N, K, H, S, tokens, repeats = size
    query_key, *cache_keys = jax.random.split(jax.random.key(0), 1 + 2 * num_layers)
    q_BNH = jax.random.normal(query_key, (batch, N, H), DTYPE)
    caches = [jax.random.normal(key, (batch, K, S, H), DTYPE) for key in cache_keys]
    lo_B, hi_B = jnp.zeros(batch, jnp.int32), jnp.full(batch, S, jnp.int32)

    def one_token(_: jax.Array, q_BNH: jax.Array, caches: list[jax.Array]) -> jax.Array:
        for k_BKSH, v_BKSH in zip(caches[:num_layers], caches[num_layers:], strict=True):
            q_BNH = decode_attention(q_BNH, k_BKSH, v_BKSH, lo_B, hi_B, impl=impl)
        return q_BNH

    @jax.jit
    def decode(q_BNH: jax.Array, caches: list[jax.Array]) -> jax.Array:
        return jax.lax.fori_loop(0, tokens, lambda step, q: one_token(step, q, caches), q_BNH)

    jax.block_until_ready(decode(q_BNH, caches))
    runs = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(decode(q_BNH, caches))
        runs.append(time.perf_counter() - begun)
    seconds = statistics.median(runs) / tokens
    cache_bytes = sum(cache.nbytes for cache in caches)
    bandwidth = peak_bandwidth(current_device())
    return {
        "microseconds_per_layer": 1e6 * seconds / num_layers,
        "tokens_per_second": batch / seconds,
        "bytes_per_second": cache_bytes / seconds,
        "share_of_bandwidth": None if bandwidth is None else cache_bytes / seconds / bandwidth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a file to add JSON lines to")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    arguments = parser.parse_args()
    size = Generation(num_layers=1, N=4, K=2, S=256, tokens=2, repeats=2) if arguments.quick else Generation()
    problem = DecodeProblem(device=current_device(), dtype=DTYPE, head_dim=size.H, interpret=False)
    auto = resolve_decode("auto", problem)
    others = [name for name in DECODE_IMPLEMENTATIONS if name not in (auto, "reference")]
    records = Records(arguments.out)
    for impl in (auto, *others):
        refusal = DECODE_IMPLEMENTATIONS[impl].refusal(problem)
        for batch in (1, 4 if arguments.quick else 64):
            record = {"attention": impl, "batch": batch, "keys": size.S, "layers": size.num_layers}
            if refusal is not None:
                records.add(**record, verdict="refused", message=refusal)
            else:
                records.add(**record, verdict="timed", **measure(impl, batch, size))


if __name__ == "__main__":
    main()
