"""The quickstart's prompts: arithmetic word problems with gold answers, made from a seed.

    python jobs/quickstart/make_data.py        # rewrites
    jobs/quickstart/data/{train,validation}.jsonl

Pairs of operands are dealt to the two splits before any problem is written, so no unordered pair is
in both, whatever the operation or the template: a student cannot score on validation by remembering
sums. The worked answers made here train the teacher only; a student never reads them, it learns
from what the teacher says.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

DATA_DIR = Path(__file__).parent / "data"
SEED = 20
SMALLEST, LARGEST = 10, 99
TRAIN_PROMPTS, VALIDATION_PROMPTS = 5000, 500

# `{a}` is never below `{b}` where the template subtracts, so no answer is negative.
TEMPLATES: dict[str, tuple[str, str]] = {
    "buy": ("+", "{name} has {a} {things} and buys {b} more. How many {things} does {name} have?"),
    "join": (
        "+",
        "{name} has {a} {things} and {other} has {b} {things}. How many {things} do they have"
        " together?",
    ),
    "receive": (
        "+",
        "{other} gave {name} {b} {things}. {name} already had {a}. How many {things} does {name}"
        " have now?",
    ),
    "boxes": (
        "+",
        "There are {a} {things} in one box and {b} {things} in another. How many {things} are there"
        " in all?",
    ),
    "give": (
        "-",
        "{name} has {a} {things} and gives {b} of them to {other}. How many {things} does {name}"
        " have left?",
    ),
    "lose": ("-", "{name} had {a} {things} but lost {b}. How many {things} are left?"),
    "compare": (
        "-",
        "{name} has {a} {things}. {other} has {b} {things}. How many more {things} does {name}"
        " have?",
    ),
    "sell": (
        "-",
        "{name} sold {b} of the {a} {things} in the shop. How many {things} are still in the shop?",
    ),
}
NAMES = (
    "Mia",
    "Leo",
    "Ana",
    "Ben",
    "Eva",
    "Sam",
    "Zoe",
    "Max",
    "Ida",
    "Tom",
    "Lily",
    "Omar",
    "Nina",
    "Hugo",
    "Ruth",
    "Ravi",
)
THINGS = (
    "apples",
    "books",
    "coins",
    "stamps",
    "marbles",
    "pencils",
    "shells",
    "cards",
    "stickers",
    "eggs",
    "beads",
    "toys",
)


@dataclass(frozen=True)
class Problem:
    """One word problem; `a` and `b` stand in the order in which its answer computes with them."""

    id: str
    template: str
    a: int
    b: int
    prompt: str

    @property
    def operation(self) -> str:
        return TEMPLATES[self.template][0]

    @property
    def answer(self) -> int:
        return self.a + self.b if self.operation == "+" else self.a - self.b


def worked_answer(problem: Problem) -> str:
    """The teacher's lesson: restate, units with carry or borrow, tens, then the final answer in
    GSM8K's form."""
    (a_tens, a_units), (b_tens, b_units) = divmod(problem.a, 10), divmod(problem.b, 10)
    if problem.operation == "+":
        carry, units = divmod(a_units + b_units, 10)
        steps = (
            f"{a_units}+{b_units}={10 * carry + units},"
            f" {a_tens}+{b_tens}+{carry}={a_tens + b_tens + carry}"
        )
    else:
        borrow = int(a_units < b_units)
        top = a_units + 10 * borrow
        steps = (
            f"{top}-{b_units}={top - b_units},"
            f" {a_tens}-{b_tens}-{borrow}={a_tens - b_tens - borrow}"
        )
    return f"{problem.a}{problem.operation}{problem.b}: {steps}\n#### {problem.answer}"


def split_pairs() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """All unordered pairs of different operands, dealt to (train, validation)."""
    pairs = list(combinations(range(SMALLEST, LARGEST + 1), 2))
    random.Random(SEED).shuffle(pairs)
    return pairs[VALIDATION_PROMPTS:], pairs[:VALIDATION_PROMPTS]


def build_problems(
    split: str, count: int, pairs: list[tuple[int, int]], seed: int
) -> list[Problem]:
    """`count` problems with distinct prompts; every pair is used before one is used again,
    templates take turns."""
    draws = _draw_problems(pairs, random.Random(seed))
    by_prompt: dict[str, Problem] = {}
    while len(by_prompt) < count:
        template, a, b, prompt = next(draws)
        if prompt not in by_prompt:
            by_prompt[prompt] = Problem(f"{split}-{len(by_prompt):05d}", template, a, b, prompt)
    return list(by_prompt.values())


def train_problems() -> list[Problem]:
    return build_problems("train", TRAIN_PROMPTS, split_pairs()[0], SEED + 1)


def validation_problems() -> list[Problem]:
    return build_problems("validation", VALIDATION_PROMPTS, split_pairs()[1], SEED + 2)


def lesson_problems(count: int) -> list[Problem]:
    """Problems for the teacher's own training: as many as wanted, none with a validation pair."""
    return build_problems("lesson", count, split_pairs()[0], SEED + 3)


def _draw_problems(
    pairs: list[tuple[int, int]], rng: random.Random
) -> Iterator[tuple[str, int, int, str]]:
    while True:
        turns: list[str] = []
        for pair in rng.sample(pairs, len(pairs)):
            if not turns:
                turns = rng.sample(list(TEMPLATES), len(TEMPLATES))
            template = turns.pop()
            operation, text = TEMPLATES[template]
            a, b = sorted(pair, reverse=True) if operation == "-" else rng.sample(pair, 2)
            name, other = rng.sample(NAMES, 2)
            yield (
                template,
                a,
                b,
                text.format(a=a, b=b, name=name, other=other, things=rng.choice(THINGS)),
            )


def write_data(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, problems in (("train", train_problems()), ("validation", validation_problems())):
        rows = [
            {"id": problem.id, "prompt": problem.prompt, "reference": str(problem.answer)}
            for problem in problems
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_data(DATA_DIR)
