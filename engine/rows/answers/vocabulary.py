"""The few words that rules lean on, by what they mean, in many languages.

They are a help, not the rule: a text in a language that is not here is still read by its form (marks,
colons, emphasis, the end). Words of spaced alphabets are whole words; the others are found anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from engine.rows.answers.spelling import MARKS

# Names of what a text ends in: answer; and solution, result.
ANSWER = """
answer ans respuesta resposta réponse antwort risposta antwoord svar vastaus odpowiedź odpověď
odpoveď răspuns răspunsul odgovor válasz cevap cevabı yanıt yanıtı jawaban jawabannya jawapan sagot
jibu ответ відповідь отговор одговор απάντηση תשובה התשובה الجواب جواب الإجابة إجابة الاجابة پاسخ
""".split()
OUTCOME = """
solution result resultado solución solução resultat résultat ergebnis lösung risultato soluzione
uitkomst oplossing wynik výsledek výsledok rezultat rezultatul eredmény megoldás sonuç hasil hasilnya
результат αποτέλεσμα תוצאה الناتج النتيجة الحل نتیجه نتیجہ
""".split()
ANSWER_ANYWHERE = """
答案 答え 解答 回答 答 정답 답은 답: 답변 उत्तर जवाब উত্তর விடை பதில் సమాధానం జవాబు ఉత్తరం ಉತ್ತರ ഉത്തരം જવાબ ઉત્તર
ਉੱਤਰ ਜਵਾਬ ଉତ୍ତର පිළිතුර คำตอบ ตอบ ចម្លើយ အဖြေ
""".split()
OUTCOME_ANYWHERE = "结果 結果 결과 परिणाम ফলাফল முடிவு ఫలితం ಫಲಿತಾಂಶ ഫലം પરિણામ ผลลัพธ์".split()
ANSWER_PHRASES = ("đáp án", "đáp số", "câu trả lời")
OUTCOME_PHRASES = ("kết quả",)
# One-letter headings of an answer: only before a colon at the start of a line.
ANSWER_INITIALS = "A|R|Ans|Sol|Rpta|Resp|Antw|Odp|Svar|О|Ж"
FINAL = """
final finale finaal finales definitiva endgültige endgültig correct correcta correcte right
richtige endresultat ostateczna końcowa nihai akhir finală konečná окончательный итоговый правильный
τελική النهائي النهائية نهایی
""".split()
FINAL_ANYWHERE = """
最终 最終 最后 अंतिम अन्तिम চূড়ান্ত இறுதி తుది చివరి ಅಂತಿಮ അന്തിമ અંતિમ ਅੰਤਿਮ สุดท้าย 최종
""".split()
# What stands between a name and what it names.
COPULAS = """
is are was were be equals equal becomes comes would should must will es son sería será fue est sont
serait sera vaut ist sind lautet beträgt wäre è sono sarebbe sarà é são seria zijn luidt bedraagt är
blir bliver jest wynosi brzmi zní este adalah ialah yaitu là bằng είναι это равен равна равно
равняется є дорівнює היא הוא هو هي هى برابر
""".split()
COPULAS_ANYWHERE = "是 为 為 等于 等於 应为 は 은 는 है हैं হল হলো হচ্ছে คือ เท่ากับ ആണ് आहे છે ਹੈ छ".split()
# Says that a number is near: it may stand before one.
ABOUT = """
approximately approx about around roughly nearly almost exactly just only simply equal to exactly
aproximadamente unos cerca environ exactement etwa ungefähr rund genau circa około asi ungefär
sekitar tam około ровно примерно около 约 约为 約 大约 लगभग the a an
""".split()
# Gives the reason of what stands before it.
CAUSES = """
because since porque puesto pois parce puisque weil perché poiché omdat
fordi eftersom ponieważ protože потому поскольку çünkü karena vì
""".split()
CAUSES_ELSEWHERE = "car da denn want ya".split()  # in English they mean something else
CAUSES_ANYWHERE = """
因为 因為 因 なぜなら 왜냐하면 क्योंकि কারণ ஏனெனில் ஏனென்றால் ఎందుకంటే ಏಕೆಂದರೆ കാരണം કારણ ਕਿਉਂਕਿ เพราะ
""".split()
# Opens a clause that is no part of a value.
CLAUSES = "as so where which after for considering based if when who that while".split()
CONCLUDES = """
so therefore thus hence consequently finally altogether overall conclusion total ultimately
accordingly así luego entonces tanto total finalmente conclusión portanto logo assim então enfim
donc ainsi alors finalement conclusion somme also folglich somit daher deshalb insgesamt schließlich
quindi perciò dunque pertanto infine dus daarom concluderend totaal derfor alltså därför siis więc
zatem tedy takže proto deci așadar tehát így dolayısıyla sonuç böylece yani jadi maka dengan vậy
итак значит следовательно таким отже значи άρα επομένως לכן إذن لذلك إذا بالتالي پس بنابراین لہذا
""".split()
CONCLUDES_ANYWHERE = (
    "所以 因此 因而 故 综上 總之 总之 共 したがって よって ゆえに 따라서 그러므로 इसलिए अतः अत: কাজেই সুতরাং তাই ஆகவே எனவே "
    "కాబట్టి ఆదువరం ಆದ್ದರಿಂದ അതിനാൽ તેથી ਇਸ ਲਈ ดังนั้น"
).split()
# Opens a closing remark: what follows the answer and is none.
REMARKS = re.compile(
    r"^[\W_]*(?:i (?:hope|solved|used|worked|checked|found|got|did|think|know|hereby)|hope |let me know|let us know"
    r"|feel free|please|note\b|n\.?b\.?\b|p\.?s\.?\b|check\b|checking|verif|double-?check|proof\b"
    r"|explanation|explained|reason(?:ing)?\b|justification|here(?:'s| is) (?:why|how)|rationale"
    r"|remember|word count|thank|good luck|great[!,]|would you|do you|can you|if you (?:have|need|want|would|like)|this (?:took|problem"
    r"|question|matches|agrees|assumes|confirms|checks|makes sense|was|can)|source|reference|see\b|cf\.|confidence|comprobación|comprobemos|verificación"
    r"|nota\b|espero|vérification|remarque|j'espère|probe\b|hinweis|anmerkung|ich hoffe|begründung"
    r"|verifica\b|spero|verificação|controle\b|проверка|примечание|надеюсь|检查|验证|注[:：]|说明|希望"
    r"|検算|確認|검산|जाँच|जांच|नोट|ध्यान|आशा)",
    re.IGNORECASE,
)
# Says that there is no answer.
GIVES_UP = re.compile(
    r"(?:\b(?:could|can|do|did|was|were|am|is|are)|'m|'re)(?:\s+not|n['’]?t|not)\s+(?:be\s+)?(?:able\s+to\s+)?"
    r"(?:solve|know|determine|answer|find|compute|calculate|work\s+out|figure|sure|possible"
    r"|solved|determined|answered|found|computed|calculated)"
    r"|\b(?:unable|impossible|fail(?:ed)?)\s+to\s+(?:solve|determine|answer|find|compute|calculate)"
    r"|\bi\s+give\s+up\b|\bnot\s+enough\s+information|\bno\s+idea\b|\bno\s+sé\b|\bje\s+ne\s+sais"
    r"|\bweiß\s+(?:ich\s+)?(?:es\s+)?nicht|\bне\s+знаю|不知道|无法|わかりません|모르겠|नहीं\s+पता",
    re.IGNORECASE,
)
_SPACED = re.compile(rf"[^\W\d_][\w{MARKS}]*")
_LATIN = re.compile(r"[A-Za-zÀ-ɏͰ-Ͽа-яА-ЯёЁіїєґІЇЄҐ]")
_TELLING_WORDS = 4  # so many without one of English are another language's
_ENGLISH = frozenset(
    """
    the is of and are answer each she he they we have with that there it therefore thus hence were
    this which equals result final solution from by at was will would you my has had his her per
    for but not more then them their can
    """.split()
)
_NOT_ENGLISH = frozenset([*ANSWER, *OUTCOME, *COPULAS, *CONCLUDES]) - _ENGLISH
_NOT_ENGLISH -= frozenset(
    """
    so ans total conclusion consequently finally altogether overall ultimately accordingly be equal
    becomes comes should must on to thus hence
    """.split()
)


class Mention(NamedTuple):
    """A word of the vocabulary in a text."""

    start: int
    end: int
    word: str  # folded


class Vocabulary:
    """Words to be found in texts: whole ones of spaced alphabets, and what is found anywhere."""

    def __init__(
        self, words: Iterable[str], anywhere: Iterable[str] = (), phrases: Iterable[str] = ()
    ) -> None:
        self.words = frozenset(word.casefold() for word in words)
        self._anywhere = _any_of(anywhere)
        self._phrases = _any_of(phrases)

    def mentions(self, text: str, start: int = 0, end: int | None = None) -> Iterator[Mention]:
        """Its words in the text, not in order across the kinds."""
        yield from self._spaced(text, start, end)
        yield from self._others(text, start, end)

    def _spaced(self, text: str, start: int, end: int | None) -> Iterator[Mention]:
        for match in _SPACED.finditer(text, start, len(text) if end is None else end):
            word = match[0].lower()
            if word in self.words:
                yield Mention(match.start(), match.end(), word)

    def _others(self, text: str, start: int, end: int | None) -> Iterator[Mention]:
        if text.isascii():
            return
        for pattern in (self._anywhere, self._phrases):
            if pattern is not None:
                for match in pattern.finditer(text, start, len(text) if end is None else end):
                    yield Mention(match.start(), match.end(), match[0].lower())

    def first(self, text: str, start: int = 0, end: int | None = None) -> Mention | None:
        """The first of its words."""
        spaced = next(self._spaced(text, start, end), None)
        others = [spaced] if spaced else []
        return min([*others, *self._others(text, start, end)], default=None)

    def last(self, text: str, start: int = 0, end: int | None = None) -> Mention | None:
        """The last of its words."""
        return max(self.mentions(text, start, end), default=None)


def _any_of(words: Iterable[str]) -> re.Pattern[str] | None:
    # the longest first: 最终答案 before 答
    longest_first = sorted(words, key=len, reverse=True)
    if not longest_first:
        return None
    spelt = "|".join(map(re.escape, longest_first))
    return re.compile(spelt, re.IGNORECASE)


def is_european(text: str) -> bool:
    """Whether the text is in a language of the Latin, Greek or Cyrillic alphabet that is not
    English: there a comma is the decimal mark, and a dot groups thousands."""
    if not _LATIN.search(text):
        return False
    words = {word.lower() for word in _SPACED.findall(text)}
    english = len(words & _ENGLISH)
    foreign = len(words & _NOT_ENGLISH)
    if english or foreign:
        return foreign > english
    return len(words) >= _TELLING_WORDS


ANSWERS = Vocabulary(ANSWER, ANSWER_ANYWHERE, ANSWER_PHRASES)
ANSWERS_AND_OUTCOMES = Vocabulary(
    [*ANSWER, *OUTCOME],
    [*ANSWER_ANYWHERE, *OUTCOME_ANYWHERE],
    [*ANSWER_PHRASES, *OUTCOME_PHRASES],
)
FINALS = Vocabulary(FINAL, FINAL_ANYWHERE)
IS = Vocabulary(COPULAS, COPULAS_ANYWHERE)
NEAR = Vocabulary(ABOUT)
WHY = Vocabulary(CAUSES, CAUSES_ANYWHERE)
WHY_ELSEWHERE = Vocabulary(CAUSES_ELSEWHERE)
ASIDES = Vocabulary([*CAUSES, *CLAUSES], CAUSES_ANYWHERE)
CONCLUSIONS = Vocabulary(CONCLUDES, CONCLUDES_ANYWHERE)
