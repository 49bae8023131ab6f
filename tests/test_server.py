"""The API as programs use it: through OpenAI's own client, against a server that runs."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import serving
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from serving import AFTER_CALL, BEFORE_CALL, CALL, NAME, THOUGHT, LiveServer

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is six times seven?"}]
GET_TIME: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALCULATOR: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Another one than the server's.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def live(run: Path) -> Iterator[LiveServer]:
    with serving.serving(run) as live:
        yield live


@pytest.fixture(scope="module")
def client(live: LiveServer) -> openai.OpenAI:
    return live.client()


def test_models(client: openai.OpenAI):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (NAME, "model", "samosa_jax")
    assert model.model_extra is not None
    assert model.model_extra["context_length"] == serving.CONTEXT_LEN
    assert model.model_extra["tools"] == ["calculator"]
    assert model.model_extra["defaults"] == {"temperature": 0.0, "top_k": 50, "max_tokens": 256}
    assert client.models.retrieve(NAME) == model
    with pytest.raises(openai.NotFoundError, match="there is no model gpt-4"):
        client.models.retrieve("gpt-4")


def test_an_answer_with_a_thought_and_a_tool_of_the_server(client: openai.OpenAI):
    completion = client.chat.completions.create(model=NAME, messages=ASK)
    (choice,) = completion.choices
    assert completion.object == "chat.completion"
    assert completion.id.startswith("chatcmpl-")
    assert choice.finish_reason == "stop"
    assert choice.message.content == BEFORE_CALL + AFTER_CALL
    assert choice.message.tool_calls is None
    extra = choice.message.model_extra or {}
    assert extra["reasoning_content"] == THOUGHT
    called, returned = extra["tool_events"]
    assert (called["type"], called["name"]) == ("call", "calculator")
    assert called["arguments"] == f'{{"expression": "{CALL}"}}'
    assert (returned["type"], returned["id"], returned["name"]) == ("result", called["id"], "calculator")
    assert (returned["content"], returned["is_error"]) == ("42", False)
    usage = completion.usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens > 10


def test_a_stream_says_the_same(client: openai.OpenAI):
    whole = client.chat.completions.create(model=NAME, messages=ASK)
    chunks = list(
        client.chat.completions.create(
            model=NAME, messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    *spoken, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert whole.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in spoken)
    deltas = [chunk.choices[0].delta for chunk in spoken]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    extras = [delta.model_extra or {} for delta in deltas]
    assert "".join(extra.get("reasoning_content", "") for extra in extras) == THOUGHT
    events = list(itertools.chain.from_iterable(extra.get("tool_events", []) for extra in extras))
    assert [event["type"] for event in events] == ["call", "result"]
    assert [chunk.choices[0].finish_reason for chunk in spoken] == [None] * (len(spoken) - 1) + ["stop"]


def test_without_stream_options_no_chunk_has_usage(live: LiveServer):
    body = {"model": NAME, "messages": ASK, "stream": True}
    with httpx.stream("POST", f"{live.address}/v1/chat/completions", json=body, timeout=60) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        text = response.read().decode()
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert "usage" not in text
    assert all(event.startswith("data: {") for event in events[:-2])


def test_calls_of_the_clients_tools_go_to_the_client_and_back(client: openai.OpenAI):
    messages = list(ASK)
    first = client.chat.completions.create(
        model=NAME, messages=messages, tools=[CALCULATOR, GET_TIME], tool_choice="required"
    )
    (choice,) = first.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("calculator", f'{{"expression": "{CALL}"}}')
    assert choice.message.content is None
    assert "tool_events" not in (choice.message.model_extra or {})
    answer: Any = choice.message.model_dump()  # as programs send it back, with every field there is
    messages += [answer, {"role": "tool", "tool_call_id": call.id, "content": "42"}]
    second = client.chat.completions.create(model=NAME, messages=messages, tools=[CALCULATOR, GET_TIME])
    assert second.choices[0].message.content == AFTER_CALL
    assert second.choices[0].finish_reason == "stop"


def test_a_named_tool_is_called_and_streamed(client: openai.OpenAI):
    chunks = list(
        client.chat.completions.create(
            model=NAME,
            messages=ASK,
            tools=[GET_TIME],
            tool_choice={"type": "function", "function": {"name": "get_time"}},
            stream=True,
        )
    )
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert len(calls) == 1
    assert (calls[0].index, calls[0].type) == (0, "function")
    assert calls[0].function is not None
    assert (calls[0].function.name, calls[0].function.arguments) == ("get_time", "{}")
    assert calls[0].id
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_tool_of_the_server_can_be_asked_for(client: openai.OpenAI):
    completion = client.chat.completions.create(model=NAME, messages=ASK, tool_choice="required")
    extra = completion.choices[0].message.model_extra or {}
    assert [event["type"] for event in extra["tool_events"]] == ["call", "result"]
    assert extra["tool_events"][0]["name"] == "calculator"
    assert completion.choices[0].message.content == AFTER_CALL
    assert "reasoning_content" not in extra


def test_tools_that_are_not_described_are_run_all_the_same(run: Path):
    with serving.serving(run, describe_tools=False) as live:
        client = live.client()
        completion = client.chat.completions.create(model=NAME, messages=ASK)
        forced = client.chat.completions.create(model=NAME, messages=ASK, tool_choice="required")
    assert completion.usage is not None
    assert completion.usage.prompt_tokens < 60
    for answer in (completion, forced):
        called, returned = (answer.choices[0].message.model_extra or {})["tool_events"]
        assert (called["name"], returned["name"]) == ("calculator", "calculator")


def test_without_tools_none_is_run(client: openai.OpenAI):
    shown = client.chat.completions.create(model=NAME, messages=ASK)
    hidden = client.chat.completions.create(model=NAME, messages=ASK, tool_choice="none", tools=[GET_TIME])
    assert shown.usage is not None
    assert hidden.usage is not None
    assert hidden.usage.prompt_tokens < shown.usage.prompt_tokens
    assert hidden.choices[0].finish_reason == "stop"
    assert hidden.choices[0].message.tool_calls is None
    events = (hidden.choices[0].message.model_extra or {})["tool_events"]
    assert events[1]["is_error"]  # the model called all the same, and was told that there is no such tool


def test_stop_and_max_tokens(client: openai.OpenAI):
    completion = client.chat.completions.create(model=NAME, messages=ASK, stop="42")
    assert completion.choices[0].message.content == BEFORE_CALL + AFTER_CALL.partition("42")[0]
    assert completion.choices[0].finish_reason == "stop"
    several = client.chat.completions.create(model=NAME, messages=ASK, stop=["é", "makes"])
    assert (several.choices[0].message.content or "").endswith("That ")
    short = client.chat.completions.create(model=NAME, messages=ASK, max_tokens=3)
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 3
    same = client.chat.completions.create(model=NAME, messages=ASK, max_completion_tokens=3)
    assert same.choices[0].message == short.choices[0].message


def test_n_answers_and_their_seed(client: openai.OpenAI):
    def roll(*, temperature: float = 1, **options: Any) -> list[str]:
        completion = client.completions.create(
            model=NAME, prompt="we roll", max_tokens=40, temperature=temperature, n=3, **options
        )
        assert [choice.index for choice in completion.choices] == [0, 1, 2]
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 3 * 40
        return [choice.text for choice in completion.choices]

    first = roll(seed=7)
    assert len(set(first)) == 3
    assert roll(seed=7) == first
    assert roll(seed=8) != first
    assert len(set(roll(temperature=0))) == 1


def test_several_chat_answers_stream_side_by_side(client: openai.OpenAI):
    texts: dict[int, str] = {0: "", 1: "", 2: ""}
    ends: dict[int, str] = {}
    for chunk in client.chat.completions.create(model=NAME, messages=ASK, n=3, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
    assert set(texts.values()) == {BEFORE_CALL + AFTER_CALL}
    assert ends == {0: "stop", 1: "stop", 2: "stop"}


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs(client: openai.OpenAI, stream: bool):
    options: dict[str, Any] = {"model": NAME, "messages": ASK, "logprobs": True, "top_logprobs": 3}
    if stream:
        chunks = client.chat.completions.create(**options, stream=True)
        parts = [chunk.choices[0].logprobs for chunk in chunks]
        content = [token for part in parts if part is not None for token in part.content or ()]
    else:
        logprobs = client.chat.completions.create(**options).choices[0].logprobs
        assert logprobs is not None
        content = list(logprobs.content or ())
    assert b"".join(bytes(token.bytes or ()) for token in content).decode() == BEFORE_CALL + AFTER_CALL
    for token in content:
        assert -0.01 < token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-4)


def test_completions_of_texts_and_of_tokens(client: openai.OpenAI, run: Path):
    tokenizer = serving.open_trained(run).tokenizer
    text = client.completions.create(model=NAME, prompt="a tick", max_tokens=3).choices[0]
    assert (text.text, text.finish_reason) == (" tock tick tock", "length")
    tokens = tokenizer.encode("a tick")
    assert client.completions.create(model=NAME, prompt=tokens, max_tokens=3).choices[0].text == text.text
    both = client.completions.create(model=NAME, prompt=["a tick", "a tock"], n=2, max_tokens=1)
    assert [(choice.index, choice.text) for choice in both.choices] == [
        (0, " tock"),
        (1, " tock"),
        (2, " tick"),
        (3, " tick"),
    ]
    lists = client.completions.create(model=NAME, prompt=[tokens, [1, *tokens]], max_tokens=1)
    assert [choice.text for choice in lists.choices] == [" tock", " tock"]
    default = client.completions.create(model=NAME, prompt="a tick")
    assert default.usage is not None
    assert default.usage.completion_tokens == 16


def test_completion_logprobs_and_stream(client: openai.OpenAI):
    options: dict[str, Any] = {"model": NAME, "prompt": "a tick", "max_tokens": 12, "logprobs": 2}
    whole = client.completions.create(**options).choices[0]
    assert whole.logprobs is not None
    assert whole.logprobs.tokens == [" tock", " tick"] * 6
    assert whole.logprobs.text_offset == [5 * number for number in range(12)]
    assert all(len(top) == 2 for top in whole.logprobs.top_logprobs or ())
    chunks = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.text
    offsets = [
        offset
        for chunk in chunks
        for choice in chunk.choices
        for offset in (choice.logprobs.text_offset if choice.logprobs else None) or ()
    ]
    assert offsets == whole.logprobs.text_offset
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_a_conversation_of_several_turns(client: openai.OpenAI):
    """Several messages of one speaker in a row, a developer, and content in parts."""
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "And kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "user", "content": "there"},
        {"role": "assistant", "content": "Hi."},
        *ASK,
    ]
    completion = client.chat.completions.create(
        model=NAME, messages=messages, user="me", store=False, metadata={"a": "b"}, service_tier="auto"
    )
    assert completion.choices[0].message.content == BEFORE_CALL + AFTER_CALL
    assert completion.usage is not None
    alone = client.chat.completions.create(model=NAME, messages=ASK).usage
    assert alone is not None
    assert completion.usage.prompt_tokens > alone.prompt_tokens


def test_what_was_read_before_is_not_read_again(client: openai.OpenAI):
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me something new."}]
    first = client.chat.completions.create(model=NAME, messages=messages, max_tokens=2)
    second = client.chat.completions.create(model=NAME, messages=messages, max_tokens=2)
    cached = [
        completion.usage.prompt_tokens_details.cached_tokens or 0
        for completion in (first, second)
        if completion.usage and completion.usage.prompt_tokens_details
    ]
    assert len(cached) == 2
    assert first.usage is not None
    assert cached[0] < first.usage.prompt_tokens - 5
    assert cached[1] == first.usage.prompt_tokens - 1  # the last one is what the answer goes on from


def test_replicas_share_the_work(run: Path):
    with serving.serving(run, replicas=2) as live:
        client = live.client()
        completion = client.completions.create(
            model=NAME, prompt=["a tick"] * 8, max_tokens=60, temperature=0
        )
        assert {choice.text for choice in completion.choices} == {" tock tick" * 30}
        metrics = httpx.get(f"{live.address}/metrics").text
    for engine in (0, 1):
        assert f'samosa_generated_tokens_total{{engine="{engine}"}} 240.0' in metrics
