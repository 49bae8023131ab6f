"""Bits per byte of a checkpoint on held-out text, as a result with an interval."""

from collections.abc import Iterable, Mapping
from typing import Any

from samosa_jax.data.pipeline import ValidationBatch
from samosa_jax.errors import UserError
from samosa_jax.evals.bits_per_byte import BitsPerByte
from samosa_jax.evals.intervals import Interval, ratio_interval


def measure_by_batch(
    measure: Any, params: Any, sources: Mapping[str, Iterable[ValidationBatch]]
) -> tuple[Interval, list[dict[str, Any]]]:
    """Over all sources together; an item is a batch of rows that follow each other in a source.

    Args:
        measure: what `bits_per_byte.make_bits_per_byte` returns.

    Raises UserError where no source holds a token that stands for any byte.
    """
    parts: list[tuple[str, BitsPerByte]] = []
    for name, batches in sources.items():
        for number, batch in enumerate(batches):
            if batch.num_bytes:
                parts.append((f"{name}/{number}", measure(params, [batch])))
    if not parts:
        raise UserError(
            f"{', '.join(sources)} hold no token that stands for any byte; prepare more held-out text"
        )
    # Divided as nats and then turned into bits, the value is that of training to the last digit.
    total = sum((part for _, part in parts[1:]), start=parts[0][1])
    scale = total.value * total.num_bytes / total.nats
    interval = ratio_interval([part.nats * scale for _, part in parts], [part.num_bytes for _, part in parts])
    items = [
        {"item": name, "score": part.value, "nats": part.nats, "bytes": part.num_bytes}
        for name, part in parts
    ]
    return Interval(total.value, interval.low, interval.high), items
