"""Files of text, row by row: .txt, .jsonl, .json, .parquet, and the same under .gz or .zst.

Lines end at b"\\n" and nowhere else: `str.splitlines` also breaks at U+0085 and U+2028, which occur inside
JSON strings of public data sets. Memory stays bounded by the largest row (for .txt and .json, the file).
"""

import contextlib
import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
import zstandard

from samosa_jax.errors import UserError

COMPRESSIONS = (".gz", ".zst")
FORMATS = (".txt", ".jsonl", ".json", ".parquet")
CHUNK_BYTES = 1 << 20
PARQUET_BATCH_ROWS = 512
# A ValueError is also what Python raises for an integer of more digits than it converts (4300).
_JSON_ERRORS = (ValueError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How files become rows."""

    text_field: str = "text"  # JSON key or parquet column that holds the text
    split_on: str | None = None  # .txt only: "blank-lines", "lines" or a separator; None: a file is a row
    skip_bad_rows: bool = False  # count rows that cannot be read, and go on

    def __post_init__(self) -> None:
        # A separator is looked for line by line: one with a line break in it would never be found.
        if self.split_on is not None and (not self.split_on or "\n" in self.split_on):
            raise UserError(
                f"--split-on is {self.split_on!r}; expected blank-lines, lines, or a text without line breaks"
            )


class UnreadableRow(NamedTuple):
    """Stands for a row that holds no value."""

    problem: str  # what is wrong with it, in a few words


def file_format(path: Path) -> tuple[str, str] | None:
    """(format, compression) by name, as (".jsonl", ".gz"); None when it is no kind that is read here."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    known = bool(suffixes) and suffixes[-1] in FORMATS and not (compression and suffixes[-1] == ".parquet")
    return (suffixes[-1], compression) if known else None


def read_rows(path: Path, options: ReadOptions, *, name: str, first_row: int = 0) -> Iterator[str | None]:
    """The texts of one file, from row `first_row` (counted from 0) on.

    Args:
      name: what messages call the file (a download has another path than its source).

    Yields:
      Text as it stands in the file; "" for a row without text; None for a bad row under `skip_bad_rows`.

    Raises:
      UserError: what cannot be read, by row or byte offset.
    """
    kind = file_format(path)
    if kind is None:
        raise UserError(f"{name}: cannot read files of this kind; give {', '.join(FORMATS)} (also .gz, .zst)")
    if path.stat().st_size == 0:
        yield _bad(options, f"{name}: the file is empty; remove it or write text to it")
        return
    if kind[0] == ".parquet":
        yield from _read_parquet(path, options, name=name, first_row=first_row)
        return
    chunks = _read_chunks(path, kind[1], name=name)
    if kind[0] == ".txt":
        rows = _read_txt(chunks, options, name=name)
    elif kind[0] == ".json":
        rows = _read_json(chunks, options, name=name)
    else:
        rows = _read_jsonl(chunks, options, name=name, first_row=first_row)
        first_row = 0
    yield from itertools.islice(rows, first_row, None)


def read_objects(path: Path, *, name: str) -> Iterator[tuple[int, Any]]:
    """(row, counted from 1; its JSON value or UnreadableRow) of a .jsonl, .json or .parquet file.

    Blank lines are no rows. `name` is what messages call the file.

    Raises:
      UserError: the file is of another kind, damaged, or no list of rows.
    """
    kind = file_format(path)
    if kind is None or kind[0] == ".txt":
        raise UserError(
            f"{name}: cannot read rows of this kind; give .jsonl, .json (also .gz, .zst) or .parquet"
        )
    if kind[0] == ".parquet":
        yield from _parquet_objects(path, name=name)
        return
    chunks = _read_chunks(path, kind[1], name=name)
    if kind[0] == ".json":
        data = b"".join(chunks)
        if _is_list(data):
            rows = _parse_list(data, name=name)
            yield from enumerate(map(_encodable, rows) if _may_hold_surrogates(data) else rows, start=1)
            return
        chunks = iter([data])
    for number, (offset, line) in enumerate(_lines(chunks), start=1):
        if line.strip():
            yield number, _parse_line(line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line)


def _parse_line(line: bytes) -> Any:
    try:
        value = json.loads(line)
    except _JSON_ERRORS as error:
        return UnreadableRow(f"not JSON ({error})")
    return _encodable(value) if _may_hold_surrogates(line) else value


def _may_hold_surrogates(data: bytes) -> bool:
    return b"\\ud" in data or b"\\uD" in data


def _encodable(value: Any) -> Any:
    """The value, or UnreadableRow: JSON can spell half of a surrogate pair, which no UTF-8 text can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return UnreadableRow(f"lone surrogate {error.object[error.start]!a}")
    return value


def _parquet_objects(path: Path, *, name: str) -> Iterator[tuple[int, Any]]:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(pyarrow.parquet.ParquetFile(path))
            batches = file.iter_batches(PARQUET_BATCH_ROWS, use_threads=False)
            yield from enumerate(itertools.chain.from_iterable(map(_batch_rows, batches)), start=1)
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{name}: not a sound parquet file ({reason}); fetch it again") from None


def _batch_rows(batch: pyarrow.RecordBatch) -> Iterator[Any]:
    columns = batch.schema.names
    for row in range(batch.num_rows):
        try:
            yield {name: batch.column(index)[row].as_py() for index, name in enumerate(columns)}
        except UnicodeDecodeError as error:
            yield UnreadableRow(f"not UTF-8 at byte {error.start} of the text")


def _bad(options: ReadOptions, message: str) -> None:
    if not options.skip_bad_rows:
        raise UserError(message)


def _read_chunks(path: Path, compression: str, *, name: str) -> Iterator[bytes]:
    """The decompressed bytes; UserError for a file that may not be read, is cut off or is damaged."""
    try:
        if compression == ".zst":
            yield from _unzstd(path)
            return
        opener = gzip.open if compression == ".gz" else open
        with opener(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except EOFError:
        raise UserError(f"{name}: the {compression} file is cut off before its end; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise UserError(f"{name}: not a sound {compression} file ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(
            f"{name}: cannot be read ({error.strerror}); check its permissions and disk"
        ) from None


def _unzstd(path: Path) -> Iterator[bytes]:
    # zstandard's stream reader takes a cut-off frame for the end of the file; the decompression object tells.
    decompressor = zstandard.ZstdDecompressor()
    frame = None
    with open(path, "rb") as file:
        while data := file.read(CHUNK_BYTES):
            while data:
                frame = frame or decompressor.decompressobj()
                if chunk := frame.decompress(data):
                    yield chunk
                data = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError


def _lines(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """(byte offset, line without its b"\\n"); no line after a final b"\\n"."""
    offset = 0
    carry: list[bytes] = []
    for chunk in chunks:
        head, *rest = chunk.split(b"\n")
        carry.append(head)
        if not rest:
            continue
        for line in (b"".join(carry), *rest[:-1]):
            yield offset, line
            offset += len(line) + 1
        carry = [rest[-1]]
    if last := b"".join(carry):
        yield offset, last


def _decode(data: bytes, options: ReadOptions, *, name: str, offset: int) -> str | None:
    try:
        # A byte-order mark is no text; Windows editors write one.
        return data.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        hint = "convert it with iconv, or pass --skip-bad-rows"
        if offset == 0 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            hint = "it looks like UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`"
        return _bad(
            options, f"{name}: not UTF-8 at byte {offset + error.start} (0x{data[error.start]:02x}); {hint}"
        )


def _read_txt(chunks: Iterator[bytes], options: ReadOptions, *, name: str) -> Iterator[str | None]:
    if options.split_on is None:
        yield _decode(b"".join(chunks), options, name=name, offset=0)
        return
    for offset, piece in _pieces(chunks, options.split_on):
        if piece.strip():
            text = _decode(piece, options, name=name, offset=offset)
            yield text if text is None else text.strip()


def _pieces(chunks: Iterator[bytes], split_on: str) -> Iterator[tuple[int, bytes]]:
    """(byte offset, bytes) between separators, some of them blank."""
    if split_on == "lines":
        yield from _lines(chunks)
        return
    separator = b"" if split_on == "blank-lines" else split_on.encode()
    start, lines = 0, []
    for offset, line in _lines(chunks):
        if separator and separator in line:
            head, *middle, tail = line.split(separator)
            yield start, b"\n".join([*lines, head])
            start = offset + len(head) + len(separator)
            for piece in middle:
                yield start, piece
                start += len(piece) + len(separator)
            lines = [tail]
        elif separator or line.strip():
            lines.append(line)
        else:
            yield start, b"\n".join(lines)
            start, lines = offset + len(line) + 1, []
    yield start, b"\n".join(lines)


def _read_jsonl(
    chunks: Iterator[bytes], options: ReadOptions, *, name: str, first_row: int
) -> Iterator[str | None]:
    for number, (offset, line) in enumerate(
        itertools.islice(_lines(chunks), first_row, None), start=first_row + 1
    ):
        where = f"{name}: row {number}"
        if not line.strip():
            yield ""
            continue
        decoded = _decode(line, options, name=where, offset=offset)
        if decoded is None:
            yield None
            continue
        try:
            row = json.loads(decoded)
        except _JSON_ERRORS as error:
            yield _bad(options, f"{where} is not JSON ({error}); mend the row, or pass --skip-bad-rows")
            continue
        yield _text_of(row, options, where=where)


def _read_json(chunks: Iterator[bytes], options: ReadOptions, *, name: str) -> Iterator[str | None]:
    """A list of rows, or JSON lines under another name."""
    data = b"".join(chunks)
    if not _is_list(data):
        yield from _read_jsonl(iter([data]), options, name=name, first_row=0)
        return
    for number, row in enumerate(_parse_list(data, name=name), start=1):
        yield _text_of(row, options, where=f"{name}: row {number}")


def _is_list(data: bytes) -> bool:
    return data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _parse_list(data: bytes, *, name: str) -> list[Any]:
    try:
        return json.loads(data)
    except _JSON_ERRORS as error:
        raise UserError(f"{name}: not a JSON list ({error}); mend the file") from None


def _text_of(row: object, options: ReadOptions, *, where: str) -> str | None:
    if not isinstance(row, dict):
        return _bad(
            options,
            f"{where} is a {type(row).__name__}, expected an object with the field {options.text_field!r}",
        )
    if options.text_field not in row:
        return _bad(options, _missing_field(where, options, list(row)))
    return _checked(row[options.text_field], options, where=where)


def _missing_field(where: str, options: ReadOptions, fields: list[str]) -> str:
    found = ", ".join(fields[:12]) or "none"
    return f"{where} has no field {options.text_field!r}, its fields are: {found}; name one with --text-field"


def _checked(value: object, options: ReadOptions, *, where: str) -> str | None:
    if value is None:
        return ""
    if not isinstance(value, str):
        return _bad(
            options,
            f"{where}: the field {options.text_field!r} is a {type(value).__name__}, expected text; "
            "name another with --text-field",
        )
    # JSON can spell half of a surrogate pair, which no UTF-8 text can hold.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return _bad(
            options,
            f"{where}: lone surrogate {value[error.start]!a} at character {error.start}; "
            "mend the row, or pass --skip-bad-rows",
        )
    return value


def _read_parquet(path: Path, options: ReadOptions, *, name: str, first_row: int) -> Iterator[str | None]:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(pyarrow.parquet.ParquetFile(path))
            fields = file.schema_arrow.names
            if options.text_field not in fields:
                # Every row of the file lacks it: going on would drop the file without a word.
                raise UserError(_missing_field(name, options, fields))
            row = 0
            for group in range(file.num_row_groups):
                group_rows = file.metadata.row_group(group).num_rows
                if row + group_rows <= first_row:
                    row += group_rows
                    continue
                for batch in file.iter_batches(
                    PARQUET_BATCH_ROWS, row_groups=[group], columns=[options.text_field], use_threads=False
                ):
                    column = batch.column(0)
                    for index in range(max(0, first_row - row), len(column)):
                        yield _parquet_value(column, index, options, where=f"{name}: row {row + index + 1}")
                    row += len(column)
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{name}: not a sound parquet file ({reason}); fetch it again") from None


def _parquet_value(column: pyarrow.Array, index: int, options: ReadOptions, *, where: str) -> str | None:
    try:
        value = column[index].as_py()
    except UnicodeDecodeError as error:
        return _bad(options, f"{where}: not UTF-8 at byte {error.start} of the text; pass --skip-bad-rows")
    return _checked(value, options, where=where)
