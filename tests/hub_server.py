"""A Hugging Face hub of one data set on localhost: what huggingface_hub calls to list and to fetch."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

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
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range header

    def downloads(self) -> list[str]:
        return [
            path.rsplit("/", 1)[-1]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        ]


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
            if not path.startswith((f"/api/datasets/{hub.repo}", f"/datasets/{hub.repo}/")):
                return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            if hub.gated:
                return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
            head = next(iter(hub.commits))
            parts = path.removeprefix(f"/api/datasets/{hub.repo}").strip("/").split("/")
            if path.startswith("/datasets/"):
                revision, _, name = path.removeprefix(f"/datasets/{hub.repo}/resolve/").partition("/")
                return self.file(head if revision == "main" else revision, name)
            revision = parts[1] if len(parts) > 1 else "main"
            commit = head if revision == "main" else revision
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
                    "oid": hashlib.sha1(data).hexdigest(),
                    "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130},
                }
                for path, data in hub.commits[commit].items()
            ]
            headers = {"Content-Type": "application/json"}
            if cursor + PAGE < len(entries):
                following = f"{hub.endpoint}/api/datasets/{hub.repo}/tree/{commit}"
                headers["Link"] = f'<{following}?recursive=True&cursor={cursor + PAGE}>; rel="next"'
            self.answer(200, json.dumps(entries[cursor : cursor + PAGE]).encode(), headers)

        def file(self, commit: str, name: str) -> None:
            data = hub.commits.get(commit, {}).get(name)
            if data is None:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            headers = {
                "X-Repo-Commit": commit,
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "Accept-Ranges": "bytes",
            }
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206 if start else 200, data[start:], headers)

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
