"""The smallest network whose logits depend on everything, for tests of losses and measures."""

from samosa_jax.config import ModelConfig

MODEL = ModelConfig(
    vocab_size=61,
    context_len=12,
    num_layers=1,
    model_dim=16,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=32,
    soft_cap=4.0,
    init="gpt2",
    init_std=0.3,
)
