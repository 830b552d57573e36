"""Verdicts about pairs as judges write them, well and badly."""

import time

import pytest

from engine.rows.judging.choices import read_choice

FIRST = [
    '{"verdict": "A"}',
    "{'verdict': 'A'",
    '{"verdict": A}',
    '{\n "reason": "B is long",\n "verdict":\n  "A"\n}',
    "Verdict: A",
    "Final verdict: Answer A.",
    "[[A]]",
    "My final verdict is: [[A>>B]]",
    "A > B",
    "\\boxed{\\text{Answer A}}",
    "A",
    '"A".',
    "A\n\nBecause it is right.",
    "Answer A is better than Answer B.",
    "The first answer is clearly better.",
    "Preference: first",
    "Winner: Assistant 1",
    "Ｖｅｒｄｉｃｔ：Ａ",
    "Verdict — A",
    "Final Answer: A",
    "<answer>A</answer>",
    "> {'verdict': 'A'}",
    "Better: A",
    "Verdict: A so far</think>\n{'verdict': 'A'}",
]
SECOND = [
    'Reasons.\n```json\n{"verdict": "B"}\n```',
    '{"verdict": "Answer B"}',
    '{"verdict": "B is slightly better"}',
    '{"verdict": {"winner": "B"}}',
    '{\\"verdict\\": \\"B\\"}',
    '{"choice": "B"}',
    '{"score_a": 5, "score_b": 3, "verdict": "B"}',
    "**Verdict:** **B**",
    "## Verdict\nB",
    "The winner is Response B!",
    "[[B>A]]",
    "A<B",
    "<verdict>B</verdict>",
    "(b)",
    "Answer 2",
    "Answer A is better in style, but overall Answer B is better.",
    "I would choose answer B.",
    "The better answer is the second one.",
    "“verdict”: “B”",
    "Verdict - B",
    "The verdict is in favor of Answer B.",
    '{"verdict": "B',
    "Overall, Answer B is the stronger response.",
    '<think>Verdict: A ... no</think>{"verdict": "B"}',
    '{"verdict": "A"} ... on reflection:\n{"verdict": "B"}',
    "Verdict for style: A. Verdict for content: B. Final verdict: B",
    '{"verdict": "A"} {"verdict": "B"} {"verdict": "tie"}\n\nA is short.\n\n{"verdict": "B"}',
]
TIES = [
    '{"verdict": "tie"}',
    '{"verdict": "A tie"}',
    '{"verdict": "both are bad"}',
    "[[C]]",
    "[[A=B]]",
    "Tie",
    "It's a tie.",
    "Both answers are equally good.",
    "verdict: no preference",
]
NONE = {
    "nothing": "",
    "no verdict": "I cannot decide.",
    "null": '{"verdict": null}',
    "an empty one": '{"verdict": ""}',
    "no side": '{"verdict": "C"}',
    "what might be said": '{"verdict": "A"}, {"verdict": "B"} or {"verdict": "tie"}',
    "the same in one": '{"verdict": "A" or "B" or "tie"}',
    "the same with bars": '{"verdict": "A|B|tie"}',
    "headings": "Answer A:\n- fine\nAnswer B:\n- poor",
    "an unfinished thought": "<think>Verdict: A ",
    "the answer to the question": "The correct answer is B, as 2+2=4.",
    "a number of the question": "The answer is 2.",
    "the same, final": "Final answer: 2",
    "the same in a box": "So x is \\boxed{2}.",
    "the same in JSON": '{"answer": 2}',
    "two grades": '{"A": 4, "B": 2}',
    "an opinion of each": "A: good, B: bad",
    "a lesser one": "Answer A is not as good as Answer B.",
    "an article": "Verdict: A better answer would have said more.",
    "a denial": "Verdict: not A",
    "neither": "Neither answer A nor answer B is better.",
    "a condition": "If answer A is better, say so.",
}


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        *((reply, "first") for reply in FIRST),
        *((reply, "second") for reply in SECOND),
        *((reply, "tie") for reply in TIES),
    ],
)
def test_a_verdict_is_read_however_it_is_written(reply, choice):
    assert read_choice(reply) == choice


@pytest.mark.parametrize("what", NONE)
def test_what_is_no_verdict_is_none(what):
    assert read_choice(NONE[what]) is None


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ('{"verdict": "B"}\nThe first answer is better in', "second"),
        ("Let me see. Answer A is better", None),
        ("Reasons for\nA", None),
    ],
)
def test_a_reply_that_was_cut_counts_where_its_verdict_is_written_as_one(reply, choice):
    assert read_choice(reply, is_cut=True) == choice


@pytest.mark.parametrize(
    "unit", ["A ", '"', "verdict: ", "verdict (", "<think>", "the answer ", "is ", "[[", "\n"]
)
def test_a_long_reply_is_read_in_no_time(unit):
    """Sixteen times as long, not 256 times as slow."""
    seconds = []
    for count in (500, 8000):
        reply = unit * count
        started = time.process_time()
        for _ in range(3):
            read_choice(reply)
        seconds.append(time.process_time() - started)
    assert seconds[1] < 100 * seconds[0] + 0.5
