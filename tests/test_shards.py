"""Token shards: what is written is read back, damage is named, and old positions keep their meaning."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samosa_jax.data.manifest import load_manifest
from samosa_jax.data.shard_writer import ShardWriter
from samosa_jax.data.shards import ShardSet, content_hash
from samosa_jax.data.verification import verify_folder
from samosa_jax.errors import UserError

BOS = 1


def create(folder: Path, *, vocab_size: int = 512) -> ShardWriter:
    return ShardWriter.create(folder, vocab_size=vocab_size, bos_id=BOS, tokenizer_fingerprint="ab" * 32)


def small_folder(folder: Path) -> Path:
    """Two training shards and one of validation in generation 0, one training shard in generation 1."""
    writer = create(folder)
    for length in (3, 1, 5):
        writer.add([BOS, *range(10, 9 + length)], text=b"x" * length)
    writer.add([BOS, 99], split="val")
    writer.commit()
    writer.add([BOS, 40, 41])
    writer.finish()
    writer.begin_generation()
    writer.add([BOS, 50, 51, 52])
    writer.finish()
    return folder


documents_strategy = st.lists(
    st.lists(st.lists(st.integers(0, 65_535), max_size=9), max_size=5), min_size=1, max_size=4
)


@settings(max_examples=25)
@given(shards=documents_strategy, wide=st.booleans())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[list[int]]], wide: bool
) -> None:
    folder = tmp_path_factory.mktemp("set") / "data"
    writer = create(folder, vocab_size=65_537 if wide else 65_536)
    for documents in shards:
        for document in documents:
            writer.add([BOS, *document])
        writer.commit()
    writer.finish()
    expected = [[BOS, *document] for documents in shards for document in documents]

    data = ShardSet.open(folder, verify=True)
    assert data.manifest.dtype == ("uint32" if wide else "uint16")
    assert data.num_documents == len(expected)
    assert data.num_tokens == sum(map(len, expected))
    assert data.document_lengths.tolist() == [len(document) for document in expected]
    assert data.document_lengths.dtype == np.int64
    for index, document in enumerate(expected):
        assert data.document(index).tolist() == document
        assert data.document(index).dtype == np.dtype(data.manifest.dtype)
        for start, stop in ((0, 2), (1, 4), (3, 100), (50, 60)):
            assert data.tokens(index, start, stop).tolist() == document[start:stop]
    with pytest.raises(IndexError):
        data.document(len(expected))
    assert not verify_folder(folder).problems


def test_splits_and_generations(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "data")
    data = ShardSet.open(folder)
    assert data.generation_bounds == ((0, 4), (4, 5))
    assert data.document(4).tolist() == [BOS, 50, 51, 52]
    old, new = (ShardSet.open(folder, generations=[g]) for g in (0, 1))
    assert old.generation_bounds == ((0, 4),)
    assert new.generation_bounds == ((0, 1),)
    assert new.document(0).tolist() == [BOS, 50, 51, 52]
    assert len({data.fingerprint, old.fingerprint, new.fingerprint}) == 3
    val = ShardSet.open(folder, split="val")
    assert val.num_documents == 1
    assert val.document(0).tolist() == [BOS, 99]
    with pytest.raises(UserError, match=r"generations \[2\] asked, it has 0..1"):
        ShardSet.open(folder, generations=[2])


def test_views_are_read_only_and_sets_pickle_small(tmp_path: Path) -> None:
    data = ShardSet.open(small_folder(tmp_path / "data"))
    with pytest.raises(ValueError, match="read-only"):
        data.document(0)[0] = 7
    copy = pickle.loads(pickle.dumps(data))
    assert copy.document(2).tolist() == data.document(2).tolist()
    writer = create(tmp_path / "large")
    writer.add(np.ones(100_000, np.uint16))
    writer.finish()
    large = ShardSet.open(tmp_path / "large")
    assert large.num_tokens == len(large.document(0))  # mapped now
    assert len(pickle.dumps(large)) < 10_000


def test_reader_follows_a_writer(tmp_path: Path) -> None:
    writer = create(tmp_path / "data")
    writer.add([BOS, 5])
    writer.commit(position={"file": 0, "row": 1}, statistics={"rows": 1})
    data = ShardSet.open(tmp_path / "data")
    assert not data.manifest.complete
    before = data.fingerprint
    assert data.document_lengths.tolist() == [2]
    assert not data.refresh()
    writer.add([BOS, 6, 7])
    assert not data.refresh()  # nothing is visible before the commit
    writer.finish()
    assert data.refresh()
    assert data.manifest.complete
    assert data.document_lengths.tolist() == [2, 3]
    assert data.document(0).tolist() == [BOS, 5]
    assert data.document(1).tolist() == [BOS, 6, 7]
    assert data.fingerprint != before


def test_replaced_shards_are_noticed(tmp_path: Path) -> None:
    data = ShardSet.open(small_folder(tmp_path / "data"))
    for path in sorted((tmp_path / "data").iterdir()):
        path.unlink()
    with create(tmp_path / "data") as writer:
        writer.add([BOS, 3])
    with pytest.raises(UserError, match="its shards were replaced"):
        data.refresh()


def test_writer_refuses_what_is_no_document_or_no_empty_folder(tmp_path: Path) -> None:
    writer = create(tmp_path / "data")
    with pytest.raises(ValueError, match="must begin with token 1"):
        writer.add([5, BOS])
    with pytest.raises(ValueError, match="must begin with token 1"):
        writer.add([])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("keep me")
    with pytest.raises(UserError, match="not an empty folder"):
        create(tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "keep me"


def test_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = create(tmp_path / "data")
    writer.add([BOS, 5])
    writer.commit()

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", no_space)
        writer.add([BOS, 6])
        with pytest.raises(UserError, match=r"No space left on device.*what was written before is whole"):
            writer.commit()
    assert ShardSet.open(tmp_path / "data", verify=True).num_documents == 1
    writer.commit()
    assert ShardSet.open(tmp_path / "data", verify=True).num_documents == 2


def test_content_hash_tells_texts_apart() -> None:
    assert content_hash(b"a") == content_hash(b"a") != content_hash(b"b")
    assert 0 <= content_hash(b"a") < 1 << 64


# Damage --------------------------------------------------------------------------------------------------


def test_truncated_missing_and_longer_shards(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "data")
    path = folder / "train-00001.tokens.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-2])
    with pytest.raises(
        UserError, match=r"train-00001.tokens.npy: truncated, 132 bytes where the manifest says 134"
    ):
        ShardSet.open(folder)
    ShardSet.open(folder, split="val")  # the other split is whole
    path.write_bytes(data + b"x")
    with pytest.raises(UserError, match="too long, 135 bytes"):
        ShardSet.open(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"train-00001.tokens.npy: missing, though the manifest names it"):
        ShardSet.open(folder)


@pytest.mark.parametrize(
    "name", ["train-00000.tokens.npy", "train-00002.documents.npy", "val-00000.tokens.npy"]
)
def test_flipped_byte_is_found_and_named(tmp_path: Path, name: str) -> None:
    folder = small_folder(tmp_path / "data")
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    problems = verify_folder(folder).problems
    assert len(problems) == 1
    assert f"{name}: contents changed" in problems[0]
    split = "val" if name.startswith("val") else "train"
    ShardSet.open(folder, split=split)  # sizes alone do not tell
    with pytest.raises(UserError, match=f"{name}: contents changed"):
        ShardSet.open(folder, split=split, verify=True)


def test_verify_names_every_problem(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "data")
    assert verify_folder(folder).problems == ()
    (folder / "train-00000.tokens.npy").unlink()
    (folder / "val-00000.documents.npy").write_bytes(b"short")
    (folder / "notes.txt").write_text("what is this")
    problems = verify_folder(folder).problems
    assert len(problems) == 3
    assert "train-00000.tokens.npy: missing" in problems[0]
    assert "val-00000.documents.npy: truncated" in problems[1]
    assert "notes.txt: unknown file" in problems[2]


def test_header_that_disagrees_with_the_manifest(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "data")
    path = folder / "train-00002.tokens.npy"
    np.save(path, np.frombuffer(np.load(path).tobytes(), np.int16))  # same size, another type
    data = ShardSet.open(folder)
    with pytest.raises(
        UserError, match=r"train-00002.tokens.npy: holds int16 \(4,\), the manifest says uint16"
    ):
        data.document(4)


MANIFEST_DAMAGE = [
    (lambda raw: "{", "not a readable manifest"),
    (lambda raw: "[]", "not a manifest of token shards"),
    (lambda raw: json.dumps(raw | {"version": 9}), "format version 9, this program reads version 1"),
    (lambda raw: json.dumps({k: v for k, v in raw.items() if k != "shards"}), "the manifest is damaged"),
    (lambda raw: json.dumps(raw | {"dtype": "float32"}), "the manifest is damaged"),
    (lambda raw: json.dumps(raw | {"complete": False}), "'complete' disagrees"),
    (lambda raw: json.dumps(raw | {"shards": [1]}), "the manifest is damaged"),
    (lambda raw: '{"version": ' + "9" * 5000 + "}", "not a readable manifest"),
]


@pytest.mark.parametrize(("damage", "message"), MANIFEST_DAMAGE)
def test_damaged_manifest(tmp_path: Path, damage, message: str) -> None:
    folder = small_folder(tmp_path / "data")
    path = folder / "manifest.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(UserError, match=message):
        load_manifest(folder)


def test_no_prepared_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the folder does not exist"):
        ShardSet.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"it has no manifest.json"):
        ShardSet.open(tmp_path)
