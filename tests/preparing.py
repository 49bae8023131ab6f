"""Calls that the tests of `prepare` share."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from samosa_jax.data.manifest import Split
from samosa_jax.data.preparation import PrepareOptions, Summary, prepare
from samosa_jax.data.shards import ShardSet
from samosa_jax.data.tokenizer import Tokenizer


def write_rows(path: Path, texts: list[str]) -> Path:
    data = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decoded(folder: Path, split: Split = "train", *, generations: list[int] | None = None) -> list[str]:
    """The documents as text again."""
    data = ShardSet.open(folder, split=split, generations=generations, verify=True)
    tokenizer = Tokenizer.load(data.tokenizer_dir)
    documents = [data.document(index) for index in range(data.num_documents)]
    assert all(document[0] == tokenizer.bos_id for document in documents)
    return [tokenizer.decode(document[1:]) for document in documents]


def run(path: Path, tokenizer_dir: Path, out: Path, **options: Any) -> Summary:
    fields: dict[str, Any] = {"inputs": (str(path),), "shard_tokens": 20_000, "workers": 1}
    return prepare(PrepareOptions(tokenizer=tokenizer_dir, out=out, **(fields | options)))


def start(*arguments: object, output: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    line = [sys.executable, "-m", "samosa_jax.prepare", *map(str, arguments)]
    return subprocess.Popen(line, stdout=output, stderr=output, text=True)


def num_shards(out: Path) -> int:
    path = out / "manifest.json"
    return len(json.loads(path.read_bytes())["shards"]) if path.exists() else -1
