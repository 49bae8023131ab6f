"""What `samosa export` wrote, read back: the same parameters to the bit, or the change is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: nothing is compared with PyTorch")

import exported_models
import jax
import numpy as np

from samosa_jax import import_weights
from samosa_jax.convert.exported import ExportedModel
from samosa_jax.convert.exporting import export
from samosa_jax.convert.safetensors_files import open_tensors
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.trained import open_trained


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return exported_models.train_tokenizer()


def write(model: ExportedModel, folder: Path, format: Any = "hf", **options: Any) -> Path:
    export(model, folder, format=format, lineage=(), verify=False, **options)
    return folder


@pytest.fixture(scope="module")
def exported(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = exported_models.model_of(exported_models.KINDS["qwen3"], tokenizer)
    return write(model, tmp_path_factory.mktemp("exports") / "small")


@pytest.mark.parametrize(
    ("kind", "dtype", "format"),
    [
        *((kind, "float32", "hf") for kind in exported_models.KINDS),
        ("samosa", "bfloat16", "hf"),
        ("samosa", "float32", "torch"),
        ("llama", "bfloat16", "torch"),
    ],
)
def test_parameters_and_tokenizer_come_back_bit_for_bit(
    kind: str, dtype: Any, format: Any, tokenizer: Tokenizer, tmp_path: Path, capsys
):
    model = exported_models.model_of(exported_models.KINDS[kind], tokenizer, dtype=dtype)
    folder = write(model, tmp_path / "export", format, shard_bytes=60_000)
    import_weights.main([str(folder), f"--out={tmp_path / 'runs' / 'again'}"])
    assert "verified against the original in PyTorch" in capsys.readouterr().out
    again = open_trained(tmp_path / "runs" / "again")
    assert again.config.model == model.network.config
    assert again.tokenizer.fingerprint == tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def change_tensor(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], Any]:
    """Of the queries of layer 1, in their place in the file."""

    def edit(folder: Path) -> None:
        before = np.array(open_tensors(folder)["model.layers.1.self_attn.q_proj.weight"])
        path = folder / "model.safetensors"
        content = path.read_bytes()
        assert content.count(before.tobytes()) == 1
        path.write_bytes(content.replace(before.tobytes(), change(before).tobytes()))

    return edit


def one_bit(weight: np.ndarray) -> np.ndarray:
    changed = weight.copy()
    changed.view(np.uint32)[3, 5] ^= 1
    return changed


def change_config(folder: Path) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["rope_parameters"]["rope_theta"] = values["rope_theta"] = 20_000.0
    path.write_text(json.dumps(values), encoding="utf-8")


def change_record(folder: Path, **values: object) -> None:
    path = folder / "samosa.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def other_tokenizer(folder: Path) -> None:
    exported_models.train_tokenizer(seed=7).save(folder / "tokenizer")


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one_bit": (change_tensor(one_bit), r"tensor model.layers.1.self_attn.q_proj.weight is not the one"),
    "permuted_head": (
        change_tensor(lambda weight: exported_models.rotate_head(weight, head_dim=16)),
        r"tensor model.layers.1.self_attn.q_proj.weight is not the one that was exported",
    ),
    "config_that_lies": (change_config, r"config.json has changed since it was exported"),
    "other_tokenizer": (other_tokenizer, r"tokenizer/tokenizer\S* has changed since it was exported"),
    "missing_tokenizer": (
        lambda folder: (folder / "tokenizer" / "tokenizer.model").unlink(),
        r"tokenizer/tokenizer.model is missing, which samosa.json names",
    ),
    "missing_weights": (lambda folder: (folder / "model.safetensors").unlink(), r"safetensors is missing"),
    "damaged_record": (
        lambda folder: (folder / "samosa.json").write_text("{"),
        r"samosa.json cannot be read",
    ),
    "record_of_another_form": (
        lambda folder: change_record(folder, files=["config.json"]),
        r"samosa.json has no files that can be read",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_changed_is_named_and_nothing_is_left(case: str, exported: Path, tmp_path: Path):
    spoil, message = REFUSED[case]
    folder = Path(shutil.copytree(exported, tmp_path / "export"))
    spoil(folder)
    out = tmp_path / "runs" / "again"
    with pytest.raises(UserError, match=message) as caught:
        import_weights.main([str(folder), f"--out={out}"])
    assert "\n" not in str(caught.value)
    assert not out.parent.exists() or not list(out.parent.iterdir())
