from contextlib import contextmanager

from engine.job.spec import VerifySpec
from engine.rows.final_answer import Rules, Verdict
from engine.rows.records import Completion, Prompt
from engine.stages.curate.referee import Referee, referee_for

GOLD = r"\sin(x)+1"
SAID = r"1+\sin(x)"
SAME = (GOLD, SAID)  # only algebra can tell


def ask(number, *references, task="math", content="?"):
    messages = [{"role": "user", "content": content}]
    first = next(iter(references), None)
    return Prompt(
        number, f"{number:064x}", "a:1", messages, task, "a", "train", first, "{}", list(references)
    )


def answer(number, text, sample=0):
    return Completion(number, "t", sample, "train", 0, "ok", text=text)


class Algebra:
    def __init__(self, same):
        self.same = same
        self.asked = []

    def __call__(self, pairs):
        self.asked.append(list(pairs))
        return [self.same.get(pair) for pair in pairs]


def test_a_slice_is_judged_at_once_and_remembered():
    algebra = Algebra({SAME: True})
    referee = Referee(Rules(), algebra)
    prompts = [ask(1, GOLD), ask(2, "4"), ask(3, GOLD), ask(4)]
    answers = [
        answer(1, rf"\boxed{{{SAID}}}"),
        answer(2, "It is 4"),
        answer(3, r"\boxed{y}"),
        answer(4, "4"),
    ]
    referee.study(answers, prompts)
    verdicts = [referee.verdict(*pair) for pair in zip(answers, prompts, strict=True)]
    assert verdicts == [Verdict.RIGHT, Verdict.RIGHT, Verdict.UNVERIFIED, None]
    assert algebra.asked == [[SAME, (GOLD, "y")]]


def test_an_answer_that_was_not_studied_is_judged_by_itself():
    referee = Referee(Rules())
    assert referee.verdict(answer(1, "5"), ask(1, "4", "5")) == Verdict.RIGHT
    assert referee.verdict(answer(1, "6", sample=1), ask(1, "4", "5")) == Verdict.WRONG


def test_the_job_says_who_compares_and_for_how_long():
    opened = []

    @contextmanager
    def open_algebra(deadline_s):
        opened.append(deadline_s)
        yield Algebra({SAME: True})

    said = answer(1, rf"\boxed{{{SAID}}}")
    with referee_for(VerifySpec(timeout_s=3.0), {}, open_algebra) as referee:
        assert referee.verdict(said, ask(1, GOLD)) == Verdict.RIGHT
    with referee_for(VerifySpec(math="rules"), {}, open_algebra) as referee:
        assert referee.verdict(said, ask(1, GOLD)) == Verdict.UNVERIFIED
    assert opened == [3.0]


def test_labels_are_those_of_the_job_and_of_the_prompt():
    listed = "(A) contradiction (B) neutral (C) entailment"
    with referee_for(VerifySpec(math="rules"), {"Refutes": "contradiction"}, Algebra) as referee:
        refuted = ask(1, "contradiction", task="nli")
        assert referee.verdict(answer(1, "It refutes the claim."), refuted) == Verdict.RIGHT
        lettered = ask(2, "contradiction", task="nli", content=listed)
        assert referee.verdict(answer(2, "A"), lettered) == Verdict.RIGHT
