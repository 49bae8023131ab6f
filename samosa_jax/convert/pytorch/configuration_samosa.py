"""The configuration of a samosa network, for transformers. `NetworkConfig` says what its fields mean."""

from typing import ClassVar

from transformers import PretrainedConfig


class SamosaConfig(PretrainedConfig):
    """Fields have the names they have in samosa; those that transformers expects are other names for them."""

    model_type = "samosa"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "max_position_embeddings": "context_len",
        "num_hidden_layers": "num_layers",
        "hidden_size": "model_dim",
        "num_attention_heads": "num_heads",
        "num_key_value_heads": "num_kv_heads",
        "intermediate_size": "mlp_dim",
        "tie_word_embeddings": "tie_embeddings",
        "rms_norm_eps": "norm_eps",
    }

    vocab_size: int = 32_768
    context_len: int = 1_024
    num_layers: int = 6
    model_dim: int = 384
    num_heads: int = 6
    num_kv_heads: int = 6
    head_dim: int = 64
    mlp: str = "relu2"
    mlp_dim: int = 1_536
    tie_embeddings: bool = False
    norm_scale: bool = False
    norm_eps: float = 1e-6
    embedding_norm: bool = False
    qk_norm: bool = True
    qk_norm_scale: bool = False
    qk_gain: float = 1.0
    position: str = "rope"
    rope_base: float = 100_000.0
    hirope_local_base: float = 10_000.0
    hirope_global_base: float = 500_000.0
    rope_scaling_type: str = "none"
    rope_scaling_factor: float = 1.0
    original_context_len: int | None = None
    window: int | None = None
    window_pattern: str = "L"
    soft_cap: float | None = None
    value_embeddings: bool = False
    residual_scalars: bool = False
    x0_scalars: bool = False
    smear: bool = False
    backout: bool = False
    user_start_token_id: int = 1
    assistant_start_token_id: int = 3
    bos_token_id: int = 0
    eos_token_id: int | list[int] | None = 4
    pad_token_id: int | None = None
    special_token_ids: dict[str, int] | None = None  # of the chat template, by the names they have in samosa
    use_cache: bool = True
