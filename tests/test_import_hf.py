"""Folders of Hugging Face's transformers as runs of ours: Llama, Qwen3, NanoChat, and refusals."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="transformers is not installed: its models cannot be made")
pytest.importorskip("torch", reason="torch is not installed: nothing is compared with PyTorch")

import chat_runs
import foreign_models
import jax
import jax.numpy as jnp
import numpy as np
import torch
import training_runs
from test_chat_training import flags as stage_flags

from samosa_jax import chat, import_weights, prepare, train
from samosa_jax.convert.hf_source import open_hf
from samosa_jax.convert.import_check import compare_logits, draw_tokens
from samosa_jax.data.tokenizer import SPECIAL_TOKENS
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.trained import Trained, open_trained

SCALED = {"rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 64}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama_tied_float16_sharded": (
        "Llama",
        {"tie_word_embeddings": True, "dtype": torch.float16, "max_shard_size": "40KB"},
    ),
    "qwen3": ("Qwen3", {}),
    "qwen3_tied_bfloat16_sharded": (
        "Qwen3",
        {"tie_word_embeddings": True, "dtype": torch.bfloat16, "max_shard_size": "40KB"},
    ),
    "qwen3_windows": (
        "Qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "llama_yarn": ("Llama", {"rope_parameters": {**SCALED, "rope_type": "yarn"}}),
    "qwen3_llama3": (
        "Qwen3",
        {
            "rope_parameters": {
                **SCALED,
                "rope_type": "llama3",
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            }
        },
    ),
    "llama_linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}},
    ),
    "nanochat": ("NanoChat", {}),
    "nanochat_without_a_cap": ("NanoChat", {"final_logit_softcapping": None}),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "llama"
    foreign_models.write_hf(folder, "Llama")
    return folder


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """One to spoil."""
    return Path(shutil.copytree(llama, tmp_path / "llama"))


def run(source: Path, out: Path, *more: str) -> Trained:
    import_weights.main([str(source), f"--out={out}", *more])
    return open_trained(out)


def logits(trained: Trained, tokens: np.ndarray) -> np.ndarray:
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    found = trained.network.logits(
        trained.params,
        jnp.asarray(tokens),
        k_lo=jnp.zeros_like(position),
        k_hi=position + 1,
        position=position,
        turn_position=position,
    )
    return np.asarray(found)


@pytest.mark.parametrize("case", CASES)
def test_an_imported_model_gives_the_logits_of_transformers(case: str, tmp_path: Path, capsys):
    kind, options = CASES[case]
    original = foreign_models.write_hf(tmp_path / "hf", kind, **options)
    sharded = (tmp_path / "hf" / "model.safetensors.index.json").exists()
    assert sharded == ("max_shard_size" in options)
    trained = run(tmp_path / "hf", tmp_path / "runs" / case)
    assert "verified against the original in PyTorch" in capsys.readouterr().out

    tokens = np.random.default_rng(1).integers(0, foreign_models.VOCAB_SIZE, (2, 100))
    with torch.inference_mode():
        expected = original(torch.from_numpy(tokens)).logits.numpy()
    found = logits(trained, tokens)[..., : foreign_models.VOCAB_SIZE]
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    assert trained.tokenizer.vocab_size == trained.config.model.vocab_size == foreign_models.VOCAB_SIZE
    assert len(set(trained.tokenizer.special_ids.values())) == len(SPECIAL_TOKENS)


def test_new_rows_are_the_mean_of_the_others(tmp_path: Path):
    foreign_models.write_hf(tmp_path / "hf", "Llama", num_reserved=0)
    trained = run(tmp_path / "hf", tmp_path / "runs" / "new")
    # All of ours but the one that begins documents.
    assert trained.tokenizer.vocab_size == trained.config.model.vocab_size == 610
    params = trained.params
    for table in (np.asarray(params["embedding"]), np.asarray(params["head"])):
        mean = table[:600].astype(np.float64).mean(axis=0).astype(np.float32)
        np.testing.assert_array_equal(table[600:610], np.tile(mean, (10, 1)))
        assert not table[610:].any()


def test_a_context_may_be_shorter_and_windows_may_then_go(tmp_path: Path):
    windows: dict[str, Any] = CASES["qwen3_windows"][1] | {"layer_types": ["sliding_attention"] * 3}
    foreign_models.write_hf(tmp_path / "hf", "Qwen3", **windows)
    with pytest.raises(UserError, match=r"the last layer slides over 24 tokens.*--context-len=24"):
        run(tmp_path / "hf", tmp_path / "runs" / "long")
    trained = run(tmp_path / "hf", tmp_path / "runs" / "short", "--context-len=24")
    assert trained.config.model.context_len == 24
    assert trained.config.model.layer_windows == (None, None, None)
    with pytest.raises(UserError, match=r"--context-len is 257; .*config.json allows 1 to 256"):
        run(tmp_path / "hf", tmp_path / "runs" / "longer", "--context-len=257")


def test_training_goes_on_from_an_import_and_it_can_be_talked_to(llama: Path, tmp_path: Path, capsys):
    runs = tmp_path / "runs"
    run(llama, runs / "llama")
    rows = chat_runs.write_rows(tmp_path / "chat.jsonl", [chat_runs.conversation(i) for i in range(40)])
    data = chat_runs.prepare(rows, runs / "llama" / "tokenizer", tmp_path / "chat", val_documents=4)
    values = {**chat_runs.SFT, "train.num_steps": 1, "train.batch_tokens": 2048, "schedule.warmup_steps": 0}
    done = training_runs.run(stage_flags(data, runs, runs / "llama", values))
    assert done.returncode == 0, done.stderr
    before, after = open_trained(runs / "llama"), open_trained(runs / "chat")
    assert after.step == 1
    assert after.config.model == before.config.model
    assert after.tokenizer.fingerprint == before.tokenizer.fingerprint
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.params, after.params)
    assert 0 < max(jax.tree.leaves(moved)) < 1e-4, "rates of pretraining would undo the model"
    capsys.readouterr()
    chat.main([str(runs / "llama"), "-p", "Tom, who are you?", "--max_tokens=8", "--temp=0"])
    assert capsys.readouterr().out


def test_pretraining_goes_on_from_an_import_at_a_longer_context(llama: Path, tmp_path: Path, capsys):
    runs = tmp_path / "runs"
    run(llama, runs / "llama")
    (tmp_path / "text.txt").write_text("\n\n".join(training_runs.make_text(seed) for seed in range(400)))
    prepare.main(
        [
            *("--input", str(tmp_path / "text.txt"), "--split-on", "blank-lines", "--val-documents=10"),
            *(f"--tokenizer={runs / 'llama' / 'tokenizer'}", f"--out={tmp_path / 'data'}"),
        ]
    )
    before = open_trained(runs / "llama").config
    length = 2 * before.model.context_len
    train.main(
        [
            *(f"--init_from={runs / 'llama'}", f"--out_dir={runs}", "--name=longer"),
            *(f"--data={tmp_path / 'data'}", f"--model.context_len={length}"),
            *("--model.rope_scaling_type=yarn", "--optimizer.lr_scale=0.2", "--schedule.warmup_steps=0"),
            *("--train.num_steps=1", f"--train.batch_tokens={8 * length}", "--train.device_batch_size=1"),
            *("--eval.max_tokens=64", "--sample.prompts=[]", "--checkpoint.every_steps=0"),
        ]
    )
    assert "optimizer state fresh; model.context_len 256 -> 512" in " ".join(capsys.readouterr().out.split())
    after = open_trained(runs / "longer")
    assert after.step == 1
    assert after.config.model == dataclasses.replace(
        before.model,
        context_len=length,
        rope_scaling_type="yarn",
        rope_scaling_factor=2.0,
        original_context_len=256,
    )
    # AdamW at a share of 1e-4, as imports name it.
    (line,) = [one for one in training_runs.records(runs / "longer" / "metrics.jsonl") if "train/lr" in one]
    assert line["train/lr"] == pytest.approx(2e-5)


def test_an_imported_run_cannot_be_trained_in_place(llama: Path, tmp_path: Path):
    run(llama, tmp_path / "runs" / "llama")
    config = tmp_path / "runs" / "llama" / "config.yaml"
    data = training_runs.write_dataset(tmp_path)
    done = training_runs.run([f"--config={config}", f"--data={data}"])
    assert done.returncode == 2
    assert "--init_from=" in done.stderr
    assert "Traceback" not in done.stderr


def edit_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        change(values)
        path.write_text(json.dumps(values), encoding="utf-8")

    return edit


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "rope_scaling": (
        edit_config(lambda c: c.update(rope_scaling={"rope_type": "yarn", "factor": 4.0})),
        r"config.json: rope_scaling and rope_parameters describe other angles; keep one",
    ),
    "rope_parameters": (
        edit_config(lambda c: c["rope_parameters"].update(rope_type="longrope")),
        r"rope_parameters is of type 'longrope'; only default, linear, yarn, llama3 can be imported",
    ),
    "no_factor": (
        edit_config(lambda c: c["rope_parameters"].update(rope_type="yarn")),
        r"config.json has no rope_parameters.factor",
    ),
    "other_gain": (
        edit_config(
            lambda c: c["rope_parameters"].update(rope_type="yarn", factor=4.0, attention_factor=1.0)
        ),
        r"rope_parameters.attention_factor is 1.0; only 1.13863 can be imported",
    ),
    "other_ramp": (
        edit_config(
            lambda c: c["rope_parameters"].update(
                rope_type="llama3", factor=4.0, low_freq_factor=2.0, high_freq_factor=4.0
            )
        ),
        r"rope_parameters.low_freq_factor is 2.0; only 1 can be imported",
    ),
    "mscale": (
        edit_config(lambda c: c["rope_parameters"].update(rope_type="yarn", factor=4.0, mscale=0.7)),
        r"rope_parameters of type yarn has mscale, which is unknown here",
    ),
    "rope_is_no_object": (
        edit_config(lambda c: c.update(rope_scaling="linear")),
        r"config.json: rope_scaling is 'linear'; expected an object",
    ),
    "width_is_text": (
        edit_config(lambda c: c.update(hidden_size="48")),
        r"hidden_size is '48'; expected a pos",
    ),
    "attention_bias": (edit_config(lambda c: c.update(attention_bias=True)), r"attention_bias is true"),
    "mlp_bias": (edit_config(lambda c: c.update(mlp_bias=True)), r"mlp_bias is true"),
    "hidden_act": (edit_config(lambda c: c.update(hidden_act="gelu")), r'hidden_act is "gelu"; only "silu"'),
    "partial_rotary": (
        edit_config(lambda c: c.update(partial_rotary_factor=0.5)),
        r"partial_rotary_factor is 0.5",
    ),
    "unknown_field": (
        edit_config(lambda c: c.update(logit_scale=0.5)),
        r"config.json: the field logit_scale \(0.5\) is unknown",
    ),
    "quantized": (
        edit_config(lambda c: c.update(quantization_config={"bits": 4})),
        r"the field quantization_config",
    ),
    "model_type": (edit_config(lambda c: c.update(model_type="mamba")), r"model_type is 'mamba'; expected"),
    "no_shape": (edit_config(lambda c: c.pop("hidden_size")), r"config.json has no hidden_size"),
    "other_width": (
        edit_config(lambda c: c.update(intermediate_size=64)),
        r"tensor model.layers.0.mlp.down_proj.weight is \(48, 96\), expected \(48, 64\)",
    ),
    "tied_but_different": (
        edit_config(lambda c: c.update(tie_word_embeddings=True)),
        r"tensor lm_head.weight differs from model.embed_tokens.weight",
    ),
    "fewer_layers": (
        edit_config(lambda c: c.update(num_hidden_layers=2)),
        r"tensor model.layers.2.input_layernorm.weight \(9 in all\) belongs to nothing",
    ),
    "no_config": (lambda folder: (folder / "config.json").unlink(), r"holds neither config.json"),
    "no_weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"has neither model.safetensors nor model.safetensors.index.json",
    ),
    "no_tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"has neither tokenizer.json"),
    "truncated": (
        lambda folder: truncate(folder / "model.safetensors", 1000),
        r"model.safetensors has \d+ bytes, expected \d+; fetch it again",
    ),
    "cut_in_header": (
        lambda folder: truncate(folder / "model.safetensors", None),
        r"model.safetensors is cut short or no safetensors file",
    ),
    "not_finite": (
        lambda folder: overwrite_end(folder / "model.safetensors", np.float32(np.nan).tobytes()),
        r"tensor \S+ holds numbers that are not finite",
    ),
    "larger_tokenizer": (
        lambda folder: foreign_models.write_tokenizer(folder, vocab_size=640),
        r"tokenizer.json has 640 tokens, but the model's embedding has 600 rows",
    ),
}


def truncate(path: Path, by: int | None) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:100] if by is None else content[:-by])


def overwrite_end(path: Path, end: bytes) -> None:
    path.write_bytes(path.read_bytes()[: -len(end)] + end)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_and_nothing_is_left(case: str, copy: Path, tmp_path: Path):
    spoil, message = REFUSED[case]
    spoil(copy)
    out = tmp_path / "runs" / "llama"
    with pytest.raises(UserError, match=message) as caught:
        run(copy, out)
    assert "\n" not in str(caught.value)
    assert not out.parent.exists() or not list(out.parent.iterdir())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--rope-pairs=halves", r"--rope-pairs is for NovaMind's .pt files"),
        ("--rope-base=10000", r"--rope-base is for nanochat's checkpoints"),
        ("--step=3", r"--step is for nanochat's checkpoints"),
    ],
)
def test_flags_for_other_models_are_refused(flag: str, message: str, llama: Path, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        run(llama, tmp_path / "runs" / "llama", flag)


def test_a_missing_shard_and_a_tensor_that_is_not_in_its_shard_are_named(tmp_path: Path):
    foreign_models.write_hf(tmp_path / "hf", "Llama", max_shard_size="40KB")
    index = tmp_path / "hf" / "model.safetensors.index.json"
    places = json.loads(index.read_text(encoding="utf-8"))
    first, *_, last = sorted(set(places["weight_map"].values()))
    wrong = {**places, "weight_map": {**places["weight_map"], "model.norm.weight": first}}
    index.write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(UserError, match=rf"{first} has no tensor model.norm.weight"):
        run(tmp_path / "hf", tmp_path / "run")
    index.write_text(json.dumps(places), encoding="utf-8")
    (tmp_path / "hf" / last).unlink()
    with pytest.raises(UserError, match=rf"{last} is missing, which model.safetensors.index.json names"):
        run(tmp_path / "hf", tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "permuted"), [({}, True), ({"rope_base": 10_000.0}, False), ({"norm_eps": 1e-2}, False)]
)
def test_verification_finds_a_model_that_was_understood_wrongly(
    options: dict[str, Any], permuted: bool, llama: Path
):
    model = open_hf(llama)
    assert model.open_peer is not None
    theirs = model.open_peer()
    params = model.read_params(vocab_size=600)
    tokens = draw_tokens(Network.build(model.config), num_known=600, special=[0])[:, :32]
    if permuted:
        assert compare_logits(Network.build(model.config), params, theirs, tokens, source="").max_error < 1e-4
        query = params["blocks"]["attention"]["query"]
        query[:, :, [0, 1]] = query[:, :, [1, 0]]
    network = Network.build(dataclasses.replace(model.config, **options))
    with pytest.raises(UserError, match=r"llama was not understood: the logit of token \d+ at position \d+"):
        compare_logits(network, params, theirs, tokens, source="llama")


def test_nobody_looked_is_said_aloud_and_a_name_in_use_is_kept(llama: Path, tmp_path: Path, capsys):
    out = tmp_path / "run"
    run(llama, out, "--no-verify")
    assert "NOT VERIFIED" in capsys.readouterr().out
    before = sorted(path.name for path in out.rglob("*"))
    with pytest.raises(UserError, match=r"run exists already"):
        run(llama, out)
    assert sorted(path.name for path in out.rglob("*")) == before
