"""Is the student better, and what was gained: comparisons and ratios as sentences and tables."""

from __future__ import annotations

from engine.stages.report.ratios import RATIOS
from engine.stages.report.table import (
    Block,
    Table,
    chance,
    figure,
    in_brackets,
    p_value,
    signed,
    words,
)

_ALWAYS = ("right", "wrong")
_MEANS = {
    "no_answer": "no final answer, or label, stands in them",
    "ambiguous": "they state several",
    "unverified": "only algebra could tell, and it came to no end",
    "unchecked": "their prompt has no reference that the task can compare",
}
_BRIEF = ("", "difference", "95 % interval", "p (Holm)", "W/L/T")


def verdicts(report: Block) -> list[str]:
    """What the headline metric says of student and baseline, and of student and teacher."""
    said = []
    for model, compared in report.get("comparisons", {}).items():
        found = compared[0]
        if found["difference"] is not None:
            said.append(f"{_verdict(model, found)} {_detectable(found)}")
    return said


def _verdict(model: str, found: Block) -> str:
    metric = words(found["metric"])
    whom = "the untrained baseline" if model == "baseline" else f"the {model}"
    told = f"{signed(found['difference'])} {metric}"
    if found["ci95"] is not None:
        low, high = found["ci95"]
        told += f" (95 % {signed(low)} to {signed(high)}, {p_value(found['p_holm'])})"
    if found["p_holm"] is None:
        return f"Against {whom}: {told}."
    if found["p_holm"] >= 0.05:
        return f"Against {whom} no difference is shown: {told}."
    return f"Against {whom}: {told}."


def _detectable(found: Block) -> str:
    """What the set could have shown: the reader's measure of `no difference`."""
    prompts = f"{found['n']:,} prompts"
    if found["clusters"] < found["n"]:
        prompts += f" in {found['clusters']:,} groups"
    if found["mde"] is None:
        return f"How small a difference these {prompts} could show is not known."
    return (
        f"The smallest difference that these {prompts} show in four of five cases is"
        f" {figure(found['mde'])}."
    )


def answered(report: Block) -> list[Table]:
    """What each model's answers are, where the task has right and wrong ones."""
    counts = report.get("verdicts", {})
    if not counts:
        return []
    kinds = [
        kind for kind in next(iter(counts.values())) if kind in _ALWAYS or _occurs(kind, counts)
    ]
    rows = []
    for model, tally in counts.items():
        shown = [figure(tally[kind]) for kind in kinds]
        rows.append([model, *shown])
    note = "Answers by what they were found to be; the score counts those that are right."
    for kind in kinds:
        if kind in _MEANS:
            note += f"\n{words(kind)}: {_MEANS[kind]}"
    return [Table("Answers", ["", *map(words, kinds)], rows, note)]


def _occurs(kind: str, counts: Block) -> bool:
    return any(tally[kind] for tally in counts.values())


def comparisons(report: Block, brief: bool = False) -> list[Table]:
    """The student against each other model, a row per metric; `brief` is what 80 characters have
    room for."""
    tables = []
    for model, found in report.get("comparisons", {}).items():
        rows = [_brief_row(each) if brief else _row(each) for each in found]
        header = list(_BRIEF) if brief else _header()
        tables.append(
            Table(
                f"Student against {model}",
                header,
                rows,
                _note(found),
            )
        )
    return tables


def _header() -> list[str]:
    columns = [
        "",
        "difference",
        "95 % interval",
        "p",
        "p (Holm)",
        "better",
        "worse",
        "equal",
    ]
    return [*columns, "smallest shown"]


def _row(found: Block) -> list[str]:
    duels = [figure(found[name]) for name in ("wins", "losses", "ties")]
    start = [
        words(found["metric"]),
        signed(found["difference"]),
        in_brackets(found["ci95"], signed),
    ]
    return [
        *start,
        chance(found["p"]),
        chance(found["p_holm"]),
        *duels,
        figure(found["mde"]),
    ]


def _brief_row(found: Block) -> list[str]:
    duels = f"{found['wins']}/{found['losses']}/{found['ties']}"
    start = [
        words(found["metric"]),
        signed(found["difference"]),
        in_brackets(found["ci95"], signed),
    ]
    return [
        *start,
        chance(found["p_holm"]),
        duels,
    ]


def _note(compared: list[Block]) -> str:
    first = compared[0]
    tests = dict.fromkeys(found["test"] for found in compared)
    note = f"The same {first['n']:,} prompts; {' and '.join(tests)}, two-sided"
    if first["clusters"] < first["n"]:
        note += f", {first['clusters']:,} independent groups"
    note += "; p (Holm) is corrected for all metrics of this table. "
    note += "Better, worse, equal: prompts, by the student's answer."
    return note


def gains(report: Block) -> Table:
    """The five ratios, or why one is not known."""
    rows = []
    for name, ratio in report.get("ratios", {}).items():
        value = ratio["value"]
        told = "not known"
        if value is not None:
            told = f"{value:.3g} {RATIOS[name]}"
        rows.append(
            [
                words(name),
                told,
                ratio["how"] or ratio["why_unknown"],
            ]
        )
    note = "Teacher against student in each; nothing is estimated."
    header = ["", "student", "how it was measured, or why not"]
    return Table(
        "What was gained",
        header,
        rows,
        note,
        is_text=True,
    )
