"""What distillation is for, in five figures: latency, memory, kept accuracy, cost per answer, and
users at the same limit, the student's against the teacher's.

Pure functions of what was measured elsewhere. What was not measured has no value, and the reason
stands in its place; nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from engine.stages.report.level_tables import slo_text
from engine.stages.report.table import Block

RATIOS = {
    "latency": "times faster",
    "memory": "times smaller",
    "kept_accuracy": "of the teacher's score",
    "cost_per_answer": "times cheaper",
    "concurrent_users": "times the users at the same limit",
}
_LOADS = (  # the least first: one, many
    ("one request in flight", "requests in flight"),
    ("one user", "users"),
    ("1 request per second", "requests per second"),
    ("the trace", ""),
)
PERCENTILE = "p95"
NO_LOAD = "the load test has no level of {missing}; name both in loadtest.models"


@dataclass(frozen=True)
class Measured:
    """What is known of one model: None or nothing where it is not, with the reason in
    `why_unknown`."""

    weights_bytes: float | None = None
    kv_bytes_per_token: float | None = None
    peak_memory_bytes: float | None = None
    why_unknown: str | None = None
    levels: Sequence[Block] = ()
    usd_per_answer: float | None = None


@dataclass(frozen=True)
class Limit:
    """What users accept where the job says nothing: end-to-end milliseconds at p95."""

    e2e_ms: float
    source: str

    def is_kept_by(self, level: Block) -> bool:
        """Whether nothing failed and the percentile is not above."""
        e2e_ms = level["e2e_ms"][PERCENTILE]
        if level["failed"] or e2e_ms is None:
            return False
        return e2e_ms <= self.e2e_ms

    def told(self) -> str:
        """For people."""
        return f"{PERCENTILE} to the end of an answer <= {self.e2e_ms:,.0f} ms ({self.source})"


@dataclass(frozen=True)
class Ratio:
    """More is better for the student; either a value and how it was measured, or why there is
    none."""

    value: float | None = None
    how: str | None = None
    why_unknown: str | None = None

    def as_block(self) -> Block:
        """As it stands in report.json."""
        return {
            "value": self.value,
            "how": self.how,
            "why_unknown": self.why_unknown,
        }


@dataclass(frozen=True)
class Pair:
    """Teacher and student, their scores, and how the load test compared them at the job's SLO: None
    where it has none, and the teacher's own latency with the fewest users is the limit."""

    teacher: Measured = field(default_factory=Measured)
    student: Measured = field(default_factory=Measured)
    quality: Block = field(default_factory=dict)
    equal_slo: Block | None = None


def five_ratios(pair: Pair) -> dict[str, Block]:
    """By name, in the order of `RATIOS`."""
    ratios = {}
    for name in RATIOS:
        ratios[name] = _MEASURES[name](pair).as_block()
    return ratios


def pair_of(report: Block) -> Pair:
    """What a report knows of both models."""
    teachers = report["generate"].get("teachers", [])
    usd_per_answer = None
    if len(teachers) == 1 or report["generate"].get("route", "all") == "all":
        usd_per_answer = teachers[0].get("usd_per_answer") if teachers else None
    return Pair(
        teacher=_measured(report, "teacher", usd_per_answer),
        student=_measured(report, "student", None),
        quality=report["quality"],
        equal_slo=report.get("equal_slo"),
    )


def _measured(report: Block, model: str, usd_per_answer: float | None) -> Measured:
    levels = report["serving"].get(model, {}).get("levels", [])
    taken = report.get("footprint", {}).get(model, {})
    return Measured(
        **taken,
        levels=levels,
        usd_per_answer=usd_per_answer,
    )


def _latency(pair: Pair) -> Ratio:
    """Median end-to-end time: at the largest load at which both were ok where there is an SLO, else
    at the least load that both answered."""
    if pair.equal_slo:
        return _latency_at_slo(pair.equal_slo["latency"])
    common = []
    for teacher, student in _common_levels(pair):
        if _is_sound(teacher) and _is_sound(student):
            common.append((_load(teacher), teacher["e2e_ms"]["p50"], student["e2e_ms"]["p50"]))
    if not common:
        return Ratio(why_unknown=_why_no_load(pair))
    load, teacher_ms, student_ms = min(common)
    if not student_ms:
        return Ratio(why_unknown="the student's median time to the end of an answer is 0 ms")
    how = (
        f"median time to the end of an answer with {_name(load)}: {teacher_ms:,.0f} ms against"
        f" {student_ms:,.0f} ms"
    )
    return Ratio(teacher_ms / student_ms, how)


def _memory(pair: Pair) -> Ratio:
    """Peak memory of the engines where it was measured, else the weights."""
    teacher = pair.teacher
    student = pair.student
    if teacher.peak_memory_bytes and student.peak_memory_bytes:
        how = (
            f"peak memory of the engine while it answered: {_size(teacher.peak_memory_bytes)}"
            f" against {_size(student.peak_memory_bytes)}"
        )
        return Ratio(teacher.peak_memory_bytes / student.peak_memory_bytes, how)
    if not teacher.weights_bytes or not student.weights_bytes:
        return Ratio(why_unknown=_why_no_memory(pair))
    how = f"weights: {_size(teacher.weights_bytes)} against {_size(student.weights_bytes)}"
    if teacher.kv_bytes_per_token and student.kv_bytes_per_token:
        how += (
            f"; a token in the KV cache takes {_size(teacher.kv_bytes_per_token)} against"
            f" {_size(student.kv_bytes_per_token)}"
        )
    return Ratio(teacher.weights_bytes / student.weights_bytes, how)


def _kept_accuracy(pair: Pair) -> Ratio:
    quality = pair.quality
    retention = quality.get("retention")
    if retention is None:
        return Ratio(why_unknown="the teacher scores nothing, so there is nothing to keep")
    metric = quality["metric"].replace("_", " ")
    how = f"{metric} of the student divided by the teacher's, {quality['n']:,} prompts"
    if quality.get("teacher") is None:
        how = f"{metric} of the student against the teacher's answers, {quality['n']:,} prompts"
    return Ratio(retention, how)


def _cost(pair: Pair) -> Ratio:
    teacher = pair.teacher.usd_per_answer
    student = pair.student.usd_per_answer
    if teacher is None:
        return Ratio(
            why_unknown="the teacher has no price: it ran on machines whose price is not known"
        )
    if not student:
        told = f"an answer of the teacher costs {teacher:.3g} USD; the student runs on machines"
        return Ratio(why_unknown=f"{told} whose price is not known")
    how = f"USD per answer: {teacher:.3g} against {student:.3g}"
    return Ratio(teacher / student, how)


def _users(pair: Pair) -> Ratio:
    """The knees at the SLO; without one, most users, of the numbers that were tried, at which the
    teacher's own latency is kept."""
    if pair.equal_slo:
        return _users_at_slo(pair.equal_slo)
    pair = _with_users(pair)
    limit = _own_limit(pair.teacher)
    if limit is None or not _tried(pair.student):
        return Ratio(why_unknown=_why_no_load(pair))
    teacher = _most_users(pair.teacher, limit)
    student = _most_users(pair.student, limit)
    if not teacher or not student:
        who = "the teacher" if not teacher else "the student"
        missed = f"{who} misses the limit with the fewest users: {limit.told()}"
        return Ratio(why_unknown=missed)
    counted = "users"
    if not _is_session(pair.teacher.levels[0]):
        counted = "requests in flight"
    how = f"{counted} with {limit.told()}: {teacher} against {student}"
    untried = []
    if teacher == max(_tried(pair.teacher)):
        untried.append("teacher")
    if student == max(_tried(pair.student)):
        untried.append("student")
    if untried:
        how += f"; more were not tried with the {' and the '.join(untried)}"
    return Ratio(student / teacher, how)


def _latency_at_slo(latency: Block) -> Ratio:
    median = latency.get("e2e_ms_p50")
    if median is None:
        return Ratio(why_unknown=latency["how"])
    ratio = median["ratio"]
    if ratio["value"] is None:
        return Ratio(why_unknown=ratio["how"])
    how = (
        f"median time to the end of an answer at {latency['load']}, the largest load at which both"
        f" were ok: {median['first']['value']:,.0f} ms against {median['second']['value']:,.0f} ms"
    )
    return Ratio(ratio["value"], how)


def _users_at_slo(equal_slo: Block) -> Ratio:
    load = equal_slo["load"]
    sides = [(name, load[name]) for name in ("first", "second")]
    unknown = [f"{equal_slo[name]}: {side['how']}" for name, side in sides if not side["value"]]
    if unknown:
        return Ratio(why_unknown="; ".join(unknown))
    teacher, student = [side["value"] for _, side in sides]
    slo = slo_text(equal_slo["slo"])
    how = f"{equal_slo['unit']} with {slo} (loadtest.slo): {teacher:.4g} against {student:.4g}"
    return Ratio(student / teacher, how)


_MEASURES: dict[str, Callable[[Pair], Ratio]] = {
    "latency": _latency,
    "memory": _memory,
    "kept_accuracy": _kept_accuracy,
    "cost_per_answer": _cost,
    "concurrent_users": _users,
}


def _own_limit(teacher: Measured) -> Limit | None:
    sound = list(filter(_is_sound, teacher.levels))
    if not sound:
        return None
    fewest = min(sound, key=_load)
    e2e_ms = fewest["e2e_ms"][PERCENTILE]
    if e2e_ms is None:
        return None
    return Limit(e2e_ms, source=f"the teacher's own with {_name(_load(fewest))}")


def _most_users(model: Measured, limit: Limit) -> int:
    """0 where the fewest are too many. What lies beyond the first miss does not count."""
    most = 0
    valid = [level for level in model.levels if level["valid"]]
    for level in sorted(valid, key=_load):
        if not limit.is_kept_by(level):
            break
        most = level["concurrency"]
    return most


def _tried(model: Measured) -> list[int]:
    return [level["concurrency"] for level in model.levels if level["valid"]]


def _with_users(pair: Pair) -> Pair:
    """Its levels of users who talk where both models have some, else of requests in flight."""
    narrowed = pair
    for is_one in (_is_session, _is_closed):
        teacher = replace(pair.teacher, levels=list(filter(is_one, pair.teacher.levels)))
        student = replace(pair.student, levels=list(filter(is_one, pair.student.levels)))
        narrowed = replace(
            pair,
            teacher=teacher,
            student=student,
        )
        if teacher.levels and student.levels:
            break
    return narrowed


def _is_session(level: Block) -> bool:
    return level.get("kind") == "sessions"


def _is_closed(level: Block) -> bool:
    return level.get("concurrency") is not None and not _is_session(level)


def _common_levels(pair: Pair) -> list[tuple[Block, Block]]:
    students = {_load(level): level for level in pair.student.levels}
    common = []
    for level in pair.teacher.levels:
        other = students.get(_load(level))
        if other is not None:
            common.append((level, other))
    return common


def _is_sound(level: Block) -> bool:
    return level["valid"] and not level["failed"] and level["e2e_ms"]["p50"] is not None


def _load(level: Block) -> tuple[int, float]:
    """(place in `_LOADS`, amount): levels with the same are alike. A trace has no amount."""
    if _is_closed(level):
        return 0, level["concurrency"]
    if _is_session(level):
        return 1, level["concurrency"]
    if level.get("rate") is not None:
        return 2, level["rate"]
    return 3, 1


def _name(load: tuple[int, float]) -> str:
    place, amount = load
    one, many = _LOADS[place]
    return one if amount == 1 else f"{amount:g} {many}"


def _why_no_load(pair: Pair) -> str:
    """Why the load test says nothing of both."""
    missing = []
    for name, model in (("the teacher", pair.teacher), ("the student", pair.student)):
        if not model.levels:
            missing.append(name)
    if missing:
        return NO_LOAD.format(missing=" and ".join(missing))
    for model in (pair.teacher, pair.student):
        for level in model.levels:
            if not level["valid"]:
                return f"no level of the load test is valid for both: {level['invalid_reason']}"
    return "no level of the load test was answered by both without failures"


def _why_no_memory(pair: Pair) -> str:
    for name, model in (("teacher", pair.teacher), ("student", pair.student)):
        if not model.weights_bytes:
            return f"{name}: {model.why_unknown or 'the size of its weights was not read'}"
    return ""


def _size(size_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.3g} GB"
