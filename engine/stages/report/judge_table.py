"""What the judge says, and what its word is worth: sentences and tables.

Its warnings are evaluate's (engine/stages/evaluate/doubts.py), and stand among the others.
"""

from __future__ import annotations

from engine.stages.report.table import (
    Block,
    Table,
    chance,
    figure,
    in_brackets,
    p_value,
    share,
    signed,
)

_YES_OR_NO = {True: "yes", False: "no"}


def judge_sentences(report: Block) -> list[str]:
    """The win rate against each other model, one sentence each; none without a judge."""
    judge = report.get("judge")
    if not judge:
        return []
    return [_sentence(judge, model, found) for model, found in judge["pairs"].items()]


def _sentence(judge: Block, model: str, found: Block) -> str:
    who = f"The judge ({judge['name']})"
    whom = f"the {model}'s"
    if found["win_rate"] is None:
        return (
            f"{who} gave no verdict on the student's answers against {whom}: no pair has a vote in"
            " both orders."
        )
    if found["flips"] > found["n"] / 2:
        return (
            f"{who} cannot tell the student's answers from {whom}: the winner of"
            f" {found['flips']:,} of {found['n']:,} pairs changed with the order."
        )
    told = f"{share(found['win_rate'])} of {found['n']:,} pairs, ties half"
    if found["ci95"] is not None:
        told += f" (95 % {_ends(found)}, {p_value(found['p'])})"
    if found["p"] is not None and found["p"] >= 0.05:
        return f"{who} shows no preference between the student's answers and {whom}: {told}."
    if found["win_rate"] < 0.5:
        return f"{who} prefers {whom} answers: the student's are better in {told}."
    return f"{who} prefers the student's answers to {whom}: they are better in {told}."


def _ends(found: Block) -> str:
    low, high = found["ci95"]
    return f"{share(low)} to {share(high)}"


def judge_tables(report: Block, brief: bool = False) -> list[Table]:
    """Wins and losses by model, grades where there is a scale, and how far the judge can be
    trusted; `brief` is what a terminal has room for."""
    judge = report.get("judge")
    if not judge:
        return []
    tables = []
    if judge["pairs"]:
        tables.append(_pairs(judge, brief))
    if judge.get("grades"):
        tables.append(_grades(judge))
    if not brief:
        tables.append(_trust(judge))
    return tables


def _pairs(judge: Block, brief: bool) -> Table:
    rows = []
    for model, found in judge["pairs"].items():
        row = [
            model,
            share(found["win_rate"]),
            in_brackets(found["ci95"], share),
            chance(found["p"]),
            f"{found['wins']}/{found['losses']}/{found['ties']}",
            figure(found["flips"]),
        ]
        if not brief:
            row += [figure(found["same"]), figure(found["unjudged"]), share(found["mde"])]
        rows.append(row)
    header = ["", "student wins", "95 % interval", "p", "W/L/T", "flips"]
    if not brief:
        header += ["same text", "no verdict", "smallest shown"]
    note = (
        f"By {judge['name']}, each pair in both orders; ties are half a win. A tie is a pair whose"
        " two verdicts differ (flips: the winner changed with the order), or of which both are a"
        " tie."
    )
    return Table("Judge: student against", header, rows, note)


def _grades(judge: Block) -> Table:
    rows = []
    for model, found in judge["grades"].items():
        ahead = found.get("student_ahead")
        rows.append(
            [
                model,
                figure(found["mean"]),
                in_brackets(found["ci95"]),
                figure(found["n"]),
                figure(found["ungraded"]),
                signed(ahead),
                chance(found.get("student_ahead_p")),
            ]
        )
    worst, best = judge["scale"]
    header = ["", "mean grade", "95 % interval", "answers", "no grade", "student ahead", "p"]
    note = (
        f"From {worst} to {best}. Student ahead: the student's mean less this model's, on the"
        " prompts where both answers have a grade."
    )
    return Table("Judge: grades", header, rows, note)


def _trust(judge: Block) -> Table:
    """What a reader must know of the judge."""
    silent = sum(judge["unreadable"].values())
    by_status = ", ".join(f"{name} {count:,}" for name, count in judge["unreadable"].items())
    without = f"{silent:,} of {judge['replies']:,}"
    if by_status:
        without += f" ({by_status})"
    rows = [
        ["judge", f"{judge['name']}: {judge['kind']}, {judge['model']}"],
        ["is the teacher", _YES_OR_NO[judge["is_teacher"]]],
        ["rubric", f"sha256 {judge['rubric_sha256'][:16]}"],
        ["replies without a verdict", without],
        ["votes for the answer that stood first", _first(judge)],
        ["pairs whose winner changed with the order", share(judge["flip_rate"])],
    ]
    for model, found in judge["pairs"].items():
        rows.append([f"decided pairs won by the longer answer, {model}", _length(found)])
    for model, found in judge.get("grades", {}).items():
        correlation = figure(found["length_correlation"])
        rows.append([f"correlation of grade and length, {model}", correlation])
    rows.append(["asking it took", took(judge)])
    note = "A judge that does not care about places votes for the first in half of its votes."
    return Table("Judge: what its word is worth", ["", ""], rows, note, is_text=True)


def took(judge: Block) -> str:
    """Tokens and money of all that a judge was asked."""
    tokens = f"{judge['tokens_in']:,} tokens in, {judge['tokens_out']:,} out"
    if judge["cost_usd"] is not None:
        tokens += f", ${judge['cost_usd']:.4f}"
    return tokens


def _first(judge: Block) -> str:
    if judge["first_share"] is None:
        return "no vote names a winner"
    p = ""
    if judge["first_p"] is not None:
        p = f"; {p_value(judge['first_p'])} that places say nothing to it"
    return f"{share(judge['first_share'])} of {judge['named']:,} that name a winner{p}"


def _length(found: Block) -> str:
    told = share(found["longer_won"])
    return f"{told}; rank correlation of length and result {figure(found['length_correlation'])}"
