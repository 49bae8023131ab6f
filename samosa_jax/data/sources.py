"""Inputs named by the user -> a stream of clean documents.

An input is a file, a folder (read recursively, in sorted order), the word `embedded` (the corpus this
package carries; `embedded/stories`: its stories alone) or a Hugging Face data set (`hf://owner/name/folder`),
whose next file is fetched while the one before it is read.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from samosa_jax.data import corpus, hub
from samosa_jax.data.filters import FilterOptions, Statistics, TextFilter
from samosa_jax.data.readers import COMPRESSIONS, FORMATS, ReadOptions, file_format, read_rows
from samosa_jax.data.shards import content_hash
from samosa_jax.errors import UserError

EMBEDDED: Mapping[str, Callable[[], Iterator[str]]] = {
    "embedded": corpus.documents,
    "embedded/stories": lambda: corpus.documents(story_frac=1.0),
}


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file to read, wherever it lies."""

    name: str  # what messages and the manifest call it
    num_bytes: int
    path: Path | None = None  # on this machine
    hub_file: hub.HubFile | None = None

    def description(self) -> dict[str, Any]:
        """What must not change between the start of a preparation and its continuation."""
        version = {"version": corpus.python_version()} if self.name in EMBEDDED else {}
        return {"name": self.name, "num_bytes": self.num_bytes} | version


@dataclass(frozen=True)
class Position:
    """Where reading goes on: the file, by its index, and the rows of it that are done."""

    file: int = 0
    row: int = 0


FIRST = Position()


class Document(NamedTuple):
    text: str
    num_bytes: int  # of the text in UTF-8
    digest: int  # shards.content_hash of those bytes
    position: Position  # right after this document
    statistics: dict[str, int]  # of everything up to this document


class Inputs(NamedTuple):
    files: list[InputFile]
    ignored: int  # files in folders whose kind is not read


def list_inputs(paths: Sequence[str | Path], *, commits: dict[str, str] | None = None) -> Inputs:
    """The files that the inputs stand for, in reading order.

    Args:
      commits: repository -> commit for hub data sets, where a continued run must read what it read before.

    Raises:
      UserError: nothing given, a missing path, an unsupported kind, or a folder without text.
    """
    if not paths:
        raise UserError("no input given; name files, folders, hf://owner/name or `embedded` with --input")
    files: list[InputFile] = []
    ignored = 0
    for given in map(str, paths):
        if given in EMBEDDED:
            files.append(InputFile(name=given, num_bytes=0))
        elif given.startswith(hub.SCHEME):
            repo = "/".join(given.removeprefix(hub.SCHEME).split("/")[:2]).split("@")[0]
            listed = hub.list_files(
                given,
                is_readable=lambda path: file_format(path) is not None,
                commit=(commits or {}).get(repo),
            )
            files += [
                InputFile(name=file.address, num_bytes=file.num_bytes, hub_file=file) for file in listed
            ]
        elif Path(given).is_dir():
            found, skipped = _list_folder(Path(given))
            files += found
            ignored += skipped
        else:
            files.append(_local_file(Path(given)))
    return Inputs(files, ignored)


def _local_file(path: Path) -> InputFile:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path (relative to {Path.cwd()})")
    if file_format(path) is None:
        raise UserError(
            f"{path}: cannot read {path.suffix or 'a file without extension'}; "
            f"give {', '.join(FORMATS)} (text also as {', '.join(COMPRESSIONS)})"
        )
    return InputFile(name=str(path), num_bytes=path.stat().st_size, path=path)


def _list_folder(folder: Path) -> tuple[list[InputFile], int]:
    everything = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    readable = [path for path in everything if file_format(path) is not None]
    if not readable:
        found = ", ".join(sorted({path.suffix or "no extension" for path in everything})) or "no files at all"
        raise UserError(
            f"{folder}: a folder without text to read (found: {found}); expected {', '.join(FORMATS)}"
        )
    return [_local_file(path) for path in readable], len(everything) - len(readable)


def iter_documents(
    paths: Sequence[str | Path],
    *,
    reading: ReadOptions | None = None,
    filtering: FilterOptions | None = None,
    max_documents: int | None = None,
    max_bytes: int | None = None,
    statistics: Statistics | None = None,
) -> Iterator[str]:
    """Clean documents of the inputs, in order.

    Args:
      max_documents, max_bytes: stop before more documents, or more UTF-8 bytes of text, than that.
      statistics: counts what is read, kept and dropped, while it happens.

    Raises:
      UserError: the first thing that cannot be read.
    """
    stream = iter_positioned(
        list_inputs(paths).files,
        reading=reading or ReadOptions(),
        filtering=filtering or FilterOptions(),
        max_documents=max_documents,
        max_bytes=max_bytes,
        statistics=statistics or Statistics(),
        seen=set(),
    )
    for document in stream:
        yield document.text


def iter_positioned(
    files: Sequence[InputFile],
    *,
    reading: ReadOptions,
    filtering: FilterOptions,
    max_documents: int | None,
    max_bytes: int | None,
    statistics: Statistics,
    seen: set[int],
    held_out: Set[int] = frozenset(),
    start: Position = FIRST,
    download_folder: Path | None = None,
) -> Iterator[Document]:
    """`iter_documents` for a reader that must be able to go on later.

    Args:
      statistics: counts on from what it holds.
      seen: hashes of the documents kept so far, for `dedup`; grows.
      held_out: hashes whose further copies are dropped even without `dedup`; the caller may add to it.
      start: where to go on; with `statistics` and `seen` as they were there, the rest is the same.
      download_folder: where hub files are put until they are read; None: a temporary folder.
    """
    clean = TextFilter(filtering)
    for index, row, text in _iter_rows(files, reading, start=start, download_folder=download_folder):
        statistics.rows += 1
        if text is None:
            statistics.bad += 1
            continue
        text = clean(text, statistics)
        if text is None:
            continue
        data = text.encode()
        digest = content_hash(data)
        if filtering.dedup:
            if digest in seen:
                statistics.duplicates += 1
                continue
            seen.add(digest)
        if digest in held_out:
            statistics.held_out_copies += 1
            continue
        over = max_bytes is not None and statistics.kept_bytes + len(data) > max_bytes
        if over or (max_documents is not None and statistics.kept >= max_documents):
            statistics.rows -= 1
            return
        statistics.kept += 1
        statistics.kept_bytes += len(data)
        yield Document(text, len(data), digest, Position(index, row), statistics.snapshot())


def _iter_rows(
    files: Sequence[InputFile], reading: ReadOptions, *, start: Position, download_folder: Path | None
) -> Iterator[tuple[int, int, str | None]]:
    """(file index, rows done in it, text) for every row from `start` on."""
    with ExitStack() as stack:
        for index, path in _local_paths(files, start.file, download_folder, stack):
            first_row = start.row if index == start.file else 0
            if path is None:
                documents = EMBEDDED[files[index].name]()
                for _ in range(first_row):
                    next(documents)
                rows: Iterator[str | None] = documents
            else:
                rows = read_rows(path, reading, name=files[index].name, first_row=first_row)
            for row, text in enumerate(rows, start=first_row + 1):
                yield index, row, text


def _local_paths(
    files: Sequence[InputFile], first: int, download_folder: Path | None, stack: ExitStack
) -> Iterator[tuple[int, Path | None]]:
    """(index, path on this machine; None for the embedded corpus), fetching one file ahead.

    A download is deleted once the next file is asked for: a data set may be larger than the disk.
    """
    if all(file.hub_file is None for file in files):
        yield from ((index, files[index].path) for index in range(first, len(files)))
        return
    if download_folder is None:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="samosa-download-", ignore_cleanup_errors=True)
            )
        )
    else:
        folder = download_folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.rglob(
            "*.incomplete"
        ):  # of a killed run; huggingface_hub never takes them up again
            path.unlink()
    coming: Future[Path] | None = None
    for index in range(first, len(files)):
        hub_file = files[index].hub_file
        if hub_file is None:
            yield index, files[index].path
            continue
        path = (coming or _start_download(hub_file, folder)).result()
        following = files[index + 1].hub_file if index + 1 < len(files) else None
        # A file named twice in a row has one place on disk, which is not free before it is read.
        ahead = None if following == hub_file else following
        coming = None if ahead is None else _start_download(ahead, folder)
        yield index, path
        path.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _start_download(hub_file: hub.HubFile, folder: Path) -> Future[Path]:
    """Downloads on a daemon thread: an error elsewhere must not wait for a file nobody will read."""
    future: Future[Path] = Future()

    def fetch() -> None:
        try:
            future.set_result(hub.download(hub_file, folder))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=fetch, name=f"download {hub_file.path}", daemon=True).start()
    return future
