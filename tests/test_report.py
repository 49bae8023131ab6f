"""`samosa report`: every part is there or named as missing, numbers are the files', text stays text."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from reported_runs import write_chain, write_report
from written_runs import write_run

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


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    return write_chain(tmp_path)


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


def test_markdown_has_one_row_a_line(chain: list[Path]):
    document = run_report(read_lineage(chain[1]), exports=Path("exports"), cost_per_hour=None, now="now")
    tables = [line for line in markdown_page(document).splitlines() if line.startswith("| ")]
    assert len(tables) > 40
    assert all(line.endswith(" |") for line in tables)
