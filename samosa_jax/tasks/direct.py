"""Questions that need no tool: a thought that says so, and an explanation in a few sentences."""

import random
from collections.abc import Sequence

from samosa_jax.data.chat.conversation import Message
from samosa_jax.tasks.direct_topics import TOPICS, Topic
from samosa_jax.tasks.scoring import mentions_all
from samosa_jax.tasks.task import (
    Example,
    GeneratedTask,
    Split,
    Wordings,
    answered,
    draw_in_split,
    tools_called,
)


class DirectTask(GeneratedTask):
    """Right if the answer names the topic's key words; where the messages are known, without any tool."""

    name = "direct"

    def compose(self, draw: random.Random, split: Split) -> Example:
        topic = draw_in_split(split, lambda: draw.choice(TOPICS), key=lambda drawn: drawn.clause)
        audience = _AUDIENCES.pick(draw, split)
        question = _FRAMES.pick(draw, split).format(clause=topic.clause, audience=audience)
        return Example(
            conversation=answered(
                f"{_OPENINGS.pick(draw, split)} {question}".strip(),
                think=_thought(draw, topic),
                answer=f"{topic.answer}{_CLOSINGS.pick(draw, split)}",
            ),
            answer=topic.answer,
            checks={"mentions": list(topic.key_words), "tool": None},
        )

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        return float(mentions_all(answer_text, example.checks["mentions"]) and not tools_called(messages))


def _thought(draw: random.Random, topic: Topic) -> str:
    words = " and ".join(f'"{word}"' for word in topic.key_words)
    return draw.choice(
        (
            f"This asks {topic.clause}. That is settled knowledge which does not change from day to day, so "
            f"no search is needed, and there is nothing to calculate. I should bring in the words {words}.",
            f"No tool helps here: the facts are stable and I know them. The words {words} have to come up, "
            "and the rest can stay plain.",
            f"Do I need to look this up? No, {topic.clause} is textbook knowledge. I will build the reply "
            f"around {words}.",
        )
    )


_FRAMES = Wordings(
    train=(
        "Can you explain {clause}{audience}?",
        "Tell me {clause}{audience}.",
        "I would like to know {clause}.",
        "Please explain {clause} in a few sentences{audience}.",
        "Do you know {clause}?",
        "My teacher asked {clause}. What should I say?",
        "I have always wondered {clause}.",
        "Could you describe {clause}{audience}?",
        "Help me understand {clause}.",
    ),
    heldout=(
        "Somebody at work wanted to hear {clause}; I had no idea.",
        "What would you say if a visitor asked {clause}?",
        "Walk me through {clause}, without jargon{audience}.",
        "For a quiz I must find out {clause}{audience}.",
    ),
)
_OPENINGS = Wordings(
    train=(
        "",
        "",
        "Hello!",
        "A question for you.",
        "I am in the garden.",
        "Short answer, please.",
        "Think about it first.",
    ),
    heldout=("", "Here is something else.", "Evening.", "Before bed, one thing."),
)
_AUDIENCES = Wordings(
    train=(
        "",
        ", for a child of ten",
        ", for a beginner",
        ", in simple words",
        ", for my notes",
        ", without formulas",
    ),
    heldout=("", ", as you would to a farmer", ", as if on the radio", ", for readers in a hurry"),
)
_CLOSINGS = Wordings(
    train=(
        "",
        "",
        " Tell me if you want more detail.",
        " I hope that makes it clear.",
        " Shall I go deeper?",
    ),
    heldout=("", " There is more to say if you like."),
)
