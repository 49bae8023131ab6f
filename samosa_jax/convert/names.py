"""What our parameters are called in Hugging Face's transformers.

`samosa`, the network of `convert.pytorch`, has every name; Llama, Qwen3 (https://arxiv.org/abs/2505.09388)
and NanoChat have those of the options that they know (`config.architecture` says which).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax

from samosa_jax.config import ModelConfig
from samosa_jax.config.architecture import NoTwin, Twin, find_twin
from samosa_jax.convert.layout import Constant, Layout, Rule

_LAYER = "model.layers.{layer}."
_RULES = {
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "final_norm/scale": "model.norm.weight",
    "embedding_norm/scale": "model.embed_norm.weight",
    "blocks/attention/query": _LAYER + "self_attn.q_proj.weight",
    "blocks/attention/key": _LAYER + "self_attn.k_proj.weight",
    "blocks/attention/value": _LAYER + "self_attn.v_proj.weight",
    "blocks/attention/output": _LAYER + "self_attn.o_proj.weight",
    "blocks/attention/query_scale": _LAYER + "self_attn.q_norm.weight",
    "blocks/attention/key_scale": _LAYER + "self_attn.k_norm.weight",
    "blocks/mlp/gate": _LAYER + "mlp.gate_proj.weight",
    "blocks/mlp/up": _LAYER + "mlp.up_proj.weight",
    "blocks/mlp/down": _LAYER + "mlp.down_proj.weight",
    "blocks/attention_norm/scale": _LAYER + "input_layernorm.weight",
    "blocks/mlp_norm/scale": _LAYER + "post_attention_layernorm.weight",
    "blocks/residual_scale": _LAYER + "residual_scale",
    "blocks/x0_scale": _LAYER + "x0_scale",
    "value_embeddings/table": _LAYER + "self_attn.value_embedding.weight",
    "value_embeddings/gate": _LAYER + "self_attn.value_gate.weight",
    "smear/gate": "model.smear.gate.weight",
    "smear/scale": "model.smear.scale",
    "backout": "model.backout",
}


_NORMS = ("input_layernorm", "post_attention_layernorm")  # of a layer
_HEAD_NORMS = ("q_norm", "k_norm")


def samosa_layout(config: ModelConfig, info: Any) -> Layout:
    """The tensors of `convert.pytorch.network`, tables as long as ours; `info` is `Network.info`."""
    return _layout("samosa", config, info, names=_RULES, vocab_rows=config.padded_vocab_size)


def llama_layout(config: ModelConfig, info: Any) -> Layout:
    """The tensors of transformers' Llama, and of Qwen3 for a network with qk_norm.

    Scales that a network of ours goes without are 1 everywhere there, and qk_gain is the scale of queries
    and keys.
    """
    name = "Qwen3" if config.qk_norm else "Llama"
    constants: dict[str, Constant] = {}
    for layer in range(config.num_layers):
        if not config.norm_scale:
            for norm in _NORMS:
                constants[f"model.layers.{layer}.{norm}.weight"] = Constant((config.model_dim,), 1.0)
        if config.qk_norm and not config.qk_norm_scale:
            for norm in _HEAD_NORMS:
                gain = Constant((config.head_dim,), config.qk_gain)
                constants[f"model.layers.{layer}.self_attn.{norm}.weight"] = gain
    if not config.norm_scale:
        constants["model.norm.weight"] = Constant((config.model_dim,), 1.0)
    return _layout(name, config, info, names=_RULES, vocab_rows=config.vocab_size, constants=constants)


def nanochat_layout(config: ModelConfig, info: Any) -> Layout:
    """The tensors of transformers' NanoChat, which turns heads the other way (see `model.rope.rotate`)."""
    half = config.head_dim // 2
    swapped = (*range(half, config.head_dim), *range(half))
    names = _RULES | {
        "blocks/mlp/up": _LAYER + "mlp.fc1.weight",
        "blocks/mlp/down": _LAYER + "mlp.fc2.weight",
    }
    turned = {"blocks/attention/query": swapped, "blocks/attention/key": swapped}
    return _layout("NanoChat", config, info, names=names, vocab_rows=config.vocab_size, head_orders=turned)


TWIN_LAYOUTS: Mapping[Twin, Callable[[ModelConfig, Any], Layout]] = {
    "llama": llama_layout,
    "qwen3": llama_layout,
    "nanochat": nanochat_layout,
}


def stock_layout(config: ModelConfig, info: Any) -> Layout:
    """The tensors of the twin that `config` has in transformers. Raises ValueError if it has none."""
    twin = find_twin(config)
    if isinstance(twin, NoTwin):
        raise ValueError(str(twin))
    return TWIN_LAYOUTS[twin](config, info)


def _layout(
    name: str,
    config: ModelConfig,
    info: Any,
    *,
    names: Mapping[str, str],
    vocab_rows: int,
    head_orders: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    constants: Mapping[str, Constant] = MappingProxyType({}),
) -> Layout:
    rules = []
    for leaf in jax.tree.leaves(info):
        is_of_values = leaf.path.startswith("value_embeddings/")
        layers = config.value_embedding_layers if is_of_values else ()
        rules.append(
            Rule(leaf.path, names[leaf.path], layers=layers, head_order=head_orders.get(leaf.path, ()))
        )
    tied = {_RULES["head"]: _RULES["embedding"]} if config.tie_embeddings else {}
    return Layout(
        name,
        info,
        tuple(rules),
        vocab_rows=vocab_rows,
        constants=constants,
        repeated=tied,
        ignored=("rotary_emb.inv_freq",),
    )
