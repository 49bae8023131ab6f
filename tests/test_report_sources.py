"""What a report reads: runs and their parents, exports, data; what is gone, torn or broken among them."""

import json
import re
from pathlib import Path

import pytest
import training_runs
from reported_runs import write_chain, write_report
from written_runs import seal_of, write_lines, write_run

from samosa_jax import report
from samosa_jax.data.manifest import load_manifest
from samosa_jax.errors import UserError
from samosa_jax.reporting.lineage import read_lineage


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    return write_chain(tmp_path)


def test_the_lineage_stops_where_the_child_began(chain: list[Path]):
    lineage = read_lineage(chain[1])
    assert [run.name for run in lineage.runs] == ["base", "sft"]
    assert lineage.runs[0].last_step == 40
    assert not lineage.missing
    page, _ = write_report(chain[1])
    assert "the run went on to step 60, which is not shown" in page.text
    assert "later" not in page.text.split("Samples")[-1].split("Data")[0]
    assert "2h00m" in page.text  # of the 40 steps, by the checkpoint's record


def test_missing_parts_are_named(tmp_path: Path):
    run = write_run(tmp_path / "bare", init_from="runs/gone")
    for name in ("summary.json", "environment.json", "samples.jsonl"):
        (run / name).unlink()
    page, markdown = write_report(run)
    for text in (page.text, markdown.replace("\\", "")):
        for part in (
            "bare began with runs/gone, which is not there any more",
            "evaluation: nothing was evaluated",
            "probes: none was run",
            "loss shares by tag: no stage",
            "samples: bare wrote none",
            "data of bare: its configuration names none",
            "environment: bare has no environment.json",
            "exports: none of bare",
            "cost: no price of an hour is known",
            "summary.json: the run has not ended",
        ):
            assert part in text, part


def test_a_parent_that_lost_the_checkpoint_is_shown_with_a_doubt(chain: list[Path]):
    (chain[0] / "checkpoints" / "00000040" / "seal.json").unlink()
    lineage = read_lineage(chain[1])
    assert lineage.runs[0].last_step == 60
    assert "holds no such checkpoint any more" in lineage.missing


def test_a_circle_of_runs_ends(tmp_path: Path):
    run = write_run(tmp_path / "a", init_from=str(tmp_path / "a"))
    assert "already passed" in read_lineage(run).missing


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{broken", "is not JSON"),
        ("[1]", "is no JSON object"),
        ('{"train/loss": 1.0}', "has no step"),
        ('{"step": 3, "train/loss": "high"}', "train/loss is 'high'; expected a number"),
    ],
)
def test_a_broken_line_is_named_by_file_and_line(tmp_path: Path, line: str, complaint: str):
    run = write_run(tmp_path / "a")
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join([*lines[:4], line, *lines[4:], ""]))
    with pytest.raises(UserError, match=rf"metrics\.jsonl:5: .*{re.escape(complaint)}"):
        write_report(run)
    assert not (tmp_path / "a.html").exists()


def test_other_broken_files_are_named(tmp_path: Path):
    run = write_run(tmp_path / "a")
    write_lines(run / "samples.jsonl", [{"step": 1, "prompt": "x"}])
    with pytest.raises(UserError, match=r"samples\.jsonl:1: expected an object with step, prompt and text"):
        write_report(run)
    write_lines(run / "samples.jsonl", [])
    (run / "environment.json").write_text("{}")
    with pytest.raises(UserError, match=r"environment\.json: expected a list of objects"):
        write_report(run)
    (run / "environment.json").unlink()
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"config\.yaml: not valid YAML"):
        write_report(run)


def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path):
    run = write_run(tmp_path / "a")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "train/lo')
    page, _ = write_report(run)
    assert "metrics.jsonl: the last line was torn by a kill and is left out" in page.text


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        report.main([str(tmp_path / "nothing")])
    with pytest.raises(UserError, match="is no run"):
        report.main([str(tmp_path)])
    run = write_run(tmp_path / "a")
    with pytest.raises(UserError, match=r"ends with \.html"):
        report.main([str(run), "--out=report.pdf"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        report.main([str(run), f"--out={tmp_path / 'file' / 'x.html'}"])


def test_an_export_and_its_verification_are_shown(chain: list[Path], tmp_path: Path):
    folder = tmp_path / "exports" / "sft"
    folder.mkdir(parents=True)
    verified = {"num_tensors": 40, "num_logits": 8192, "max_logit_error": 2e-5, "greedy_tokens": 64}
    record = {
        "name": "renamed since",
        "checkpoint_sha256": seal_of(chain[1], 40),
        "format": "hf",
        "architecture": "samosa",
        "parameters": 123456,
        "dtype": "float32",
    }
    (folder / "samosa.json").write_text(json.dumps({**record, "verified": verified}))
    page, _ = write_report(chain[1], f"--exports={tmp_path / 'exports'}")
    assert "123,456 40 2.0e-05 of 8,192 logits 64" in page.text
    (folder / "samosa.json").write_text(json.dumps({**record, "verified": None}))
    page, _ = write_report(chain[1], f"--exports={tmp_path / 'exports'}")
    assert "never verified" in page.text
    assert "by name" not in page.text
    (folder / "samosa.json").write_text(
        json.dumps({**record, "checkpoint_sha256": "0" * 64, "verified": None})
    )
    page, _ = write_report(chain[1], f"--exports={tmp_path / 'exports'}")
    assert "exports: none of sft" in page.text
    other = {**record, "checkpoint_sha256": "0" * 64, "name": "sft", "verified": verified}
    (folder / "samosa.json").write_text(json.dumps(other))
    page, _ = write_report(chain[1], f"--exports={tmp_path / 'exports'}")
    assert "float32, by name" in page.text


def test_a_parent_is_known_by_its_seal_and_not_by_its_path(chain: list[Path], tmp_path: Path):
    """Moved away, with another run in its place, and then beside its child only."""
    base, sft = chain
    moved = tmp_path / "moved"
    moved.mkdir()
    base.rename(moved / "base")
    write_run(tmp_path / "runs" / "base", steps=5)
    sft.rename(moved / "sft")
    lineage = read_lineage(moved / "sft")
    assert [run.folder for run in lineage.runs] == [moved / "base", moved / "sft"]
    assert not lineage.missing


def test_an_imported_model_comes_from_elsewhere(tmp_path: Path):
    run = write_run(tmp_path / "runs" / "qwen", steps=0, checkpoints=(7,))
    path = run / "checkpoints/00000007/run/metadata"
    record = json.loads(path.read_text()) | {"data": {"imported": {"format": "hf", "path": "downloads/q"}}}
    path.write_text(json.dumps(record))
    lineage = read_lineage(run)
    assert lineage.missing == "qwen was imported from downloads/q; what trained it is not known here"
    assert lineage.last.tokens == 0
    page, _ = write_report(run)
    assert "The stages that are known" in page.text
    assert "from random parameters" not in page.text


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run that ended after 12 steps and went on to 24."""
    folder = tmp_path_factory.mktemp("resumed")
    data = training_runs.write_dataset(folder)
    for steps in (12, 24):
        overrides = {"train.num_steps": steps, "schedule.warmup_steps": 2, "name": "real"}
        done = training_runs.run(training_runs.flags(data, folder / "runs", overrides))
        assert done.returncode == 0, done.stderr
    return folder / "runs" / "real"


def test_a_real_run_that_went_on(resumed: Path):
    page, markdown = write_report(resumed)
    summary = training_runs.load_json(resumed / "summary.json")
    metrics = training_runs.records(resumed / "metrics.jsonl")
    assert f"{summary['val_bpb']:.4f} bits per byte" in page.text
    assert f"{summary['final_loss']:.4g}" in page.text
    assert f"{max(record.get('train/tokens', 0) for record in metrics):,}" in page.text
    assert "Stopped and gone on with: real (1x)" in page.text
    for start in training_runs.load_json(resumed / "environment.json"):
        assert start["command"] in page.text
        assert start["command"] in markdown
    manifest = load_manifest(resumed.parents[1] / "data")
    assert f"{sum(shard.num_tokens for shard in manifest.select('train')):,}" in page.text
    assert "holds other documents by now" not in page.text
    for entry in manifest.select("train"):
        assert entry.tokens.sha256 in page.text
    assert re.search(r"model\.num_layers 6 2\b", page.text)


def test_data_that_changed_since_is_told(resumed: Path):
    manifest = resumed.parents[1] / "data" / "manifest.json"
    before = manifest.read_text()
    digest = load_manifest(manifest.parent).select("train")[0].tokens.sha256
    try:
        manifest.write_text(before.replace(digest, "0" * 64))
        page, _ = write_report(resumed)
        assert "holds other documents by now than the run has read" in page.text
        manifest.unlink()
        page, _ = write_report(resumed)
        assert "is not there any more, so its manifest is not shown" in page.text
    finally:
        manifest.write_text(before)
