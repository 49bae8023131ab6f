"""Reading text: formats, compressions, cleaning, limits, and one clear line for what cannot be read."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from samosa_jax.data import readers
from samosa_jax.data.filters import FilterOptions, Statistics
from samosa_jax.data.readers import ReadOptions, read_rows
from samosa_jax.data.sources import Position, iter_documents, iter_positioned, list_inputs
from samosa_jax.errors import UserError

TEXTS = ["First line\nand second.", "A next\u0085line, a \u2028separator.", "Ünïcödé 🥟", "last"]


def jsonl(texts: list[str], *, field: str = "text") -> bytes:
    return b"".join(
        json.dumps({"id": i, field: t}, ensure_ascii=False).encode() + b"\n" for i, t in enumerate(texts)
    )


def write(path: Path, data: bytes) -> Path:
    compress = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(compress(data))
    return path


def write_parquet(path: Path, texts: list[str | None], *, field: str = "text") -> Path:
    pq.write_table(pa.table({"id": range(len(texts)), field: texts}), path, row_group_size=2)
    return path


def fails(path: str | Path, match: str, reading: ReadOptions | None = None) -> str:
    """Reading must fail with one line that matches."""
    with pytest.raises(UserError, match=match) as caught:
        list(iter_documents([path], reading=reading))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Formats ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz"])
def test_json_lines(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", jsonl(TEXTS))
    assert list(iter_documents([path])) == TEXTS
    # The trap: splitting the file as text would cut row 2 in three.
    assert len(jsonl(TEXTS).decode().splitlines()) == len(TEXTS) + 2


def test_json_list_and_missing_last_newline(tmp_path: Path) -> None:
    listed = write(tmp_path / "a.json", json.dumps([{"text": text} for text in TEXTS]).encode())
    assert list(iter_documents([listed])) == TEXTS
    unfinished = write(tmp_path / "b.jsonl", jsonl(TEXTS).rstrip(b"\n"))
    assert list(iter_documents([unfinished])) == TEXTS


def test_parquet_and_text_field(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [*TEXTS, None, ""], field="content")
    statistics = Statistics()
    options = ReadOptions(text_field="content")
    assert list(iter_documents([path], reading=options, statistics=statistics)) == TEXTS
    assert (statistics.rows, statistics.empty, statistics.kept) == (6, 2, 4)


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst"])
def test_text_file_is_one_document(tmp_path: Path, suffix: str) -> None:
    text = "\n\n".join(TEXTS)
    path = write(tmp_path / f"a{suffix}", b"\xef\xbb\xbf" + text.encode())
    assert list(iter_documents([path])) == [text]


@pytest.mark.parametrize(
    ("split_on", "text", "expected"),
    [
        ("blank-lines", "a\nb\n\n\n \t\nc\r\n\r\nd", ["a\nb", "c", "d"]),
        ("lines", "a\nb\n\nc\n", ["a", "b", "c"]),
        ("<|endoftext|>", "a\n\nb\n<|endoftext|>\nc<|endoftext|><|endoftext|>d e", ["a\n\nb", "c", "d e"]),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 3, 1 << 20])
def test_text_file_split(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    split_on: str,
    text: str,
    expected: list[str],
    chunk_bytes: int,
) -> None:
    monkeypatch.setattr(readers, "CHUNK_BYTES", chunk_bytes)
    path = write(tmp_path / "a.txt", text.encode())
    assert list(iter_documents([path], reading=ReadOptions(split_on=split_on))) == expected


def test_several_zstd_frames_and_gzip_members(tmp_path: Path) -> None:
    halves = [jsonl(TEXTS[:2]), jsonl(TEXTS[2:])]
    (tmp_path / "a.jsonl.zst").write_bytes(
        b"".join(zstandard.ZstdCompressor().compress(half) for half in halves)
    )
    (tmp_path / "b.jsonl.gz").write_bytes(b"".join(map(gzip.compress, halves)))
    assert list(iter_documents([tmp_path])) == TEXTS * 2


def test_folder_is_read_recursively_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / "b" / "2.txt", b"two")
    write(tmp_path / "a.txt", b"one")
    write(tmp_path / "c.jsonl", jsonl(["three"]))
    write(tmp_path / "notes.md", b"not read")
    write(tmp_path / ".hidden" / "x.txt", b"not read")
    assert list(iter_documents([tmp_path])) == ["one", "two", "three"]
    assert list_inputs([tmp_path]).ignored == 1


def test_embedded_corpus() -> None:
    documents = list(iter_documents(["embedded"], max_documents=20))
    assert len(documents) == 20
    assert all(documents)
    assert documents == list(iter_documents(["embedded"], max_documents=20))


# Limits and cleaning -------------------------------------------------------------------------------------


def test_limits_stop_before_they_are_passed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(["éé", "bbb", "c"]))
    for max_documents, max_bytes, expected in [
        (2, None, ["éé", "bbb"]),
        (None, 7, ["éé", "bbb"]),
        (None, 6, ["éé"]),
        (2, 6, ["éé"]),
        (None, 100, ["éé", "bbb", "c"]),
    ]:
        statistics = Statistics()
        documents = iter_documents(
            [path], max_documents=max_documents, max_bytes=max_bytes, statistics=statistics
        )
        assert list(documents) == expected
        assert statistics.rows == statistics.kept == len(expected)


def test_filters_clean_drop_and_count(tmp_path: Path) -> None:
    texts = [
        "AT&amp;T &lt;b&gt;sued&lt;/b&gt;  \n\n\n\nfor 1 &lt; 2 > 0\n__NOTOC__\n",
        "AT&T sued\n\nfor 1 < 2 > 0",
        '&lt;templatestyles src="x.css" /&gt;\n__NOTOC__',
        "too short",
        "This story was moved elsewhere, long ago",
        "   ",
    ]
    options = FilterOptions(
        html_unescape=True,
        strip_tags=True,
        drop_lines=(r"__\w+__",),
        tidy_whitespace=True,
        drop_documents=("was moved",),
        min_chars=12,
        dedup=True,
    )
    statistics = Statistics()
    path = write(tmp_path / "a.jsonl", jsonl(texts))
    assert list(iter_documents([path], filtering=options, statistics=statistics)) == [
        "AT&T sued\n\nfor 1 < 2 > 0"
    ]
    assert statistics.dropped == {"empty": 2, "matched": 1, "short": 1, "duplicates": 1}
    assert (statistics.rows, statistics.kept, statistics.lines) == (6, 1, 2)
    # Without flags nothing is touched but the row of blanks.
    assert list(iter_documents([path])) == texts[:-1]


def test_bad_filter_options() -> None:
    with pytest.raises(UserError, match=r"--drop-lines '\(' is not a regular expression"):
        FilterOptions(drop_lines=("(",))
    with pytest.raises(UserError, match="--min-chars is -1"):
        FilterOptions(min_chars=-1)


row_texts = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not text.isspace()),
    max_size=12,
)


@settings(max_examples=25)
@given(texts=row_texts, kind=st.sampled_from(["jsonl", "jsonl.zst", "parquet"]))
def test_any_text_survives_and_reading_goes_on_anywhere(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], kind: str
) -> None:
    path = tmp_path_factory.mktemp("rows") / f"a.{kind}"
    if kind == "parquet":
        write_parquet(path, [*texts])
    else:
        write(path, jsonl(texts) or b"\n")
    assert list(iter_documents([path])) == texts
    files = list_inputs([path]).files
    for done in range(len(texts)):
        rest = iter_positioned(
            files,
            reading=ReadOptions(),
            filtering=FilterOptions(),
            max_documents=None,
            max_bytes=None,
            statistics=Statistics(),
            seen=set(),
            start=Position(file=0, row=done),
        )
        assert [document.text for document in rest] == texts[done:]


# Bad input ---------------------------------------------------------------------------------------------


def test_missing_file_unsupported_kind_empty_folder(tmp_path: Path) -> None:
    fails(tmp_path / "none.txt", "none.txt: no such file or folder")
    fails(write(tmp_path / "a.pdf", b"%PDF"), r"a.pdf: cannot read .pdf; give .txt, .jsonl, .json, .parquet")
    fails(tmp_path, r"a folder without text to read \(found: .pdf\)")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "found: no files at all")
    with pytest.raises(UserError, match="no input given"):
        list(iter_documents([]))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.jsonl.gz"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    fails(tmp_path / name, f"{name}: the file is empty")


def test_not_utf8_names_the_byte(tmp_path: Path) -> None:
    fails(write(tmp_path / "a.txt", b"caf\xe9 noir"), r"a.txt: not UTF-8 at byte 3 \(0xe9\)")
    path = write(tmp_path / "b.txt", b"good\n\nca\xff\n\nfine")
    fails(path, r"b.txt: not UTF-8 at byte 8 \(0xff\)", reading=ReadOptions(split_on="blank-lines"))
    statistics = Statistics()
    reading = ReadOptions(split_on="blank-lines", skip_bad_rows=True)
    assert list(iter_documents([path], reading=reading, statistics=statistics)) == ["good", "fine"]
    assert statistics.bad == 1
    fails(write(tmp_path / "c.txt", "hello".encode("utf-16")), "looks like UTF-16")
    data = jsonl(["x"]) + b'{"text": "\xe9"}\n'
    fails(write(tmp_path / "d.jsonl", data), f"d.jsonl: row 2: not UTF-8 at byte {data.index(0xE9)} ")


BAD_ROWS: list[tuple[bytes, str]] = [
    (b'{"text": "x"', "is not JSON"),
    (b'["x"]', "is a list, expected an object"),
    (b'{"body": "x", "id": 1}', "has no field 'text', its fields are: body, id; name one with --text-field"),
    (b'{"text": 7}', "the field 'text' is a int, expected text"),
    (b'{"text": "\\ud83e oops"}', "lone surrogate"),
    (b"[" * 100_000, "is not JSON"),
    (b'{"text": "x", "id": ' + b"9" * 5000 + b"}", "is not JSON"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_broken_row_is_named_or_skipped(tmp_path: Path, row: bytes, message: str) -> None:
    path = write(tmp_path / "a.jsonl.gz", jsonl(["one"]) + b"\n" + row + b"\n" + jsonl(["two"]))
    fails(path, rf"a.jsonl.gz: row 3:? .*{message}")
    statistics = Statistics()
    reading = ReadOptions(skip_bad_rows=True)
    assert list(iter_documents([path], reading=reading, statistics=statistics)) == ["one", "two"]
    assert (statistics.rows, statistics.bad, statistics.empty) == (4, 1, 1)


def test_a_list_with_a_number_of_thousands_of_digits_is_named(tmp_path: Path) -> None:
    fails(write(tmp_path / "a.json", b"[" + b"9" * 5000 + b"]"), "a.json: not a JSON list")


def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "a.jsonl", jsonl(TEXTS))
    monkeypatch.setattr(readers, "open", refuse, raising=False)
    fails(path, r"a.jsonl: cannot be read \(Permission denied\)")


@pytest.mark.parametrize("separator", ["", "\n\n", "---\n"])
def test_a_separator_that_is_never_found_is_refused(separator: str) -> None:
    with pytest.raises(UserError, match=r"--split-on is .* a text without line breaks"):
        ReadOptions(split_on=separator)


def test_missing_parquet_column_and_wrong_type(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["x"])
    fails(path, "has no field 'body', its fields are: id, text", reading=ReadOptions(text_field="body"))
    fails(path, "row 1: the field 'id' is a int", reading=ReadOptions(text_field="id"))
    # A column that is not there is no matter of bad rows.
    fails(path, "has no field 'body'", reading=ReadOptions(text_field="body", skip_bad_rows=True))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        (".jsonl.gz", truncate, "the .gz file is cut off"),
        (".jsonl.zst", truncate, "the .zst file is cut off"),
        (".jsonl.gz", flip, "not a sound .gz file"),
        (".parquet", truncate, "not a sound parquet file"),
    ],
)
def test_damaged_file(tmp_path: Path, suffix: str, damage: Callable[[Path], None], message: str) -> None:
    texts = [f"text number {i * i * 7919}" for i in range(200)]
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        write_parquet(path, [*texts])
    else:
        write(path, jsonl(texts))
    damage(path)
    fails(path, message, reading=ReadOptions(skip_bad_rows=True))


def test_plain_file_under_a_compressed_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(jsonl(TEXTS))
    fails(tmp_path / "a.jsonl.gz", "not a sound .gz file")
    (tmp_path / "a.jsonl.zst").write_bytes(jsonl(TEXTS))
    fails(tmp_path / "a.jsonl.zst", "not a sound .zst file")


def test_row_texts_come_as_they_stand(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(["  spaces kept \n"]))
    assert list(read_rows(path, ReadOptions(), name="a")) == ["  spaces kept \n"]


def test_wikinews_traps(test_data: Path) -> None:
    statistics = Statistics()
    options = FilterOptions(dedup=True)
    path = test_data / "wikinews" / "wikinews_en.jsonl.gz"
    num_bytes = sum(
        len(text.encode()) for text in iter_documents([path], filtering=options, statistics=statistics)
    )
    assert (statistics.rows, statistics.empty, statistics.duplicates, statistics.kept) == (
        39_409,
        19_941,
        33,
        19_435,
    )
    assert num_bytes == statistics.kept_bytes > 35_000_000
