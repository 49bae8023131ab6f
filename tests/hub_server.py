"""A Hugging Face hub of one repository on localhost: what huggingface_hub calls to list, fetch and commit."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 2_000  # bytes above which a file of a model is stored by its SHA-256, beside the repository
PAGE = 2  # entries per page of the listing, so that paging is exercised


@dataclass
class Hub:
    """The files it serves and the faults it feigns. `commits[0]` is what `main` points to."""

    repo: str
    commits: dict[str, dict[str, bytes]]  # commit -> path -> contents
    endpoint: str = ""
    gated: bool = False
    unavailable: int = 0  # answer so many requests with 503
    cut_after: int | None = None  # break the next download after so many bytes
    kind: str = "datasets"  # or "models"
    refuses_writes: int = 0  # the status of every answer to a request that writes; 0: accepts them
    exists: bool = True  # otherwise it must be created first
    seconds_per_write: float = 0.0  # how slow such requests are
    spoils: str | None = None  # the path whose contents it changes in the next download
    is_private: bool | None = None  # as the repository was created
    messages: list[str] = field(default_factory=list)  # of commits, the newest last
    branches: dict[str, str] = field(default_factory=dict)  # beside main
    stored: dict[str, bytes] = field(default_factory=dict)  # large files by SHA-256
    tokens: set[str] = field(default_factory=set)  # met in Authorization headers
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range header

    def downloads(self) -> list[str]:
        return [
            path.rsplit("/", 1)[-1]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        ]


def _is_large(data: bytes) -> bool:
    return len(data) > LARGE


def _large(data: bytes) -> dict[str, Any]:
    return {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Silence: the test says what matters."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            hub.requests.append((self.command, path, self.headers.get("Range", "")))
            if hub.unavailable:
                hub.unavailable -= 1
                return self.answer(503, b"busy")
            self.note_token()
            files = f"/datasets/{hub.repo}/" if hub.kind == "datasets" else f"/{hub.repo}/"
            if not hub.exists or not path.startswith((f"/api/{hub.kind}/{hub.repo}", files)):
                return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            if hub.gated:
                return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
            head = next(iter(hub.commits))
            parts = path.removeprefix(f"/api/{hub.kind}/{hub.repo}").strip("/").split("/")
            if path.startswith(files):
                revision, _, name = path.removeprefix(f"{files}resolve/").partition("/")
                return self.file(head if revision == "main" else revision, name)
            revision = parts[1] if len(parts) > 1 else "main"
            commit = head if revision == "main" else hub.branches.get(revision, revision)
            if commit not in hub.commits:
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if parts[0] == "tree":
                return self.tree(commit, int(parse_qs(url.query).get("cursor", ["0"])[0]))
            info = {"id": hub.repo, "sha": commit, "private": False, "disabled": False, "gated": False}
            info |= {"downloads": 0, "likes": 0, "tags": [], "siblings": []}
            return self.answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

        def tree(self, commit: str, cursor: int) -> None:
            entries = [
                {
                    "type": "file",
                    "path": path,
                    "size": len(data),
                    "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
                }
                | ({"lfs": _large(data)} if hub.kind == "datasets" or _is_large(data) else {})
                for path, data in hub.commits[commit].items()
            ]
            headers = {"Content-Type": "application/json"}
            if cursor + PAGE < len(entries):
                following = f"{hub.endpoint}/api/{hub.kind}/{hub.repo}/tree/{commit}"
                headers["Link"] = f'<{following}?recursive=True&cursor={cursor + PAGE}>; rel="next"'
            self.answer(200, json.dumps(entries[cursor : cursor + PAGE]).encode(), headers)

        def file(self, commit: str, name: str) -> None:
            data = hub.commits.get(commit, {}).get(name)
            if data is None:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            if hub.spoils == name:
                data = bytes([data[0] ^ 1]) + data[1:]
            headers = {
                "X-Repo-Commit": commit,
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "Accept-Ranges": "bytes",
            }
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206 if start else 200, data[start:], headers)

        def note_token(self) -> None:
            hub.tokens |= {self.headers.get("Authorization", "").removeprefix("Bearer ")} - {""}

        def do_PUT(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, ""))
            self.note_token()
            time.sleep(hub.seconds_per_write)
            if hub.refuses_writes:
                return self.answer(hub.refuses_writes, b'{"error": "refused"}')
            if path.startswith("/stored/"):
                hub.stored[path.rsplit("/", 1)[-1]] = body
                return self.answer(200, b"")
            if path == "/api/repos/create":
                wish = json.loads(body)  # versions differ in how they say it
                hub.is_private = bool(wish.get("private")) or wish.get("visibility") == "private"
                hub.exists = True
                return self.answer_json({"url": f"{hub.endpoint}/{hub.repo}"})
            if path == "/api/validate-yaml":
                return self.answer_json({"errors": [], "warnings": []})
            own = path.removeprefix(f"/api/{hub.kind}/{hub.repo}/")
            if own.startswith("branch/"):
                hub.branches[own.removeprefix("branch/")] = next(iter(hub.commits))
                return self.answer_json({})
            if own.startswith("preupload/"):
                files = [
                    {"path": file["path"], "uploadMode": "lfs" if file["size"] > LARGE else "regular"}
                    | {"shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                return self.answer_json({"files": files})
            if path == f"/{hub.repo}.git/info/lfs/objects/batch":
                return self.answer_json(
                    {"objects": [self.place(file) for file in json.loads(body)["objects"]]}
                )
            if own.startswith("commit/"):
                return self.commit(own.removeprefix("commit/"), body)
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def place(self, file: dict[str, Any]) -> dict[str, Any]:
            """Where a large file is to be put, unless it is there."""
            if file["oid"] in hub.stored:
                return file
            return file | {
                "actions": {"upload": {"href": f"{hub.endpoint}/stored/{file['oid']}", "header": {}}}
            }

        def commit(self, revision: str, body: bytes) -> None:
            lines = [json.loads(line) for line in body.splitlines()]
            head = next(iter(hub.commits))
            files = dict(hub.commits[hub.branches.get(revision, head)])
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    hub.messages.append(value["summary"])
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.stored[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            new = hashlib.sha1(body).hexdigest()
            if revision in hub.branches:
                hub.branches[revision] = new
                hub.commits[new] = files
            else:
                hub.commits = {new: files} | hub.commits
            self.answer_json({"commitUrl": f"{hub.endpoint}/{hub.repo}/commit/{new}", "commitOid": new})

        def answer_json(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.cut_after is not None and "/resolve/" in self.path:
                body, hub.cut_after = body[: hub.cut_after], None
                self.close_connection = True
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
