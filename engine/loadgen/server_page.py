"""A server's /metrics page -> the few numbers that tell where its time goes.

Known are the pages of vLLM and of this engine's front, which adds its replicas' pages; a page may
have both. Of another server's page nothing is read. What the numbers mean together is not said
here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

# Name here -> name there. Of a histogram the sum (`…_s`, seconds) and the count (`…_n`) are read.
HISTOGRAMS = {
    "front_first_byte": "distill_time_to_first_byte_seconds",
    "front_request": "distill_request_seconds",
    "engine_first_token": "vllm:time_to_first_token_seconds",
    "engine_request": "vllm:e2e_request_latency_seconds",
    "engine_queue": "vllm:request_queue_time_seconds",
    "engine_prefill": "vllm:request_prefill_time_seconds",
    "engine_decode": "vllm:request_decode_time_seconds",
}
COUNTERS = {
    "front_requests": "distill_requests_total",
    "front_retries": "distill_retries_total",
    "front_faults": "distill_replica_faults_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "output_tokens": "vllm:generation_tokens_total",
    "preemptions": "vllm:num_preemptions_total",
    "prefix_queries": "vllm:prefix_cache_queries_total",
    "prefix_hits": "vllm:prefix_cache_hits_total",
}
# and how the values of several processes become one
GAUGES: dict[str, tuple[str, Callable[[Iterable[float]], float]]] = {
    "replicas": ("distill_replicas", max),  # every front tells of all
    "replicas_started": ("distill_replicas_started", max),
    "front_open": ("distill_open", sum),
    "front_queued": ("distill_queued", sum),
    "running": ("vllm:num_requests_running", sum),
    "waiting": ("vllm:num_requests_waiting", sum),
    "kv_usage": ("vllm:kv_cache_usage_perc", max),  # 0..1, of the fullest
}
_MODEL_LABELS = ("model_name", "model")
_PROCESSES = ("replica", "front")  # labels that tell one process of a merged page from the others


def sample_names() -> dict[str, str]:
    """Name of a sample on a page -> name here."""
    names = {there: here for here, there in COUNTERS.items()}
    for here, (there, _) in GAUGES.items():
        names[there] = here
    for here, there in HISTOGRAMS.items():
        names[f"{there}_sum"] = f"{here}_s"
        names[f"{there}_count"] = f"{here}_n"
    return names


_HERE = sample_names()
# Most of a page are buckets and families that nobody asks for: they are dropped before the parser.
_KNOWN_LINE = re.compile(rf"^(?:{'|'.join(map(re.escape, _HERE))})[ {{].*$", re.MULTILINE)

Labels = tuple[tuple[str, str], ...]  # in order


@dataclass(frozen=True)
class Page:
    """What a page holds of one model: values by name and labels."""

    values: Mapping[str, Mapping[Labels, float]]
    models: frozenset[str]  # that it speaks of


def read_page(text: str, model: str) -> Page:
    """The known samples of `model`; where the page speaks of one other model alone, of that one: it
    is served under a second name. ValueError for text that is no metrics page."""
    found: dict[str, dict[str, dict[Labels, float]]] = defaultdict(lambda: defaultdict(dict))
    lines = "\n".join(_KNOWN_LINE.findall(text)) + "\n"
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            labels = dict(sample.labels)
            owner = _model_of(labels)
            key = tuple(sorted(labels.items()))
            found[owner][_HERE[sample.name]][key] = sample.value
    models = frozenset(found) - {""}
    chosen = model
    if model not in models and len(models) == 1:
        (chosen,) = models
    values = dict(found.get("", {}))
    values |= found.get(chosen, {})
    return Page(values, models)


def _model_of(labels: Mapping[str, str]) -> str:
    for name in _MODEL_LABELS:
        if name in labels:
            return labels[name]
    return ""


@dataclass
class Reader:
    """Pages in the order in which they came -> values that only grow where they count something.

    A process that starts anew counts from 0 again, and one that comes later brings a past that is
    not this load's: both are seen by comparing each process with itself.
    """

    pages: int = 0
    falls: int = 0  # pages on which a count was lower than before
    _last: dict[tuple[str, Labels], float] = field(default_factory=dict)
    _grown: dict[str, float] = field(default_factory=dict)
    _known: set[Labels] = field(default_factory=set)  # processes of earlier pages

    def read(self, page: Page) -> dict[str, float]:
        """The page as one number per name: a gauge as it is, a count as it grew since the first
        page. What the page does not have is not there."""
        read: dict[str, float] = {}
        has_fallen = False
        for name, values in page.values.items():
            if name in GAUGES:
                combine = GAUGES[name][1]
                read[name] = combine(values.values())
                continue
            for labels, value in values.items():
                has_fallen |= value < self._last.get((name, labels), value)
                self._grow(name, labels, value)
            read[name] = self._grown[name]
        self.pages += 1
        self.falls += has_fallen
        self._known |= set(map(_process_of, _all_labels(page)))
        return read

    def _grow(self, name: str, labels: Labels, value: float) -> None:
        before = self._last.get((name, labels))
        if before is None:
            # A process that was not there may have counted before; one that was began at 0.
            is_known = _process_of(labels) in self._known
            before = 0.0 if is_known else value
        elif value < before:
            before = 0.0
        self._grown[name] = self._grown.get(name, 0.0) + value - before
        self._last[name, labels] = value


def _process_of(labels: Labels) -> Labels:
    return tuple(label for label in labels if label[0] in _PROCESSES)


def _all_labels(page: Page) -> Iterator[Labels]:
    """Of a page without any known sample: those of the process that showed it."""
    yield ()
    for values in page.values.values():
        yield from values
