"""From prepared conversations and pairs to batches: what every position holds, and in which order."""

from pathlib import Path

import chat_runs
import numpy as np
import pytest

from samosa_jax.config import SourceConfig, TagWeights
from samosa_jax.data.chat.conversation import parse_conversation
from samosa_jax.data.chat.pipeline import (
    ChatPipeline,
    Curriculum,
    open_conversations,
    validation_chat_batches,
    whole_turns,
)
from samosa_jax.data.chat.preference_pipeline import PreferencePipeline, every_pair, open_pairs, pairs_per_row
from samosa_jax.data.chat.role_bytes import SPOKEN, to_bytes, turn_positions
from samosa_jax.data.chat.template import Role, render
from samosa_jax.data.shards import ShardSet
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError

CONTEXT_LEN = 256


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return chat_runs.write_datasets(tmp_path_factory.mktemp("chat"))


def open_chat(folder: Path, *, weight: float = 1.0, context_len: int = CONTEXT_LEN, too_long="truncate"):
    source = SourceConfig(path=str(folder), weight=weight)
    return open_conversations(source, context_len=context_len, too_long=too_long)


def chat_pipeline(folder: Path, *, batch_rows: int = 4, seed: int = 0, **options) -> ChatPipeline:
    curriculum = options.pop("curriculum", Curriculum([TagWeights(think=0.5)], num_steps=10))
    source = open_chat(folder, weight=options.pop("weight", 1.0))
    return ChatPipeline(
        [source], curriculum=curriculum, batch_rows=batch_rows, context_len=CONTEXT_LEN, seed=seed, **options
    )


def test_every_position_of_a_batch(folders):
    """Read back from it: whole conversations, each seeing itself alone, weighted by what a token is."""
    _, chat, _ = folders
    pipeline = chat_pipeline(chat)
    shards = pipeline.sources[0].shards
    prepared = {tuple(shards.document(i).tolist()): i for i in range(shards.num_documents)}
    weight_of = {Role.ASSISTANT: 1.0, Role.THINK: 0.5, Role.TOOL_CALL: 1.0}
    seen_roles = set()
    for step in range(3):
        batch = pipeline.batch(step)
        rows = batch.rows
        for row in range(4):
            end = int((rows.k_hi[row] > rows.k_lo[row]).sum())
            starts = np.flatnonzero(rows.position[row, :end] == 0).tolist()
            assert starts[0] == 0
            for start, stop in zip(starts, [*starts[1:], end], strict=True):
                here = slice(start, stop)
                tokens = (*rows.tokens[row, here].tolist(), int(rows.targets[row, stop - 1]))
                document = prepared[tokens]
                role = shards.roles(document) & 0x7F
                assert (rows.targets[row, here] == tokens[1:]).all()
                assert (rows.k_lo[row, here] == start).all()
                assert (rows.k_hi[row, here] == np.arange(start + 1, stop + 1)).all()
                assert (rows.position[row, here] == np.arange(stop - start)).all()
                assert (batch.roles[row, here] == role[1:]).all()
                expected = [weight_of.get(Role(value), 0.0) for value in role[1:].tolist()]
                assert rows.weights[row, here].tolist() == expected
                assert any(expected)
                seen_roles |= {Role(value) for value in role.tolist()}
            padding = slice(end, None)
            assert not rows.weights[row, padding].any()
            assert (rows.k_lo[row, padding] == rows.k_hi[row, padding]).all()
    assert seen_roles == set(Role)


def test_turn_positions_of_a_dialogue_made_by_hand(folders):
    tokenizer = Tokenizer.load(ShardSet.open(folders[1]).tokenizer_dir)
    messages = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    rendered = render(
        parse_conversation({"messages": [{"role": r, "content": t} for r, t in messages]}), tokenizer
    )
    one = len(tokenizer.encode("a"))
    assert one == len(tokenizer.encode("d"))
    first = [*range(one + 3)]  # <|bos|><|user_start|>a<|user_end|>
    others = [*range(one + 2)]  # <|assistant_start|>b<|assistant_end|>, and so on
    assert turn_positions(rendered.begins_turn).tolist() == [*first, *others, *others, *others]


def test_the_order_is_a_function_of_seed_and_step(folders):
    _, chat, _ = folders
    pipeline = chat_pipeline(chat)
    count = pipeline.steps_in(2)
    read = pipeline.batches(0)
    batches = [next(read) for _ in range(count)]
    read.close()
    fresh = chat_pipeline(chat, num_threads=0)
    for step in (count - 1, 0, 2):
        assert (fresh.batch(step).rows.tokens == batches[step].rows.tokens).all()
    assert (chat_pipeline(chat, seed=1).batch(0).rows.tokens != batches[0].rows.tokens).any()
    halves = [chat_pipeline(chat, process_index=index, process_count=2).batch(1) for index in (0, 1)]
    together = np.concatenate([half.rows.tokens for half in halves])
    assert (together == batches[1].rows.tokens).all()
    later = chat_pipeline(chat, state=pipeline.data_state(2))
    assert (later.batch(2).rows.tokens == batches[2].rows.tokens).all()


def test_a_run_on_other_conversations_is_not_gone_on_with(folders):
    _, chat, _ = folders
    state = chat_pipeline(chat).data_state(3)
    with pytest.raises(UserError, match="other conversations, or other weights"):
        chat_pipeline(chat, weight=2.0, state=state)
    with pytest.raises(UserError, match="seed is 1, the checkpoint was written with 0"):
        chat_pipeline(chat, seed=1, state=state)


def test_weights_move_with_the_run():
    entries = [TagWeights(at=0.0, think=0.0, human=1.0), TagWeights(at=0.5, think=1.0, human=0.0)]
    curriculum = Curriculum(entries, num_steps=11)
    think = [float(curriculum.table(step)[Role.THINK]) for step in range(11)]
    np.testing.assert_allclose(think, [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1], rtol=1e-6)
    assert curriculum.table(5)[Role.HUMAN] == 0
    assert curriculum.table(0)[Role.STRUCTURE] == 0
    assert curriculum.table(0)[Role.ASSISTANT] == 1


def test_too_long_conversations_end_with_an_answer_or_are_left_out(folders):
    _, chat, _ = folders
    whole = open_chat(chat)
    longest = int(whole.shards.document_lengths.max())
    short = longest // 2
    cut, dropped = (open_chat(chat, context_len=short, too_long=how) for how in ("truncate", "drop"))
    too_long = int((whole.shards.document_lengths > short + 1).sum())
    assert 0 < cut.num_truncated < too_long
    assert cut.num_truncated + cut.num_dropped == too_long == dropped.num_dropped
    assert dropped.num_truncated == 0
    assert cut.sizes.max() <= short
    end = Tokenizer.load(whole.shards.tokenizer_dir).special_ids["<|assistant_end|>"]
    for item, length in zip(cut.items.tolist(), cut.lengths.tolist(), strict=True):
        assert whole.shards.document(item)[length - 1] == end
    lost = whole.shards.document_lengths.sum() - cut.lengths.sum()
    assert cut.num_cropped_tokens == lost
    assert f"{cut.num_truncated:,} truncated" in cut.summary()
    source = open_chat(chat, context_len=3)
    with pytest.raises(UserError, match=r"none of its \d+ items fits a row of 3 tokens"):
        ChatPipeline(
            [source],
            curriculum=Curriculum([TagWeights()], num_steps=1),
            batch_rows=1,
            context_len=3,
            seed=0,
        )


def test_a_weight_that_shows_nothing_is_refused(folders):
    """Nor is the source passed over in silence beside another one."""
    _, chat, _ = folders
    with pytest.raises(
        UserError, match=r"an epoch shows none of its \d+ items, .* the weight 0\.0001; raise"
    ):
        chat_pipeline(chat, weight=0.0001)


def test_the_longest_beginning_of_whole_turns(folders):
    tokenizer = Tokenizer.load(ShardSet.open(folders[1]).tokenizer_dir)
    texts = ["a", "b", "c", "d"]
    messages = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)
    ]
    data = to_bytes(render(parse_conversation({"messages": messages}), tokenizer))
    one = len(tokenizer.encode("a"))
    first = 5 + 2 * one  # <|bos|> and two messages with their marks
    assert [whole_turns(data, most) for most in (first - 1, first, first + 1, len(data) - 1)] == [
        0,
        first,
        first,
        first,
    ]


def test_validation_shows_every_conversation_once(folders):
    _, chat, _ = folders
    shards = ShardSet.open(chat, split="val")
    batches = list(validation_chat_batches(shards, batch_rows=2, context_len=CONTEXT_LEN))
    counted = sum(int(batch.rows.weights.sum()) for batch in batches)
    structure = sum(
        int(((shards.roles(i) & 0x7F)[1:] == Role.STRUCTURE).sum()) for i in range(shards.num_documents)
    )
    assert counted == shards.num_tokens - shards.num_documents - structure
    assert {batch.rows.tokens.shape for batch in batches} == {(2, CONTEXT_LEN)}


def test_every_position_of_a_batch_of_pairs(folders):
    *_, pairs = folders
    source = open_pairs(SourceConfig(path=str(pairs)), context_len=CONTEXT_LEN)
    pipeline = PreferencePipeline([source], batch_rows=3, context_len=CONTEXT_LEN, seed=0)
    pipeline.reference = [np.arange(2 * source.shards.num_documents, dtype=np.float32).reshape(-1, 2)]
    batch = pipeline.batch(1)
    assert batch.reference is not None
    tokenizer = Tokenizer.load(source.shards.tokenizer_dir)
    prepared = {tuple(source.shards.document(i).tolist()): i for i in range(source.shards.num_documents)}
    assert batch.pairs.shape == (3, pairs_per_row(CONTEXT_LEN))
    for row in range(3):
        for slot in np.flatnonzero(batch.pairs[row]).tolist():
            documents = []
            for side, word in ((0, "Answer"), (1, "Answer")):
                here = np.flatnonzero(batch.sequence[row] == 2 * slot + side)
                assert (np.diff(here) == 1).all()
                tokens = (
                    *batch.batch.tokens[row, here].tolist(),
                    int(batch.batch.targets[row, here[-1]]),
                )
                documents.append(prepared[tokens])
                answer = batch.batch.targets[row, here][batch.batch.weights[row, here] > 0]
                assert (word in tokenizer.decode(answer)) == (side == 1)
                assert answer[-1] == tokenizer.special_ids["<|assistant_end|>"]
                assert (batch.batch.k_lo[row, here] == here[0]).all()
            chosen, rejected = documents
            assert rejected == chosen + 1
            assert batch.reference[row, slot].tolist() == [chosen, chosen + 1]
        assert not batch.batch.weights[row, batch.sequence[row] < 0].any()


def test_only_the_last_turn_of_a_pair_counts(folders, tmp_path: Path):
    *_, pairs = folders
    tokenizer = ShardSet.open(pairs).tokenizer_dir
    earlier = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = chat_runs.pair(0)
    rows = [{**row, "prompt": [*earlier, *row["prompt"]]}]
    folder = chat_runs.prepare(
        chat_runs.write_rows(tmp_path / "p.jsonl", rows),
        tokenizer,
        tmp_path / "out",
        preferences=True,
        val_documents=0,
    )
    shards = ShardSet.open(folder)
    ((batch, numbers),) = every_pair(shards, batch_rows=1, context_len=CONTEXT_LEN)
    assert numbers[0, 0] == 0
    role = shards.roles(0) & 0x7F
    spoken = int(np.isin(role, SPOKEN).sum())
    counted = int((batch.batch.weights[0] * (batch.sequence[0] == 0)).sum())
    assert 0 < counted < spoken


def test_what_a_step_holds_is_described(folders):
    _, chat, pairs = folders
    pipeline = chat_pipeline(chat)
    described = pipeline.describe(2)
    batch = pipeline.batch(2)
    filled = (batch.rows.k_hi > batch.rows.k_lo).mean()
    assert described.used_frac == pytest.approx(filled)
    assert described.padded_frac == pytest.approx(1 - filled)
    in_epoch = pipeline.rows.rows_in(1) // 4
    visits = [
        {part.visit for row in pipeline.describe(step).rows for part in row.parts}
        for step in (0, in_epoch + 1)
    ]
    assert visits == [{0}, {1}]
    first = described.rows[0].parts[0]
    assert batch.rows.tokens[0, : len(first.first_tokens)].tolist() == list(first.first_tokens)
    source = open_pairs(SourceConfig(path=str(pairs)), context_len=CONTEXT_LEN)
    both = PreferencePipeline([source], batch_rows=1, context_len=CONTEXT_LEN, seed=0).describe(0)
    numbers = [part.document for part in both.rows[0].parts[:2]]
    assert numbers[1] == numbers[0] + 1


def test_folders_of_another_kind_are_refused(folders):
    text, chat, _ = folders
    with pytest.raises(UserError, match="holds text, and this stage trains on conversations; name a folder"):
        open_chat(text)
    with pytest.raises(UserError, match="holds conversations, and this stage trains on preferences"):
        open_pairs(SourceConfig(path=str(chat)), context_len=CONTEXT_LEN)
    tokenless = open_chat(chat)
    with pytest.raises(UserError, match=r"names .* twice; name it once, with the weights added"):
        ChatPipeline(
            [tokenless, tokenless],
            curriculum=Curriculum([TagWeights()], num_steps=1),
            batch_rows=1,
            context_len=CONTEXT_LEN,
            seed=0,
        )
