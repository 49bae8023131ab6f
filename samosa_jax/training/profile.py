"""A trace of a few steps: what host and devices did when, for xprof or Perfetto to show."""

from collections.abc import Callable
from pathlib import Path

import jax

from samosa_jax.config import LogConfig


class StepProfile:
    """Traces steps `first` to `last`, counted from 1 and both included, into a folder.

    The loop waits for the step before the first and for the last one, so that whole steps are in the trace;
    both waits show in `perf/step_ms`. A run that resumes after `first` traces the steps that are left, and
    one that ends early those that it made.
    """

    def __init__(self, *, first: int, last: int, folder: Path, say: Callable[[str], None]) -> None:
        self._first = first
        self._last = last
        self._folder = folder
        self._say = say
        self._since: int | None = None  # the first step in the trace under way

    def begins_with(self, step: int) -> bool:
        """Whether the trace must be started before this step."""
        return self._since is None and self._first <= step <= self._last

    def ends_with(self, step: int) -> bool:
        """Whether the trace must be stopped after this step."""
        return self._since is not None and step >= self._last

    def start(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        jax.profiler.start_trace(self._folder)
        self._since = step

    def stop(self, step: int) -> None:
        """Writes the trace, if one is under way, after the last step in it, and says how to look at it."""
        if self._since is None:
            return
        jax.profiler.stop_trace()
        first, self._since = self._since, None
        self._first = self._last + 1  # once is enough
        self._say(
            f"profile of steps {first} to {step} is in {self._folder}; to look at it: pip install xprof, "
            f"then xprof --logdir={self._folder}, or open its trace.json.gz in https://ui.perfetto.dev"
        )


def make_profile(config: LogConfig, *, folder: Path, say: Callable[[str], None]) -> StepProfile | None:
    """What log.profile asks for; None where that is nothing."""
    if config.profile_steps is None:
        return None
    first, last = config.profile_steps
    return StepProfile(first=first, last=last, folder=folder, say=say)
