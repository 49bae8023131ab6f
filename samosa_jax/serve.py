"""Serves a trained model over HTTP: OpenAI's API, and a web page to talk to it.

    python -m samosa_jax.serve runs/sft [--port=8000] [--tools=calculator,web_search]

Without a folder it serves the newest run. SIGTERM and Ctrl-C let running answers end before the server does;
a second Ctrl-C ends them too. docs/serving.md describes the API.
"""

import asyncio
import importlib
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.errors import UserError

if TYPE_CHECKING:
    import socket

    from samosa_jax.data.tokenizer import Tokenizer
    from samosa_jax.rollout.engine import Engine
    from samosa_jax.rollout.tools.registry import Registry
    from samosa_jax.server.settings import ServerSettings
    from samosa_jax.trained import Trained

KEY_VARIABLE = "SAMOSA_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class ServeFlags:
    """The flags of `serve`, and the keys of its YAML files."""

    run: str = ""  # the folder of a run or of a checkpoint; the newest run if empty
    runs: str = "runs"  # where the newest run is looked for
    step: int | None = None  # of the checkpoint; the newest if not given
    tokenizer: str = ""  # its folder, if it is not where the run says
    name: str = ""  # of the model, to those who ask; the run's if empty
    host: str = "127.0.0.1"  # 0.0.0.0: for other machines too
    port: int = 8000  # 0: a free one
    api_key: str = ""  # that requests must carry; better in $SAMOSA_API_KEY, which nobody else can read
    cors_origins: tuple[str, ...] = ()  # of other web pages that may call, as in https://example.org
    tools: tuple[str, ...] = ("calculator",)  # calculator, web_search, python, or none
    describe_tools: bool = False  # tell the model of them; models trained to call them need no telling
    search_in: str = (
        ""  # documents of web_search: JSONL, or a folder; if empty, the service of $TAVILY_API_KEY
    )
    tool_seconds: float = 10.0  # that a tool may take
    context_len: int | None = None  # tokens of prompt and answer; as trained if not given
    max_batch: int = 16  # answers that a replica makes at once
    replicas: int = 0  # copies of the model, on devices of their own; 0: one for every device
    tensor: int = 1  # devices that one copy is split over
    max_queue: int = 64  # answers that may wait for room; more are refused
    max_choices: int = 16  # answers that one request may ask for
    max_body_bytes: int = 1 << 20  # of a request
    temperature: float = 0.8  # where a request names none
    top_k: int = 50  # likewise; 0: no limit
    max_tokens: int = 512  # likewise, of a chat answer
    warm_up: bool = True  # compile before the first request instead of in it
    drain_seconds: float = 30.0  # that running answers have left when the server is told to stop
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def main(argv: list[str]) -> None:
    """Runs until it is told to stop. Raises UserError."""
    flags = parse_dataclass(
        argv, ServeFlags, description="Serve a trained model over HTTP.", positional=("run",)
    )
    _check(flags)
    from samosa_jax.server.running import open_socket

    _start_logging(flags.log_level)
    with open_socket(flags.host, flags.port) as listener:
        serve(flags, listener)


def _start_logging(level: str) -> None:
    """To stderr: what the server itself says, from this level on, and warnings of everything else."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("samosa_jax", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn.access").addFilter(_is_worth_a_line)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Not what machines ask every few seconds."""
    return not any(f'"GET {path} ' in record.getMessage() for path in ("/health", "/metrics"))


def _check(flags: ServeFlags) -> None:
    for name in ("fastapi", "prometheus_client", "uvicorn"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"{name} is not installed; `pip install 'samosa-jax[serve]'` installs what serving needs"
            ) from error
    if not 0 <= flags.port <= 65535:
        raise UserError(f"--port={flags.port}; expected 1 to 65535, or 0 for a free one")
    if flags.max_batch < 1 or flags.replicas < 0:
        raise UserError(
            f"--max_batch={flags.max_batch} --replicas={flags.replicas}; expected 1 or more answers at once, "
            "and 0 or more replicas"
        )
    for name in ("tool_seconds", "drain_seconds"):
        if not 0 <= getattr(flags, name) < float("inf"):
            raise UserError(f"--{name}={getattr(flags, name)}; expected seconds, 0 or more")


def serve(flags: ServeFlags, listener: "socket.socket") -> None:
    """Serves until told to stop. Raises UserError for a model or tools that cannot be had."""
    from samosa_jax.compilation_cache import use_compilation_cache
    from samosa_jax.rollout.assistant import Assistant
    from samosa_jax.server.app import create_app
    from samosa_jax.server.page import page_folder
    from samosa_jax.server.running import Running
    from samosa_jax.server.service import Service
    from samosa_jax.toolbox import open_tools
    from samosa_jax.trained import make_engines, open_named

    use_compilation_cache()
    registry = open_tools(flags.tools, search_in=flags.search_in)
    trained = open_named(flags)
    replicas = flags.replicas or max(1, len(trained.devices) // max(1, flags.tensor))
    settings = _settings(flags, trained, replicas=replicas)
    engines = make_engines(
        trained,
        max_batch=flags.max_batch,
        context_len=flags.context_len,
        replicas=replicas,
        tensor=flags.tensor,
    )
    address = _address(listener)
    for line in _introduction(flags, settings, trained, engines, registry, address=address):
        print(line, flush=True)

    began = time.monotonic()
    num_programs = 0

    def open_assistant() -> Assistant:
        nonlocal num_programs
        if flags.warm_up:
            num_programs = sum(engine.warm_up() for engine in engines)
        return Assistant(engines, trained.tokenizer, registry=registry, tool_seconds=flags.tool_seconds)

    def say_ready() -> None:
        compiled = f", {num_programs} programs compiled" if num_programs else ""
        print(f"ready after {time.monotonic() - began:.1f} s{compiled}; to try it:", flush=True)
        print(f"  {_curl(settings, address)}", flush=True)

    async def serve_all() -> None:
        service = Service(
            settings, open_assistant, tool_schemas=registry.schemas() if registry is not None else ()
        )
        app = create_app(service, page=page_folder())
        running = Running(app, service, drain_seconds=flags.drain_seconds, on_ready=say_ready)
        was_ready = await running.serve(listener)
        if not was_ready:
            # A thread that compiles cannot be ended, and Python would wait for it.
            sys.stdout.flush()
            os._exit(0)

    with asyncio.Runner(loop_factory=_fast_event_loop()) as runner:
        runner.run(serve_all())


def _fast_event_loop() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    """uvloop's; None, for asyncio's own, on systems that it is not made for."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    return importlib.import_module("uvloop").new_event_loop


def _settings(flags: ServeFlags, trained: "Trained", *, replicas: int) -> "ServerSettings":
    from samosa_jax.server.settings import Defaults, Limits, ServerSettings

    return ServerSettings(
        model_name=flags.name or trained.name,
        vocab_size=trained.tokenizer.vocab_size,
        max_token_bytes=int(trained.tokenizer.token_bytes.max()),
        created=int(trained.folder.stat().st_mtime),
        describe_tools=flags.describe_tools,
        api_key=flags.api_key or os.environ.get(KEY_VARIABLE, ""),
        cors_origins=flags.cors_origins,
        limits=Limits(
            max_running=flags.max_batch * replicas,
            max_queue=flags.max_queue,
            max_choices=flags.max_choices,
            max_body_bytes=flags.max_body_bytes,
        ),
        defaults=Defaults(temperature=flags.temperature, top_k=flags.top_k, max_tokens=flags.max_tokens),
    )


def _introduction(
    flags: ServeFlags,
    settings: "ServerSettings",
    trained: "Trained",
    engines: "Sequence[Engine]",
    registry: "Registry | None",
    *,
    address: str,
) -> list[str]:
    """What the server is, for whoever started it."""
    from samosa_jax.sizes import parameter_counts

    cache_bytes = sum(engine.cache_bytes() for engine in engines)
    num_parameters = parameter_counts(trained.network.config).total
    tools = registry.names if registry is not None else ()
    facts = {
        "model": f"{settings.model_name}: {trained.folder}, step {trained.step}, "
        f"{num_parameters:,} parameters",
        "device": f"{len(trained.devices)} x {trained.devices[0].device_kind}, {len(engines)} x the model",
        "context": f"{engines[0].context_len:,} tokens of prompt and answer",
        "batch": f"{settings.limits.max_running} answers at once, {settings.limits.max_queue} more may wait",
        "cache": f"at most {cache_bytes:,} bytes of keys and values",
        "tools": ", ".join(tools) or "none",
        "key": f"requests must carry that of ${KEY_VARIABLE} or --api-key"
        if settings.api_key
        else "none; whoever reaches this address may ask",
    }
    lines = [
        *trained.notices,
        f"serving at {address}",
        *(f"  {name:<9}{fact}" for name, fact in facts.items()),
    ]
    if registry is not None and flags.describe_tools:
        num_tokens = _tokens_of_tools(trained.tokenizer, registry)
        lines.append(f"  what the model reads of its tools takes {num_tokens} tokens of every context")
    if "python" in tools:
        lines += [f"  {line}" for line in _describe_protections()]
    if not settings.api_key and flags.host not in LOOPBACK:
        lines.append(f"  other machines can reach {flags.host}: set {KEY_VARIABLE} to ask for a key")
    return lines


def _tokens_of_tools(tokenizer: "Tokenizer", registry: "Registry") -> int:
    from samosa_jax.data.chat.conversation import Conversation, Message
    from samosa_jax.data.chat.template import render

    bare = Conversation(messages=(Message(role="user", text="Hello"),))
    told = replace(bare, tools=registry.schemas())
    return len(render(told, tokenizer).tokens) - len(render(bare, tokenizer).tokens)


def _describe_protections() -> list[str]:
    """What programs of the model are kept from on this machine, found by trying."""
    from samosa_jax.rollout.tools.sandbox import protections

    found = protections()
    held = [protection.name for protection in found if protection.is_active]
    open_ones = [protection.name for protection in found if not protection.is_active]
    lines = [f"python is kept from: {', '.join(held) or 'nothing'}"]
    if open_ones:
        lines.append(f"python is NOT kept from: {', '.join(open_ones)}")
    return lines


def _address(listener: "socket.socket") -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _curl(settings: "ServerSettings", address: str) -> str:
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if settings.api_key else ""
    body = f'{{"model": "{settings.model_name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    return f"curl {address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"


if __name__ == "__main__":
    run(main, sys.argv[1:])
