"""The label of natural language inference that a text gives: entailment, neutral or contradiction.

A verdict counts before its explanation, and what is denied is no verdict: "not a contradiction"
says only what it is not. Where two labels are denied, the third is meant; where two are left, the
text is ambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.rows.answers.latex import boxes, untexed
from engine.rows.answers.spelling import LETTER, sentences, spelt
from engine.rows.answers.statement import Statement, said, tags, without_thoughts
from engine.rows.answers.vocabulary import (
    ANSWER,
    ANSWER_ANYWHERE,
    ANSWER_PHRASES,
    CONCLUSIONS,
    WHY,
    Vocabulary,
)

LABELS = ("entailment", "neutral", "contradiction")
NOT_ENTAILMENT = "not_entailment"  # of tasks with two labels
AMBIGUOUS = "ambiguous"
Names = Mapping[str, str]  # a spelling of the job's or the prompt's, folded -> label
# What SNLI, MNLI, XNLI and ANLI count and abbreviate.
USUAL: Names = {
    **dict(zip("012", LABELS, strict=True)),
    **dict(zip("abc", LABELS, strict=True)),
    **dict(zip("en", LABELS, strict=False)),
}
_SPELLINGS = {
    "entailment": (
        r"entail(?:ment|ments|s|ed|ing)?|implication|implicaci[oó]n|implica[cç][aã]o|implicazione|acarretamento"
        r"|implikation|folgerung|schlussfolgerung|gevolgtrekking|следование|следствие|вытекание"
        r"|gerektirme|suy ra|kéo theo|الاستلزام|استلزام|تضمين|התחייבות|גרירה|συνεπαγωγή",
        "蕴含|蕴涵|蘊含|含意|伴意|推论|함의|निहितार्थ|अनुलाग|अनुगमन|তাৎপর্য|உட்கிடை|உள்ளடக்கம்|అనుగమనం|ಅನುಗಮನ|അനുമാനം|ਅਨੁਗਮਨ",
    ),
    "neutral": (
        r"neutral\w{0,3}|neutre|neutr[oa]s?|neutraal|nötr|undetermined|undecided|indeterminate"
        r"|нейтрал\w*|нейтрально|netral|trung lập|محايد[ةه]?|الحياد|حياد|ניטרלי|נייטרלי|ουδέτερ\w*|obojętn\w*",
        "中立|中性|무관|중립|तटस्थ|নিরপেক্ষ|நடுநிலை|తటస్థ|ತಟಸ್ಥ|നിഷ്പക്ഷ|ਨਿਰਪੱਖ|เป็นกลาง",
    ),
    "contradiction": (
        r"contradict(?:ion|ions|s|ed|ing|ory)?|contradicci[oó]n|contradictor\w*|contradi[cç][aã]o"
        r"|contraddizione|contradiz\w*|widerspr[uü]ch\w*|widerspricht|tegenspraak|tegenstrijdig\w*"
        r"|противореч\w*|çelişki|çelişir|kontradiksi|mâu thuẫn|تناقض|التناقض|يتناقض|סתירה|αντίφαση"
        r"|sprzeczno\w*",
        "矛盾|모순|विरोधाभास|विरोध|अंतर्विरोध|বিরোধ|முரண்பாடு|முரண்|వైరుధ్యం|విరుద్ధ|ವಿರೋಧಾಭಾಸ|വൈരുദ്ധ്യം|ਵਿਰੋਧ|ขัดแย้ง",
    ),
}
# What a premise does to a hypothesis in other words; it counts only where no label is named.
_DESCRIBED = {
    "neutral": (
        r"(?:not|n't|in)\s?(?:\w+\s)?(?:enough|sufficient)\w*\s(?:information|evidence|info|context|detail\w*)"
        r"|(?:can(?:not|'t| not)|could(?:n't| not)|impossible to)\s(?:be\s)?(?:determine\w*|tell|know\w*|verif\w*"
        r"|confirm\w*|say|infer\w*|conclude\w*|decide\w*)"
        r"|unclear|unknown|unrelated|undeterminable|inconclusive|neither true nor false|may or may not"
        r"|might or might not|possible but not (?:certain|necessar\w*)|not necessarily|not mentioned"
        r"|(?:says|mentions|states) nothing"
    ),
    "entailment": (
        r"impl(?:y|ies|ied|ica|ique|iquent|iziert)|follows?(?: logically)?(?: directly)? from|must (?:also )?be true|logically follows"
        r"|necessarily true|supports?|supported|confirms?|confirmed|guarantees?|definitely true|can be inferred"
        r"|can be concluded|is true"
    ),
    "contradiction": (
        r"conflicts?|conflicting|inconsistent|incompatible|refut\w+|disprov\w+|opposite|mutually exclusive"
        r"|cannot both|can't both|can not both|must be false|definitely false|is false|cannot be true|can't be true"
        r"|disagrees?|rules? (?:it )?out|opposed"
    ),
}
# What the first word means in a text that mentions no label.
_FIRST_WORD = {
    **dict.fromkeys("yes true correct sí si oui ja da да sim evet igen tak हाँ हां 是 はい 예 네 نعم".split(), "entailment"),
    **dict.fromkeys("maybe unknown perhaps possibly unclear quizás vielleicht peut-être forse talvez".split(), "neutral"),
    **dict.fromkeys("no false incorrect non nein não nee нет hayır nie नहीं 否 不 いいえ 아니요 لا".split(), "contradiction"),
}
_NO = (
    r"not|no|never|none|nothing|neither|nor|without|cannot|\w+n't|cant|dont|doesnt|isnt|non|than|instead of"
    r"|rather than|fail(?:s|ed|ing)?(?: to)?|lacks?|lacking|exclud\w*|rul(?:e|es|ed|ing) out|reject\w*|against"
    r"|opposed to|far from|hardly|absence of|insufficient|unlike|wrongly|ningun[ao]?|nunca|sin|ni|não|nem|sem"
    r"|pas|aucune?|jamais|sans|kein\w*|nicht|weder|noch|ohne|né|senza|geen|niet|ikke|inte|nie|bez|не|нет|ни|без|değil|tidak"
    r"|bukan|không|ليس|ليست|لا|לא|אינו"
)
_DENIAL = re.compile(rf"(?<![\w'])(?:{_NO})(?![\w'])|不|没|沒|無|并非|非(?!常)|未", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"[\s\"'*_)`]*(?:(?:label|option|answer|class|relation\w*)\s)?"
    r"(?:(?:is|was|are|would be|seems|can be|could be|may be|must be|looks)\s(?:\w+ly\s)?"
    r"(?:not|wrong|incorrect|false|ruled out|excluded|out\b|inaccurate|impossible|unlikely|rejected|eliminated|too\b)"
    r"|(?:is|was|are|does|do|did|would|can)(?:n't|\snot)\b|cannot\b|fails\b"
    r"|no es|n'est pas|ist (?:falsch|nicht)|não é|non è|неверн|не подходит|değil)"
    r"|[\s\"'*_)`]*(?:नहीं|இல்லை|అల్ల|కాదు|ಅಲ್ಲ|ഇല്ല|അല്ല|ਨਹੀਂ|নয়|নয়|ではな|でな|じゃな|이 아니|가 아니|은 아니|는 아니|关系不)",
    re.IGNORECASE,
)
_IDIOM = re.compile(
    r"\b(?:(?:no|without(?: a| any)?|beyond(?: a)?) (?:doubt|question|wonder)|not only|nothing but|none other than"
    r"|no other than|nothing less than|not surprisingly|no problem)\b",
    re.IGNORECASE,
)
_BREAK = re.compile(
    r"[.;:!?\n—。；：！？→⇒]|\s-\s|[-=]>|,(?!\s*(?:or|nor|o|ni|oder|noch|ou)\b)|，"
    r"|\b(?:but|however|yet|although|though|while|whereas|hence|so|therefore|thus|because|since|sino|pero|aber|sondern|mais|mas"
    r"|ma|но|а)\b|而是|但",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:might|may|could|would|seems?|appears?|looks?|at first|first glance|initially|one could|some|possibl[ey]"
    r"|perhaps|if|whether|unless|tempt\w*|suggests?|either)\b",
    re.IGNORECASE,
)
_LISTED = re.compile(r"[\s,;/|\"'`*_()\[\]0-9A-C.:-]*(?:\b(?:or|and|o|y|oder|und|ou|et)\b)?[\s,;/|\"'`*_()\[\]0-9A-C.:-]*")
_EITHER = re.compile(r"[\s\"'`*_]*(?:/|\bor\b|\band/or\b|\boder\b|\bou\b|\bo\b|或)[\s\"'`*_]*(?:an?\s|the\s)?", re.IGNORECASE)
_CODE = re.compile(
    r"[\W_]*(?:(?:the\s)?(?:option|label|class|choice|category)\s*[:#]?\s*)?[\W_]*(?<!-)([0-9]|[A-Za-z])[\W_]*", re.IGNORECASE
)
_OPTION = re.compile(r"(?<!\w)[(\[]?([A-Za-z0-9])\s?[)\].:=]+\s*[\"'*_`]*")
_CUES = Vocabulary(
    [
        *ANSWER,
        *"""
        solution result label verdict relation relationship classification conclusion category class prediction
        judgment judgement decision choice option inference etiqueta relación conclusión relação
        étiquette relation conclusion beziehung einordnung urteil etichetta relazione label метка
        отношение вывод ilişki etiket hubungan
        """.split(),
    ],
    [*ANSWER_ANYWHERE, "标签", "標籤", "关系", "關係", "结论", "ラベル", "関係", "관계", "라벨", "लेबल", "संबंध"],
    [*ANSWER_PHRASES, "nhãn", "quan hệ"],
)
_ALONE = re.compile(r"[\s*_\"'`.:,;)\]}-]*(?:[.:,;\n—-]|\Z)")


def _compiled(spellings: Mapping[str, tuple[str, str]]) -> re.Pattern[str]:
    groups = []
    for label, (words, anywhere) in spellings.items():
        groups.append(rf"(?P<{label}>(?<![^\W_])(?:{words})(?![^\W_])|{anywhere})")
    return re.compile("|".join(groups), re.IGNORECASE)


_LABEL = _compiled(_SPELLINGS)
_DESCRIPTION = re.compile(
    "|".join(rf"(?P<{label}>\b(?:{words})\b)" for label, words in _DESCRIBED.items()), re.IGNORECASE
)


@dataclass(frozen=True)
class Mention:
    """A label in a text. `is_weak`: in a question, or with a may, an if or an either."""

    start: int
    end: int
    label: str
    is_denied: bool
    is_weak: bool


def label_of(text: str, names: Names | None = None) -> str | None:
    """The label that the text gives; AMBIGUOUS where it leaves two, NOT_ENTAILMENT where it says no
    more than that, None where it gives none. `names` are further spellings, which come first."""
    text = without_thoughts(spelt(text)).strip()
    for piece in _marked(text):
        label = _coded(piece, names) or _first_of(piece, names)
        if label is not None:
            return label
    coded = _coded(text, names)
    if coded is not None:
        return coded
    mentions = _without_lists(_mentions(text, names), text)
    statements = list(said(text, _CUES))
    return (
        _stated((one for one in statements if one.is_final), names)
        or _leading(text, mentions, alone=True)
        or _stated(statements, names)
        or _leading(text, mentions, alone=False)
        or _concluded(text, names)
        or _last(mentions, text)
        or _described(text)
        or _first_word(text)
        or _excluded(mentions)
    )


def reference_label(reference: str, names: Names | None = None) -> str | None:
    """The label that a gold column holds."""
    label = label_of(reference, names)
    return None if label == AMBIGUOUS else label


def options_in(prompt: str) -> dict[str, str]:
    """The letters or numbers that a prompt gives the labels: "A) entailment, B) neutral"."""
    found: dict[str, str] = {}
    for option in _OPTION.finditer(prompt):
        label = _LABEL.match(prompt, option.end())
        if label is not None and label.lastgroup:
            found.setdefault(option[1].lower(), label.lastgroup)
    if len(found) < 2:
        return {}
    return found


def same_label(said_label: str, wanted: str) -> bool | None:
    """Whether a label answers for the wanted one; None where it says too little."""
    if wanted == NOT_ENTAILMENT:
        return said_label != "entailment"
    if said_label == NOT_ENTAILMENT and wanted != "entailment":
        return None
    return said_label == wanted


def _marked(text: str) -> Iterator[str]:
    """What the last tag or box holds."""
    found = tags(text)
    if "\\" in text:
        found += [(box.start, untexed(box.content)) for box in boxes(text)]
    if found:
        yield max(found)[1]


def _coded(text: str, names: Names | None) -> str | None:
    """Of a text that is nothing but a number or letter, or one of the job's names."""
    known = {**USUAL, **(names or {})}
    whole = text.strip().strip(" .\"'*_`()[]{}:").casefold()
    if whole in known:
        return known[whole]
    code = _CODE.fullmatch(text)
    if code is None:
        return None
    return known.get(code[1].casefold())


def _mentions(text: str, names: Names | None) -> list[Mention]:
    found = []
    for match in _LABEL.finditer(text):
        found.append((match.start(), match.end(), str(match.lastgroup)))
    for name, label in (names or {}).items():
        if len(name) > 1:
            spelling = rf"(?<![^\W_]){re.escape(name)}(?![^\W_])"
            for match in re.finditer(spelling, text, re.IGNORECASE):
                found.append((match.start(), match.end(), label))
    found.sort()
    return [_mention(text, *place) for place in found]


def _mention(text: str, start: int, end: int, label: str) -> Mention:
    before = _IDIOM.sub(lambda idiom: " " * len(idiom[0]), text[max(0, start - 200) : start])
    clause = before
    for stop in _BREAK.finditer(before):
        clause = before[stop.end() :]
    denied = _DENIAL.search(clause.replace("_", " ").replace("-", " ")) is not None
    denied = denied or _DENIED_AFTER.match(text, end) is not None
    if label == NOT_ENTAILMENT:
        denied = False
    behind = re.search(r"[.!?。！？\n]", text[end:])
    is_question = behind is not None and behind[0] in "?？"
    return Mention(start, end, label, denied, is_question or _HEDGE.search(clause) is not None)


def _without_lists(mentions: list[Mention], text: str) -> list[Mention]:
    """Without mentions of all three labels in a row: a list of what could be said."""
    kept: list[Mention] = []
    at = 0
    while at < len(mentions):
        row = mentions[at : at + 3]
        if len({one.label for one in row}) == 3 and not any(one.is_denied for one in row):
            first = _LISTED.fullmatch(text, row[0].end, row[1].start)
            second = _LISTED.fullmatch(text, row[1].end, row[2].start)
            if first and second:
                at += 3
                continue
        kept.append(mentions[at])
        at += 1
    return kept


def _first_of(piece: str, names: Names | None) -> str | None:
    """The first label that a statement asserts."""
    mentions = _without_lists(_mentions(piece, names), piece)
    asserted = [one for one in mentions if not one.is_denied]
    if not asserted:
        return _excluded(mentions, least=2)
    firm = [one for one in asserted if not one.is_weak] or asserted
    first = firm[0]
    return _or_ambiguous(first, asserted, piece)


def _or_ambiguous(chosen: Mention, asserted: list[Mention], text: str) -> str:
    for other in asserted:
        if other.label == chosen.label:
            continue
        low, high = sorted((chosen, other), key=lambda one: one.start)
        if _EITHER.fullmatch(text, low.end, high.start):
            return AMBIGUOUS
    return chosen.label


def _stated(statements: Iterator[Statement] | list[Statement], names: Names | None) -> str | None:
    for one in statements:
        label = _coded(one.direct, names) or _first_of(_without_reason(one.direct), names)
        if label is None and one.predicate is not None:
            label = _coded(one.predicate, names) or _first_of(_without_reason(one.predicate), names)
        if label is None and not _LABEL.search(one.direct):
            before = [mention for mention in _mentions(one.before, names) if not mention.is_denied]
            if before and not before[-1].is_weak and len(one.before) - before[-1].end < 30:
                label = before[-1].label
        if label is not None:
            return label
    return None


def _without_reason(sentence: str) -> str:
    why = WHY.first(sentence)
    if why is None or not sentence[: why.start].strip():
        return sentence
    if not _LABEL.search(sentence, 0, why.start):
        return sentence
    return sentence[: why.start]


def _leading(text: str, mentions: list[Mention], *, alone: bool) -> str | None:
    """The label that the text begins with; `alone`: and nothing else in its clause."""
    first = re.search(rf"{LETTER}", text)
    if first is None or not mentions:
        return None
    one = mentions[0]
    if one.start != first.start() or one.is_denied or one.is_weak:
        return None
    if alone and not _ALONE.match(text, one.end):
        return None
    return _or_ambiguous(one, mentions[1:], text)


def _concluded(text: str, names: Names | None) -> str | None:
    for sentence in reversed(sentences(text)):
        word = CONCLUSIONS.first(sentence)
        if word is None:
            continue
        mentions = _mentions(sentence, names)
        asserted = [one for one in mentions if not one.is_denied and not one.is_weak]
        if asserted:
            return _or_ambiguous(asserted[-1], asserted, sentence)
    return None


def _last(mentions: list[Mention], text: str) -> str | None:
    asserted = [one for one in mentions if not one.is_denied]
    excluded = _excluded(mentions, least=2)
    if excluded is not None and all(one.is_weak for one in asserted):
        return excluded
    firm = [one for one in asserted if not one.is_weak] or asserted
    if not firm:
        return None
    return _or_ambiguous(firm[-1], asserted, text)


def _excluded(mentions: list[Mention], least: int = 1) -> str | None:
    """The label that is left where others are denied."""
    denied = {one.label for one in mentions if one.is_denied}
    left = [label for label in LABELS if label not in denied]
    if len(denied & set(LABELS)) < least:
        return None
    if len(left) == 1:
        return left[0]
    if denied == {"entailment"}:
        return NOT_ENTAILMENT
    return AMBIGUOUS if denied else None


def _described(text: str) -> str | None:
    """What the text says of premise and hypothesis without a label's name."""
    found = None
    for match in _DESCRIPTION.finditer(text):
        label = str(match.lastgroup)
        mention = _mention(text, match.start(), match.end(), label)
        if label != "neutral":
            if mention.is_weak:
                continue
            if mention.is_denied:
                label = "neutral" if label == "entailment" else ""
        found = label or found
    if found is None or _LABEL.search(text):
        return None
    return found


def _first_word(text: str) -> str | None:
    if _LABEL.search(text):
        return None
    word = re.search(rf"{LETTER}+(?:-{LETTER}+)?", text)
    if word is None:
        return None
    return _FIRST_WORD.get(word[0].lower())
