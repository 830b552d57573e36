"""Do the rules read every gold answer and the ways in which models say it, and does the second
opinion end whatever it is asked?"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks.evaluation.golds import Golds, load_golds
from benchmarks.evaluation.hostile import HOSTILE
from benchmarks.evaluation.phrasings import ALGEBRA, ALGEBRA_SAID, MATHS, MEANS, spelled
from benchmarks.result import Found, bounded
from engine.backends import math_verifier
from engine.rows.final_answer import Algebra, Verdict, is_readable, judge, settle

NUMBERS = 150  # golds that each phrasing is tried with
APART = 7  # of a gold answer that a text does not give
PAIRS = 1000  # of the second opinion's speed
TEXTS = 2000  # answers of the rules' speed
SAID = Path(__file__).with_name("said.jsonl")
OTHERS = Path(__file__).with_name("others.jsonl")
LISTED = {"math": 0.90, "nli": 0.85, "qa": 0.85}
_WORKER = "math_worker.py"
FUNCTIONS = 20  # one in so many answers has one
MIXED = 3000  # answers of the speed of both together
Case = tuple[str, str, bool]  # text, gold answer, whether it is right


def run(data: Path | None = None) -> Found:
    """All of it, on the gold answers of a folder or on made-up ones."""
    golds = load_golds(data)
    ratios: dict[str, dict[str, Any]] = {}
    raw: dict[str, Any] = {"golds": {name: len(rows) for name, rows in vars(golds).items()}}
    with math_verifier.opened(workers=1) as algebra:
        for found, figures in (
            golds_themselves(golds, algebra),
            phrasings(golds.numbers()[:NUMBERS], algebra, against=True),
            lists(algebra),
            hostile(algebra),
            speed(algebra),
        ):
            ratios |= found
            raw |= figures
        processes = len(_workers())
    raw["processes_while_open"] = processes
    ratios["processes_left"] = bounded(len(_workers()), "<=", 0)
    return ratios, raw


def is_right(task: str, cases: Sequence[Case], algebra: Algebra | None) -> list[bool]:
    """Of each case whether the verdict is what it should be."""
    judged = [judge(task, text, [gold]) for text, gold, _ in cases]
    verdicts = settle(judged, algebra)
    return [
        (verdict == Verdict.RIGHT) == wanted
        for verdict, (_, _, wanted) in zip(verdicts, cases, strict=True)
    ]


def golds_themselves(golds: Golds, algebra: Algebra | None) -> Found:
    """Each gold answer against itself, whole and bare, both ways."""
    wrong: dict[str, list[str]] = {}
    for task, rows in vars(golds).items():
        cases: list[Case] = []
        for whole, bare in rows:
            if is_readable(task, whole):
                cases += [(whole, whole, True), (bare, whole, True), (whole, bare, True)]
            else:
                wrong.setdefault(task, []).append(whole)
        verdicts = is_right(task, cases, algebra)
        for case, holds in zip(cases, verdicts, strict=True):
            if not holds:
                wrong.setdefault(task, []).append(case[0])
    count = sum(map(len, wrong.values()))
    shown = {task: rows[:5] for task, rows in wrong.items()}
    return {"gold_answers_wrong": bounded(count, "<=", 0)}, {"golds_wrong": shown}


def phrasings(numbers: Sequence[str], algebra: Algebra | None, *, against: bool) -> Found:
    """Every phrasing with every number; `against`: beside math-verify on the whole text."""
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    whole = 0
    false = 0
    failing: dict[str, str] = {}
    for kind, templates in MATHS.items():
        right: list[bool] = []
        right_theirs: list[bool] = []
        for name, template in templates.items():
            cases = _cases(f"{kind}/{name}", template, numbers)
            found = is_right("math", cases, algebra)
            whole += all(found)
            if not all(found):
                failing[f"{kind}/{name}"] = cases[found.index(False)][0]
            right += found
            false += is_right("math", _others(cases), algebra).count(False)
            if against:
                right_theirs += _alone(cases)
        ours[kind] = sum(right) / len(right)
        theirs[kind] = sum(right_theirs) / max(1, len(right_theirs))
    for template in ALGEBRA_SAID:
        cases = [(template.format(other), gold, same) for gold, other, same in ALGEBRA]
        name = f"algebra: {template}"
        ours[name] = sum(is_right("math", cases, algebra)) / len(cases)
        if against:
            theirs[name] = sum(_alone(cases)) / len(cases)
    ratios = {
        "phrasings_all_right": bounded(whole, ">=", 103),
        "wrong_phrasings_called_right": bounded(false, "<=", 0),
    }
    if against:
        margin = min(ours[kind] - theirs[kind] for kind in ours)
        ratios["least_margin_over_math_verify"] = bounded(margin, ">=", 0)
    raw = {"phrasings": sum(map(len, MATHS.values())), "failing": failing}
    return ratios, raw | {"by_class": ours, "math_verify_by_class": theirs}


def _cases(name: str, template: str, numbers: Sequence[str]) -> list[Case]:
    mean = MEANS.get(name)
    cases = []
    for number in numbers:
        value = Fraction(number)
        if mean is not None:
            value = mean(value)
        cases.append((spelled(template, number), str(value), True))
    return cases


def _others(cases: Sequence[Case]) -> list[Case]:
    """The same texts with gold answers that they do not give."""
    return [(text, str(Fraction(gold) + APART), False) for text, gold, _ in cases]


def _alone(cases: Sequence[Case]) -> list[bool]:
    """What math-verify says of the whole text by itself, with its own time limits."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    found = []
    for text, gold, wanted in cases:
        same = verify(parse(f"\\boxed{{{gold}}}"), parse(text))
        found.append(bool(same) == wanted)
    return found


def lists(algebra: Algebra | None) -> Found:
    """Shares of what we wrote in the manner of models that is judged rightly: said.jsonl, and both
    parts of others.jsonl."""
    by_name: dict[tuple[str, str], list[Case]] = {}
    for path in (SAID, OTHERS):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            name = (row.get("part", "said"), row["task"])
            by_name.setdefault(name, []).append((row["text"], row["gold"], row["right"]))
    ratios = {}
    raw = {}
    for (part, task), cases in by_name.items():
        found = is_right(task, cases, algebra)
        ratios[f"{part}_{task}"] = bounded(sum(found) / len(found), ">=", LISTED[task])
        wrong = [case[0] for case, holds in zip(cases, found, strict=True) if not holds]
        raw[f"{part}_{task}"] = {"cases": len(cases), "wrong": wrong}
    return ratios, raw


def hostile(algebra: Algebra) -> Found:
    """Answers that stop parsers and algebra: each must end, and none be called right."""
    took_s: dict[str, float] = {}
    verdicts: dict[str, str | None] = {}
    for name, (text, gold) in HOSTILE.items():
        started = time.monotonic()
        (verdict,) = settle([judge("math", text, [gold])], algebra)
        took_s[name] = round(time.monotonic() - started, 3)
        verdicts[name] = verdict
    right = sum(verdict == Verdict.RIGHT for verdict in verdicts.values())
    return {
        "slowest_hostile_s": bounded(max(took_s.values()), "<=", 3.0),
        "hostile_called_right": bounded(right, "<=", 0),
    }, {"hostile_s": took_s, "hostile_verdicts": verdicts}


def speed(algebra: Algebra) -> Found:
    """Verdicts a second of processor time of all processes: of the second opinion alone, of rules
    alone, and of both on a mix of numbers, expressions and what only algebra can tell."""
    numbers = [(str(number), str(number)) for number in range(PAIRS)]
    polynomials = [(f"x^2+{number}", f"{number}+x^2") for number in range(PAIRS // 10)]
    functions = [(rf"\sin(x)+{number}", rf"{number}+\sin(x)") for number in range(PAIRS // 10)]
    rates = []
    for pairs in (numbers, polynomials, functions):
        algebra(pairs[:1])
        started = _cpu_s()
        assert all(algebra(pairs)), "the same answers are not the same"
        rates.append(len(pairs) / (_cpu_s() - started))
    second, of_polynomials, of_functions = rates
    text = "She sells 16 - 3 - 4 = 9 eggs a day.\nThat is 9 * 2 = 18.\nThe answer is {}."
    started = _cpu_s()
    for number in range(TEXTS):
        judge("math", text.format(number), [str(number)])
    rules = TEXTS / (_cpu_s() - started)
    mixed, asked = _mixed(algebra)
    return {
        "second_opinions_per_s": bounded(second, ">=", 500),
        "rule_verdicts_per_s": bounded(rules, ">=", 500),
        "mixed_verdicts_per_s": bounded(mixed, ">=", 500),
    }, {
        "second_opinions_on_polynomials_per_s": of_polynomials,
        "second_opinions_on_functions_per_s": of_functions,
        "mixed_that_asked_algebra": asked,
    }


def _mixed(algebra: Algebra) -> tuple[float, int]:
    """Verdicts a second of processor time on answers as competition mathematics has them, and how
    many asked algebra: of twenty one with a function, and one in ten of the others is wrong."""
    started = _cpu_s()
    judged = []
    for number in range(MIXED):
        text, gold = _answer(number)
        judged.append(judge("math", text, [gold]))
    verdicts = settle(judged, algebra)
    taken = _cpu_s() - started
    right = sum(verdict == Verdict.RIGHT for verdict in verdicts)
    assert right == MIXED - MIXED // 20 * 2, "not as it was made"
    asked = sum(not isinstance(one, Verdict) for one in judged)
    return MIXED / taken, asked


def _answer(number: int) -> tuple[str, str]:
    n = number + 2
    kinds = (
        (f"Hence the answer is ${n:,}$.", str(n)),
        (rf"We get \boxed{{{n}}}.", str(n)),
        (rf"So $p = \frac{{{2 * n}}}{{{4 * n + 2}}}$.", rf"\frac{{{n}}}{{{2 * n + 1}}}"),
        (rf"\boxed{{-\dfrac{{{n}}}{{3}}}}", f"-{n}/3"),
        (rf"The length is $\sqrt{{{8 * n * n}}}$.", rf"{2 * n}\sqrt{{2}}"),
        (rf"\boxed{{\frac{{{n}}}{{\sqrt{{3}}}}}}", rf"\frac{{{n}\sqrt{{3}}}}{{3}}"),
        (rf"It factors as $(x+{n})(x-1)$.", rf"x^2+{n - 1}x-{n}"),
        (rf"$f(x) = {n} - 2x + x^2$", rf"x^2-2x+{n}"),
        (rf"\boxed{{x^2+{n}}}", rf"x^2-{n}"),
        (f"That makes {n}%.", str(n)),
    )
    if number % FUNCTIONS == FUNCTIONS - 1:
        return rf"\boxed{{1+\sin({n}x)}}", rf"\sin({n}x)+1"
    return kinds[number % len(kinds)]


def _cpu_s() -> float:
    """Processor time so far of this process and of the second opinion's."""
    ticks = 0
    for pid in _workers():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime (proc(5): 14 and 15)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _workers() -> list[int]:
    """Processes of the second opinion on this machine."""
    command = ["ps", "-ww", "-eo", "pid,args"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in told.stdout.splitlines() if _WORKER in line]
