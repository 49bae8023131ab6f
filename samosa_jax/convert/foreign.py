"""A model of another program: what its network is in our terms, and where its numbers are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from samosa_jax.config import GroupConfig, ModelConfig, OptimizerConfig
from samosa_jax.convert.layout import Layout
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params

# Logits, float32 (B, T, rows of its tables or fewer), that the other program gives to tokens, int (B, T).
Logits = Callable[[np.ndarray], np.ndarray]


_ADAMW = GroupConfig(kind="adamw", lr=1e-4, beta1=0.9, beta2=0.95, eps=1e-8)
# Rates that models trained with AdamW elsewhere stand: runs that begin with them take these over, and the
# stages a share of them (configs/stages: 2e-5 for SFT). Those of Muon would undo them within steps.
GENTLE = OptimizerConfig(
    matrix=replace(_ADAMW, weight_decay=0.1),
    embedding=_ADAMW,
    value_embedding=_ADAMW,
    head=_ADAMW,
    residual=_ADAMW,
    scalar=_ADAMW,
    decay="decoupled",
)


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """A checkpoint of another program, understood but not yet read.

    Attributes:
        kind: what people call it: "Qwen3".
        path: the file or folder that errors name.
        config: our network of the same function; vocab_size is the number of its tokens.
        tensors: by name, each read from disk when it is asked for.
        make_layout: from a configuration and `Network.info` to how the tensors lie.
        table_rows: rows of its tables; those from config.vocab_size on stand for no token.
        fills_vocabulary: whether its tokenizer has a token for each of config.vocab_size; in other models the
            last may stand for nothing.
        tokenizer: the folder of its tokenizer; None: it has none with it.
        step: of the training that made it; 0 where that is not known.
        open_peer: loads the model in PyTorch, computing in float32, to compare ours with; None: there is no
            second implementation of it here.
        optimizer: the rates that training goes on with, where none are given.
        origin: what the run's record keeps of where the model comes from.
    """

    kind: str
    path: Path
    config: ModelConfig
    tensors: Mapping[str, Any]
    make_layout: Callable[[ModelConfig, Any], Layout]
    table_rows: int
    tokenizer: Path | None
    fills_vocabulary: bool = False
    step: int = 0
    open_peer: Callable[[], Logits] | None = None
    optimizer: OptimizerConfig = GENTLE
    origin: Mapping[str, object] = field(default_factory=dict)

    def read_params(self, *, vocab_size: int) -> Params:
        """Parameters of our network with `vocab_size` tokens, float32 numpy arrays; see `add_rows`.

        Raises UserError as `Layout.to_params` does.
        """
        config = replace(self.config, vocab_size=vocab_size)
        info = Network.build(config).info
        layout = replace(self.make_layout(config, info), vocab_rows=self.table_rows)
        params = layout.to_params(self.tensors, source=str(self.path))
        return add_rows(params, first=self.config.vocab_size, vocab_size=vocab_size)


def add_rows(params: Params, *, first: int, vocab_size: int) -> Params:
    """With rows for the tokens from `first` up to vocab_size, and zeros behind them. In place.

    A new row is the mean of the rows before it. A token that nobody has seen yet is then as likely as tokens
    are on average, where zeros, or small random numbers, would often make it the likeliest of all: the
    logits of trained models lie well below zero (Hewitt 2021, "Initializing New Word Embeddings for
    Pretrained Language Models"). Logits of the other tokens stay what they were. Equal rows part ways with
    the first step that sees their tokens in different places.
    """
    tables = [params["embedding"]] + ([params["head"]] if "head" in params else [])
    if "value_embeddings" in params:
        tables += list(params["value_embeddings"]["table"])
    for table in tables:
        table[first:vocab_size] = table[:first].mean(axis=0, dtype=np.float64)
        table[vocab_size:] = 0
    return params


def check_vocabulary(model: ForeignModel, tokenizer: Path, *, num_tokens: object) -> None:
    """Raises UserError unless a tokenizer, without what is new in it, has as many tokens as the model."""
    if num_tokens != model.config.vocab_size:
        raise UserError(
            f"{tokenizer}: the tokenizer has {num_tokens} tokens, {model.path} has "
            f"{model.config.vocab_size}; name the tokenizer of this model with --tokenizer=FOLDER"
        )
