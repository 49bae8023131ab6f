"""`samosa report`: every part is there or named as missing, numbers are the files', text stays text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import training_runs
from written_runs import seal_of, write_lines, write_result, write_run

from samosa_jax import report
from samosa_jax.data.manifest import load_manifest
from samosa_jax.errors import UserError
from samosa_jax.reporting.lineage import read_lineage
from samosa_jax.reporting.markdown_page import markdown_page
from samosa_jax.reporting.run_report import run_report
from samosa_jax.reporting.thinning import MAX_POINTS, sparkline, thin

SECTIONS = (
    "The run",
    "Evaluation",
    "Probes",
    "Training",
    "Loss by tag",
    "Samples",
    "Data",
    "Configuration",
    "Environment and commands",
    "Exports",
)
HOSTILE = (
    "</p></article><script>alert(1)</script><img src=//evil.example/x onerror=alert(2)> "
    "| `tick` **bold** \x1b[2J\u202e"
)
VOID = {"meta", "br"}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and whether all of them are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"{self.open} are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def write_report(run: Path, *flags: str) -> tuple[Page, str]:
    """The page and the Markdown that the command writes."""
    out = run.parent / f"{run.name}.html"
    report.main([str(run), f"--out={out}", *flags])
    return Page(out.read_text(encoding="utf-8")), out.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    """base (60 steps, of which sft has used 40) -> sft, with evaluations and probes of both."""
    base = write_run(
        tmp_path / "runs" / "base",
        steps=60,
        checkpoints=(40, 60),
        samples=[
            (0, "Who are you?", "the the the"),
            (40, "Who are you?", HOSTILE),
            (60, "Who are you?", "later"),
        ],
        starts=(0, 20),
        losses={7: None},
    )
    sft = write_run(
        tmp_path / "runs" / "sft",
        stage="sft",
        init_from=str(base),
        begun_with=seal_of(base, 40),
        samples=[(40, "Who are you?", "I am Samosa.")],
    )
    for run, right in ((base, 30), (sft, 70)):
        write_result(run, "arc_easy", [1.0] * right + [0.0] * (100 - right))
        write_result(run, "piqa", [1.0, 0.0] * 30)
    write_result(base, "boolq", [1.0] * 10)
    write_result(sft, "boolq", [1.0] * 10, settings={"shots": 5})
    lines = [
        {
            "messages": [{"role": "user", "content": "Who?"}],
            "written": HOSTILE,
            "failures": {"must_call": "no <b>"},
        },
        {"messages": [{"role": "user", "content": "When?"}], "written": "now", "failures": {}},
    ]
    for task in ("probes", "probes/identity"):
        write_result(sft, task, [0.0, 1.0], lines=lines, metric="pass_rate")
    return [base, sft]


def test_every_section_is_there_and_the_page_parses(chain: list[Path]):
    page, markdown = write_report(chain[1])
    titles = [words for words in SECTIONS if words in page.text]
    assert titles == list(SECTIONS)
    assert [line[3:] for line in markdown.splitlines() if line.startswith("## ")] == list(SECTIONS)


def test_numbers_are_those_of_the_files(chain: list[Path]):
    page, markdown = write_report(chain[1], "--cost_per_hour=3.5")
    for text in (page.text, markdown):
        assert "1.2345" in text  # held out
        assert "70.0 % ▲" in text  # arc_easy of sft, really better than base
        assert "30.0 %" in text
        assert "[60.4, 78.1]" in text  # Wilson's interval of 70 of 100
        assert "8 x NVIDIA H100 80GB HBM3" in text
        assert "7.00" in text  # two hours of sft at 3.5
        assert "14.00" in text  # and as many of base's first 40 steps
    values = [
        json.loads(line)["train/loss"] for line in (chain[1] / "metrics.jsonl").read_text().splitlines()[:40]
    ]
    assert f"(mean of the last 20: {np.mean(values[-20:]):.4g})" in page.text


def test_signs_stand_only_where_a_difference_is_real(chain: list[Path]):
    page, _ = write_report(chain[1])
    table = page.text.split("Tasks task items")[1].split("Not compared")[0]
    assert re.search(r"arc_easy accuracy 100 30\.0 % \[[\d., ]+\] 70\.0 % ▲", table)
    assert re.search(r"piqa accuracy 60 50\.0 % \[[\d., ]+\] 50\.0 % \[", table)
    assert re.search(r"boolq accuracy 10 100\.0 % \[[\d., ]+\] 100\.0 % ≠", table)
    assert "setting shots is 0 in" in page.text


def test_the_lineage_stops_where_the_child_began(chain: list[Path]):
    lineage = read_lineage(chain[1])
    assert [run.name for run in lineage.runs] == ["base", "sft"]
    assert lineage.runs[0].last_step == 40
    assert not lineage.missing
    page, _ = write_report(chain[1])
    assert "the run went on to step 60, which is not shown" in page.text
    assert "later" not in page.text.split("Samples")[-1].split("Data")[0]
    assert "2h00m" in page.text  # of the 40 steps, by the checkpoint's record


def test_samples_of_one_prompt_stand_together(chain: list[Path]):
    page, _ = write_report(chain[1])
    samples = page.text.split("step 0 is before a stage begins.")[1]
    order = [
        samples.index(text)
        for text in ("base, step 0 the the the", "base, step 40", "sft, step 40 I am Samosa.")
    ]
    assert order == sorted(order)


def test_hostile_text_stays_text(chain: list[Path]):
    base, sft = chain
    out = base.parent / "sft.html"
    page, markdown = write_report(sft)
    assert "<script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>" in page.text
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "link", "base", "form"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "<script" not in out.read_text()
    for text in (out.read_text(), markdown):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert r"\x1b[2J\u202e" in text
    outside_of_code = re.sub(r"(`{3,})text\n.*?\n\1", "", markdown, flags=re.DOTALL)
    assert "<script" not in outside_of_code


def test_the_page_asks_nothing_of_the_network(chain: list[Path]):
    page, _ = write_report(chain[1])
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "data", "action", "poster"):
            assert name not in attributes, tag
        assert (attributes.get("href") or "#").startswith("#")
    style = (chain[1].parent / "sft.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_pictures_and_tables_speak_to_everyone(chain: list[Path]):
    page, _ = write_report(chain[1])
    pictures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(pictures) > 8
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in pictures)
    headers = [attributes for tag, attributes in page.elements if tag == "th"]
    assert {attributes.get("scope") for attributes in headers} == {"col", "row"}
    assert sum(tag == "table" for tag, _ in page.elements) == sum(
        tag == "caption" for tag, _ in page.elements
    )
    names = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(names) == len(set(names))
    targets = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert {target.removeprefix("#") for target in targets if target} <= set(names)


def test_probes_show_what_failed(chain: list[Path]):
    page, markdown = write_report(chain[1])
    for text in (page.text, markdown.replace("\\", "")):
        assert "identity: 1 of 2 failed" in text
        assert "Who?" in text
        assert "When?" not in text
    assert "must_call: no <b>" in page.text


def test_what_a_gate_said_is_shown(chain: list[Path]):
    page, _ = write_report(chain[1])
    assert "gate: none has judged sft" in page.text
    verdict = "refused: probes is 0.5, below 0.95\ngate: gates/sft.yaml\nstep: 40\ncheckpoint: c\ntime: now\n"
    (chain[1] / "PROMOTION").write_text(verdict)
    page, _ = write_report(chain[1])
    assert "sft at step 40, gate gates/sft.yaml: refused, probes is 0.5, below 0.95." in page.text


def test_skipped_steps_and_restarts_are_told(chain: list[Path]):
    page, _ = write_report(chain[0])
    assert "base 1 7 none kept" in page.text
    assert "Stopped and gone on with: base (1x)" in page.text
    marks = [attributes for tag, attributes in page.elements if attributes.get("class") == "mark"]
    assert marks
    assert "went on from step 20" in page.text
    assert "step 7 was not finite and was skipped" in page.text


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


def test_long_runs_stay_small_and_keep_their_spikes(tmp_path: Path):
    run = write_run(tmp_path / "a", steps=30_000, losses={12_345: 99.0})
    page, _ = write_report(run)
    assert (tmp_path / "a.html").stat().st_size < 1_000_000
    assert "Up to 30,000 points, drawn as 2,000" in page.text
    assert "highest 99 (12,345)" in page.text


def test_thinning_keeps_ends_gaps_and_extremes():
    x = np.arange(100_000)
    y = np.sin(x / 500.0)
    y[77_777], y[50_000:50_400] = 40.0, np.nan
    xs, ys = thin(x, y)
    assert len(xs) <= MAX_POINTS
    assert (xs[0], xs[-1]) == (0, 99_999)
    assert np.nanmax(ys) == 40.0
    assert np.isnan(ys).any()
    assert (np.diff(xs) > 0).all()
    assert np.array_equal(thin(x[:50], y[:50])[1], y[:50])


def test_sparklines_follow_the_curve():
    assert sparkline(np.linspace(0, 1, 8), width=8) == "▁▂▃▄▅▆▇█"
    assert sparkline(np.array([2.0, 2.0])) == "▅▅"
    assert sparkline(np.array([np.nan, 1.0])) == "·▅"
    assert sparkline(np.zeros(0)) == ""


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


def test_a_browser_loads_nothing_else_and_a_phone_needs_no_sideways_scrolling(
    chain: list[Path], tmp_path: Path
):
    from browser import PHONE, open_browser

    write_report(chain[1])
    with open_browser(tmp_path / "profile") as browser:
        browser.resize(*PHONE)
        browser.get((chain[1].parent / "sft.html").as_uri())
        browser.execute_script(
            "document.querySelectorAll('details').forEach((fold) => { fold.open = true; })"
        )
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width == PHONE[0]
        assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
        assert browser.execute_script("return document.scripts.length + document.images.length") == 0
        assert not browser.complaints()


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


def test_markdown_has_one_row_a_line(chain: list[Path]):
    document = run_report(read_lineage(chain[1]), exports=Path("exports"), cost_per_hour=None, now="now")
    tables = [line for line in markdown_page(document).splitlines() if line.startswith("| ")]
    assert len(tables) > 40
    assert all(line.endswith(" |") for line in tables)
