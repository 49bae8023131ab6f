"""`samosa export`: what it writes, that it notices all that is not as it was trained, what it refuses."""

import dataclasses
import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: exports are not read back")

import exported_models
import numpy as np
import training_runs

from samosa_jax import export as command
from samosa_jax.command_line import run
from samosa_jax.config import Config, DataConfig, LogConfig, ModelConfig, to_dict
from samosa_jax.convert import exporting, torch_format
from samosa_jax.convert.expected import ask
from samosa_jax.convert.exported import ExportedModel
from samosa_jax.convert.exporting import verify_folder, write_folder
from samosa_jax.convert.extras import require_packages
from samosa_jax.convert.lineage import read_lineage
from samosa_jax.convert.model_card import model_card
from samosa_jax.convert.safetensors_files import open_tensors
from samosa_jax.convert.safetensors_writing import write_tensors
from samosa_jax.convert.tokenizer_json import write_tokenizer
from samosa_jax.convert.verification import MismatchError, compare
from samosa_jax.data import tokenizer_training
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return exported_models.train_tokenizer()


def written(model: ExportedModel, folder: Path, *, format: Any = "hf", shard_bytes: int = 10**9) -> Path:
    folder.mkdir(parents=True)
    write_folder(model, folder, format=format, lineage=(), shard_bytes=shard_bytes)
    return folder


def save_run(
    folder: Path, tokenizer: Tokenizer, *, name: str = "small", kind: str = "samosa", **options: Any
) -> Path:
    """A run of the given kind of model, as training leaves it."""
    model = exported_models.model_of(exported_models.KINDS[kind], tokenizer)
    config = Config(name=name, out_dir=str(folder), model=model.network.config, **options)
    tokenizer_training.write(tokenizer, folder / name / "tokenizer")
    training_runs.save_run(folder / name, config, tokenizer, model.params)
    return folder / name


def test_the_command(tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """In shards, from a checkpoint, verified by a process of its own; it is said what and where it is."""
    run_folder = save_run(tmp_path / "runs", tokenizer)
    out = tmp_path / "exports" / "small"
    flags = [str(run_folder), f"--out={out}", "--shard-bytes=100000"]
    command.main(flags)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{out}: samosa, ")
    assert "tensors equal bit for bit" in said[1]
    assert "greedy tokens equal" in said[4]
    assert said[-1] == f'load it: AutoModelForCausalLM.from_pretrained("{out}", trust_remote_code=True)'
    assert [path.name for path in out.parent.iterdir()] == ["small"]
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "generation_config.json", "modeling_samosa.py", "README.md"} <= names
    assert {"model.safetensors.index.json", "chat_template.jinja", "tokenizer.json"} <= names

    record = json.loads((out / "samosa.json").read_text())
    assert record["verified"]["greedy_tokens"] > 32
    assert set(record["tensors"]) == set(open_tensors(out))
    assert set(record["files"]) == {
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file() and path.name != "samosa.json"
    }
    again = ModelConfig(**record["model"])
    assert again == exported_models.model_of(exported_models.KINDS["samosa"], tokenizer).network.config
    assert Tokenizer.load(out / "tokenizer").fingerprint == tokenizer.fingerprint

    with pytest.raises(UserError, match=r"holds an export already; choose another --out, or add --overwrite"):
        command.main(flags)
    (out / "stray").write_text("from the older one")
    command.main([*flags, "--overwrite", "--dtype=bfloat16", "--no-verify"])
    heard = capsys.readouterr()
    assert "WARNING: --no_verify: nobody checks" in heard.err
    assert "not verified" in heard.out
    assert not (out / "stray").exists()
    assert json.loads((out / "samosa.json").read_text())["verified"] is None
    assert [path.name for path in out.parent.iterdir()] == ["small"]


def test_what_is_no_export_is_never_replaced(tokenizer: Tokenizer, tmp_path: Path):
    run_folder = save_run(tmp_path / "runs", tokenizer)
    with pytest.raises(UserError, match=r"runs/small exists and is no export"):
        command.main([str(run_folder), f"--out={run_folder}", "--overwrite"])
    assert (run_folder / "checkpoints").exists()


def test_a_disk_that_fails_leaves_the_older_export(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Whether the new one could not be written, or not be given its name."""
    run_folder = save_run(tmp_path / "runs", tokenizer)
    out = tmp_path / "exports" / "small"
    flags = [str(run_folder), f"--out={out}", "--overwrite", "--no-verify"]
    command.main(flags)
    (out / "stray").write_text("from the older one")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".unfinished"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(SystemExit) as ended:
        run(command.main, flags)
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {out} cannot be written (No space left on device); make room")
    assert (out / "stray").exists()
    assert [path.name for path in out.parent.iterdir()] == ["small"]


def spoil(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Lets something happen to the folder between writing and verifying, which happens in this process."""

    def write_and_spoil(model: ExportedModel, folder: Path, **options: Any) -> None:
        write_folder(model, folder, **options)
        change(folder)

    monkeypatch.setattr(exporting, "write_folder", write_and_spoil)
    monkeypatch.setattr(exporting, "ask", lambda model: ask(model, num_new=0))
    monkeypatch.setattr(
        verify_folder, "__kwdefaults__", {"questions": None, "read": exported_models.read_here}
    )


def change_tensor(folder: Path, name: str, change: Any) -> None:
    found = open_tensors(folder)
    tensors = {other: np.array(found[other]) for other in found}
    tensors[name] = change(tensors[name])
    (folder / "model.safetensors").unlink()
    shapes = {other: tensor.shape for other, tensor in tensors.items()}
    write_tensors(folder, tensors.items(), shapes=shapes, dtype=np.dtype(np.float32))


def one_bit(tensor: np.ndarray) -> np.ndarray:
    tensor.view(np.uint32)[3, 5] ^= 1
    return tensor


def rotate(tensor: np.ndarray) -> np.ndarray:
    return exported_models.rotate_head(tensor, head_dim=16)


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


Q = "model.layers.1.self_attn.q_proj.weight"
MUTATIONS: dict[str, tuple[Any, str]] = {
    "a bit": (
        lambda folder: change_tensor(folder, Q, one_bit),
        rf"tensor {Q} is not the one of the checkpoint: at \[3, 5\] there is -?[\d.e-]+, expected -?[\d.e-]+ "
        r"\(1 of 3,072 numbers differ\)",
    ),
    "a permuted head": (
        lambda folder: change_tensor(folder, Q, rotate),
        rf"tensor {Q} is not the one of the checkpoint: at \[0, 0\]",
    ),
    "a missing file": (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
    "another vocabulary": (
        lambda folder: write_tokenizer(
            exported_models.train_tokenizer(seed=1000), folder, context_len=exported_models.BASE.context_len
        ),
        r"the text '.*' has other token ids from position \d+ on: token \d+ \(.*\) was read back, "
        r"token \d+ \(.*\) expected",
    ),
    "another template": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0].content }}"),
        r"chat 0 of the battery is rendered differently from character 0 on",
    ),
    "another eps": (
        lambda folder: change_config(folder, rms_norm_eps=0.1),
        r"the logit of token \d+ \(.*\) after",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_spoiled_is_named_and_never_gets_its_name(
    name: str,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    change, says = MUTATIONS[name]
    run_folder = save_run(tmp_path / "runs", tokenizer, kind="qwen3")
    spoil(monkeypatch, change)
    out = tmp_path / "exports" / "small"
    with pytest.raises(SystemExit) as ended:
        run(command.main, [str(run_folder), f"--out={out}"])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(rf"error: .*{says}", error), error
    assert not any(out.parent.iterdir())


def test_what_pytorch_cannot_read_is_a_mismatch(tokenizer: Tokenizer, tmp_path: Path):
    model = exported_models.model_of(exported_models.KINDS["qwen3"], tokenizer)
    folder = written(model, tmp_path / "x", format="torch")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(MismatchError, match=r"x cannot be read by PyTorch: .*model\.safetensors"):
        verify_folder(model, folder, format="torch", questions=ask(model, num_new=0))


def test_greedy_text_that_differs_is_named(tokenizer: Tokenizer, tmp_path: Path):
    model = exported_models.model_of(exported_models.KINDS["samosa"], tokenizer)
    folder = written(model, tmp_path / "x", format="torch")
    seen = {}

    def other_words(format: str, place: Path, questions: Any) -> Any:
        answers = exported_models.read_here(format, place, questions)
        seen["text"] = list(answers.continuations[1])
        answers.continuations[1][4] = (answers.continuations[1][4] + 1) % 600
        return answers

    with pytest.raises(
        MismatchError, match=r"greedy text of prompt 1 differs at token 4: token \d+"
    ) as caught:
        verify_folder(model, folder, format="torch", questions=ask(model, num_new=12), read=other_words)
    assert f"token {seen['text'][4]} (" in str(caught.value)


def test_a_tie_is_no_mismatch(tokenizer: Tokenizer, tmp_path: Path):
    """Two tokens of the same row in the head: which of them is the likelier is a matter of rounding."""
    model = exported_models.model_of({"soft_cap": 15.0}, tokenizer)
    first, second = 300, 301
    head = model.params["head"].at[first].multiply(40)
    model = dataclasses.replace(model, params={**model.params, "head": head.at[second].set(head[first])})
    folder = written(model, tmp_path / "x", format="torch")
    layout = torch_format.torch_layout(model)
    questions = ask(model, num_new=6)
    theirs = exported_models.read_here("torch", folder, questions)
    places = [tokens.index(first) for tokens in theirs.continuations if first in tokens]
    assert places, "the tie must come up"
    others = [
        [*tokens[: tokens.index(first)], second, 7] if first in tokens else tokens
        for tokens in theirs.continuations
    ]
    told: dict[str, Any] = {"folder": folder, "read_tensor": lambda place, name: open_tensors(place)[name]}
    found = compare(
        model,
        layout,
        questions,
        ours=theirs,
        theirs=dataclasses.replace(theirs, continuations=others),
        **told,
    )
    assert f"is equal for {places[0]} tokens, where two tokens tie" in found.notes[0]


def test_the_card_says_where_the_model_comes_from(tokenizer: Tokenizer, tmp_path: Path):
    """Both stages: data by fingerprint, hours, hardware, price, evaluation."""
    base = save_run(tmp_path / "runs", tokenizer, name="base", kind="qwen3")
    seal = base / "checkpoints/00000001/seal.json"
    (base / "environment.json").write_text(json.dumps([{"device": {"kind": "NVIDIA H100", "count": 8}}]))
    (base / "evals.jsonl").write_text(
        '{"step": 1, "val/bpb": 0.9876, "seconds": 3}\n{"step": 9, "val/bpb": 0}\n'
    )
    model = exported_models.model_of(exported_models.KINDS["qwen3"], tokenizer, name="sft")
    config = Config(
        name="sft",
        out_dir=str(tmp_path / "runs"),
        stage="sft",
        init_from=str(base),
        data=DataConfig(),
        log=LogConfig(cost_per_hour=24.0),
        model=model.network.config,
    )
    data = {
        "sources": [{"path": "data/chat", "fingerprint": "f00d"}],
        "begun_with": exporting.hash_file(seal),
    }
    checkpoint = training_runs.save_run(
        tmp_path / "runs/sft", config, tokenizer, model.params, step=3, data=data
    )
    lineage = read_lineage(checkpoint)
    assert [(stage.name, stage.stage, stage.step) for stage in lineage] == [
        ("sft", "sft", 3),
        ("base", "pretrain", 1),
    ]
    assert lineage[0].tokens == 3 * config.train.batch_tokens
    assert not lineage[0].imported_from
    (tmp_path / "x").mkdir()
    write_folder(model, tmp_path / "x", format="hf", lineage=lineage, shard_bytes=10**9)
    card = (tmp_path / "x/README.md").read_text()
    for text in (
        "data: data/chat (SHA-256 f00d)",
        "hardware: 8 x NVIDIA H100",
        "evaluation: val/bpb 0.9876",
        "cost: 0.00",
        exporting.hash_file(seal),
        'AutoModelForCausalLM.from_pretrained("sft")',
        f"rope_base: {to_dict(config.model)['rope_base']}",
    ):
        assert text in card, text
    shutil.rmtree(base)
    assert len(read_lineage(checkpoint)) == 1


def test_the_card_of_an_imported_model_invents_no_training(tokenizer: Tokenizer, tmp_path: Path):
    model = exported_models.model_of(exported_models.KINDS["qwen3"], tokenizer)
    config = Config(name="qwen", out_dir=str(tmp_path), model=model.network.config)
    data = {"imported": {"format": "hf", "path": "downloads/Qwen3-0.6B"}}
    checkpoint = training_runs.save_run(
        tmp_path / "qwen", config, tokenizer, model.params, step=5568, data=data
    )
    card = model_card(model, read_lineage(checkpoint), format="hf")
    assert "**imported** (qwen): from downloads/Qwen3-0.6B; what trained it is not known here" in card
    assert "5,568 steps" not in card
    assert " tokens, " not in card.partition("## Training")[2]


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(UserError, match=r"needs the package no_such_package, .*samosa-jax\[gguf\]"):
        require_packages(("json", "no_such_package"), extra="gguf", purpose="--format=gguf")
