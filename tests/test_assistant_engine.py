"""The assistant on real engines: a small network that learnt one dialogue by heart, and one that babbles."""

import dataclasses
import json
import queue
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from test_model import BASE, make_params
from test_tokenizer import make_model
from tiny_training import mesh_of

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.data.chat.template import render
from samosa_jax.data.tokenizer import SentencePieceTokenizer
from samosa_jax.model.gpt import Network
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.engine import Engine
from samosa_jax.rollout.events import Ended, Event, TextDelta, ToolCalled, ToolReturned
from samosa_jax.rollout.request import Generation, Sampling
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry

TOKENIZER = SentencePieceTokenizer(make_model())
CONFIG = dataclasses.replace(BASE, vocab_size=TOKENIZER.vocab_size, context_len=256)
GREEDY = Sampling(temperature=0)
SECONDS = 60.0  # that nothing here takes


def user(text: str) -> Message:
    return Message(role="user", text=text)


def says(text: str, think: str | None = None, expression: str | None = None) -> Message:
    call = None if expression is None else ToolCall("calculator", {"expression": expression})
    return Message(role="assistant", text=text, think=think, tool_call=call)


FIRST = (says("Well.", "Let me add.", "2+3"), Message(role="tool", text="5"), says("It is 5."))
SECOND = (says("", None, "4+4"), Message(role="tool", text="8"), says("That is 8 \N{SLIGHTLY SMILING FACE}."))
DIALOGUE = Conversation(messages=(user("What is 2+3?"), *FIRST, user("And 4+4?"), *SECOND))


def learn(network: Network, params: Any, conversation: Conversation) -> Any:
    """The parameters after the conversation has been learnt by heart."""
    tokens = jnp.asarray(render(conversation, TOKENIZER).tokens)[None]
    position = jnp.arange(tokens.shape[1])[None]
    optimizer = optax.adam(6e-3)

    def loss(params: Any) -> jax.Array:
        logits = network.logits(
            params,
            tokens,
            k_lo=jnp.zeros_like(position),
            k_hi=position + 1,
            position=position,
            turn_position=position,
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:]).mean()

    @jax.jit
    def train(params: Any) -> tuple[Any, jax.Array]:
        def step(_: jax.Array, state: Any) -> Any:
            params, moments = state
            updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
            return optax.apply_updates(params, updates), moments

        params, _ = jax.lax.fori_loop(0, 150, step, (params, optimizer.init(params)))
        return params, loss(params)

    params, final = train(params)
    assert final < 0.05
    return params


class Networks(NamedTuple):
    network: Network
    learnt: Any
    babbling: Any


@pytest.fixture(scope="module")
def networks() -> Networks:
    network = Network.build(CONFIG)
    params = make_params(network)
    return Networks(network, learn(network, params, DIALOGUE), params)


def make_engine(networks: Networks, params: Any) -> Engine:
    return Engine(networks.network, params, mesh=mesh_of(data=1), max_batch=4, block_tokens=4)


@pytest.fixture(scope="module")
def learnt(networks: Networks) -> Iterator[Assistant]:
    engine = make_engine(networks, networks.learnt)
    with Assistant([engine], TOKENIZER, registry=Registry([CalculatorTool()])) as assistant:
        yield assistant


@pytest.fixture(scope="module")
def babbling(networks: Networks) -> Iterator[Assistant]:
    engines = [make_engine(networks, networks.babbling) for _ in range(2)]
    with Assistant(engines, TOKENIZER, registry=Registry([CalculatorTool()])) as assistant:
        yield assistant


def collect(events: "queue.SimpleQueue[Event]", choices: int = 1) -> list[Event]:
    """All events, to the end of every choice."""
    found: list[Event] = []
    while sum(isinstance(event, Ended) for event in found) < choices:
        found.append(events.get(timeout=SECONDS))
    return found


def ended_of(events: list[Event], choice: int = 0) -> Ended:
    (ended,) = [event for event in events if isinstance(event, Ended) and event.choice == choice]
    return ended


def test_two_turns_with_tools_as_learnt_and_nothing_read_twice(learnt: Assistant) -> None:
    asked = Conversation(messages=DIALOGUE.messages[:1])
    events = list(learnt.stream(asked, GREEDY))
    first = ended_of(events)
    assert first.messages == FIRST
    assert first.reason == "stop"
    assert [type(event).__name__ for event in events if not isinstance(event, TextDelta)] == [
        "ToolCalled",
        "ToolReturned",
        "Ended",
    ]
    (called,) = [event for event in events if isinstance(event, ToolCalled)]
    assert (called.name, json.loads(called.arguments)) == ("calculator", {"expression": "2+3"})
    thought = "".join(
        event.text for event in events if isinstance(event, TextDelta) and event.kind == "think"
    )
    assert thought == "Let me add."

    more = Conversation(messages=(*asked.messages, *first.messages, user("And 4+4?")))
    second = ended_of(list(learnt.stream(more, GREEDY)))
    assert second.messages == SECOND
    read = len(first.generation.prompt) + len(first.generation.tokens)
    assert second.usage.cached_tokens == read - 1  # all but the last token, which nothing was said after
    whole = Conversation(messages=(*more.messages, *second.messages))
    tokens = [*second.generation.prompt.tokens.tolist(), *second.generation.tokens]
    assert tokens == render(whole, TOKENIZER).tokens.tolist()


def test_calls_of_the_asker_and_their_results(learnt: Assistant) -> None:
    schemas = Registry([CalculatorTool()]).schemas()
    asked = Conversation(messages=DIALOGUE.messages[:1], tools=schemas)
    # The schema was not learnt; the call is forced, its end is the model's.
    events = list(
        learnt.stream(
            Conversation(messages=asked.messages),
            GREEDY,
            tools_run=False,
            forced_start='<think>Let me add.</think>Well.<|python_start|>{"tool": "calculator',
        )
    )
    ended = ended_of(events)
    assert ended.reason == "stop"  # nobody knows the tool
    (returned,) = [event for event in events if isinstance(event, ToolReturned)]
    assert returned.result.text == "error: there is no tool 'calculator'; known tools: none"


def test_a_stop_string_and_a_cancelled_stream(learnt: Assistant) -> None:
    asked = Conversation(messages=DIALOGUE.messages[:1])
    ended = ended_of(list(learnt.stream(asked, GREEDY, stop=("is 5",))))
    assert ended.reason == "stop"
    assert ended.messages == (*FIRST[:2], says("It "))
    stream = learnt.stream(asked, GREEDY)
    assert isinstance(next(stream), TextDelta)
    stream.close()
    assert ended_of(list(learnt.stream(asked, GREEDY))).messages == FIRST


def test_plain_text_goes_on_as_learnt(learnt: Assistant) -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    tokens = render(Conversation(messages=DIALOGUE.messages[:1]), TOKENIZER, for_answer=True).tokens
    learnt.complete(tokens.tolist(), Sampling(temperature=0, max_tokens=12), events.put)
    text = ended_of(collect(events)).messages[0].text
    assert text.startswith("Let me add.Well.")


def test_whatever_a_model_babbles_its_events_and_messages_agree(babbling: Assistant) -> None:
    asked = Conversation(messages=(user("Hello?"),))
    num_asked = 8
    answers: list[queue.SimpleQueue[Event]] = []
    for number in range(num_asked):
        answers.append(queue.SimpleQueue())
        sampling = Sampling(temperature=1.3, seed=number, max_tokens=60, top_logprobs=2 * (number % 2))
        start = ("", "<think>", "<|python_start|>", "<|python_start|>2+2")[number % 4]
        babbling.answer(asked, sampling, answers[-1].put, choices=2, forced_start=start)
    reasons: set[str] = set()
    for events in (collect(answer, 2) for answer in answers):
        for choice in range(2):
            own = [event for event in events if event.choice == choice]
            ended = ended_of(events, choice)
            assert own[-1] is ended
            reasons.add(ended.reason)
            spoken = [message for message in ended.messages if message.role == "assistant"]
            deltas = [event for event in own if isinstance(event, TextDelta)]
            text = "".join(delta.text for delta in deltas if delta.kind == "text")
            think = "".join(delta.text for delta in deltas if delta.kind == "think")
            assert text == "".join(message.text for message in spoken)
            assert think == "".join(message.think or "" for message in spoken)
            generation = ended.generation
            assert ended.usage.completion_tokens == sum(generation.sampled) <= 60
            entries = [entry for delta in deltas for entry in delta.logprobs]
            assert {len(entry.top) for entry in entries} <= {0, 2}
            # It can be told what it said.
            more = Conversation(messages=(*asked.messages, *ended.messages, user("And?")))
            assert babbling.num_prompt_tokens(more) > len(generation.prompt)
    assert reasons <= {"stop", "length"}
    stats = babbling.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert all(engine.ended > 0 for engine in stats.engines)  # both had some


def test_what_does_not_fit_leaves_the_assistant_serving(learnt: Assistant) -> None:
    long = Conversation(messages=(user("What is 2+3? " * 40),))
    num_tokens = learnt.num_prompt_tokens(long)
    with pytest.raises(ValueError, match=f"has {num_tokens} tokens.* room for 255"):
        learnt.stream(long, GREEDY)
    full = Conversation(messages=(user("What is 2+3? " * 29),))
    ended = ended_of(list(learnt.stream(full, Sampling(temperature=2.0, seed=1))))
    assert 200 < ended.usage.prompt_tokens < 256
    assert len(ended.generation.prompt) + len(ended.generation.tokens) <= 256
    asked = Conversation(messages=DIALOGUE.messages[:1])
    assert ended_of(list(learnt.stream(asked, GREEDY))).messages == FIRST


class FailingEngine(Engine):
    """Fails in its third step."""

    num_steps = 0

    def step(self, *, meanwhile: Callable[[], None] = lambda: None) -> list[Generation]:
        self.num_steps += 1
        if self.num_steps == 3:
            raise RuntimeError("the device is gone")
        return super().step(meanwhile=meanwhile)


def test_an_engine_that_failed_serves_again(networks: Networks, caplog: pytest.LogCaptureFixture) -> None:
    engine = FailingEngine(
        networks.network, networks.learnt, mesh=mesh_of(data=1), max_batch=4, block_tokens=4
    )
    asked = Conversation(messages=DIALOGUE.messages[:1])
    with Assistant([engine], TOKENIZER, registry=Registry([CalculatorTool()])) as assistant:
        events = list(assistant.stream(asked, GREEDY, choices=2))
        for choice in range(2):
            ended = ended_of(events, choice)
            assert ended.reason == "error"
            assert ended.error == "RuntimeError: the device is gone"
            assert ended.generation.tokens
        assert "the engine failed" in caplog.text
        assert ended_of(list(assistant.stream(asked, GREEDY))).messages == FIRST
