"""Measures what the server adds to the engine: tokens per second of many streams at once, and their fairness.

    python scripts/bench_server.py runs/sft [--streams=32] [--new_tokens=128] [--json=server.json]

In turn, the engine writes answers to as many prompts as there are streams, in this process, and a
`samosa serve` of its own process does so for clients that read the stream. The best round of each counts.
Starvation shows in the last lines: how long the slowest stream took beside the median, from the first byte
of the request to the last of the answer, and to its first token.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from samosa_jax.config import MeshConfig
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.rollout.engine import Engine
from samosa_jax.rollout.request import Prompt, Sampling
from samosa_jax.trained import Trained, open_trained

LISTENS = re.compile(r"http://127\.0\.0\.1:(\d+)")
READY_SECONDS = 900
QUESTIONS = (
    "Tell me about the sea.",
    "Why is the sky blue?",
    "What can I cook today?",
    "Who won the game last week?",
)


@dataclass(frozen=True)
class Round:
    """One round of the server."""

    tokens_per_sec: float
    seconds: tuple[float, ...]  # of every stream
    first_token_seconds: tuple[float, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default="")
    given = parser.parse_args()
    trained = open_trained(Path(given.run))
    prompts = [f"{QUESTIONS[i % len(QUESTIONS)]} {i}" for i in range(given.streams)]
    engine = Engine(
        trained.network,
        trained.params,
        mesh=make_mesh(MeshConfig(data=1), devices=trained.devices[:1]),
        max_batch=given.streams,
        prefix_bytes=0,
    )
    with running_server(given.run, given.streams) as address:
        run_engine(engine, trained, prompts, given.new_tokens)
        asyncio.run(run_server(address, prompts, given.new_tokens))
        engine_best, rounds = 0.0, []
        for _ in range(given.rounds):
            engine_best = max(engine_best, run_engine(engine, trained, prompts, given.new_tokens))
            rounds.append(asyncio.run(run_server(address, prompts, given.new_tokens)))
    best = max(rounds, key=lambda found: found.tokens_per_sec)
    print(f"{given.streams} streams of up to {given.new_tokens} tokens, {trained.name}, step {trained.step}")
    print(f"engine  {engine_best:8,.0f} tokens/s")
    print(
        f"server  {best.tokens_per_sec:8,.0f} tokens/s, {best.tokens_per_sec / engine_best:.2f} of the engine"
    )
    for name, values in (("whole answer", best.seconds), ("first token", best.first_token_seconds)):
        print(f"{name}: median {statistics.median(values):.2f} s, slowest {max(values):.2f} s")
    if given.json:
        record = {"engine_tokens_per_sec": engine_best, "streams": given.streams, "server": asdict(best)}
        Path(given.json).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def run_engine(engine: Engine, trained: Trained, prompts: list[str], new_tokens: int) -> float:
    """Tokens per second, prompts included, as the server's are."""
    sampling = Sampling(temperature=1.0, max_tokens=new_tokens)
    tokenizer = trained.tokenizer
    start, said = time.perf_counter(), engine.num_generated
    for text in prompts:
        tokens = [tokenizer.bos_id, *tokenizer.encode(text)]
        engine.submit(Prompt.of_tokens(tokens), sampling, end_ids={tokenizer.bos_id})
    while engine.has_work:
        engine.step()
    return (engine.num_generated - said) / (time.perf_counter() - start)


async def run_server(address: str, prompts: list[str], new_tokens: int) -> Round:
    """All streams at once."""
    limits = httpx.Limits(max_connections=len(prompts))
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        start = time.perf_counter()
        streams = await asyncio.gather(*(read_stream(client, text, new_tokens) for text in prompts))
        seconds = time.perf_counter() - start
    tokens, whole, first = zip(*streams, strict=True)
    return Round(sum(tokens) / seconds, whole, first)


async def read_stream(client: httpx.AsyncClient, prompt: str, new_tokens: int) -> tuple[int, float, float]:
    """Tokens of one answer, seconds to its end and to its beginning."""
    body: dict[str, Any] = {
        "model": "bench",
        "prompt": prompt,
        "max_tokens": new_tokens,
        "temperature": 1.0,
        "top_k": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, first, usage = time.perf_counter(), 0.0, {}
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            first = first or time.perf_counter() - start
            usage = json.loads(line[len("data: ") :]).get("usage") or usage
    return usage["completion_tokens"], time.perf_counter() - start, first


@contextlib.contextmanager
def running_server(run: str, streams: int) -> Iterator[str]:
    """The address of a server that answers."""
    flags = [f"--max_batch={streams}", "--port=0", "--name=bench", "--tools=none"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "samosa_jax.serve", run, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ,
    )
    try:
        yield wait_until_ready(process)
    finally:
        process.terminate()
        process.communicate()


def wait_until_ready(process: subprocess.Popen[str]) -> str:
    said: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        found = LISTENS.search(line)
        if not found:
            continue
        address = f"http://127.0.0.1:{found[1]}"
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{address}/health").status_code == 200:
                    return address
            time.sleep(0.2)
        break
    sys.exit("the server did not start:\n" + "".join(said))


if __name__ == "__main__":
    main()
