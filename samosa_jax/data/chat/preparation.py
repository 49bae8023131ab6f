"""What `prepare chat` does: conversations or preference pairs -> tokens with their roles -> shards."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samosa_jax.data.chat.conversation import Conversation, filled, to_json
from samosa_jax.data.chat.preferences import PreferencePair
from samosa_jax.data.chat.reading import (
    AUTO,
    Example,
    OnBadRow,
    ReadStatistics,
    read_conversations,
    read_preferences,
)
from samosa_jax.data.chat.role_bytes import to_bytes
from samosa_jax.data.chat.template import Rendered, render
from samosa_jax.data.continuation import check_outside, locked
from samosa_jax.data.holdout import ValidationRule, splitter, threshold_for
from samosa_jax.data.manifest import MANIFEST_NAME, Manifest, load_manifest
from samosa_jax.data.shard_writer import ShardWriter
from samosa_jax.data.shards import content_hash
from samosa_jax.data.sources import list_inputs
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError

REPORT_EVERY = 200  # examples

AnyExample = Example[Conversation] | Example[PreferencePair]


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What `prepare chat` reads, holds out and writes; a UserError for what cannot be met."""

    inputs: tuple[str, ...]
    tokenizer: Path
    out: Path
    preferences: bool = False
    format: str = AUTO
    on_bad_row: OnBadRow = "fail"
    every_path: bool = False  # of message trees
    max_rows: int | None = None  # examples taken, at most
    max_tokens: int | None = None  # a conversation, or a side of a pair, of more tokens is a bad row
    fill: Mapping[str, str] = field(default_factory=dict)  # {{key}} in what is said -> its value
    validation: ValidationRule = field(default_factory=ValidationRule)
    shard_tokens: int = 10_000_000

    def __post_init__(self) -> None:
        check_outside(self.out, self.inputs)
        for flag, value in (("--max-rows", self.max_rows), ("--max-tokens", self.max_tokens)):
            if value is not None and value < 1:
                raise UserError(f"{flag} is {value}; it must be at least 1")
        if self.shard_tokens < 1:
            raise UserError(f"--shard-tokens is {self.shard_tokens}; it must be at least 1")

    def recorded(self) -> dict[str, Any]:
        """What decides the bytes of the shards, beside the inputs, as the manifest keeps it."""
        names = (
            "preferences",
            "format",
            "on_bad_row",
            "every_path",
            "max_rows",
            "max_tokens",
            "shard_tokens",
        )
        return {**{name: getattr(self, name) for name in names}, "fill": dict(self.fill)}


@dataclass(frozen=True, kw_only=True)
class ChatSummary:
    """What a call of `prepare_chat` did, and what the folder holds since."""

    manifest: Manifest
    statistics: dict[str, int]  # rows, kept, and bad ones by reason
    seconds: float
    was_complete: bool  # nothing had to be done


def prepare_chat(
    options: ChatOptions, *, report: Callable[[ReadStatistics], None] = lambda statistics: None
) -> ChatSummary:
    """Writes `options.out`, whole or not at all.

    Conversations are held out for validation by a hash of their content, pairs by one of their prompt.

    Raises:
      UserError: what cannot be read or written, no example left, or a folder that holds something else.
    """
    tokenizer = Tokenizer.load(options.tokenizer)
    files = [file.description() for file in list_inputs(options.inputs).files]
    started = time.monotonic()
    unfinished = options.out.with_name(f"{options.out.name}.unfinished")
    with locked(options.out):
        done = _already_there(options, tokenizer, files)
        if done is not None:
            statistics = done.generations[0].statistics
            return ChatSummary(manifest=done, statistics=statistics, seconds=0.0, was_complete=True)
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
        try:
            manifest = _write(options, tokenizer, unfinished, files, report)
            unfinished.replace(options.out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return ChatSummary(
        manifest=manifest,
        statistics=manifest.generations[0].statistics,
        seconds=time.monotonic() - started,
        was_complete=False,
    )


def _already_there(
    options: ChatOptions, tokenizer: Tokenizer, files: list[dict[str, Any]]
) -> Manifest | None:
    if not (options.out / MANIFEST_NAME).exists():
        if options.out.is_dir() and any(options.out.iterdir()):
            raise UserError(f"{options.out}: not an empty folder; choose another --out, or remove it")
        return None
    manifest = load_manifest(options.out)
    generation = manifest.generations[0]
    same = (
        manifest.tokenizer_fingerprint == tokenizer.fingerprint
        and generation.options == options.recorded()
        and list(generation.files) == files
        and manifest.validation == _rule(options)
    )
    if not same:
        raise UserError(
            f"{options.out}: was prepared from other input, or with other options; choose another --out, or "
            "remove it"
        )
    return manifest


def _rule(options: ChatOptions) -> dict[str, Any]:
    rule = options.validation
    return {"val_documents": rule.val_documents, "val_frac": rule.val_frac, "seed": rule.seed}


def _write(
    options: ChatOptions,
    tokenizer: Tokenizer,
    folder: Path,
    files: list[dict[str, Any]],
    report: Callable[[ReadStatistics], None],
) -> Manifest:
    statistics = ReadStatistics()
    split_of = splitter(options.validation, threshold=_threshold(options, tokenizer), held_out=set())
    writer = ShardWriter.create(
        folder,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        tokenizer_fingerprint=tokenizer.fingerprint,
        content="preferences" if options.preferences else "conversations",
        tokenizer_dir=options.tokenizer,
        validation=_rule(options),
        inputs=options.inputs,
        files=files,
        options=options.recorded(),
    )
    for example, sides in _fitting(options, tokenizer, statistics):
        digest = _digest(example)
        split = split_of(digest)
        for rendered in sides:
            writer.add_hashed(
                rendered.tokens.astype(writer.manifest.dtype),
                split=split,
                digest=digest,
                num_text_bytes=int(tokenizer.token_bytes[rendered.tokens].sum()),
                roles=to_bytes(rendered),
            )
        if statistics.kept % REPORT_EVERY == 0:
            report(statistics)
        if writer.pending_tokens["train"] >= options.shard_tokens:
            writer.commit()
    if not writer.manifest.select("train") and not writer.pending_tokens["train"]:
        bad = ", ".join(f"{count} {reason}" for reason, count in statistics.bad.items())
        raise UserError(
            f"{', '.join(options.inputs)}: nothing is left to train on of {statistics.rows} rows"
            + (f" (bad: {bad})" if bad else "; lower --val-frac or --val-documents")
        )
    bad_rows = {f"bad: {reason}": count for reason, count in sorted(statistics.bad.items())}
    writer.finish(statistics={"rows": statistics.rows, "kept": statistics.kept, **bad_rows})
    return writer.manifest


def _fitting(
    options: ChatOptions, tokenizer: Tokenizer, statistics: ReadStatistics
) -> Iterator[tuple[AnyExample, list[Rendered]]]:
    """The examples with their tokens, of a pair the chosen side first; too long ones are bad rows."""
    for example in _examples(options, statistics):
        sides = list(_rendered(example, tokenizer))
        length = max(len(rendered.tokens) for rendered in sides)
        if options.max_tokens is None or length <= options.max_tokens:
            yield example, sides
        elif options.on_bad_row == "fail":
            raise UserError(
                f"{example.file}: row {example.row}: {length} tokens, more than --max-tokens "
                f"{options.max_tokens}; shorten it, or pass --on-bad-row=skip"
            )
        else:
            statistics.kept -= 1
            statistics.bad["too long"] += 1


def _examples(options: ChatOptions, statistics: ReadStatistics) -> Iterator[AnyExample]:
    examples: Iterator[AnyExample]
    if options.preferences:
        pairs = read_preferences(
            options.inputs, on_bad_row=options.on_bad_row, format=options.format, statistics=statistics
        )
        examples = (pair._replace(value=_filled_pair(pair.value, options.fill)) for pair in pairs)
    else:
        conversations = read_conversations(
            options.inputs,
            on_bad_row=options.on_bad_row,
            format=options.format,
            every_path=options.every_path,
            statistics=statistics,
        )
        examples = (one._replace(value=filled(one.value, options.fill)) for one in conversations)
    for example in examples:
        yield example
        if statistics.kept == options.max_rows:
            return


def _filled_pair(pair: PreferencePair, values: Mapping[str, str]) -> PreferencePair:
    prompt, chosen, rejected = (filled(side, values) for side in (pair.prompt, pair.chosen, pair.rejected))
    return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected)


def _threshold(options: ChatOptions, tokenizer: Tokenizer) -> int:
    threshold = options.validation.fixed_threshold
    if threshold is not None:
        return threshold
    count = options.validation.val_documents or 0
    digests = (_digest(example) for example, _ in _fitting(options, tokenizer, ReadStatistics()))
    threshold = threshold_for(options.validation, digests, count=count)
    if threshold is None:
        raise UserError(f"--val-documents is {count}, and the input has no more than that; hold out fewer")
    return threshold


def _digest(example: AnyExample) -> int:
    value = example.value
    conversation = value.prompt if isinstance(value, PreferencePair) else value
    return content_hash(
        json.dumps(to_json(conversation), ensure_ascii=False).encode("utf-8", "surrogatepass")
    )


def _rendered(example: AnyExample, tokenizer: Tokenizer) -> Iterator[Rendered]:
    value = example.value
    if isinstance(value, PreferencePair):
        yield render(value.chosen, tokenizer)
        yield render(value.rejected, tokenizer)
    else:
        yield render(value, tokenizer)
