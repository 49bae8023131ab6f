"""`samosa scaling`: the fit finds laws that are known, and a tiny ladder runs from its rungs to its check."""

import math
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs
import yaml

from samosa_jax import scaling
from samosa_jax.errors import UserError
from samosa_jax.experiments.ladder import plan_rungs, read_ladder
from samosa_jax.experiments.power_law import MIN_POINTS, fit, fit_rungs, seed_interval, without_one
from samosa_jax.sizes import flops_per_token, scaling_parameters

PLANS = Path(__file__).parents[1] / "configs" / "scaling"
RATIO = 0.5  # tokens per parameter of the tiny ladder
SIZES = np.geomspace(1e5, 1e8, 7)
LAW = {"floor": 1.7, "coefficient": 30.0, "exponent": 0.28}


def law(x: np.ndarray | float) -> Any:
    return LAW["floor"] + LAW["coefficient"] * x ** -LAW["exponent"]


def test_a_known_law_is_found_exactly():
    found = fit(SIZES, law(SIZES))
    assert found.floor == pytest.approx(LAW["floor"], abs=1e-3)
    assert found.exponent == pytest.approx(LAW["exponent"], abs=1e-3)
    assert found.coefficient == pytest.approx(LAW["coefficient"], rel=1e-2)
    assert found(1e9) == pytest.approx(law(1e9), abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_a_known_law_is_found_through_noise(seed: int):
    noise = np.random.default_rng(seed).normal(scale=0.002, size=len(SIZES))
    found = fit(SIZES, law(SIZES) * (1 + noise))
    assert found.exponent == pytest.approx(LAW["exponent"], abs=0.06)
    assert found(5e8) == pytest.approx(law(5e8), abs=0.05)


def test_no_law_has_a_floor_below_zero():
    """Losses that fall faster than any power of what is left above 0 would ask for one."""
    falling = 5 - 0.3 * np.log(SIZES)
    assert (falling > 0).any()
    found = fit(SIZES[falling > 0.5], falling[falling > 0.5])
    assert found.floor == 0
    pure = fit(SIZES, 30 * SIZES**-0.28)
    assert pure.floor == pytest.approx(0, abs=1e-3)
    assert pure.exponent == pytest.approx(0.28, abs=1e-3)


def test_the_fit_does_not_depend_on_the_unit_of_size():
    small, large = fit(SIZES, law(SIZES)), fit(SIZES * 1e12, law(SIZES))
    assert small.exponent == pytest.approx(large.exponent, rel=1e-6)
    assert small(1e9) == pytest.approx(large(1e21), rel=1e-6)


@pytest.mark.parametrize(
    ("sizes", "losses", "says"),
    [
        ([1, 2], [3, 2], "2 sizes"),
        ([1, 1, 2], [3, 3, 2], "2 sizes"),
        ([1, 2, 3], [3, 2], "needs 3"),
        ([1, 2, 3], [3, math.nan, 2], "must be positive and finite"),
        ([0, 2, 3], [3, 2, 1], "must be positive and finite"),
    ],
)
def test_points_that_make_no_law_are_refused(sizes: list[float], losses: list[float], says: str):
    with pytest.raises(ValueError, match=says):
        fit(sizes, losses)


def rungs_with(noise: float, *, num_seeds: int = 4) -> list[tuple[float, list[float]]]:
    random = np.random.default_rng(3)
    return [(x, [law(x) * (1 + noise * random.normal()) for _ in range(num_seeds)]) for x in SIZES[:4]]


def test_the_interval_over_seeds_grows_with_their_noise():
    quiet, loud = (seed_interval(rungs_with(noise), 1e8) for noise in (1e-4, 1e-2))
    assert quiet.low <= quiet.value <= quiet.high
    assert quiet.high - quiet.low < 0.2 * (loud.high - loud.low)
    assert quiet == seed_interval(rungs_with(1e-4), 1e8)
    alone = seed_interval(rungs_with(1e-2, num_seeds=1), 1e8)
    assert (alone.low, alone.high) == (-math.inf, math.inf)


def test_leaving_out_a_rung():
    rungs = rungs_with(1e-3)
    spread = without_one(rungs, 1e8)
    assert spread is not None
    assert spread[0] < fit_rungs(rungs)(1e8) < spread[1]
    assert without_one(rungs[:MIN_POINTS], 1e8) is None


def write_plan(path: Path, data: Path, **changes: Any) -> Path:
    settings = {key: value for key, value in training_runs.TINY.items() if key.startswith(("eval", "loss"))}
    settings |= {
        "model": {"vocab_size": training_runs.VOCAB_SIZE, "context_len": 32, "head_dim": 8},
        "data.sources": [{"path": str(data)}],
        "train": {"batch_tokens": 256, "device_batch_size": 2},
        "optimizer.matrix": {"lr": 0.02, "weight_decay": 0.0},
        "schedule.warmup_steps": 4,
        "sample.max_tokens": 0,
        "checkpoint.every_steps": 0,
    }
    plan: dict[str, Any] = {"name": "tiny", "set": settings, "per_depth": {"model.model_dim": 8}}
    plan |= {"seeds": [0], "ratios": [RATIO], "depths": [1, 2, 3], "predict": 4, **changes}
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_runs.write_dataset(tmp_path_factory.mktemp("dataset"))


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"[+-]?\d+\.\d+", line)]


def test_a_tiny_ladder_is_climbed_predicted_and_checked(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XLA_FLAGS", training_runs.environment()["XLA_FLAGS"])
    plan = write_plan(tmp_path / "tiny.yaml", data)
    page = tmp_path / "scaling.md"
    flags = [str(plan), f"--out_dir={tmp_path / 'runs'}", f"--out={page}", "--jobs=2"]
    scaling.main([*flags, "--predict_only"])
    runs = tmp_path / "runs" / "tiny"
    assert not (runs / f"d4-r{RATIO}-seed0").exists()
    (predicted,) = re.findall(r"predicts (\d\.\d+)", page.read_text())
    scaling.main(flags)
    said = capsys.readouterr().out
    assert "3 of 3 runs are finished already" in said
    text = page.read_text()
    assert f"predicts {predicted}" in text  # what it reached has not moved what was predicted
    losses = {
        depth: training_runs.load_json(runs / f"d{depth}-r{RATIO}-seed0" / "summary.json")["val_bpb"]
        for depth in (1, 2, 3, 4)
    }
    ladder = read_ladder(plan)
    planned = plan_rungs(ladder, RATIO, out_dir=tmp_path / "runs")
    points = []
    for depth in (1, 2, 3):
        (run,) = planned[depth]
        model = run.config.model
        assert (model.num_layers, model.model_dim, model.num_heads, model.mlp_dim) == (
            depth,
            8 * depth,
            depth,
            32 * depth,
        )
        tokens = run.config.train.num_steps * 256
        assert tokens == pytest.approx(RATIO * scaling_parameters(model), abs=128)
        points.append((flops_per_token(model) * tokens, losses[depth]))
        (line,) = re.findall(rf"^\| {depth} \|.*$", text, re.MULTILINE)
        assert f"| {tokens:,} |" in line
        assert f"| {losses[depth]:.4f} |" in line
    found = fit(*zip(*points, strict=True))
    (sentence,) = re.findall(r"^- L = .*$", text, re.MULTILINE)
    assert f"L = {found.floor:.4f} + " in sentence
    (checked,) = re.findall(r"^- Depth 4 reached .*$", text, re.MULTILINE)
    reached, off, percent, gained, _ = numbers(checked)
    assert reached == pytest.approx(losses[4], abs=6e-5)
    assert off == pytest.approx(losses[4] - float(predicted), abs=2e-4)
    assert percent == pytest.approx(100 * off / float(predicted), abs=0.02)
    assert gained == pytest.approx(losses[3] - losses[4], abs=2e-4)
    assert (tmp_path / "images" / "scaling_tiny.png").read_bytes().startswith(b"\x89PNG")
    before = sorted(path.stat().st_mtime_ns for path in runs.glob("*/environment.json"))
    scaling.main(flags)
    assert sorted(path.stat().st_mtime_ns for path in runs.glob("*/environment.json")) == before
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"depth": [1]}, r"depth is no key; did you mean depths"),
        ({"depths": [1, 2]}, r"depths is \[1, 2\]; a law needs at least 3"),
        ({"depths": [3, 2, 1]}, r"in rising order"),
        ({"depths": [1, 2, 2.5]}, r"expected a list of whole numbers from 1 on"),
        ({"predict": 3}, r"predict is 3, which is among depths"),
        ({"predict": "4"}, r"predict is '4'; expected a whole number"),
        ({"ratios": [0]}, r"ratios is \[0\]; expected a list of numbers from 0.001 on"),
        ({"against": "tokens"}, r"against is 'tokens'; expected parameters or flops"),
        ({"set": {"model.depth": 3}}, r"set.model.depth cannot be set here: depths and predict say it"),
        ({"set": {"train.num_steps": 3}}, r"set.train.num_steps cannot be set here: they follow from ratios"),
        ({"per_depth": {"model.model_dim": 1.5}}, r"per_depth.model.model_dim is '1.5'; expected a whole"),
        ({"per_depth": {"model.width": 8}}, r"per_depth.model.width is no key"),
    ],
)
def test_a_wrong_plan_is_refused_by_line_and_key(changes: dict[str, Any], says: str, tmp_path: Path):
    plan = write_plan(tmp_path / "tiny.yaml", tmp_path / "data", **changes)
    with pytest.raises(UserError, match=says) as caught:
        scaling.main([str(plan), f"--out_dir={tmp_path / 'runs'}"])
    assert re.match(rf"{re.escape(str(plan))}:\d+: ", str(caught.value))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_rung_that_cannot_be_built_is_named(tmp_path: Path):
    plan = write_plan(tmp_path / "tiny.yaml", tmp_path / "data", per_depth={"model.num_heads": 3})
    settings = yaml.safe_load(plan.read_text())["set"]
    settings["model"]["num_kv_heads"] = 2
    plan = write_plan(
        tmp_path / "tiny.yaml", tmp_path / "data", set=settings, per_depth={"model.num_heads": 3}
    )
    with pytest.raises(
        UserError, match=rf"tiny.yaml: depth 1, ratio {RATIO}: model.num_heads is 3, not a multiple"
    ):
        scaling.main([str(plan), f"--out_dir={tmp_path / 'runs'}"])


@pytest.mark.parametrize("name", sorted(path.name for path in PLANS.glob("*.yaml")))
def test_the_ladders_that_come_with_samosa_are_whole(name: str):
    ladder = read_ladder(PLANS / name)
    for ratio in ladder.ratios:
        rungs = plan_rungs(ladder, ratio, out_dir=Path("runs"))
        sizes = [runs[0].scaling_parameters for runs in rungs.values()]
        assert sizes == sorted(sizes)
        lengths = [runs[0].config.train.num_steps for runs in rungs.values()]
        assert lengths == sorted(lengths)
        assert statistics.fmean(lengths) > 100
