"""Each rule finds its own violation and no other rule does; clean and borderline text breaks none."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samosa_jax.data.chat.conversation import (
    Conversation,
    ConversationError,
    Message,
    ToolCall,
    parse_conversation,
    to_json,
)
from samosa_jax.data.chat.rules import (
    EXCERPT_CHARS,
    PRESETS,
    RuleOptions,
    excerpt,
    failures,
    make_rules,
    select_rules,
)
from samosa_jax.errors import UserError

RULES = select_rules(["all"])
ANSWER = "A tip of 17% on $45 comes to $7.65, so you would pay $52.65 in all."
THOUGHT = "A share of an amount is a product, and a calculator gives it exactly: 0.17 times 45."

CLEAN = Conversation(
    messages=(
        Message(role="system", text="You are samosaChaat."),
        Message(role="user", text="What is a 17% tip on $45?"),
        Message(role="assistant", think=THOUGHT, tool_call=ToolCall("calculator", {"expression": "0.17*45"})),
        Message(role="tool", text="7.65"),
        Message(role="assistant", text=ANSWER),
        Message(role="user", text="Thank you!"),
        Message(role="assistant", text="You are welcome!"),
    )
)
DIRECT = Conversation(
    messages=(
        Message(role="user", text="Why do leaves fall?"),
        Message(
            role="assistant",
            think="The user asks about trees; no tool is needed, as this is common knowledge.",
            text="A tree drops its leaves before winter to save the water they would lose.",
        ),
    )
)


def change(index: int, *, of: Conversation = CLEAN, **changes: object) -> Conversation:
    messages = list(of.messages)
    messages[index] = replace(messages[index], **changes)  # pyright: ignore[reportArgumentType]
    return replace(of, messages=tuple(messages))


def say(text: str) -> Conversation:
    return change(4, text=text)


def without(index: int, *, of: Conversation = CLEAN) -> Conversation:
    return replace(of, messages=of.messages[:index] + of.messages[index + 1 :])


VIOLATIONS: dict[str, tuple[Conversation, ...]] = {
    "think_closed": (
        change(2, think=f"{THOUGHT}</think> More."),
        change(1, of=DIRECT, text="<think> A tree drops its leaves before winter to save water."),
    ),
    "tool_after_think": (
        change(4, think="Now that I know the amount, all that is left is to add it to the bill."),
        change(2, think=f'{THOUGHT} <|python_start|>{{"tool": "calculator"}}<|python_end|>'),
    ),
    "one_result_per_call": (
        change(3, text="7.65<|output_end|><|output_start|>7.66"),
        without(3),
        change(2, tool_call=None, text="Let me see."),
    ),
    "clean_end": (replace(CLEAN, messages=CLEAN.messages[:-1]),),
    "no_markup": (
        say(f"{ANSWER}<|output_end|>"),
        say(f"{ANSWER} <|python_start|>"),
        say(f"{ANSWER}<|im_end|>"),
    ),
    "answer_present": (
        change(1, of=DIRECT, text=" "),
        replace(
            DIRECT,
            messages=(
                *DIRECT.messages[:1],
                replace(CLEAN.messages[2]),
                CLEAN.messages[3],
                *CLEAN.messages[5:],
                CLEAN.messages[1],
                CLEAN.messages[4],
            ),
        ),
    ),
    "answer_outside_think": (
        change(2, think=f"{THOUGHT} {ANSWER}"),
        change(1, of=DIRECT, text="", think="Trees save water in winter. Final answer: to save the water."),
        change(1, of=DIRECT, text="", think="The sum of both sides must be the same here, so \\boxed{4}."),
    ),
    "enough_reasoning": (change(2, think="I multiply."), change(2, think="")),
    "no_html": (
        say(f"<b>Tip:</b> {ANSWER}"),
        say(f'<STRONG class="x">{ANSWER}'),
        say(f"{ANSWER}<br/></em >"),
    ),
    "no_stock_label": tuple(
        say(f"{lead}{label} {ANSWER}")
        for lead in ("", "Well.\n ", "**")
        for label in ("Answer:", "Response:", "Final answer:", "Q:", "ANSWER:")
    ),
    "no_image_placeholder": (
        say(f"{ANSWER} ![a bill]"),
        say(f"{ANSWER} ![a bill]()"),
        say(f"{ANSWER} [Insert image here]"),
        say(f"{ANSWER} [Image: a bill]"),
    ),
    "no_emoji_spam": tuple(
        say(f"{ANSWER} {emoji}")
        for emoji in (
            "🎉🎉🎉",
            "🚀 🤖 🥳",
            "❤️❤️❤️",
            "✅✅✅",
            "🇮🇳🇮🇳🇮🇳",
            "👩‍🚀👨‍👩‍👧👍🏽",
            "1️⃣2️⃣3️⃣",
            "⭐⭐⭐",
            "🫠🫶🟢",
        )
    ),
    "no_hedge": (
        say(f"As an AI language model, I say: {ANSWER}"),
        say(f"{ANSWER} But as a large language model I may err."),
        say(f"As an AI, I don't eat out, yet {ANSWER}"),
    ),
    "no_refusal": (
        say(f"I cannot provide financial advice, but {ANSWER}"),
        say(f"I'm sorry, but I can't assist with that. {ANSWER}"),
        say(f"I’m sorry, but I’m unable to help with bills. {ANSWER}"),
        say(f"Unfortunately, I am not able to help. {ANSWER}"),
    ),
    "no_over_apology": (
        say(f"I apologize for the confusion. {ANSWER}"),
        say(f"I'm sorry. I am so sorry. My apologies. {ANSWER}"),
    ),
    "no_tripled_line": (
        say(f"{ANSWER}\n{ANSWER}\n{ANSWER}"),
        say(f"{ANSWER}\n\n{ANSWER}\n\n{ANSWER}"),
        change(2, think=f"{THOUGHT}\n{THOUGHT}\n{THOUGHT}"),
    ),
    "long_enough": (say("$7.65 it is."),),
}


@pytest.mark.parametrize("conversation", [CLEAN, DIRECT], ids=["tool", "direct"])
def test_clean_conversations_break_no_rule(conversation: Conversation) -> None:
    assert parse_conversation(to_json(conversation)) == conversation
    assert failures(conversation, RULES) == {}


def test_every_rule_has_violations() -> None:
    assert set(VIOLATIONS) == {rule.name for rule in make_rules(RuleOptions())} == set(PRESETS["all"])


@pytest.mark.parametrize(
    ("name", "conversation"),
    [
        pytest.param(name, conversation, id=f"{name}-{number}")
        for name, conversations in VIOLATIONS.items()
        for number, conversation in enumerate(conversations)
    ],
)
def test_a_violation_is_found_by_its_rule_alone(name: str, conversation: Conversation) -> None:
    found = failures(conversation, RULES)
    assert list(found) == [name], found
    assert "\n" not in found[name]
    assert failures(conversation, [rule for rule in RULES if rule.name != name]) == {}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("<think>never closed", "not balanced"),
        ("</think> closed before it opened <think>", "not balanced"),
        ("Hello. <think>late</think>", "comes after other text"),
    ],
)
def test_what_the_parser_refuses_needs_no_rule(content: str, complaint: str) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
    with pytest.raises(ConversationError, match=complaint):
        parse_conversation({"messages": messages})


@pytest.mark.parametrize(
    "name",
    ["tool_after_think", "one_result_per_call", "no_markup", "answer_outside_think", "enough_reasoning"],
)
def test_violations_that_parse_are_found_after_parsing(name: str) -> None:
    raw = to_json(VIOLATIONS[name][0])
    assert list(failures(parse_conversation(raw), RULES)) == [name]


@pytest.mark.parametrize(
    "text",
    [
        "Bold text is written with a tag:\n```html\n<b>bold</b>\n```\nand closed by its twin.",
        "The tag `<b>` makes text bold, and `<i>` sets it in italics on the page.",
        "Of a < b > c the first says that b is larger than a, the second larger than c.",
        "The short answer: it depends on how much you liked the food and the service.",
        "In Rust, vec![1, 2, 3] makes a vector, and println![...] is a macro call as well.",
        "![A samosa on a plate](https://example.org/samosa.png) is what it should look like.",
        "![A samosa on a plate][samosa] is what it should look like, as the reference says.",
        "I would give this restaurant ★★★★☆, and the cards were ♠♥♦♣ on the table.",
        "Two emoji are fine 🎉🎉 and so is one family 👨‍👩‍👧‍👦 or one flag 🇮🇳 in a text.",
        "As an AI, I can suggest several ways to improve your letter to the landlord.",
        "I'm sorry to hear that your dog is ill. Please see a vet as soon as you can.",
        "We apologize for the delay and for any inconvenience it has caused our customers.",
        "Unfortunately, I can't answer that question: a mile is a unit of length, not of weight.",
        "He said that he cannot provide for his family on what the factory pays him now.",
        "if (a) {\n  if (b) {\n    c();\n}\n}\n}\nis how the braces of three blocks would close.",
        "Use the log:\n```\nconsole.log(1);\nconsole.log(1);\nconsole.log(1);\n```\nas often as you like.",
        "`a`\n`b`\n`c`\nare three lines of code that are not the same as one another.",
        "Verse one ends here\nand goes on\nVerse one ends here\nand goes on, as ballads do.",
        "您好！我是一个人工智能助手，很高兴见到您，请问有什么可以帮助您的吗？",
    ],
)
def test_good_answers_pass(text: str) -> None:
    assert failures(say(text), RULES) == {}


def test_an_apology_that_was_asked_for_passes() -> None:
    letter = "Dear Ann, I apologize for the confusion. I am sorry. My apologies. I am truly sorry. Bo"
    messages = (Message(role="user", text="Write an apology to Ann."), Message(role="assistant", text=letter))
    assert failures(Conversation(messages=messages), RULES) == {}
    asked = replace(messages[0], text="Write to Ann.")
    assert list(failures(Conversation(messages=(asked, messages[1])), RULES)) == ["no_over_apology"]


def test_numbers_are_options() -> None:
    options = RuleOptions(min_answer_chars=len(ANSWER) + 1, min_think_chars=len(THOUGHT) + 1)
    assert list(failures(CLEAN, make_rules(options))) == ["enough_reasoning", "long_enough"]
    exact = RuleOptions(min_answer_chars=len(ANSWER), min_think_chars=len(THOUGHT))
    assert failures(CLEAN, make_rules(exact)) == {}


def test_rules_are_chosen_by_preset_and_name() -> None:
    def names(*chosen: str, disabled: Sequence[str] = ()) -> list[str]:
        return [rule.name for rule in select_rules(chosen, disabled=disabled)]

    assert set(names("pool,think_tool")) == {*PRESETS["pool"], *PRESETS["think_tool"]}
    assert names("no_html, no_hedge", disabled=["no_hedge"]) == ["no_html"]
    assert names("all") == [rule.name for rule in make_rules(RuleOptions())]
    for chosen, disabled in ((["pol"], []), (["pool"], ["no_htm"])):
        with pytest.raises(UserError, match=r"is no rule; presets are think_tool, .* no_html"):
            select_rules(chosen, disabled=disabled)


@given(st.text(), st.integers(0, 300), st.integers(0, 300))
def test_excerpts_are_short_single_lines_of_the_text(text: str, start: int, length: int) -> None:
    shown = excerpt(text, min(start, len(text)), min(start + length, len(text)))
    assert len(shown) <= EXCERPT_CHARS + 6
    assert "\n" not in shown
    assert shown.removeprefix("...").removesuffix("...") in " ".join(text.split()) or "..." in text
