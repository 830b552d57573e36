r"""Answers that keep parsers or algebra busy for ever, or fill the memory: (text, gold answer)."""

from __future__ import annotations

_DEPTH = 3000
_NESTED = 200
_LONG_LIST = 3000

HOSTILE: dict[str, tuple[str, str]] = {
    "tower of powers": (r"\boxed{9^{9^{9^{9}}}}", "1"),
    "double factorial": (r"\boxed{100000!!}", "1"),
    "factorial": (r"\boxed{(10^{7})!}", "1"),
    "long number": (r"\boxed{" + "9" * 20_000 + "}", "1"),
    "deep braces": (r"\boxed{" + "{" * _DEPTH + "1" + "}" * _DEPTH + "}", "2"),
    "deep fraction": (
        r"\boxed{" + r"\frac{1}{" * _NESTED + "2" + "}" * _NESTED + "}",
        "3",
    ),
    "power of a sum": (r"\boxed{(a+b+c+d+e)^{60}}", "(a+b+c+d+e)^{60}+1"),
    "integral": (r"\boxed{\int_0^1 x^{x^{x}} dx}", r"\int_0^1 x^{x^x}dx + 1"),
    "sum": (r"\boxed{\sum_{k=1}^{10^9} \frac{1}{k^2}}", "1"),
    "product": (r"\boxed{\prod_{k=1}^{10^6} k}", "1"),
    "power": (r"\boxed{2^{10^{9}}}", "2^{10^9}+1"),
    "set": (
        r"\boxed{\{" + ",".join(map(str, range(_LONG_LIST))) + r"\}}",
        r"\{" + ",".join(map(str, range(1, _LONG_LIST + 1))) + r"\}",
    ),
    "many boxes": (r"\boxed{x^2+1} " * _LONG_LIST, "1"),
    "megabyte": ("the answer is 5 and 6, " * 40_000, "1"),
    "dollars": ("$x$ " * 50_000, "1"),
    "equation": (r"\boxed{x^{17}-3x^5+\sin(x)=0}", "x^2=1"),
    "functions": (
        r"\boxed{\sin(\cos(\tan(\sin(x^{50}))))}",
        r"\sin(\cos(\tan(\sin(x^{50}+1))))",
    ),
    "digits": ("7" * 1_000_000, "1"),
    "brackets": ("(" * 50_000 + "1", "2"),
    "stars": ("*" * 50_000 + "1", "2"),
    "answers": ("answer " * 50_000, "2"),
    "entailments": ("entailment or neutral, " * 20_000, "2"),
}
