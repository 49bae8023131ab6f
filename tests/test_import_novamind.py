"""NovaMind's `.pt` files as runs of ours, against its equations written out with PyTorch."""

import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: nothing is compared with PyTorch")

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
import training_runs

from samosa_jax import import_weights
from samosa_jax.config import ModelConfig
from samosa_jax.convert.novamind import open_novamind
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.trained import open_trained

VOCAB_SIZE = 512
LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_DIM, MLP_DIM = 3, 128, 4, 2, 64, 96
TURN = np.array([0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8])  # positions in the turn
# Two ways to call the modules.
PLAIN = {
    "embedding": "tok_emb.weight",
    "final": "norm.weight",
    "layer": "layers.{}.",
    "attention_norm": "attn_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "attention": ("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight", "attn.o_proj.weight"),
    "mlp": ("ffn.gate_proj.weight", "ffn.up_proj.weight", "ffn.down_proj.weight"),
    "head": "lm_head.weight",
}
META = {
    "embedding": "tok_embeddings.weight",
    "final": "final_norm.weight",
    "layer": "blocks.{}.",
    "attention_norm": "norm1.weight",
    "mlp_norm": "norm2.weight",
    "attention": ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight", "attention.wo.weight"),
    "mlp": ("feed_forward.w1.weight", "feed_forward.w3.weight", "feed_forward.w2.weight"),
    "head": "output.weight",
}


def state_dict(names: Mapping[str, Any] = PLAIN) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn((rows, columns), generator=generator) * columns**-0.5

    def scale() -> torch.Tensor:
        return 1 + 0.2 * torch.randn(WIDTH, generator=generator)

    state = {names["embedding"]: matrix(VOCAB_SIZE, WIDTH), names["final"]: scale()}
    query, key = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    attention = ((query, WIDTH), (key, WIDTH), (key, WIDTH), (WIDTH, query))
    mlp = ((MLP_DIM, WIDTH), (MLP_DIM, WIDTH), (WIDTH, MLP_DIM))
    for layer in range(LAYERS):
        prefix = names["layer"].format(layer)
        state |= {prefix + names[norm]: scale() for norm in ("attention_norm", "mlp_norm")}
        weights = zip((*names["attention"], *names["mlp"]), (*attention, *mlp), strict=True)
        state |= {prefix + name: matrix(*shape) for name, shape in weights}
    return state | {names["head"]: state[names["embedding"]]}


def forward(state: Mapping[str, torch.Tensor], tokens: np.ndarray, *, neighbours: bool) -> np.ndarray:
    """The published equations with PLAIN names: logits (B, T, VOCAB_SIZE)."""
    T = tokens.shape[1]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, (WIDTH,), state[name], eps=1e-6)

    def turn(x: torch.Tensor) -> torch.Tensor:
        """As complex numbers, each half of the head by its own clock."""
        halves = []
        for part, base, count in zip(x.chunk(2, -1), (1e4, 5e5), (TURN, np.arange(T)), strict=True):
            pairs = part.shape[-1] // 2
            angle = torch.tensor(count)[:, None].float() * base ** (-torch.arange(pairs) / pairs)
            a, b = (part[..., 0::2], part[..., 1::2]) if neighbours else part.chunk(2, -1)
            turned = torch.complex(a, b) * torch.polar(torch.ones_like(angle), angle)[:, None]
            stacked = torch.stack([turned.real, turned.imag], -1 if neighbours else -2)
            halves.append(stacked.flatten(-2))
        return torch.cat(halves, -1)

    x = state["tok_emb.weight"][torch.from_numpy(tokens)]
    for layer in range(LAYERS):
        prefix = f"layers.{layer}."
        normed = norm(x, prefix + "attn_norm.weight")
        q, k, v = (
            (normed @ state[f"{prefix}attn.{name}_proj.weight"].T).unflatten(-1, (-1, HEAD_DIM))
            for name in "qkv"
        )
        q, k = turn(q), turn(k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + mixed.transpose(1, 2).flatten(-2) @ state[prefix + "attn.o_proj.weight"].T
        normed = norm(x, prefix + "ffn_norm.weight")
        gate, up, down = (state[f"{prefix}ffn.{name}_proj.weight"] for name in ("gate", "up", "down"))
        x = x + (F.silu(normed @ gate.T) * (normed @ up.T)) @ down.T
    return (norm(x, "norm.weight") @ state["lm_head.weight"].T).numpy()


def our_logits(config: ModelConfig, params: Any, tokens: np.ndarray) -> np.ndarray:
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    found = jax.jit(Network.build(config).logits)(
        params,
        jnp.asarray(tokens),
        k_lo=jnp.zeros_like(position),
        k_hi=position + 1,
        position=position,
        turn_position=jnp.broadcast_to(jnp.asarray(TURN, jnp.int32), tokens.shape),
    )
    return np.asarray(found)


def save(folder: Path, content: Any) -> Path:
    path = folder / "novamind_sft_final.pt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("pairs", ["halves", "neighbours"])
def test_logits_are_those_of_the_published_equations(pairs: Any, tmp_path: Path):
    state = state_dict()
    model = open_novamind(save(tmp_path, state), pairs=pairs)
    assert (model.config.num_heads, model.config.num_kv_heads, model.config.num_layers) == (4, 2, 3)
    assert model.config.tie_embeddings
    params = model.read_params(vocab_size=VOCAB_SIZE)
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, len(TURN)))
    expected = forward(state, tokens, neighbours=pairs == "neighbours")
    error = np.abs(our_logits(model.config, params, tokens) - expected).max() / np.abs(expected).max()
    assert error < 1e-5
    # The pairing, and which half has which clock, are seen.
    swapped = dataclasses.replace(model.config, hirope_local_base=5e5, hirope_global_base=1e4)
    others = [forward(state, tokens, neighbours=pairs == "halves"), our_logits(swapped, params, tokens)]
    assert all(np.abs(other - expected).max() > 1e-2 * np.abs(expected).max() for other in others)


def test_other_spellings_wrappers_and_a_configuration_mean_the_same(tmp_path: Path):
    plain = open_novamind(save(tmp_path, state_dict())).read_params(vocab_size=VOCAB_SIZE)
    buffers = {"blocks.0.attention.rope.inv_freq": torch.ones(3)}
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in (state_dict(META) | buffers).items()}
    given = {"n_heads": 2, "max_seq_len": 64, "rms_norm_eps": 1e-5}
    model = open_novamind(save(tmp_path, {"model": wrapped, "config": given, "step": 6400}))
    assert (model.config.context_len, model.config.norm_eps) == (64, 1e-5)
    assert (model.config.num_heads, model.config.head_dim, model.config.num_kv_heads) == (2, 128, 1)
    params = model.read_params(vocab_size=VOCAB_SIZE)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.ravel(), b.ravel()), params, plain)


def test_the_command_writes_a_run_and_says_that_nobody_compared_it(tmp_path: Path, capsys):
    training_runs.write_dataset(tmp_path)
    path = save(tmp_path, state_dict())
    out = tmp_path / "runs" / "novamind"
    with pytest.raises(UserError, match=r"has no tokenizer with it; name the folder of its own"):
        import_weights.main([str(path), f"--out={out}"])
    import_weights.main([str(path), f"--out={out}", f"--tokenizer={tmp_path / 'tokenizer'}"])
    assert "NOT VERIFIED: there is no second implementation of NovaMind" in capsys.readouterr().out
    trained = open_trained(out)
    assert trained.tokenizer.fingerprint == Tokenizer.load(tmp_path / "tokenizer").fingerprint
    np.testing.assert_array_equal(trained.params["embedding"], state_dict()["tok_emb.weight"].numpy())
    assert trained.config.model.position == "hirope"
    training_runs.write_dataset(tmp_path / "other", vocab_size=544)
    with pytest.raises(UserError, match=r"the tokenizer has 544 tokens, .* has 512"):
        import_weights.main([str(path), f"--out={out}2", f"--tokenizer={tmp_path / 'other' / 'tokenizer'}"])


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/samosa_was_here",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.1.attn.q_proj.weight": None}, r"tensor layers.1.attn.q_proj.weight is missing"),
        ({"layers.0.attn.q_proj.weight": None}, r"has no blocks/attention/query; expected .* q_proj or wq"),
        ({"tok_emb.weight": None}, r"has no embedding; expected a tensor of the model called tok_emb or"),
        (
            {"layers.0.attn.q_norm.weight": torch.ones(64)},
            r"layers.0.attn.q_norm.weight \(1 in all\) belongs",
        ),
        ({"layers.0.attn.wq.weight": torch.ones(4, 4)}, r"has both layers.{layer}.attn.q_proj.weight and"),
        ({"norm.weight": torch.full((WIDTH,), torch.nan)}, r"norm.weight holds numbers that are not finite"),
        ({"config": Malicious()}, r"asks for posix.system to be called when it is read"),
        ({"step": 3}, r"step is int; expected a tensor"),
    ],
)
def test_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path):
    state = {name: value for name, value in {**state_dict(), **change}.items() if value is not None}
    path = save(tmp_path, state)
    with pytest.raises(UserError, match=message) as caught:
        open_novamind(path).read_params(vocab_size=VOCAB_SIZE)
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/samosa_was_here").exists()


@pytest.mark.parametrize(("key", "value"), [("num_heads", 0), ("max_seq_len", "2k"), ("eps", float("nan"))])
def test_a_config_that_cannot_be_is_named(key: str, value: object, tmp_path: Path):
    path = save(tmp_path, {"model": state_dict(), "config": {key: value}})
    with pytest.raises(UserError, match=rf"{key} of its config is '?{value}'?; expected a positive number"):
        open_novamind(path)


def test_the_command_exits_with_2_and_one_line(tmp_path: Path):
    path = save(tmp_path, {**state_dict(), "config": Malicious()})
    done = subprocess.run(
        [sys.executable, "-m", "samosa_jax.import_weights", str(path), f"--out={tmp_path / 'runs' / 'x'}"],
        capture_output=True,
        text=True,
        env=training_runs.environment(),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "posix.system" in done.stderr
    assert not (tmp_path / "runs").exists()
    assert not Path("/tmp/samosa_was_here").exists()


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path):
    path = tmp_path / "model.pt"
    for content in (b"", b"PK\x03\x04 cut", pickle.dumps({"a": 1}, protocol=2), b"\x80\x02N."):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"model.pt (is no PyTorch checkpoint|holds)"):
            open_novamind(path)
