"""A small model that says what it is told to, on disk as training leaves one, and servers that run it.

Its network is a real one whose blocks add nothing to the residual stream, as before the first step of
training. What follows a token is then a matter of embedding and head alone, and these are set by hand.
"""

import asyncio
import itertools
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import openai
import training_runs

from samosa_jax.config import Config, ModelConfig
from samosa_jax.data import tokenizer_training
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.data.tokenizer_training import TokenizerOptions, draw_sample
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry
from samosa_jax.server.app import create_app
from samosa_jax.server.page import page_folder
from samosa_jax.server.running import Running, open_socket
from samosa_jax.server.service import Service
from samosa_jax.server.settings import Defaults, Limits, ServerSettings
from samosa_jax.tasks.tool_schemas import TOOLS
from samosa_jax.trained import make_engines, open_trained

NAME = "talker"
VOCAB_SIZE = 640
CONTEXT_LEN = 1024
MODEL_DIM = 128
MAX_BATCH = 4
CERTAINTY = 30.0  # the logit of what follows, where that of everything else is 0

# Every answer: a thought, a call of the calculator, and a sentence once the result is there.
THOUGHT = "Six times seven is a product."
BEFORE_CALL = "I multiply"
CALL = "6*7"
AFTER_CALL = "That makes 42, café 🍲!"
# A call that was forced as far as its arguments takes none.
ARGUMENTS = " {}}"
SAID = (
    f"<|assistant_start|><think>{THOUGHT}</think>{BEFORE_CALL}<|python_start|>{CALL}<|python_end|>",
    f"<|output_end|>{AFTER_CALL}<|assistant_end|>",
    f'":{ARGUMENTS}<|python_end|>',
    # Text without end, and dice.
    " tick tock tick",
    *(f" roll {face} roll" for face in ("one", "two", "three", "four", "five", "six")),
)


def write_run(folder: Path, *, context_len: int = CONTEXT_LEN) -> Path:
    """The run of the model, as training leaves it."""
    run = folder / NAME
    tokenizer = train_tokenizer()
    tokenizer_training.write(tokenizer, run / "tokenizer")
    config = Config(
        name=NAME,
        out_dir=str(folder),
        model=ModelConfig(
            vocab_size=tokenizer.vocab_size,
            context_len=context_len,
            num_layers=1,
            model_dim=MODEL_DIM,
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            mlp_dim=64,
        ),
    )
    params = teach(Network.build(config.model), tokenizer)
    training_runs.save_run(run, config, tokenizer, params)
    return run


def train_tokenizer() -> Tokenizer:
    """One in which every word of what is said is a token, and prompts with tools are short."""
    said = "\n".join(SAID).replace("<|", " ").replace("|>", " ")
    tools = [json.dumps(schema) for schema in TOOLS]
    sample = draw_sample([*[said] * 50, *tools * 5], max_bytes=1 << 20, seed=0)
    return tokenizer_training.train(sample, TokenizerOptions(vocab_size=VOCAB_SIZE), inputs=["made up"])


def teach(network: Network, tokenizer: Tokenizer) -> Params:
    """Parameters with which the model says SAID; after any other token it ends its answer."""
    end = tokenizer.special_ids["<|assistant_end|>"]
    following: defaultdict[int, set[int]] = defaultdict(set)
    for text in SAID:
        tokens = tokenizer.encode_with_specials(text)
        for token, after in itertools.pairwise(tokens):
            following[token].add(after)
    forks = {tokenizer.decode([token]): len(after) for token, after in following.items() if len(after) > 1}
    assert forks == {" roll": 6}, f"a token has one successor; these have more: {forks}"
    dim = network.config.model_dim
    assert len(following) < dim
    embedding = np.zeros((network.config.padded_vocab_size, dim), np.float32)
    head = np.zeros_like(embedding)
    embedding[:, 0] = 1.0
    head[end, 0] = CERTAINTY / np.sqrt(dim)
    for channel, (token, after) in enumerate(following.items(), start=1):
        embedding[token] = np.eye(dim)[channel]
        head[list(after), channel] = CERTAINTY / np.sqrt(dim)
    params = jax.jit(network.init)(jax.random.key(0))
    return {**params, "embedding": jnp.asarray(embedding), "head": jnp.asarray(head)}


@dataclass(kw_only=True)
class LiveServer:
    """A server that answers at `address`."""

    address: str
    service: Service
    running: Running

    def client(self, *, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.address}/v1", api_key=key, max_retries=options.pop("max_retries", 0), **options
        )

    @property
    def host_and_port(self) -> tuple[str, int]:
        host, _, port = self.address.removeprefix("http://").rpartition(":")
        return host, int(port)


@contextmanager
def serving(
    run: Path,
    *,
    replicas: int = 1,
    max_batch: int = MAX_BATCH,
    tools: bool = True,
    limits: dict[str, Any] | None = None,
    drain_seconds: float = 0.0,
    assistant: type[Assistant] = Assistant,
    max_tokens: int = 256,
    describe_tools: bool = True,
    **settings: Any,
) -> Iterator[LiveServer]:
    """A server of the run in a thread of this process, ready, on a free port."""
    trained = open_trained(run, devices=jax.devices()[:replicas])
    registry = Registry([CalculatorTool()]) if tools else None
    engines = make_engines(trained, max_batch=max_batch, replicas=replicas)
    chosen = ServerSettings(
        model_name=NAME,
        vocab_size=trained.tokenizer.vocab_size,
        max_token_bytes=int(trained.tokenizer.token_bytes.max()),
        limits=Limits(max_running=max_batch * replicas, **(limits or {})),
        defaults=Defaults(temperature=0.0, max_tokens=max_tokens),
        describe_tools=describe_tools,
        **settings,
    )
    started: list[LiveServer] = []
    is_ready = threading.Event()
    ended_with: list[BaseException] = []

    async def serve() -> None:
        service = Service(
            chosen,
            lambda: assistant(engines, trained.tokenizer, registry=registry),
            tool_schemas=registry.schemas() if registry is not None else (),
        )
        app = create_app(service, page=page_folder())
        running = Running(app, service, drain_seconds=drain_seconds, on_ready=is_ready.set)
        with open_socket("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            started.append(LiveServer(address=f"http://127.0.0.1:{port}", service=service, running=running))
            await running.serve(listener)

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            ended_with.append(error)
        finally:
            is_ready.set()

    thread = threading.Thread(target=work, name="server")
    thread.start()
    is_ready.wait(120)
    if ended_with:
        raise ended_with[0]
    live = started[0]
    try:
        yield live
    finally:
        if thread.is_alive():
            live.running.stop()
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"
