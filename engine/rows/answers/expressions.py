r"""Spellings of an expression: as it is shown, and as it is compared.

Equal keys are equal expressions; unequal ones may still be (`x+1` and `1+x`).
"""

from __future__ import annotations

import re

from engine.rows.answers.numbers import as_written
from engine.rows.answers.spelling import LETTER

_SPELLINGS = (
    (re.compile(r"\\\\"), "¶"),  # a new line, before what follows it is taken for its command
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
_WORDS = re.compile(rf"(?:{LETTER}|['’?!.,-])+")
_TYPE = re.compile(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}|\\[!,;: ]|\\(?=[%$])")
_INVISIBLE = re.compile(r"[\s$*`]")


def shown(piece: str) -> str:
    """The piece without spaces and type, in lower case."""
    plain = _INVISIBLE.sub("", _TYPE.sub(r" \1", piece))
    return as_written(plain).strip(".").lower()


def key_of(piece: str) -> str:
    """The spelling by which two expressions are compared."""
    piece = as_written(piece)
    for pattern, spelling in _SPELLINGS:
        piece = pattern.sub(spelling, piece)
    piece = piece.strip(".,;:")
    return piece.casefold() if is_words(piece) else piece


def is_words(key: str) -> bool:
    """Whether it has letters alone, more than one."""
    return len(key) > 1 and _WORDS.fullmatch(key) is not None
