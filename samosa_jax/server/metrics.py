"""What Prometheus reads at /metrics, in a registry of its own."""

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.events import Ended, Event, TextDelta, ToolCalled, ToolReturned
from samosa_jax.server.running_answer import RunningAnswer

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts in one event loop; `text` may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "samosa_requests", "Answers to HTTP requests.", ("route", "status"), registry=self.registry
        )
        self._request_seconds = Histogram(
            "samosa_request_seconds",
            "From a request to the end of what it is answered.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._first_token_seconds = Histogram(
            "samosa_time_to_first_token_seconds",
            "From a request that was taken on to the first text of its answers.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._ended = Counter(
            "samosa_answers",
            "Answers that came to an end, by its reason.",
            ("reason",),
            registry=self.registry,
        )
        self._tool_calls = Counter(
            "samosa_tool_calls", "Calls of the server's tools.", ("outcome",), registry=self.registry
        )
        self._tool_seconds = Histogram(
            "samosa_tool_seconds",
            "That calls of the server's tools took.",
            buckets=SECONDS,
            registry=self.registry,
        )

    def follow(self, assistant: Assistant) -> None:
        """From now on the numbers of its engines are among the metrics."""
        self.registry.register(_EngineNumbers(assistant))

    def count_request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def count_event(self, answer: RunningAnswer, event: Event) -> None:
        if isinstance(event, (TextDelta, ToolCalled)) and answer.first_text is None:
            answer.first_text = time.monotonic()
            self._first_token_seconds.observe(answer.first_text - answer.began)
        elif isinstance(event, ToolReturned):
            self._tool_calls.labels("error" if event.result.is_error else "ok").inc()
            self._tool_seconds.observe(event.result.seconds)
        elif isinstance(event, Ended):
            self._ended.labels(event.reason).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _EngineNumbers(Collector):
    """Read from the engines when they are asked for."""

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant

    def collect(self) -> Iterable[Metric]:
        engines = self._assistant.stats().engines
        gauges: Mapping[str, tuple[str, list[int]]] = {
            "samosa_running_answers": ("Answers in the making.", [engine.running for engine in engines]),
            "samosa_waiting_answers": ("Answers that wait for room.", [engine.waiting for engine in engines]),
        }
        counters: Mapping[str, tuple[str, list[int]]] = {
            "samosa_prompt_tokens": ("Tokens of prompts.", [engine.prompt_tokens for engine in engines]),
            "samosa_cached_prompt_tokens": (
                "Those of them that were still in the cache.",
                [engine.cached_tokens for engine in engines],
            ),
            "samosa_generated_tokens": (
                "Tokens that the model chose.",
                [engine.generated_tokens for engine in engines],
            ),
        }
        for families, family in ((gauges, GaugeMetricFamily), (counters, CounterMetricFamily)):
            for name, (note, values) in families.items():
                metric = family(name, note, labels=("engine",))
                for number, value in enumerate(values):
                    metric.add_metric((str(number),), value)
                yield metric
