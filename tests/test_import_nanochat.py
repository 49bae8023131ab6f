"""nanochat's checkpoints as runs of ours and back, for every revision whose function ours can be."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: .pt files cannot be read")
pytest.importorskip("tiktoken", reason="tiktoken is not installed: nanochat's tokenizers cannot be read")

import exported_models
import foreign_tokenizers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from samosa_jax import export, import_weights
from samosa_jax.config import ModelConfig
from samosa_jax.convert.expected import ask
from samosa_jax.convert.exported import as_written
from samosa_jax.convert.exporting import verify_folder
from samosa_jax.convert.nanochat import find_checkpoint, open_nanochat, write_nanochat
from samosa_jax.convert.nanochat_forward import NanochatForward
from samosa_jax.convert.nanochat_tokenizer import write_nanochat_tokenizer
from samosa_jax.convert.tokenizer_import import import_tokenizer
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.trained import open_trained

ROLES = ("user", "assistant", "python", "output")
SPECIALS = ("bos", *(f"{role}_{end}" for role in ROLES for end in ("start", "end")))
STEP = 12
NUM_LAYERS, WIDTH, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 4, 64, 4, 2, 16
CONTEXT = 1280
TOKENS = np.random.default_rng(0).integers(0, 500, (1, 700))  # more than any window of that context
# By the day that a revision begins: what there was beside the layers, tokens before the query that an "S"
# layer sees, the gain of queries and keys, the base of the angles, and whether tables were padded.
REVISIONS: dict[str, dict[str, Any]] = {
    "2025-10-13": {"parts": (), "window": None, "gain": 1.0, "base": 1e4, "padded": False},
    "2026-01-11": {"parts": ("lambdas",), "window": 640, "gain": 1.0, "base": 1e4},
    "2026-03-09": {"parts": ("lambdas", "values"), "window": 512, "gain": 1.15, "base": 1e5},
    "2026-03-14": {"parts": ("lambdas", "values", "smear"), "window": 384, "gain": 1.2, "base": 1e5},
}
HEAD = "2026-03-14"


def write_checkpoint(folder: Path, revision: str, *, vocab_size: int = 500) -> Path:
    """A checkpoint as that revision lays it out, every number random. Returns the .pt file."""
    parts = REVISIONS[revision]["parts"]
    rows = -(-vocab_size // 64) * 64 if REVISIONS[revision].get("padded", True) else vocab_size
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (rows, WIDTH),
        "lm_head.weight": (rows, WIDTH),
    }
    for layer in range(NUM_LAYERS):
        block = f"transformer.h.{layer}"
        shapes |= {
            f"{block}.attn.c_q.weight": (NUM_HEADS * HEAD_DIM, WIDTH),
            f"{block}.attn.c_k.weight": (NUM_KV_HEADS * HEAD_DIM, WIDTH),
            f"{block}.attn.c_v.weight": (NUM_KV_HEADS * HEAD_DIM, WIDTH),
            f"{block}.attn.c_proj.weight": (WIDTH, NUM_HEADS * HEAD_DIM),
            f"{block}.mlp.c_fc.weight": (4 * WIDTH, WIDTH),
            f"{block}.mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
        }
        if "values" in parts and layer % 2 == (NUM_LAYERS - 1) % 2:
            shapes[f"value_embeds.{layer}.weight"] = (rows, NUM_KV_HEADS * HEAD_DIM)
            shapes[f"{block}.attn.ve_gate.weight"] = (NUM_KV_HEADS, 12)
    if "lambdas" in parts:
        shapes |= {"resid_lambdas": (NUM_LAYERS,), "x0_lambdas": (NUM_LAYERS,)}
    if "smear" in parts:
        shapes |= {"smear_gate.weight": (1, 24), "smear_lambda": (1,), "backout_lambda": (1,)}
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=generator) * (shape[-1] if len(shape) > 1 else 4) ** -0.5
        for name, shape in shapes.items()
    }
    model_config: dict[str, Any] = {
        "sequence_len": CONTEXT,
        "vocab_size": vocab_size,
        "n_layer": NUM_LAYERS,
        "n_embd": WIDTH,
    }
    model_config |= {"n_head": NUM_HEADS, "n_kv_head": NUM_KV_HEADS}
    if REVISIONS[revision]["window"]:
        model_config["window_pattern"] = "SSL"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model_{STEP:06d}.pt"
    torch.save(state, path)
    meta = {"step": STEP, "model_config": model_config, "val_bpb": 0.9}
    (folder / f"meta_{STEP:06d}.json").write_text(json.dumps(meta), encoding="utf-8")
    return path


@pytest.fixture
def d4(tmp_path: Path) -> Path:
    """The folder of a checkpoint of today's code with its tokenizer, where nanochat has them."""
    encoding = foreign_tokenizers.nanochat(
        tmp_path / "nanochat" / "tokenizer", [f"<|{name}|>" for name in SPECIALS]
    )
    folder = tmp_path / "nanochat" / "base_checkpoints" / "d4"
    write_checkpoint(folder, HEAD, vocab_size=encoding.n_vocab)
    return folder


def our_logits(config: ModelConfig, params: Any, tokens: np.ndarray) -> np.ndarray:
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    found = jax.jit(Network.build(config).logits)(
        params,
        jnp.asarray(tokens),
        k_lo=jnp.zeros_like(position),
        k_hi=position + 1,
        position=position,
        turn_position=position,
    )
    return np.asarray(found)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("revision", REVISIONS)
def test_logits_are_those_of_nanochats_equations(revision: str, tmp_path: Path):
    model = open_nanochat(write_checkpoint(tmp_path, revision))
    facts = REVISIONS[revision]
    assert model.config.window == (facts["window"] + 1 if facts["window"] else None)
    assert (model.config.qk_gain, model.config.rope_base) == (facts["gain"], facts["base"])
    params = model.read_params(vocab_size=500)
    expected = NanochatForward(model.config, model.tensors)(TOKENS)
    assert relative_error(our_logits(model.config, params, TOKENS), expected) < 1e-5
    # What would be seen: one key less in a window, another gain or base, turning the other way.
    others: list[dict[str, Any]] = [{"qk_gain": 1.1}, {"rope_base": 2e4}]
    if facts["window"]:
        others.append({"window": facts["window"]})
    for other in others:
        changed = NanochatForward(dataclasses.replace(model.config, **other), model.tensors)(TOKENS)
        assert relative_error(changed, expected) > 1e-3, other
    query = params["blocks"]["attention"]["query"]
    params["blocks"]["attention"]["query"] = np.roll(query, HEAD_DIM // 2, axis=-1)
    assert relative_error(our_logits(model.config, params, TOKENS), expected) > 1e-2


@pytest.mark.parametrize("case", ["float32", "bfloat16_tables_and_compiled"])
def test_import_and_the_way_back_change_no_bit(case: str, d4: Path, tmp_path: Path, capsys):
    path = d4 / f"model_{STEP:06d}.pt"
    state = torch.load(path, weights_only=True)
    if case != "float32":
        state = {
            f"_orig_mod.{name}": tensor.bfloat16() if "wte" in name or "value_embeds" in name else tensor
            for name, tensor in state.items()
        }
        torch.save(state, path)
    import_weights.main([str(d4), f"--out={tmp_path / 'runs' / 'd4'}"])
    assert "verified against the original in PyTorch" in capsys.readouterr().out
    trained = open_trained(tmp_path / "runs" / "d4")
    assert trained.step == STEP
    assert (
        trained.tokenizer.vocab_size
        == json.loads((d4 / "meta_000012.json").read_text())["model_config"]["vocab_size"] + 2
    )
    config = trained.config.model
    back = write_nanochat(tmp_path / "back", trained.params, config, trained.network.info, step=STEP)
    found = torch.load(back, weights_only=True)
    assert found.keys() == {name.removeprefix("_orig_mod.") for name in state}
    known = config.vocab_size - 2
    for name, tensor in state.items():
        plain = name.removeprefix("_orig_mod.")
        rows = known if tensor.ndim == 2 and tensor.shape[0] > known else tensor.shape[0]
        assert torch.equal(found[plain][:rows], tensor[:rows].float()), name
    again = open_nanochat(back)
    assert again.config == config
    params = again.read_params(vocab_size=config.vocab_size)
    jax.tree.map(np.testing.assert_array_equal, params, jax.tree.map(np.asarray, trained.params))


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/samosa_was_here",)


def change_state(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        path = folder / f"model_{STEP:06d}.pt"
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    return edit


def change_meta(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        path = folder / f"meta_{STEP:06d}.json"
        meta = json.loads(path.read_text(encoding="utf-8"))
        change(meta["model_config"])
        path.write_text(json.dumps(meta), encoding="utf-8")

    return edit


def cut(folder: Path) -> None:
    path = folder / f"model_{STEP:06d}.pt"
    path.write_bytes(path.read_bytes()[:-5000])


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "malicious": (change_state(lambda s: s.update(x=Malicious())), r"asks for posix.system to be called"),
    "malicious_old_format": (
        lambda folder: (folder / "model_000012.pt").write_bytes(pickle.dumps(Malicious(), protocol=2)),
        r"model_000012.pt (asks for posix.system to be called|is no PyTorch checkpoint)",
    ),
    "truncated": (cut, r"model_000012.pt is no PyTorch checkpoint, or damaged"),
    "no_meta": (lambda folder: (folder / "meta_000012.json").unlink(), r"meta_000012.json cannot be read"),
    "values_by_a_scalar": (change_state(lambda s: s.update(v0_lambdas=torch.ones(4))), r"has v0_lambdas: "),
    "bigrams": (change_state(lambda s: s.update(bigram_lambdas=torch.ones(4))), r"has bigram_lambdas: "),
    "wide_gates": (
        change_state(
            lambda s: s.update({n: torch.ones(2, 32) for n in list(s) if n.endswith("ve_gate.weight")})
        ),
        r"ve_gate.weight reads 32 channels, as in nanochat before 2026-03-09",
    ),
    "missing_tensor": (
        change_state(lambda s: s.pop("backout_lambda")),
        r"tensor backout_lambda is missing \(1 of",
    ),
    "unknown_tensor": (
        change_state(lambda s: s.update(mtp=torch.ones(3))),
        r"tensor mtp \(1 in all\) belongs",
    ),
    "other_vocabulary": (
        change_meta(lambda c: c.update(vocab_size=400)),
        r"transformer.wte.weight has \d+ rows, .*meta_000012.json has a vocab_size of 400",
    ),
    "other_width": (change_meta(lambda c: c.update(n_embd=32)), r"tensor \S+ is \(.*\), expected \("),
    "unknown_option": (
        change_meta(lambda c: c.update(num_experts=8)),
        r"the field num_experts \(8\) is unknown",
    ),
    "not_finite": (
        change_state(lambda s: s["lm_head.weight"].fill_(float("inf"))),
        r"tensor lm_head.weight holds numbers that are not finite",
    ),
    "no_tokenizer": (
        lambda folder: shutil.rmtree(folder.parents[1] / "tokenizer"),
        r"has no tokenizer with it; name the folder of its own with --tokenizer",
    ),
    "tokenizer_of_another": (
        change_meta(lambda c: c.update(vocab_size=c["vocab_size"] + 1)),
        r"the tokenizer has 909 tokens, .*model_000012.pt has 910",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_and_nothing_is_left(case: str, d4: Path, tmp_path: Path):
    spoil, message = REFUSED[case]
    spoil(d4)
    out = tmp_path / "runs" / "d4"
    with pytest.raises(UserError, match=message) as caught:
        import_weights.main([str(d4), f"--out={out}"])
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/samosa_was_here").exists()
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_a_step_may_be_named(tmp_path: Path):
    write_checkpoint(tmp_path, HEAD)
    assert find_checkpoint(tmp_path, step=STEP) == find_checkpoint(tmp_path) == tmp_path / "model_000012.pt"
    with pytest.raises(UserError, match=r"has no model of step 7; it has those of 12"):
        find_checkpoint(tmp_path, step=7)
    with pytest.raises(UserError, match=r"model_000012.pt is not the model of step 7"):
        find_checkpoint(tmp_path / "model_000012.pt", step=7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qk_gain": 1.0}, r"model.qk_gain is 1.0, nanochat's code has 1.2"),
        ({"mlp_dim": 128}, r"model.mlp_dim is 128, nanochat's code has 256"),
        (
            {**exported_models.YARN, "original_context_len": 2048},
            r"model.rope_scaling_type is yarn, nanochat's code has none",
        ),
        ({"soft_cap": None}, r"model.soft_cap is None"),
        ({"norm_eps": 1e-3}, r"model.norm_eps is 0.001"),
        ({"window": 384}, r"sees 384 keys, one of nanochat's sees 385"),
    ],
)
def test_what_nanochat_would_compute_differently_is_not_written(
    options: dict[str, Any], message: str, tmp_path: Path
):
    model = open_nanochat(write_checkpoint(tmp_path / "d4", HEAD))
    config = dataclasses.replace(model.config, **options)
    network = Network.build(config)
    with pytest.raises(UserError, match=message):
        write_nanochat(tmp_path / "back", network.init(jax.random.key(0)), config, network.info, step=1)
    assert not (tmp_path / "back").exists()


def test_the_tokenizer_goes_back_as_tiktoken_reads_it(d4: Path, tmp_path: Path):
    tokenizer = import_tokenizer(d4.parents[1] / "tokenizer", vocab_rows=909)
    tmp_path.joinpath("back").mkdir()
    write_nanochat_tokenizer(tmp_path / "back", tokenizer)
    encoding = pickle.loads((tmp_path / "back" / "tokenizer.pkl").read_bytes())
    assert encoding.n_vocab == tokenizer.vocab_size == 911
    assert encoding.encode_single_token("<|bos|>") == tokenizer.bos_id
    assert encoding._special_tokens["<think>"] == tokenizer.special_ids["<think>"] == 909
    for text in foreign_tokenizers.texts():
        assert encoding.encode_ordinary(text) == tokenizer.encode(text)
    sizes = torch.load(tmp_path / "back" / "token_bytes.pt", weights_only=True)
    assert sizes.tolist() == [
        0 if i in encoding._special_tokens.values() else len(encoding.decode_single_token_bytes(i))
        for i in range(911)
    ]
    again = import_tokenizer(tmp_path / "back", vocab_rows=911)
    assert (again.special_ids, again.num_new_rows) == (tokenizer.special_ids, 0)


def test_export_writes_what_nanochat_loads(d4: Path, tmp_path: Path, capsys):
    run, out = tmp_path / "runs" / "d4", tmp_path / "out"
    import_weights.main([str(d4), f"--out={run}"])
    export.main([str(run), "--format=nanochat", f"--out={out}"])
    said = capsys.readouterr().out
    assert "nanochat, " in said
    assert "greedy tokens equal" in said
    state = torch.load(d4 / f"model_{STEP:06d}.pt", weights_only=True)
    found = torch.load(out / "model_000000.pt", weights_only=True)
    assert found.keys() == state.keys()
    assert torch.equal(found["transformer.h.0.attn.c_q.weight"], state["transformer.h.0.attn.c_q.weight"])
    assert pickle.loads((out / "tokenizer.pkl").read_bytes()).encode_single_token("<think>")
    trained = open_trained(run)
    model = as_written(trained.network, trained.params, trained.tokenizer, name="d4", dtype="float32")
    torch.save(found | {"backout_lambda": found["backout_lambda"] + 1}, out / "model_000000.pt")
    with pytest.raises(UserError, match="tensor backout_lambda"):
        verify_folder(
            model, out, format="nanochat", questions=ask(model, num_new=0), read=exported_models.read_here
        )


def test_tokenizers_that_tiktoken_does_not_know_are_not_written(tmp_path: Path):
    qwen = import_tokenizer(foreign_tokenizers.qwen3(tmp_path / "qwen"))
    with pytest.raises(UserError, match=r"is not one expression that splits text"):
        write_nanochat_tokenizer(tmp_path, qwen)
    with pytest.raises(UserError, match=r"this one is of sentencepiece; export this model with --format=hf"):
        write_nanochat_tokenizer(tmp_path, exported_models.train_tokenizer())
    assert not (tmp_path / "tokenizer.pkl").exists()


def test_nanochats_own_code_gives_the_same_logits_before_and_after(tmp_path: Path):
    """For any revision since 2025-10-13 but those of January to March 2026 that ours cannot compute."""
    checkout = os.environ.get("SAMOSA_NANOCHAT")
    if not checkout:
        pytest.skip("set SAMOSA_NANOCHAT to a checkout of karpathy/nanochat to run this test")
    environment = {**os.environ, "PYTHONPATH": checkout, "NANOCHAT_DTYPE": "float32"}
    peer = [sys.executable, "-O", str(Path(__file__).with_name("nanochat_peer.py"))]
    subprocess.run([*peer, "write", str(tmp_path)], env=environment, check=True)
    model = open_nanochat(tmp_path / f"model_{STEP:06d}.pt")
    params = model.read_params(vocab_size=model.config.vocab_size)
    tokens, theirs = np.load(tmp_path / "tokens.npy"), np.load(tmp_path / "logits.npy")
    assert np.abs(theirs).max() > 1
    error = relative_error(our_logits(model.config, params, tokens), theirs)
    print(f"ours to nanochat's own: {error:.1e}")
    assert error < 1e-5
    assert relative_error(NanochatForward(model.config, model.tensors)(tokens), theirs) < 1e-5
    if model.config.smear:
        write_nanochat(tmp_path, params, model.config, Network.build(model.config).info, step=13)
        subprocess.run([*peer, "read", str(tmp_path), "13"], env=environment, check=True)
        np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), theirs)
