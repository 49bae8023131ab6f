"""Hub data sets, through the real huggingface_hub against a hub on localhost."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serve

from samosa_jax.data import hub as hub_module
from samosa_jax.data.hub import HubFile, download, list_files
from samosa_jax.data.readers import file_format
from samosa_jax.data.sources import iter_documents, list_inputs
from samosa_jax.errors import UserError

OLD, NEW = "a" * 40, "b" * 40


def rows(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {
        "README.md": b"# about",
        "data/b/1.jsonl": rows("three"),
        "data/a/2.jsonl": rows("two"),
        "data/a/1.jsonl": rows("one"),
        "extra.jsonl": rows("four"),
    }
    old = {"data/a/1.jsonl": rows("old one")}
    monkeypatch.setattr(hub_module, "PAUSE_S", 0.01)
    with serve(Hub(repo="owner/name", commits={NEW: files, OLD: old})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def paths(address: str) -> list[str]:
    return [file.path for file in list_files(address, is_readable=lambda path: file_format(path) is not None)]


def test_addresses_name_files(hub: Hub) -> None:
    everything = ["data/a/1.jsonl", "data/a/2.jsonl", "data/b/1.jsonl", "extra.jsonl"]
    assert paths("hf://owner/name") == everything
    assert paths("hf://owner/name/") == everything
    assert paths("hf://owner/name/data") == everything[:3]
    assert paths("hf://owner/name/data/a/") == everything[:2]
    assert paths("hf://owner/name/extra.jsonl") == everything[3:]
    assert paths("hf://owner/name/data/*/1.jsonl") == ["data/a/1.jsonl", "data/b/1.jsonl"]
    assert paths(f"hf://owner/name@{OLD}/data") == ["data/a/1.jsonl"]


def test_documents_are_streamed_and_downloads_deleted(hub: Hub, tmp_path: Path) -> None:
    assert list(iter_documents(["hf://owner/name/data", "hf://owner/name/extra.jsonl"])) == [
        "one",
        "two",
        "three",
        "four",
    ]
    assert hub.downloads() == ["1.jsonl", "2.jsonl", "1.jsonl", "extra.jsonl"]
    both = ["hf://owner/name/data/a/1.jsonl", f"hf://owner/name@{OLD}", f"hf://owner/name@{OLD}"]
    assert list(iter_documents(both)) == ["one", "old one", "old one"]  # all of one path


def test_next_file_is_fetched_while_one_is_read_and_no_more(hub: Hub) -> None:
    documents = iter_documents(["hf://owner/name"])
    assert next(documents) == "one"
    for _ in range(200):
        if len(hub.downloads()) == 2:
            break
        hub_module.time.sleep(0.01)
    assert hub.downloads() == ["1.jsonl", "2.jsonl"]
    assert list(documents) == ["two", "three", "four"]


def test_pinned_commit_is_read_though_main_moved(hub: Hub) -> None:
    inputs = list_inputs(["hf://owner/name"], commits={"owner/name": OLD})
    assert [file.name for file in inputs.files] == [f"hf://owner/name@{OLD}/data/a/1.jsonl"]


def test_busy_server_and_cut_connection(hub: Hub, tmp_path: Path) -> None:
    data = rows(*(f"text {i}" for i in range(5_000)))
    hub.commits[NEW]["data/a/1.jsonl"] = data
    hub.unavailable = 2
    hub.cut_after = 1_000
    (file,) = list_files("hf://owner/name/data/a/1.jsonl", is_readable=lambda path: True)
    assert hub.unavailable == 0
    assert download(file, tmp_path).read_bytes() == data
    assert hub.downloads() == ["1.jsonl"] * 2  # the first was cut


def test_download_that_differs_from_the_listing(hub: Hub, tmp_path: Path) -> None:
    file = HubFile(repo="owner/name", commit=NEW, path="extra.jsonl", num_bytes=17, sha256="0" * 64)
    with pytest.raises(UserError, match="is not what the listing promised"):
        download(file, tmp_path)
    assert not list(tmp_path.rglob("extra.jsonl"))


def test_damaged_leftover_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    (file,) = list_files("hf://owner/name/extra.jsonl", is_readable=lambda path: True)
    path = download(file, tmp_path)
    assert download(file, tmp_path) == path
    assert hub.downloads() == ["extra.jsonl"]  # what is whole is not fetched twice
    path.write_bytes(rows("fuor"))
    assert download(file, tmp_path).read_bytes() == rows("four")
    assert hub.downloads() == ["extra.jsonl"] * 2


def test_errors_are_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(address: str) -> str:
        with pytest.raises(UserError) as caught:
            list(iter_documents([address]))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such data set, or it is private" in message("hf://owner/other")
    assert "check the revision" in message(f"hf://owner/name@{'c' * 40}")
    assert "no text files fit; its folders are: ., data/a, data/b" in message("hf://owner/name/nowhere")
    assert "not a data set address" in message("hf://name")
    hub.gated = True
    assert "access must be requested" in message("hf://owner/name")
    hub.gated = False
    hub.unavailable = 1_000
    assert "could not be fetched" in message("hf://owner/name")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "check the network and HF_ENDPOINT" in message("hf://owner/name")
