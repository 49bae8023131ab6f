"""A tiny real model that knows a few conversations by heart, as a run on disk: what it says is certain."""

import json
from collections.abc import Sequence
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

SHAPE = {
    "model.vocab_size": 640,
    "model.context_len": 512,
    "model.model_dim": 64,
    "model.num_heads": 4,
    "model.mlp_dim": 256,
    "train.batch_tokens": 1024,
}
MAX_STEPS = 1000
LEARNED = 0.1  # nats at the hardest token; below log(2) the right token is the likeliest one everywhere


def write_run(folder: Path, conversations: Sequence[Any]) -> Path:
    """A run whose model answers as in these conversations (canonical JSON), at temperature 0."""
    data = _write_dataset(folder, conversations)
    config = parse_config(training_runs.flags(data, folder / "runs", {"name": "reciter", **SHAPE})).config
    tokenizer = Tokenizer.load(folder / "tokenizer")
    network = Network.build(config.model)
    tokens, said = _rows(conversations, tokenizer)
    params = _learn(network, tokens, said)
    run = folder / "runs" / "reciter"
    training_runs.save_run(run, config, tokenizer, params)
    return run


def _write_dataset(folder: Path, conversations: Sequence[Any]) -> Path:
    """A tokenizer that writes these conversations in few tokens, and some shards of it."""
    texts = [json.dumps(one, ensure_ascii=False) for one in conversations] * 10
    sample = draw_sample(texts, max_bytes=1 << 20, seed=0)
    options = TokenizerOptions(vocab_size=SHAPE["model.vocab_size"])
    tokenizer = tokenizer_training.train(sample, options, inputs=["lines"])
    path = folder / "tokenizer"
    tokenizer_training.write(tokenizer, path)
    training_runs.write_shards(folder / "data", tokenizer, tokenizer_folder=path, texts=texts)
    return folder / "data"


def _rows(conversations: Sequence[Any], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (B, T), and which of them the assistant says."""
    rendered = [template.render(parse_conversation(one), tokenizer) for one in conversations]
    length = max(len(one.tokens) for one in rendered)
    tokens = np.zeros((len(rendered), length), np.int32)
    said = np.zeros(tokens.shape, bool)
    for row, one in enumerate(rendered):
        tokens[row, : len(one.tokens)] = one.tokens
        said[row, : len(one.tokens)] = np.isin(one.roles, (Role.ASSISTANT, Role.THINK, Role.TOOL_CALL))
    return tokens, said


def _learn(network: Network, tokens: np.ndarray, said: np.ndarray) -> Any:
    """Parameters under which what is said is the likeliest, token by token."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    inputs, targets, weights = map(jnp.asarray, (tokens[:, :-1], tokens[:, 1:], said[:, 1:]))
    position = jnp.broadcast_to(jnp.arange(inputs.shape[1]), inputs.shape)

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = network.logits(
            params,
            inputs,
            k_lo=jnp.zeros_like(position),
            k_hi=position + 1,
            position=position,
            turn_position=position,
        )
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets) * weights
        return nll.sum() / weights.sum(), nll.max()

    @jax.jit
    def step(params: Any, state: optax.OptState) -> tuple[Any, optax.OptState, jax.Array]:
        (_, worst), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, worst

    params = jax.jit(network.init)(jax.random.key(0))
    state = optimizer.init(params)
    worst = jnp.inf
    for number in range(MAX_STEPS):
        params, state, worst = step(params, state)
        if number % 10 == 9 and worst < LEARNED:
            return params
    raise AssertionError(f"not learned by heart: {worst:.2f} nats at the hardest token")
