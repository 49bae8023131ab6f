"""Results of one checkpoint: finds those that are there already, and adds new ones to the run."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from samosa_jax.evals.results import Interval, TaskResult, append_result, read_results


class Recorder:
    """Of a checkpoint of a run, by the digest of its seal."""

    def __init__(self, run: Path, *, step: int, checkpoint: str, again: bool) -> None:
        """`again`: results that are there already do not count."""
        self._run = run
        self._step = step
        self._checkpoint = checkpoint
        self._again = again
        self._before = [one for one in read_results(run) if one.checkpoint == checkpoint]

    @property
    def run(self) -> Path:
        return self._run

    @property
    def step(self) -> int:
        return self._step

    def find(self, task: str, metric: str, settings: Mapping[str, Any], definition: int) -> TaskResult | None:
        """The newest result that evaluating again would give, whose items are there."""
        if self._again:
            return None
        for one in reversed(self._before):
            if (one.task, one.metric, one.definition) == (task, metric, definition) and all(
                name in one.settings and one.settings[name] == value for name, value in settings.items()
            ):
                return one if (self._run / one.items).is_file() else None
        return None

    def add(
        self,
        task: str,
        metric: str,
        interval: Interval,
        settings: Mapping[str, Any],
        definition: int,
        num_items: int,
        started: float,
        counts: Mapping[str, int],
        *,
        items: str = "",
        higher_is_better: bool = True,
    ) -> TaskResult:
        result = TaskResult(
            task=task,
            metric=metric,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            num_items=num_items,
            higher_is_better=higher_is_better,
            settings=settings,
            definition=definition,
            step=self._step,
            checkpoint=self._checkpoint,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - started, 3),
            counts=counts,
            items=items,
        )
        append_result(self._run, result)
        return result
