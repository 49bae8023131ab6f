"""The samosa network in PyTorch: a decoder-only transformer, all of it in one place.

Shapes: B rows; S tokens of a row so far, of which the last T are new and the others in the cache;
D model_dim; N heads of queries and K of keys and values, each H wide. Norms, rotations, gates and the
soft-cap are computed in float32, everything else in the dtype of the embedding.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VALUE_GATE_CHANNELS = 12  # leading channels of a layer's input that gate its value embedding
SMEAR_GATE_CHANNELS = 24  # leading channels of the embedding that gate the smear


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What the network is: the fields of config.json that change what it computes."""

    vocab_size: int
    context_len: int  # tokens of the longest text it was trained on
    num_layers: int
    model_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp: str  # swiglu or relu2
    mlp_dim: int
    tie_embeddings: bool  # one table for embedding and head
    norm_scale: bool  # norms have a learned scale
    norm_eps: float
    embedding_norm: bool  # a norm right after the embedding
    qk_norm: bool  # norms over H of queries and keys
    qk_norm_scale: bool  # these have a learned scale, too
    qk_gain: float  # queries and keys are multiplied by it after their norm
    position: (
        str  # rope; or hirope: half of a head is turned by the place in the turn, half by that in the text
    )
    rope_base: float
    hirope_local_base: float
    hirope_global_base: float
    window: int | None  # keys that a query sees in an "S" layer; None: context_len / 4, rounded up to 128s
    window_pattern: str  # repeated over the layers: S = sliding window, L = all keys; the last layer is L
    soft_cap: float | None  # logits = cap * tanh(logits / cap)
    value_embeddings: bool  # in every second layer, tokens have values of their own
    residual_scalars: bool  # a scale of the residual stream for every layer
    x0_scalars: bool  # a share of the first residual that every layer adds
    smear: bool  # a gated share of the previous token's embedding
    backout: bool  # a share of the middle layer's residual is taken away before the head
    bos_token_id: int  # these three say where turns begin, which hirope counts from
    user_start_token_id: int
    assistant_start_token_id: int
    # Slower angles, for more context than was trained with before: none, linear, yarn or llama3.
    rope_scaling_type: str = "none"
    rope_scaling_factor: float = 1.0
    original_context_len: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NetworkConfig":
        """Reads the content of config.json, which may hold more. Raises ValueError if a field is missing."""
        missing = [spec.name for spec in fields(cls) if spec.default is MISSING and spec.name not in values]
        if missing:
            raise ValueError(f"the configuration has no {missing[0]}")
        return cls(**{spec.name: values[spec.name] for spec in fields(cls) if spec.name in values})

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the tables: vocab_size rounded up to a multiple of 64."""
        return -(-self.vocab_size // 64) * 64

    @property
    def layer_windows(self) -> list[int | None]:
        """For every layer the number of keys that a query sees, its own among them; None: all."""
        quarter = -(-self.context_len // 4 // 128) * 128
        window = min(self.window or quarter, self.context_len)
        letters = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.num_layers - 1)]
        return [window if letter == "S" else None for letter in letters] + [None]

    def has_value_embedding(self, layer: int) -> bool:
        return self.value_embeddings and layer % 2 == (self.num_layers - 1) % 2


class KeyValues(Protocol):
    """What the network needs of a cache; `DynamicCache` of transformers is one, too."""

    def get_seq_length(self) -> int:
        """Tokens that are in it."""
        ...

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Adds keys and values (B, K, T, H) of new tokens; returns all of the layer, (B, K, S, H)."""
        ...


class KeyValueCache:
    """Keys and values of the tokens read so far, with room for `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._lengths: dict[int, int] = {}

    def get_seq_length(self) -> int:
        return min(self._lengths.values(), default=0)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        if layer_idx not in self._kept:
            B, K, _, H = key_states.shape
            room = key_states.new_empty(B, K, self.capacity, H)
            self._kept[layer_idx] = (room, torch.empty_like(room))
        start = self._lengths.get(layer_idx, 0)
        stop = start + key_states.shape[2]
        keys, values = self._kept[layer_idx]
        keys[:, :, start:stop] = key_states
        values[:, :, start:stop] = value_states
        self._lengths[layer_idx] = stop
        return keys[:, :, :stop], values[:, :, :stop]

    def truncate(self, length: int) -> None:
        """Forgets all but the first tokens."""
        self._lengths = {layer: min(length, known) for layer, known in self._lengths.items()}


class Rotation(NamedTuple):
    """Cosine and sine of every angle, float32 (B, 1, T, clocks, pairs)."""

    cos: Tensor
    sin: Tensor


class LayerInputs(NamedTuple):
    """What every layer reads beside the residual stream."""

    tokens: Tensor  # (B, T)
    x0: Tensor  # (B, T, D), the first residual
    rotation: Rotation
    cache: KeyValues | None


class RMSNorm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) over the last dimension."""

    def __init__(self, width: int, *, eps: float, has_scale: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if has_scale else None

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        if self.weight is not None:
            normed = normed * self.weight.float()
        return normed.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) with rotary positions."""

    def __init__(self, config: NetworkConfig, layer: int) -> None:
        super().__init__()
        D, N, K, H = config.model_dim, config.num_heads, config.num_kv_heads, config.head_dim
        self.layer = layer
        self.head_dim = H
        self.window = config.layer_windows[layer]
        self.gain = config.qk_gain
        self.q_proj = nn.Linear(D, N * H, bias=False)
        self.k_proj = nn.Linear(D, K * H, bias=False)
        self.v_proj = nn.Linear(D, K * H, bias=False)
        self.o_proj = nn.Linear(N * H, D, bias=False)
        self.q_norm = self.k_norm = self.value_embedding = self.value_gate = None
        if config.qk_norm:
            self.q_norm = RMSNorm(H, eps=config.norm_eps, has_scale=config.qk_norm_scale)
            self.k_norm = RMSNorm(H, eps=config.norm_eps, has_scale=config.qk_norm_scale)
        if config.has_value_embedding(layer):
            self.value_embedding = nn.Embedding(config.padded_vocab_size, K * H)
            self.value_gate = nn.Linear(VALUE_GATE_CHANNELS, K, bias=False)

    def forward(self, x: Tensor, inputs: LayerInputs, sees: Tensor | None) -> Tensor:
        """x (B, T, D) -> (B, T, D); sees: see `visible_keys`."""
        q = self._norm_and_rotate(self._split(self.q_proj(x)), self.q_norm, inputs.rotation)
        k = self._norm_and_rotate(self._split(self.k_proj(x)), self.k_norm, inputs.rotation)
        v = self._split(self.v_proj(x))
        if self.value_embedding is not None and self.value_gate is not None:
            opening = 3 * torch.sigmoid(self.value_gate(x[..., :VALUE_GATE_CHANNELS]).float())
            opening = opening.to(x.dtype).transpose(1, 2)[..., None]
            v = v + opening * self._split(self.value_embedding(inputs.tokens))
        if inputs.cache is not None:
            k, v = inputs.cache.update(k, v, self.layer)
        out = F.scaled_dot_product_attention(
            q, k, v, sees, is_causal=sees is None and q.shape[2] > 1, enable_gqa=q.shape[1] != k.shape[1]
        )
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, heads * H) -> (B, heads, T, H)"""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _norm_and_rotate(self, x: Tensor, norm: RMSNorm | None, rotation: Rotation) -> Tensor:
        x32 = x.float()
        if norm is not None:
            x32 = norm(x32) * self.gain
        return rotate(x32, rotation).to(x.dtype)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202) or ReLU squared (So et al. 2021, arXiv:2109.08668)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        D, width = config.model_dim, config.mlp_dim
        self.gate_proj = nn.Linear(D, width, bias=False) if config.mlp == "swiglu" else None
        self.up_proj = nn.Linear(D, width, bias=False)
        self.down_proj = nn.Linear(width, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up_proj(x)
        hidden = F.relu(up).square() if self.gate_proj is None else F.silu(self.gate_proj(x)) * up
        return self.down_proj(hidden)


class Block(nn.Module):
    """One layer: attention and feed-forward, each on the normed residual stream and added to it."""

    def __init__(self, config: NetworkConfig, layer: int) -> None:
        super().__init__()
        D, eps, has_scale = config.model_dim, config.norm_eps, config.norm_scale
        self.input_layernorm = RMSNorm(D, eps=eps, has_scale=has_scale)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(D, eps=eps, has_scale=has_scale)
        self.mlp = FeedForward(config)
        self.residual_scale = nn.Parameter(torch.ones(())) if config.residual_scalars else None
        self.x0_scale = nn.Parameter(torch.zeros(())) if config.x0_scalars else None

    def forward(self, x: Tensor, inputs: LayerInputs, sees: Tensor | None) -> Tensor:
        blended = x.float()
        if self.residual_scale is not None:
            blended = self.residual_scale.float() * blended
        if self.x0_scale is not None:
            blended = blended + self.x0_scale.float() * inputs.x0.float()
        x = blended.to(x.dtype)
        x = x + self.self_attn(self.input_layernorm(x), inputs, sees)
        return x + self.mlp(self.post_attention_layernorm(x))


class Smear(nn.Module):
    """Adds a gated share of the previous token's embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(SMEAR_GATE_CHANNELS, 1, bias=False)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, previous: Tensor, position: Tensor) -> Tensor:
        """x and previous (B, T, D); the first token of a text, at position (B, T) 0, has none before it."""
        share = self.scale.float() * torch.sigmoid(self.gate(x[..., :SMEAR_GATE_CHANNELS]).float())
        share = share * (position > 0)[..., None]
        return x + share.to(x.dtype) * previous


class Transformer(nn.Module):
    """The network without its head."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.settings = config
        D, eps, has_scale = config.model_dim, config.norm_eps, config.norm_scale
        self.embed_tokens = nn.Embedding(config.padded_vocab_size, D)
        self.embed_norm = RMSNorm(D, eps=eps, has_scale=has_scale) if config.embedding_norm else None
        self.smear = Smear() if config.smear else None
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.backout = nn.Parameter(torch.zeros(())) if config.backout else None
        self.norm = RMSNorm(D, eps=eps, has_scale=has_scale)

    def forward(
        self, tokens: Tensor, is_token: Tensor | None = None, cache: KeyValues | None = None
    ) -> Tensor:
        """What the head reads, (B, T, D).

        Args:
            tokens: int64 (B, S), the whole rows: what the cache holds, and the T tokens that are new.
            is_token: bool (B, S), False for padding, which may stand at either end; None: there is none.
            cache: keys and values of the first S - T tokens; those of the new ones are added.
        """
        config = self.settings
        S = tokens.shape[1]
        T = S - (0 if cache is None else cache.get_seq_length())
        everything = torch.ones_like(tokens, dtype=torch.bool) if is_token is None else is_token
        position = (everything.cumsum(1) - 1).clamp(min=0)
        rotation = make_rotation(config, tokens, everything, position, num_new=T)
        new, position = tokens[:, S - T :], position[:, S - T :]
        x = self._embed(new)
        if self.smear is not None:
            x = self.smear(x, self._embed(F.pad(tokens, (1, 0))[:, S - T : S]), position)
        inputs = LayerInputs(tokens=new, x0=x, rotation=rotation, cache=cache)
        windows = config.layer_windows
        sees = {window: visible_keys(S, T, window, is_token, x.device) for window in set(windows)}
        middle = x
        for layer, block in enumerate(self.layers):
            x = self.run(block, x, inputs, sees[windows[layer]])
            if layer == config.num_layers // 2:
                middle = x
        if self.backout is not None:
            x = x - self.backout.to(x.dtype) * middle
        return self.norm(x)

    def run(self, block: nn.Module, *arguments: Any) -> Tensor:
        """One layer; for others to override."""
        return block(*arguments)

    def _embed(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        return x if self.embed_norm is None else self.embed_norm(x)


class Network(nn.Module):
    """Tokens to logits. Its state dict is the content of model.safetensors."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Transformer(config)
        D, V = config.model_dim, config.padded_vocab_size
        self.lm_head = None if config.tie_embeddings else nn.Linear(D, V, bias=False)

    def forward(
        self, tokens: Tensor, is_token: Tensor | None = None, cache: KeyValues | None = None
    ) -> Tensor:
        """Logits after each new token, float32 (B, T, vocab_size); arguments as for `Transformer`."""
        return self.logits(self.model(tokens, is_token, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> float32 (..., vocab_size)"""
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return cap_logits(self.config, F.linear(hidden, head.weight))


def cap_logits(config: NetworkConfig, logits: Tensor) -> Tensor:
    """Of what the head gives out those logits that stand for tokens, soft-capped, float32."""
    logits = logits[..., : config.vocab_size].float()
    return logits if config.soft_cap is None else config.soft_cap * torch.tanh(logits / config.soft_cap)


def visible_keys(
    num_tokens: int, num_new: int, window: int | None, is_token: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which keys each new token sees, bool (B or 1, 1, T, S).

    None where attention needs no mask: new tokens that see all before them, if they are all tokens or one.
    """
    hides_nothing = window is None or window >= num_tokens
    if is_token is None and hides_nothing and (num_new == num_tokens or num_new == 1):
        return None
    key = torch.arange(num_tokens, device=device)
    query = key[num_tokens - num_new :, None]
    sees = (key <= query)[None, None]
    if window is not None:
        sees = sees & (key > query - window)
    if is_token is not None:
        # Padding sees itself: a softmax over nothing would not be a number.
        sees = sees & is_token[:, None, None] | (key == query)
    return sees


def turn_positions(config: NetworkConfig, tokens: Tensor, is_token: Tensor, position: Tensor) -> Tensor:
    """How far into its turn each token stands, (B, S).

    A turn begins with <|bos|>, <|assistant_start|>, and <|user_start|> but for the first, which belongs to
    the turn of <|bos|>.
    """
    is_user = (tokens == config.user_start_token_id) & is_token
    begins = (tokens == config.bos_token_id) | (tokens == config.assistant_start_token_id)
    begins = begins | is_user & (is_user.cumsum(1) > 1)
    return position - (position * begins).cummax(1).values


def make_rotation(
    config: NetworkConfig, tokens: Tensor, is_token: Tensor, position: Tensor, *, num_new: int
) -> Rotation:
    """The angles of rotary positions (Su et al. 2021, arXiv:2104.09864), of the last num_new of S tokens.

    HiRoPE (Zhang et al. 2024, arXiv:2403.19115) has two clocks, one for each half of a head.
    """
    clocks = [(position, config.rope_base)]
    if config.position == "hirope":
        in_turn = turn_positions(config, tokens, is_token, position)
        clocks = [(in_turn, config.hirope_local_base), (position, config.hirope_global_base)]
    num_pairs = config.head_dim // (2 * len(clocks))
    fraction = torch.arange(num_pairs, dtype=torch.float32, device=position.device) / num_pairs
    frequencies = [base**-fraction for _, base in clocks]
    gain = 1.0
    if config.rope_scaling_type != "none":
        kept = kept_share(config, base=clocks[-1][1], num_pairs=num_pairs).to(position.device)
        frequencies[-1] = frequencies[-1] * (kept + (1 - kept) / config.rope_scaling_factor)
        gain = 0.1 * math.log(config.rope_scaling_factor) + 1 if config.rope_scaling_type == "yarn" else 1.0
    angles = [
        count[:, -num_new:, None].float() * frequency
        for (count, _), frequency in zip(clocks, frequencies, strict=True)
    ]
    stacked = torch.stack(angles, dim=-2)[:, None]
    return Rotation(cos=gain * stacked.cos(), sin=gain * stacked.sin())


def kept_share(config: NetworkConfig, *, base: float, num_pairs: int) -> Tensor:
    """How much of its frequency every pair keeps, (num_pairs,), 0 to 1; the rest is divided by the factor.

    Of linear nothing; of llama3 and YaRN (Peng et al. 2023, arXiv:2309.00071) all where a pair goes round 4
    or 32 times within the old context, nothing where it does not once, and a share between.
    """
    if config.rope_scaling_type == "linear" or config.original_context_len is None:
        return torch.zeros(num_pairs)
    turns_of_first = config.original_context_len / (2 * math.pi)
    pair = torch.arange(num_pairs, dtype=torch.float64)
    if config.rope_scaling_type == "llama3":
        turns = turns_of_first * base ** (-pair / num_pairs)
        return ((turns - 1) / 3).clamp(0, 1).float()
    first = max(math.floor(num_pairs * math.log(turns_of_first / 32) / math.log(base)), 0)
    last = min(math.ceil(num_pairs * math.log(turns_of_first) / math.log(base)), 2 * num_pairs - 1)
    return (1 - ((pair - first) / max(last - first, 0.001)).clamp(0, 1)).float()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turns heads (B, heads, T, H); of a clock's channels, the first half pairs with the second."""
    clocks, pairs = rotation.cos.shape[-2:]
    a, b = x.unflatten(-1, (clocks, 2, pairs)).unbind(-2)
    turned = (a * rotation.cos - b * rotation.sin, a * rotation.sin + b * rotation.cos)
    return torch.stack(turned, dim=-2).flatten(-3)
