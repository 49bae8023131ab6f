"""Bits per byte of a checkpoint on held-out text, as a result with an interval."""

import math
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
    total = sum((part for _, part in parts[1:]), start=parts[0][1])
    bits = [part.nats / math.log(2) for _, part in parts]
    interval = ratio_interval(bits, [part.num_bytes for _, part in parts])
    items = [
        {"item": name, "score": part.value, "nats": part.nats, "bytes": part.num_bytes}
        for name, part in parts
    ]
    # The value itself is summed as training sums it, and equal to the last digit.
    return Interval(total.value, interval.low, interval.high), items
