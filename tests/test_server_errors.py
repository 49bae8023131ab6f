"""What is wrong with a request is said in OpenAI's JSON, with the right status and the name of the field."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import serving
from pydantic import BaseModel, ValidationError
from serving import NAME, LiveServer

from samosa_jax.rollout.assistant import Assistant, Job
from samosa_jax.server.api_errors import to_json_bytes
from samosa_jax.server.requests import ChatRequest, CompletionRequest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "Hi"}


ARGUMENTS = "messages[1].tool_calls[0].function.arguments"


def called_with(value: str) -> list[dict[str, Any]]:
    """A dialogue with a call whose one argument is this text in JSON."""
    call = {"function": {"name": "f", "arguments": f'{{"a": {value}}}'}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    return [USER, said, {"role": "tool", "content": "x"}]


def function(name: str = "f", **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def live(run: Path) -> Iterator[LiveServer]:
    with serving.serving(run, limits={"max_body_bytes": 50_000, "max_choices": 3}) as live:
        yield live


@pytest.fixture(scope="module")
def http(live: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.address, timeout=60) as http:
        yield http


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    assert response.headers["content-type"] == "application/json"
    return body["error"]


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"messages": None}, "messages", "messages: input should be a valid list"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": "Hi"}, "messages", "valid list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "'system', 'developer'"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "messages[0].role is missing"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "valid string or input"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "messages: message 0 is empty"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages", "ends with the system message"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "messages", "ends with the assistant"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages", "no tool result"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
            "'text'",
        ),
        ({"temperature": "0.5"}, "temperature", "valid number"),
        ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
        ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
        ({"temperature": 10**400}, "temperature", "temperature"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"top_k": -1}, "top_k", "greater than or equal to 0"),
        ({"top_k": 2**31}, "top_k", "less than"),
        ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
        ({"presence_penalty": 3}, "presence_penalty", "less than or equal to 2"),
        ({"frequency_penalty": -3}, "frequency_penalty", "greater than or equal to -2"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"seed": 1.5}, "seed", "integer"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 4}, "n", "at most 3"),
        ({"n": True}, "n", "integer"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": -5}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 10**30}, "max_tokens", "room for 1024"),
        ({"max_completion_tokens": 5000}, "max_tokens", "room for 1024"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, None, "differ"),
        ({"stop": ""}, "stop", "at least 1 character"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stop": [1]}, "stop[0]", "valid string"),
        ({"stream": "yes"}, "stream", "valid boolean"),
        ({"stream_options": {"include_usage": True}}, None, "stream=true"),
        ({"stream": True, "stream_options": {"usage": 1}}, "stream_options.usage", "no parameter"),
        ({"top_logprobs": 3}, None, "logprobs=true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "is missing"),
        ({"tools": [{"type": "web", "function": {"name": "f"}}]}, "tools[0].type", "'function'"),
        ({"tools": [function("no spaces")]}, "tools[0].function.name", "pattern"),
        ({"tools": [function(), function()]}, None, "two tools are called f"),
        ({"tools": [function(type="array")]}, "tools[0].function", '{"type": "object"'),
        ({"tools": [function(properties=["a"])]}, "tools[0].function", '"properties" must map'),
        ({"tools": [function(properties={}, required=["a"])]}, "tools[0].function", "names 'a'"),
        ({"tools": [function()] * 129}, "tools", "at most 128"),
        ({"tool_choice": "maybe"}, "tool_choice", "'none', 'auto' or 'required'"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice", "names g"),
        ({"response_format": {"type": "json_object"}}, "response_format", "is not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "is not supported"),
        ({"functions": []}, "functions", "is not supported"),
        ({"temprature": 1}, "temprature", "there is no parameter temprature"),
        ({"user": json.loads("[" * 80 + "]" * 80)}, None, "more than 64 deep"),
        ({"messages": called_with("[" * 900 + "]" * 900)}, ARGUMENTS, "more than 64 deep"),
        ({"messages": called_with("[" * 9000 + "]" * 9000)}, ARGUMENTS, "brackets without end"),
        ({"messages": called_with("9" * 5000)}, ARGUMENTS, "thousands of digits"),
        ({"messages": called_with("no JSON")}, "messages", "not JSON"),
    ],
)
def test_a_bad_chat_request(http: httpx.Client, change: dict[str, Any], param: str | None, words: str):
    error = error_of(http.post(CHAT, json={"model": NAME, "messages": [USER], **change}), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({}, "prompt", "prompt is missing"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": [["a"]]}, "prompt[0][0]", "valid integer"),
        ({"prompt": [-1]}, "prompt[0]", "greater than or equal to 0"),
        ({"prompt": ["a", 1]}, "prompt[1]", "valid string"),
        ({"prompt": [99_999]}, "prompt", "tokens are 0 to"),
        ({"prompt": ["a"] * 4}, "n", "asks for 4 answers"),
        ({"prompt": "a", "echo": True}, "echo", "is not supported"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "is not supported"),
        ({"prompt": "a", "best_of": 2}, "best_of", "is not supported"),
        ({"prompt": "a", "logprobs": True}, "logprobs", "valid integer"),
        ({"prompt": "a", "messages": []}, "messages", "no parameter"),
    ],
)
def test_a_bad_completion_request(http: httpx.Client, change: dict[str, Any], param: str, words: str):
    error = error_of(http.post(COMPLETIONS, json={"model": NAME, **change}), 400)
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize(
    ("model", "change"),
    [
        (CompletionRequest, {"prompt": ["a", 1] * 500}),
        (CompletionRequest, {"prompt": [[1, "a"] * 500] * 2}),
        (ChatRequest, {"messages": [1] * 1000}),
        (ChatRequest, {"messages": [{**USER, "content": [1] * 1000}]}),
        (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": [1] * 1000}]}),
    ],
)
def test_of_many_mistakes_in_a_list_one_is_looked_for(model: type[BaseModel], change: dict[str, Any]):
    """A megabyte of mistakes, all of them told, took seconds in which no other answer went on."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate({"model": NAME, **change})
    assert caught.value.error_count() <= 4  # one for each type that the value may have


def test_what_asks_for_what_happens_anyway_is_accepted(http: httpx.Client):
    harmless = {
        "logit_bias": {},
        "response_format": {"type": "text"},
        "functions": None,
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "temperature": None,
        "stop": None,
        "max_tokens": 1,
    }
    assert http.post(CHAT, json={"model": NAME, "messages": [USER], **harmless}).status_code == 200
    assert (
        http.post(
            COMPLETIONS, json={"model": NAME, "prompt": "a", "echo": False, "best_of": 1, "suffix": ""}
        ).status_code
        == 200
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context(live: LiveServer, stream: bool):
    client = live.client()
    # The longer one is refused without a look at its tokens.
    for words, said in ((1100, r"has \d+ tokens"), (9000, r"has at least \d+ tokens")):
        with pytest.raises(openai.BadRequestError, match=f"the prompt {said}; the context of 1024") as e:
            client.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": "tick " * words}], stream=stream
            )
        assert (e.value.code, e.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError) as e:
        client.completions.create(model=NAME, prompt=["a", "tick " * 1100], stream=stream)
    assert (e.value.code, e.value.param) == ("context_length_exceeded", "prompt")
    assert live.service.admission.in_flight == 0


def test_an_unknown_model(live: LiveServer):
    with pytest.raises(openai.NotFoundError) as e:
        live.client().chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "Hi"}])
    assert (e.value.code, e.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is missing"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", ""),
        (b"[]", "the body"),
        (b'"text"', "the body"),
        (b"null", "the body"),
        (b"[" * 20_000, ""),
        (b'{"model": ' + b"9" * 10_000 + b"}", ""),
        (b'{"model": "\\ud800", "messages": []}', ""),
        (b'{"model": NaN, "messages": []}', ""),
    ],
)
def test_a_body_that_is_no_request(http: httpx.Client, body: bytes, words: str):
    error = error_of(http.post(CHAT, content=body, headers={"Content-Type": "application/json"}), 400)
    assert words in error["message"]


def test_half_a_surrogate_pair_is_written_as_a_question_mark():
    assert to_json_bytes({"text": "a\ud800é"}) == '{"text":"a?é"}'.encode()


def test_other_content_types(http: httpx.Client):
    body = json.dumps({"model": NAME, "messages": [USER]})
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        error = error_of(http.post(CHAT, content=body, headers={"Content-Type": kind}), 415)
        assert "Content-Type: application/json" in error["message"]
    charset = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert http.post(CHAT, content=body, headers=charset).status_code == 200


def test_unknown_routes_and_methods(http: httpx.Client):
    for path in ("/v1", "/v1/chat", "/v1/chat/completions/", "/docs", "/v2/models", "/%ff"):
        error_of(http.get(path), 404)
    error = error_of(http.get(CHAT), 405)
    assert "GET does not go with /v1/chat/completions" in error["message"]
    for method, path in (("POST", "/v1/models"), ("DELETE", "/health"), ("PUT", COMPLETIONS)):
        response = http.request(method, path)
        error_of(response, 405)
        assert response.headers["allow"]


def test_a_body_that_is_too_large(http: httpx.Client):
    large = {"model": NAME, "messages": [{"role": "user", "content": "x" * 60_000}]}
    for _ in range(3):
        assert "larger than 50000 bytes" in error_of(http.post(CHAT, json=large), 413)["message"]
    chunks = (b"x" * 10_000 for _ in range(10))
    headers = {"Content-Type": "application/json"}
    error_of(http.post(CHAT, content=chunks, headers=headers), 413)
    much_larger = {"model": NAME, "messages": [{"role": "user", "content": "x" * 10_000_000}]}
    error_of(http.post(CHAT, json=much_larger), 413)


class Broken(Assistant):
    """An assistant with a bug."""

    def answer(self, *arguments: Any, **options: Any) -> Job:
        raise KeyError("a secret of the inner workings")


def test_a_bug_of_ours_is_logged_and_not_told(run: Path, caplog: pytest.LogCaptureFixture):
    with serving.serving(run, assistant=Broken) as live, httpx.Client(base_url=live.address) as http:
        with caplog.at_level(logging.ERROR):
            error = error_of(http.post(CHAT, json={"model": NAME, "messages": [USER]}), 500)
            assert (error["type"], error["code"]) == ("server_error", "internal_error")
            assert "secret" not in error["message"]
            deadline = time.monotonic() + 10
            while "a secret of the inner workings" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.02)  # it is written after the answer
        assert "a secret of the inner workings" in caplog.text
        assert live.service.admission.in_flight == 0
        assert http.get("/health").json()["status"] == "ready"


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_ends_the_answer_with_an_error(
    run: Path, stream: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    from samosa_jax.rollout.engine import Engine

    with serving.serving(run) as live:
        client = live.client()
        step = Engine.step

        def fail(engine: Engine) -> None:
            monkeypatch.setattr(Engine, "step", step)
            raise RuntimeError("out of memory")

        monkeypatch.setattr(Engine, "step", fail)
        with pytest.raises(openai.APIError, match="the server failed; its log says why"):
            list(client.completions.create(model=NAME, prompt="a tick", stream=stream))
        assert "out of memory" in caplog.text
        assert client.completions.create(model=NAME, prompt="a tick", max_tokens=1).choices[0].text == " tock"
