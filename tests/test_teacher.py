"""The teacher against a real server on this machine: good replies, bad ones, slow ones, and none."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from samosa_jax.data.chat.conversation import parse_conversation
from samosa_jax.errors import UserError
from samosa_jax.synthesize import main
from samosa_jax.tasks.catalog import make_task
from samosa_jax.tasks.teacher import TeacherOptions, ask, rewritten, taught

THOUGHT = "Here the teacher thinks at some length about what has to be done, step after step."
Reply = tuple[int, str | None]  # HTTP status, text
Behaviour = Callable[[dict[str, Any], int], Reply]  # (body, how many requests came before)


class Teacher(ThreadingHTTPServer):
    """Counts requests and answers as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour: Behaviour = lambda body, number: (200, good(body))
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Teacher)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.keys.append(self.headers["Authorization"])
        status, text = server.behaviour(body, number)
        content = {"choices": [{"message": {"role": "assistant", "content": text}}]}
        data = json.dumps(content).encode() if status == 200 else str(text).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def draft_of(body: dict[str, Any]) -> str:
    """The final answer of the draft that the request holds."""
    return re.sub(
        r"(?s)<think>.*</think>", "", json.loads(body["messages"][1]["content"])[-1]["content"]
    ).strip()


def good(body: dict[str, Any]) -> str:
    return f"<think>{THOUGHT}</think>\n\nIn the teacher's words: {draft_of(body)}"


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    server = Teacher()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def options(teacher: Teacher, **changes: Any) -> TeacherOptions:
    return TeacherOptions(
        **{"url": teacher.url, "model": "m", "first_wait_s": 0.01, "timeout_s": 5.0, **changes}
    )


def test_order_is_fixed_and_facts_are_kept(teacher: Teacher, tmp_path: Path):
    def jittery(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.03 if number % 3 == 0 else 0)
        return 200, good(body)

    teacher.behaviour = jittery
    task = make_task("joint_think_tool")
    examples = list(task.examples("train", 0, 24))
    found = list(taught(examples, task, options(teacher), kept=tmp_path / "kept.jsonl"))
    assert len(teacher.bodies) == 24
    for before, after in zip(examples, found, strict=True):
        assert after.rejection is None
        assert after.example.prompt == before.prompt
        assert after.example.solution[0].think == THOUGHT
        assert after.example.answer_text == f"In the teacher's words: {before.answer_text}"
        calls = [[message.tool_call for message in one.solution] for one in (before, after.example)]
        assert calls[0] == calls[1]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("The tip is what you would expect of a number such as 5.", "no thought"),
        ("<think>" + THOUGHT + " and never ends", "thought not balanced, or not first"),
        ("Well. <think>" + THOUGHT + "</think> That is all there is to say about it, I think.", "not first"),
        ("<think>short</think>The answer is somewhere around here, forty characters on.", "thought under 50"),
        ("<think>" + THOUGHT + "</think>", "no answer after the thought"),
        ("<think>" + THOUGHT + "</think>Five.", "answer under 40"),
        ("<think>" + THOUGHT + "</think>" + THOUGHT, "answer inside the thought"),
        ("<think>" + THOUGHT + "</think>The result of all this must surely be 123456789.", "wrong answer"),
    ],
)
def test_bad_replies_are_rejected_by_reason(reply: str, reason: str):
    task = make_task("arithmetic")
    (example,) = task.examples("train", 0, 1)
    with pytest.raises(ValueError, match=reason):
        rewritten(example, task, reply)
    assert rewritten(example, task, f"<think>{THOUGHT}</think>{example.answer_text}").answer == example.answer


def test_the_command_counts_rejections_and_asks_nothing_twice(
    teacher: Teacher, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def some_bad(body: dict[str, Any], number: int) -> Reply:
        draft = draft_of(body)
        if len(draft) % 3 == 0:
            return 200, f"<think>{THOUGHT}</think><b>Bold</b> {draft}"
        return 200, draft if len(draft) % 3 == 1 else good(body)

    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    teacher.behaviour = some_bad
    out = tmp_path / "a.jsonl"
    flags = [f"--out={out}", f"--teacher-url={teacher.url}", "--teacher-model=m", "--overwrite"]
    main(["temporal", "--count=30", *flags])
    lengths = [len(example.answer_text) % 3 for example in make_task("temporal").examples("train", 0, 30)]
    rows = out.read_bytes().split(b"\n")[:-1]
    report = capsys.readouterr().out
    assert len(rows) == lengths.count(2) > 0
    assert all("teacher's words" in parse_conversation(json.loads(row)).messages[-1].text for row in rows)
    assert f"{lengths.count(0)} breaks no_html" in report
    assert f"{lengths.count(1)} no thought" in report
    assert teacher.keys == ["Bearer secret"] * 30
    main(["temporal", "--count=35", *flags])
    assert len(teacher.bodies) == 35
    assert "secret" not in (tmp_path / "a.jsonl.partial.jsonl").read_text()


def test_a_busy_server_is_tried_again(teacher: Teacher):
    teacher.behaviour = lambda body, number: (500, "busy") if number < 2 else (200, "at last")
    waits: list[float] = []
    assert ask({}, options(teacher, attempts=3), sleep=waits.append) == "at last"
    assert waits == [0.01, 0.02]


def test_tries_are_bounded(teacher: Teacher):
    teacher.behaviour = lambda body, number: (503, "overloaded")
    with pytest.raises(UserError, match="no reply in 3 tries \\(HTTP 503 overloaded\\)"):
        ask({}, options(teacher, attempts=3))
    assert len(teacher.bodies) == 3


def test_a_refusal_is_not_tried_again(teacher: Teacher):
    teacher.behaviour = lambda body, number: (401, "bad key")
    with pytest.raises(UserError, match="refuses: HTTP 401 bad key"):
        ask({}, options(teacher))
    assert len(teacher.bodies) == 1


def test_a_slow_server_times_out_and_is_asked_again(teacher: Teacher):
    def slow_once(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.6 if number == 0 else 0)
        return 200, "fast"

    teacher.behaviour = slow_once
    assert ask({}, options(teacher, timeout_s=0.2)) == "fast"
    assert len(teacher.bodies) == 2


def test_no_server_is_named():
    gone = TeacherOptions(url="http://127.0.0.1:9/v1", model="m", attempts=2, first_wait_s=0.01)
    with pytest.raises(UserError, match="no reply in 2 tries"):
        ask({}, gone)


def test_another_kind_of_server_is_named(teacher: Teacher):
    teacher.behaviour = lambda body, number: (200, None)
    with pytest.raises(UserError, match="no chat completion"):
        ask({}, options(teacher))


def test_a_run_that_broke_off_goes_on(teacher: Teacher, tmp_path: Path):
    """What was answered before the failure is kept, and the half of a line that a kill left is dropped."""
    out, kept = tmp_path / "a.jsonl", tmp_path / "a.jsonl.partial.jsonl"
    teacher.behaviour = lambda body, number: (200, good(body)) if number < 7 else (400, "quota")
    flags = ["spelling", "--count=12", f"--out={out}", f"--teacher-url={teacher.url}", "--teacher-model=m"]
    with pytest.raises(UserError, match="quota"):
        main([*flags, "--teacher-threads=1"])
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    assert kept.read_bytes().count(b"\n") == 7
    kept.write_bytes(kept.read_bytes() + b'{"key": "ha')
    teacher.behaviour = lambda body, number: (200, good(body))
    asked = len(teacher.bodies)
    main(flags)
    assert len(teacher.bodies) - asked == 5
    assert out.read_bytes().count(b"\n") == 12
    assert kept.read_bytes().count(b"\n") == 12


def test_a_damaged_file_of_replies_is_named(teacher: Teacher, tmp_path: Path):
    (tmp_path / "kept.jsonl").write_text("nonsense\n")
    task = make_task("spelling")
    with pytest.raises(UserError, match=r"kept\.jsonl: row 1 is no kept reply"):
        list(taught(list(task.examples("train", 0, 2)), task, options(teacher), kept=tmp_path / "kept.jsonl"))


@pytest.mark.parametrize(
    "changes", [{"url": "localhost"}, {"model": ""}, {"threads": 0}, {"attempts": 0}, {"timeout_s": 0.0}]
)
def test_options_that_cannot_work_are_refused(changes: dict[str, Any]):
    with pytest.raises(UserError):
        TeacherOptions(**{"url": "http://h/v1", "model": "m", **changes})
