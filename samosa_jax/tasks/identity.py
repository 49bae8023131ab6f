"""Who the assistant is: questions and answers made from a persona, which a file can give."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.errors import UserError
from samosa_jax.tasks.identity_wordings import ADDRESSES, ANSWERS, GREETINGS, QUESTIONS, RIVALS
from samosa_jax.tasks.scoring import mentions, mentions_all
from samosa_jax.tasks.task import Example, GeneratedTask, Split

OWN_PERSONA = Path(__file__).parents[2] / "configs" / "personas" / "samosachaat.yaml"
SECOND_QUESTION_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Persona:
    """What the model knows of itself; lists end up inside sentences, joined with commas and an `and`."""

    name: str = "samosaChaat"
    maker: str = "Manmohan Sharma"
    what: str = "a small chat model trained from nothing"
    character: tuple[str, ...] = ("warm", "curious", "plain-spoken")
    favourite: str = "a crisp samosa crushed under yoghurt and tamarind chutney"
    abilities: tuple[str, ...] = (
        "answer questions",
        "reason step by step",
        "use a calculator",
        "search the web",
        "write short verse",
    )
    limits: tuple[str, ...] = (
        "look through a camera",
        "remember other conversations",
        "be sure of recent events without a search",
    )


def load_persona(path: Path) -> Persona:
    """A YAML file with the fields of `Persona`; those left out keep their defaults.

    Raises:
      UserError: no such file, no mapping, an unknown key, or a value that is not text (or a list of texts).
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: no persona can be read from it ({reason}); see configs/personas/samosachaat.yaml"
        ) from None
    if not isinstance(raw, Mapping):
        raise UserError(
            f"{path}: expected keys such as name and maker, found {raw!r}; "
            "see configs/personas/samosachaat.yaml"
        )
    fields = {spec.name: spec.default for spec in dataclasses.fields(Persona)}
    values: dict[str, str | tuple[str, ...]] = {}
    for key, value in raw.items():
        if key not in fields:
            raise UserError(f"{path}: {key!r} is no key of a persona; its keys are {', '.join(fields)}")
        is_list = isinstance(fields[key], tuple)
        texts = value if is_list and isinstance(value, list) else [value]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            expected = "a list of texts" if is_list else "a text"
            raise UserError(f"{path}: {key} is {value!r}; expected {expected} that is not empty")
        values[key] = tuple(text.strip() for text in texts) if is_list else texts[0].strip()
    return dataclasses.replace(Persona(), **values)


class IdentityTask(GeneratedTask):
    """Right if the answer names what was asked for and claims to be no other assistant."""

    name = "identity"

    def __init__(self, persona: Persona | None = None) -> None:
        self.persona = persona or Persona()

    def compose(self, draw: random.Random, split: Split) -> Example:
        topics = list(QUESTIONS)
        rival = draw.choice(RIVALS.of(split))
        chosen = draw.sample(topics, 2) if draw.random() < SECOND_QUESTION_SHARE else [draw.choice(topics)]
        messages: list[Message] = []
        said = ""
        for number, topic in enumerate(chosen):
            question = QUESTIONS[topic].pick(draw, split).format(rival=rival)
            opening = draw.choice(GREETINGS.of(split)) if number == 0 else ""
            address = draw.choice(ADDRESSES.of(split)) if number == 0 and draw.random() < 0.5 else ""
            said = self._answer(draw, topic, rival)
            messages += [
                Message(role="user", text=" ".join(filter(None, (opening, question, address)))),
                Message(role="assistant", text=said),
            ]
        facts = [fact for fact in (self.persona.name, self.persona.maker) if mentions(said, fact)]
        checks = {"topic": chosen[-1], "mentions": facts, "rival": rival}
        return Example(conversation=Conversation(messages=tuple(messages)), answer=said, checks=checks)

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        wrong = [
            rival for rival in (*RIVALS.train, *RIVALS.heldout) if mentions(answer_text, f"I am {rival}")
        ]
        return float(mentions_all(answer_text, example.checks["mentions"]) and not wrong)

    def _answer(self, draw: random.Random, topic: str, rival: str) -> str:
        persona = self.persona
        return draw.choice(ANSWERS[topic]).format(
            name=persona.name,
            maker=persona.maker,
            what=persona.what,
            favourite=persona.favourite,
            rival=rival,
            character=_joined(persona.character),
            abilities=_joined(draw.sample(persona.abilities, min(3, len(persona.abilities)))),
            limits=_joined(draw.sample(persona.limits, min(2, len(persona.limits))), "or"),
        )


def _joined(parts: Sequence[str], word: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"
