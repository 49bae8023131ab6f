"""What hands the loop its batches: prepared data that is read ahead, or a model that answers prompts."""

from collections.abc import Mapping
from typing import Any, Protocol

from samosa_jax.stages import Pipeline
from samosa_jax.training.state import TrainState
from samosa_jax.training.step_report import StepInput


class Feed(Protocol):
    """Batches in order, from the step that a run begins or goes on with."""

    def next_batch(self, state: TrainState) -> StepInput:
        """The next step's; `state` is what it will be trained on."""
        ...

    def data_state(self, step: int) -> Mapping[str, Any]:
        """JSON to go on from in the same order, when the batches of so many steps were given out."""
        ...

    def close(self) -> None: ...


class PreparedFeed:
    """From prepared data, whatever the state."""

    def __init__(self, pipeline: Pipeline, *, first_step: int) -> None:
        self._pipeline = pipeline
        self._batches = pipeline.batches(first_step)

    def next_batch(self, state: TrainState) -> StepInput:
        return StepInput(batch=next(self._batches))

    def data_state(self, step: int) -> Mapping[str, Any]:
        return self._pipeline.data_state(step)

    def close(self) -> None:
        self._batches.close()
