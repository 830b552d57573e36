r"""One answer of mathematics, read from the few characters that state it: a number, several of them
in brackets, or an expression.

Reading is all that happens here; equality.py compares.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

from engine.rows.answers.expressions import is_words, key_of, shown
from engine.rows.answers.latex import boxes, grouped, untexed
from engine.rows.answers.lexicon import words
from engine.rows.answers.number_words import number_of_words
from engine.rows.answers.numbers import CURRENCY, Number, Readings, as_written, numbers_in
from engine.rows.answers.spelling import LETTER, spelt

LONGEST = 1000  # characters of what is looked at as one value
# Units that compare: what they measure, and how many of the basic one they are.
UNITS = {
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
_LARGE = 10**300
_DEEPEST = 6  # wrappers in wrappers
_LONGEST_WORDS = 80  # characters
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
    words("""
        mm cm dm km kg mg ml dl cl hr lb oz ft in yd mi pt qt st nd rd th am pm hz gb mb kb kw mw cc
        min sec hrs mph kph kmh lbs cal mol rpm
    """)
)
_NO_UNIT = frozenset(words("pi sqrt log ln sin cos tan exp mod and or plus minus times"))
_WORD = rf"(?:{LETTER}{{2,}}|[{_UNIT_LETTERS}](?![\w]))"
_POWER = r"(?:\s?\^\s?\{?\s?-?[1-4]\s?\}?)?"
_BEFORE = re.compile(rf"(?:[\s.:;*_\"'(+≈~{CURRENCY}]|{LETTER}{{2,}}|\b(?:a|I)\b)*")
_AFTER = re.compile(
    rf"(?:[\s.,;:°%*_\"')({CURRENCY}-]|(?:/\s?|·|×)?{_WORD}{_POWER}|\ba\b)*", re.DOTALL
)
_POWER_OF_UNIT = re.compile(r"(?<=[^\W\d_])\s?\^\s?\{?\s?-?\d\s?\}?")
_UNIT = re.compile(r"\s?([A-Za-z]+)(?![\w/^])(?!\s?[/^])")
_TOUCHING_LETTERS = re.compile(r"[A-Za-z]+")
_LETTERS = re.compile(rf"{LETTER}+")
_THREE_LETTERS = re.compile(rf"(?<![\\\w]){LETTER}{{3,}}")
_EQUALS = re.compile(r"(?<![<>!=:\\])=(?!=)")
_RELATION = re.compile(
    r"[<>≤≥≠∈]|\\(?:le|ge|lt|gt|ne|leq|geq|neq|equiv|leqslant|geqslant)(?![a-z])"
)
_NAME = re.compile(r"\s*(?:\\?[A-Za-z](?:[\w']|_\{\w+\}|\\[a-z]+)*\s*){1,6}(?:\([^()]*\))?\s*:?\s*")
_ARITHMETIC = re.compile(r"[\s\d.,+*/×·()%^{}$-]+")
_PAIRS = ("()", "[]", "(]", "[)", "{}")
_BRACES = re.compile(r"\\(?=[{}])|\\l(?:eft)?brace(?![a-z])|\\r(?:ight)?brace(?![a-z])")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-z])")
_IN = re.compile(r"^[A-Za-z]\s*(?:\\in(?![a-z])|∈)\s*")
_ALSO = r"(?:and|or|y|o|et|ou|und|oder|e|и|или)\b(?!\s*[=(^+])"
_JOINT = re.compile(
    rf"\s*(?<!\\)[,;]\s*(?:\\text\{{\s*{_ALSO}\s*\}}|{_ALSO})?\s*"
    r"|\s*\\text\{\s*(?:and|or|oder|ou|или)\s*\}\s*|\s+(?:and|or|oder|ou|или)\s+|\s*(?:或|または)\s*"
)
_NEARLY = re.compile(r"\s*(?:≈|≃|\\approx(?:eq)?(?![a-z])|\\simeq(?![a-z]))\s*")
_EITHER_SIGN = re.compile(r"±|\\pm(?![a-z])")
_LINES = re.compile(
    r"\\(?:begin|end)\{(?:align|aligned|gather|gathered|equation|split|eqnarray|multline)\*?\}"
)
_CHOICE = re.compile(r"\b(?:or|oder|ou|или)\b|或|または")


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
    nearly: Value | None = None  # what it is about: 28.3 for 9π
    key: str = field(default="", compare=False)

    @property
    def is_words(self) -> bool:
        """Neither numbers nor signs: nothing that algebra could tell anything of."""
        return not self.numbers and not self.parts and is_words(self.key)


def value_of(piece: str) -> Value | None:
    """The value that `piece` is, all of it: what a box holds, a reference, what follows "the answer
    is". None where it holds nothing."""
    piece = unwrapped(_SIZES.sub("", grouped(spelt(piece[:LONGEST]))))
    piece = _right_side(_IN.sub("", _last_line(piece)))
    if not piece:
        return None
    exact, sign, about = _nearly(piece)
    if not sign:
        return _collection(piece) or _single(piece)
    value = value_of(exact)
    number = value_of(about)
    if value is None or number is None or not number.numbers:
        return _collection(piece) or _single(piece)
    return replace(value, nearly=number)


def _nearly(piece: str) -> tuple[str, str, str]:
    """Before the sign of "nearly", the sign, and what is behind; of x ≈ 3 there is nothing before
    it."""
    found = _NEARLY.search(piece)
    if (
        found is None
        or _NAME.fullmatch(piece, 0, found.start())
        or not piece[: found.start()].strip()
    ):
        return piece, "", ""
    return piece[: found.start()], found[0], piece[found.end() :]


def _last_line(piece: str) -> str:
    """Of lines that are set below each other, what the last one comes to."""
    if not _LINES.search(piece):
        return piece
    lines = [line for line in re.split(r"\\\\", _LINES.sub("", piece)) if line.strip()]
    if not lines:
        return ""
    return lines[-1].replace("&", "").strip().lstrip("= ")


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
        held = wrapped.group("dollars", "round", "square", "marked", "text", "group")
        inner = next(filter(None, held), "")
        if wrapped["mark"] and wrapped["mark"] in inner:
            break
        piece = inner
    return _stripped(piece)


def _stripped(piece: str) -> str:
    piece = piece.rstrip(_EDGES).lstrip(_EDGES.replace(".", ""))
    if any(sign in "([{" for sign in piece):
        return piece
    return piece.rstrip(")]}" + _EDGES)  # of what stands around it: JSON, a sentence


def _right_side(piece: str) -> str:
    """Without the name that it is the value of, or the sum that it is the result of."""
    sides = _EQUALS.split(piece)
    if len(sides) == 1 or _RELATION.search(piece) or _names_several(piece):
        return piece
    first = untexed(sides[0])
    last = sides[-1]
    if _is_number(first) and not _is_number(untexed(last)):
        return sides[0].strip()  # 18 = 9 × 2
    if _NAME.fullmatch(first) or _ARITHMETIC.fullmatch(first):
        return last.strip()
    return piece


def _names_several(piece: str) -> bool:
    return len(_EQUALS.findall(piece)) > 1 and _JOINT.search(piece) is not None


def _is_number(text: str) -> bool:
    return _single_number(text.strip(_EDGES)) is not None


def _collection(piece: str) -> Value | None:
    plain = _BRACES.sub("", piece)
    brackets = plain[0] + plain[-1]
    inner = plain[1:-1]
    if brackets in _PAIRS and _closes_at_end(plain):
        pieces = _split(inner)
        if len(pieces) < 2 and brackets != "{}":
            return None
    else:
        brackets = ""
        inner = plain
        pieces = _both_signs(plain) or _split(plain)
        if len(pieces) < 2 or not _is_list(pieces):
            return None
    parts = [part for part in map(value_of, pieces) if part is not None]
    if len(parts) < len(pieces):
        return None
    return Value(
        shown(piece),
        piece,
        parts=tuple(parts),
        brackets=brackets,
        is_choice=_CHOICE.search(inner) is not None,
        key=key_of(piece),
    )


def _both_signs(plain: str) -> list[str]:
    """Of 3 ± 2 both values."""
    if len(_EITHER_SIGN.findall(plain)) != 1 or not _has_signs(plain):
        return []
    return [_EITHER_SIGN.sub(sign, plain) for sign in ("+", "-")]


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
    return not any(map(_long_words, before)) and len(_long_words(last)) <= 1


def _has_signs(piece: str) -> bool:
    return any(sign.isdigit() or sign in "\\^+=π√∞" for sign in piece)


def _long_words(piece: str) -> list[str]:
    return _THREE_LETTERS.findall(untexed(piece))


def _single(piece: str) -> Value:
    plain = untexed(piece)
    number = _single_number(plain)
    if number is not None:
        return value_at(plain, number)
    spoken = _of_words(plain)
    if spoken is not None:
        return Value(shown(piece), str(spoken), numbers=(spoken,), key=key_of(piece))
    return Value(shown(piece), piece, key=key_of(piece))


def value_at(plain: str, number: Number) -> Value:
    """The value that a number in a text is, with a unit that follows it."""
    written = plain[number.start : number.end]
    behind = _UNIT.match(plain, number.end)
    unit = ""
    if behind and behind[1].lower() in UNITS:
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
    if any(sign.isdigit() for sign in plain) or "\\" in plain or len(plain) > _LONGEST_WORDS:
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
    if not _BEFORE.fullmatch(plain, 0, number.start) or not _AFTER.fullmatch(plain, number.end):
        return None
    beside = [word.lower() for word in _LETTERS.findall(plain)]
    if not _NO_UNIT.isdisjoint(beside):
        return None
    return number if _is_unit_like(_TOUCHING_LETTERS.match(plain, number.end)) else None


def _is_unit_like(letters: re.Match[str] | None) -> bool:
    """Whether letters that touch a number are its unit, not variables: 18km, but 2ab."""
    if letters is None or len(letters[0]) > 2:
        return True
    return letters[0].lower() in _TOUCHING or letters[0] in tuple(_UNIT_LETTERS)


def _fraction(value: Fraction) -> str:
    if max(abs(value.numerator), value.denominator) >= _LARGE:
        return ""  # longer than Python writes
    return str(value)
