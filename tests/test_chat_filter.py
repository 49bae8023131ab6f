"""`prepare filter`: what is kept, what is reported, and that no file is harmed."""

import json
from pathlib import Path
from typing import Any

import pytest

from samosa_jax.command_line import run
from samosa_jax.data.chat.filter import EXAMPLES
from samosa_jax.data.chat.reading import read_conversations
from samosa_jax.errors import UserError
from samosa_jax.filter_conversations import main

GOOD = [
    "Water boils at a lower temperature on a mountain, as the air there presses on it less.",
    "Bread rises because yeast eats sugar and breathes out carbon dioxide, which the dough holds.",
    "A compass points north since its needle is a magnet and the Earth is a much larger one.",
]


def row(question: str, answer: str, **other: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **other,
    }


def write(path: Path, *rows: Any) -> Path:
    lines = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    rows = [row(f"Why? {number}", answer, topic=number) for number, answer in enumerate(GOOD)]
    return write(
        tmp_path / "chat.jsonl",
        rows[0],
        row("Why?", f"<b>Answer:</b> {GOOD[0]}"),
        rows[1],
        row("Why?", f"Answer: {GOOD[2]}"),
        rows[0],
        row("Why? 1", GOOD[1].replace("eats sugar", "eats the sugar") + " " + GOOD[1], topic="two"),
        row("Why? 1", GOOD[1].replace("rises", "grows")),
        "{",
        {"messages": [{"role": "user", "content": "Hello?"}]},
        rows[2],
        row("Short?", "Yes."),
    )


def test_good_rows_are_kept_with_their_keys_and_reasons_reported(chat: Path, tmp_path: Path) -> None:
    before = chat.read_bytes()
    out, dropped = tmp_path / "out" / "kept.jsonl", tmp_path / "out" / "gone.jsonl"
    main([str(chat), f"--out={out}", f"--dropped={dropped}"])
    assert chat.read_bytes() == before
    kept = lines_of(out)
    assert [(r["messages"][1]["content"][:5], r["topic"]) for r in kept[:2]] == [("Water", 0), ("Bread", 1)]
    assert [example.row for example in read_conversations([out])] == list(range(1, len(kept) + 1))

    report = json.loads((tmp_path / "out" / "kept.report.json").read_text())
    counts = {name: (drops["first"], drops["total"]) for name, drops in report["dropped"].items()}
    assert counts == {
        "no_html": (1, 1),
        "no_stock_label": (1, 1),
        "long_enough": (1, 1),
        "exact_duplicate": (1, 1),
    }
    assert report["dropped"]["exact_duplicate"]["examples"] == [
        {"at": f"{chat}:5", "reason": f"a copy of {chat}:1"}
    ]
    assert sum(report["unreadable"].values()) == 2
    assert (report["rows"], report["kept"]) == (11, len(kept) == 5 and 5)
    assert report["rules"][0] == "think_closed"
    gone = lines_of(dropped)
    assert [r["dropped"]["at"] for r in gone] == [f"{chat}:{n}" for n in (2, 4, 5, 11)]
    assert gone[0]["dropped"]["reasons"] == {"no_html": f"<b>Answer:</b> {GOOD[0]}"[:80] + "..."}
    assert [example.value.messages for example in read_conversations([dropped])]
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "gone.jsonl",
        "kept.jsonl",
        "kept.report.json",
    ]


def test_numbers_that_json_lacks_are_written_as_null(tmp_path: Path) -> None:
    rated = row("Why?", GOOD[0], rating=[1.5, float("nan")], scores={"best": float("inf"), "worst": 0.0})
    chat = write(tmp_path / "chat.jsonl", rated)
    main([str(chat), f"--out={tmp_path / 'kept.jsonl'}"])
    line = (tmp_path / "kept.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in line
    kept = json.loads(line)
    assert (kept["rating"], kept["scores"]) == ([1.5, None], {"best": None, "worst": 0.0})


def test_every_reason_counts_but_the_first_is_told(tmp_path: Path) -> None:
    bad = row("Why?", f"Answer: <i>as an AI language model</i> {GOOD[0]}")
    chat = write(tmp_path / "chat.jsonl", *[bad] * (EXAMPLES + 2), row("Why?", GOOD[0]))
    main([str(chat), f"--out={tmp_path / 'kept.jsonl'}", f"--report={tmp_path / 'r.json'}"])
    dropped = json.loads((tmp_path / "r.json").read_text())["dropped"]
    assert {name: (d["first"], d["total"], len(d["examples"])) for name, d in dropped.items()} == {
        "no_html": (EXAMPLES + 2, EXAMPLES + 2, EXAMPLES),
        "no_stock_label": (0, EXAMPLES + 2, EXAMPLES),
        "no_hedge": (0, EXAMPLES + 2, EXAMPLES),
    }


def test_rules_and_their_numbers_are_chosen(chat: Path, tmp_path: Path) -> None:
    def kept(*flags: str) -> int:
        main([str(chat), f"--out={tmp_path / 'kept.jsonl'}", "--overwrite", *flags])
        return len(lines_of(tmp_path / "kept.jsonl"))

    assert kept("--duplicates=keep") == 6
    assert kept("--duplicates=exact") == 5
    assert kept("--duplicates=keep", "--rules=think_tool") == 9
    assert kept("--duplicates=keep", "--rules=pool,think_tool", "--disable", "no_html", "no_stock_label") == 8
    assert kept("--duplicates=keep", "--min-answer-chars=4") == 7
    assert kept("--duplicates=keep", "--max-rows=2") == 1


def test_near_copies_go_and_the_first_stays(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(100))
    chat = write(
        tmp_path / "chat.jsonl",
        *(row("Say them.", text.replace("word50", new)) for new in ("word50", "other")),
    )
    main([str(chat), f"--out={tmp_path / 'kept.jsonl'}"])
    near = json.loads((tmp_path / "kept.report.json").read_text())["dropped"]["near_duplicate"]
    assert near["examples"] == [{"at": f"{chat}:2", "reason": f"0.90 similar to {chat}:1"}]
    assert "word50" in lines_of(tmp_path / "kept.jsonl")[0]["messages"][1]["content"]


def test_rows_that_give_an_evaluation_set_away_name_it(chat: Path, tmp_path: Path) -> None:
    evaluation = write(
        tmp_path / "eval.jsonl", {"q": "Nothing that anybody would ever say here."}, {"q": GOOD[2]}
    )
    main([str(chat), f"--out={tmp_path / 'kept.jsonl'}", "--against", str(evaluation)])
    report = json.loads((tmp_path / "kept.report.json").read_text())
    (example,) = report["dropped"]["evaluation_overlap"]["examples"]
    assert example["at"] == f"{chat}:10"
    assert example["reason"].startswith(f"as in {evaluation}:2: a compass points north since")
    assert (report["evaluation_texts"], report["evaluation_texts_too_short"]) == (2, 1)


def test_a_dry_run_writes_nothing_and_says_the_same(
    chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(chat), "--dry-run"])
    told = capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["chat.jsonl"]
    assert "rows read: 11; kept: 5; dropped: 4; unreadable: 2" in told
    assert f"no_html: {chat}:2:" in told


def test_the_same_input_gives_the_same_bytes(chat: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        main([str(chat), f"--out={tmp_path / name / 'kept.jsonl'}"])
    for file in ("kept.jsonl", "kept.report.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_kept_rows_are_kept_again(chat: Path, tmp_path: Path) -> None:
    main([str(chat), f"--out={tmp_path / 'once.jsonl'}"])
    main([str(tmp_path / "once.jsonl"), f"--out={tmp_path / 'twice.jsonl'}", "--on-bad-row=fail"])
    assert (tmp_path / "once.jsonl").read_bytes() == (tmp_path / "twice.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--out={chat}", "--overwrite"], "among the inputs, which are never changed"),
        (["--out={tmp}/old.jsonl/kept.jsonl"], r"old.jsonl: cannot write \(File exists\)"),
        (["--out={tmp}/kept.jsonl", "--dropped={chat}", "--overwrite"], "among the inputs"),
        (["--out={tmp}/old.jsonl"], "old.jsonl exists; pass --overwrite"),
        (["--out={tmp}/new.jsonl", "--report={tmp}/old.jsonl"], "old.jsonl exists; pass --overwrite"),
        (["--out={tmp}/kept.json"], r"expected a name in \.jsonl"),
        (["--out={tmp}/kept.jsonl", "--dropped={tmp}/kept.jsonl"], "two outputs"),
        ([], "--out is missing"),
        (["--out={tmp}/kept.jsonl", "--on-bad-row=fail"], "chat.jsonl: row 8"),
        (["--out={tmp}/kept.jsonl", "--rules=polo"], "'polo' is no rule"),
        (["--out={tmp}/kept.jsonl", "--min-answer-chars=9999"], "nothing is kept of 11 rows"),
        (["--out={tmp}/kept.jsonl", "--against={tmp}/none.jsonl"], "no such file"),
        (["--out={tmp}/kept.jsonl", "--max-rows=0"], "max_rows is 0"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    chat: Path, tmp_path: Path, flags: list[str], complaint: str
) -> None:
    old = write(tmp_path / "old.jsonl", "old")
    before = chat.read_bytes()
    with pytest.raises(UserError, match=complaint):
        main([str(chat), *(flag.format(chat=chat, tmp=tmp_path) for flag in flags)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chat.jsonl", "old.jsonl"]
    assert (chat.read_bytes(), old.read_text()) == (before, "old\n")


def test_a_folder_of_inputs_is_not_written_into(chat: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="among the inputs"):
        main([str(tmp_path), f"--out={tmp_path / 'kept.jsonl'}"])
    assert [path.name for path in tmp_path.iterdir()] == [chat.name]


def test_errors_are_one_line_and_exit_code_2(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        run(main, [str(chat), f"--out={chat}"])
    assert exit.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_dolly_is_filtered_fast_enough_and_as_expected(test_data: Path, tmp_path: Path) -> None:
    main([str(test_data / "dolly15k" / "public_training.json.gz"), f"--out={tmp_path / 'kept.jsonl'}"])
    report = json.loads((tmp_path / "kept.report.json").read_text())
    assert report["rows"] == 2983
    assert 0.8 < report["kept"] / report["rows"] < 0.95
    assert report["dropped"]["long_enough"]["first"] > 0.9 * (report["rows"] - report["kept"])
