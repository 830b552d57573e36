r"""Ways in which models write a number that is known: templates by class.

In a template `{n}` is the number as digits; `{comma}`, `{space}`, `{dot}`, `{apostrophe}`,
`{braced}`, `{thin}`, `{bang}` and `{indian}` are its groupings, `{deva}`, `{tamil}`, `{arabic}` and
`{wide}` its digits in other scripts, `{word}` the number in words up to twenty; `{n2}` and `{n3}`
are two and three times it, `{k}` a thousand times with commas, `{square}` its square, `{less}` one
less, `{tenth}` a tenth, `{sci}` in powers of ten. What a template stands for is the number, unless
MEANS says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty"
)
MATHS: dict[str, dict[str, str]] = {
    "marked": {
        "hashes": "#### {n}",
        "hashes without space": "####{n}",
        "hashes and unit": "#### {n} apples",
        "three hashes": "### {n}",
        "tag": "<answer>{n}</answer>",
        "tag, then a step": "<answer>{n}</answer> (see step 3)",
        "hashes, then a question": "#### {n}\n\nQ: How many apples do 3 boys have?",
    },
    "said": {
        "the answer is": "The answer is {n}.",
        "the answer is, colon": "The answer is: {n}",
        "emphasis": "The final answer is **{n}**.",
        "answer and unit": "Answer: {n} dollars",
        "initial": "A: {n}",
        "exclamation": "The answer is {n}!",
        "quoted": 'The answer is "{n}".',
        "bracketed": "The answer is ({n}).",
        "code": "Answer = `{n}`",
        "about": "The answer is approximately {n}",
        "in words": "The answer is {word}.",
        "long dash": "The answer is—{n}",
        "two dashes": "Answer: -- {n}",
    },
    "box": {
        "plain": "So \\boxed{{{n}}}",
        "in dollars": "Thus $\\boxed{{{n}}}$.",
        "dollar sign inside": "\\boxed{{\\${n}}}",
        "bold": "\\boxed{{\\mathbf{{{n}}}}}",
        "bold text": "\\boxed{{\\textbf{{{n}}}}}",
        "box in a box": "\\boxed{{\\boxed{{{n}}}}}",
        "fbox": "\\fbox{{{n}}}",
        "space before the brace": "\\boxed {{{n}}}",
        "no braces": "$\\boxed {n}$",
        "variable": "\\boxed{{x = {n}}}",
        "name": "\\boxed{{\\text{{total}} = {n}}}",
        "dollars inside": "\\boxed{{${n}$}}",
        "decimal": "\\boxed{{{n}.0}}",
        "full stop inside": "\\boxed{{{n}.}}",
        "brackets inside": "\\boxed{{({n})}}",
        "plus": "\\boxed{{+{n}}}",
        "about": "\\boxed{{\\approx {n}}}",
        "result of a sum": "\\boxed{{3 \\times 2 = {n}}}",
        "as text": "\\boxed{{\\text{{{n}}}}}",
        "sentence inside": "\\boxed{{\\text{{The answer is }} {n}}}",
        "root": "\\boxed{{\\sqrt{{{square}}}}}",
        "sum": "\\boxed{{{less}+1}}",
    },
    "box with a unit": {
        "word": "\\boxed{{{n} \\text{{ apples}}}}",
        "square": "\\boxed{{{n}\\text{{ cm}}^2}}",
        "percent": "\\boxed{{{n}\\%}}",
        "upright": "\\boxed{{{n}\\,\\mathrm{{km/h}}}}",
        "bare": "\\boxed{{{n} km/h}}",
        "several words": "\\boxed{{{n} \\text{{ minutes per day}}}}",
        "degrees": "\\boxed{{{n}^\\circ}}",
        "cube": "\\boxed{{{n} m^3}}",
    },
    "grouping": {
        "comma": "The answer is {comma}.",
        "braced comma": "\\boxed{{{braced}}}",
        "thin space": "\\boxed{{{thin}}}",
        "comma and negative space": "\\boxed{{{bang}}}",
        "space": "The answer is {space}.",
        "apostrophe": "The answer is {apostrophe}.",
        "Indian": "The answer is {indian}.",
        "power of ten": "\\boxed{{{sci}}}",
        "times ten": "\\boxed{{{tenth} \\times 10^{{1}}}}",
        "cents": "The total is ${n}.00.",
    },
    "fraction": {
        "dfrac": "\\boxed{{\\dfrac{{{n2}}}{{2}}}}",
        "frac in a sentence": "The answer is \\frac{{{n3}}}{{3}}.",
        "cfrac": "\\boxed{{\\cfrac{{{n2}}}{{2}}}}",
        "commas": "\\boxed{{\\frac{{{k}}}{{1,000}}}}",
        "unit": "\\boxed{{\\frac{{{n2}}}{{2}} \\text{{ hours}}}}",
        "minus above and before": "\\boxed{{-\\tfrac{{-{n2}}}{{2}}}}",
        "nothing more": "\\boxed{{{n}\\frac{{0}}{{5}}}}",
        "mixed": "The answer is {n} 1/2",
    },
    "unit": {
        "square": "The area is {n} cm^2.",
        "raised two": "The area is {n} m².",
        "per": "The speed is {n} km/h.",
        "percent": "It is {n}%.",
        "touching": "It takes {n}min.",
        "hyphen": "It is a {n}-day trip.",
        "ordinal": "It is the {n}th.",
    },
    "currency": {
        "dollar": "He earns ${n}.",
        "code": "He earns USD {n}.",
        "US dollar": "He earns US${n}.",
        "dollar behind": "He earns {n}$.",
        "rupee": "She has ₹{n}.",
    },
    "script": {
        "full width": "答案是{wide}。",
        "Devanagari": "उत्तर {deva} है।",
        "Tamil": "விடை {tamil}",
        "Arabic": "الجواب {arabic}",
        "Chinese unit": "答案是{n}元。",
        "Hindi unit": "उत्तर {n} रुपये है।",
        "Tamil ending": "விடை {n}ஆகும்.",
    },
    "sign": {
        "minus": "The answer is −{n}",
        "en dash": "The answer is –{n}",
        "bullet": "- {n}",
        "range": "between 0-{n}",
        "about": "~{n}",
    },
    "remark": {
        "sentence": "The answer is {n}. I solved it in 3 steps.",
        "check": "Final answer: {n}\n\nCheck: 2 + 2 = 4.",
        "citation": "The answer is {n} [1].",
        "word count": "The answer is {n}.\n\n(Word count: 42)",
    },
    "bare": {
        "last line": "Step 1: 2+3=5\nStep 2: done\n{n}",
        "result": "2*3={n}",
        "variable": "x={n}",
        "in dollars": "$x={n}$",
        "HTML": "<b>{n}</b>",
        "underlined": "_{n}_",
        "twice underlined": "__{n}__",
        "inline": "The answer is ${n}$.",
        "round delimiters": "The answer is \\({n}\\).",
        "square delimiters": "\\[ x = {n} \\]",
    },
}
MEANS: dict[str, Callable[[Fraction], Fraction]] = {
    "sign/minus": lambda value: -value,
    "sign/en dash": lambda value: -value,
    "fraction/mixed": lambda value: value + Fraction(1, 2),
}
# Gold answers and other spellings of them that only algebra can tell, and some that differ.
ALGEBRA: list[tuple[str, str, bool]] = [
    ("x^2+1", "1+x^2", True),
    ("(x+1)^2", "x^2+2x+1", True),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", True),
    (r"\sqrt{12}", r"2\sqrt{3}", True),
    ("2^{10}", "1024", True),
    (r"\frac{\pi}{4}", r"\frac{2\pi}{8}", True),
    ("a - b", "-b + a", True),
    (r"\{1,2,3\}", r"\{3,2,1\}", True),
    ("(1,2)", "(2,1)", False),
    ("[0,1)", "(0,1)", False),
    ("x^2-1", "x^2+1", False),
    (r"\sqrt{3}", r"\sqrt{5}", False),
]
ALGEBRA_SAID = (
    "Therefore $\\boxed{{{}}}$.",
    "The answer is ${}$.",
    "Final Answer: The final answer is ${}$. I hope it is correct.",
    "<answer>{}</answer>",
)


def spelled(template: str, number: str) -> str:
    """The template with the number in it."""
    value = int(number)
    comma = f"{value:,}"
    fields = {
        "n": number,
        "comma": comma,
        "space": comma.replace(",", " "),
        "apostrophe": comma.replace(",", "'"),
        "braced": comma.replace(",", "{,}"),
        "thin": comma.replace(",", r"\,"),
        "bang": comma.replace(",", r",\!"),
        "indian": _indian(number),
        "deva": _digits(number, 0x966),
        "tamil": _digits(number, 0xBE6),
        "arabic": _digits(number, 0x660),
        "wide": _digits(number, 0xFF10),
        "word": dict(enumerate(_WORDS.split())).get(value, number),
        "n2": 2 * value,
        "n3": 3 * value,
        "k": f"{1000 * value:,}",
        "square": value**2,
        "less": value - 1,
        "tenth": value / 10,
        "sci": f"{value:.6e}",
    }
    return template.format(**fields)


def _digits(number: str, zero: int) -> str:
    return "".join(chr(zero + int(digit)) for digit in number)


def _indian(number: str) -> str:
    """Groups of two digits before the last three."""
    pairs, last = number[:-3], number[-3:]
    groups = []
    while pairs:
        groups.insert(0, pairs[-2:])
        pairs = pairs[:-2]
    return ",".join([*groups, last])
