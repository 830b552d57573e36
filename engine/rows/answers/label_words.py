"""How the labels of inference are spelt, described and denied, in many languages."""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.rows.answers.lexicon import words
from engine.rows.answers.vocabulary import NO, YES

_SPACED = {
    "entailment": (
        r"entail(?:ment|ments|s|ed|ing)?|implication|implicaci[oó]n|implica[cç][aã]o|implicazione"
        r"|acarretamento|implikation|folgerung|schlussfolgerung|gevolgtrekking|следование|следствие"
        r"|вытекание|gerektirme|suy ra|kéo theo|الاستلزام|استلزام|تضمين|גרירה|συνεπαγωγή"
    ),
    "neutral": (
        r"neutral\w{0,3}|neutre|neutr[oa]s?|neutraal|nötr|netral|undetermined|undecided"
        r"|indeterminate|нейтрал\w*|trung lập|محايد[ةه]?|الحياد|حياد|ניטרלי|נייטרלי|ουδέτερ\w*"
        r"|obojętn\w*"
    ),
    "contradiction": (
        r"contradict(?:ion|ions|s|ed|ing|ory)?|contradic[cei]\w*|contradictor\w*|contradiz\w*"
        r"|contradi[cç][aã]o|contraddi\w*|contredi\w*|widerspr[uü]ch\w*|widerspricht|tegenspraak"
        r"|tegenstrijdig\w*|противореч\w*|çeliş\w*|kontradiksi|mâu thuẫn|تناقض|التناقض"
        r"|يتناقض|סתירה|αντίφαση|sprzeczno\w*"
    ),
}
_ANYWHERE = {
    "entailment": (
        "蕴含|蕴涵|蘊含|含意|伴意|推论|함의|निहितार्थ|अनुगमन|তাৎপর্য|உட்கிடை|உள்ளடக்கம்|అనుగమనం|ಅನುಗಮನ|അനുമാനം|ਅਨੁਗਮਨ"
    ),
    "neutral": "中立|中性|무관|중립|तटस्थ|নিরপেক্ষ|நடுநிலை|తటస్థ|ತಟಸ್ಥ|നിഷ്പക്ഷ|ਨਿਰਪੱਖ|เป็นกลาง",
    "contradiction": (
        "矛盾|모순|विरोधाभास|विरोध|বিরোধ|முரண்பாடு|முரண்|వైరుధ్యం|విరుద్ధ|ವಿರೋಧಾಭಾಸ|വൈരുദ്ധ്യം|ਵਿਰੋਧ|ขัดแย้ง"
    ),
}
# What a premise does to a hypothesis in other words; it counts only where no label is named.
_DESCRIBED = {
    "neutral": (
        r"(?:not|n't|in)\s?(?:\w+\s)?(?:enough|sufficient)\w*\s"
        r"(?:information|evidence|info|context|detail\w*)"
        r"|(?:can(?:not|'t| not)|could(?:n't| not)|impossible to)\s(?:be\s)?(?:determine\w*|tell"
        r"|know\w*|verif\w*|confirm\w*|say|infer\w*|conclude\w*|decide\w*)"
        r"|unclear|unknown|unrelated|undeterminable|inconclusive|neither true nor false"
        r"|(?:no|any|without) (?:\w+ )?(?:information|mention|evidence|indication|details?|hint)"
        r"|(?:does|do)(?:n't| not) (?:say|mention|state|specify|tell|indicate|address|provide)"
        r"|(?:can(?:not|'t)|can not) be (?:sure|certain)"
        r"|may or may not|might or might not|possible but not (?:certain|necessar\w*)"
        r"|not necessarily|not mentioned|(?:says|mentions|states) nothing"
    ),
    "entailment": (
        r"impl(?:y|ies|ied|ica|ique|iquent|iziert)|follows?(?: logically)?(?: directly)? from"
        r"|must (?:also )?be true|logically follows|necessarily true|supports?|supported"
        r"|confirms?|confirmed|guarantees?|definitely true|can be (?:inferred|concluded)|is true"
    ),
    "contradiction": (
        r"impossible(?! to\b)"
        r"|conflicts?|conflicting|inconsistent|incompatible|refut\w+|disprov\w+|opposite"
        r"|mutually exclusive|impossible for both|cannot both|can't both|can not both"
        r"|must be false|definitely false"
        r"|is false|cannot be true|can't be true|disagrees?|rules? (?:it )?out|opposed"
    ),
}
# What the first word means in a text that mentions no label.
FIRST_WORD = {
    **dict.fromkeys(YES, "entailment"),
    **dict.fromkeys(
        words("maybe unknown neither perhaps possibly quizás vielleicht peut-être forse talvez"),
        "neutral",
    ),
    **dict.fromkeys(NO, "contradiction"),
}
_NO = (
    r"not|no|never|none|nothing|neither|nor|without|cannot|\w+n't|cant|dont|doesnt|isnt|non|than"
    r"|instead of|rather than|fail(?:s|ed|ing)?(?: to)?|lacks?|lacking|exclud\w*"
    r"|rul(?:e|es|ed|ing) out|reject\w*|against|opposed to|far from|hardly|absence of"
    r"|insufficient|unlike|wrongly|ningun[ao]?|nunca|sin|ni|não|nem|sem|pas|ne|rien|aucune?|jamais|sans"
    r"|kein\w*|nicht|weder|noch|ohne|né|senza|geen|niet|ikke|inte|nie|bez|не|нет|ни|без|değil"
    r"|tidak|bukan|không|ليس|ليست|لا|לא|אינו"
)
# Before a label, in its clause.
DENIAL = re.compile(
    rf"(?<![\w'])(?:{_NO}|over(?=\W+(?:an?\W+|the\W+)?$))(?![\w'])|不|没|沒|無|并非|非(?!常)|未",
    re.IGNORECASE,
)
_WRONG = (
    r"not|wrong|incorrect|false|ruled out|excluded|out\b|inaccurate|impossible|unlikely|rejected"
    r"|eliminated|too\b"
)
# Right behind a label.
DENIED_AFTER = re.compile(
    r"[\s\"'*_)`]*(?:(?:label|option|answer|class|relation\w*)\s)?"
    r"(?:(?:is|was|are|would be|seems|can be|could be|may be|must be|looks)\s(?:\w+ly\s)?"
    rf"(?:{_WRONG})|(?:is|was|are|does|do|did|would|can)(?:n't|\snot)\b|cannot\b|fails\b"
    r"|no es|n'est pas|ist (?:falsch|nicht)|não é|non è|неверн|не подходит|değil)"
    r"|[\s\"'*_)`]*(?:नहीं|இல்லை|కాదు|ಅಲ್ಲ|ഇല്ല|അല്ല|ਨਹੀਂ|নয়|ではな|でな|じゃな"
    r"|이 아니|가 아니|은 아니|는 아니)",
    re.IGNORECASE,
)
# They sound like a denial.
IDIOM = re.compile(
    r"\b(?:(?:no|without(?: a| any)?|beyond(?: a)?) (?:doubt|question|wonder)|not only"
    r"|nothing but|none other than|no other than|nothing less than|not surprisingly|no problem)\b",
    re.IGNORECASE,
)
# Where the clause of a denial ends.
BREAK = re.compile(
    r"[.;:!?\n—。；：！？→⇒]|\s-\s|[-=]>|,(?!\s*(?:or|nor|o|ni|oder|noch|ou)\b)|，"
    r"|\b(?:but|however|yet|although|though|while|whereas|hence|so|therefore|thus|because|since"
    r"|sino|pero|aber|sondern|mais|mas|ma|но|а)\b|而是|但",
    re.IGNORECASE,
)
HEDGE = re.compile(
    r"\b(?:might|may|could|would|seems?|appears?|looks?|at first|first glance|initially"
    r"|one could|some|possibl[ey]|perhaps|if|whether|unless|tempt\w*|suggests?|either)\b",
    re.IGNORECASE,
)
_SIGNS = r"[\s,;/|\"'`*_()\[\]0-9A-C.:-]*"
# Between labels that are only listed, and between two that are left open.
LISTED = re.compile(rf"{_SIGNS}(?:\b(?:or|and|o|y|oder|und|ou|et)\b)?{_SIGNS}")
EITHER = re.compile(
    r"[\s\"'`*_]*(?:/|\bor\b|\band/or\b|\boder\b|\bou\b|\bo\b|或)[\s\"'`*_]*(?:an?\s|the\s)?",
    re.IGNORECASE,
)


def _label_pattern() -> re.Pattern[str]:
    groups = []
    for label, spaced in _SPACED.items():
        groups.append(rf"(?P<{label}>(?<![^\W_])(?:{spaced})(?![^\W_])|{_ANYWHERE[label]})")
    return re.compile("|".join(groups), re.IGNORECASE)


def _description_pattern(described: Mapping[str, str]) -> re.Pattern[str]:
    groups = [rf"(?P<{label}>\b(?:{said})\b)" for label, said in described.items()]
    return re.compile("|".join(groups), re.IGNORECASE)


LABEL = _label_pattern()
DESCRIPTION = _description_pattern(_DESCRIBED)
