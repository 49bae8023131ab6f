"""How large a model is, by closed formula: parameters per optimizer group, FLOPs and bytes.

Nothing is built or allocated, so the dial, `--explain` and every report can ask. The tests hold these
numbers against the network's own parameter tree.
"""

from dataclasses import dataclass, fields

from samosa_jax.config import SMEAR_GATE_CHANNELS, VALUE_GATE_CHANNELS, ModelConfig, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Parameters per group of `OptimizerConfig`."""

    matrix: int  # attention and feed-forward projections
    embedding: int  # the token table; 0 with tied embeddings
    value_embedding: int
    head: int  # with tied embeddings the one table, which is trained as a head
    residual: int  # residual_scalars
    scalar: int  # norm scales, gates, x0, smear, backout

    @property
    def total(self) -> int:
        return sum(getattr(self, group.name) for group in fields(self))


def parameter_counts(model: ModelConfig) -> ParameterCounts:
    """Counts every trainable number of the model."""
    D, N, K, H, F, L = (
        model.model_dim,
        model.num_heads,
        model.num_kv_heads,
        model.head_dim,
        model.mlp_dim,
        model.num_layers,
    )
    table = model.padded_vocab_size * D
    attention = 2 * D * N * H + 2 * D * K * H
    feed_forward = (3 if model.mlp == "swiglu" else 2) * D * F
    return ParameterCounts(
        matrix=L * (attention + feed_forward),
        embedding=0 if model.tie_embeddings else table,
        value_embedding=len(model.value_embedding_layers) * model.padded_vocab_size * K * H,
        head=table,
        residual=L if model.residual_scalars else 0,
        scalar=_norm_scales(model) + _gates(model) + _scalars(model),
    )


def scaling_parameters(model: ModelConfig) -> int:
    """The parameters that tokens-per-parameter rules count: the matrices and the head, tied or not.

    Embedding tables are lookups that cost no FLOPs; nanochat's fits are cleanest without them. Chinchilla
    (https://arxiv.org/abs/2203.15556) counts everything, which for a tied model without value embeddings
    is the same.
    """
    counts = parameter_counts(model)
    return counts.matrix + counts.head


def flops_per_token(model: ModelConfig) -> int:
    """Training FLOPs per token, forward and backward: 6 per matmul parameter, and attention.

    Attention takes 12 per layer, head, channel and key (PaLM, appendix B, https://arxiv.org/abs/2204.02311),
    where a layer's keys are its window, or the whole context in a full layer: the causal half that a good
    kernel skips is counted, as model FLOPs utilisation is usually quoted.
    """
    keys = sum(window or model.context_len for window in model.layer_windows)
    return 6 * (scaling_parameters(model) + _gates(model)) + 12 * model.num_heads * model.head_dim * keys


def state_bytes(counts: ParameterCounts, optimizer: OptimizerConfig) -> int:
    """Bytes of float32 parameters with their moments, one for Muon and two for AdamW; without gradients."""
    moments = {"muon": 1, "adamw": 2}
    return sum(
        4 * getattr(counts, name) * (1 + moments[group.kind]) for name, group in optimizer.groups.items()
    )


def _norm_scales(model: ModelConfig) -> int:
    """Of two norms per layer, the last, and that of the embedding; of those of queries and keys."""
    heads = 2 * model.num_layers * model.head_dim if model.qk_norm_scale else 0
    if not model.norm_scale:
        return heads
    return heads + (2 * model.num_layers + (2 if model.embedding_norm else 1)) * model.model_dim


def _gates(model: ModelConfig) -> int:
    value_gate = VALUE_GATE_CHANNELS * model.num_kv_heads
    smear_gate = SMEAR_GATE_CHANNELS if model.smear else 0
    return len(model.value_embedding_layers) * value_gate + smear_gate


def _scalars(model: ModelConfig) -> int:
    return (model.num_layers if model.x0_scalars else 0) + int(model.smear) + int(model.backout)
