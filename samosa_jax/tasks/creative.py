"""Short forms with rules that can be checked: haiku, couplets, limericks and two-line jokes."""

import random
from collections.abc import Callable, Sequence

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.tasks.creative_lines import (
    COUPLETS,
    JOKES,
    LIMERICK_ENDS,
    LIMERICK_MIDDLES,
    REQUESTS,
    SETTINGS,
)
from samosa_jax.tasks.scoring import mentions
from samosa_jax.tasks.task import Example, GeneratedTask, Split, draw_in_split, split_of
from samosa_jax.tasks.verse import (
    ADJECTIVES,
    NOUNS,
    PLACES,
    VERBS,
    is_couplet,
    is_haiku,
    is_joke,
    is_limerick,
    syllables_of,
)

FORMS: dict[str, Callable[[str], bool]] = {
    "haiku": is_haiku,
    "couplet": is_couplet,
    "limerick": is_limerick,
    "joke": is_joke,
}


class CreativeTask(GeneratedTask):
    """Right if the text keeps the rules of its form (see `tasks.verse`) and names what it should be about."""

    name = "creative"

    def compose(self, draw: random.Random, split: Split) -> Example:
        form = draw.choice(("haiku", "haiku", "haiku", "couplet", "limerick", "joke"))
        make = {"haiku": _haiku, "couplet": _couplet, "limerick": _limerick, "joke": _joke}[form]
        topic, text = make(draw, split)
        request = REQUESTS[form].pick(draw, split).format(topic=topic)
        prompt = " ".join(filter(None, (request, SETTINGS.pick(draw, split))))
        messages = (Message(role="user", text=prompt), Message(role="assistant", text=text))
        return Example(
            conversation=Conversation(messages=messages), answer=text, checks={"form": form, "topic": topic}
        )

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        keeps_form = FORMS[example.checks["form"]](answer_text)
        return float(keeps_form and mentions(answer_text, example.checks["topic"]))


def _haiku(draw: random.Random, split: Split) -> tuple[str, str]:
    topic = draw_in_split(split, lambda: draw.choice(list(NOUNS)))
    others = [noun for noun in NOUNS if noun != topic and split_of(noun) == split]
    second, third = draw.sample(others, 2)
    lines = (
        _line(draw, 5, lambda: f"the {_adjective(draw)} {topic}"),
        _line(draw, 7, lambda: f"{draw.choice(('the', 'a'))} {second} {_verb(draw)}"),
        _line(
            draw,
            5,
            lambda: draw.choice((f"the {third} {_verb(draw)}", f"{_adjective(draw)} {third} {_verb(draw)}")),
        ),
    )
    return topic, "\n".join(line[0].upper() + line[1:] for line in lines)


def _line(draw: random.Random, syllables: int, compose: Callable[[], str]) -> str:
    """Composes until the syllables are right; a short line gets one more adjective or a place."""
    while True:
        line = compose()
        missing = syllables - (syllables_of(line) or 0)
        if missing == 0:
            return line
        if missing in PLACES:
            return f"{line} {draw.choice(PLACES[missing])}"


def _adjective(draw: random.Random) -> str:
    return draw.choice(list(ADJECTIVES))


def _verb(draw: random.Random) -> str:
    return draw.choice(list(VERBS))


def _couplet(draw: random.Random, split: Split) -> tuple[str, str]:
    topic, first, second = draw_in_split(split, lambda: draw.choice(COUPLETS), key=lambda couplet: couplet[0])
    return topic, f"{draw.choice(first)}\n{draw.choice(second)}"


def _limerick(draw: random.Random, split: Split) -> tuple[str, str]:
    topic, place, second, fifth = draw_in_split(
        split, lambda: draw.choice(LIMERICK_ENDS), key=lambda ends: ends[0]
    )
    third, fourth = draw.choice(LIMERICK_MIDDLES)
    lines = (
        f"There once was {topic} {place},",
        f"{draw.choice(second)}.",
        third,
        fourth,
        f"{draw.choice(fifth)}.",
    )
    return topic, "\n".join(lines)


def _joke(draw: random.Random, split: Split) -> tuple[str, str]:
    topic, question, reply = draw_in_split(split, lambda: draw.choice(JOKES), key=lambda joke: joke[0])
    return topic, f"{question}\n{reply}"
