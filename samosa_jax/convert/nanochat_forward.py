"""What nanochat computes of its own tensors, in PyTorch and float32: the other side of a comparison.

Written from nanochat's equations, with its names and its conventions (the direction of the rotation, windows
counted without the query), so that an import is compared with what it was, and not with itself.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samosa_jax.config import ModelConfig

VALUE_GATE_CHANNELS = 12
SMEAR_GATE_CHANNELS = 24


class NanochatForward:
    """Logits of every revision that can be imported; tensors are read when a layer needs them."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> None:
        """config: as `convert.nanochat` understood the checkpoint: shape, and constants of the code."""
        self._config = config
        self._tensors = tensors

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """tokens int (B, T) -> float32 (B, T, vocab_size)."""
        with torch.inference_mode():
            return self._logits(torch.from_numpy(tokens.astype(np.int64))).numpy()

    def _logits(self, tokens: Tensor) -> Tensor:
        x = _norm(self._get("transformer.wte.weight")[tokens])
        if self._has("smear_gate.weight"):
            gate = torch.sigmoid(x[:, 1:, :SMEAR_GATE_CHANNELS] @ self._get("smear_gate.weight").T)
            smeared = x[:, 1:] + self._get("smear_lambda") * gate * x[:, :-1]
            x = torch.cat([x[:, :1], smeared], dim=1)
        first = middle = x
        for layer in range(self._config.num_layers):
            if self._has("resid_lambdas"):
                x = self._get("resid_lambdas")[layer] * x + self._get("x0_lambdas")[layer] * first
            x = x + self._attend(_norm(x), tokens, layer)
            hidden = F.relu(_norm(x) @ self._layer(layer, "mlp.c_fc").T).square()
            x = x + hidden @ self._layer(layer, "mlp.c_proj").T
            if layer == self._config.num_layers // 2:
                middle = x
        if self._has("backout_lambda"):
            x = x - self._get("backout_lambda") * middle
        logits = (_norm(x) @ self._get("lm_head.weight").T)[..., : self._config.vocab_size]
        cap = self._config.soft_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _attend(self, x: Tensor, tokens: Tensor, layer: int) -> Tensor:
        config = self._config
        B, T = tokens.shape

        def heads(name: str, count: int) -> Tensor:
            return (x @ self._layer(layer, f"attn.{name}").T).view(B, T, count, config.head_dim)

        value = heads("c_v", config.num_kv_heads)
        table = f"value_embeds.{layer}.weight"
        if self._has(table):
            opening = 3 * torch.sigmoid(x[..., :VALUE_GATE_CHANNELS] @ self._layer(layer, "attn.ve_gate").T)
            added = self._get(table)[tokens].view(B, T, config.num_kv_heads, config.head_dim)
            value = value + opening[..., None] * added
        query = config.qk_gain * _norm(self._turn(heads("c_q", config.num_heads)))
        key = config.qk_gain * _norm(self._turn(heads("c_k", config.num_kv_heads)))
        group = config.num_heads // config.num_kv_heads
        key, value = (part.repeat_interleave(group, dim=2) for part in (key, value))
        scores = torch.einsum("bqnh,bknh->bnqk", query, key) / config.head_dim**0.5
        distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]
        window = config.layer_windows[layer]
        before = T if window is None else window - 1  # tokens before the query that it sees
        scores = scores.masked_fill((distance < 0) | (distance > before), -torch.inf)
        mixed = torch.einsum("bnqk,bknh->bqnh", scores.softmax(dim=-1), value)
        return mixed.reshape(B, T, -1) @ self._layer(layer, "attn.c_proj").T

    def _turn(self, x: Tensor) -> Tensor:
        """Turns the heads (B, T, heads, H) by minus the angle of their position."""
        half = self._config.head_dim // 2
        frequency = self._config.rope_base ** (-torch.arange(half, dtype=torch.float32) / half)
        angle = torch.arange(x.shape[1], dtype=torch.float32)[:, None, None] * frequency
        cos, sin = angle.cos(), angle.sin()
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)

    def _layer(self, layer: int, name: str) -> Tensor:
        return self._get(f"transformer.h.{layer}.{name}.weight")

    def _get(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self._tensors[name], np.float32))

    def _has(self, name: str) -> bool:
        return name in self._tensors


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],))
