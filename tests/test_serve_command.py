"""`samosa serve` as users start it: a process of its own, told to stop by signals."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
import serving
import training_runs
from serving import NAME

from samosa_jax.errors import UserError
from samosa_jax.serve import main

QUICK = ("--warm_up=false", "--max_batch=2", "--replicas=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.write_run(tmp_path_factory.mktemp("runs"))


def start(*flags: str, **environment: str) -> subprocess.Popen[str]:
    """A process that sees one device."""
    return subprocess.Popen(
        [sys.executable, "-m", "samosa_jax", "serve", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**training_runs.environment(), **environment},
    )


@contextmanager
def started(
    run: Path, *flags: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """(process, its address, what it said until then); it is killed if the test does not end it."""
    process = start(str(run), "--port=0", *flags, **environment)
    assert process.stdout is not None
    said: list[str] = []
    try:
        while not said or "curl " not in said[-1]:
            line = process.stdout.readline()
            assert line, f"it ended: {said}, {process.communicate()}"
            said.append(line.rstrip())
        address = next(line for line in said if line.startswith("serving at ")).removeprefix("serving at ")
        yield process, address, said
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_serves_until_sigterm_and_lets_answers_end(run: Path):
    with started(run, *QUICK, "--tools=calculator,python", SAMOSA_API_KEY="s3cret") as (
        process,
        address,
        said,
    ):
        introduction = "\n".join(said)
        for fact in (
            rf"model +{NAME}: .*00000001, step 1, \d[\d,]+ parameters",
            r"device +1 x cpu, 1 x the model",
            r"context +1,024 tokens",
            r"batch +2 answers at once, 64 more may wait",
            r"cache +at most [\d,]+ bytes",
            r"tools +calculator, python",
            r"python is (NOT )?kept from: .*network",
            r"ready after [\d.]+ s; to try it:",
        ):
            assert re.search(fact, introduction), fact
        assert "s3cret" not in introduction
        example = re.sub(r"\$SAMOSA_API_KEY", "s3cret", said[-1].strip())
        answered = subprocess.run(["bash", "-c", example], capture_output=True, text=True, timeout=120)
        assert serving.AFTER_CALL in answered.stdout, (example, answered)

        client = openai.OpenAI(base_url=f"{address}/v1", api_key="s3cret", max_retries=0)
        stream = client.completions.create(model=NAME, prompt="a tick", max_tokens=400, stream=True)
        text = next(stream).choices[0].text
        process.send_signal(signal.SIGTERM)
        chunks = list(stream)
        text += "".join(chunk.choices[0].text for chunk in chunks)
        assert text == " tock tick" * 200
        assert chunks[-1].choices[0].finish_reason == "length"
        assert process.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")
        assert "Traceback" not in process.communicate()[1]


@pytest.mark.parametrize("flags", [("--drain_seconds=0.1",), ()])
def test_an_answer_that_takes_too_long_to_drain_ends_with_an_error(run: Path, flags: tuple[str, ...]):
    """After the time that is given, or at the second signal."""
    with started(run, *QUICK, *flags) as (process, address, _):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        streams = [
            client.completions.create(model=NAME, prompt="a tick", max_tokens=1000, stream=True)
            for _ in range(8)
        ]
        next(streams[0])
        process.send_signal(signal.SIGINT)
        if not flags:
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="the server is shutting down"):
            list(streams[-1])
        assert process.wait(30) == 0


def test_told_to_stop_while_it_compiles(run: Path, tmp_path: Path):
    with started_early(run, JAX_COMPILATION_CACHE_DIR=str(tmp_path)) as (process, address):
        health = httpx.get(f"{address}/health", timeout=30)
        assert (health.status_code, health.json()["status"]) == (503, "starting")
        request = {"model": NAME, "prompt": "a tick"}
        response = httpx.post(f"{address}/v1/completions", json=request, timeout=30)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "starting"
        assert response.headers["retry-after"]
        assert httpx.get(f"{address}/", timeout=30).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@contextmanager
def started_early(run: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """As `started`, while all that the engine can need is being compiled."""
    process = start(str(run), "--port=0", "--replicas=1", "--tools=none", **environment)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip().removeprefix("serving at ")
        yield process, address
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_warm_up_compiles_before_it_is_ready(run: Path):
    flags = ("--max_batch=1", "--replicas=1", "--context_len=64", "--tools=none")
    with started(run, *flags) as (process, address, said):
        assert re.search(r"ready after [\d.]+ s, \d+ programs compiled", "\n".join(said))
        assert httpx.get(f"{address}/health").status_code == 200
        process.terminate()
        assert process.wait(30) == 0


def test_a_port_in_use(run: Path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = start(str(run), f"--port={port}")
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert stdout == ""
    assert stderr == (
        f"error: cannot listen on 127.0.0.1, port {port}: address already in use; choose others with --host "
        "and --port\n"
    )


def test_a_checkpoint_without_tokenizer(run: Path, tmp_path: Path):
    bare = tmp_path / NAME
    bare.mkdir()
    (bare / "checkpoints").symlink_to(run / "checkpoints")
    with pytest.raises(UserError, match=r"was trained with tokenizer .* --tokenizer=FOLDER"):
        main([str(bare), "--port=0"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--runs=/nowhere",), "there is no run with a finished checkpoint under /nowhere"),
        (("--port=99999",), "--port=99999; expected 1 to 65535"),
        (("--host=no.such.host.invalid",), "cannot listen on no.such.host.invalid, port 0"),
        (("--tools=calculater",), "did you mean calculator?"),
        (("--tools=web_search",), "nothing to search in"),
        (("--drain_seconds=-1",), "--drain_seconds=-1"),
        (("--max_batch=0",), "--max_batch=0"),
        (("--prot=80",), "did you mean --port?"),
    ],
)
def test_bad_flags(flags: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    with pytest.raises(UserError) as e:
        main(["--port=0", *flags])
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--temperature=9", "temperature is 9"),
        ("--max_queue=-1", "max_queue is -1"),
        ("--context_len=5000", "context_len is 5000"),
        ("--replicas=3", "3 replicas"),
        ("--api_key=a b", "characters that no HTTP header carries"),
    ],
)
def test_bad_settings_of_a_good_model(run: Path, flag: str, words: str):
    with pytest.raises(UserError) as e:
        main([str(run), "--port=0", flag])
    assert words in str(e.value)


def test_help_lists_every_flag(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    stdout = capsys.readouterr().out
    for flag in ("--port=8000", "--drain_seconds=30.0", "--warm_up=true", "--cors_origins"):
        assert flag in stdout
