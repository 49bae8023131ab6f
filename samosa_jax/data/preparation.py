"""What `prepare` does: documents -> tokens -> shards, in parallel, resumable, with the same bytes every time.

One process reads, cleans and writes in order; the others tokenize. Documents are cut into shards by their
tokens alone, so the number of workers and any interruption leave no trace in the files.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from samosa_jax.data.continuation import (
    begun,
    check_outside,
    check_same_folder,
    check_same_generation,
    equal_generation,
    hub_commits,
    locked,
)
from samosa_jax.data.filters import FilterOptions, Statistics
from samosa_jax.data.holdout import ValidationRule, threshold_for, with_split
from samosa_jax.data.manifest import DOWNLOAD_FOLDER, GenerationEntry, Manifest, Split
from samosa_jax.data.readers import ReadOptions
from samosa_jax.data.shard_writer import ShardWriter
from samosa_jax.data.shards import load_document_table
from samosa_jax.data.sources import (
    FIRST,
    Document,
    InputFile,
    Inputs,
    Position,
    iter_positioned,
    list_inputs,
)
from samosa_jax.data.tokenization import num_workers, tokenized
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError

Stage = Literal["choosing validation documents", "tokenizing"]


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What a preparation reads, cleans, holds out and writes; a UserError for what cannot be met."""

    inputs: tuple[str, ...]
    tokenizer: Path
    out: Path
    reading: ReadOptions = field(default_factory=ReadOptions)
    filtering: FilterOptions = field(default_factory=FilterOptions)
    validation: ValidationRule = field(default_factory=ValidationRule)
    max_documents: int | None = None
    max_bytes: int | None = None
    shard_tokens: int = 10_000_000
    workers: int = 0  # processes that tokenize; 0: as many as there are cores, and fewer for little text
    append: bool = False

    def __post_init__(self) -> None:
        for flag, value in (("--max-documents", self.max_documents), ("--max-bytes", self.max_bytes)):
            if value is not None and value < 1:
                raise UserError(f"{flag} is {value}; it must be at least 1")
        check_outside(self.out, self.inputs)
        if self.shard_tokens < 1:
            raise UserError(f"--shard-tokens is {self.shard_tokens}; it must be at least 1")
        if self.workers < 0:
            raise UserError(f"--workers is {self.workers}; it must be at least 1, or 0 for one per core")

    def recorded(self) -> dict[str, Any]:
        """What decides the bytes of a generation's shards, as the manifest keeps it."""
        limits = {
            "max_documents": self.max_documents,
            "max_bytes": self.max_bytes,
            "shard_tokens": self.shard_tokens,
        }
        flat = asdict(self.reading) | asdict(self.filtering) | limits
        return {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}


class Progress(NamedTuple):
    """Where the preparation stands; counts are of the generation being written."""

    stage: Stage
    file: InputFile
    file_number: int  # from 1
    num_files: int
    statistics: dict[str, int]
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a call of `prepare` did, and what the folder holds since."""

    manifest: Manifest
    generation: int
    statistics: Statistics  # of the whole generation
    new_bytes: int  # text tokenized by this call
    seconds: float  # of reading, tokenizing and writing, by this call
    ignored_files: int
    state: Literal["new", "resumed", "already complete"]


def prepare(
    options: PrepareOptions, *, report: Callable[[Progress], None] = lambda progress: None
) -> Summary:
    """Writes, continues or extends `options.out`.

    Raises:
      UserError: what cannot be read or written, or options that differ from those the folder was begun with.
    """
    tokenizer = Tokenizer.load(options.tokenizer)
    with locked(options.out):
        manifest = begun(options.out)
        if manifest is None:
            inputs = list_inputs(options.inputs)
            writer = _create(options, tokenizer, inputs, report)
            return _write(options, tokenizer, writer, inputs, report, state="new")
        check_same_folder(
            options.out,
            manifest,
            tokenizer_dir=options.tokenizer,
            tokenizer_fingerprint=tokenizer.fingerprint,
            rule=options.validation,
        )
        newest = manifest.generations[-1]
        adds = options.append and newest.complete
        inputs = list_inputs(options.inputs, commits=None if adds else hub_commits(newest))
        equal = equal_generation(manifest, options=options.recorded(), files=inputs.files)
        if equal is not None and equal.complete:
            return _already_complete(manifest, equal, inputs)
        writer = ShardWriter(options.out, manifest)
        writer.copy_tokenizer(options.tokenizer)
        if adds:
            writer.begin_generation(**_generation_fields(options, inputs))
        else:
            check_same_generation(
                options.out, newest, inputs=options.inputs, options=options.recorded(), files=inputs.files
            )
        return _write(options, tokenizer, writer, inputs, report, state="new" if adds else "resumed")


def _already_complete(manifest: Manifest, generation: GenerationEntry, inputs: Inputs) -> Summary:
    return Summary(
        manifest=manifest,
        generation=manifest.generations.index(generation),
        statistics=Statistics(**generation.statistics),
        new_bytes=0,
        seconds=0.0,
        ignored_files=inputs.ignored,
        state="already complete",
    )


def _create(
    options: PrepareOptions, tokenizer: Tokenizer, inputs: Inputs, report: Callable[[Progress], None]
) -> ShardWriter:
    threshold = options.validation.fixed_threshold
    if threshold is None:
        threshold = _choose_threshold(options, inputs.files, report)
    return ShardWriter.create(
        options.out,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_dir=options.tokenizer,
        validation=asdict(options.validation) | {"threshold": f"{threshold:#x}"},
        **_generation_fields(options, inputs),
    )


def _generation_fields(options: PrepareOptions, inputs: Inputs) -> dict[str, Any]:
    return {
        "inputs": options.inputs,
        "files": [file.description() for file in inputs.files],
        "options": options.recorded(),
    }


def _choose_threshold(
    options: PrepareOptions, files: list[InputFile], report: Callable[[Progress], None]
) -> int:
    """Reads all documents to hold out exactly `val_documents` of them."""
    count = options.validation.val_documents or 0
    if any(file.hub_file is not None for file in files):
        raise UserError(
            "--val-documents alone reads all text twice, which a data set from the hub does not allow; add "
            f"--val-frac, e.g. --val-frac 0.01 --val-documents {count}: the first so many of that share"
        )
    statistics = Statistics()

    def reported() -> Iterator[int]:
        for document in _documents(options, files, statistics=statistics, seen=set()):
            _report(report, "choosing validation documents", files, document, tokens=0)
            yield document.digest

    threshold = threshold_for(options.validation, reported(), count=count)
    if threshold is None and statistics.kept:
        raise UserError(
            f"--val-documents is {count}, but the input has {statistics.kept} documents and some must remain "
            f"to train on; hold out fewer{_split_hint(options)}"
        )
    return threshold or 0


def _documents(
    options: PrepareOptions,
    files: list[InputFile],
    *,
    statistics: Statistics,
    seen: set[int],
    held_out: Set[int] = frozenset(),
    start: Position = FIRST,
) -> Iterator[Document]:
    return iter_positioned(
        files,
        reading=options.reading,
        filtering=options.filtering,
        max_documents=options.max_documents,
        max_bytes=options.max_bytes,
        statistics=statistics,
        seen=seen,
        held_out=held_out,
        start=start,
        download_folder=options.out / DOWNLOAD_FOLDER,
    )


def _write(
    options: PrepareOptions,
    tokenizer: Tokenizer,
    writer: ShardWriter,
    inputs: Inputs,
    report: Callable[[Progress], None],
    *,
    state: Literal["new", "resumed"],
) -> Summary:
    """Continues the newest generation from its last commit to its end."""
    index = len(writer.manifest.generations) - 1
    generation = writer.manifest.generations[index]
    # What is in the shards, and nothing else, says where an interrupted preparation stood.
    statistics = Statistics(**generation.statistics)
    bytes_before, started = statistics.kept_bytes, time.monotonic()
    held_out = _hashes(writer, "val")
    documents = _documents(
        options,
        inputs.files,
        statistics=statistics,
        seen=held_out | _hashes(writer, "train") if options.filtering.dedup else set(),
        held_out=held_out,
        start=Position(**generation.position),
    )
    pool = tokenized(
        with_split(
            documents,
            options.validation,
            threshold=int(writer.manifest.validation["threshold"], 16),
            held_out=held_out,
        ),
        tokenizer,
        text_of=lambda item: item[0].text,
        dtype=writer.manifest.dtype,
        workers=num_workers(options.workers, num_bytes=sum(file.num_bytes for file in inputs.files)),
    )
    tokens = sum(shard.num_tokens for shard in writer.manifest.shards if shard.generation == index)
    with contextlib.closing(pool):
        for (document, split), ids in pool:
            writer.add_hashed(ids, split=split, digest=document.digest, num_text_bytes=document.num_bytes)
            tokens += len(ids)
            if writer.pending_tokens["train"] >= options.shard_tokens:
                writer.commit(position=asdict(document.position), statistics=document.statistics)
            _report(report, "tokenizing", inputs.files, document, tokens=tokens)
    _check_not_empty(options, writer, statistics)
    writer.finish(statistics=statistics.snapshot())
    shutil.rmtree(options.out / DOWNLOAD_FOLDER, ignore_errors=True)
    return Summary(
        manifest=writer.manifest,
        generation=index,
        statistics=statistics,
        new_bytes=statistics.kept_bytes - bytes_before,
        seconds=time.monotonic() - started,
        ignored_files=inputs.ignored,
        state=state,
    )


def _hashes(writer: ShardWriter, split: Split) -> set[int]:
    tables = (load_document_table(writer.folder, shard) for shard in writer.manifest.select(split))
    return {digest for table in tables for digest in table["hash"].tolist()}


def _check_not_empty(options: PrepareOptions, writer: ShardWriter, statistics: Statistics) -> None:
    """A generation without training documents is a mistake in the options, not a data set."""
    if statistics.kept == 0:
        dropped = ", ".join(f"{count} {reason}" for reason, count in statistics.dropped.items())
        raise UserError(
            f"{', '.join(options.inputs)}: no document is left of {statistics.rows} rows"
            + (f" (dropped: {dropped}); loosen the filters" if dropped else "")
        )
    index = len(writer.manifest.generations) - 1
    shards = [shard for shard in writer.manifest.select("train") if shard.generation == index]
    if not shards and not writer.pending_tokens["train"]:
        raise UserError(
            f"{options.out}: all {statistics.kept} documents fell to validation; "
            f"lower --val-frac or --val-documents{_split_hint(options)}"
        )


def _split_hint(options: PrepareOptions) -> str:
    return (
        "" if options.reading.split_on else ", or cut .txt files into documents with --split-on blank-lines"
    )


def _report(
    report: Callable[[Progress], None],
    stage: Stage,
    files: list[InputFile],
    document: Document,
    *,
    tokens: int,
) -> None:
    number = document.position.file
    report(Progress(stage, files[number], number + 1, len(files), document.statistics, tokens))
