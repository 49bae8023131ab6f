"""Words to say after somebody: nothing to know, only to copy, which small models must practise."""

import random
from collections.abc import Sequence

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.tasks.starter.words import NAMES, made_up_name, story_words
from samosa_jax.tasks.task import Example, GeneratedTask, Split, Wordings, draw_in_split
from samosa_jax.tasks.words import WORDS

MAX_WORDS = 4


class StarterEchoTask(GeneratedTask):
    """Right if the answer is what was to be said, in any case and with any full stop."""

    name = "starter_echo"

    def compose(self, draw: random.Random, split: Split) -> Example:
        words = [_word(draw) for _ in range(draw.randint(1, MAX_WORDS))]
        words[-1] = draw_in_split(split, lambda: _word(draw))
        text = " ".join(words)
        question = QUESTIONS.pick(draw, split).format(text=text)
        return Example(
            conversation=Conversation(
                messages=(Message(role="user", text=question), Message(role="assistant", text=f"{text}."))
            ),
            answer=text,
            checks={"tool": None},
        )

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        return float(answer_text.strip().rstrip(".").lower() == example.answer.lower())


def _word(draw: random.Random) -> str:
    kind = draw.randrange(5)
    if kind == 0:
        return made_up_name(draw)
    if kind == 1:
        return str(draw.randrange(10 ** draw.randint(1, 4)))
    return draw.choice((NAMES, WORDS, story_words())[kind - 2])


QUESTIONS = Wordings(
    train=(
        *("Say {text}.", "Repeat: {text}", "Say after me: {text}.", "Repeat {text}.", "Please say {text}."),
        *("Can you say {text}?", "Copy this: {text}", "Now say {text}.", "Write {text}."),
    ),
    heldout=("Please repeat {text}.", "Can you repeat after me: {text}?", "Copy {text}."),
)
