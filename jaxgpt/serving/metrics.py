"""Numbers for operators at `/metrics`, named as vLLM's are, with our prefix."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from jaxgpt.inference.engine import Engine, Request

_PREFIX = "jaxgpt_"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


class Metrics:
    """Numbers of one server.

    Args:
        engine: counted when somebody looks.
        model_name: label of all numbers.
    """

    def __init__(self, engine: Engine, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._label = model_name
        self._registry.register(_EngineCollector(engine, model_name))  # type: ignore[arg-type]
        self._requests = Counter(
            f"{_PREFIX}request_success",
            "Finished requests.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(
                _PREFIX + name, about, ["model_name"], buckets=buckets, registry=self._registry
            ).labels(model_name)

        self._first = histogram(
            "time_to_first_token_seconds", "Seconds from a request to its first token.", _SECONDS
        )
        self._between = histogram(
            "inter_token_latency_seconds", "Seconds between two tokens of an answer.", _SECONDS
        )
        self._whole = histogram(
            "e2e_request_latency_seconds", "Seconds from a request to its end.", _SECONDS
        )
        self._prompt = histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self._answer = histogram("request_generation_tokens", "Tokens of an answer.", _TOKENS)

    def watch(self, request: Request) -> "RequestWatch":
        """Return what times one request from now on."""
        self._prompt.observe(len(request.prompt))
        return RequestWatch(self)

    def text(self) -> bytes:
        """Return all numbers in Prometheus's text form."""
        return generate_latest(self._registry)

    def observe(
        self, first: float | None, between: Iterator[float], whole: float, tokens: int, finish: str
    ) -> None:
        """Take the times of a request that has finished."""
        if first is not None:
            self._first.observe(first)
        for seconds in between:
            self._between.observe(seconds)
        self._whole.observe(whole)
        self._answer.observe(tokens)
        self._requests.labels(self._label, finish).inc()


class RequestWatch:
    """Times one request."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begin = time.monotonic()
        self._times: list[tuple[float, int]] = []

    def add(self, num_tokens: int, finish: str | None) -> None:
        """Note new tokens, and the end with its reason."""
        now = time.monotonic()
        if num_tokens:
            self._times.append((now, num_tokens))
        if finish is None:
            return
        first = self._times[0][0] - self._begin if self._times else None
        # Tokens that come together share the time since those before them.
        gaps = (
            (after - before) / number
            for (before, _), (after, number) in zip(self._times, self._times[1:], strict=False)
            for _ in range(number)
        )
        total = sum(number for _, number in self._times)
        self._metrics.observe(first, gaps, now - self._begin, total, finish)


class _EngineCollector:
    """The engine's own counts, taken when somebody looks."""

    def __init__(self, engine: Engine, model_name: str) -> None:
        self._engine = engine
        self._labels = [model_name]

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers."""
        counts = self._engine.counts()
        gauges = {
            "num_requests_running": ("Requests that have a slot.", counts.running),
            "num_requests_waiting": ("Requests that wait for a slot.", counts.waiting),
            "kv_cache_usage_perc": ("Share of the cache in use, from 0 to 1.", counts.cache_share),
        }
        counters = {
            "prompt_tokens": ("Tokens of prompts.", counts.prompt_tokens),
            "generation_tokens": ("Tokens of answers.", counts.drawn_tokens),
            "prefix_cache_queries": ("Tokens that might have been shared.", counts.prompt_tokens),
            "prefix_cache_hits": ("Tokens that were not read again.", counts.reused_tokens),
            "spec_decode_num_drafts": ("Times that tokens were drafted.", counts.drafts),
            "spec_decode_num_draft_tokens": ("Drafted tokens.", counts.drafted_tokens),
            "spec_decode_num_accepted_tokens": (
                "Drafted tokens that the model drew itself.",
                counts.accepted_tokens,
            ),
        }
        for family, values in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, (about, value) in values.items():
                metric = family(_PREFIX + name, about, labels=["model_name"])
                metric.add_metric(self._labels, value)
                yield metric
