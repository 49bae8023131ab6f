"""Measures how fast the engine reads prompts and writes answers, and what keeps it from being faster.

    samosa bench-decode                                  # random weights in nanochat's depth-6 shape
    samosa bench-decode --run=runs/sft --batches=1,8 --top_k=50
    samosa bench-decode --peer="python scripts/decode_with_transformers.py --batch={batch}"

A peer is any program that prints a line `tokens_per_sec N` for a batch; it runs in turn with ours, and the
ratio is printed. Of several rounds the best counts: others use the machine too. The share of the memory's
bandwidth takes as read what every token has to read, the weights and the cache.
"""

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from samosa_kernels.device import current_device, peak_bandwidth

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.config import MeshConfig, ModelConfig
from samosa_jax.errors import UserError
from samosa_jax.model.cache import cache_bytes
from samosa_jax.model.gpt import Network
from samosa_jax.numbers_file import check_numbers_file, write_numbers
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.rollout.engine import Engine
from samosa_jax.rollout.request import Generation, Prompt, Sampling
from samosa_jax.trained import open_trained

STREAM_BYTES = 2**28  # read to measure the memory: more than any cache holds
PEER_LINE = re.compile(r"^tokens_per_sec ([\d.]+)\s*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class BenchFlags:
    """The flags of bench-decode."""

    run: str = ""  # of a trained model; empty: random weights in nanochat's shape of that depth
    depth: int = 6
    vocab_size: int = 32_768
    batches: str = "1,16,64"  # answers written at once
    prompt_tokens: int = 64
    new_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    block_tokens: int = 8
    rounds: int = 3
    peer: str = ""  # a command; {batch}, {prompt_tokens} and {new_tokens} are filled in
    json: str = ""  # file for the numbers


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One batch size."""

    batch: int
    prefill_tokens_per_sec: float
    first_token_ms: float  # of the last answer of the batch, from asking
    decode_tokens_per_sec: float
    ms_per_step: float
    bandwidth_share: float
    num_compiled: int  # programs after the first round
    peer_tokens_per_sec: float | None = None


def main(argv: list[str]) -> None:
    """Measures, prints a table, writes the numbers. Raises UserError."""
    flags = parse_dataclass(argv, BenchFlags, description=__doc__ or "")
    _check(flags)
    batches, sampling, file = _parse_batches(flags.batches), _sampling(flags), check_numbers_file(flags.json)
    console = Console()
    network, params, name = _model(flags)
    device = current_device()
    bandwidth = peak_bandwidth(device) or _measured_bandwidth()
    console.print(f"{name} on {device.kind}, {network.compute_dtype}; memory {bandwidth / 1e9:.0f} GB/s")
    results = [
        _measure(batch, network, params, flags, sampling=sampling, bandwidth=bandwidth) for batch in batches
    ]
    console.print(_table(results, flags))
    if file is not None:
        record = {
            "model": name,
            "device": device.kind,
            "bandwidth": bandwidth,
            "flags": asdict(flags),
            "results": [asdict(result) for result in results],
        }
        write_numbers(file, record)


def nanochat_shape(depth: int, *, vocab_size: int, context_len: int) -> ModelConfig:
    """nanochat's network: heads of 128, 64 channels of width per layer, all of its extras."""
    num_heads = -(-64 * depth // 128)
    model_dim = 128 * num_heads
    return ModelConfig(
        vocab_size=vocab_size,
        context_len=context_len,
        num_layers=depth,
        model_dim=model_dim,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=128,
        mlp_dim=4 * model_dim,
        embedding_norm=True,
        window_pattern="SSSL",
        soft_cap=15.0,
        value_embeddings=True,
        residual_scalars=True,
        x0_scalars=True,
        smear=True,
        backout=True,
    )


def _check(flags: BenchFlags) -> None:
    for name, least in (("prompt_tokens", 1), ("block_tokens", 1), ("rounds", 1)):
        if getattr(flags, name) < least:
            raise UserError(f"--{name} is {getattr(flags, name)}; it must be at least {least}")
    if flags.new_tokens <= flags.block_tokens:
        raise UserError(
            f"--new_tokens is {flags.new_tokens}; what follows the first block of {flags.block_tokens} "
            "(--block_tokens) is timed, so ask for more"
        )


def _sampling(flags: BenchFlags) -> Sampling:
    try:
        return Sampling(temperature=flags.temperature, top_k=flags.top_k, max_tokens=flags.new_tokens)
    except ValueError as error:
        raise UserError(f"--{error}") from error


def _parse_batches(text: str) -> list[int]:
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise UserError(f"--batches is {text!r}; expected numbers from 1 on with commas, such as 1,16")
    return batches


def _model(flags: BenchFlags) -> tuple[Network, Any, str]:
    if flags.run:
        trained = open_trained(Path(flags.run))
        network, params, name = trained.network, trained.params, f"{trained.name}, step {trained.step}"
    else:
        context_len = max(2048, flags.prompt_tokens + flags.new_tokens)
        config = nanochat_shape(flags.depth, vocab_size=flags.vocab_size, context_len=context_len)
        is_cpu = jax.default_backend() == "cpu"
        network = Network.build(config, compute_dtype="float32" if is_cpu else "bfloat16")
        params = jax.jit(network.init)(jax.random.key(0))
        name = f"nanochat's shape of depth {flags.depth}"
    if flags.prompt_tokens + flags.new_tokens > network.config.context_len:
        raise UserError(
            f"--prompt_tokens {flags.prompt_tokens} and --new_tokens {flags.new_tokens} are more than the "
            f"model's context of {network.config.context_len}; lower one of them"
        )
    return network, params, name


def _measure(
    batch: int, network: Network, params: Any, flags: BenchFlags, *, sampling: Sampling, bandwidth: float
) -> Measured:
    engine = Engine(
        network,
        params,
        mesh=make_mesh(MeshConfig(data=1), devices=jax.devices()[:1]),
        max_batch=batch,
        block_tokens=flags.block_tokens,
        prefix_bytes=0,
    )
    _round(engine, batch, sampling, flags)
    compiled = _Compilations()
    rounds, peers = [], []
    with compiled:
        for number in range(flags.rounds):
            rounds.append(_round(engine, batch, sampling, flags, seed=number))
            if flags.peer:
                peers.append(_peer(flags, batch))
    first_seconds, decode_seconds = (min(times) for times in zip(*rounds, strict=True))
    num_steps = flags.new_tokens - flags.block_tokens
    step_seconds = decode_seconds / num_steps
    return Measured(
        batch=batch,
        prefill_tokens_per_sec=batch * flags.prompt_tokens / first_seconds,
        first_token_ms=1e3 * first_seconds,
        decode_tokens_per_sec=batch / step_seconds,
        ms_per_step=1e3 * step_seconds,
        bandwidth_share=_bytes_per_step(network, batch, flags) / step_seconds / bandwidth,
        num_compiled=compiled.count,
        peer_tokens_per_sec=max(peers) if peers else None,
    )


def _round(
    engine: Engine, batch: int, sampling: Sampling, flags: BenchFlags, *, seed: int = 0
) -> tuple[float, float]:
    """Seconds until every answer has begun, and from then until all are finished."""
    rng = np.random.default_rng(seed)
    size = (batch, flags.prompt_tokens)
    prompts = rng.integers(0, engine.network.config.vocab_size, size)
    start = time.perf_counter()
    answers: list[Generation] = []
    for prompt in prompts:
        answers += engine.submit(Prompt.of_tokens(prompt.tolist()), sampling, end_ids=())
    while not all(answer.tokens for answer in answers):
        engine.step()
    begun, said = time.perf_counter(), engine.num_generated
    engine.generate(answers)
    seconds = time.perf_counter() - begun
    # Answers that began earlier have fewer tokens left: seconds of the work that a whole batch has.
    rest = batch * (flags.new_tokens - flags.block_tokens)
    return begun - start, seconds * rest / (engine.num_generated - said)


def _bytes_per_step(network: Network, batch: int, flags: BenchFlags) -> int:
    """What one token of every row has to read: every weight that is multiplied, and the cache."""
    multiplied = sum(
        leaf.num_params for leaf in jax.tree.leaves(network.info) if leaf.group in ("matrix", "head")
    )
    if network.config.tie_embeddings:
        multiplied += network.config.vocab_size * network.config.model_dim
    dtype = jnp.dtype(network.compute_dtype)
    kept = cache_bytes(
        network.config,
        num_rows=batch,
        capacity=flags.prompt_tokens + flags.new_tokens // 2,
        dtype=dtype,
    )
    return multiplied * dtype.itemsize + kept


def _measured_bandwidth() -> float:
    """Bytes a second that a product of a vector and a matrix reads."""
    width = 1024
    matrix = jnp.ones((width, STREAM_BYTES // 4 // width), jnp.float32)
    vector = jnp.ones((1, width), jnp.float32)
    product = jax.jit(jnp.matmul)
    return STREAM_BYTES / _best(lambda: jax.block_until_ready(product(vector, matrix)))


def _best(function: Callable[[], object], *, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


class _Compilations:
    """Counts what is compiled while it is entered."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: str | int) -> None:
        self.count += event.endswith("backend_compile_duration")


def _peer(flags: BenchFlags, batch: int) -> float:
    sizes = {"batch": batch, "prompt_tokens": flags.prompt_tokens, "new_tokens": flags.new_tokens}
    try:
        words = shlex.split(flags.peer.format(**sizes))
    except (LookupError, ValueError) as error:
        raise UserError(
            f"--peer: {flags.peer!r} cannot be read as a command ({error}); braces are for {', '.join(sizes)}"
        ) from error
    command = shlex.join(words)
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"--peer: {command!r} cannot be run: {error.strerror}") from error
    found = PEER_LINE.search(done.stdout)
    if done.returncode or not found:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
        raise UserError(
            f"--peer: {command!r} exited with {done.returncode} and said {last[0]!r}; expected a line "
            "tokens_per_sec N"
        )
    return float(found[1])


def _table(results: list[Measured], flags: BenchFlags) -> Table:
    table = Table(
        title=f"{flags.new_tokens} tokens after prompts of {flags.prompt_tokens}, top_k {flags.top_k}"
    )
    names = ["batch", "prefill tok/s", "first token ms", "decode tok/s", "ms a step", "of bandwidth"]
    peers = ["peer tok/s", "ratio"] if flags.peer else []
    for name in [*names, "compiled", *peers]:
        table.add_column(name, justify="right")
    for result in results:
        cells = [
            f"{result.batch}",
            f"{result.prefill_tokens_per_sec:,.0f}",
            f"{result.first_token_ms:,.0f}",
            f"{result.decode_tokens_per_sec:,.0f}",
            f"{result.ms_per_step:.2f}",
            f"{result.bandwidth_share:.0%}",
            f"{result.num_compiled}",
        ]
        if result.peer_tokens_per_sec is not None:
            ratio = result.decode_tokens_per_sec / result.peer_tokens_per_sec
            cells += [f"{result.peer_tokens_per_sec:,.0f}", f"{ratio:.2f}"]
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    run(main)
