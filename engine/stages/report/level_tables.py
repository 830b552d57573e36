"""What the levels of a load test say, as tables: rates and verdicts, latencies, and where the time
went. Levels are entries of report.json; what an entry does not have is shown as a dash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from engine.stages.report.table import INFINITE, UNKNOWN, Block, Table, bounds, figure, share

_KINDS = ("ttft", "tpot", "e2e")
# what 80 characters have room for
TERMINAL = ("load", "failed", "offered", "served", "tok/s", "TTFT p50", "TTFT p99", "TPOT p50")
_LATENCY_NOTE = (
    "Times in ms from the moment a request was due; a failed request counts as infinitely slow (∞)."
)
_PARTS_NOTE = (
    "Means in ms, which add up to E2E. late: sent after it was due, by the client. network: between"
    " client and front, or engine where there is no front. ingress: the front, and the API server"
    " before and after the engine. handling: the engine around its scheduler. queue: for a place in"
    " the batch. prefill: to the first token. decode: from there to the last."
)


def load_name(level: Block) -> str:
    """`concurrency 4`, `8 users`, `2.5 req/s` or `trace`."""
    kind = level.get("kind")
    if kind == "sessions":
        return f"{level['concurrency']} users"
    if level.get("concurrency") is not None:
        return f"concurrency {level['concurrency']}"
    if level.get("rate") is not None:
        return f"{level['rate']:g} req/s"
    return str(kind)


def marked_name(level: Block) -> str:
    """With † where the figures do not describe the server."""
    name = load_name(level)
    return name if level["valid"] else f"{name} †"


def is_ok(level: Block) -> bool:
    """Whether the server carried this load, and the client can tell."""
    return level["valid"] and level.get("verdict") in ("ok", None)


def level_tables(title: str, levels: Sequence[Block]) -> list[Table]:
    """All that the levels of one model say, the widest 11 columns."""
    tables = [rates(title, levels), latencies(levels)]
    if _have(levels, "ttft_ms_ci"):
        tables.append(intervals(levels))
    if _have(levels, "server"):
        tables += server_tables(levels)
    if _have(levels, "client"):
        tables.append(clients(levels))
    if _have(levels, "notes"):
        lines = _once(levels, lambda level: level.get("notes"))
        notes = Table(
            "Notes",
            [],
            [],
            "\n".join(lines),
            is_part=True,
            is_folded=True,
        )
        tables.append(notes)
    return tables


def _have(levels: Sequence[Block], field: str) -> bool:
    return any(level.get(field) for level in levels)


def rates(title: str, levels: Sequence[Block]) -> Table:
    """What was asked, what was served, and the verdict."""
    header = [
        "load",
        "verdict",
        "requests",
        "failed",
        "offered/s",
        "served/s",
        "95 % interval",
        "tok/s",
    ]
    has_slo = _have(levels, "goodput")
    if has_slo:
        header += ["good/s", "within SLO", "SLO kept"]
    rows = []
    for level in levels:
        row = [
            marked_name(level),
            level.get("verdict") or UNKNOWN,
            figure(level["requests"]),
            figure(level["failed"]),
            rate(level.get("offered_rps")),
            rate(served(level)),
            bounds(level.get("served_rps_ci")),
            figure(level["output_tokens_per_second"]),
        ]
        if has_slo:
            row += _good_cells(level)
        rows.append(row)
    return Table(
        title,
        header,
        rows,
        "\n".join(_rate_notes(levels)),
    )


def _good_cells(level: Block) -> list[str]:
    good = level.get("goodput")
    if not good:
        return [UNKNOWN] * 3
    kept = {True: "yes", False: "no", None: "open"}[good["met"]]
    return [
        rate(good["rps"]),
        share(good["share"]),
        kept,
    ]


def _rate_notes(levels: Sequence[Block]) -> list[str]:
    notes = []
    slos = [level["goodput"]["slo"] for level in levels if level.get("goodput")]
    if slos:
        notes.append(
            f"SLO: {slo_text(slos[0])}. open: the interval of the share lies on both sides of it."
        )
    notes += verdict_lines(levels)
    for level in levels:
        for cause, example in level.get("failure_examples", {}).items():
            if example in level.get("verdict_reason", ""):
                continue  # it stands there
            count = level["failures"][cause]
            notes.append(f"{load_name(level)}: {cause}: {count}, such as '{example}'.")
        if oddities := level.get("oddities"):
            met = ", ".join(f"{kind} {count:,}" for kind, count in oddities.items())
            notes.append(f"{load_name(level)}: in answers, not understood: {met}.")
    return notes


def verdict_lines(levels: Iterable[Block]) -> list[str]:
    """A sentence for each level that is not ok."""
    lines = []
    for level in levels:
        verdict = level.get("verdict")
        if verdict and verdict != "ok":
            lines.append(f"{marked_name(level)}: {verdict}: {level['verdict_reason']}.")
        elif not level["valid"]:
            lines.append(f"{marked_name(level)}: not valid: {level['invalid_reason']}.")
    return lines


def slo_text(slo: Block) -> str:
    """`TTFT ≤ 500 ms and TPOT ≤ 50 ms for 99 % of the requests`."""
    promised = []
    for kind in _KINDS:
        if slo.get(f"{kind}_ms") is not None:
            promised.append(f"{kind.upper()} ≤ {slo[f'{kind}_ms']:g} ms")
    bound = " and ".join(promised) or "an answer"
    return f"{bound} for {slo['percentile']:g} % of the requests"


def latencies(levels: Sequence[Block]) -> Table:
    """Percentiles of each kind."""
    rows = [[marked_name(level), *latency_cells(level).values()] for level in levels]
    return Table(
        "Latency",
        ["load", *latency_cells(levels[0])],
        rows,
        _LATENCY_NOTE,
        is_part=True,
    )


def latency_cells(level: Block) -> dict[str, str]:
    """By column; a time of null is infinite if requests failed, else not measured."""
    slowest = INFINITE if level["failed"] else UNKNOWN
    cells = {}
    for kind in _KINDS:
        for name, value in level[f"{kind}_ms"].items():
            cells[f"{kind.upper()} {name}"] = slowest if value is None else figure(value)
    return cells


def intervals(levels: Sequence[Block]) -> Table:
    """95 % intervals of the median and of p99."""
    rows = []
    for level in levels:
        row = [marked_name(level)]
        for kind in _KINDS:
            ends = level.get(f"{kind}_ms_ci") or {}
            row += [bounds(ends.get(name)) for name in ("p50", "p99")]
        rows.append(row)
    header = ["load"]
    for kind in _KINDS:
        header += [f"{kind.upper()} p50", f"{kind.upper()} p99"]
    note = "≥: the requests are too few to bound it from above, or too many failed."
    return Table(
        "95 % intervals (ms)",
        header,
        rows,
        note,
        is_part=True,
        is_folded=True,
    )


def server_tables(levels: Sequence[Block]) -> list[Table]:
    """Where the time went, and what the server said of itself; or why nobody knows."""
    told = [level["server"] for level in levels if level.get("server")]
    if not any(server.get("said") for server in told):
        reasons = "\n".join(_unknown(levels))
        return [Table("Where the time goes", [], [], reasons, is_part=True)]
    return [time_parts(levels, list(told[0]["parts_ms"])), servers(levels)]


def _unknown(levels: Sequence[Block]) -> list[str]:
    return _once(levels, lambda level: (level.get("server") or {}).get("unknown"))


def time_parts(levels: Sequence[Block], names: Sequence[str]) -> Table:
    """The named parts of a request's time."""
    rows = []
    for level in levels:
        server = level.get("server") or {}
        parts = server.get("parts_ms", {})
        row = [marked_name(level)]
        row += [_ms(parts.get(name)) for name in names]
        row += [_ms(server.get(name)) for name in ("e2e_ms", "ttft_ms", "engine_ttft_ms")]
        rows.append(row)
    header = [
        "load",
        *names,
        "E2E",
        "TTFT",
        "engine's TTFT",
    ]
    notes = "\n".join([_PARTS_NOTE, *_unknown(levels)])
    return Table(
        "Where the time goes",
        header,
        rows,
        notes,
        is_part=True,
    )


def _once(levels: Sequence[Block], notes_of: Callable[[Block], list[str] | None]) -> list[str]:
    """Each note once, with the levels that have it unless all do."""
    having: dict[str, list[str]] = {}
    for level in levels:
        for note in notes_of(level) or []:
            having.setdefault(note, []).append(load_name(level))
    lines = []
    for note, names in having.items():
        where = "" if len(names) == len(levels) else f"{', '.join(names)}: "
        lines.append(f"{where}{note}.")
    return lines


def servers(levels: Sequence[Block]) -> Table:
    """What else the server said of itself, and what looking cost."""
    rows = []
    for level in levels:
        server = level.get("server") or {}
        said = server.get("said") or {}
        replicas = [_count(said.get(f"replicas_{end}")) for end in ("min", "max")]
        rows.append(
            [
                marked_name(level),
                " to ".join(dict.fromkeys(replicas)),
                _count(said.get("running_max")),
                _count(said.get("queued_max")),
                share(said.get("kv_usage_max")),
                share(said.get("prefix_hit_share")),
                figure(said.get("output_tokens_per_second")),
                _count(said.get("preemptions")),
                _count(said.get("retries")),
                _count(server.get("looks")),
                figure(server.get("look_cpu_s")),
            ]
        )
    header = [
        "load",
        "replicas",
        "running",
        "queued",
        "KV cache",
        "prefix hits",
        "tok/s",
        "preempted",
        "retries",
        "looks",
        "CPU s",
    ]
    note = (
        "running, queued, KV cache: the most that was seen. looks: at the server's metrics, and the"
        " client's processor time for them."
    )
    return Table(
        "The server, by its own metrics",
        header,
        rows,
        note,
        is_part=True,
        is_folded=True,
    )


def clients(levels: Sequence[Block]) -> Table:
    """How the client fared."""
    rows = []
    for level in levels:
        client = level.get("client")
        if client is None:
            rows.append([marked_name(level), *[UNKNOWN] * 7])
            continue
        row = [
            marked_name(level),
            figure(client["processes"]),
            figure(client["cores"]),
            share(client["ceiling_share"]),
            figure(client["lag_ms"]["p50"]),
            figure(client["lag_ms"]["p99"]),
            figure(client["loop_lag_ms"]["p99"]),
            share(client["others_cpu"]),
        ]
        rows.append(row)
    header = [
        "load",
        "processes",
        "cores",
        "of its ceiling",
        "late p50",
        "late p99",
        "loop late p99",
        "others' CPU",
    ]
    note = "late: sent after it was due, ms. A client above half of its ceiling gives no verdict."
    return Table(
        "The client",
        header,
        rows,
        note,
        is_part=True,
        is_folded=True,
    )


def in_one(serving: dict[str, Block]) -> Table:
    """Every level of every model, with the most telling columns."""
    rows = []
    notes = [_LATENCY_NOTE]
    for model, measured in serving.items():
        for level in measured["levels"]:
            rows.append([model, *cells(level, TERMINAL)])
        for line in verdict_lines(measured["levels"]):
            notes.append(f"{model}, {line}")
    return Table(
        "serving",
        ["model", *TERMINAL],
        rows,
        "\n".join(notes),
    )


def cells(level: Block, columns: Sequence[str]) -> list[str]:
    """Of one level."""
    known = {
        "load": marked_name(level),
        "failed": figure(level["failed"]),
        "offered": rate(level.get("offered_rps")),
        "served": rate(served(level)),
        "tok/s": figure(level["output_tokens_per_second"]),
        **latency_cells(level),
    }
    return [known[name] for name in columns]


def served(level: Block) -> float:
    """Answers per second."""
    rps = level.get("served_rps")
    return level["request_throughput"] if rps is None else rps


def rate(value: float | None) -> str:
    """Requests per second; a dash for none."""
    return UNKNOWN if value is None else f"{value:,.2f}"


def _ms(value: float | None) -> str:
    """Means of parts, some of them far below a millisecond."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def _count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"
