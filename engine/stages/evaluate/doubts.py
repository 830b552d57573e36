"""What must be known of a judge before it is believed: that it goes by the place, that it says
nothing, that it is the teacher."""

from __future__ import annotations

from engine.run.facts import Judge

MOST_UNREADABLE = 0.1  # of the replies; above, a sentence says so
MOST_FLIPS = 0.3  # of the pairs
LEANS = 0.6  # share of the votes for one place
LEANS_ALWAYS = 0.9
ALPHA = 0.05


def warnings_of(judge: Judge, file: str) -> list[str]:
    """What makes its verdicts doubtful, a sentence each; `file` has its replies."""
    told = []
    if judge.is_teacher:
        told.append(
            f"the judge '{judge.name}' is the teacher ({judge.model}), and models prefer answers"
            " like their own: a win rate of such a judge is no evidence by itself; name another"
            " model in evaluate.judge.teacher"
        )
    told += _of_silence(judge, file)
    told += _of_places(judge)
    return told


def _of_silence(judge: Judge, file: str) -> list[str]:
    silent = sum(judge.unreadable.values())
    if silent <= MOST_UNREADABLE * judge.replies:
        return []
    by_status = ", ".join(f"{status} {count:,}" for status, count in judge.unreadable.items())
    return [
        f"{silent:,} of the judge's {judge.replies:,} replies hold no verdict ({by_status}) and are"
        f" no votes; read some in {file}, raise evaluate.judge.max_tokens where they were cut, or"
        " name a judge that keeps to the form"
    ]


def _of_places(judge: Judge) -> list[str]:
    """Of a judge that goes by the order: always by one place, more often by one, or at random."""
    if judge.first_share is None or judge.flip_rate is None:
        return []
    place = "first"
    share = judge.first_share
    if share < 0.5:
        place = "second"
        share = 1 - share
    flips = f"{judge.flip_rate:.0%} of the pairs changed their winner with the order"
    if judge.first_p is not None and judge.first_p < ALPHA and share >= LEANS:
        leaning = (
            f"the judge named the answer that stood {place} in {share:.0%} of {judge.named:,} votes"
            f" that name a winner, and {flips} (they count as ties)"
        )
        if share >= LEANS_ALWAYS:
            return [
                f"{leaning}: it goes by the place and not by the answers, so its win rates say"
                " nothing; name another judge, or mend the rubric"
            ]
        return [f"{leaning}: it leans towards a place, and fewer verdicts are about the answers"]
    if judge.flip_rate > MOST_FLIPS:
        return [
            f"{flips} (they count as ties): the judge can hardly tell these answers apart; a"
            " sharper rubric or another judge may"
        ]
    return []
