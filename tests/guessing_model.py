"""A tiny real model that answers sums with the calculator about half of the time, and else guesses wrong."""

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import training_runs

from samosa_jax.command_line import parse_config
from samosa_jax.data import tokenizer_training
from samosa_jax.data.chat import template
from samosa_jax.data.chat.conversation import parse_conversation
from samosa_jax.data.chat.template import Role
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.data.tokenizer_training import TokenizerOptions, draw_sample
from samosa_jax.model.gpt import Network

CONTEXT_LEN = 160
SHAPE = {
    "model.vocab_size": 512,
    "model.context_len": CONTEXT_LEN,
    "model.model_dim": 32,
    "model.mlp_dim": 64,
    "train.batch_tokens": CONTEXT_LEN * 8,
}
SUMS = [f"{a}+{b}" for a, b in itertools.product((12, 23, 34), (31, 45))]
NUM_STEPS = 100


def question(expression: str) -> str:
    return f"What is {expression}?"


def rows() -> list[dict[str, str]]:
    """Of a file of GSM8K."""
    return [{"question": question(expression), "answer": f"#### {total(expression)}"} for expression in SUMS]


def total(expression: str) -> int:
    return sum(map(int, expression.split("+")))


def write(folder: Path, *, is_taught: bool = True) -> tuple[Path, Path]:
    """(run, folder of GSM8K's file): the model of random weights without is_taught."""
    conversations = [one for expression in SUMS for one in (_right(expression), _wrong(expression))]
    texts = [*(json.dumps(one) for one in conversations), *map(training_runs.make_text, range(100))]
    sample = draw_sample(texts, max_bytes=1 << 20, seed=0)
    options = TokenizerOptions(vocab_size=SHAPE["model.vocab_size"])
    tokenizer_training.write(tokenizer_training.train(sample, options, inputs=["sums"]), folder / "tokenizer")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    training_runs.write_shards(folder / "data", tokenizer, tokenizer_folder=folder / "tokenizer", texts=texts)
    line = training_runs.flags(folder / "data", folder / "runs", {"name": "guesser", **SHAPE})
    config = parse_config(line).config
    network = Network.build(config.model)
    params = jax.jit(network.init)(jax.random.key(0))
    if is_taught:
        params = _learn(network, params, conversations, tokenizer)
    training_runs.save_run(folder / "runs" / "guesser", config, tokenizer, params)
    questions = folder / "questions" / "gsm8k"
    questions.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows())
    (questions / "train.jsonl").write_text(lines, encoding="utf-8")
    return folder / "runs" / "guesser", questions.parent


def _right(expression: str) -> dict[str, Any]:
    call = {
        "type": "function",
        "function": {"name": "calculator", "arguments": {"expression": expression}},
    }
    return {
        "messages": [
            {"role": "user", "content": question(expression)},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": str(total(expression))},
            {"role": "assistant", "content": f"It is {total(expression)}."},
        ]
    }


def _wrong(expression: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question(expression)},
            {"role": "assistant", "content": "I guess 99."},
        ]
    }


def _learn(network: Network, params: Any, conversations: list[Any], tokenizer: Tokenizer) -> Any:
    rendered = [template.render(parse_conversation(one), tokenizer) for one in conversations]
    length = max(len(one.tokens) for one in rendered)
    tokens = np.zeros((len(rendered), length), np.int32)
    said = np.zeros(tokens.shape, np.float32)
    for row, one in enumerate(rendered):
        tokens[row, : len(one.tokens)] = one.tokens
        said[row, : len(one.tokens)] = np.isin(one.roles, (Role.ASSISTANT, Role.THINK, Role.TOOL_CALL))
    position = np.broadcast_to(np.arange(length - 1, dtype=np.int32), (len(rendered), length - 1))
    optimizer = optax.adam(3e-2)

    def loss(params: Any) -> jax.Array:
        logits = network.logits(
            params,
            jnp.asarray(tokens[:, :-1]),
            k_lo=jnp.zeros_like(position),
            k_hi=jnp.asarray(position + 1),
            position=jnp.asarray(position),
            turn_position=jnp.asarray(position),
        )
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return (nll * said[:, 1:]).sum() / said[:, 1:].sum()

    @jax.jit
    def learn(params: Any) -> Any:
        def step(_: jax.Array, carry: Any) -> Any:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, NUM_STEPS, step, (params, optimizer.init(params)))[0]

    return learn(params)
