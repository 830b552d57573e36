r"""One answer of mathematics, read from the few characters that state it: a number, several of them
in brackets, or an expression; and whether two are the same.

Two plain numbers compare exactly, whatever their spelling, and so do tuples, intervals and sets of
them. Equal spelling is equal. Everything else is undecided here (`x+1` and `1+x`): None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

from engine.rows.answers.latex import boxes, grouped, untexed
from engine.rows.answers.numbers import CURRENCY, Number, Readings, as_written, number_of_words, numbers_in
from engine.rows.answers.spelling import LETTER, spelt

LONGEST = 1000  # characters of what is looked at as one value
_ROUNDED = Fraction(1, 2 * 10**6)  # as near as a decimal of six places comes to a fraction
_LARGE = 10**300
_DEEPEST = 6  # wrappers in wrappers
_WRAPPED = re.compile(
    r"\$\$?(?P<dollars>[^$]+)\$?\$"
    r"|\\\((?P<round>.+)\\\)|\\\[(?P<square>.+)\\\]"
    r"|(?P<mark>\*{1,3}|_{1,2}|`{1,3}|\"|')(?P<marked>.+)(?P=mark)"
    r"|\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it|sf)|mbox|boldsymbol|bm)\{(?P<text>[^{}]*)\}"
    r"|\{(?P<group>[^{}]*)\}",
    re.DOTALL,
)
_EDGES = " \t\n.。;,:*_`"
_UNIT_LETTERS = "mgshlLkKWJNVCF"
_TOUCHING = frozenset(
    """
    mm cm dm km kg mg ml dl cl hr lb oz ft in yd mi pt qt st nd rd th am pm hz gb mb kb kw mw cc min
    sec hrs mph kph kmh lbs cal mol rpm
    """.split()
)
_NO_UNIT = frozenset("pi sqrt log ln sin cos tan exp mod and or plus minus times".split())
_WORD = rf"(?:{LETTER}{{2,}}|[{_UNIT_LETTERS}](?![\w]))"
_POWER = r"(?:\s?\^\s?\{?\s?-?[1-4]\s?\}?)?"
_BEFORE = re.compile(rf"(?:[\s.:;*_\"'(+≈~{CURRENCY}]|{LETTER}{{2,}}|\b(?:a|I)\b)*")
_AFTER = re.compile(
    rf"(?:[\s.,;:°%*_\"')({CURRENCY}-]|(?:/\s?|·|×)?{_WORD}{_POWER}|\ba\b)*", re.DOTALL
)
_POWER_OF_UNIT = re.compile(rf"(?<={LETTER[3:-1].split('|')[0]})\s?\^\s?\{{?\s?-?\d\s?\}}?")
_EQUALS = re.compile(r"(?<![<>!=:\\])=(?!=)")
_RELATION = re.compile(r"[<>≤≥≠∈]|\\(?:le|ge|lt|gt|ne|leq|geq|neq|equiv|leqslant|geqslant)(?![a-z])")
_NAME = re.compile(r"\s*(?:\\?[A-Za-z](?:[\w']|_\{\w+\}|\\[a-z]+)*\s*){1,6}(?:\([^()]*\))?\s*:?\s*")
_ARITHMETIC = re.compile(r"[\s\d.,+*/×·()%^{}$-]+")
_OPEN = {"(": ")", "[": "]", "{": "}"}
_PAIRS = ("()", "[]", "(]", "[)", "{}")
_BRACES = re.compile(r"\\(?=[{}])|\\l(?:eft)?brace(?![a-z])|\\r(?:ight)?brace(?![a-z])")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-z])")
_IN = re.compile(r"^[A-Za-z]\s*(?:\\in(?![a-z])|∈)\s*")
_ALSO = r"(?:and|or|y|o|et|ou|und|oder|e|и|или)\b(?!\s*[=(^+])"
_JOINT = re.compile(
    rf"\s*(?<!\\)[,;]\s*(?:\\text\{{\s*{_ALSO}\s*\}}|{_ALSO})?\s*"
    r"|\s*\\text\{\s*(?:and|or|oder|ou|или)\s*\}\s*|\s+(?:and|or|oder|ou|или)\s+|\s*(?:或|または)\s*"
)
_CHOICE = re.compile(r"\b(?:or|oder|ou|или)\b|或|または")
_UNITS = {
    "mm": ("length", Fraction(1, 1000)),
    "cm": ("length", Fraction(1, 100)),
    "m": ("length", Fraction(1)),
    "km": ("length", Fraction(1000)),
    "mg": ("mass", Fraction(1, 1000)),
    "g": ("mass", Fraction(1)),
    "kg": ("mass", Fraction(1000)),
    "ml": ("volume", Fraction(1, 1000)),
    "l": ("volume", Fraction(1)),
    "s": ("time", Fraction(1)),
    "min": ("time", Fraction(60)),
    "h": ("time", Fraction(3600)),
}
_UNIT = re.compile(r"\s?([A-Za-z]+)(?![\w/^])(?!\s?[/^])")
_SPELLINGS = (
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)(?!\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s*(\w)"), r"\\sqrt{\1}"),
    (re.compile(r"√\s*(\w+)"), r"\\sqrt{\1}"),
    (re.compile(r"\^\{(\w)\}"), r"^\1"),
    (re.compile(r"_\{(\w)\}"), r"_\1"),
    (re.compile(r"\\(?:cdot|times)(?![a-z])|[×·⋅]"), "*"),
    (re.compile(r"\\(?:leqslant|leq|le)(?![a-z])|≤|<="), "≤"),
    (re.compile(r"\\(?:geqslant|geq|ge)(?![a-z])|≥|>="), "≥"),
    (re.compile(r"\\infty(?![a-z])|∞|\binfinity\b"), "∞"),
    (re.compile(r"\\pi(?![a-z])|(?<![a-z])pi(?![a-z])"), "π"),
    (re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|operatorname)\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:left|right|displaystyle|quad|qquad|[,;:! ])|[\s$*`]"), ""),
)


@dataclass(frozen=True)
class Value:
    """What was stated. `numbers` are its readings as one plain number, `parts` what its brackets
    hold; both empty: an expression, or words."""

    text: str  # as it was written, but for spaces and case
    tex: str  # for an algebra system
    numbers: Readings = ()
    is_percent: bool = False
    unit: str = ""
    parts: tuple[Value, ...] = ()
    brackets: str = ""  # "()" "[)" "{}" …; "": a list without any
    is_choice: bool = False  # one or the other
    key: str = field(default="", compare=False)

    @property
    def is_words(self) -> bool:
        """Neither numbers nor signs: nothing that algebra could tell anything of."""
        return not self.numbers and not self.parts and _is_words(self.key)


def _is_words(key: str) -> bool:
    return len(key) > 1 and re.fullmatch(rf"(?:{LETTER}|['’?!.,-])+", key) is not None


def value_of(piece: str) -> Value | None:
    """The value that `piece` is, all of it: what a box holds, a reference, what follows "the answer
    is". None where it holds nothing."""
    piece = _SIZES.sub("", grouped(spelt(piece[:LONGEST])))
    piece = unwrapped(piece)
    piece = _right_side(_IN.sub("", piece))
    if not piece:
        return None
    return _collection(piece) or _single(piece)


def unwrapped(piece: str) -> str:
    """Without emphasis, quotation marks, boxes and the signs of mathematics around all of it."""
    for _ in range(_DEEPEST):
        piece = _stripped(piece)
        framed = boxes(piece)
        if len(framed) == 1 and framed[0].start == 0 and framed[0].end >= len(piece):
            piece = framed[0].content
            continue
        wrapped = _WRAPPED.fullmatch(piece)
        if wrapped is None:
            break
        inner = next(filter(None, wrapped.group("dollars", "round", "square", "marked", "text", "group")))
        if wrapped["dollars"] is None and wrapped["mark"] and wrapped["mark"] in inner:
            break
        piece = inner
    return _stripped(piece)


def _stripped(piece: str) -> str:
    return piece.rstrip(_EDGES).lstrip(_EDGES.replace(".", ""))


def _right_side(piece: str) -> str:
    """Without the name that it is the value of, or the sum that it is the result of."""
    if "=" not in piece or _RELATION.search(piece) or _several_names(piece):
        return piece
    sides = _EQUALS.split(piece)
    if len(sides) == 1:
        return piece
    *lefts, last = sides
    plain = [untexed(side) for side in lefts]
    first = plain[0]
    if _is_number(first) and not _is_number(untexed(last)):
        return lefts[0].strip()  # 18 = 9 × 2
    if _NAME.fullmatch(first) or _ARITHMETIC.fullmatch(first):
        return last.strip()
    return piece


def _several_names(piece: str) -> bool:
    return len(_EQUALS.findall(piece)) > 1 and _JOINT.search(piece) is not None


def _is_number(text: str) -> bool:
    return _single_number(text.strip(_EDGES)) is not None


def _collection(piece: str) -> Value | None:
    plain = _BRACES.sub("", piece)
    opening = plain[0]
    brackets = opening + plain[-1]
    inner = plain[1:-1]
    if brackets in _PAIRS and _closes_at_end(plain):
        pieces = _split(inner)
        if len(pieces) < 2 and brackets != "{}":
            return None
    else:
        brackets = ""
        inner = plain
        pieces = _split(plain)
        if len(pieces) < 2 or not _is_list(pieces):
            return None
    parts = []
    for one in pieces:
        part = value_of(one)
        if part is None:
            return None
        parts.append(part)
    text = _text(piece)
    return Value(
        text,
        piece,
        parts=tuple(parts),
        brackets=brackets,
        is_choice=_CHOICE.search(inner) is not None,
        key=_key(piece),
    )


def _closes_at_end(plain: str) -> bool:
    depth = 0
    for at, sign in enumerate(plain):
        depth += (sign in "([{") - (sign in ")]}")
        if not depth:
            return at == len(plain) - 1
    return False


def _split(plain: str) -> list[str]:
    """At commas, semicolons and words that join, outside brackets and outside numbers."""
    taken = [(number.start, number.end) for number in numbers_in(plain)]
    depth = 0
    depths = []
    for sign in plain:
        depth += (sign in "([{") - (sign in ")]}")
        depths.append(depth)
    pieces = []
    start = 0
    for joint in _JOINT.finditer(plain):
        inside = any(first < joint.start() < last for first, last in taken)
        if depths[joint.start()] or inside:
            continue
        pieces.append(plain[start : joint.start()])
        start = joint.end()
    pieces.append(plain[start:])
    return [piece for piece in pieces if piece.strip()]


def _is_list(pieces: list[str]) -> bool:
    """Whether pieces without brackets around them are a list of values: no clauses, and a word at
    most behind the last."""
    *before, last = pieces
    if not all(map(_has_signs, pieces)):
        return False
    return not any(map(_words, before)) and len(_words(last)) <= 1


def _has_signs(piece: str) -> bool:
    return any(sign.isdigit() or sign in "\\^+=π√∞" for sign in piece)


def _words(piece: str) -> list[str]:
    return re.findall(rf"(?<![\\\w]){LETTER}{{3,}}", untexed(piece))


def _single(piece: str) -> Value:
    plain = untexed(piece)
    number = _single_number(plain)
    if number is not None:
        return value_at(plain, number)
    words = _of_words(plain)
    if words is not None:
        return Value(_text(piece), str(words), numbers=(words,), key=_key(piece))
    return Value(_text(piece), piece, key=_key(piece))


def value_at(plain: str, number: Number) -> Value:
    """The value that a number in a text is, with a unit that follows it."""
    written = plain[number.start : number.end]
    behind = _UNIT.match(plain, number.end)
    unit = ""
    if behind and behind[1].lower() in _UNITS:
        unit = behind[1].lower()
    return Value(
        as_written(written).strip().lower(),
        _fraction(number.values[0]),
        numbers=number.values,
        is_percent=number.is_percent,
        unit=unit,
        key=written,
    )


def _of_words(plain: str) -> Fraction | None:
    if any(sign.isdigit() for sign in plain) or "\\" in plain or len(plain) > 80:
        return None
    return number_of_words(plain)


def _single_number(plain: str) -> Number | None:
    """The one number that the text is, with at most words and units beside it."""
    plain = plain.replace("\n", " ")
    flat = _POWER_OF_UNIT.sub(lambda power: " " * len(power[0]), plain)
    numbers = numbers_in(flat)
    if len(numbers) != 1:
        return None
    number = numbers[0]
    if not _BEFORE.fullmatch(plain, 0, number.start):
        return None
    if not _AFTER.fullmatch(plain, number.end):
        return None
    words = re.findall(rf"{LETTER}+", plain)
    if not _NO_UNIT.isdisjoint(word.lower() for word in words):
        return None
    touching = re.compile(r"[A-Za-z]+").match(plain, number.end)
    if touching and len(touching[0]) < 3 and touching[0].lower() not in _TOUCHING:
        if touching[0] not in tuple(_UNIT_LETTERS):
            return None
    return number


def _fraction(value: Fraction) -> str:
    if max(abs(value.numerator), value.denominator) >= _LARGE:
        return ""  # longer than Python writes
    return str(value)


def _text(piece: str) -> str:
    plain = re.sub(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}|\\[!,;: ]|\\(?=[%$])", r" \1", piece)
    return as_written(re.sub(r"[\s$*`]", "", plain)).strip(".").lower()


def _key(piece: str) -> str:
    """The spelling by which two expressions are compared."""
    piece = as_written(piece)
    for pattern, spelling in _SPELLINGS:
        piece = pattern.sub(spelling, piece)
    piece = piece.strip(".,;:")
    if _is_words(piece):
        piece = piece.casefold()
    return piece


def same_value(said: Value, wanted: Value) -> bool | None:
    """Whether both are the same; None where only algebra can tell."""
    if said.numbers and wanted.numbers:
        return _same_number(said, wanted)
    if said.parts and wanted.parts:
        return _same_parts(said, wanted)
    if said.key == wanted.key:
        return True
    if said.is_words or wanted.is_words:
        return False
    if (said.parts and wanted.numbers) or (said.numbers and wanted.parts):
        return False
    return None


def _same_number(said: Value, wanted: Value) -> bool:
    here = set(said.numbers)
    there = set(wanted.numbers)
    if said.unit != wanted.unit and said.unit and wanted.unit:
        kind, scale = _UNITS[said.unit]
        other_kind, other_scale = _UNITS[wanted.unit]
        if kind == other_kind:
            here = {number * scale for number in here}
            there = {number * other_scale for number in there}
    elif said.is_percent != wanted.is_percent:
        # what was asked for may be counted in percent, or not
        if said.is_percent:
            here |= {number / 100 for number in here}
        else:
            there |= {number / 100 for number in there}
    return bool(here & there) or _is_rounded(said.numbers[0], wanted.numbers[0])


def _is_rounded(a: Fraction, b: Fraction) -> bool:
    """Whether one is a fraction that no decimal is, and the other its decimal of six places."""
    return abs(a - b) <= _ROUNDED and _is_endless(a) != _is_endless(b)


def _is_endless(value: Fraction) -> bool:
    below = value.denominator
    if below > 10**12:
        return False
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below > 1


def _same_parts(said: Value, wanted: Value) -> bool | None:
    kinds = {said.brackets, wanted.brackets}
    if len(kinds) > 1 and kinds != {"", "{}"}:
        # (1,2) and [1,2] differ; whether (1,2) answers for {1,2} depends on the question
        if "" in kinds or "{}" in kinds:
            return None
        return False
    if len(said.parts) != len(wanted.parts):
        return False
    if said.brackets in ("", "{}"):
        return _same_unordered(said.parts, wanted.parts)
    return _all(same_value(a, b) for a, b in zip(said.parts, wanted.parts, strict=True))


def _same_unordered(said: tuple[Value, ...], wanted: tuple[Value, ...]) -> bool | None:
    left = list(wanted)
    undecided = False
    for one in said:
        verdicts = [same_value(one, other) for other in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            undecided = True
        else:
            return False
    return None if undecided else True


def _all(verdicts) -> bool | None:
    found = list(verdicts)
    if False in found:
        return False
    return None if None in found else True
