"""Prepared conversations in, batches out: packed whole, weighted by what each token is."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from samosa_jax.config import SourceConfig, TagWeights
from samosa_jax.data.batch import Batch
from samosa_jax.data.chat.epoch_pipeline import EpochPipeline, EpochSource, Rows, open_items
from samosa_jax.data.chat.packing import EpochRow, pack
from samosa_jax.data.chat.role_bytes import from_bytes
from samosa_jax.data.chat.template import Role
from samosa_jax.data.shards import ShardSet


class ChatBatch(NamedTuple):
    """Packed conversations."""

    rows: Batch
    roles: np.ndarray  # uint8 (B, T): the Role of every target


class Curriculum:
    """What a token of each role counts, as a function of how far the run is."""

    def __init__(self, entries: Sequence[TagWeights], *, num_steps: int) -> None:
        """entries: at least one, `at` rising; before the first and after the last the weights stay."""
        self._at = np.array([entry.at for entry in entries])
        self._weights = np.array([[entry.by_tag()[role.name.lower()] for role in TAGS] for entry in entries])
        self._num_steps = num_steps

    def table(self, step: int) -> np.ndarray:
        """float32, by Role. `step` counts from 0; the last one is at 1."""
        progress = step / max(1, self._num_steps - 1)
        weights = [np.interp(progress, self._at, column) for column in self._weights.T]
        table = np.zeros(len(Role), np.float32)
        table[list(TAGS)] = weights
        return table


TAGS = tuple(role for role in Role if role is not Role.STRUCTURE)


class ChatPipeline(EpochPipeline[ChatBatch]):
    """Batches of packed conversations from several sources."""

    def __init__(self, sources: Sequence[EpochSource], *, curriculum: Curriculum, **options: Any) -> None:
        """options: those of EpochPipeline."""
        super().__init__(sources, **options)
        self._curriculum = curriculum

    def assemble(self, rows: Sequence[EpochRow], *, step: int) -> ChatBatch:
        filled = Rows(len(rows), self.context_len)
        for number, row in enumerate(rows):
            at = 0
            for index, item in zip(row.source.tolist(), row.item.tolist(), strict=True):
                source = self.sources[index]
                document, length = int(source.items[item]), int(source.lengths[item])
                tokens, roles = source.shards.document(document), source.shards.roles(document)
                at = filled.place(number, at, tokens[:length], roles[:length]).stop
        filled.batch.weights[:] = self._curriculum.table(step)[filled.roles]
        return ChatBatch(filled.batch, filled.roles)


def open_conversations(source: SourceConfig, *, context_len: int, too_long: str) -> EpochSource:
    """The conversations of a folder that fit a row of context_len positions.

    A longer one is cut at the end of the last turn of the assistant that fits, or left out: where none fits,
    and always with too_long="drop". Raises UserError if the folder holds no conversations.
    """
    shards = open_items(source.path, "conversations")
    lengths = shards.document_lengths
    used = np.where(lengths > context_len + 1, 0, lengths)
    if too_long == "truncate":
        for document in np.flatnonzero(used == 0).tolist():
            used[document] = whole_turns(shards.roles(document), context_len + 1)
    items = np.flatnonzero(used)
    return EpochSource(
        path=source.path,
        shards=shards,
        repeats=source.weight,
        items=items,
        lengths=used[items],
        sizes=used[items] - 1,
        num_truncated=int((used[items] < lengths[items]).sum()),
        num_dropped=int((used == 0).sum()),
        num_cropped_tokens=int((lengths - used).sum()),
    )


def whole_turns(role_bytes: np.ndarray, most: int) -> int:
    """Tokens of the longest beginning that ends with an answer and has at most so many; 0: there is none."""
    role, begins_turn = from_bytes(role_bytes)
    # The user's next turn begins where an answer has ended.
    ends = np.flatnonzero(begins_turn & (role == Role.HUMAN))
    fitting = ends[ends <= most]
    return int(fitting[-1]) if len(fitting) else 0


def validation_chat_batches(
    shards: ShardSet, *, batch_rows: int, context_len: int, max_tokens: int = 0
) -> Iterator[ChatBatch]:
    """The held-out conversations, each once, every prediction with weight 1 but those of given tokens.

    Conversations longer than a row are cut as in training. max_tokens 0: all of them. The last batch is
    filled up with rows of padding.
    """
    lengths = shards.document_lengths.copy()
    for document in np.flatnonzero(lengths > context_len + 1).tolist():
        lengths[document] = whole_turns(shards.roles(document), context_len + 1)
    documents = np.flatnonzero(lengths)
    if max_tokens:
        within = np.cumsum(lengths[documents]) <= max_tokens
        documents = documents[: max(1, int(within.sum()))]
    plan = pack(lengths[documents] - 1, capacity=context_len)
    for start in range(0, plan.num_rows, batch_rows):
        filled = Rows(batch_rows, context_len)
        for number in range(min(batch_rows, plan.num_rows - start)):
            at = 0
            first, last = plan.bounds[start + number], plan.bounds[start + number + 1]
            for document in documents[plan.items[first:last]].tolist():
                length = int(lengths[document])
                tokens, roles = shards.document(document)[:length], shards.roles(document)[:length]
                at = filled.place(number, at, tokens, roles).stop
        filled.batch.weights[:] = filled.roles != Role.STRUCTURE
        yield ChatBatch(filled.batch, filled.roles)
