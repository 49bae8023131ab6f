"""Training that chooses its rows, is refused before it allocates, reckons after ten steps, is profiled."""

import dataclasses
from pathlib import Path

import jax
import pytest
import training_runs
import yaml

from samosa_jax.batch_fitting import refuse_too_large, resolve_device_batch
from samosa_jax.command_line import parse_config
from samosa_jax.config import Config, with_rows
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.stages import build
from samosa_jax.training.environment import available_memory_bytes
from samosa_jax.training.foresight import Foresight, Reckoning


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_runs.write_dataset(tmp_path_factory.mktemp("prepared"))


def tiny(**overrides: object) -> Config:
    values = {**training_runs.TINY, **{key.replace("__", "."): value for key, value in overrides.items()}}
    return parse_config([f"--{key}={value}" for key, value in values.items()]).config


def test_a_run_with_auto_keeps_its_rows_reckons_and_is_profiled(data: Path, tmp_path: Path):
    overrides = {"train.device_batch_size": "auto", "train.num_steps": 13, "profile": "5:6"}
    arguments = training_runs.flags(data, tmp_path, overrides)
    first = training_runs.run(arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("auto chose: device_batch_size 8, the most of 8 rows per device that fits") == 1
    folder = tmp_path / "base"
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert resolved["train"]["device_batch_size"] == 8

    assert "memory: predicted" in first.stdout
    assert "which is no comparison" in first.stdout
    assert "none was predicted for this device" in first.stdout
    reckoned = training_runs.load_json(folder / "prediction.json")
    assert reckoned["step"] == 11  # ten after the one that compiled
    assert reckoned["predicted"]["tokens_per_sec"] is None
    assert reckoned["measured"]["tokens_per_sec"] > 0
    assert reckoned["measured"]["process_peak_bytes"] > reckoned["predicted"]["device_peak_bytes"] > 0

    assert "profile of steps 5 to 6 is in" in first.stdout
    traces = list((folder / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1
    assert traces[0].stat().st_size > 1000

    longer = {**overrides, "train.num_steps": 14, "schedule.kind": "constant"}
    again = training_runs.run([*training_runs.flags(data, tmp_path, longer)])
    assert again.returncode == 0, again.stderr
    assert "auto chose: device_batch_size 8, as before in this run" in again.stdout
    assert len(list((folder / "profile").rglob("*.xplane.pb"))) == 1


def test_a_recorded_number_that_no_longer_divides_is_chosen_anew():
    said: list[str] = []
    config = tiny(train__device_batch_size="auto", train__batch_tokens=32 * jax.device_count() * 6)
    chosen = resolve_device_batch(config, recorded={"train": {"device_batch_size": 4}}, say=said.append)
    assert chosen.train.device_batch_size == 6
    assert len(said) == 1
    assert "as before" not in said[0]
    kept = resolve_device_batch(config, recorded={"train": {"device_batch_size": 3}}, say=said.append)
    assert kept.train.device_batch_size == 3


def test_auto_takes_fewer_rows_where_memory_is_short(monkeypatch: pytest.MonkeyPatch):
    config = tiny(train__device_batch_size="auto", train__batch_tokens=32 * jax.device_count() * 64)
    found = {}
    for megabytes in (4, 8, 1000):
        monkeypatch.setattr(
            "samosa_jax.batch_fitting.device_memory_bytes", lambda size=megabytes: size * 2**20
        )
        chosen = resolve_device_batch(config, recorded=None, say=lambda line: None)
        found[megabytes] = chosen.train.device_rows
    assert 1 <= found[4] < found[8] < found[1000] == 64
    monkeypatch.setattr("samosa_jax.batch_fitting.device_memory_bytes", lambda: 2**18)
    with pytest.raises(UserError, match=r"one row of 32 tokens needs 0\.\d\d GiB of 0\.00 GiB"):
        resolve_device_batch(config, recorded=None, say=lambda line: None)


def test_a_number_stays_and_what_does_not_divide_is_refused():
    config = tiny()
    assert resolve_device_batch(config, recorded=None, say=print) is config
    odd = tiny(train__device_batch_size="auto", train__batch_tokens=32 * (jax.device_count() + 1))
    with pytest.raises(ConfigError, match="which do not divide over 8 devices"):
        resolve_device_batch(odd, recorded=None, say=print)
    with pytest.raises(ConfigError, match="only `samosa train` resolves"):
        build(tiny(train__device_batch_size="auto"))


def test_too_little_memory_is_refused_by_the_compiler_with_what_fits():
    config = with_rows(tiny(train__batch_tokens=32 * jax.device_count() * 64), 64)
    machinery = build(config)
    said: list[str] = []
    refuse_too_large(config, machinery, limit_bytes=None, say=said.append)
    refuse_too_large(config, machinery, limit_bytes=2**30, say=said.append)
    assert said == []  # nobody needed to ask
    with pytest.raises(UserError, match=r"device_batch_size is 64.*device_batch_size=\d+ fits") as refused:
        refuse_too_large(config, machinery, limit_bytes=8 * 2**20, say=said.append)
    assert said == ["memory will be close: asking the compiler what the step needs"]
    assert "\n" not in str(refused.value)


def test_the_reckoning_compares_memory_where_the_device_reports_it(tmp_path: Path):
    said: list[str] = []
    foresight = Foresight(peak_bytes=40 * 2**30, tokens_per_sec=100_000.0, mfu=0.5, measures_device=True)
    reckoning = Reckoning(foresight, path=tmp_path / "prediction.json", say=said.append)
    reckoning.settle(step=11, tokens_per_sec=90_000.0, peak_bytes=42 * 2**30)
    assert said == [
        "memory: predicted 40.00 GiB per device, measured 42.00 GiB (+5.0%)",
        "pace: predicted 100,000 tokens/s at 50% MFU, measured 90,000 (-10.0%)",
    ]
    kept = training_runs.load_json(tmp_path / "prediction.json")
    assert kept["measured"]["device_peak_bytes"] == 42 * 2**30
    blind = Reckoning(
        dataclasses.replace(foresight, tokens_per_sec=None),
        path=tmp_path / "none" / "x.json",
        say=said.append,
    )
    blind.settle(step=11, tokens_per_sec=1.0, peak_bytes=1)
    assert "none was predicted" in said[-2]
    assert "cannot be written" in said[-1]


def test_free_memory_is_that_of_a_real_machine():
    assert 2**27 < available_memory_bytes() < 2**45


@pytest.mark.parametrize(
    ("profile", "complaint"),
    [
        ("20", "write FIRST:LAST"),
        ("5:4", "write FIRST:LAST"),
        ("0:4", "write FIRST:LAST"),
        ("61:62", "but the run has 60 steps"),
    ],
)
def test_a_profile_of_no_steps_is_refused(profile: str, complaint: str):
    with pytest.raises(ConfigError, match=complaint):
        tiny(log__profile=profile)
