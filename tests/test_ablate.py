"""`samosa ablate` as a user meets it: real runs, stopped and gone on with; what the table says of them."""

import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest
import training_runs
import yaml

from samosa_jax import ablate
from samosa_jax.command_line import parse_config
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.intervals import Interval
from samosa_jax.experiments.ablation import plan_ablation, read_ablation, seed_by_seed
from samosa_jax.experiments.page import check_page, write_section
from samosa_jax.experiments.seed_statistics import paired_difference, student_quantile
from samosa_jax.model.gpt import Network
from samosa_jax.sizes import parameter_counts

PLANS = Path(__file__).parents[1] / "configs" / "ablations"
NUM_STEPS = 120
ROWS: list[dict[str, Any]] = [
    {"name": "baseline"},
    {"name": "mha", "note": "a head for every query", "set": {"model.num_kv_heads": 2}},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_runs.write_dataset(tmp_path_factory.mktemp("dataset"))


def write_plan(path: Path, data: Path, **changes: Any) -> Path:
    """A plan of the tiny run, with some of its keys changed."""
    settings = {**training_runs.TINY, "train.num_steps": NUM_STEPS, "sample.max_tokens": 0}
    settings["model.num_layers"] = 1  # every run compiles it in a process of its own
    settings |= {"data.sources": [{"path": str(data)}], **changes.pop("set", {})}
    plan = {"name": "tiny", "set": settings, "seeds": [0, 1], "rows": ROWS, **changes}
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


class Trained:
    """A plan whose command was stopped by SIGTERM in its first run, and then run to its end."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.plan = write_plan(folder / "tiny.yaml", data)
        self.runs = folder / "runs" / "tiny"
        self.page = folder / "ablations.md"
        self.page.write_text("# Ablations\n\nWritten by hand.\n")
        self.flags = [str(self.plan), f"--out_dir={folder / 'runs'}", f"--out={self.page}"]
        self.stopped = self._run(stop_in=self.runs / "baseline-seed0")
        self.finished = self._run()

    def _run(self, *, stop_in: Path | None = None) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "samosa_jax.ablate", *self.flags, "--jobs=2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=training_runs.environment(),
        )
        if stop_in is not None:
            while not training_runs_lines(stop_in / "metrics.jsonl") and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, said)

    def starts(self) -> dict[str, list[int]]:
        """Run -> the steps from which it was started."""
        return {
            run.name: [start["from_step"] for start in training_runs.load_json(run / "environment.json")]
            for run in sorted(self.runs.glob("*-seed*"))
        }

    def losses(self, row: str) -> list[float]:
        return [
            training_runs.load_json(self.runs / f"{row}-seed{seed}" / "summary.json")["val_bpb"]
            for seed in (0, 1)
        ]


def training_runs_lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"), data)


def cells(page: Path, row: str) -> list[str]:
    (line,) = re.findall(rf"^\| {row} \|.*$", page.read_text(), re.MULTILINE)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_stopped_command_saves_its_runs_and_goes_on(trained: Trained):
    assert trained.stopped.returncode == 143, trained.stopped.stdout
    assert "the same command goes on" in trained.stopped.stdout
    assert trained.finished.returncode == 0, trained.finished.stdout
    starts = trained.starts()
    assert starts.keys() == {"baseline-seed0", "baseline-seed1", "mha-seed0", "mha-seed1"}
    first, second = starts["baseline-seed0"]
    assert first == 0
    assert 0 < second < NUM_STEPS
    assert starts["baseline-seed1"] == starts["mha-seed1"] == [0]


def test_the_table_says_what_the_runs_say(trained: Trained):
    base, other = trained.losses("baseline"), trained.losses("mha")
    assert base[0] != base[1]
    name, change, parameters, loss, difference, speed = cells(trained.page, "mha")
    assert (name, change) == ("mha", "`model.num_kv_heads: 2`")
    assert loss == f"{statistics.fmean(other):.4f} ± {statistics.stdev(other):.4f}"
    differences = [b - a for a, b in zip(base, other, strict=True)]
    half = 12.7062 * statistics.stdev(differences) / math.sqrt(2)
    mean = statistics.fmean(differences)
    numbers = [float(number) for number in re.findall(r"[+-][\d.]+", difference)]
    assert numbers == pytest.approx([mean, mean - half, mean + half], abs=6e-5)
    assert float(speed.replace(",", "")) > 0
    runs = plan_ablation(read_ablation(trained.plan), out_dir=Path("runs"))
    counts = {row: parameter_counts(of_row[0].config.model).total for row, of_row in runs.items()}
    share = 100 * (counts["mha"] / counts["baseline"] - 1)
    assert parameters == f"{counts['mha']:,} ({share:+.1f} %)"
    assert cells(trained.page, "baseline")[2] == f"{counts['baseline']:,}"
    assert cells(trained.page, "baseline")[4] == "–"


def test_the_page_keeps_what_is_written_by_hand(trained: Trained):
    text = trained.page.read_text()
    assert text.startswith("# Ablations\n\nWritten by hand.\n")
    assert "- **mha**: a head for every query" in text
    assert f"{NUM_STEPS} steps, {NUM_STEPS * 256:,} tokens a run; seeds 0, 1" in text
    assert "matrix muon 0.02" in text
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert (trained.page.parent / picture).read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_not_run_again(trained: Trained, capsys: pytest.CaptureFixture[str]):
    before, page = trained.starts(), trained.page.read_text()
    ablate.main(trained.flags)
    assert "4 of 4 runs are finished already" in capsys.readouterr().out
    assert trained.starts() == before
    assert trained.page.read_text() == page
    ablate.main([*trained.flags, "--dry_run"])
    assert capsys.readouterr().out.count(": finished\n") == 4


def test_a_run_of_another_plan_is_not_taken_for_this_one(trained: Trained, data: Path, tmp_path: Path):
    other = write_plan(tmp_path / "other.yaml", data, set={"optimizer.matrix.lr": 0.01})
    with pytest.raises(UserError, match=r"baseline-seed0 holds .*: optimizer.matrix.lr is 0.02, not 0.01"):
        ablate.main([str(other), *trained.flags[1:]])


def test_only_finished_takes_whole_seeds(trained: Trained, data: Path, tmp_path: Path):
    longer = write_plan(tmp_path / "longer.yaml", data, seeds=[1, 2, 0])
    page = tmp_path / "page.md"
    ablate.main([str(longer), trained.flags[1], f"--out={page}", "--only_finished"])
    assert "seeds 1, 0" in page.read_text()
    assert cells(page, "mha")[3] == cells(trained.page, "mha")[3]
    none = write_plan(tmp_path / "none.yaml", data, seeds=[7])
    with pytest.raises(UserError, match="has no seed that all rows have finished"):
        ablate.main([str(none), trained.flags[1], "--only_finished"])


def test_a_run_that_fails_is_named_with_its_reason(tmp_path: Path):
    plan = write_plan(tmp_path / "tiny.yaml", tmp_path / "no-data")
    with pytest.raises(UserError) as caught:
        ablate.main([str(plan), f"--out_dir={tmp_path / 'runs'}"])
    message = str(caught.value)
    assert message.startswith("baseline, seed 0: training ended with 2, saying: ")
    assert "no-data" in message
    assert (tmp_path / "runs" / "tiny" / "logs" / "baseline-seed0.log").is_file()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sed": [0]}, r"sed is no key; did you mean seeds"),
        ({"seeds": []}, r"seeds is \[\]; expected a list of whole numbers from 0 on"),
        ({"seeds": [1, 1]}, r"give every number once"),
        ({"seeds": [True]}, r"expected a list of whole numbers"),
        ({"name": 3}, r"name is 3; expected text"),
        ({"name": "../elsewhere"}, r"name is '../elsewhere'; it names a folder, without a slash"),
        ({"rows": []}, r"rows must be a list of rows"),
        ({"rows": ROWS[:1]}, r"has one row; add one"),
        ({"rows": [*ROWS, {"name": "mha", "set": {}}]}, r"row mha: name is taken"),
        ({"rows": [*ROWS, {"name": "a/b", "set": {}}]}, r"names a folder, without a slash"),
        ({"rows": [*ROWS, {"name": "same"}]}, r"row same: set is missing"),
        (
            {"rows": [*ROWS, {"name": "x", "set": {"model.num_kv_head": 2}}]},
            r"row x: set.model.num_kv_head is no key; did you mean model.num_kv_heads",
        ),
        (
            {"rows": [*ROWS, {"name": "x", "set": {"model": {"qk_nrm": False}}}]},
            r"row x: set.model.qk_nrm is no key; did you mean model.qk_norm\?",
        ),
        ({"rows": [*ROWS, {"name": "x", "set": {"seed": 3}}]}, r"row x: set.seed cannot be set here"),
        ({"rows": [*ROWS, {"name": "x", "set": {"model": 3}}]}, r"set.model is a group"),
        (
            {"rows": [*ROWS, {"name": "x", "set": {"model.num_kv_heads": "many"}}]},
            r"row x: --model.num_kv_heads is 'many'; expected an integer",
        ),
        (
            {"rows": [*ROWS, {"name": "x", "set": {"model.num_kv_heads": 3}}]},
            r"row x: model.num_heads is 2, not a multiple of model.num_kv_heads",
        ),
        (
            {"rows": [*ROWS, {"name": "x", "set": {"train.num_steps": 240}}]},
            r"row x: the number of tokens .* is not the baseline's",
        ),
        (
            {"rows": [*ROWS, {"name": "x", "set": {"init_from": "runs/none-seed{seed}"}}]},
            r"row x: init_from: runs/none-seed0 is neither",
        ),
    ],
)
def test_a_wrong_plan_is_refused_by_line_row_and_key(changes: dict[str, Any], says: str, tmp_path: Path):
    plan = write_plan(tmp_path / "tiny.yaml", tmp_path / "data", **changes)
    with pytest.raises(UserError, match=says) as caught:
        ablate.main([str(plan), f"--out_dir={tmp_path / 'runs'}"])
    assert re.match(rf"{re.escape(str(plan))}:\d+: ", str(caught.value))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", ["2024-02-31", "!wide text"])
def test_a_value_that_is_none_is_named(value: str, tmp_path: Path):
    plan = write_plan(tmp_path / "tiny.yaml", tmp_path / "data")
    plan.write_text(f"note: {value}\n{plan.read_text()}")
    with pytest.raises(UserError, match=r"tiny.yaml:1: note cannot be read \(.*\); put it in quotes"):
        read_ablation(plan)


def test_what_has_no_held_out_loss_is_refused_before_it_is_trained(data: Path, tmp_path: Path):
    config = parse_config(training_runs.flags(data, tmp_path, {"name": "base"})).config
    params = Network.build(config.model).init(jax.random.key(0))
    training_runs.save_run(tmp_path / "base", config, Tokenizer.load(data.parent / "tokenizer"), params)
    rewarded = {
        "stage": "grpo",
        "init_from": str(tmp_path / "base"),
        "data.sources": [],
        "rl.tasks": [{"name": "arithmetic"}],
        "rl.max_tokens": 8,
    }
    plan = write_plan(tmp_path / "tiny.yaml", data, set=rewarded)
    with pytest.raises(UserError, match="row baseline: stage is grpo, whose runs have no held-out loss"):
        ablate.main([str(plan), f"--out_dir={tmp_path / 'runs'}"])
    assert not (tmp_path / "runs").exists()


def test_wrong_flags_are_refused(tmp_path: Path):
    plan = write_plan(tmp_path / "tiny.yaml", tmp_path / "data")
    for flags, says in (
        ([], "no plan is given"),
        ([str(plan), "--jobs=0"], "--jobs is 0"),
        ([str(plan), str(plan)], "two plans are named tiny"),
        ([str(plan), "--out=table.html"], "name a Markdown file"),
        ([str(tmp_path / "tinny.yaml")], r"cannot be read .*; did you mean .*tiny.yaml\?"),
    ):
        with pytest.raises(UserError, match=says):
            ablate.main(flags)
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(UserError, match="no YAML can be read from it"):
        ablate.main([str(tmp_path / "broken.yaml")])


def test_runs_go_seed_by_seed_with_the_seed_in_their_values(tmp_path: Path):
    plan = write_plan(
        tmp_path / "tiny.yaml",
        tmp_path / "data",
        set={"eval.data_dir": "files-{seed}"},
        rows=[*ROWS, {"name": "base-again", "set": {"model": {"num_kv_heads": 1, "soft_cap": None}}}],
    )
    runs = seed_by_seed(plan_ablation(read_ablation(plan), out_dir=tmp_path))
    assert [run.label for run in runs[:4]] == [
        "baseline, seed 0",
        "mha, seed 0",
        "base-again, seed 0",
        "baseline, seed 1",
    ]
    assert [run.config.eval.data_dir for run in runs[2:4]] == ["files-0", "files-1"]
    assert runs[2].config.model.soft_cap is None


@pytest.mark.parametrize("name", sorted(path.name for path in PLANS.glob("*.yaml")))
def test_the_plans_that_come_with_samosa_are_whole(name: str):
    ablation = read_ablation(PLANS / name)
    begins_with_another = any(setting.key == "init_from" for setting in ablation.rows[0].settings)
    if not begins_with_another:
        runs = plan_ablation(ablation, out_dir=Path("runs"))
        assert len(runs) == len(ablation.rows)


@pytest.mark.parametrize(("degrees", "t"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (30, 2.0423)])
def test_students_quantiles_are_those_of_the_tables(degrees: int, t: float):
    assert student_quantile(degrees) == pytest.approx(t, abs=2e-4)


def test_paired_differences():
    found = paired_difference([1.0, 2.0, 3.0], [1.1, 2.2, 3.3])
    half = 4.30265 * 0.1 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-5)
    assert paired_difference([1.0], [1.5]) == Interval(0.5, -math.inf, math.inf)
    with pytest.raises(ValueError, match="same seeds"):
        paired_difference([1.0], [1.0, 2.0])


def test_a_section_is_replaced_where_it_stands(tmp_path: Path):
    page = tmp_path / "docs" / "page.md"
    write_section(page, mark="a", text="one \\1")
    write_section(page, mark="b", text="two")
    page.write_text(page.read_text() + "\nthe end\n")
    write_section(page, mark="a", text="three")
    assert (
        page.read_text()
        == "<!-- a -->\nthree\n<!-- end of a -->\n\n<!-- b -->\ntwo\n<!-- end of b -->\n\nthe end\n"
    )
    page.write_text("<!-- a -->\n")
    with pytest.raises(UserError, match="has not one pair"):
        write_section(page, mark="a", text="x")
    assert os.listdir(page.parent) == ["page.md"]
    check_page(page)
    page.write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"page\.md cannot be read as UTF-8 text"):
        check_page(page)
