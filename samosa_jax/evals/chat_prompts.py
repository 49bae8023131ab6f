"""Questions with lettered choices in a conversation, as chat models are trained to answer them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from samosa_jax.data.chat.role_bytes import turn_positions
from samosa_jax.data.chat.template import render
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.evals.items import ChoiceItem
from samosa_jax.evals.likelihood import Continuation
from samosa_jax.evals.prompts import num_common
from samosa_jax.tasks.multiple_choice import ChoiceQuestion, example_of


def encode_in_conversation(items: Sequence[ChoiceItem], tokenizer: Tokenizer) -> list[list[Continuation]]:
    """For every item the answers that name each of its letters, scored from where they differ.

    The question and the beginning of the answer are in the words of `tasks.multiple_choice`.
    """
    return [_encode(item, tokenizer) for item in items]


def _encode(item: ChoiceItem, tokenizer: Tokenizer) -> list[Continuation]:
    question = ChoiceQuestion(
        question=item.query.removeprefix("Question: "), choices=item.choices, answer=item.gold
    )
    prompt = render(example_of(question).prompt, tokenizer, for_answer=True)
    answers = []
    for number in range(len(item.choices)):
        text = example_of(replace(question, answer=number)).answer_text
        naming, _, _ = text.partition(":")  # "The correct choice is B: ..."
        answers.append(np.concatenate([prompt.tokens, tokenizer.encode(naming)]).astype(np.int32))
    start = min(num_common(answers), min(map(len, answers)) - 1)
    continuations = []
    for tokens in answers:
        begins_turn = np.zeros(len(tokens), bool)
        begins_turn[: len(prompt.tokens)] = prompt.begins_turn
        turns = turn_positions(begins_turn)
        continuations.append(Continuation.of_turns(tokens[:start], tokens[start:], turns))
    return continuations
