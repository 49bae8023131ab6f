"""Conversations in, the good ones out, and a report that says why the others went.

A conversation goes when it breaks a rule (`rules`), is a copy of one kept before (`near_duplicates`) or
repeats an evaluation set (`overlap`); the latter two are only sought where no rule is broken. The input is
read once and never changed; memory is bounded by the index of what is kept.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from samosa_jax.data.chat.conversation import Conversation, to_json
from samosa_jax.data.chat.near_duplicates import NearDuplicates, content_digest, shingles
from samosa_jax.data.chat.overlap import OverlapIndex, read_evaluations
from samosa_jax.data.chat.reading import Example, OnBadRow, ReadStatistics
from samosa_jax.data.chat.rules import Rule, failures
from samosa_jax.data.chat.sources import ConversationSource, iter_source
from samosa_jax.data.chat.word_grams import WordHasher, hash_messages
from samosa_jax.data.manifest import naming_unwritable, sync_folder, write_atomically
from samosa_jax.data.sources import list_inputs
from samosa_jax.errors import UserError

Duplicates = Literal["keep", "exact", "near"]
OVERLAP, EXACT, NEAR = "evaluation_overlap", "exact_duplicate", "near_duplicate"
EXAMPLES = 3  # shown of every reason
PROGRESS_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where the results go."""

    kept: Path  # .jsonl
    report: Path  # .json
    dropped: Path | None = None  # .jsonl: what went, every row with its reasons
    overwrite: bool = False  # replace files that are there

    def paths(self) -> tuple[Path, ...]:
        return (self.kept, self.report) + (() if self.dropped is None else (self.dropped,))


@dataclass(kw_only=True)
class Drops:
    """What one reason has dropped."""

    first: int = 0  # conversations of which it is the first reason
    total: int = 0  # all conversations that have it
    examples: list[dict[str, str]] = field(default_factory=list)  # at: FILE:ROW, reason


@dataclass(kw_only=True)
class Report:
    """What became of every row."""

    inputs: tuple[str, ...]
    rules: tuple[str, ...]
    rows: int = 0  # read
    kept: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)  # by the reader's reason
    dropped: dict[str, Drops] = field(default_factory=dict)  # by rule
    evaluation_texts: int = 0
    evaluation_texts_too_short: int = 0  # to be looked for

    @property
    def num_dropped(self) -> int:
        return sum(drops.first for drops in self.dropped.values())

    def count(self, at: str, reasons: Mapping[str, str]) -> None:
        """One conversation dropped, for its reasons in order."""
        for position, (name, reason) in enumerate(reasons.items()):
            drops = self.dropped.setdefault(name, Drops())
            drops.first += position == 0
            drops.total += 1
            if len(drops.examples) < EXAMPLES:
                drops.examples.append({"at": at, "reason": reason})

    def to_json(self) -> dict[str, Any]:
        """The same for the same input and options, whenever and wherever it was made."""
        return asdict(self)


class Filter:
    """Says of one conversation after another why it goes; remembers those that stay."""

    def __init__(
        self, rules: Sequence[Rule], *, duplicates: Duplicates = "near", against: OverlapIndex | None = None
    ) -> None:
        self._rules = rules
        self._duplicates = duplicates
        self._against = against
        self._digests: dict[bytes, str] = {}
        self._near: NearDuplicates[str] = NearDuplicates()
        self._hasher = WordHasher()

    def __call__(self, conversation: Conversation, at: str) -> dict[str, str]:
        """Reasons by name, in order; none for a conversation that stays.

        Args:
          at: what to call this conversation when others turn out to be its copies.
        """
        found = failures(conversation, self._rules)
        if found:
            return found
        digest = content_digest(conversation) if self._duplicates != "keep" else b""
        if first := self._digests.get(digest):
            return {EXACT: f"a copy of {first}"}
        if self._against is not None or self._duplicates == "near":
            messages = hash_messages(conversation, self._hasher)
            if self._against is not None and (overlap := self._against.find(messages)):
                return {OVERLAP: str(overlap)}
            if self._duplicates == "near" and (near := self._near.add(shingles(messages), at)):
                return {NEAR: f"{near[1]:.2f} similar to {near[0]}"}
        if digest:
            self._digests[digest] = at
        return {}


def filter_conversations(
    source: ConversationSource,
    *,
    rules: Sequence[Rule],
    outputs: Outputs | None,
    duplicates: Duplicates = "near",
    against: Sequence[str] = (),
    on_bad_row: OnBadRow = "skip",
    progress: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Filters a source into files that appear whole or not at all.

    Args:
      outputs: None writes nothing (a dry run).
      duplicates: which copies go: none, exact ones, or near ones too.
      against: evaluation sets, as `overlap.read_evaluations` takes them.
      on_bad_row: rows that hold no sound conversation are counted, or stop the run.
      progress: called now and then with the report so far.

    Raises:
      UserError: what cannot be read; an output that is an input or is there already; nothing kept.
    """
    if outputs is not None:
        _check_outputs(outputs, [*source.input, *against])
    index = OverlapIndex(read_evaluations(against), WordHasher()) if against else None
    judge = Filter(rules, duplicates=duplicates, against=index)
    report = Report(inputs=source.input, rules=tuple(rule.name for rule in rules))
    if index is not None:
        report.evaluation_texts, report.evaluation_texts_too_short = index.num_texts, index.num_short
    statistics = ReadStatistics()
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(_appearing(outputs.kept if outputs else None))
        dropped = stack.enter_context(_appearing(outputs.dropped if outputs else None))
        for number, example in enumerate(iter_source(source, on_bad_row=on_bad_row, statistics=statistics)):
            at = f"{example.file}:{example.row}"
            reasons = judge(example.value, at)
            if reasons:
                report.count(at, reasons)
                _write(dropped, example, {"dropped": {"at": at, "reasons": reasons}})
            else:
                report.kept += 1
                _write(kept, example, {})
            if number % PROGRESS_ROWS == 0:
                report.rows = statistics.rows
                progress(report)
        report.rows = statistics.rows
        report.unreadable = dict(sorted(statistics.bad.items()))
        # In the order of the rules, not in that of their first victims.
        order = [*report.rules, EXACT, OVERLAP, NEAR]
        report.dropped = {name: report.dropped[name] for name in order if name in report.dropped}
        if outputs is not None:
            if not report.kept:
                raise UserError(_nothing_kept(report))
            data = json.dumps(report.to_json(), ensure_ascii=False, indent=2).encode() + b"\n"
            write_atomically(outputs.report, data)
    return report


def _write(file: TextIO | None, example: Example[Conversation], more: Mapping[str, Any]) -> None:
    if file is None:
        return
    own = {
        key: _without_nan(value) for key, value in example.other.items() if key not in ("messages", "tools")
    }
    # Parquet has values that JSON lacks, such as times; they become text.
    file.write(json.dumps(to_json(example.value) | own | dict(more), ensure_ascii=False, default=str) + "\n")


def _without_nan(value: Any) -> Any:
    """The value with null for NaN and infinities, which are no JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return value


@contextlib.contextmanager
def _appearing(path: Path | None) -> Iterator[TextIO | None]:
    """A text file that takes its name once it is whole, and leaves nothing behind if it never is."""
    if path is None:
        yield None
        return
    temporary = path.with_name(f".{path.name}.tmp")
    with naming_unwritable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming_unwritable(path.parent), open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _check_outputs(outputs: Outputs, inputs: Sequence[str]) -> None:
    paths = [path.resolve() for path in outputs.paths()]
    for path, given in zip(paths, outputs.paths(), strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{given} is named for two outputs; give each a file of its own")
        if given is not outputs.report and given.suffix != ".jsonl":
            raise UserError(f"{given}: conversations are written as JSON lines; expected a name in .jsonl")
        if given.is_dir():
            raise UserError(f"{given} is a folder; name a file in it")
        if given.exists() and not outputs.overwrite:
            raise UserError(f"{given} exists; pass --overwrite to replace it, or name another file")
    local = [Path(name) for name in inputs if Path(name).exists()]
    files = {file.path.resolve() for file in list_inputs(local).files if file.path} if local else set()
    folders = [name.resolve() for name in local if name.is_dir()]
    for path, given in zip(paths, outputs.paths(), strict=True):
        if path in files or any(path.is_relative_to(folder) for folder in folders):
            raise UserError(f"{given} is among the inputs, which are never changed; name a file elsewhere")


def _nothing_kept(report: Report) -> str:
    counts = {name: drops.first for name, drops in report.dropped.items()} | report.unreadable
    reasons = ", ".join(
        f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda x: -x[1])[:4]
    )
    return (
        f"{', '.join(report.inputs)}: nothing is kept of {report.rows:,} rows ({reasons or 'no rows'}), "
        "so nothing was written; see --dry-run for examples, and --format for what the rows are"
    )
