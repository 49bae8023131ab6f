"""Something said is asked for a turn or two later: a name, a colour, a pet, a place; or a sum goes on."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.tasks.calculator import calculate
from samosa_jax.tasks.scoring import gives_number, mentions
from samosa_jax.tasks.starter.sums import ANSWERS, QUESTIONS, THOUGHTS
from samosa_jax.tasks.starter.words import NAMES, made_up_name
from samosa_jax.tasks.task import Example, GeneratedTask, Split, Wordings, draw_in_split, tools_called
from samosa_jax.tasks.tool_schemas import CALCULATOR

INTERRUPTED_SHARE = 0.3
SUM_SHARE = 0.25
KNOWN_SHARE = 0.3  # of names that there are; the others are made up


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What people say of themselves, {value} being what there is to remember."""

    statements: Wordings
    reply: str
    questions: Wordings
    answer: str
    values: Callable[[random.Random], str]


class StarterMemoryTask(GeneratedTask):
    """Right if the answer to the last question has what an earlier turn said, or the sum that goes on."""

    name = "starter_memory"

    def compose(self, draw: random.Random, split: Split) -> Example:
        return _sum_goes_on(draw, split) if draw.random() < SUM_SHARE else _fact_asked_for(draw, split)

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        if "number" in example.checks:
            called = tools_called(messages)
            return float(
                gives_number(answer_text, example.answer) and (not messages or called == [CALCULATOR])
            )
        return float(mentions(answer_text, example.answer))


def _fact_asked_for(draw: random.Random, split: Split) -> Example:
    kinds = list(FACTS)
    draw.shuffle(kinds)
    messages: list[Message] = []
    told: dict[str, str] = {}
    # Now and then something else is told first or in between, so that the last thing said is not always it.
    for kind in kinds[: 1 + (draw.random() < INTERRUPTED_SHARE)]:
        fact = FACTS[kind]
        value = draw_in_split(split, lambda values=fact.values: values(draw))
        told[kind] = value
        messages += [
            Message(role="user", text=fact.statements.pick(draw, split).format(value=value)),
            Message(role="assistant", text=fact.reply.format(value=value)),
        ]
    kind = draw.choice(list(told))
    fact, value = FACTS[kind], told[kind]
    messages += [
        Message(role="user", text=fact.questions.pick(draw, split)),
        Message(role="assistant", think=f"They said {value}.", text=fact.answer.format(value=value)),
    ]
    checks = {"asked": kind, "tool": None}
    return Example(conversation=Conversation(messages=tuple(messages)), answer=value, checks=checks)


def _sum_goes_on(draw: random.Random, split: Split) -> Example:
    def numbers() -> str:
        first, second = draw.randrange(2, 10 ** draw.choice((1, 2, 3))), draw.randrange(2, 100)
        return f"{first} {draw.choice('++-*')} {second}"

    messages: list[Message] = []
    expression = draw_in_split(split, numbers)
    question = QUESTIONS.pick(draw, split).format(expression=expression)
    result = calculate(expression)
    for _ in range(2):
        messages += [
            Message(role="user", text=question),
            Message(
                role="assistant",
                think=draw.choice(THOUGHTS),
                tool_call=ToolCall(CALCULATOR, {"expression": expression}),
            ),
            Message(role="tool", text=result),
            Message(role="assistant", text=draw.choice(ANSWERS).format(result=result)),
        ]
        if len(messages) > 4:
            break
        operator, number = draw.choice("+-*"), draw.randrange(2, 100)
        question = GOING_ON[operator].pick(draw, split).format(number=number)
        expression = f"{result} {operator} {number}"
        result = calculate(expression)
    checks = {"asked": "sum", "tool": CALCULATOR, "number": True}
    return Example(conversation=Conversation(messages=tuple(messages)), answer=result, checks=checks)


def _person(draw: random.Random) -> str:
    return draw.choice(NAMES) if draw.random() < KNOWN_SHARE else made_up_name(draw)


def _town(draw: random.Random) -> str:
    return draw.choice(TOWNS) if draw.random() < KNOWN_SHARE else made_up_name(draw) + draw.choice(TOWN_ENDS)


_TOWNS = """
    Oslo Rome Paris London Berlin Madrid Lima Cairo Delhi Mumbai Tokyo Bergen Geneva Dublin Boston Chicago
    Toronto Sydney Nairobi Lagos Accra Lisbon Porto Vienna Prague Athens Milan Turin Naples Seoul Hanoi
    Kyoto Denver Dallas Austin Quito Bogota Havana Tunis Dakar Riga Malmo Zurich
"""
TOWNS: tuple[str, ...] = tuple(_TOWNS.split())
TOWN_ENDS = ("", "ton", "ville", "berg", "ford", "dorf", "stad")
_COLOURS = """
    red blue green yellow pink brown black white orange purple grey gold silver turquoise violet olive
    cream crimson indigo amber rose copper lilac mint peach ruby rust sand scarlet navy teal ivory coral
    bronze mustard
"""
COLOURS: tuple[str, ...] = tuple(_COLOURS.split())
_FOODS = """
    bread rice soup cheese pizza pasta cake fish samosas apples plums pears noodles dumplings porridge
    honey pancakes potatoes carrots beans corn eggs curry dal pudding jam nuts grapes cherries melon mango
    toast salad pie waffles chutney olives tofu lentils cookies chocolate berries figs dates
"""
FOODS: tuple[str, ...] = tuple(_FOODS.split())
GOING_ON = {
    "+": Wordings(
        train=(
            "And plus {number}?",
            "Now add {number}.",
            "Add {number} to that.",
            "Plus {number}?",
            "+ {number}",
        ),
        heldout=("Now plus {number}?", "And add {number} to that."),
    ),
    "-": Wordings(
        train=(
            *(
                "And minus {number}?",
                "Now take {number} away.",
                "Take {number} from that.",
                "Minus {number}?",
            ),
            "- {number}",
        ),
        heldout=("Now minus {number}?", "And take {number} away from that."),
    ),
    "*": Wordings(
        train=(
            "And times {number}?",
            "Now times {number}.",
            "{number} times that?",
            "Times {number}?",
            "* {number}",
        ),
        heldout=("Now {number} times that.", "And that times {number}?"),
    ),
}
FACTS: Mapping[str, Fact] = {
    "name": Fact(
        statements=Wordings(
            train=(
                *("My name is {value}.", "I am {value}.", "Hello, I am {value}.", "Hi! My name is {value}."),
                *(
                    "Call me {value}.",
                    "I am called {value}.",
                    "You can call me {value}.",
                    "{value} is my name.",
                ),
                *("They call me {value}.", "Hey, {value} here.", "my name is {value}", "Hi, {value} here."),
                *("Good morning, my name is {value}.", "Hello, call me {value}.", "Hi, I am {value}."),
            ),
            heldout=("Hello! My name is {value}.", "Hi, I am called {value}.", "Please call me {value}."),
        ),
        reply="Nice to meet you, {value}!",
        questions=Wordings(
            train=(
                *(
                    "What is my name?",
                    "Who am I?",
                    "What am I called?",
                    "Do you know my name?",
                    "Say my name.",
                ),
                *("Do you remember my name?", "Tell me my name.", "Can you tell me who I am?", "my name?"),
                *("What was my name?", "Now what is my name?", "Can you tell me my name?"),
                *("Please say who I am.", "Do you remember who I am?"),
            ),
            heldout=("Can you say my name?", "Do you know who I am?", "So what is my name?"),
        ),
        answer="Your name is {value}.",
        values=_person,
    ),
    "pet": Fact(
        statements=Wordings(
            train=(
                *("I have a dog called {value}.", "My dog is called {value}.", "My dog's name is {value}."),
                *("We have a dog. It is called {value}.", "I have a dog. Its name is {value}."),
                *("{value} is my dog.", "I call my dog {value}.", "The name of our dog is {value}."),
                *("My dog has the name {value}.", "Our dog is called {value}."),
            ),
            heldout=("We have a dog called {value}.", "The name of my dog is {value}."),
        ),
        reply="What a good name for a dog!",
        questions=Wordings(
            train=(
                *("What is my dog called?", "What is the name of my dog?", "Do you remember my dog's name?"),
                *("Tell me the name of my dog.", "What is my dog's name?", "How do I call my dog?"),
                *("Do you know the name of my dog?", "Can you tell me my dog's name?"),
                *("What was my dog called?", "Say the name of my dog.", "What did I say my dog is called?"),
                *(
                    "Say what my dog's name is.",
                    "I forgot what I call my dog.",
                    "Can you say what my dog is called?",
                ),
            ),
            heldout=("Do you know what my dog is called?", "Tell me what my dog is called."),
        ),
        answer="Your dog is called {value}.",
        values=_person,
    ),
    "place": Fact(
        statements=Wordings(
            train=(
                *(
                    "I live in {value}.",
                    "My home is in {value}.",
                    "I come from {value}.",
                    "We live in {value}.",
                ),
                *("I am from {value}.", "My house is in {value}.", "{value} is where I live."),
                *("My home is called {value}.", "My family lives in {value}.", "We are from {value}."),
            ),
            heldout=("My home is {value}.", "We come from {value}.", "My family comes from {value}."),
        ),
        reply="I would love to see {value} one day.",
        questions=Wordings(
            train=(
                *(
                    "Where do I live?",
                    "Where am I from?",
                    "Where is my home?",
                    "Do you remember where I live?",
                ),
                *("Tell me where I live.", "In which town do I live?", "Where do I come from?"),
                *("Do you know where I am from?", "Can you tell me where I live?", "Where was my home?"),
                *("Where did I say I live?", "Say where I live.", "I forgot where my home is."),
            ),
            heldout=("Do you know where I live?", "Tell me where I am from.", "Where is it that I live?"),
        ),
        answer="You live in {value}.",
        values=_town,
    ),
    "age": Fact(
        statements=Wordings(
            train=(
                *("I am {value} years old.", "My age is {value}.", "I turned {value} today."),
                *("Today I am {value} years old.", "I am {value}.", "I will be {value} tomorrow."),
            ),
            heldout=("My age is {value} years.", "Today I turned {value}."),
        ),
        reply="That is a good age.",
        questions=Wordings(
            train=(
                *("How old am I?", "What is my age?", "Do you remember how old I am?", "Tell me my age."),
                *("How many years am I old?", "Can you tell me how old I am?", "Say how old I am."),
            ),
            heldout=("Do you know how old I am?", "Tell me how old I am."),
        ),
        answer="You are {value}.",
        values=lambda draw: str(draw.randint(3, 99)),
    ),
    "colour": Fact(
        statements=Wordings(
            train=(
                *("My favourite colour is {value}.", "I like {value} best of all colours."),
                *("I love the colour {value}.", "The colour I like best is {value}."),
                *("Of all colours I love {value}.", "I like the colour {value}."),
            ),
            heldout=("I love {value} best of all colours.", "The colour I love is {value}."),
        ),
        reply="A fine colour!",
        questions=Wordings(
            train=(
                *("What is my favourite colour?", "Which colour do I like?", "What colour do I love?"),
                *("Do you remember my favourite colour?", "Tell me my favourite colour."),
                *("Which colour do I like best?", "Do you know my favourite colour?", "My favourite colour?"),
                *(
                    "Do you remember which colour I love?",
                    "Say which colour I like.",
                    "Which colour is it that I love?",
                ),
                *("Which colour did I say I like best?", "Can you tell me what colour I like?"),
            ),
            heldout=("Do you know which colour I like best?", "What colour is my favourite?"),
        ),
        answer="Your favourite colour is {value}.",
        values=lambda draw: draw.choice(COLOURS),
    ),
    "food": Fact(
        statements=Wordings(
            train=(
                *(
                    "My favourite food is {value}.",
                    "I like {value} best of all food.",
                    "I love to eat {value}.",
                ),
                *(
                    "The food I like best is {value}.",
                    "Of all food I love {value}.",
                    "I eat {value} every day.",
                ),
            ),
            heldout=("I love {value} best of all food.", "The food I love is {value}."),
        ),
        reply="That sounds good!",
        questions=Wordings(
            train=(
                *("What is my favourite food?", "Which food do I like?", "What food do I love?"),
                *(
                    "Do you remember my favourite food?",
                    "Tell me my favourite food.",
                    "What do I like to eat?",
                ),
                *("Which food do I like best?", "Do you know my favourite food?", "My favourite food?"),
                *(
                    "Do you remember which food I love?",
                    "Say which food I like.",
                    "Which food is it that I love?",
                ),
                *("Which food did I say I like best?", "Can you tell me what food I like?"),
            ),
            heldout=("Do you know which food I like best?", "What food is my favourite?"),
        ),
        answer="Your favourite food is {value}.",
        values=lambda draw: draw.choice(FOODS),
    ),
}
