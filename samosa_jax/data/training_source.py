"""One prepared folder as a run reads it: opened, gone on with after a restart, waited for while it grows."""

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samosa_jax.data.manifest import load_manifest
from samosa_jax.data.packing import Extension, TokenStream
from samosa_jax.data.shards import ShardSet
from samosa_jax.errors import UserError

logger = logging.getLogger(__name__)


class TrainingSource:
    """The training documents of a folder and the stream a run makes of them."""

    def __init__(self, path: str, stream: TokenStream, *, context_len: int, wait_timeout_s: float) -> None:
        """Raises UserError when all text is there and does not fill one row."""
        self.path = path
        self.stream = stream
        self._context_len = context_len
        self._wait_timeout_s = wait_timeout_s
        self._refreshing = threading.Lock()
        self._check_size()

    @classmethod
    def open(
        cls,
        path: str,
        *,
        seed: int,
        context_len: int,
        wait_for_shards: bool,
        wait_timeout_s: float,
        saved: Mapping[str, Any] | None = None,
        rows_read: int = 0,
    ) -> "TrainingSource":
        """Opens a folder written by `prepare`.

        Args:
            saved: what `state` gave, for a run that has read rows_read rows of this source; the stream goes
                on in the same order, with generations that are new since then behind the current pass.

        Raises:
            UserError: no such folder, not finished, too few tokens, or not the text that `saved` speaks of.
        """
        generations = _count_generations(path, wait_for_shards=wait_for_shards)
        extensions = (Extension(0, generations),)
        if rows_read == 0:
            saved = None
        if saved is not None:
            extensions = tuple(Extension(*pair) for pair in saved["extensions"])
        if generations < extensions[-1].num_generations:
            raise UserError(
                f"{path}: {generations} finished generations, the checkpoint was written with "
                f"{extensions[-1].num_generations}; restore the folder, or set data.wait_for_shards=true "
                "while `prepare` still writes it"
            )
        shards = ShardSet.open(path, split="train", generations=range(generations))
        stream = TokenStream(shards, seed=seed, extensions=extensions)
        if saved is not None:
            known, num_shards = stream.known, saved["num_shards"]
            if len(known.entries) < num_shards or known.fingerprint(num_shards) != saved["fingerprint"]:
                raise UserError(
                    f"{path}: its first {num_shards} shards are not those the checkpoint was written with; "
                    "restore the folder, or start a new run under another name"
                )
            # Wherever the rows read lie in the stream, their last token is no later one than this.
            extensions = stream.extended(generations, position=rows_read * context_len)
            stream = TokenStream(shards, seed=seed, extensions=extensions)
        return cls(path, stream, context_len=context_len, wait_timeout_s=wait_timeout_s)

    def state(self) -> dict[str, Any]:
        """What `open` needs to go on in the same order; JSON."""
        stream = self.stream  # a reading thread may put another in its place
        known = stream.known
        return {
            "path": self.path,
            "extensions": [list(extension) for extension in stream.extensions],
            "num_shards": len(known.entries),
            "fingerprint": known.fingerprint(len(known.entries)),
        }

    def stream_with(self, row: int, *, closed: threading.Event) -> TokenStream:
        """The stream, once `row` and the rows before it can be read.

        Args:
            closed: ends a wait early, because nobody wants the tokens any more.

        Raises:
            UserError: no shard came for wait_timeout_s.
        """
        stop = (row + 1) * self._context_len + 1  # as `TokenStream.row_order` promises
        if _can_read(self.stream, stop):
            return self.stream
        with self._refreshing:
            deadline = time.monotonic() + self._wait_timeout_s
            told = False
            while not _can_read(self.stream, stop):
                before = self.stream
                before.shards.refresh()
                self.stream = TokenStream(before.shards, seed=before.seed, extensions=before.extensions)
                self._check_size()
                if self.stream.num_readable != before.num_readable:
                    deadline = time.monotonic() + self._wait_timeout_s
                    continue
                if not told:
                    logger.warning("%s: waiting for `prepare` to write the next shard", self.path)
                    told = True
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{self.path}: no new shard for {self._wait_timeout_s:g} s, and `prepare` has not "
                        "finished; run the same `prepare` command again to finish it, then this one"
                    )
                if closed.wait(min(1.0, self._wait_timeout_s / 10)):
                    raise RuntimeError("closed while waiting for shards")
            return self.stream

    def _check_size(self) -> None:
        if self.stream.known.complete and self.stream.num_tokens <= self._context_len:
            raise UserError(
                f"{self.path}: {self.stream.num_tokens} training tokens, fewer than the "
                f"{self._context_len + 1} of one row (model.context_len + 1); "
                "prepare more text or lower model.context_len"
            )


def _can_read(stream: TokenStream, stop: int) -> bool:
    return stream.num_readable is None or stop <= stream.num_readable


def _count_generations(path: str, *, wait_for_shards: bool) -> int:
    """How many generations a run that starts now reads: the finished ones, or all when it can wait."""
    generations = load_manifest(Path(path)).generations
    if wait_for_shards:
        return len(generations)
    finished = next((i for i, entry in enumerate(generations) if not entry.complete), len(generations))
    if finished == 0:
        raise UserError(
            f"{path}: `prepare` has not finished it; run the same `prepare` command again to finish it, "
            "or set data.wait_for_shards=true to train while it works"
        )
    if finished < len(generations):
        logger.warning("%s: generation %d is not finished and is left out for now", path, finished)
    return finished
