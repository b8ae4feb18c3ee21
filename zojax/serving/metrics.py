"""What Prometheus is told."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from zojax.engine.core import Core
from zojax.programs.compiling import CompilationCounter

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_COUNTED = {
    "iterations": "Iterations of the runtime.",
    "prompt_tokens": "Tokens of prompts.",
    "reused_tokens": "Tokens of prompts that were in a cache.",
    "shared_tokens": "Tokens of prompts of which the layers that adapters share alone were in one.",
    "new_tokens": "Tokens that were added.",
    "scored_tokens": "Tokens that were computed to score something.",
    "padding_tokens": "Places in calls that held no token.",
    "paused_texts": "Times that a text gave up its row for another key's.",
}


class Metrics:
    """Counts requests and times, and reads the runtime's counts when it is asked.

    Args:
        core: the runtime's heart.
        compilations: counts programs that are compiled while serving, of which there should be
            none.
    """

    def __init__(self, core: Core, compilations: CompilationCounter):
        self._core, self._compilations = core, compilations
        self._registry = CollectorRegistry()
        to = self._registry
        labels = ["route", "status"]
        self._requests = Counter("zojax_requests", "HTTP requests.", labels, registry=to)
        self._seconds = Histogram(
            *("zojax_request_seconds", "Time of HTTP requests.", ["route"]),
            registry=to,
            buckets=_SECONDS,
        )
        self._first = Histogram(
            *("zojax_time_to_first_token_seconds", "Time to a text's first token."),
            registry=to,
            buckets=_SECONDS,
        )
        self._between = Histogram(
            *("zojax_time_per_output_token_seconds", "Time between two tokens of a text."),
            registry=to,
            buckets=_SECONDS,
        )
        self._registry.register(self)  # type: ignore[arg-type] - a collector is what has collect

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Counts an HTTP request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def tokens_came(self, count: int, seconds: float, *, is_first: bool) -> None:
        """Counts new tokens of a text, which came some time after those before."""
        if is_first:
            self._first.observe(seconds)
        else:
            for _ in range(count):
                self._between.observe(seconds / count)

    def page(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the runtime has counted."""
        counts = self._core.counts
        for name, about in _COUNTED.items():
            yield CounterMetricFamily(f"zojax_{name}", about, value=getattr(counts, name))
        turns = self._core.turns
        about = "Pieces of training steps and evaluations of jobs."
        yield CounterMetricFamily("zojax_training_pieces", about, value=turns.num_pieces)
        about = "Seconds that these took on the device."
        yield CounterMetricFamily("zojax_training_seconds", about, value=turns.seconds)
        gauges = {
            "requests_running": ("Texts and items on the device.", self._core.num_running),
            "requests_waiting": ("Texts and items that wait.", self._core.num_waiting),
            "adapters_live": ("Adapters in slots.", self._core.num_adapters),
        }
        for name, (about, value) in gauges.items():
            yield GaugeMetricFamily(f"zojax_{name}", about, value=value)
        about = "Programs that were compiled while serving."
        yield CounterMetricFamily("zojax_compilations", about, value=self._compilations.count)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """The seconds until now."""
        return time.perf_counter() - self._began
