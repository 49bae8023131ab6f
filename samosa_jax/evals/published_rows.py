"""Rows of benchmarks as their authors published them, made into items of one of the three kinds."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from samosa_jax.evals.items import ChoiceItem, Fields, Item, SchemaItem, TextItem
from samosa_jax.tasks.multiple_choice import LETTERS, read_choice_row

_MARK = re.compile(r"\[.*?\]")


def published_item(row: Any, *, form: str, name: str, where: str) -> Item:
    """The item of a row; `form` is one of FORMS. Raises UserError as `items.read_item` does."""
    return FORMS[form](Fields(row, where), name)


def _mmlu(fields: Fields, name: str) -> ChoiceItem:
    """https://arxiv.org/abs/2009.03300: choices are listed with letters, and the letter is asked for."""
    texts = fields.texts("choices")
    lettered = [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]
    return ChoiceItem(
        name=name,
        query="\n".join([fields.text("question").strip(), *lettered, "Answer:"]),
        choices=tuple(LETTERS[: len(texts)]),
        gold=fields.index("answer", len(texts)),
        group=fields.text("subject"),
    )


def _arc(fields: Fields, name: str) -> ChoiceItem:
    """https://arxiv.org/abs/1803.05457."""
    return _labelled(fields, name, query=f"Question: {fields.text('question').strip()}")


def _labelled(fields: Fields, name: str, *, query: str) -> ChoiceItem:
    """Choices that the right answer names by a label."""
    listed = fields.group("choices")
    labels, choices = listed.texts("label"), listed.texts("text")
    if len(labels) != len(choices):
        raise listed.wrong("label", f"one for each of the {len(choices)} texts")
    return ChoiceItem(name=name, query=query, choices=choices, gold=fields.one_of("answerKey", labels))


def _csqa(fields: Fields, name: str) -> ChoiceItem:
    """https://arxiv.org/abs/1811.00937; ARC's fields."""
    item = _arc(fields, name)
    return replace(item, query=f"{item.query}\nAnswer:")


def _question(fields: Fields, name: str) -> ChoiceItem:
    """MMLU's or ARC's question alone, to be asked in a conversation."""
    question = read_choice_row(fields.row, fields.where)
    return ChoiceItem(name=name, query=question.question, choices=question.choices, gold=question.answer)


def _hellaswag(fields: Fields, name: str) -> ChoiceItem:
    """https://arxiv.org/abs/1905.07830; WikiHow's marks of headings and steps are taken out."""
    begun = f"{fields.text('ctx_a')} {fields.text('ctx_b').capitalize()}" if fields.has_text("ctx_b") else ""
    endings = fields.texts("endings")
    return ChoiceItem(
        name=name,
        query=_without_marks(f"{fields.text('activity_label')}: {begun or fields.text('ctx_a')}"),
        choices=tuple(map(_without_marks, endings)),
        gold=fields.index("label", len(endings)),
    )


def _without_marks(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return _MARK.sub("", text).replace("  ", " ").strip()


def _piqa(fields: Fields, name: str) -> ChoiceItem:
    """https://arxiv.org/abs/1911.11641."""
    return ChoiceItem(
        name=name,
        query=f"Question: {fields.text('goal').strip()}",
        choices=(fields.text("sol1"), fields.text("sol2")),
        gold=fields.index("label", 2),
    )


def _boolq(fields: Fields, name: str) -> ChoiceItem:
    """https://arxiv.org/abs/1905.10044."""
    question = fields.text("question").strip().removesuffix("?")
    return ChoiceItem(
        name=name,
        query=f"Passage: {fields.text('passage').strip()}\nQuestion: {question}?",
        choices=("no", "yes"),
        gold=int(fields.boolean("answer")),
    )


def _winogrande(fields: Fields, name: str) -> SchemaItem:
    """https://arxiv.org/abs/1907.10641: each name is put in the gap; what follows is scored."""
    before, gap, after = fields.text("sentence").partition("_")
    if not gap or not after.strip():
        raise fields.wrong("sentence", "a text with a gap `_` and something after it")
    options = (fields.text("option1"), fields.text("option2"))
    return SchemaItem(
        name=name,
        contexts=tuple(before + option for option in options),
        continuation=after.strip(),
        gold=fields.index("answer", 2, first=1),
    )


def _lambada(fields: Fields, name: str) -> TextItem:
    """https://arxiv.org/abs/1606.06031: the last word of a passage."""
    context, gap, word = fields.text("text").strip().rpartition(" ")
    if not gap:
        raise fields.wrong("text", "a passage of several words")
    return TextItem(name=name, context=context, continuation=word)


def _openbookqa(fields: Fields, name: str) -> ChoiceItem:
    """https://arxiv.org/abs/1809.02789: the question's stem goes on with a choice."""
    return _labelled(fields, name, query=fields.text("question_stem").strip())


def _siqa(fields: Fields, name: str) -> ChoiceItem:
    """https://arxiv.org/abs/1904.09728."""
    answers = tuple(fields.text(f"answer{letter}") for letter in LETTERS[:3])
    context, question = fields.text("context").strip(), fields.text("question").strip()
    return ChoiceItem(
        name=name,
        query=f"Context: {context}\nQuestion: {question}\nAnswer:",
        choices=answers,
        gold=fields.index("label", 3, first=1),
    )


FORMS: Mapping[str, Callable[[Fields, str], Item]] = {
    "arc": _arc,
    "boolq": _boolq,
    "csqa": _csqa,
    "hellaswag": _hellaswag,
    "lambada": _lambada,
    "mmlu": _mmlu,
    "openbookqa": _openbookqa,
    "piqa": _piqa,
    "question": _question,
    "siqa": _siqa,
    "winogrande": _winogrande,
}
