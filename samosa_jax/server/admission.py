"""How many answers are taken on at once; the rest are told when to come again."""

import math
import time

from samosa_jax.server.api_errors import ApiError, too_busy
from samosa_jax.server.settings import Limits

MAX_RETRY_SECONDS = 60
SHARE_OF_LAST = 0.2  # in the running mean of how long an answer takes


class Admission:
    """Counts the answers that run or wait. Belongs to one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._in_flight = 0
        self._mean_seconds = 1.0

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def take(self, count: int) -> None:
        """Room for `count` answers, each to be given back by `give_back`.

        Raises ApiError: 400 if there can never be room for so many, 429 if there is none now.
        """
        if count > self._limits.max_at_once:
            raise ApiError(
                400,
                f"the request asks for {count} answers; at most {self._limits.max_at_once} are given at once",
                param="n",
                code="too_many_choices",
            )
        if self._in_flight + count > self._limits.max_running + self._limits.max_queue:
            raise too_busy(self.retry_seconds())
        self._in_flight += count

    def give_back(self, count: int, *, began: float | None = None) -> None:
        """began: of time.monotonic(), for answers that came to their end."""
        self._in_flight -= count
        if began is not None:
            seconds = time.monotonic() - began
            self._mean_seconds += SHARE_OF_LAST * (seconds - self._mean_seconds)

    def retry_seconds(self) -> int:
        """After which one of those that wait has probably found room."""
        return min(max(1, math.ceil(self._mean_seconds)), MAX_RETRY_SECONDS)
