"""Runs to report on, and the pages that the command writes of them."""

from html.parser import HTMLParser
from pathlib import Path

from written_runs import seal_of, write_result, write_run

from samosa_jax import report

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


def write_chain(folder: Path) -> list[Path]:
    """base (60 steps, of which sft has used 40) -> sft, with evaluations and probes of both."""
    base = write_run(
        folder / "runs" / "base",
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
        folder / "runs" / "sft",
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
