"""Answers that decline to answer, told from polite ones that say no to a request and go on.

By forms, not by lists of sentences: a short answer in which somebody cannot, may not or will not do
what assistants do (help, answer, provide), without a question or an offer. That a table is taken or
a flight not found is no refusal. English, Spanish, French, German, Portuguese, Hindi and Chinese.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MOST_CHARACTERS = 500
_QUESTION = re.compile("[?？؟]")
_NEAR = r"[^.!?।。！？\n]{0,60}?"  # within a sentence


class Forms(NamedTuple):
    """How one language refuses, as patterns; all are tried without regard to case."""

    declines: str
    """Somebody cannot, may not or will not do what assistants do."""
    is_machine: str
    """A model names itself, and then says what it cannot."""
    offers: str
    """The answer goes on with something else."""
    closes: str
    """The head of a sentence that stands behind any answer: neither question nor offer."""


def _any(*forms: str) -> str:
    return f"(?:{'|'.join(forms)})"


def _near(*forms: str) -> str:
    """One after the other, within a sentence."""
    return _NEAR.join(forms)


def _offer(but: str, no: str, can: str) -> str:
    """A turn, and that something can be done after all: what stands between says no `no`."""
    return rf"{but}(?:(?!{no})[^.!?।。！？\n]){{0,60}}?{can}"


FORMS: dict[str, Forms] = {
    "en": Forms(
        declines=_near(
            _any(
                r"\b(?:i|we)(?: really| simply| just)? (?:cannot|can ?not|can't|won't|will not)\b",
                r"\b(?:i am|i'm|we are|we're) (?:not |un)able to\b",
                r"\b(?:i am|i'm|we are|we're) not (?:comfortable|permitted|allowed|authori)",
                r"\b(?:i am|i'm|we are|we're) not (?:programmed|designed|equipped|going)\b",
                r"\b(?:i|we) (?:must|have to|need to) (?:decline|refuse)\b",
                r"\b(?:i|we) (?:respectfully )?(?:decline|refuse)\b",
            ),
            _any(
                r"(?<!any )(?<!more )(?<!your )\bhelp\b(?! (?:but|it|\w+ing)\b)",
                r"\b(?:assist|answer|provid|comply|fulfil|generat|creat|writ|produc|discuss)",
                r"\b(?:engag|support|respond|participat|continu|shar|advi[sc]e|request)",
                r"\bdo (?:that|this|so)\b",
            ),
        ),
        is_machine=_near(
            r"\bas an? (?:\w+[ -]){0,2}(?:ai|artificial intelligence|language model)\b",
            r"\b(?:cannot|can't|can not|unable|not able|don't|do not|won't|will not)\b",
        ),
        offers=_any(
            _offer(
                r"\b(?:but|however|instead|though)\b",
                r"\bnot\b|n't\b|\bunable\b",
                r"\b(?:can|could|may|would)\b(?!'t| not)",
            ),
            r"\b(?:i|we) can (?:however|instead|offer|suggest)\b",
            r"\b(?:here (?:is|are)|how about)\b",
        ),
        closes=_any(
            r"is there (?:any|some)thing else",
            r"(?:can|may) i (?:help|assist) you with (?:any|some)thing else",
            r"how (?:else )?(?:can|may) i (?:help|assist)",
            r"(?:but )?if (?:you have|you need|there is|there's) any",
            r"(?:but )?(?:please )?(?:feel free|let me know)",
        ),
    ),
    "es": Forms(
        declines=_near(
            _any(
                r"\bno (?:te |le |les |os )?(?:puedo|podemos|podré|podremos)\b",
                r"\bno (?:me |nos )?(?:es posible|soy capaz|somos capaces)\b",
                r"\bno est(?:oy|amos) (?:en condiciones|autoriza|capacita|programa|diseña)",
            ),
            _any(
                r"\b(?:ayud|asist|respond|contest|proporcion|cumpl|ofrec|brind|gener|crear|escrib)",
                r"\b(?:facilit|compart|complet|atend|solicitud|petición|hacer (?:eso|esto))",
            ),
        ),
        is_machine=_near(
            r"\bcomo (?:una? )?(?:modelo (?:de lenguaje|lingüístico)|ia|inteligencia artificial)\b",
            r"\bno\b",
        ),
        offers=_offer(
            r"\b(?:pero|sin embargo|en cambio|en su lugar)\b",
            r"\bno\b",
            r"\b(?:pued|podr|podemos)",
        ),
        closes=_any(
            r"¿?hay algo más",
            r"¿?(?:en qué (?:más )?)?(?:te |le )?puedo ayudar\w* (?:en|con) (?:algo|otra)",
            r"¿?en qué (?:más )?(?:te |le )?puedo",
            r"(?:pero )?si (?:tienes?|necesitas?)",
            r"no dud",
        ),
    ),
    "fr": Forms(
        declines=_near(
            _any(
                r"\b(?:je|nous) (?:ne )(?:peux|puis|pouvons|saurais|pourrai)\b",
                r"\b(?:je|nous) ne (?:suis|sommes)\b.{0,20}\bpas (?:en mesure|capables?|autoris)",
                r"\b(?:je|nous) (?:dois|devons|préfère|préférons) (?:refuser|décliner)\b",
                r"\bil (?:m'est|nous est|ne m'est pas) (?:im)?possible d",
            ),
            _any(
                r"\b(?:aid|assist|répond|fourni|satisf|génér|créer|écri|rédig|partag|offri)",
                r"\b(?:propos|donner|accéder à|traiter|demande|faire (?:cela|ça))",
            ),
        ),
        is_machine=_near(
            r"\ben tant qu(?:e |')(?:une? )?(?:modèle (?:de langage|lingui)|ia\b|intelligence)",
            r"\b(?:ne |n')",
        ),
        offers=_offer(
            r"\b(?:mais|cependant|toutefois|en revanche)\b",
            r"\b(?:ne |n')",
            r"\b(?:peux|puis|pouvons|pourr)",
        ),
        closes=_any(
            r"y a-t-il autre chose",
            r"(?:est-ce que je peux|puis-je) vous aider",
            r"(?:mais )?si vous avez",
            r"n'hésite",
        ),
    ),
    "de": Forms(
        declines=_any(
            _near(
                r"\b(?:(?:kann|darf|werde|möchte) ich|ich (?:kann|darf|werde|möchte))\b"
                r"|\b(?:(?:können|dürfen|werden) wir|wir (?:können|dürfen|werden))\b",
                r"\b(?:nicht|keine?[nrms]?)\b",
                _any(
                    r"(?:helfen|behilflich|unterstützen|antworten|bereitstellen|erfüllen)\b",
                    r"(?:nachkommen|geben|erstellen|schreiben|verfassen|generieren)\b",
                    r"(?:anbieten|teilen|machen|tun)\b",
                ),
            ),
            _near(r"\b(?:ich muss|muss ich|wir müssen)\b", r"\bablehnen\b"),
            r"\bich bin (?:leider )?nicht (?:in der lage|befugt)\b",
        ),
        is_machine=_near(
            r"\bals (?:eine? )?(?:ki|künstliche intelligenz|(?:ki-?)?sprachmodell|ki-\w+)\b",
            r"\b(?:nicht|keine?[nrms]?)\b",
        ),
        offers=_offer(
            r"\b(?:aber|jedoch|stattdessen|allerdings)\b",
            r"\b(?:nicht|kein)",
            r"\b(?:kann|können|könnten?)\b(?![^.!?\n]{0,60}\b(?:nicht|kein))",
        ),
        closes=_any(
            r"(?:kann|darf) ich (?:ihnen|dir) (?:sonst|noch)",
            r"(?:gibt es|haben sie|hast du) (?:sonst )?noch",
            r"(?:womit|wie) kann ich",
            r"(?:wenn|falls) (?:sie|du) (?:weitere|noch|andere)",
        ),
    ),
    "pt": Forms(
        declines=_near(
            _any(
                r"\bnão (?:te |lhe |o |a )?(?:posso|podemos|poderei|consigo|conseguimos)\b",
                r"\bnão (?:me |nos )?(?:é possível|sou capaz|somos capazes)\b",
                r"\bnão est(?:ou|amos) (?:em condições|autoriza|apt|programa|habilita)",
            ),
            _any(
                r"\b(?:ajud|auxili|assist|respond|fornec|atend|cumpr|oferec|gerar|criar|escrev)",
                r"\b(?:produz|compartilh|complet|solicitação|pedido|fazer isso)",
            ),
        ),
        is_machine=_near(
            r"\bcomo (?:uma? )?(?:modelo de linguagem|ia|inteligência artificial)\b", r"\bnão\b"
        ),
        offers=_offer(
            r"\b(?:mas|porém|no entanto|contudo)\b", r"\bnão\b", r"\b(?:posso|pode|podemos)"
        ),
        closes=_any(
            r"há (?:algo mais|mais alguma)",
            r"posso ajud\w+ (?:em|com) (?:algo|mais|outra)",
            r"em que mais",
            r"(?:mas )?se (?:você )?(?:tiver|precisar)",
            r"fique à vontade",
        ),
    ),
    "hi": Forms(
        declines=_near(
            r"(?:मदद|सहायता|उत्तर|जवाब|जानकारी|अनुरोध|सामग्री|सलाह|ऐसा)",
            r"(?:नहीं[^।.!?\n]{0,20}सक(?:ता|ती|ते|ूँगा|ूंगा)|असमर्थ|सक्षम नहीं)",
        ),
        is_machine=_near(r"(?:एआई|ai|भाषा)[ -]?(?:भाषा )?मॉडल", r"(?:नहीं|असमर्थ)"),
        offers=_offer(r"(?:लेकिन|परंतु|परन्तु|हालांकि|हालाँकि)", r"नहीं", r"सकत"),
        closes=_any(r"क्या मैं (?:आपकी )?(?:और|किसी और)", r"(?:लेकिन )?(?:यदि|अगर) आप"),
    ),
    "zh": Forms(
        declines=_near(
            r"(?:无法|無法|不能|没法|不可以|不便|拒绝|拒絕)",
            _any(
                "帮|幫|协助|協助|回答|回应|提供|满足|滿足|完成|处理|處理",
                "生成|撰写|编写|讨论|请求|要求",
            ),
        ),
        is_machine=_near(
            r"作为(?:一个|一個|一名)?(?:人工智能|ai|大?语言模型|智能助手)",
            r"(?:无法|無法|不能|没有|不会)",
        ),
        offers=_offer(r"(?:但|不过|不過|然而)", "[不无無没]", r"(?:可以|能)"),
        closes=_any("还有(?:什么|其他)", "還有什麼", "(?:但)?如果您?(?:有|需要)", "请随时"),
    ),
}


class _Patterns(NamedTuple):
    says_no: re.Pattern[str]
    offers: re.Pattern[str]
    closes: re.Pattern[str]

    @classmethod
    def of(cls, forms: Forms) -> _Patterns:
        return cls(
            re.compile(_any(forms.declines, forms.is_machine), re.IGNORECASE),
            re.compile(forms.offers, re.IGNORECASE),
            re.compile(forms.closes + r"[^.!?।。！？\n]*[.!?।。！？]?", re.IGNORECASE),
        )


_PATTERNS = [_Patterns.of(forms) for forms in FORMS.values()]


def is_refusal(text: str | None) -> bool:
    """Whether the answer is nothing but a refusal; False for null, and for answers of more than 500
    characters, which say something else besides."""
    if not text or len(text) > MOST_CHARACTERS:
        return False
    said = text.replace("’", "'")
    return any(_refuses(said, language) for language in _PATTERNS)


def _refuses(said: str, language: _Patterns) -> bool:
    if not language.says_no.search(said):
        return False
    rest = language.closes.sub("", said)
    if _QUESTION.search(rest) or language.offers.search(rest):
        return False
    return language.says_no.search(rest) is not None
