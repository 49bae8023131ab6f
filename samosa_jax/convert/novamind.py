"""Reads NovaMind's `.pt` files: grouped-query attention, SwiGLU, RMSNorm, HiRoPE, one table for both ends.

What is known of that program is its architecture (configs/novamind_256m.yaml is our twin) and not what its
modules are called. So names are read in the plain way, several spellings of each are known (`_SPELLINGS`),
and what has no place is refused with its name. docs/importing.md says all that is assumed.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from samosa_jax.config import ModelConfig
from samosa_jax.convert.foreign import ForeignModel
from samosa_jax.convert.layout import Layout, Rule
from samosa_jax.convert.torch_files import TorchTensors, read_state_dict
from samosa_jax.errors import ConfigError, UserError

Pairs = Literal["halves", "neighbours"]

# Path of ours -> the last part of the module's name there.
_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "embedding": ("tok_emb", "token_emb", "tok_embeddings", "token_embedding", "embed_tokens", "embed"),
    "head": ("lm_head", "head", "output"),
    "final_norm/scale": ("norm", "final_norm", "norm_f", "ln_f"),
    "blocks/attention_norm/scale": ("attn_norm", "attention_norm", "input_layernorm", "norm1", "ln1", "ln_1"),
    "blocks/mlp_norm/scale": ("ffn_norm", "mlp_norm", "post_attention_layernorm", "norm2", "ln2", "ln_2"),
    "blocks/attention/query": ("q_proj", "wq"),
    "blocks/attention/key": ("k_proj", "wk"),
    "blocks/attention/value": ("v_proj", "wv"),
    "blocks/attention/output": ("o_proj", "out_proj", "wo"),
    "blocks/mlp/gate": ("gate_proj", "gate", "w_gate", "w1"),
    "blocks/mlp/up": ("up_proj", "up", "w_up", "w3"),
    "blocks/mlp/down": ("down_proj", "down", "w_down", "w2"),
}
_LAYER = re.compile(r"(.*?\b(?:layers|blocks|h)\.)(\d+)(\..+)")
_COMPUTED = (
    "inv_freq",
    "inv_freq_local",
    "inv_freq_global",
    "cos_cached",
    "sin_cached",
    "cos",
    "sin",
    "mask",
)
# What a file without a configuration is taken to be, as published.
_PUBLISHED = {
    "head_dim": 64,
    "context_len": 2048,
    "norm_eps": 1e-6,
    "local_base": 10_000.0,
    "global_base": 500_000.0,
}
# Entries of a plain dict `config` in the file, by what they say.
_CONFIG_KEYS = {
    "num_heads": ("num_heads", "n_heads", "n_head", "num_attention_heads"),
    "context_len": ("context_len", "max_seq_len", "max_position_embeddings", "block_size", "seq_len"),
    "norm_eps": ("norm_eps", "rms_norm_eps", "eps"),
    "local_base": ("hirope_local_base", "rope_local_base", "local_base"),
    "global_base": ("hirope_global_base", "rope_global_base", "global_base"),
}


def open_novamind(path: Path, *, pairs: Pairs = "halves", context_len: int | None = None) -> ForeignModel:
    """Reads a state dict, alone or under `model`, beside which a plain dict `config` may stand.

    Args:
        pairs: which channels of a clock's share of a head turn together: the first of its first half with
            the first of its second, or neighbours.
        context_len: tokens of the longest dialogue, where less than the model's own are wanted.

    Raises:
        UserError: the file is damaged or malicious, a tensor is missing, or one has no place.
    """
    tensors, others = read_state_dict(path)
    names = _find_names(tensors, path)
    try:
        config = _config(tensors, names, others.get("config"), path, context_len=context_len)
    except ConfigError as error:
        raise UserError(f"{path} holds a network that cannot be ours: {error}") from error
    return ForeignModel(
        kind="NovaMind",
        path=path,
        config=config,
        tensors=tensors,
        make_layout=lambda config, info: _layout(config, info, names, pairs=pairs),
        table_rows=config.vocab_size,
        tokenizer=None,
        origin={"format": "novamind", "rope_pairs": pairs},
    )


def _find_names(tensors: TorchTensors, path: Path) -> dict[str, str]:
    """Path of ours -> name there, with {layer} for the number of the layer."""
    found: dict[str, str] = {}
    for name in tensors:
        layer = _LAYER.fullmatch(name)
        if layer is not None and int(layer.group(2)) > 0:
            continue
        template = name if layer is None else f"{layer.group(1)}{{layer}}{layer.group(3)}"
        last = name.removesuffix(".weight").rpartition(".")[2]
        ours = next(
            (
                place
                for place, spellings in _SPELLINGS.items()
                if last in spellings and place.startswith("blocks/") == (layer is not None)
            ),
            None,
        )
        if ours is None:
            continue
        if ours in found:
            raise UserError(f"{path} has both {found[ours]} and {template}, of which each could be {ours}")
        found[ours] = template
    for ours, spellings in _SPELLINGS.items():
        if ours not in found and ours != "head":
            where = "a layer" if ours.startswith("blocks/") else "the model"
            raise UserError(
                f"{path} has no {ours.replace('/scale', '')}; expected a tensor of {where} called "
                f"{' or '.join(spellings)} (.weight)"
            )
    return found


def _config(
    tensors: TorchTensors, names: Mapping[str, str], given: object, path: Path, *, context_len: int | None
) -> ModelConfig:
    """The network by the shapes of its tensors, and by what the file says beside them."""
    stated = _stated(given, path)

    def shape(ours: str) -> tuple[int, int]:
        found = tensors.shape(names[ours].format(layer=0))
        if len(found) != 2:
            raise UserError(
                f"{path}: tensor {names[ours].format(layer=0)} is {found}, expected two dimensions"
            )
        return found[0], found[1]

    (vocab_size, width), (query_rows, _), (key_rows, _) = map(
        shape, ("embedding", "blocks/attention/query", "blocks/attention/key")
    )
    head_dim = (
        query_rows // int(stated["num_heads"]) if "num_heads" in stated else int(_PUBLISHED["head_dim"])
    )
    if not head_dim or query_rows % head_dim or key_rows % head_dim:
        raise UserError(
            f"{path}: queries have {query_rows} channels and keys {key_rows}, no multiples of a head's "
            f"{head_dim}; save their number with it, as {{'model': ..., 'config': {{'num_heads': ...}}}}"
        )
    layers = [int(match.group(2)) for name in tensors if (match := _LAYER.fullmatch(name))]
    values = {**_PUBLISHED, **stated}
    longest = int(values["context_len"])
    if context_len is not None and not 1 <= context_len <= longest:
        raise UserError(f"--context-len is {context_len}; {path} allows 1 to {longest}")
    return ModelConfig(
        vocab_size=vocab_size,
        context_len=context_len or longest,
        num_layers=max(layers) + 1,
        model_dim=width,
        num_heads=query_rows // head_dim,
        num_kv_heads=key_rows // head_dim,
        head_dim=head_dim,
        mlp="swiglu",
        mlp_dim=shape("blocks/mlp/up")[0],
        tie_embeddings=_is_tied(tensors, names),
        norm_scale=True,
        norm_eps=float(values["norm_eps"]),
        qk_norm=False,
        position="hirope",
        hirope_local_base=float(values["local_base"]),
        hirope_global_base=float(values["global_base"]),
    )


def _stated(given: object, path: Path) -> dict[str, float]:
    """What a plain dict of the file says, under whatever name. Raises UserError for what is no size."""
    if not isinstance(given, Mapping):
        return {}
    stated: dict[str, float] = {}
    for ours, key in ((ours, key) for ours, keys in _CONFIG_KEYS.items() for key in keys if key in given):
        value = given[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise UserError(f"{path}: {key} of its config is {value!r}; expected a positive number")
        stated[ours] = float(value)
    return stated


def _is_tied(tensors: TorchTensors, names: Mapping[str, str]) -> bool:
    """Whether the head is the table of the embedding, which files may repeat."""
    return "head" not in names or np.array_equal(tensors[names["head"]], tensors[names["embedding"]])


def _layout(config: ModelConfig, info: Any, names: Mapping[str, str], *, pairs: Pairs) -> Layout:
    turned = ("blocks/attention/query", "blocks/attention/key")
    order = _neighbours(config.head_dim) if pairs == "neighbours" else ()
    rules = [
        Rule(leaf.path, names[leaf.path], head_order=order if leaf.path in turned else ())
        for leaf in jax.tree.leaves(info)
    ]
    tied = {names["head"]: names["embedding"]} if config.tie_embeddings and "head" in names else {}
    return Layout(
        "NovaMind", info, tuple(rules), vocab_rows=config.vocab_size, repeated=tied, ignored=_COMPUTED
    )


def _neighbours(head_dim: int) -> tuple[int, ...]:
    """Channel j there is channel order[j] of ours; each half of a head pairs (0, 1), (2, 3), ... there."""
    half, quarter = head_dim // 2, head_dim // 4
    return tuple(
        start + pair + side * quarter for start in (0, half) for pair in range(quarter) for side in (0, 1)
    )
