"""A stronger model that rewrites thoughts and answers, behind any OpenAI-compatible endpoint.

The prompt, the tool call and its result stay as synthesised; the teacher writes the thought and the final
answer. They are accepted only in the strict format, `<think>...</think>` and then the answer, and only if
the task scores them as right. Replies are kept in a file as they come, so that a run that was cut off goes
on without asking (or paying) twice.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from samosa_jax.data.chat.conversation import Conversation, ConversationError, check, split_think, to_json
from samosa_jax.errors import UserError
from samosa_jax.tasks.task import Example, Task

MIN_THOUGHT_CHARS = 50
MIN_ANSWER_CHARS = 40
MAX_WAIT_S = 60.0
_TRIED_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}

INSTRUCTIONS = (
    "You improve training examples for a small chat model. You get a conversation, with a draft of the "
    "assistant's thought and final answer. Rewrite both in your own words and keep every fact and number. "
    "Write exactly <think>, a thought of at least 60 characters, </think>, and after it the final answer in "
    "full sentences. The thought must not contain the final answer's text. If the draft calls a tool, "
    "the thought decides on that call and does not know its result; the answer uses the result. "
    "No HTML, no labels, no headings, no apologies."
)


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    url: str  # up to and with /v1
    model: str
    threads: int = 4  # requests at the same time
    timeout_s: float = 60.0  # for one reply
    attempts: int = 4  # tries of one request before the run stops
    first_wait_s: float = 1.0  # before the second try; doubled each time

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"--teacher-url is {self.url!r}; expected http://HOST:PORT/v1")
        if not self.model:
            raise UserError("--teacher-url is given without --teacher-model; name the model to ask")
        if self.threads < 1 or self.attempts < 1 or self.timeout_s <= 0:
            raise UserError(
                f"--teacher-threads {self.threads}, --teacher-attempts {self.attempts}, "
                f"--teacher-timeout-s {self.timeout_s}: all must be above zero"
            )


@dataclass(frozen=True, kw_only=True)
class Taught:
    """One example after the teacher: rewritten, or why its reply was rejected."""

    example: Example
    rejection: str | None = None


class ReplyError(ValueError):
    """Why a reply is not used; the same few words for the same reason, to be counted."""


def taught(
    examples: Sequence[Example],
    task: Task,
    options: TeacherOptions,
    *,
    kept: Path,
    broken_rules: Callable[[Conversation], Iterable[str]] = lambda conversation: (),
) -> Iterator[Taught]:
    """The examples as the teacher rewrites them, in their own order.

    Args:
      kept: JSONL file of replies by request; read first, appended to as replies come.
      broken_rules: names of further rules that a rewritten conversation breaks.

    Raises:
      UserError: the endpoint refuses or stays away after all tries; what was answered is in `kept`.
    """
    with _Replies(kept) as replies, ThreadPoolExecutor(options.threads) as pool:
        stopped = threading.Event()

        def reply_to(example: Example) -> str:
            body = request_body(example, options.model)
            key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            found = replies.get(key)
            if found is None:
                found = ask(body, options, should_stop=stopped.is_set)
                replies.add(key, found)
            return found

        waiting = [pool.submit(reply_to, example) for example in examples]
        try:
            for example, future in zip(examples, waiting, strict=True):
                try:
                    new = rewritten(example, task, future.result())
                    for rule in broken_rules(new.conversation):
                        raise ReplyError(f"breaks {rule}")
                    yield Taught(example=new)
                except ReplyError as error:
                    yield Taught(example=example, rejection=str(error))
        finally:
            stopped.set()
            for future in waiting:
                future.cancel()


def request_body(example: Example, model: str) -> dict[str, Any]:
    """The body of a chat completion that asks for one rewriting."""
    conversation = json.dumps(to_json(example.conversation)["messages"], ensure_ascii=False)
    messages = [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": conversation},
    ]
    return {"model": model, "messages": messages, "temperature": 0.7, "seed": 0}


def rewritten(example: Example, task: Task, reply: str) -> Example:
    """The example with the reply's thought and answer. Raises ReplyError."""
    try:
        thought, answer = split_think(reply.strip())
    except ConversationError:
        raise ReplyError("thought not balanced, or not first") from None
    if thought is None:
        raise ReplyError("no thought")
    if len(thought) < MIN_THOUGHT_CHARS:
        raise ReplyError(f"thought under {MIN_THOUGHT_CHARS} characters")
    if not answer:
        raise ReplyError("no answer after the thought")
    if len(answer) < MIN_ANSWER_CHARS:
        raise ReplyError(f"answer under {MIN_ANSWER_CHARS} characters")
    if " ".join(answer.split()) in " ".join(thought.split()):
        raise ReplyError("answer inside the thought")
    solution = list(example.solution)
    solution[-1] = replace(solution[-1], text=answer)
    solution[0] = replace(solution[0], think=thought)
    messages = (*example.prompt.messages, *solution)
    if task.score(example, answer, solution) < 1.0:
        raise ReplyError("wrong answer")
    conversation = Conversation(messages=messages, tools=example.conversation.tools)
    check(conversation)
    return replace(example, conversation=conversation)


def ask(
    body: Mapping[str, Any],
    options: TeacherOptions,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """The text of one chat completion; busy servers and cut connections are tried again.

    Raises:
      UserError: a refusal (with the server's words), no reply after all tries, or a reply that is none.
    """
    url = f"{options.url.rstrip('/')}/chat/completions"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = Request(url, data=json.dumps(body).encode(), headers=headers, method="POST")
    problem = "stopped"
    for attempt in range(options.attempts):
        if should_stop():
            break
        wait = min(MAX_WAIT_S, options.first_wait_s * 2**attempt)
        try:
            with urlopen(request, timeout=options.timeout_s) as response:
                return _text_of(response.read(), url)
        except HTTPError as error:
            said = " ".join(error.read(300).decode(errors="replace").split())
            problem = f"HTTP {error.code} {said}".strip()
            if error.code not in _TRIED_AGAIN:
                raise UserError(
                    f"{url} refuses: {problem}; check --teacher-model and OPENAI_API_KEY"
                ) from None
            after = error.headers.get("Retry-After", "")
            wait = min(MAX_WAIT_S, float(after)) if after.isdigit() else wait
        except (URLError, HTTPException, OSError) as error:
            problem = str(getattr(error, "reason", "") or error) or type(error).__name__
        if attempt + 1 < options.attempts:
            sleep(wait)
    raise UserError(
        f"{url} gave no reply in {options.attempts} tries ({problem}); run the same command again to go on"
    )


def _text_of(data: bytes, url: str) -> str:
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        content = None
    if not isinstance(content, str):
        raise UserError(
            f"{url} answers {data[:80]!r}, which is no chat completion; "
            "give an OpenAI-compatible --teacher-url"
        )
    return content


class _Replies:
    """Replies by request key, one JSON line each; a line cut off by a kill is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}

    def __enter__(self) -> "_Replies":
        whole = b""
        if self._path.exists():
            whole = self._path.read_bytes()
            whole = whole[: whole.rfind(b"\n") + 1]
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
            try:
                row = json.loads(line)
                self._known[row["key"]] = row["reply"]
            except (ValueError, LookupError, TypeError):
                raise UserError(
                    f"{self._path}: row {number} is no kept reply; expected key and reply; remove the file"
                ) from None
        try:
            self._file = open(self._path, "r+b" if self._path.exists() else "w+b")
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written ({error.strerror}); choose another --out"
            ) from None
        self._file.truncate(len(whole))
        self._file.seek(len(whole))
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def get(self, key: str) -> str | None:
        with self._lock:
            return self._known.get(key)

    def add(self, key: str, reply: str) -> None:
        with self._lock:
            self._known[key] = reply
            self._file.write(json.dumps({"key": key, "reply": reply}).encode() + b"\n")
            self._file.flush()
