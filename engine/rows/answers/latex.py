r"""LaTeX as far as answers need it: boxes, braces, and plain text in place of what only sets type.

`untexed` is for reading numbers and words: `-\tfrac{1}{2}\,\text{cm}` becomes `-1/2 cm`. What is
no number keeps its commands; nothing here does algebra.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LONGEST_GROUP = 4000  # characters between two braces
_DEEPEST = 6  # wrappers in wrappers
_GROUPING = re.compile(r"(?<=\d)(?:\{,\}|,?\\[!,;: ]|,?~)\s?(?=\d{3}(?!\d))")
_SPACING = re.compile(
    r"\\[,;:! ]|~"
    r"|\\(?:q?quad|displaystyle|textstyle|limits|[bB]igg?[lrm]?|left|right)(?![A-Za-z])\.?"
)
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|bb|cal|normal)|mbox|hbox|emph"
    r"|operatorname|boldsymbol|bm|bf|rm|underline|overline|boxed|fbox|framebox|underbrace|ensuremath"
    r"|color\{[a-z]+\}|textcolor\{[a-z]+\})\*?\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_ESCAPED = re.compile(r"\\(?=[$%#&_])")
_DEGREES = re.compile(r"\^\s*\{?\s*(?:\\circ|°)\s*\}?|\\degree(?:s)?(?![A-Za-z])")
_ABOUT = re.compile(r"\\(?:approx|thickapprox|sim|simeq|approxeq)(?:eq)?(?![A-Za-z])")
_TIMES = re.compile(r"\\(?:times|cdot)(?![A-Za-z])")
_DELIMITER = re.compile(r"\\[()\[\]]|\$\$|\\\\|\\(?:hline|newline)(?![A-Za-z])")
_WHOLE = r"[-+]?\s?\d[\d,]*(?:\.\d+)?"
_ONE = r"\s*\{\s*(?P<%s>" + _WHOLE + r")\s*\}"
_SHORT = r"\s*(?P<%s>\d)"
_FRACTION = re.compile(
    r"(?P<sign>(?<![\w)\]}])-\s?)?\\(?:[dtc]?frac|nicefrac|sfrac)"
    rf"(?:{_ONE % 'a'}|{_SHORT % 'b'})(?:{_ONE % 'c'}|{_SHORT % 'd'})"
)
_OVER = re.compile(rf"\{{\s*({_WHOLE})\s*\\over\s*({_WHOLE})\s*\}}")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*")
_BARE_BOX = re.compile(r"[^\s{}$]+")


class Box(NamedTuple):
    """What a text puts into a frame."""

    start: int
    end: int
    content: str


def grouped(text: str) -> str:
    """Thousands that LaTeX sets apart (`12{,}000`, `12\\,000`) with a comma between them."""
    return _GROUPING.sub(",", text).replace("{,}", ",")


def untexed(text: str) -> str:
    """The text with spaces, wrappers, escapes and fractions of numbers in plain characters."""
    if "\\" not in text and "{" not in text and "~" not in text:
        return text
    text = grouped(text)
    text = _SPACING.sub(" ", text)
    text = _ESCAPED.sub("", text)
    for _ in range(_DEEPEST):
        inner = _WRAPPER.sub(r" \1 ", text)
        if inner == text:
            break
        text = inner
    text = _DEGREES.sub("°", text)
    text = _ABOUT.sub("≈", text)
    text = _TIMES.sub("×", text)
    text = _FRACTION.sub(_slashed, text)
    text = _OVER.sub(r" \1/\2", text)
    return _DELIMITER.sub(" ", text)


def _slashed(fraction: re.Match[str]) -> str:
    above = (fraction["a"] or fraction["b"]).replace(" ", "")
    below = (fraction["c"] or fraction["d"]).replace(" ", "")
    minuses = above.count("-") + below.count("-") + (fraction["sign"] is not None)
    sign = "-" if minuses % 2 else ""
    return f" {sign}{above.lstrip('+-')}/{below.lstrip('+-')}"


def closing(text: str, opening: int) -> int:
    """Where the brace that opens at `opening` is closed; -1 where it is not."""
    depth = 0
    for at in range(opening, min(len(text), opening + _LONGEST_GROUP)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return at
    return -1


def boxes(text: str) -> list[Box]:
    """The frames that hold something, in order; a frame in a frame is part of the outer one."""
    found: list[Box] = []
    end = 0
    for command in _BOX.finditer(text):
        start = command.end()
        if command.start() < end:
            continue
        if text[start : start + 1] == "{":
            end = closing(text, start)
            content = text[start + 1 : max(end, start)]
        else:
            bare = _BARE_BOX.match(text, start)
            content = bare[0] if bare else ""
            end = start + len(content)
        if content.strip():
            found.append(Box(command.start(), end + 1, content))
        end = max(end, start)
    return found
