"""What opens an account: keys by the shapes that their makers gave them, and passwords by what is
said before them."""

from __future__ import annotations

import base64
import binascii
import re

from engine.curation.privacy.spans import Spans

_KEY_BEGIN = r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_KEY_END = r"-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_BREAK = r"(?:\s|\\[nr])"
# What a text must hold before its pattern is tried, and the pattern.
SHAPES: tuple[tuple[str, str], ...] = (
    # A block to its end; one that was cut off, as far as its lines go.
    ("PRIVATE KEY", rf"{_KEY_BEGIN}[^-]*+(?:-(?!----)[^-]*+)*+{_KEY_END}"),
    ("PRIVATE KEY", rf"{_KEY_BEGIN}{_BREAK}*+(?:[A-Za-z0-9+/=]{{30,}}+{_BREAK}*+)++"),
    ("AKIA", r"(?<!\w)AKIA[0-9A-Z]{16}(?!\w)"),  # AWS
    ("ASIA", r"(?<!\w)ASIA[0-9A-Z]{16}(?!\w)"),
    ("gh", r"(?<!\w)gh[opsru]_[A-Za-z0-9]{36,255}(?!\w)"),  # GitHub
    ("github_pat_", r"(?<!\w)github_pat_\w{22,255}"),
    ("glpat-", r"(?<!\w)glpat-[\w-]{20,64}"),  # GitLab
    ("xox", r"(?<!\w)xox[abceoprs]-[A-Za-z0-9-]{10,255}"),  # Slack
    ("xapp-", r"(?<!\w)xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]+"),
    ("hooks.slack.com", r"hooks\.slack\.com/services/[A-Z0-9]+/[A-Z0-9]+/\w{16,64}"),
    (
        "sk-",
        r"(?<![\w-])sk-(?=[\w-]{0,99}\d)(?=[\w-]{0,99}[A-Z])[\w-]{20,255}",
    ),  # OpenAI, Anthropic
    ("AIza", r"(?<!\w)AIza[\w-]{35}(?![\w-])"),  # Google
    ("_live_", r"(?<!\w)[prs]k_live_[0-9A-Za-z]{16,255}"),  # Stripe
    ("_test_", r"(?<!\w)[rs]k_test_[0-9A-Za-z]{16,255}"),
    ("npm_", r"(?<!\w)npm_[A-Za-z0-9]{36}(?!\w)"),
    ("hf_", r"(?<!\w)hf_[A-Za-z0-9]{30,64}(?!\w)"),  # Hugging Face
    ("pypi-", r"(?<!\w)pypi-[\w-]{50,255}"),
    ("SG.", r"(?<!\w)SG\.[\w-]{22}\.[\w-]{43}(?![\w-])"),  # SendGrid
    (":AA", r"(?<!\w)\d{8,10}:AA[\w-]{33}(?![\w-])"),  # Telegram
    (
        "://",
        r"(?<=://)[^\s:/@\[\]]{0,64}:[^\s/@\[\]]{3,128}(?=@)",
    ),  # user and password of an address
)
_SHAPES = tuple((sign, re.compile(pattern, re.ASCII)) for sign, pattern in SHAPES)
_JWT = re.compile(r"(?<![\w.-])(eyJ[\w-]{8,}+)\.[\w-]{8,}+\.[\w-]{8,}+", re.ASCII)
_BEARER = re.compile(r"(?i)(?<!\w)bearer +(?=[^\s\"']{0,99}\d)[\w.~+/=-]{20,}")
_SIGNS = ("pass", "pwd", "contrase", "kennwort", "senha", "पासवर्ड", "密码", "密碼")
_KEY_SIGNS = ("key", "token", "secret")
_STATED = r"[\"'`*]{0,3}\s{0,2}(?::=?|=>?|\bis\b|\bes\b|\best\b|\bist\b|é|है|是)[\s\"'`*]{0,4}"
_VALUE = r"(?=[^\s\"'`<>]{0,99}\d)([^\s\"'`<>\[\]{}(),;$]{%d,128})"
# A password is stated after its name and has a digit; so has any other key, which is longer and has
# letters too.
_PASSWORD = re.compile(
    r"(?i)(?:(?<![a-z])(?:passwords?|passwd|passwort|passphrase|passcode|pwd|kennwort|senha|contraseña"
    r"|mot de passe)(?![a-z])|पासवर्ड|密码|密碼)"
    rf"{_STATED}{_VALUE % 6}"
)
_KEY = re.compile(
    r"(?i)(?<![a-z])(?:api|access|auth|client|secret|private|account|encryption|signing)[ _-]?"
    r"(?:access[ _-]?)?(?:key|token|secret)(?![a-z])"
    rf"{_STATED}(?=[^\s\"'`]{{0,99}}[a-z]){_VALUE % 12}"
)


def secrets(text: str) -> Spans:
    """Keys of well-known shapes, private keys, tokens with a readable head, and passwords and keys
    that are stated as such."""
    for sign, pattern in _SHAPES:
        if sign in text:
            yield from (match.span() for match in pattern.finditer(text))
    if "eyJ" in text:
        for match in _JWT.finditer(text):
            if _is_head(match[1]):
                yield match.span()
    small = text.lower()
    if "bearer" in small:
        yield from (match.span() for match in _BEARER.finditer(text))
    if any(sign in small for sign in _SIGNS):
        yield from (match.span(1) for match in _PASSWORD.finditer(text))
    if any(sign in small for sign in _KEY_SIGNS):
        yield from (match.span(1) for match in _KEY.finditer(text))


def _is_head(part: str) -> bool:
    """Whether the first part of a JSON Web Token (RFC 7519) says its algorithm."""
    try:
        head = base64.urlsafe_b64decode(part[:4096] + "===")
    except binascii.Error:
        return False
    return b'"alg"' in head
