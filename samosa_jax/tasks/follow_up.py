"""Conversations of several turns whose later questions say he, she or it and need the turn before."""

import random
from collections.abc import Sequence

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.tasks.follow_up_facts import ENTITIES, INTRODUCTIONS, LEAD_INS, QUESTIONS, Entity
from samosa_jax.tasks.scoring import mentions_all
from samosa_jax.tasks.task import Example, GeneratedTask, Split, draw_in_split


class FollowUpTask(GeneratedTask):
    """Right if the answer to the last question names the fact that was asked for."""

    name = "multi_turn"

    def compose(self, draw: random.Random, split: Split) -> Example:
        entity = draw_in_split(split, lambda: draw.choice(ENTITIES), key=lambda drawn: drawn.name)
        asked = draw.sample(list(entity.facts), draw.randint(1, len(entity.facts) - 1))
        kind = "person" if entity.subject in ("he", "she") else "place"
        messages = [
            Message(role="user", text=INTRODUCTIONS[kind].pick(draw, split).format(name=entity.name)),
            Message(role="assistant", text=entity.introduction),
        ]
        for key in asked:
            question = (
                QUESTIONS[key].pick(draw, split).format(subject=entity.subject, possessive=entity.possessive)
            )
            lead = draw.choice(LEAD_INS.of(split))
            question = f"{lead} {question[0].lower()}{question[1:]}" if lead else question
            messages += [
                Message(role="user", text=question),
                Message(role="assistant", think=_thought(draw, entity, question), text=entity.facts[key][1]),
            ]
        fact, answer = entity.facts[asked[-1]]
        checks = {"subject": entity.name, "asked": asked[-1], "mentions": [fact]}
        return Example(conversation=Conversation(messages=tuple(messages)), answer=answer, checks=checks)

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        return float(mentions_all(answer_text, example.checks["mentions"]))


def _thought(draw: random.Random, entity: Entity, question: str) -> str:
    pronoun = next(
        (word for word in (entity.subject, entity.possessive) if word in question.lower().split()), None
    )
    word = f'"{pronoun or entity.subject}"'
    return draw.choice(
        (
            f"The user says {word}, which points back to {entity.name} from the turn before. I stay with "
            "that subject.",
            f"Who or what is {word}? We were just talking about {entity.name}, so the question is about "
            "that.",
            f"This follows on from before: {word} stands for {entity.name}. I know this without looking "
            "anything up.",
        )
    )
