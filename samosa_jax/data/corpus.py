"""The embedded corpus: a few megabytes of text that need no network, the same for the same seed and Python.

About three quarters are generated stories (`stories`); the rest is what every Python carries, its own
documentation and the sources of its standard library, read from where they are installed. `prepare` and
`train_tokenizer` read it as `--input embedded`, or the stories alone as `--input embedded/stories`.
"""

import ast
import hashlib
import platform
import random
import sysconfig
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from samosa_jax.data.stories import tell_story

DEFAULT_MAX_BYTES = 6_000_000
STORY_FRAC = 0.75  # of the bytes
MAX_DOCUMENT_BYTES = 16_384  # longer sources and topics would crowd out the others
# Not part of the library proper, tests, tables, or other people's code.
SKIPPED_FOLDERS = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "encodings",
    "ensurepip",
    "lib2to3",
    "turtledemo",
    "pydoc_data",
    "__pycache__",
}


def documents(
    *, seed: int = 0, max_bytes: int = DEFAULT_MAX_BYTES, story_frac: float = STORY_FRAC
) -> Iterator[str]:
    """Stories and Python text, mixed by bytes, until the next document would exceed max_bytes of UTF-8.

    The stories depend on the seed alone; the rest also on the Python version (`python_version`).
    Should Python's own text run out, stories go on alone.
    """
    streams = {"story": stories(seed=seed), "python": python_texts(seed=seed)}
    shares = {"story": story_frac, "python": 1 - story_frac}
    streams = {kind: stream for kind, stream in streams.items() if shares[kind] > 0}
    given = dict.fromkeys(streams, 0)
    while True:
        kind = min(streams, key=lambda name: given[name] / shares[name])
        document = next(streams[kind], None)
        if document is None:
            del streams[kind]
            continue
        given[kind] += len(document.encode())
        if sum(given.values()) > max_bytes:
            return
        yield document


def stories(*, seed: int = 0) -> Iterator[str]:
    """Endless stories; those of two seeds have nothing in common but chance."""
    return (tell_story(random.Random(f"{seed}/{number}")) for number in count())


def python_version() -> str:
    """Of the interpreter whose text is read, for example "CPython 3.11.9"."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def python_texts(*, seed: int = 0) -> Iterator[str]:
    """Every text of this Python once, in an order given by the seed: the licence, help topics, and of each
    module either its docstrings or its source."""
    library = Path(sysconfig.get_path("stdlib"))
    names = ["licence"]
    names += [f"topic/{topic}" for topic in _help_topics()]
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if not SKIPPED_FOLDERS & set(relative.parts):
            names.append(f"module/{relative.as_posix()}")
    names.sort(key=lambda name: hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest())
    seen: set[str] = set()
    for number, name in enumerate(names):
        kind, _, rest = name.partition("/")
        if kind == "licence":
            text = _read(library / "LICENSE.txt")
        elif kind == "topic":
            text = _help_topics()[rest]
        else:
            text = _read(library / rest)
            if number % 2:
                text = _docstrings(rest, text)
        text = text.strip()
        if text and text not in seen and len(text.encode()) <= MAX_DOCUMENT_BYTES:
            seen.add(text)
            yield text + "\n"


def _help_topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return {}
    return topics


def _read(path: Path) -> str:
    """The text of a file, empty where an installation lacks it or it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _docstrings(name: str, source: str) -> str:
    """A page of documentation: every docstring of a module under the name it belongs to."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    parts = []
    if text := ast.get_docstring(tree):
        parts.append(f"{module}\n\n{text}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            text := ast.get_docstring(node)
        ):
            keyword = "class" if isinstance(node, ast.ClassDef) else "function"
            parts.append(f"{keyword} {module}.{node.name}\n\n{text}")
    return "\n\n".join(parts)
