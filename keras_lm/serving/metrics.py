"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from keras_lm.serving.versions import Model

_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BETWEEN = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Counters and histograms of one server.

    Args:
        models: Are asked how many texts run and wait.

    Attributes:
        requests: By route and status.
        first_token: Seconds from a request to its first token.
        token: Seconds a token, after the first, of each text.
        prompt_tokens, new_tokens: Read and drawn.
        refused: Requests that found the queue full.
        cut_off: Streams whose clients did not read.
    """

    def __init__(self, models: Sequence[Model] = ()):
        self._registry, self._models = CollectorRegistry(), models
        self.requests = Counter("keras_lm_requests", "Requests answered", ["route", "status"], registry=self._registry)
        self.first_token = Histogram(
            "keras_lm_time_to_first_token_seconds", "From a request to its first token", buckets=_FIRST, registry=self._registry
        )
        self.token = Histogram(
            "keras_lm_time_per_token_seconds", "A token, after the first, of each text", buckets=_BETWEEN, registry=self._registry
        )
        self.prompt_tokens = Counter("keras_lm_prompt_tokens", "Tokens of prompts", registry=self._registry)
        self.new_tokens = Counter("keras_lm_new_tokens", "Tokens drawn", registry=self._registry)
        self.refused = Counter("keras_lm_queue_refusals", "Requests that found the queue full", registry=self._registry)
        self.cut_off = Counter("keras_lm_streams_cut_off", "Streams whose clients did not read", registry=self._registry)
        self._registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """What is so just now; asked for by Prometheus' client."""
        gauges = {
            "running": GaugeMetricFamily("keras_lm_texts_running", "Texts being drawn", labels=["model", "version"]),
            "waiting": GaugeMetricFamily("keras_lm_texts_waiting", "Texts that wait for their turn", labels=["model", "version"]),
        }
        for model in self._models:
            for version in model.versions.values():
                for name, gauge in gauges.items():
                    if version.engine is not None:
                        gauge.add_metric([model.name, str(version.number)], getattr(version.engine, name))
        return gauges.values()

    def page(self) -> bytes:
        """All of it in Prometheus' text form."""
        return generate_latest(self._registry)
