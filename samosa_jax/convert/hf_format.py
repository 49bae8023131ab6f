"""The folder that Hugging Face's transformers, and what is built on it (vLLM, SGLang, TGI), loads.

A model with a twin among the stock architectures (`config.architecture`) becomes that one and needs no code
of ours. Any other brings its code along, which is run with trust_remote_code only.
"""

import json
from pathlib import Path
from typing import Any

from samosa_jax.config import ModelConfig
from samosa_jax.config.architecture import NoTwin, Twin
from samosa_jax.convert.exported import NUMPY_DTYPES, Dtype, ExportedModel
from samosa_jax.convert.layout import Layout
from samosa_jax.convert.names import samosa_layout, stock_layout
from samosa_jax.convert.pytorch_sources import remote_code, samosa_config
from samosa_jax.convert.safetensors_writing import write_tensors
from samosa_jax.convert.tokenizer_json import CONFIG_FILE, TOKENIZER_FILE, write_tokenizer
from samosa_jax.data.chat.template import TEMPLATE_FILE

FILES = ("config.json", "generation_config.json", TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE)
CODE_FILES = ("configuration_samosa.py", "modeling_samosa.py")  # of a model without a twin
# How an answer is drawn where nothing else is asked for, as `samosa serve` does it.
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 50}
MAX_NEW_TOKENS = 512


def write_hf(model: ExportedModel, folder: Path, *, shard_bytes: int) -> None:
    """Writes everything into an existing empty folder."""
    config, twin = model.network.config, model.twin
    write_tokenizer(model.tokenizer, folder, context_len=config.context_len)
    ids = special_token_ids(model, folder)
    if isinstance(twin, NoTwin):
        values = samosa_config(config, model.tokenizer.special_ids)
        values |= {"pad_token_id": ids["pad_token_id"], "dtype": model.dtype}
        _write_json(folder / "config.json", values)
        for name, text in remote_code().items():
            (folder / name).write_text(text, encoding="utf-8")
    else:
        _write_json(folder / "config.json", stock_config(config, twin, ids=ids, dtype=model.dtype))
    answers = {"max_new_tokens": min(MAX_NEW_TOKENS, config.context_len // 2)}
    _write_json(folder / "generation_config.json", {**ids, **SAMPLING, **answers})
    layout = hf_layout(model)
    write_tensors(
        folder,
        layout.stream(model.params),
        shapes=layout.shapes(),
        dtype=NUMPY_DTYPES[model.dtype],
        shard_bytes=shard_bytes,
    )


def hf_layout(model: ExportedModel) -> Layout:
    """The tensors of its stock architecture, or else those of our own code."""
    return model.layout_of(samosa_layout if isinstance(model.twin, NoTwin) else stock_layout)


def hf_files(model: ExportedModel) -> tuple[str, ...]:
    """What a complete folder holds, beside the weights."""
    return (*FILES, *CODE_FILES) if isinstance(model.twin, NoTwin) else FILES


def special_token_ids(model: ExportedModel, folder: Path) -> dict[str, int]:
    """What config.json says of tokens; those of padding are said by the tokenizer's files in the folder."""
    pad = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["pad_token"]
    added = json.loads((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))["added_tokens"]
    special = model.tokenizer.special_ids
    return {
        "bos_token_id": special["<|bos|>"],
        "eos_token_id": special["<|assistant_end|>"],
        "pad_token_id": next(token["id"] for token in added if token["content"] == pad),
    }


def stock_config(config: ModelConfig, twin: Twin, *, ids: dict[str, int], dtype: Dtype) -> dict[str, Any]:
    """The config.json of a stock architecture, by transformers' own class for it."""
    import transformers

    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.model_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "relu2" if config.mlp == "relu2" else "silu",
        "max_position_embeddings": config.context_len,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_theta": config.rope_base, **rope_scaling(config)},
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "dtype": dtype,
        **ids,
    }
    # Where programs look that were written before transformers 5.
    older: dict[str, Any] = {"rope_theta": config.rope_base}
    if config.rope_scaling_type != "none":
        older["rope_scaling"] = rope_scaling(config)
    if twin == "nanochat":
        made = transformers.NanoChatConfig(
            **values, architectures=["NanoChatForCausalLM"], final_logit_softcapping=config.soft_cap
        )
    elif twin == "llama":
        made = transformers.LlamaConfig(**values, architectures=["LlamaForCausalLM"])
    else:
        windows = config.layer_windows
        made = transformers.Qwen3Config(
            **values,
            architectures=["Qwen3ForCausalLM"],
            use_sliding_window=any(windows),
            sliding_window=config.short_window if any(windows) else None,
            layer_types=["sliding_attention" if window else "full_attention" for window in windows],
        )
    return json.loads(made.to_json_string()) | older


def rope_scaling(config: ModelConfig) -> dict[str, Any]:
    """How transformers describes slower angles; of YaRN its defaults are those of `model.rope`."""
    if config.rope_scaling_type == "none":
        return {"rope_type": "default"}
    described = {"rope_type": config.rope_scaling_type, "factor": config.rope_scaling_factor}
    if config.rope_scaling_type == "linear":
        return described
    described["original_max_position_embeddings"] = config.original_context_len
    if config.rope_scaling_type == "llama3":
        described |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return described


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
