"""Results of other load testers, one row for each load, to be laid beside ours.

Tools mean different things by one word, so a row carries what its tool means. Nothing is computed
anew from another tool's samples, but for what it left out of its own file.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.stages.report.level_tables import load_name, rate
from engine.stages.report.table import Block, Table, figure

Entry = Mapping[str, Any]  # a JSON object


@dataclass(frozen=True)
class Peer:
    """One load as another tool (or an earlier test of ours) saw it. Latencies are ms; None: its
    file does not say."""

    tool: str
    level: str
    requests: int | None
    failed: int | None
    request_rps: float | None
    output_tokens_per_second: float | None
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    tpot_p50_ms: float | None
    tpot_p99_ms: float | None
    e2e_p50_ms: float | None
    e2e_p99_ms: float | None


VLLM = "vllm bench serve"
GUIDELLM = "guidellm"
OURS = "distill loadtest"

MEANINGS = {
    OURS: (
        "TTFT and E2E count from the moment a request was due, to the first text and to the end of"
        " the answer; TPOT is (last text - first text) / (tokens - 1); a failed request is"
        " infinitely slow; rates are those of the window. Percentiles are values that were seen."
    ),
    VLLM: (
        "TTFT and E2E count from when the request was sent, after it had waited for a slot of"
        " --max-concurrency (not from when it was due), to the first chunk with a choice, even an"
        " empty one, and to the last; TPOT is (E2E - TTFT) / (tokens - 1); failed requests are left"
        " out of all latencies; rates are over the whole run, its start and its last answers"
        " included. Percentiles are interpolated."
    ),
    GUIDELLM: (
        "TTFT and E2E count from when the request was sent (not from when it was due), TTFT to the"
        " first token that is not empty; under TPOT stands its inter-token latency, (last - first"
        " token) / (tokens - 1) weighted by tokens, because its own TPOT includes the TTFT; failed"
        " and unfinished requests are left out of all latencies. Percentiles are values that were"
        " seen."
    ),
}
_READ_HERE = (
    "read are the JSON files of `vllm bench serve --save-result`, of guidellm (--output kind=json),"
    " and loadtest.json of this command"
)


def load_peers(paths: Iterable[Path]) -> list[Peer]:
    """The loads in result files. InputError for one that cannot be read, or is none."""
    peers: list[Peer] = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--compare {path}: cannot be read ({error}); {_READ_HERE}") from error
        peers += read_peers(text, str(path))
    return peers


def read_peers(text: str, name: str) -> list[Peer]:
    """The loads in a result file. InputError for a file that is none, with what it is."""
    peers: list[Peer] = []
    for document in _documents(text, name):
        tool = tool_of(document)
        if tool is None:
            raise InputError(f"--compare {name}: is {_what_is(document)}; {_READ_HERE}")
        try:
            peers += READERS[tool].read(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"--compare {name}: looks like a result of {tool}, but of a version that is not"
                f" known here ({type(error).__name__}: {error})"
            ) from error
    return peers


def tool_of(document: Any) -> str | None:
    """Whose result this is, by the keys that it has."""
    if not isinstance(document, dict):
        return None
    for tool, reader in READERS.items():
        if reader.keys <= document.keys():
            return tool
    return None


def _documents(text: str, name: str) -> list[Any]:
    """`vllm bench serve --append-result` writes one document after the other."""
    documents = []
    decoder = json.JSONDecoder()
    rest = text.lstrip("\ufeff \t\r\n")
    try:
        while rest:
            document, end = decoder.raw_decode(rest)
            documents.append(document)
            rest = rest[end:].lstrip()
    except ValueError:
        start = " ".join(text[:60].split())
        raise InputError(
            f"--compare {name}: is no JSON (it begins with {start!r}); {_READ_HERE}"
        ) from None
    if not documents:
        raise InputError(f"--compare {name}: is empty; {_READ_HERE}")
    return documents


def _what_is(document: Any) -> str:
    if isinstance(document, list):
        return f"a list of {len(document)} JSON values"
    if not isinstance(document, dict):
        return f"a JSON {type(document).__name__}"
    keys = ", ".join(list(document)[:6])
    return f"a JSON object of {keys or 'nothing'}"


def _read_vllm(result: Entry) -> Iterator[Peer]:
    failed = result.get("failed")
    e2e = {"median": result.get("median_e2el_ms"), "p99": result.get("p99_e2el_ms")}
    latencies_s = result.get("latencies")
    if latencies_s and failed == 0:  # with failed ones among them nobody could tell which
        e2e = _percentiles_ms(latencies_s)
    completed = result["completed"]
    yield Peer(
        tool=VLLM,
        level=_vllm_level(result),
        requests=completed + (failed or 0),
        failed=failed,
        request_rps=_number(result["request_throughput"]),
        output_tokens_per_second=_number(result["output_throughput"]),
        ttft_p50_ms=_number(result.get("median_ttft_ms")),
        ttft_p99_ms=_number(result.get("p99_ttft_ms")),
        tpot_p50_ms=_number(result.get("median_tpot_ms")),
        tpot_p99_ms=_number(result.get("p99_tpot_ms")),
        e2e_p50_ms=_number(e2e["median"]),
        e2e_p99_ms=_number(e2e["p99"]),
    )


def _percentiles_ms(latencies_s: list[float]) -> dict[str, float]:
    """As the tool itself would: interpolated."""
    median, p99 = np.percentile(latencies_s, [50, 99]).tolist()
    return {"median": median * 1000, "p99": p99 * 1000}


def _vllm_level(result: Entry) -> str:
    rate = result["request_rate"]
    slots = result.get("max_concurrency")
    if rate == "inf" or math.isinf(rate):
        return "all at once" if slots is None else f"concurrency {slots}"
    level = f"{rate:g} req/s"
    return level if slots is None else f"{level}, at most {slots} in flight"


def _read_guidellm(report: Entry) -> Iterator[Peer]:
    for benchmark in report["benchmarks"]:
        metrics = benchmark["metrics"]
        totals = metrics["request_totals"]
        ttft = metrics["time_to_first_token_ms"]["successful"]["percentiles"]
        itl = metrics["inter_token_latency_ms"]["successful"]["percentiles"]
        e2e_s = metrics["request_latency"]["successful"]["percentiles"]
        yield Peer(
            tool=GUIDELLM,
            level=_guidellm_level(benchmark["config"]["strategy"]),
            requests=totals["successful"] + totals["errored"],
            failed=totals["errored"],
            request_rps=_number(metrics["requests_per_second"]["successful"]["mean"]),
            output_tokens_per_second=_number(
                metrics["output_tokens_per_second"]["successful"]["mean"]
            ),
            ttft_p50_ms=_number(ttft["p50"]),
            ttft_p99_ms=_number(ttft["p99"]),
            tpot_p50_ms=_number(itl["p50"]),
            tpot_p99_ms=_number(itl["p99"]),
            e2e_p50_ms=_number(e2e_s["p50"] * 1000),
            e2e_p99_ms=_number(e2e_s["p99"] * 1000),
        )


def _guidellm_level(strategy: Entry) -> str:
    kind = strategy["type_"]
    if kind == "concurrent":
        return f"concurrency {strategy['streams']}"
    if kind == "synchronous":
        return "concurrency 1"
    if "rate" in strategy:
        return f"{strategy['rate']:g} req/s ({kind})"
    return kind


def _read_ours(report: Entry) -> Iterator[Peer]:
    for level in report["levels"]:
        yield peer_of(level, f"{OURS} of {report['started_at']}")


def peer_of(level: Block, tool: str = OURS) -> Peer:
    """An entry of ours as such a row."""
    ttft, tpot, e2e = (_with_failures(level, kind) for kind in ("ttft", "tpot", "e2e"))
    return Peer(
        tool=tool,
        level=load_name(level),
        requests=level["requests"],
        failed=level["failed"],
        request_rps=level["served_rps"],
        output_tokens_per_second=level["output_tokens_per_second"],
        ttft_p50_ms=ttft["p50"],
        ttft_p99_ms=ttft["p99"],
        tpot_p50_ms=tpot["p50"],
        tpot_p99_ms=tpot["p99"],
        e2e_p50_ms=e2e["p50"],
        e2e_p99_ms=e2e["p99"],
    )


def _with_failures(level: Block, kind: str) -> dict[str, float | None]:
    """Percentiles; null is infinite where requests failed."""
    slowest = math.inf if level["failed"] else None
    found = {}
    for name, value in level[f"{kind}_ms"].items():
        found[name] = slowest if value is None else value
    return found


def _number(value: float | None) -> float | None:
    """What JSON calls NaN or infinity is not known."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True)
class _Reader:
    """How a tool's document is known, and read."""

    keys: frozenset[str]
    read: Callable[[Entry], Iterator[Peer]]


READERS = {
    VLLM: _Reader(frozenset({"request_throughput", "completed", "request_rate"}), _read_vllm),
    GUIDELLM: _Reader(frozenset({"metadata", "benchmarks"}), _read_guidellm),
    OURS: _Reader(frozenset({"url", "started_at", "levels"}), _read_ours),
}


def comparison(levels: Sequence[Block], peers: Sequence[Peer]) -> Table:
    """Our levels and the others' in one table, ours first, with what each tool means."""
    ours = [peer_of(level) for level in levels]
    header = [
        "tool",
        "load",
        "requests",
        "failed",
        "req/s",
        "tok/s",
    ]
    for kind in ("TTFT", "TPOT", "E2E"):
        header += [f"{kind} p50", f"{kind} p99"]
    rows = []
    tools: dict[str, None] = {}
    for peer in [*ours, *peers]:
        cells = list(map(figure, dataclasses.astuple(peer)[2:]))
        cells[2] = rate(peer.request_rps)
        rows.append(
            [
                peer.tool,
                peer.level,
                *cells,
            ]
        )
        tools[peer.tool.partition(" of ")[0]] = None
    notes = [f"{tool}: {MEANINGS[tool]}" for tool in tools]
    notes.insert(0, "Latencies in ms. The tools do not mean the same by one word:")
    return Table(
        "Beside other results",
        header,
        rows,
        "\n".join(notes),
    )
