"""Reads folders of Hugging Face's transformers: Llama, Qwen3, NanoChat, and what `samosa export` writes.

config.json is read field by field. What we know is taken over, what changes nothing is passed over, and
anything else that is set is refused by name: a network that is almost the right one speaks gibberish.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from samosa_jax.config import ModelConfig
from samosa_jax.convert.config_reader import ConfigReader
from samosa_jax.convert.foreign import ForeignModel, Logits
from samosa_jax.convert.names import llama_layout, nanochat_layout, samosa_layout
from samosa_jax.convert.safetensors_files import open_tensors
from samosa_jax.errors import UserError

CONFIG_FILE = "config.json"
_KNOWN_AS = {"llama": "Llama", "qwen3": "Qwen3", "nanochat": "NanoChat", "samosa": "samosa"}
# Of text generation, training and bookkeeping. Older files hold several of every transformers model.
_WITHOUT_EFFECT = (
    *("_name_or_path", "_attn_implementation_autoset", "architectures", "auto_map", "transformers_version"),
    *("torch_dtype", "dtype", "use_cache", "return_dict", "return_dict_in_generate", "problem_type"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("initializer_range", "attention_dropout", "hidden_dropout", "pretraining_tp", "id2label", "label2id"),
    *(
        "chunk_size_feed_forward",
        "max_length",
        "min_length",
        "num_beams",
        "num_beam_groups",
        "top_k",
        "top_p",
    ),
    *("temperature", "typical_p", "repetition_penalty", "length_penalty", "diversity_penalty", "do_sample"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_return_sequences", "task_specific_params"),
    *("tokenizer_class", "prefix", "finetuning_task", "unsloth_version", "unsloth_fixed", "model_name"),
    *("is_llama_config", "rope_interleaved", "early_stopping", "exponential_decay_length_penalty"),
)
# What transformers reads of the angles, by type, and the only value that ours computes; None: any.
_ROPE_FIELDS: Mapping[str, Mapping[str, float | None]] = {
    "default": {},
    "linear": {"factor": None},
    "yarn": {
        "factor": None,
        "original_max_position_embeddings": None,
        "attention_factor": 0.0,  # which follows from the factor
        "beta_fast": 32,
        "beta_slow": 1,
        "truncate": True,
    },
    "llama3": {
        "factor": None,
        "original_max_position_embeddings": None,
        "low_freq_factor": 1,
        "high_freq_factor": 4,
    },
}
_NO_PARAMETER = "ours has no such parameter"


def open_hf(folder: Path, *, context_len: int | None = None) -> ForeignModel:
    """Reads config.json and the headers of the weights.

    Args:
        context_len: tokens of the longest dialogue, where less than the folder's own are wanted.

    Raises:
        UserError: the architecture is unknown, a field of it cannot be taken over, or a file is damaged.
    """
    reader = ConfigReader.open(folder / CONFIG_FILE)
    kind = reader.take("model_type", "")
    known = {"llama": _llama, "qwen3": _qwen3, "nanochat": _nanochat, "samosa": _samosa}
    if not isinstance(kind, str) or kind not in known:
        raise UserError(f"{reader.path}: model_type is {kind!r}; expected one of {', '.join(known)}")
    reader.ignore(*_WITHOUT_EFFECT)
    try:
        config = known[kind](reader, context_len)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{reader.path} describes a network that cannot be ours: {error}") from error
    reader.finish()
    layouts = {"nanochat": nanochat_layout, "samosa": samosa_layout}
    tensors = open_tensors(folder)
    return ForeignModel(
        kind=_KNOWN_AS[kind],
        path=folder,
        config=config,
        tensors=tensors,
        make_layout=layouts.get(kind, llama_layout),
        table_rows=config.padded_vocab_size if kind == "samosa" else config.vocab_size,
        tokenizer=folder,
        open_peer=_own_peer(reader.path, tensors) if kind == "samosa" else _peer(folder),
        origin={"format": "hf", "model_type": kind},
    )


def _llama(reader: ConfigReader, context_len: int | None) -> ModelConfig:
    reader.require("mlp_bias", False, why=_NO_PARAMETER)
    return _llama_like(reader, _shape(reader, context_len), qk_norm=False)


def _qwen3(reader: ConfigReader, context_len: int | None) -> ModelConfig:
    shape = _shape(reader, context_len, head_dim=128)  # which does not follow from the width there
    return _llama_like(reader, shape, qk_norm=True)


def _llama_like(reader: ConfigReader, shape: dict[str, Any], *, qk_norm: bool) -> ModelConfig:
    reader.require("hidden_act", "silu", why="the feed-forward of Llama and Qwen3 is SwiGLU")
    windows = _windows(reader, num_layers=shape["num_layers"], context_len=shape["context_len"])
    return ModelConfig(
        **shape,
        **windows,
        mlp="swiglu",
        qk_norm=qk_norm,
        qk_norm_scale=qk_norm,
        norm_scale=True,
        tie_embeddings=bool(reader.take("tie_word_embeddings", False)),
    )


def _nanochat(reader: ConfigReader, context_len: int | None) -> ModelConfig:
    reader.require("hidden_act", "relu2", why="the feed-forward of NanoChat is ReLU squared")
    return ModelConfig(
        **_shape(reader, context_len),
        mlp="relu2",
        embedding_norm=True,
        soft_cap=reader.take_or_null("final_logit_softcapping", 15.0),
        tie_embeddings=bool(reader.take("tie_word_embeddings", False)),
    )


def _samosa(reader: ConfigReader, context_len: int | None) -> ModelConfig:
    """What `samosa export` wrote: fields are called as they are here."""
    values = {spec.name: reader.take(spec.name, spec.default) for spec in fields(ModelConfig)}
    reader.ignore("user_start_token_id", "assistant_start_token_id", "special_token_ids")
    if context_len is not None:
        values["context_len"] = _shorter(reader, context_len, whole=values["context_len"])
        if values["window"] is None and "S" in values["window_pattern"]:
            raise UserError(
                f"{reader.path}: the window of this model is a share of its context_len; it cannot be "
                "imported with another one"
            )
    return ModelConfig(**values)


def _shape(reader: ConfigReader, context_len: int | None, *, head_dim: int | None = None) -> dict[str, Any]:
    """What the three stock architectures say alike. Raises UserError for what ours cannot do."""
    reader.require("attention_bias", False, why=_NO_PARAMETER)
    reader.require("partial_rotary_factor", 1.0, why="ours turns all channels of a head")
    width, heads = reader.whole("hidden_size"), reader.whole("num_attention_heads")
    longest = reader.whole("max_position_embeddings", 2048)
    rope = _rope(reader, longest=longest)
    # Of scaled angles it may be the length before (Qwen) or after.
    reach = int(rope.get("rope_scaling_factor", 1) * rope.get("original_context_len", longest))
    return {
        "vocab_size": reader.whole("vocab_size"),
        "context_len": longest
        if context_len is None
        else _shorter(reader, context_len, whole=max(longest, reach)),
        "num_layers": reader.whole("num_hidden_layers"),
        "model_dim": width,
        "num_heads": heads,
        "num_kv_heads": reader.whole("num_key_value_heads", heads),
        "head_dim": reader.whole("head_dim", head_dim or width // heads),
        "mlp_dim": reader.whole("intermediate_size"),
        "norm_eps": float(reader.number("rms_norm_eps", 1e-6)),
        **rope,
    }


def _shorter(reader: ConfigReader, context_len: int, *, whole: int) -> int:
    if not 1 <= context_len <= whole:
        raise UserError(f"--context-len is {context_len}; {reader.path} allows 1 to {whole}")
    return context_len


def _rope(reader: ConfigReader, *, longest: int) -> dict[str, Any]:
    """Base and scaling of the angles; `longest` is max_position_embeddings.

    Files before transformers 5 hold rope_theta and rope_scaling, later ones rope_parameters.
    """
    groups = {name: reader.group(name, {}) for name in ("rope_scaling", "rope_parameters")}
    parameters = groups["rope_parameters"]
    theta = reader.number("rope_theta", parameters.get("rope_theta", 10_000.0))
    if parameters.get("rope_theta", theta) != theta:
        raise UserError(
            f"{reader.path}: rope_theta is {theta}, in rope_parameters {parameters['rope_theta']}; keep one"
        )
    scalings = [
        _rope_scaling(name, group, reader.path, longest=longest) for name, group in groups.items() if group
    ]
    if len(scalings) == 2 and scalings[0] != scalings[1]:
        raise UserError(f"{reader.path}: rope_scaling and rope_parameters describe other angles; keep one")
    return {"rope_base": float(theta), **(scalings[0] if scalings else {})}


def _rope_scaling(name: str, group: Mapping[str, Any], path: Path, *, longest: int) -> dict[str, Any]:
    """The three fields of ModelConfig, from those of transformers; {} for angles that are not scaled."""
    kind = group.get("rope_type", group.get("type", "default"))
    if kind not in _ROPE_FIELDS:
        raise UserError(
            f"{path}: {name} is of type {kind!r}; only {', '.join(_ROPE_FIELDS)} can be imported: angles of "
            "other kinds are not computed here"
        )
    values = {key: value for key, value in group.items() if value is not None}
    known = {"rope_type", "type", "rope_theta", "finetuned", "partial_rotary_factor", *_ROPE_FIELDS[kind]}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"{path}: {name} of type {kind} has {unknown[0]}, which is unknown here")
    if kind == "default":
        return {}
    within = ConfigReader(path, {f"{name}.{key}": value for key, value in values.items()})
    factor = float(within.number(f"{name}.factor"))
    needed = {"partial_rotary_factor": 1.0, **_ROPE_FIELDS[kind]}
    for key, value in needed.items():
        only = 0.1 * math.log(factor) + 1 if key == "attention_factor" else value
        found = within.take(f"{name}.{key}", only)
        if only is not None and abs(found - only) > 1e-6:
            raise UserError(
                f"{path}: {name}.{key} is {found}; only {only:g} can be imported: ours knows no other"
            )
    if factor == 1:
        return {}
    original = longest if kind != "linear" else math.ceil(longest / factor)
    return {
        "rope_scaling_type": kind,
        "rope_scaling_factor": factor,
        "original_context_len": within.whole(f"{name}.original_max_position_embeddings", original),
    }


def _windows(reader: ConfigReader, *, num_layers: int, context_len: int) -> dict[str, Any]:
    """window and window_pattern. A window of theirs counts as ours does: the query's own key among them."""
    window = reader.whole("sliding_window") if reader.take("use_sliding_window", False) else None
    reader.ignore("sliding_window")
    from_layer = int(reader.take("max_window_layers", num_layers))
    kinds = reader.take(
        "layer_types",
        ["sliding_attention" if window and i >= from_layer else "full_attention" for i in range(num_layers)],
    )
    if (
        not isinstance(kinds, list)
        or len(kinds) != num_layers
        or not set(kinds) <= {"sliding_attention", "full_attention"}
    ):
        raise UserError(
            f"{reader.path}: layer_types is {kinds}; expected sliding_attention or full_attention for each "
            f"of the {num_layers} layers"
        )
    letters = "".join("S" if kind == "sliding_attention" else "L" for kind in kinds)
    if "S" not in letters or (window is not None and window >= context_len):
        return {}
    if window is None:
        raise UserError(f"{reader.path}: layer_types has sliding_attention, but there is no sliding_window")
    if letters[-1] == "S":
        raise UserError(
            f"{reader.path}: the last layer slides over {window} tokens, where ours always sees all; import "
            f"it with --context-len={window} or less, up to which that makes no difference"
        )
    return {"window": window, "window_pattern": letters}


def _own_peer(config: Path, tensors: Mapping[str, np.ndarray]) -> Callable[[], Logits]:
    """Our network in PyTorch, of which every export of this kind holds a copy; the copy itself is not run."""

    def open_peer() -> Logits:
        import torch

        from samosa_jax.convert.pytorch.network import Network, NetworkConfig

        network = Network(NetworkConfig.from_dict(json.loads(config.read_text(encoding="utf-8"))))
        arrays = {name: np.array(tensors[name], np.float32) for name in tensors}
        network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})

        def logits(tokens: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return network(torch.from_numpy(tokens.astype(np.int64))).numpy()

        return logits

    return open_peer


def _peer(folder: Path) -> Callable[[], Logits]:
    """The same folder in transformers; its own classes only, no code of the folder."""

    def open_peer() -> Logits:
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
        model.eval()

        def logits(tokens: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()

        return logits

    return open_peer
