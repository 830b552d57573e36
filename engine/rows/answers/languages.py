"""Which language a text is in, as far as its articles have to go: a word that is an article in one
language means something else in another (Portuguese "as", German "die").

A few function words of each decide, and what is not told is English. Nothing else depends on it.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from engine.rows.answers.lexicon import words

ARTICLES = {
    "en": "a an the",
    "es": "el la los las lo un una unos unas",
    "fr": "le la les l' un une des",
    "de": "der die das den dem des ein eine einen einem einer eines",
    "it": "il lo la i gli le l' un uno una un'",
    "pt": "o a os as um uma uns umas",
    "nl": "de het een",
    "sv": "en ett den det de",
    "da": "en et den det de",
    "no": "en et ei den det de",
    "ca": "el la els les l' un una uns unes",
    "ro": "un o unei unui niște",
    "el": "ο η το οι τα του της των τον την ένας μία μια ένα",
    "hu": "a az egy",
    "ar": "ال-",  # hangs on the word
}
# Beside the articles: what sentences are held together with.
_FUNCTION_WORDS = {
    "en": (
        "of to and in is was by for it that on as with at from are who what which when how no not"
        " do does did he she his her they their be been has had have or but if all one were we"
        " there can will would about up out so more me my you your this these those said then than"
    ),
    "es": "de del que en y es por con para se su al más como cuándo quién qué dónde cuál fue",
    "fr": "de du que en et est par pour dans qui sur au aux ce quel quelle où quand fut il",
    "de": "und ist in von zu mit für auf im am wer was wann wo welche wurde nicht zum zur es",
    "it": "di del della che e è in per con da nel chi quale quando dove cosa fu sono si al",
    "pt": "de do da dos das que em e é por com para no na quem qual quando onde foi se ao",
    "nl": "van en in is op te dat met voor wie wat wanneer waar welke werd niet zijn er om aan",
    "sv": "och i är på av som till med för vem vad när var vilken inte om från hur blev att",
    "da": "og i er på af som til med for hvem hvad hvornår hvor hvilken ikke om fra blev at",
    "no": "og i er på av som til med for hvem hva når hvor hvilken ikke om fra ble å at",
    "ca": "de del que en i és per amb qui què quan on quin va ser al dels més com és",
    "ro": "de și în este la cu pe din care cine ce când unde fost nu pentru al ale sau",
    "el": "και είναι σε με για από που ποιος πότε πού τι στο στη στην στον ήταν δεν",
    "hu": "és van hogy nem is volt ki mi mikor hol melyik ez azt mint meg de csak",
    "ar": "في من على إلى هو هي ما متى أين كان عن مع التي الذي هل أن لا",
}
_LONGEST = 4000  # characters at each end of a text
_LEAST = 2  # signs of a language: one word may be a name's
_HEADED = 4  # letters behind an Arabic article: fewer are a word of its own
_WORD = re.compile(r"[^\W\d_]+'?")


def _profiles() -> dict[str, frozenset[str]]:
    """The words that speak for a language; what is English too speaks for English alone."""
    profiles = {}
    for language, articles in ARTICLES.items():
        profiles[language] = frozenset([*words(articles), *words(_FUNCTION_WORDS[language])])
    english = profiles["en"]
    others = {language: profile - english for language, profile in profiles.items()}
    return others | {"en": english}


_PROFILES = _profiles()
_ELIDED = {
    language: tuple(word for word in words(articles) if word.endswith("'"))
    for language, articles in ARTICLES.items()
}


@functools.lru_cache(maxsize=4096)
def languages_of(text: str) -> tuple[str, ...]:
    """The languages that the text may be in, several where they share its words; none where it is
    English, or too short to tell."""
    text = unicodedata.normalize("NFC", f"{text[:_LONGEST]} {text[-_LONGEST:]}").casefold()
    found = set(_WORD.findall(text.replace("’", "'")))
    signs = {language: len(found & profile) for language, profile in _PROFILES.items()}
    if any(not word.isascii() for word in found):
        for language in signs.keys() - {"en"}:
            signs[language] += signs[language] > 0
    most = max(signs.values())
    if most < _LEAST or signs["en"] == most:
        return ()
    return tuple(language for language, count in signs.items() if count == most)


def without_articles(text: str, language: str) -> str:
    """A folded text without the articles of the language, those that hang on a word too."""
    for article in _ELIDED[language]:
        text = re.sub(rf"(?<!\w){article}(?=\S)", " ", text)
    articles = words(ARTICLES[language])
    hanging = tuple(word.rstrip("-") for word in articles if word.endswith("-"))
    kept = []
    for word in text.split():
        if word in articles:
            continue
        if hanging and word.startswith(hanging) and len(word) >= len(hanging[0]) + _HEADED:
            word = word[len(hanging[0]) :]
        kept.append(word)
    return " ".join(kept)
