"""What Prometheus reads: names of our own, and vLLM's names for the same figures where wanted.

The engine's figures are read from its status at each scrape; what only the front sees (latencies, answers) is counted
here. Invariant: every label comes from a closed set, so the number of series is bounded whatever clients send. Figures
of the engine start again at 0 when it restarts, as Prometheus counters may.

Each family is one row of a table; vLLM's is the same family renamed (metric names of vLLM 0.11, docs/usage/metrics).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Metric, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from octavo.core.plan import StepStats
from octavo.core.status import Status

if TYPE_CHECKING:
    from octavo.engine.client import EngineClient

STATES = ("loading", "ready", "restarting", "draining", "dead")
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

# our name -> vLLM's
ALIASES = {
    "octavo_requests_running": ("vllm:num_requests_running",),
    "octavo_requests_waiting": ("vllm:num_requests_waiting",),
    "octavo_kv_usage_ratio": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "octavo_prefix_cache_queries_tokens": ("vllm:prefix_cache_queries", "vllm:gpu_prefix_cache_queries"),
    "octavo_prefix_cache_hits_tokens": ("vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_hits"),
    "octavo_prefix_cache_hit_ratio": ("vllm:gpu_prefix_cache_hit_rate",),
    "octavo_prompt_tokens": ("vllm:prompt_tokens",),
    "octavo_generated_tokens": ("vllm:generation_tokens",),
    "octavo_preemptions": ("vllm:num_preemptions",),
    "octavo_choices_finished": ("vllm:request_success",),
    "octavo_time_to_first_token_seconds": ("vllm:time_to_first_token_seconds",),
    "octavo_inter_token_seconds": ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    "octavo_request_seconds": ("vllm:e2e_request_latency_seconds",),
}
_LABELS = {"reason": "finished_reason"}  # our label -> vLLM's


class Distribution:
    """How often which values were seen, by upper bounds. For one thread: unlike the library's it takes no lock."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self._name, self._text, self._bounds = name, text, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value, so many times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def family(self) -> Metric:
        """As Prometheus reads it."""
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)


class Meter(Collector):
    """The metrics of one server. `ready` tells whether requests are accepted now."""

    def __init__(self, client: EngineClient, ready: Callable[[], bool], *, model: str, compat: str) -> None:
        self._client = client
        self._ready = ready
        self._model = model
        self._compat = compat
        self.first_token_seconds = Distribution(
            "octavo_time_to_first_token_seconds", "From a request to its first token.", _LONG
        )
        self.inter_token_seconds = Distribution(
            "octavo_inter_token_seconds", "Between two tokens of one answer.", _SHORT
        )
        self.request_seconds = Distribution("octavo_request_seconds", "From a request to the end of its answer.", _LONG)
        self.requests = Counter("octavo_requests", "HTTP requests answered.", ("endpoint", "status"), registry=None)
        self.choices = Counter("octavo_choices_finished", "Choices that have ended.", ("reason",), registry=None)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def tokens(self, count: int, seconds: float, *, first: bool) -> None:
        """New tokens of one choice, so long after its last ones, or after its request."""
        if first:
            self.first_token_seconds.observe(seconds)
        else:
            self.inter_token_seconds.observe(seconds / count, count)

    def finished(self, reason: str) -> None:
        """One choice has ended: "stop", "length", "error", or "abort" (refused, given up, or its client gone)."""
        self.choices.labels(reason=reason).inc()

    def answered(self, endpoint: str, status: int) -> None:
        """One HTTP request was answered; `endpoint` is one of our paths, or "other"."""
        self.requests.labels(endpoint=endpoint, status=str(status)).inc()

    def text(self) -> bytes:
        """The page, in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: the names are looked at only when scraped."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All families."""
        status = self._client.status()
        families = [*_engine(status, self._ready()), *self._own()]
        yield from families
        if self._compat == "vllm":
            for family in families:
                for name in ALIASES.get(family.name, ()):
                    yield self._renamed(family, name)
            yield _cache_config(status, self._model)

    def _own(self) -> Iterable[Metric]:
        """What is counted here, without prometheus_client's creation times."""
        for latency in (self.first_token_seconds, self.inter_token_seconds, self.request_seconds):
            yield latency.family()
        for source in (self.requests, self.choices):
            for family in source.collect():
                family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
                yield family

    def _renamed(self, family: Metric, name: str) -> Metric:
        """The same figures as vLLM calls them."""
        alias = Metric(name, family.documentation, family.type)
        for sample in family.samples:
            labels = {_LABELS.get(label, label): value for label, value in sample.labels.items()}
            labels |= {"engine": "0", "model_name": self._model}
            alias.add_sample(name + sample.name[len(family.name) :], labels, sample.value)
        return alias


def _engine(status: Status, ready: bool) -> Iterable[Metric]:
    """The families read from the engine's status."""
    stats, info = status.stats, status.info
    yield _gauge("ready", "1 when requests are accepted.", float(ready))
    states = {(state,): float(state == status.state) for state in STATES}
    yield _gauge("engine_state", "1 for the state the engine is in.", states, "state")
    yield _gauge("engine_heartbeat_age_seconds", "Since the engine's last sign of life.", status.heartbeat_age)
    yield _counter("engine_restarts", "Restarts of the engine process.", status.restarts)
    yield _gauge("requests_running", "Sequences that are computed.", stats.running)
    yield _gauge("requests_waiting", "Sequences that wait to be computed.", stats.waiting)
    yield from _cache(stats, info.page if info is not None else 1)
    yield _counter("prompt_tokens", "Prompt tokens of computed prompts.", stats.prompt_tokens)
    yield _counter("generated_tokens", "Tokens generated.", stats.generated_tokens)
    yield _counter("preemptions", "Sequences put back to wait.", stats.preemptions)
    yield _counter("steps", "Steps of the engine.", stats.steps)
    yield _gauge("step_seconds", "Length of the last step.", stats.step_seconds)
    yield _gauge("step_predicted_seconds", "What the last step was expected to take.", stats.predicted_seconds)
    yield _gauge("step_tokens", "Tokens computed in the last step.", stats.step_tokens)
    ended = {(reason,): float(count) for reason, count in stats.finished.items()}
    yield _counter("sequences_finished", "Sequences the engine ended.", ended, "reason")
    for name, totals, text in (
        ("logits_processor_seconds", stats.processor_seconds, "Time spent in logits processors, within steps."),
        ("logits_processor_calls", stats.processor_calls, "Calls of logits processors, one for each token."),
    ):
        yield _counter(name, text, {(processor,): float(value) for processor, value in totals.items()}, "processor")
    if info is not None:
        planned = {(category,): float(size) for category, size in info.memory.items()}
        yield _gauge("memory_planned_bytes", "Memory by the plan.", planned, "category")
        yield _gauge("memory_resident_bytes", "Memory that the engine process holds.", stats.resident_bytes)


def _cache(stats: StepStats, page: int) -> Iterable[Metric]:
    """The families of the KV cache."""
    counts = {"free": stats.pages_free, "cached": stats.pages_cached, "held": stats.pages_held}
    pages = {(state,): float(count) for state, count in counts.items()}
    yield _gauge("kv_pages", "Pages of the KV cache.", pages, "state")
    usage = _ratio(stats.pages_held, stats.pages_total)
    yield _gauge("kv_usage_ratio", "Share of the pages that sequences hold.", usage)
    waste = _ratio(stats.slack_tokens, stats.pages_held * page)
    yield _gauge("kv_waste_ratio", "Share of token places in held pages that hold no token.", waste)
    yield _counter("prefix_cache_queries_tokens", "Prompt tokens looked up in the prefix cache.", stats.prefix_queries)
    yield _counter("prefix_cache_hits_tokens", "Prompt tokens found in the prefix cache.", stats.prefix_hits)
    hits = _ratio(stats.prefix_hits, stats.prefix_queries)
    yield _gauge("prefix_cache_hit_ratio", "Share of the looked up tokens that were found.", hits)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _gauge(name: str, text: str, value: float | Mapping[tuple[str], float], label: str | None = None) -> Metric:
    family = GaugeMetricFamily(f"octavo_{name}", text, labels=[label] if label else [])
    for labels, one in value.items() if isinstance(value, Mapping) else [((), value)]:
        family.add_metric(labels, one)
    return family


def _counter(name: str, text: str, value: float | Mapping[tuple[str], float], label: str | None = None) -> Metric:
    family = CounterMetricFamily(f"octavo_{name}", text, labels=[label] if label else [])
    for labels, one in value.items() if isinstance(value, Mapping) else [((), value)]:
        family.add_metric(labels, one)
    return family


def _cache_config(status: Status, model: str) -> Metric:
    """vLLM's cache_config_info, from which routers read the size of the cache."""
    info = status.info
    family = GaugeMetricFamily(
        "vllm:cache_config_info",
        "Information of the cache.",
        labels=["block_size", "num_gpu_blocks", "num_cpu_blocks", "cache_dtype", "engine", "model_name"],
    )
    if info is not None:
        family.add_metric([str(info.page), str(info.pages), "0", info.kv_dtype, "0", model], 1.0)
    return family
