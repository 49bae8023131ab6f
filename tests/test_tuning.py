"""The tables of tiles, how one is found, what is refused, and the tuner's command line."""

import dataclasses
import json
from pathlib import Path

import pytest
from samosa_kernels.device import Device
from samosa_kernels.tuning import KERNELS, TuningConfig, find_tuning, table, tuning_override
from samosa_kernels.tuning import __main__ as tuner
from samosa_kernels.tuning.__main__ import main
from samosa_kernels.tuning.table import (
    HEAD_DIMS,
    HOPPER_SHARED_BYTES,
    Entry,
    format_table,
    load_table,
    nearest_entry,
    read_table,
)

H100 = "NVIDIA H100 80GB HBM3"
TABLE_FOLDER = Path(table.__file__).parent / "tables"
TABLE_FILES = sorted(TABLE_FOLDER.glob("*.json"))
LINE = {
    "kernel": "triton_forward",
    "dtype": "bfloat16",
    "head_dim": 64,
    "length": 512,
    "queries": 128,
    "keys": 64,
    "stages": 2,
    "warps": 4,
    "from": "compiled",
}


def write(folder: Path, *lines: object) -> Path:
    file = folder / "h100.json"
    file.write_text(json.dumps(list(lines)), encoding="utf-8")
    return file


def entry(head_dim: int, length: int, **tiles: int) -> Entry:
    tuning = TuningConfig(**{"queries": 64, "keys": 64, "stages": 2, "warps": 4, **tiles})
    return Entry("triton_forward", "bfloat16", head_dim, length, tuning, "compiled", None)


@pytest.mark.parametrize("file", TABLE_FILES, ids=lambda file: file.stem)
def test_the_tables_are_in_order_and_say_what_is_measured(file: Path):
    entries = read_table(file)
    assert entries
    assert file.read_text(encoding="utf-8") == format_table(entries)
    for found in entries:
        assert (found.milliseconds is not None) == (found.origin == "measured")


def test_every_table_has_a_device():
    assert {name for _, names in table.TABLES for name in names} - {"h200"} == {
        file.stem for file in TABLE_FILES
    } - {"h200"}


@pytest.mark.parametrize(
    "device_kind", [H100, "NVIDIA H200", "NVIDIA GH200 480GB", "NVIDIA A100-SXM4-80GB", "cpu"]
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_has_tiles_it_can_run_with(kernel: str, device_kind: str):
    hopper = kernel.startswith("hopper")
    for dtype in ("bfloat16",) if hopper else ("bfloat16", "float32"):
        for head_dim in (64, 128) if hopper else HEAD_DIMS:
            for length in (1, 512, 3000, 10**6):
                tuning = find_tuning(
                    kernel, device_kind=device_kind, dtype=dtype, head_dim=head_dim, length=length
                )
                tuning.check(kernel)
                shared = tuning.shared_bytes(kernel, head_dim=head_dim, dtype=dtype)
                assert shared <= HOPPER_SHARED_BYTES


def test_the_nearest_length_that_is_no_greater_is_taken():
    entries = tuple(entry(64, length, stages=stages) for length, stages in ((1024, 1), (2048, 2), (8192, 3)))

    def stages(length: int) -> int:
        found = nearest_entry(entries, "triton_forward", dtype="bfloat16", head_dim=64, length=length)
        assert found is not None
        return found.tuning.stages

    lengths = (1, 1023, 1024, 2047, 2048, 8191, 8192, 10**6)
    assert [stages(length) for length in lengths] == [1, 1, 1, 1, 2, 2, 3, 3]


def test_a_narrow_head_takes_the_tiles_of_the_next_wider_and_never_of_a_narrower():
    entries = (entry(64, 512, keys=32), entry(128, 512, keys=16))

    def keys(head_dim: int) -> int | None:
        found = nearest_entry(entries, "triton_forward", dtype="bfloat16", head_dim=head_dim, length=512)
        return None if found is None else found.tuning.keys

    assert [keys(head_dim) for head_dim in (16, 64, 65, 128, 256)] == [32, 32, 16, 16, None]


def test_a_device_without_a_table_of_its_own_takes_the_next():
    h100 = find_tuning("triton_forward", device_kind=H100, dtype="bfloat16", head_dim=128, length=4096)
    a100 = find_tuning(
        "triton_forward", device_kind="NVIDIA A100", dtype="bfloat16", head_dim=128, length=4096
    )
    h200 = find_tuning(
        "triton_forward", device_kind="NVIDIA H200", dtype="bfloat16", head_dim=128, length=4096
    )
    assert h100 != a100
    assert h200 == h100 or (TABLE_FOLDER / "h200.json").exists()


def test_what_no_table_has_is_an_error():
    with pytest.raises(ValueError, match="no tuning for hopper_forward in float32"):
        find_tuning("hopper_forward", device_kind=H100, dtype="float32", head_dim=64, length=512)


def test_an_override_holds_inside_it_and_for_its_kernel_only():
    asked = {"device_kind": H100, "dtype": "bfloat16", "head_dim": 64, "length": 512}
    tuned = find_tuning("triton_forward", **asked)
    other = find_tuning("triton_dq", **asked)
    chosen = TuningConfig(queries=16, keys=16, stages=1, warps=1)
    assert chosen != tuned
    with tuning_override({"triton_forward": chosen}):
        assert find_tuning("triton_forward", **asked) == chosen
        assert find_tuning("triton_dq", **asked) == other
        with tuning_override({"triton_dq": chosen}):
            assert find_tuning("triton_forward", **asked) == find_tuning("triton_dq", **asked) == chosen
        assert find_tuning("triton_dq", **asked) == other
    assert find_tuning("triton_forward", **asked) == tuned


def test_an_override_is_checked():
    with (
        pytest.raises(ValueError, match="power of two"),
        tuning_override({"triton_dq": TuningConfig(queries=48, keys=16, stages=1, warps=1)}),
    ):
        pass


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ({"queries": 0}, "queries is 0; it must be a positive multiple of 16"),
        ({"keys": 24}, "keys is 24; it must be a positive multiple of 16"),
        ({"stages": 9}, "stages is 9; it must lie in 1..8"),
        ({"warps": 3}, "warps is 3; it must be one of"),
    ],
)
def test_tiles_that_no_kernel_could_run_are_refused(tiles: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        TuningConfig(**{"queries": 64, "keys": 64, "stages": 2, "warps": 4, **tiles})


@pytest.mark.parametrize(
    ("kernel", "tiles", "message"),
    [
        ("triton_forward", (96, 64, 4), "queries of triton_forward is 96; it must be a power of two"),
        ("triton_dkv", (64, 64, 12), "warps of triton_dkv is 12; it must be a power of two"),
        ("triton_decode", (64, 64, 4), "queries of triton_decode is 64; it must be 16"),
        ("hopper_forward", (128, 64, 4), "warps of hopper_forward is 4; it must be 8 or 12"),
        ("hopper_dq", (192, 64, 8), "queries of hopper_dq is 192 with 8 warps; .*: 128"),
        ("hopper_dkv", (128, 64, 8), "keys of hopper_dkv is 64 with 8 warps; .*: 128"),
        ("hopper_dkv", (32, 128, 8), "queries of hopper_dkv is 32; it must be a multiple of 64"),
        ("splash", (64, 64, 4), "no kernel 'splash'"),
    ],
)
def test_tiles_that_one_kernel_cannot_run_are_refused(kernel: str, tiles: tuple[int, int, int], message: str):
    queries, keys, warps = tiles
    with pytest.raises(ValueError, match=message):
        TuningConfig(queries=queries, keys=keys, stages=2, warps=warps).check(kernel)


def test_shared_memory_is_what_the_formula_says():
    tuning = TuningConfig(queries=128, keys=64, stages=3, warps=8)
    forward = tuning.shared_bytes("hopper_forward", head_dim=128, dtype="bfloat16")
    assert forward == 2 * 128 * (128 + 2 * 3 * 64)
    turned = dataclasses.replace(tuning, queries=64, keys=128)
    dkv = turned.shared_bytes("hopper_dkv", head_dim=128, dtype="bfloat16")
    assert dkv == 2 * 128 * (2 * 128 + 2 * 3 * 64) + 4 * 4 * 3 * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "splash"}, "kernel is 'splash'; it must be one of"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"head_dim": 80}, "head_dim is 80"),
        ({"length": 600}, "length is 600"),
        ({"from": "guessed"}, "from is 'guessed'"),
        ({"from": "measured"}, "its keys must be .*milliseconds"),
        ({"from": "measured", "milliseconds": 0}, "milliseconds is 0; it must be a positive number"),
        ({"milliseconds": 1.0}, "its keys must be"),
        ({"colour": "red"}, "its keys must be"),
        ({"queries": 64.0}, "queries is 64.0; it must be an integer"),
        ({"queries": 96}, "it must be a power of two"),
        ({"head_dim": 256, "keys": 256, "stages": 4}, "bytes of shared memory"),
    ],
)
def test_a_bad_table_names_its_file_and_entry(tmp_path: Path, change: dict, message: str):
    file = write(tmp_path, LINE, {**LINE, "length": 1024, **change})
    with pytest.raises(ValueError, match=message) as raised:
        read_table(file)
    assert f"{file}, entry 1 " in str(raised.value)
    assert len(read_table(write(tmp_path, LINE, {**LINE, "length": 1024}))) == 2


def test_two_entries_for_the_same_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"entry 1 .* another for the same kernel"):
        read_table(write(tmp_path, LINE, {**LINE, "keys": 32}))


@pytest.mark.parametrize("text", ["[", "{}"])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "h100.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"h100\.json"):
        read_table(file)


def test_a_table_is_written_as_it_is_read(tmp_path: Path):
    entries = load_table("default")
    file = tmp_path / "default.json"
    file.write_text(format_table(reversed(entries)), encoding="utf-8")
    assert read_table(file) == entries


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kernels", "splash"], "argument --kernels: 'splash' is none of triton_forward, "),
        (["--head-dims", "64,80"], "argument --head-dims: '80' is none of 16, "),
        (["--lengths", "4096"], "argument --lengths: without a GPU nothing is timed"),
        (["--device", "b200"], "argument --device: invalid choice: 'b200'"),
        (["--dtype", "float32", "--kernels", "hopper_dq"], "argument --dtype: Hopper kernels take bfloat16"),
        (["--write", "--tables", "/nowhere"], "argument --tables: /nowhere is no folder"),
        (["--wat"], "unrecognized arguments: --wat"),
    ],
)
def test_bad_flags_are_one_clear_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(flags)
    assert left.value.code == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.count("\n") == 1
    assert message in said.err


def test_a_gpu_without_a_table_of_its_own_is_not_tuned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Its tiles would stand in the table of all other GPUs, which need not have its shared memory."""
    monkeypatch.setattr(tuner.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(tuner, "current_device", lambda: Device("gpu", "NVIDIA A100-SXM4-80GB"))
    with pytest.raises(SystemExit, match="2"):
        main(["--write", "--tables", str(tmp_path)])
    assert "NVIDIA A100-SXM4-80GB has no table of its own" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
