"""Levels of a load test by hand: their requests, and how the client fared."""

from engine.loadgen.samples import Level, Sample, Watch
from engine.stages.loadtest.figures import figures_of


def sample(intended_ms, status="ok", ttft_ms=20.0, e2e_ms=100.0, tokens=11, late_ms=0.0, **more):
    """One request. A failed one has no latency; its end is `e2e_ms` only where `ended` is given."""
    sent_ms = intended_ms + late_ms
    if status != "ok":
        return Sample(intended_ms, sent_ms, status, error=more.pop("error", "broken"), **more)
    times = {"ttft_ms": ttft_ms, "last_ms": e2e_ms, "e2e_ms": e2e_ms}
    counts = {"events": tokens or 1, "prompt_tokens": 5, "output_tokens": tokens}
    return Sample(intended_ms, sent_ms, status, **{**times, **counts, **more})


def watch(cpu_s=1.0, window_s=10.0, lag_ms=0.2, clock_jump_s=0.0, others_cpu=0.3, process=0):
    """A process that is at ease."""
    return Watch(process, cpu_s, window_s, (lag_ms,) * 200, clock_jump_s, others_cpu)


def level(samples, kind="poisson", concurrency=None, rate=10.0, watches=None, **more):
    """An open load of ten requests per second for ten seconds, after two of warm-up."""
    if concurrency is not None:
        rate = None
        kind = more.pop("kind", "closed") if kind == "poisson" else kind
    fields = {
        "window_s": 10.0,
        "warmup_s": 2.0,
        "started_s": 1.8e9,
        "seed": 7,
        "scheduled": None,
        "samples": list(samples),
        "watches": [watch()] if watches is None else watches,
    }
    return Level(kind=kind, concurrency=concurrency, rate=rate, **{**fields, **more})


def steady(every_ms=100.0, from_ms=-2000.0, to_ms=10_000.0, **more):
    """Requests at even times, all alike."""
    count = round((to_ms - from_ms) / every_ms)
    return [sample(from_ms + number * every_ms, **more) for number in range(count)]


def serving_of(measured, slo=None):
    """What report.json's `serving` has of them, but for what the server said of itself."""
    serving = {}
    for each in measured:
        levels = serving.setdefault(each.model, {"levels": []})["levels"]
        levels.append(figures_of(each.level, each.ceiling, slo))
    return serving
