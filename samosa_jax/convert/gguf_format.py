"""One .gguf file, for llama.cpp and what is built on it (Ollama, LM Studio).

llama.cpp knows Llama and Qwen3 of our networks. The names and values of the metadata are those of its
documentation, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from samosa_jax.config import ModelConfig
from samosa_jax.config.architecture import NoTwin
from samosa_jax.convert.exported import ExportedModel
from samosa_jax.convert.layout import Constant, Layout, Rule
from samosa_jax.convert.names import llama_layout
from samosa_jax.convert.tokenizer_json import chat_template
from samosa_jax.data.tokenizer import SPACE_MARK, SentencePieceTokenizer
from samosa_jax.data.tokenizer_training import WHITESPACE_RUNS
from samosa_jax.errors import UserError

GGUF_FILE = "model.gguf"
_NAMES = {  # of transformers -> of llama.cpp
    "model.embed_tokens.weight": "token_embd.weight",
    "lm_head.weight": "output.weight",
    "model.norm.weight": "output_norm.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_LAYER = re.compile(r"model\.layers\.(?P<layer>\{layer\}|\d+)\.(?P<part>.+)\.weight")
# Jinja's readers but transformers' own do not know these marks; a comment takes as much white space away.
_GENERATION_MARK = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


def check_gguf(model: ExportedModel) -> None:
    """Raises UserError, with what to do about it, if llama.cpp does not know such a model."""
    config, twin = model.network.config, model.twin
    mend = "train with model.architecture=hf, or export with --format=hf"
    if isinstance(twin, NoTwin):
        raise UserError(f"--format=gguf needs a model that llama.cpp knows. {twin}; {mend}")
    if twin == "nanochat":
        raise UserError(f"--format=gguf: llama.cpp does not know NanoChat (model.mlp is relu2); {mend}")
    if any(config.layer_windows):
        raise UserError(
            f"--format=gguf: model.window_pattern is {config.window_pattern}, and llama.cpp's Qwen3 has no "
            "windows; train with window_pattern=L, or export with --format=hf"
        )
    if config.rope_scaling_type == "llama3":
        raise UserError(
            "--format=gguf: model.rope_scaling_type is llama3, which llama.cpp keeps in a tensor that is not "
            "written here; export with --format=hf, and convert that by llama.cpp's convert_hf_to_gguf.py"
        )
    if not isinstance(model.tokenizer, SentencePieceTokenizer):
        raise UserError(
            "--format=gguf needs a tokenizer of `samosa train_tokenizer`; this model's was imported: export "
            "with --format=hf, and convert that by llama.cpp's convert_hf_to_gguf.py"
        )


def gguf_layout(config: ModelConfig, info: Any) -> Layout:
    """The tensors of llama.cpp: Llama's heads have their pairs of channels side by side there."""
    stock = llama_layout(config, info)
    half = config.head_dim // 2
    side_by_side = tuple(channel % 2 * half + channel // 2 for channel in range(config.head_dim))
    turned = () if config.qk_norm else ("blocks/attention/query", "blocks/attention/key")
    rules = [
        Rule(rule.path, _name(rule.name), head_order=side_by_side if rule.path in turned else ())
        for rule in stock.rules
    ]
    constants: Mapping[str, Constant] = {_name(name): value for name, value in stock.constants.items()}
    return Layout("GGUF", info, tuple(rules), vocab_rows=config.vocab_size, constants=constants)


def write_gguf(model: ExportedModel, folder: Path, *, shard_bytes: int) -> None:
    """Writes model.gguf into an existing folder; one file, however large.

    Raises UserError if llama.cpp does not know such a model.
    """
    import gguf

    del shard_bytes
    check_gguf(model)
    writer = gguf.GGUFWriter(folder / GGUF_FILE, str(model.twin), use_temp_file=False)
    _add_shape(writer, model, gguf.RopeScalingType)
    _add_tokenizer(writer, model, gguf.TokenType)
    is_bfloat16 = model.dtype == "bfloat16"
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if is_bfloat16 else gguf.LlamaFileType.ALL_F32)
    layout = model.layout_of(gguf_layout)
    for name, shape in layout.shapes().items():
        count = math.prod(shape)
        if is_bfloat16 and len(shape) > 1:  # llama.cpp wants all else in float32
            # The package knows no array of this type, and takes its bytes.
            in_bytes = (*shape[:-1], 2 * shape[-1])
            bfloat16 = gguf.GGMLQuantizationType.BF16
            writer.add_tensor_info(name, in_bytes, np.dtype(np.uint8), 2 * count, raw_dtype=bfloat16)
        else:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * count)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in layout.stream(model.params):
        in_half = is_bfloat16 and tensor.ndim > 1
        writer.write_tensor_data(tensor.astype(ml_dtypes.bfloat16).view(np.uint8) if in_half else tensor)
    writer.close()


def read_gguf_tensor(folder: Path, name: str) -> np.ndarray:
    """A tensor of model.gguf in float32."""
    import gguf

    tensor = next(one for one in gguf.GGUFReader(folder / GGUF_FILE).tensors if one.name == name)
    is_bfloat16 = tensor.tensor_type == gguf.GGMLQuantizationType.BF16
    return (tensor.data.view(ml_dtypes.bfloat16) if is_bfloat16 else tensor.data).astype(np.float32)


def gguf_template(model: ExportedModel) -> str:
    """The chat template without the marks that only transformers reads."""
    return _GENERATION_MARK.sub("{#- -#}", chat_template(model.tokenizer))


def _add_shape(writer: Any, model: ExportedModel, scaling_types: Any) -> None:
    config = model.network.config
    writer.add_name(model.name)
    writer.add_context_length(config.context_len)
    writer.add_embedding_length(config.model_dim)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_base)
    if config.rope_scaling_type != "none":
        writer.add_rope_scaling_type(scaling_types(config.rope_scaling_type))
        writer.add_rope_scaling_factor(config.rope_scaling_factor)
        writer.add_rope_scaling_orig_ctx_len(config.original_context_len)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: Any, model: ExportedModel, kinds: Any) -> None:
    """As sentencepiece's model has it: pieces, scores, and what kind of token each is."""
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, SentencePieceTokenizer)  # `check_gguf` has looked
    special = set(tokenizer.special_ids.values())
    runs = {run.replace(" ", SPACE_MARK) for run in WHITESPACE_RUNS}
    scores = tokenizer.scores()
    types = []
    for i, piece in enumerate(tokenizer.pieces):
        if i == tokenizer.unknown_id:
            types.append(kinds.UNKNOWN)
        elif i in special:
            types.append(kinds.CONTROL)
        elif re.fullmatch("<0x[0-9A-F]{2}>", piece):
            types.append(kinds.BYTE)
        else:
            types.append(kinds.USER_DEFINED if piece in runs else kinds.NORMAL)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokenizer.pieces)
    writer.add_token_scores([scores.get(piece, 0.0) for piece in tokenizer.pieces])
    writer.add_token_types(types)
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.special_ids["<|assistant_end|>"])
    writer.add_unk_token_id(tokenizer.unknown_id)
    writer.add_pad_token_id(tokenizer.unknown_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_remove_extra_whitespaces(False)
    writer.add_chat_template(gguf_template(model))


def _name(name: str) -> str:
    found = _LAYER.fullmatch(name)
    if not found:
        return _NAMES[name]
    return f"blk.{found['layer']}.{_NAMES[found['part']]}.weight"
