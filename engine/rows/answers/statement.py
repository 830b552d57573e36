r"""Where a text states its answer: in a box, in a tag, behind a mark, behind words like "the answer
is", in emphasis, or at its end.

The same places for every task and language. What an answer is worth is for its reader to say
(values.py, labels.py, phrases.py): he is offered statements, the most trustworthy first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from engine.rows.answers.latex import boxes, untexed
from engine.rows.answers.lexicon import Lexicon, Mention
from engine.rows.answers.spelling import sentence_end, sentence_start
from engine.rows.answers.vocabulary import ANSWERS, FINALS, INITIALS, IS, OUTCOMES

_SENTENCE = 600  # characters: a longer one is no statement
_BLOCK = 2000  # the same of a paragraph
_BOTH_SIDES = 30  # characters in which "final" belongs to "answer"
_NEXT_WORD = 16  # characters in which the next word begins and ends
_MOST_CUES = 30  # more are a text that repeats itself
_AWAY = 120  # characters in which "is" belongs to "answer"
_THOUGHT = re.compile(
    r"</(?:think|thinking|thought|reasoning|scratchpad|analysis|rationale)>", re.IGNORECASE
)
_TAG = re.compile(
    r"<(?P<tag>(?:final[_ -]?)?(?:answer|ans|solution|output|result|label|response))\s*>"
    r"(?P<tagged>.*?)(?:</\s*(?P=tag)\s*>|\Z)"
    r"|\[(?P<square>(?:final[_ -]?)?answer)\](?P<squared>.*?)\[/\s*(?P=square)\s*\]"
    r"|<\|begin_of_(?:solution|answer)\|>(?P<piped>.*?)<\|end",
    re.IGNORECASE | re.DOTALL,
)
_NEXT_QUESTION = re.compile(
    r"\n\s*(?:[#*_>]+\s*)?(?:Q|Question|Problem|Exercise|Example|Human|User|Instruction|Input"
    r"|Premise|Context|Pregunta|Frage|Domanda|Pergunta|Вопрос|Задача|प्रश्न|問題|问题|質問|질문|கேள்வி|ప్రశ్న"
    r")\s*(?:\d+|#\d+)?\s*(?:\*\*|__)?\s*[:.：](?!\S*\$)",
    re.IGNORECASE,
)
_INITIAL = re.compile(rf"^[ \t>*_#-]*(?:{INITIALS})[*_ ]*[:.：][*_ ]*", re.MULTILINE)
_KEY = re.compile(
    r"[\"'](?:[\w ]*_)?(answer|label|result|prediction|output|verdict|value)[\"']\s*:\s*"
)
# What a program writes: the value ends with its quotation mark.
_FIELD = re.compile(
    r"[\"'](?:[\w ]*_)?(?:answer|label|result|prediction|verdict)[\"']\s*:\s*"
    r"(?:\"(?P<text>(?:[^\"\\\n]|\\.)*)\"|(?P<bare>-?\d[\d.eE+-]*)(?=\s*[,}\n]))"
)
# Before a name that is a verb here, or one of several things of that name.
_NO_NAME = re.compile(
    r"(?:first|second|third|fourth|fifth|next|previous|each|any|an|no|his|her|their|whose|to|you|we"
    r"|i|they|can|could|will|must|should|and|or|please|primera|segunda|première|deuxième)\s+$",
    re.IGNORECASE,
)
# Behind a name that something is done with: multiply the answer by 100, give the answer in metres.
_OBJECT = re.compile(r"\s+(?:by|as|with|from|into|in|using|every|all|questions?)\b", re.IGNORECASE)
_GLUE = re.compile(r"[\s:：=*_`\"'|>#)\]}~→⇒➜-]*(?:—\s*)?[\s*_`\"'|>]*")
_HEADING = re.compile(r"[\s*_#)\]}]*[:：]?[\s*_]*\n")
_PARAGRAPH_END = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Statement:
    """What words like "answer" introduce. `direct` follows them up to the end of the sentence,
    `predicate` follows the verb ("is") of that sentence, `before` stands before them in it: "18 is
    the answer"."""

    direct: str
    predicate: str | None
    before: str
    is_final: bool  # called the final, the correct one
    block: str  # from there to the end of the paragraph
    is_headed: bool  # behind a colon or under a heading
    is_told: bool  # that, or a verb stands before `direct`

    @property
    def is_alone(self) -> bool:
        """Whether its sentence is the whole paragraph."""
        return len(self.block.strip()) <= len(self.direct.strip()) + 1


def without_thoughts(text: str) -> str:
    """What is said after thinking aloud, where tags tell both apart."""
    ends = [tag.end() for tag in _THOUGHT.finditer(text)]
    if not ends or not text[ends[-1] :].strip():
        return text
    return text[ends[-1] :]


def holds_thoughts(text: str) -> bool:
    """Whether tags end a part that was thought aloud."""
    return _THOUGHT.search(text) is not None


def tags(text: str) -> list[tuple[int, str]]:
    """Where tags of an answer stand, and what they hold. One that is not closed goes on to the
    end."""
    found = []
    if "<" in text or "[" in text:
        for tag in _TAG.finditer(text):
            content = tag["tagged"] or tag["squared"] or tag["piped"]
            if content and content.strip():
                found.append((tag.start(), content.strip()))
    if "{" in text:
        for field in _FIELD.finditer(text):
            content = field["bare"] or field["text"].replace("\\\\", "\\")
            if content.strip():
                found.append((field.start(), content.strip()))
    return found


def marked(text: str) -> str | None:
    """What the last tag or box holds, as plain text."""
    found = tags(text)
    if "\\" in text:
        found += [(box.start, untexed(box.content)) for box in boxes(text)]
    return max(found)[1] if found else None


def without_next_question(text: str) -> str:
    """The text up to where it goes on with a question that nobody asked, if an answer stands before
    that."""
    if "\n" not in text:
        return text
    answered = _first_answer(text)
    if answered is None:
        return text
    question = _NEXT_QUESTION.search(text, answered)
    if question is None:
        return text
    return text[: question.start()]


def _first_answer(text: str) -> int | None:
    """Where the text first says that something is an answer."""
    places = [place for place in map(text.find, ("####", "\\boxed")) if place >= 0]
    for pattern in (_TAG, _INITIAL):
        match = pattern.search(text)
        if match is not None:
            places.append(match.start())
    for cue in sorted(ANSWERS.mentions(text))[:_MOST_CUES]:
        told = _at(text, cue, is_final=False)
        if told.is_told and told.direct.strip():
            places.append(cue.end)
            break
    return min(places, default=None)


def said(text: str, names: Lexicon = OUTCOMES) -> Iterator[Statement]:
    """What words like "the answer is" introduce: first what is called final, then the rest, each
    from the last to the first. `names` are the words for what is introduced."""
    found = [*_keys(text), *_initials(text)]
    for cue in names.mentions(text):
        before = max(0, cue.start - _BOTH_SIDES)
        if _NO_NAME.search(text, before, cue.start) or _OBJECT.match(text, cue.end):
            continue
        found.append((cue, _is_final(text, cue)))
    found.sort(key=lambda one: (one[1], one[0].start), reverse=True)
    for cue, is_final in found[:_MOST_CUES]:
        yield _at(text, cue, is_final=is_final)


def _keys(text: str) -> Iterator[tuple[Mention, bool]]:
    for key in _KEY.finditer(text):
        yield Mention(key.start(), key.end(), ":"), "final" in key[0].lower()


def _initials(text: str) -> Iterator[tuple[Mention, bool]]:
    for initial in _INITIAL.finditer(text):
        yield Mention(initial.start(), initial.end(), ":"), False


def _is_final(text: str, cue: Mention) -> bool:
    start = max(0, cue.start - _BOTH_SIDES)
    end = min(len(text), cue.end + _BOTH_SIDES)
    around = FINALS.last(text, start, cue.start) or FINALS.first(text, cue.end, end)
    if around is None:
        return False
    between = text[min(around.end, cue.end) : max(around.start, cue.start)]
    return not any(sign.isdigit() or sign in "\n.:" for sign in between)


def _at(text: str, cue: Mention, *, is_final: bool) -> Statement:
    start = cue.end
    heading = _HEADING.match(text, start)
    if heading and cue.word != ":":
        start = heading.end()
    start = _end_of_glue(text, start)
    stated = _behind_verbs(text, start)
    is_headed = cue.word == ":" or any(sign in text[cue.end : stated] for sign in ":：=→⇒➜\n")
    end = sentence_end(text, stated, _SENTENCE)
    return Statement(
        direct=text[stated:end],
        predicate=None if is_headed else _predicate(text[stated:end]),
        before=text[sentence_start(text, cue.start, _SENTENCE) : cue.start],
        is_final=is_final,
        block=text[stated : _block_end(text, stated)],
        is_headed=is_headed,
        is_told=is_headed or stated > start,
    )


def _behind_verbs(text: str, start: int) -> int:
    """Behind the words for "is" that stand there."""
    verb = IS.first(text, start, start + _NEXT_WORD)
    while verb is not None and verb.start == start:
        start = _end_of_glue(text, verb.end)
        verb = IS.first(text, start, start + _NEXT_WORD)
    return start


def _predicate(sentence: str) -> str | None:
    """What follows a verb further on in the sentence, or a colon."""
    verb = IS.first(sentence, 0, min(len(sentence), _AWAY))
    if verb is not None:
        return sentence[_end_of_glue(sentence, verb.end) :]
    colon = sentence.find(":", 0, _AWAY)
    return None if colon < 0 else sentence[_end_of_glue(sentence, colon + 1) :]


def _end_of_glue(text: str, start: int) -> int:
    """Behind spaces and signs; a minus or quotation mark that touches a number is no glue."""
    glue = _GLUE.match(text, start)
    if glue is None:
        return start
    end = glue.end()
    if end > start and text[end - 1] in "-\"'" and text[end : end + 1].isdigit():
        return end - 1
    return end


def _block_end(text: str, start: int) -> int:
    end = _PARAGRAPH_END.search(text, start, start + _BLOCK)
    if end is None:
        return min(len(text), start + _BLOCK)
    return end.start()
