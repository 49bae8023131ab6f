"""What the network is."""

import math
from dataclasses import dataclass
from typing import Literal

from samosa_jax.config.architecture import NoTwin, find_twin
from samosa_jax.config.checks import require, require_at_least, require_positive

VALUE_GATE_CHANNELS = 12  # leading channels of a layer's input that gate its value embedding
SMEAR_GATE_CHANNELS = 24  # leading channels of the embedding that gate the smear


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the network is. With `depth` set, everything left unset follows from it (see `dial`)."""

    depth: int | None = None  # the dial: number of layers from which shape and training derive
    architecture: Literal["samosa", "hf"] = "samosa"  # hf: only options that stock transformers know
    vocab_size: int = 32_768  # tokens of the tokenizer; the table is padded to a multiple of 64
    context_len: int = 1_024  # T: tokens a row holds in training, and the longest dialogue served
    num_layers: int = 6  # L
    model_dim: int = 384  # D
    num_heads: int = 6  # N
    num_kv_heads: int = 6  # K: N is a multiple of it
    head_dim: int = 64  # H
    mlp: Literal["swiglu", "relu2"] = "relu2"
    mlp_dim: int = 1_536  # F
    tie_embeddings: bool = False  # one table for embedding and head
    norm_scale: bool = False  # RMSNorm with a learned scale per channel
    norm_eps: float = 1e-6
    embedding_norm: bool = False  # RMSNorm right after the embedding lookup
    qk_norm: bool = True  # RMSNorm over H of queries and keys, before the rotation
    qk_norm_scale: bool = False  # qk_norm with a learned scale per channel, one of queries and one of keys
    qk_gain: float = 1.0  # queries and keys are multiplied by it after qk_norm
    position: Literal["rope", "hirope"] = "rope"
    rope_base: float = 100_000.0
    hirope_local_base: float = 10_000.0  # rotates the first half of H by turn_position
    hirope_global_base: float = 500_000.0  # rotates the second half of H by position
    rope_scaling_type: Literal["none", "linear", "yarn", "llama3"] = (
        "none"  # see model.rope; hirope: global half
    )
    rope_scaling_factor: float = 1.0  # how many times original_context_len the slower angles reach
    original_context_len: int | None = None  # the context_len trained with before they were slower
    window: int | None = None  # keys a query sees in an "S" layer; None: context_len / 4, to 128s
    window_pattern: str = "L"  # tiled over layers: S = sliding window, L = full; last is always L
    soft_cap: float | None = None  # logits = cap * tanh(logits / cap)
    value_embeddings: bool = False  # per-token values, gated, added in alternate layers
    residual_scalars: bool = False  # per-layer scale of the residual stream
    x0_scalars: bool = False  # per-layer blend of the first residual (x0) back in
    smear: bool = False  # gated blend of the previous token's embedding
    backout: bool = False  # subtract a share of the middle layer's residual before the head
    init: Literal["gpt2", "zero_out"] = "zero_out"  # see model.params
    init_std: float = 0.02  # of "gpt2"
    embedding_std: float = 0.8  # of "zero_out"
    remat: Literal["none", "attention", "mlp", "full"] = "none"  # recomputed in the backward
    unroll_layers: bool = True  # False: one lax.scan over layers (needs a uniform window_pattern)
    attention: Literal["auto", "reference", "chunked", "cudnn", "triton", "hopper"] = "auto"

    def __post_init__(self) -> None:
        require_at_least(
            1,
            self,
            "model",
            "vocab_size context_len num_layers model_dim num_heads num_kv_heads head_dim mlp_dim",
        )
        require_positive(
            self,
            "model",
            "norm_eps qk_gain rope_base hirope_local_base hirope_global_base init_std embedding_std",
        )
        require(
            self.depth is None or self.depth == self.num_layers,
            f"model.depth is {self.depth} but model.num_layers is {self.num_layers}; "
            "depth is the number of layers: set only one of them",
        )
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"model.num_heads is {self.num_heads}, not a multiple of model.num_kv_heads "
            f"({self.num_kv_heads}); choose num_kv_heads among the divisors of num_heads",
        )
        for name, used, channels in (
            ("value_embeddings", self.value_embeddings, VALUE_GATE_CHANNELS),
            ("smear", self.smear, SMEAR_GATE_CHANNELS),
        ):
            require(
                not used or self.model_dim >= channels,
                f"model.{name} needs model.model_dim of at least {channels}, which its gate reads; "
                f"it is {self.model_dim}",
            )
        rotated = 4 if self.position == "hirope" else 2
        require(
            self.head_dim % rotated == 0,
            f"model.head_dim is {self.head_dim}; position={self.position} needs a multiple of {rotated}",
        )
        require(
            bool(self.window_pattern) and set(self.window_pattern) <= {"S", "L"},
            f"model.window_pattern is {self.window_pattern!r}; use the letters S and L only, e.g. SSSL",
        )
        if self.window is not None:
            require(
                1 <= self.window <= self.context_len,
                f"model.window is {self.window}; it must lie in 1..model.context_len ({self.context_len})",
            )
            require(
                "S" in self.window_pattern,
                f"model.window is {self.window} but model.window_pattern {self.window_pattern!r} has no "
                "sliding layer; write S where the window applies, e.g. SSSL, or leave window null",
            )
        require(
            self.qk_norm or self.qk_gain == 1.0,
            f"model.qk_gain is {self.qk_gain} but model.qk_norm is off; the gain comes after that norm",
        )
        require(
            self.qk_norm or not self.qk_norm_scale,
            "model.qk_norm_scale is on but model.qk_norm is off; it is the scale of that norm",
        )
        require(
            self.soft_cap is None or 0 < self.soft_cap < math.inf,
            f"model.soft_cap is {self.soft_cap}; it must be positive, or null for none",
        )
        require(
            self.unroll_layers or self.has_uniform_layers,
            "model.unroll_layers=false needs layers that are all alike; "
            "set window_pattern=L and value_embeddings=false, or unroll_layers=true",
        )
        self._check_rope_scaling()
        twin = find_twin(self)
        require(
            self.architecture != "hf" or not isinstance(twin, NoTwin),
            f"{twin} (model.architecture is hf, for which other programs need no code of ours; samosa takes "
            "every option)",
        )

    def _check_rope_scaling(self) -> None:
        kind = self.rope_scaling_type
        if kind == "none":
            for name, unused in (("rope_scaling_factor", 1.0), ("original_context_len", None)):
                value = getattr(self, name)
                require(
                    value == unused,
                    f"model.{name} is {value} but model.rope_scaling_type is none, which takes none; choose "
                    "linear, yarn or llama3, or leave it out",
                )
            return
        require(
            1 < self.rope_scaling_factor < math.inf,
            f"model.rope_scaling_factor is {self.rope_scaling_factor}; rope_scaling_type={kind} needs a "
            "finite number above 1, as 8 for eight times the context",
        )
        original = self.original_context_len or 0
        require(
            original >= 1,
            f"model.original_context_len is {self.original_context_len}; rope_scaling_type={kind} needs the "
            "context_len that the model was trained with before, as 2048",
        )
        reach = self.rope_scaling_factor * original
        require(
            self.context_len <= math.ceil(reach),
            f"model.context_len is {self.context_len}, but rope_scaling_factor {self.rope_scaling_factor:g} "
            f"x original_context_len {original} reach {reach:g}; raise model.rope_scaling_factor",
        )
        base = "hirope_global_base" if self.position == "hirope" else "rope_base"
        require(
            getattr(self, base) > 1,
            f"model.{base} is {getattr(self, base)}; rope_scaling_type={kind} needs one above 1",
        )

    @property
    def padded_vocab_size(self) -> int:
        """V: vocab_size rounded up to a multiple of 64, so that the head divides over devices."""
        return -(-self.vocab_size // 64) * 64

    @property
    def short_window(self) -> int:
        """Keys seen in an "S" layer."""
        quarter = -(-self.context_len // 4 // 128) * 128
        return min(self.window or quarter, self.context_len)

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """For every layer the number of keys a query sees, itself included; None: all before it."""
        letters = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.num_layers)]
        letters[-1] = "L"
        return tuple(self.short_window if letter == "S" else None for letter in letters)

    @property
    def value_embedding_layers(self) -> tuple[int, ...]:
        """Layers with a value embedding: every second one, the last always among them."""
        if not self.value_embeddings:
            return ()
        return tuple(i for i in range(self.num_layers) if i % 2 == (self.num_layers - 1) % 2)

    @property
    def has_uniform_layers(self) -> bool:
        return len(set(self.layer_windows)) == 1 and not self.value_embeddings
