"""Judge a generate folder from its files and the fake teacher's call history; shares no code with
the engine.

    python -m benchmarks.chaos.checker GENERATE_FOLDER PROMPTS_FOLDER CALLS_FILE [SAMPLES]

Knows only the formats: Parquet, the manifest's JSON, commit records, and one history line per start
and end of a call, `<time_s> <pid> <sha256 of the prompt's bytes> <seed> <start|end>`, fsynced by
the teacher before it goes on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = tuple[int, str, int]  # prompt_id, teacher, sample_index
OLD_S = 60.0


@dataclass(frozen=True)
class Death:
    """A process that was killed: its pid, and the time in seconds after which it did nothing more
    that counts."""

    pid: int
    time: float


@dataclass(frozen=True)
class Call:
    """One start or end of a request, as the teacher noted it."""

    time: float
    pid: int
    request: str  # prompt digest and seed: one row of the result
    event: str


@dataclass(frozen=True)
class Verdict:
    """What was found. All but `rows`, `calls`, `regenerated`, `in_flight` and `unlisted_records`
    must be 0."""

    rows: int
    lost: int  # rows wanted that no published file holds
    duplicated: int  # rows that published files hold more than once, and rows that nobody wanted
    # published files and recorded parts that are missing, unreadable or not what was recorded;
    # unreadable records
    torn: int
    wrong: int  # rows whose words or status are not their prompt's
    calls: int
    regenerated: int  # starts of a request beyond its first
    # requests that a killed process had started and that no counting record held when it died
    in_flight: int
    regenerated_committed: int  # starts of a request that a counting record held already
    # starts of a request that had ended more than OLD_S before the kill of the process that ended
    # it
    regenerated_old: int
    unlisted_records: (
        int  # records of an older epoch that the next epoch did not accept: a late writer's
    )

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            *(
                mine + theirs
                for mine, theirs in zip(asdict(self).values(), asdict(other).values(), strict=True)
            )
        )


def check(
    generate: Path,
    prompts: Path,
    calls: Sequence[Path] = (),
    *,
    samples: int = 1,
    deaths: Iterable[Death] = (),
) -> Verdict:
    """Compare what a finished run published with what its prompts want and with what its teacher
    was asked."""
    wanted, texts = _wanted(prompts, samples)
    manifest = newest_manifest(generate)
    teachers = [teacher["name"] for teacher in manifest["info"]["teachers"]]
    found: Counter[Row] = Counter()
    requests: dict[Row, str] = {}
    torn = wrong = 0
    for name, entry in manifest["files"].items():
        if not name.startswith("data/"):
            continue
        table = _read_file(generate / name, entry)
        if table is None:
            torn += 1
            continue
        for row in table.select(
            ["prompt_id", "teacher", "sample_index", "split", "seed", "status", "text"]
        ).to_pylist():
            key = (row["prompt_id"], row["teacher"], row["sample_index"])
            found[key] += 1
            prompt = texts.get(row["prompt_id"], "")
            requests[key] = _request(prompt, None if row["split"] == "validation" else row["seed"])
            wrong += row["status"] != "ok" or sorted(row["text"].split()) != sorted(prompt.split())
    expected = {(prompt, teacher, sample) for prompt, sample in wanted for teacher in teachers}
    records, unlisted, torn_records = _records(generate)
    history = [call for file in calls for call in read_calls(file)]
    duplicated = sum(count - 1 for count in found.values()) + len(found.keys() - expected)
    lost = len(expected - found.keys())
    return Verdict(
        len(expected),
        lost,
        duplicated,
        torn + torn_records,
        wrong,
        **_repeats(history, records, requests, list(deaths)),
        unlisted_records=unlisted,
    )


def newest_manifest(folder: Path) -> dict[str, Any]:
    """manifest-0003.json before manifest-0002.json before manifest.json."""
    newest = max(
        folder.glob("manifest*.json"),
        key=lambda path: path.name.replace("manifest.json", "manifest-0001.json"),
    )
    return json.loads(newest.read_text())


def read_calls(file: Path) -> list[Call]:
    """The history, in order; a last line that a kill cut short is left out, and any other bad line
    is an error."""
    lines = file.read_text().split("\n") if file.exists() else [""]
    fields = [
        line.split() for line in lines[:-1]
    ]  # what follows the last newline was never fsynced
    return [
        Call(float(time), int(pid), f"{digest} {seed}", event)
        for time, pid, digest, seed, event in fields
    ]


def _request(prompt: str, seed: int | None) -> str:
    return f"{hashlib.sha256(prompt.encode()).hexdigest()} {seed}"


def _wanted(prompts: Path, samples: int) -> tuple[set[tuple[int, int]], dict[int, str]]:
    """(prompt, sample) of every row that must exist, and the text of each prompt's last message."""
    wanted: set[tuple[int, int]] = set()
    texts: dict[int, str] = {}
    for name in newest_manifest(prompts)["files"]:
        if not name.startswith(("data/train", "data/validation")):
            continue
        for row in pq.read_table(
            prompts / name, columns=["prompt_id", "split", "messages"]
        ).to_pylist():
            texts[row["prompt_id"]] = row["messages"][-1]["content"]
            wanted |= {
                (row["prompt_id"], sample)
                for sample in range(1 if row["split"] == "validation" else samples)
            }
    return wanted, texts


def _read_file(path: Path, entry: dict[str, Any]) -> pa.Table | None:
    """The table if the file is what its entry says (bytes, sha256, rows, page checksums), else
    None."""
    try:
        with pa.OSFile(str(path)) as file:
            content = (
                file.read_buffer()
            )  # not Python's bytes: pyarrow 26 may abort at exit over those (engine/store/paths.py)
        if (
            content.size != entry["size_bytes"]
            or hashlib.sha256(content).hexdigest() != entry["sha256"]
        ):
            return None
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return None
    return table if table.num_rows == entry["rows"] else None


def _records(folder: Path) -> tuple[dict[tuple[int, int], list[float]], int, int]:
    """Times at which counting records made an answer to each (prompt, sample) visible; how many
    records do not count; how many are torn."""
    commits = folder / "commits"
    epochs: dict[int, set[str]] = defaultdict(set)
    for path in commits.glob("epoch-*.json"):
        epochs[int(path.name.split("-")[1])] |= set(json.loads(path.read_text())["accepted"])
    visible: dict[tuple[int, int], list[float]] = defaultdict(list)
    unlisted = torn = 0
    for path in sorted(commits.glob("record-*.json")):
        if (epoch := int(path.name.split("-")[1])) != max(epochs) and path.name not in epochs[
            max(epochs)
        ]:
            unlisted += 1
            continue
        try:
            record = json.loads(path.read_text())
            rows = {"rows": len(record["prompt_id"])} | {
                key: record[key] for key in ("size_bytes", "sha256")
            }
            torn += record["epoch"] != epoch or _read_file(folder / record["file"], rows) is None
            for prompt, sample, status in zip(
                record["prompt_id"], record["sample_index"], record["status"], strict=True
            ):
                if status != "error":  # which the next run may try again
                    visible[prompt, sample].append(path.stat().st_mtime)
        except (ValueError, KeyError):
            torn += 1
    return visible, unlisted, torn


def _repeats(
    history: list[Call],
    records: dict[tuple[int, int], list[float]],
    requests: dict[Row, str],
    deaths: list[Death],
) -> dict[str, int]:
    """Figures of the history; a greedy request's line says `None` in place of a seed."""
    committed: dict[str, list[float]] = defaultdict(list)
    for (prompt, _, sample), request in requests.items():
        committed[request] += records.get((prompt, sample), [])
    starts: dict[str, list[Call]] = defaultdict(list)
    ends: dict[str, list[Call]] = defaultdict(list)
    for call in history:
        if call.event == "start":
            starts[call.request].append(call)
        else:
            ends[call.request].append(call)
    died = {death.pid: death.time for death in deaths}
    again = [
        call for calls in starts.values() for call in sorted(calls, key=lambda call: call.time)[1:]
    ]
    return {
        "calls": sum(len(calls) for calls in starts.values()),
        "regenerated": len(again),
        "in_flight": sum(
            min(committed[request], default=float("inf")) > died[pid]
            for request, calls in starts.items()
            for pid in {call.pid for call in calls}
            if pid in died
        ),
        "regenerated_committed": sum(
            min(committed[call.request], default=float("inf")) < call.time for call in again
        ),
        "regenerated_old": sum(
            any(
                end.pid in died and end.time < died[end.pid] - OLD_S and died[end.pid] < call.time
                for end in ends[call.request]
            )
            for call in again
        ),
    }


def main() -> int:
    """Print the verdict; exit 1 if anything that must be 0 is not."""
    generate, prompts, calls = map(Path, sys.argv[1:4])
    verdict = check(
        generate, prompts, [calls], samples=int(sys.argv[4]) if len(sys.argv) > 4 else 1
    )
    print(json.dumps(asdict(verdict), indent=1))
    must_be_zero = (
        verdict.lost,
        verdict.duplicated,
        verdict.torn,
        verdict.wrong,
        verdict.regenerated_committed,
        verdict.regenerated_old,
    )
    return int(any(must_be_zero))


if __name__ == "__main__":
    sys.exit(main())
