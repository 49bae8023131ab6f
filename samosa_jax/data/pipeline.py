"""Prepared shards in, batches out: which rows a step holds, reading ahead, going on after a restart.

The order of data is a function of (seed, step) and the prepared text: never of devices, hosts or
threads. `TrainPipeline` builds any step without the steps before it; `validation_batches` walks the
held-out documents once.
"""

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samosa_jax.config import SourceConfig
from samosa_jax.data.batch import Batch
from samosa_jax.data.mixture import Mixture
from samosa_jax.data.packing import bounds_of, make_batch, read_pieces, split_spans
from samosa_jax.data.read_ahead import read_ahead
from samosa_jax.data.shards import ShardSet
from samosa_jax.data.training_source import TrainingSource
from samosa_jax.errors import UserError

STATE_VERSION = 1
FIRST_TOKENS = 16  # tokens of each part of a document that `describe` gives


@dataclass(frozen=True, kw_only=True)
class DocumentPart:
    """A stretch of one document inside a row."""

    document: int  # index into the source's ShardSet
    generation: int
    visit: int  # 0: the first time the run sees this document; of conversations: the epoch, from 0
    start: int  # first token of the document in the row
    stop: int  # one past the last
    length: int  # tokens of the whole document
    first_tokens: tuple[int, ...]  # of this part, at most FIRST_TOKENS


@dataclass(frozen=True, kw_only=True)
class RowDescription:
    """What one row reads."""

    source: str  # folder
    source_row: int  # index of the row within its source, in the order of reading
    stream_row: int  # index of the row within the stream of its source
    parts: tuple[DocumentPart, ...]
    num_cropped: int  # tokens between its end and the beginning of the next row of the stream


@dataclass(frozen=True, kw_only=True)
class StepDescription:
    """What one step reads, all processes together. Shares are of its batch_rows * context_len positions."""

    step: int
    rows: tuple[RowDescription, ...]
    used_frac: float  # positions that hold a token of a document
    padded_frac: float  # positions that hold none
    cropped_frac: float  # tokens between the rows' ends and the beginnings of the next rows of the stream
    split_documents: int  # documents of which the step holds only a part, or parts in several rows


class ValidationBatch(NamedTuple):
    """Rows of held-out text and the bytes that their predictions stand for.

    Bits per byte is nats / ln 2 / bytes, the nats being summed under `batch.weights`.
    """

    batch: Batch  # this process's rows
    num_tokens: int  # predictions of weight 1, in the rows of all processes
    num_bytes: int  # bytes those predictions stand for


class TrainPipeline:
    """Batches of packed rows from several sources.

    Row j of step s is row s * batch_rows + j of the mixture. Process h of P holds the h-th of P equal
    blocks of the rows of every step, so the processes together hold the same batch whatever P is.
    """

    def __init__(
        self,
        sources: Sequence[SourceConfig],
        *,
        batch_rows: int,
        context_len: int,
        seed: int,
        document_masking: bool = True,
        wait_for_shards: bool = False,
        wait_timeout_s: float = 1_800.0,
        num_threads: int = 1,
        prefetch_batches: int = 4,
        process_index: int = 0,
        process_count: int = 1,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens the sources.

        Args:
            sources: folders written by `prepare`, with the weight of each.
            batch_rows: rows per step over all processes.
            context_len: tokens per row.
            wait_for_shards: begin while `prepare` still writes; otherwise only what it finished is read.
            wait_timeout_s: give up when no shard has appeared for so long.
            num_threads: reading threads; 0 reads in the caller's thread.
            prefetch_batches: batches read ahead.
            state: what `data_state` gave when the checkpoint was written; None: a new run.

        Raises:
            UserError: no such folder, too few tokens, tokenizers that differ, impossible weights, rows that
                the processes cannot share, or the state of a run on other data.
        """
        if seed < 0:
            raise UserError(f"seed is {seed}; it must be 0 or more")
        host_rows = rows_per_process(batch_rows, context_len=context_len, process_count=process_count)
        self.mixture = Mixture([source.weight for source in sources])
        self.batch_rows = batch_rows
        self.context_len = context_len
        self.seed = seed
        self.document_masking = document_masking
        self._num_threads = num_threads
        self._prefetch_batches = prefetch_batches
        self._host_rows = host_rows
        self._host_offset = process_index * self._host_rows

        saved: Sequence[Mapping[str, Any] | None] = [None] * len(sources)
        rows_read = [0] * len(sources)
        if state is not None:
            self._check_state(state)
            saved = state["sources"]
            rows_read = self.mixture.counts(state["step"] * batch_rows).tolist()
        self.sources = [
            TrainingSource.open(
                source.path,
                seed=seed,
                context_len=context_len,
                wait_for_shards=wait_for_shards,
                wait_timeout_s=wait_timeout_s,
                saved=saved[index],
                rows_read=rows_read[index],
            )
            for index, source in enumerate(sources)
        ]
        check_same_tokenizer(
            [(source.path, source.stream.shards.tokenizer_fingerprint) for source in self.sources]
        )

    @property
    def tokenizer_fingerprint(self) -> str:
        """Of the tokenizer that every source was prepared with."""
        return self.sources[0].stream.shards.tokenizer_fingerprint

    def batch(self, step: int) -> Batch:
        """This process's rows of a step, built in the caller's thread."""
        return self.build(step, closed=threading.Event())

    def build(self, step: int, *, closed: threading.Event) -> Batch:
        """`batch`, which stops waiting for shards when `closed` is set."""
        start = step * self.batch_rows + self._host_offset
        mixed = self.mixture.rows(start, start + self._host_rows)
        shape = (self._host_rows, self.context_len)
        tokens = np.empty(shape, np.int32)
        targets = np.empty(shape, np.int32)
        begins_document = np.empty(shape, bool)
        for index, source in enumerate(self.sources):
            here = np.flatnonzero(mixed.source == index)
            if len(here) == 0:
                continue
            # A range of the mixture holds a range of each source's rows: one read serves them all.
            first, last = int(mixed.row[here[0]]), int(mixed.row[here[-1]])
            stream = source.stream_with(last, closed=closed)
            begins = stream.row_order(first, last + 1, context_len=self.context_len) * self.context_len
            span = stream.read(begins, begins + self.context_len + 1)
            rows = span.tokens.reshape(len(here), self.context_len + 1)
            tokens[here] = rows[:, :-1]
            targets[here] = rows[:, 1:]
            begins_document[here] = span.begins_document.reshape(rows.shape)[:, :-1]
        return make_batch(tokens, targets, begins_document, document_masking=self.document_masking)

    def batches(self, start_step: int = 0) -> Generator[Batch, None, None]:
        """This process's rows of start_step and of all later steps, read ahead in threads.

        `close()` it, or let it go, to end the threads.
        """

        def build(step: int, closed: threading.Event) -> Batch:
            return self.build(step, closed=closed)

        return read_ahead(
            build, start_step=start_step, num_threads=self._num_threads, prefetch=self._prefetch_batches
        )

    def data_state(self, step: int) -> dict[str, Any]:
        """What a checkpoint after `step` steps must hold for the run to go on in the same order; JSON."""
        return {
            "version": STATE_VERSION,
            "step": step,
            **self._order_keys(),
            "sources": [source.state() for source in self.sources],
        }

    def describe(self, step: int) -> StepDescription:
        """Which documents a step holds, row by row, over all processes."""
        mixed = self.mixture.rows(step * self.batch_rows, (step + 1) * self.batch_rows)
        rows = tuple(
            _describe_row(self.sources[index], row=row, context_len=self.context_len)
            for index, row in zip(mixed.source.tolist(), mixed.row.tolist(), strict=True)
        )
        positions = self.batch_rows * self.context_len
        used = sum(part.stop - part.start for row in rows for part in row.parts)
        split = {
            (row.source, part.document, part.visit)
            for row in rows
            for part in row.parts
            if part.stop - part.start < part.length
        }
        return StepDescription(
            step=step,
            rows=rows,
            used_frac=used / positions,
            padded_frac=(positions - used) / positions,
            cropped_frac=sum(row.num_cropped for row in rows) / positions,
            split_documents=len(split),
        )

    def _order_keys(self) -> dict[str, Any]:
        """What the order depends on beside the text."""
        return {
            "seed": self.seed,
            "batch_rows": self.batch_rows,
            "context_len": self.context_len,
            "weights": list(self.mixture.parts),
        }

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if state["version"] != STATE_VERSION:
            raise UserError(
                f"the checkpoint's data state has version {state['version']}, this program reads version "
                f"{STATE_VERSION}; go on with the program that wrote it"
            )
        for key, value in self._order_keys().items():
            if state[key] != value:
                where = "data.sources" if key == "weights" else key
                raise UserError(
                    f"{where}: {key} is {value}, the checkpoint was written with {state[key]}, and the order "
                    "of data depends on it; give it the old value, or start a new run under another name"
                )


def check_same_tokenizer(sources: Sequence[tuple[str, str]]) -> None:
    """Raises UserError unless (folder, tokenizer's fingerprint) have one tokenizer, each folder once."""
    first_path, expected = sources[0]
    folders: set[Path] = set()
    for path, found in sources:
        if found != expected:
            raise UserError(
                f"{path} was prepared with tokenizer {found[:12]}, {first_path} with {expected[:12]}; "
                "prepare both with the same one"
            )
        folder = Path(path).resolve()
        if folder in folders:
            raise UserError(f"data.sources names {path} twice; name it once, with the weights added")
        folders.add(folder)


def rows_per_process(batch_rows: int, *, context_len: int, process_count: int) -> int:
    """Raises UserError if the processes cannot share a batch evenly."""
    if batch_rows % process_count:
        raise UserError(
            f"a batch has {batch_rows} rows, which {process_count} processes cannot share evenly; "
            f"set train.batch_tokens to a multiple of {process_count * context_len}"
        )
    return batch_rows // process_count


def _describe_row(source: TrainingSource, *, row: int, context_len: int) -> RowDescription:
    stream = source.stream_with(row, closed=threading.Event())
    stream_row = int(stream.row_order(row, row + 1, context_len=context_len)[0])
    begin, end = stream_row * context_len, (stream_row + 1) * context_len
    # The token behind a row begins the next row of the stream: what lies between is in neither.
    pieces = stream.pieces([begin, end], [end, end + 1])
    *held, behind = zip(*(column.tolist() for column in pieces), strict=True)
    parts = []
    for document, start, stop, visit in held:
        first_tokens = stream.shards.tokens(document, start, min(stop, start + FIRST_TOKENS))
        parts.append(
            DocumentPart(
                document=document,
                generation=stream.known.entries[stream.shard_of(document)].generation,
                visit=visit,
                start=start,
                stop=stop,
                length=len(stream.shards.document(document)),
                first_tokens=tuple(first_tokens.tolist()),
            )
        )
    document, start, _, visit = behind
    last = parts[-1]
    same_document = (document, visit) == (last.document, last.visit)
    return RowDescription(
        source=source.path,
        source_row=row,
        stream_row=stream_row,
        parts=tuple(parts),
        num_cropped=start - last.stop if same_document else last.length - last.stop + start,
    )


def validation_batches(
    shards: ShardSet,
    *,
    batch_rows: int,
    context_len: int,
    token_bytes: np.ndarray,
    max_tokens: int = 0,
    document_masking: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[ValidationBatch]:
    """The documents in order, every token after the first predicted exactly once.

    Windows do not overlap: row r reads the tokens from r * context_len on. Targets that stand for no
    bytes (special tokens) have weight 0; the last rows are padded with empty ranges and weight 0.

    Args:
        shards: opened with split="val".
        batch_rows: rows per batch over all processes.
        token_bytes: int (vocab_size,), bytes that each token stands for.
        max_tokens: predict only the first so many tokens; 0: all.

    Raises:
        UserError: nothing to predict, a tokenizer of another size, or rows that cannot be shared.
    """
    if shards.num_tokens < 2:
        raise UserError(f"{shards.folder}: no {shards.split} documents; prepare it with some held out")
    if len(token_bytes) != shards.manifest.vocab_size:
        raise UserError(
            f"{shards.folder}: prepared with a vocabulary of {shards.manifest.vocab_size} tokens, the "
            f"tokenizer in use has {len(token_bytes)}; use the one the data was prepared with"
        )
    if batch_rows % process_count:
        raise UserError(
            f"{process_count} processes cannot share validation batches of {batch_rows} rows evenly"
        )
    num_targets = shards.num_tokens - 1
    if max_tokens > 0:
        num_targets = min(num_targets, max_tokens)
    host_rows = batch_rows // process_count
    host = slice(process_index * host_rows, (process_index + 1) * host_rows)
    bounds = bounds_of(shards.document_lengths)

    def batch_at(begin: int) -> ValidationBatch:
        count = min(batch_rows * context_len, num_targets - begin)
        parts = split_spans(bounds, starts=np.array([begin]), stops=np.array([begin + count + 1]))
        span = read_pieces(shards, parts.item, parts.start, parts.stop)

        def rows_of(values: np.ndarray) -> np.ndarray:
            """The values as rows, with zeros behind them."""
            padded = np.zeros(batch_rows * context_len, values.dtype)
            padded[:count] = values
            return padded.reshape(batch_rows, context_len)

        targets = rows_of(span.tokens[1:])
        is_text = rows_of(np.ones(count, np.int32))
        target_bytes = token_bytes[targets] * is_text
        batch = make_batch(
            rows_of(span.tokens[:-1]),
            targets,
            rows_of(span.begins_document[:-1]),
            weights=(target_bytes > 0).astype(np.float32),
            document_masking=document_masking,
        )
        position = batch.position * is_text
        batch = batch._replace(
            k_lo=batch.k_lo * is_text, k_hi=batch.k_hi * is_text, position=position, turn_position=position
        )
        return ValidationBatch(
            batch=Batch(*(array[host] for array in batch)),
            num_tokens=int(np.count_nonzero(target_bytes)),
            num_bytes=int(target_bytes.sum(dtype=np.int64)),
        )

    return (batch_at(begin) for begin in range(0, num_targets, batch_rows * context_len))
