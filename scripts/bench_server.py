"""Measures what the server adds to the engine: tokens per second of many streams at once, and their fairness.

    python scripts/bench_server.py runs/sft [--streams=32] [--new_tokens=256] [--json=server.json]

In turn, the engine writes answers to as many prompts as there are streams, in this process, and a
`samosa serve` of its own process does so for clients that read the stream. The best round of each counts.
Starvation shows in the last lines: how long the slowest stream took beside the median, from the first byte
of the request to the last of the answer, and to its first token. Processor seconds (on Linux) say what the
server adds where other programs share the machine.
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
from urllib.parse import urlsplit

import httpx

from samosa_jax.config import MeshConfig
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.rollout.engine import Engine
from samosa_jax.rollout.request import Prompt, Sampling
from samosa_jax.trained import Trained, open_trained

USAGE = re.compile(rb'"completion_tokens":(\d+)')
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
    processor_seconds: float  # for 1 000 tokens; 0 where the system does not tell
    seconds: tuple[float, ...]  # of every stream
    first_token_seconds: tuple[float, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=256)
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
    with running_server(given.run, given.streams) as server:
        run_engine(engine, trained, prompts, given.new_tokens)
        server.run(prompts, given.new_tokens)
        by_engine, by_server = [], []
        for _ in range(given.rounds):
            by_engine.append(run_engine(engine, trained, prompts, given.new_tokens))
            by_server.append(server.run(prompts, given.new_tokens))
    engine_best, best = (max(found, key=lambda x: x.tokens_per_sec) for found in (by_engine, by_server))
    engine_least, least = (min(x.processor_seconds for x in found) for found in (by_engine, by_server))
    share = best.tokens_per_sec / engine_best.tokens_per_sec
    print(f"{given.streams} streams of up to {given.new_tokens} tokens, {trained.name}, step {trained.step}")
    print(f"engine  {engine_best.tokens_per_sec:8,.0f} tokens/s")
    print(f"server  {best.tokens_per_sec:8,.0f} tokens/s, {share:.2f} of the engine")
    if least:
        print(
            f"processor seconds for 1,000 tokens: engine {engine_least:.2f}, server {least:.2f}, "
            f"{least / engine_least:.2f} times as many"
        )
    for name, values in (("whole answer", best.seconds), ("first token", best.first_token_seconds)):
        print(f"{name}: median {statistics.median(values):.2f} s, slowest {max(values):.2f} s")
    if given.json:
        record = {"streams": given.streams, "engine": asdict(engine_best), "server": asdict(best)}
        Path(given.json).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def run_engine(engine: Engine, trained: Trained, prompts: list[str], new_tokens: int) -> Round:
    """One round without a server; its time is that of the prompts too, as the server's is."""
    sampling = Sampling(temperature=1.0, max_tokens=new_tokens)
    tokenizer = trained.tokenizer
    start, processor, said = time.perf_counter(), time.process_time(), engine.num_generated
    for text in prompts:
        tokens = [tokenizer.bos_id, *tokenizer.encode(text)]
        engine.submit(Prompt.of_tokens(tokens), sampling, end_ids={tokenizer.bos_id})
    while engine.has_work:
        engine.step()
    num_tokens, seconds = engine.num_generated - said, time.perf_counter() - start
    return Round(num_tokens / seconds, (time.process_time() - processor) / num_tokens * 1000, (), ())


@dataclass(frozen=True)
class RunningServer:
    address: str
    process_id: int

    def run(self, prompts: list[str], new_tokens: int) -> Round:
        """One round: all streams at once."""

        async def read_all() -> list[tuple[int, float, float]]:
            streams = (read_stream(self.address, text, new_tokens) for text in prompts)
            return await asyncio.gather(*streams)

        start, processor = time.perf_counter(), self._processor_seconds()
        tokens, whole, first = zip(*asyncio.run(read_all()), strict=True)
        seconds, processor = time.perf_counter() - start, self._processor_seconds() - processor
        return Round(sum(tokens) / seconds, processor / sum(tokens) * 1000, whole, first)

    def _processor_seconds(self) -> float:
        """That the process has taken so far."""
        status = Path(f"/proc/{self.process_id}/stat")
        if not status.exists():
            return 0.0
        fields = status.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def read_stream(address: str, prompt: str, new_tokens: int) -> tuple[int, float, float]:
    """Tokens of one answer, seconds to its end and to its beginning.

    By a plain socket: the clients run on the processor that is measured, and must not be what is.
    """
    body = {
        "model": "bench",
        "prompt": prompt,
        "max_tokens": new_tokens,
        "temperature": 1.0,
        "top_k": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    content = json.dumps(body).encode()
    host, port = urlsplit(address).netloc.split(":")
    start, first, answer = time.perf_counter(), 0.0, b""
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = ("POST /v1/completions HTTP/1.1", f"Host: {host}", "Content-Type: application/json")
    writer.write("\r\n".join((*lines, f"Content-Length: {len(content)}", "", "")).encode() + content)
    while b"data: [DONE]" not in answer[-64:]:
        part = await reader.read(1 << 16)
        if not part:
            break
        answer += part
        first = first or (time.perf_counter() - start if b"data: {" in answer else 0.0)
    seconds = time.perf_counter() - start
    writer.close()
    usage = USAGE.search(answer)
    if not answer.startswith(b"HTTP/1.1 200") or usage is None:
        sys.exit(f"the server refused, or ended too soon: {answer[:400]!r}")
    return int(usage[1]), seconds, first


@contextlib.contextmanager
def running_server(run: str, streams: int) -> Iterator[RunningServer]:
    """A server that answers."""
    flags = [f"--max_batch={streams}", "--port=0", "--name=bench", "--tools=none"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "samosa_jax.serve", run, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ,
    )
    try:
        yield RunningServer(wait_until_ready(process), process.pid)
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
