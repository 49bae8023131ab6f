"""Which questions need the web, and what is searched for."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_questions import FURTHER_NEEDING, FURTHER_NOT_NEEDING, NEEDING, NOT_NEEDING

from samosa_jax.data.chat.conversation import Message, Speaker
from samosa_jax.rollout.tools.query_classifier import MAX_QUERY_WORDS, Decision, classify
from samosa_jax.rollout.tools.query_patterns import CHANGING, TIMELY, WISHES, Pattern
from samosa_jax.rollout.tools.query_vetoes import IDENTITY, SETTLED, SMALL_TALK, STORIES, VETOES
from samosa_jax.tasks.catalog import make_task
from samosa_jax.tasks.task import Example
from samosa_jax.tasks.tool_schemas import WEB_SEARCH


def talk(*texts: str) -> list[Message]:
    """User and assistant in turns, the last one the user's."""
    roles: tuple[Speaker, Speaker] = ("user", "assistant")
    return [Message(role=roles[at % 2], text=text) for at, text in enumerate(texts)]


def wrong(needing: Sequence[str], not_needing: Sequence[str]) -> list[tuple[str, Decision]]:
    expected = [(text, True) for text in needing] + [(text, False) for text in not_needing]
    decided = [(text, classify(talk(text)), needs) for text, needs in expected]
    return [(text, decision) for text, decision, needs in decided if decision.needs_search != needs]


@pytest.mark.parametrize("text", NEEDING)
def test_questions_that_need_the_web(text: str):
    decision = classify(talk(text))
    assert decision.needs_search, decision
    assert decision.query
    assert decision.reason


@pytest.mark.parametrize("text", NOT_NEEDING)
def test_questions_that_do_not(text: str):
    decision = classify(talk(text))
    assert not decision.needs_search, decision
    assert decision.query == ""
    assert decision.reason


CONTEXTUAL = (
    (("Who is Sundar Pichai?", "An executive.", "What is his net worth?"), "Sundar Pichai net worth"),
    (
        ("Tell me about Taylor Swift.", "A singer.", "What's the latest news about her?"),
        "latest news about Taylor Swift",
    ),
    (("Tell me about Tesla.", "A car maker.", "What is its share price?"), "Tesla share price"),
    (("who is elon musk", "An entrepreneur.", "what is he doing right now"), "elon musk doing right now"),
    (("What do you know about Nokia?", "A firm.", "Who is the CEO of that company?"), "CEO of Nokia"),
    (("What is the capital of France?", "Paris.", "What's the weather there?"), "weather capital of France"),
    (("I may travel to Lisbon.", "Nice!", "Is it raining there today?"), "raining Lisbon today"),
    (
        ("Tell me about Lisbon.", "A city.", "How many live there?", "Many.", "What's the weather there?"),
        "weather Lisbon",
    ),
    (
        ('Have you read "the silent sea"?', "Yes.", "When does the film of it come out?"),
        "When film of silent sea come out",
    ),
    (("Who leads Kestrel Motors now?", "Iris Holm.", "How old is she?"), None),
    (("My uncle owns Kestrel Motors shares. What are they worth today?",), "Kestrel Motors worth today"),
    (("Weather in Seoul?", "Rain.", "What about the humidity?"), "humidity Seoul"),
    (("I have 2 sons of 5 and 7. What is the latest iPhone?",), "latest iPhone"),
    (("Weather in Seoul?", "Rain.", "And who is the CEO of Apple?"), "CEO of Apple"),
    (("I read about Lisbon. It’s big. What’s the weather there?",), "weather Lisbon"),
    (("Weather in Seoul?", "Rain.", "And in Paris?"), "Weather in Paris"),
    (("Weather in Seoul?", "Rain.", "And in Paris?", "Sun.", "What about Oslo?"), "Weather in Oslo"),
    (("What's the weather in Seoul?", "Rain.", "How about tomorrow?"), "weather in Seoul tomorrow"),
    (("How tall is the Burj Khalifa?", "828 m.", "Look it up."), "How tall Burj Khalifa"),
    (("Who is Ada Lovelace?", "A mathematician.", "Search the web for her"), "Ada Lovelace"),
    (("How tall is the Burj Khalifa?", "828 m.", "Are you sure? Search the web."), "How tall Burj Khalifa"),
)


@pytest.mark.parametrize(("texts", "query"), CONTEXTUAL)
def test_pronouns_take_their_subject_from_the_turns_before(texts: tuple[str, ...], query: str | None):
    decision = classify(talk(*texts))
    assert decision.needs_search, decision
    if query is not None:
        assert decision.query == query


@pytest.mark.parametrize(
    "texts",
    [
        ("Who made you?", "Manmohan.", "Where does he live now?"),
        (
            "Who made you?",
            "Manmohan.",
            "Tell me more about him.",
            "Gladly.",
            "What's the latest news about him?",
        ),
        ("What is your name?", "samosaChaat.", "Who is the owner of it today?"),
        ("Which company trained you?", "None.", "What is their share price?"),
        ("Who built you?", "Manmohan.", "Look it up."),
        ("Who are you?", "samosaChaat.", "Search the web for who made you."),
    ],
)
def test_nothing_is_searched_about_the_assistant(texts: tuple[str, ...]):
    decision = classify(talk(*texts))
    assert not decision.needs_search
    assert decision.reason.startswith("identity")


def test_a_whole_question_after_one_about_the_assistant_is_searched():
    decision = classify(talk("Who made you?", "Manmohan.", "What is the weather in Paris?"))
    assert (decision.needs_search, decision.query) == (True, "weather in Paris")


@pytest.mark.parametrize(
    "texts",
    [
        ("Who was Alan Turing?", "A mathematician.", "When did he die?"),
        ("What's the weather in Seoul?", "Rain.", "Thanks!"),
        ("What's the weather in Seoul?", "Rain.", "Write a poem about it."),
        ("What is photosynthesis?", "A process.", "How does it work?"),
        ("What is 3 + 4?", "7", "What about 5 + 6?"),
        ("What's the weather in Seoul?", "Rain.", "And 5 + 6?"),
        ("What's the weather in Seoul?", "Rain.", "How about you?"),
    ],
)
def test_follow_ups_that_need_no_search(texts: tuple[str, ...]):
    assert not classify(talk(*texts)).needs_search


def test_an_unseen_set_of_questions(capsys: pytest.CaptureFixture[str]):
    total = len(FURTHER_NEEDING) + len(FURTHER_NOT_NEEDING)
    errors = wrong(FURTHER_NEEDING, FURTHER_NOT_NEEDING)
    with capsys.disabled():
        print(f"\nquestions written after the rules: {total - len(errors)} of {total} right")
    assert total == 30
    assert 1 - len(errors) / total >= 0.85, errors


@pytest.mark.parametrize(
    "task", ["identity", "creative", "spelling", "arithmetic", "temporal", "word_problems", "multi_turn"]
)
def test_training_data_without_a_search_needs_none(task: str):
    for example in make_task(task).examples("train", seed=1, count=100):
        decision = classify(example.prompt.messages)
        assert not decision.needs_search, (example.prompt.messages[-1].text, decision)


def searches(example: Example) -> bool:
    return any(
        message.tool_call is not None and message.tool_call.name == WEB_SEARCH
        for message in example.conversation.messages
    )


def test_training_data_searches_where_the_classifier_would():
    for example in make_task("joint_think_tool").examples("train", seed=1, count=150):
        decision = classify(example.prompt.messages)
        assert decision.needs_search == searches(example), (example.prompt.messages[-1].text, decision)


def test_the_other_wordings_of_the_tasks(capsys: pytest.CaptureFixture[str]):
    examples = list(make_task("joint_think_tool").examples("heldout", seed=1, count=900))
    right = sum(classify(example.prompt.messages).needs_search == searches(example) for example in examples)
    with capsys.disabled():
        print(f"\nheld-out wordings of the tasks: {right} of {len(examples)} right")
    assert right / len(examples) >= 0.95


TABLES = {
    "identity": IDENTITY,
    "small talk": SMALL_TALK,
    "stories": STORIES,
    "wishes": WISHES,
    "vetoes": VETOES,
    "timely": TIMELY,
    "settled": SETTLED,
    "changing": CHANGING,
}
PATTERNS = [
    pytest.param(name, pattern, id=f"{name}: {pattern.example}")
    for name, table in TABLES.items()
    for pattern in table
]


@pytest.mark.parametrize(("table", "pattern"), PATTERNS)
def test_every_pattern_decides_its_example(table: str, pattern: Pattern):
    decision = classify(talk(pattern.example))
    assert decision.needs_search == (table in ("wishes", "timely", "changing")), decision
    assert decision.reason.startswith(pattern.reason), decision
    # The patterns see the example without its opening politeness, which is some number of words.
    words = pattern.example.rstrip("?!.").split(" ")
    assert any(pattern.compiled.search(" ".join(words[start:])) for start in range(len(words)))


@pytest.mark.parametrize(
    ("knowledge_ends", "needs_search"), [(2020, True), (2024, True), (2025, False), (2010, False)]
)
def test_the_year_from_which_on_to_search_is_a_setting(knowledge_ends: int, needs_search: bool):
    text = "Which country hosted the 2024 Olympics?"
    assert classify(talk(text), knowledge_ends=knowledge_ends).needs_search == needs_search


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Hello! Could you please tell me what the weather is in Oslo, please?", "weather in Oslo"),
        ("I would like to know who won the match yesterday, thanks!", "who won match yesterday"),
        ("Please look up the height of K2 for me.", "height of K2"),
        ("Who is the CEO of U.S. Steel?", "CEO of U.S. Steel"),
        ('Search for "The Silent Sea"', "Silent Sea"),
    ],
)
def test_a_query_is_a_few_words_without_politeness(text: str, query: str):
    assert classify(talk(text)).query == query


def test_only_the_users_words_count():
    assert classify([]).needs_search is False
    assert classify([Message(role="assistant", text="What's the weather in Oslo?")]).needs_search is False
    after = [*talk("What is 2 + 2?"), Message(role="assistant", text="Here is the latest news.")]
    assert classify(after).needs_search is False


words = st.sampled_from(
    ["what", "who is", "the", "it", "he", "there", "weather in", "Paris", "CEO of", "Apple"]
)
marks = st.sampled_from(
    ["look", "up", "and", "about", "now", "?", ".", "you", "made", "2026", "12 %", '"', "'"]
)
texts = st.one_of(st.text(max_size=80), st.lists(words | marks, max_size=14).map(" ".join))


@given(st.lists(texts, max_size=7))
@settings(max_examples=200)
def test_any_conversation_is_decided_the_same_way_twice(said: list[str]):
    decision = classify(talk(*said))
    assert decision == classify(talk(*said))
    assert bool(decision.reason)
    assert len(decision.query.split()) <= MAX_QUERY_WORDS
    assert decision.needs_search or decision.query == ""


@pytest.mark.parametrize(
    "piece", ["1 ", "has 1, ", "is it now? ", "and in Paris? ", "hi ", "how many ", "a, ", "Who ", "'", "so "]
)
def test_long_messages_take_no_time_to_speak_of(piece: str):
    long = (piece * 20_000)[:20_000]
    start = time.perf_counter()
    classify(talk(*[long] * 21))
    assert time.perf_counter() - start < 10.0  # a pattern that backtracks without bound takes hours
