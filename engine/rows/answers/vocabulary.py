"""The few words that rules lean on, by what they mean, in many languages.

They are a help, not the rule: a text in a language that is not here is still read by its form
(marks, colons, emphasis, the end).
"""

from __future__ import annotations

import re

from engine.rows.answers.lexicon import WORD, Lexicon, words

_ANSWER = words("""
    answer ans respuesta resposta réponse antwort risposta antwoord svar svaret vastaus odpowiedź
    odpověď odpoveď răspuns răspunsul odgovor válasz cevap cevabı yanıt yanıtı jawaban jawabannya
    jawapan sagot jibu ответ відповідь отговор одговор απάντηση תשובה התשובה الجواب جواب الإجابة
    إجابة الاجابة پاسخ
""")
_ANSWER_ANYWHERE = words("""
    答案 答え 解答 回答 答 정답 답은 답: 답변 उत्तर जवाब উত্তর விடை பதில் సమాధానం జవాబు ఉత్తరం ಉತ್ತರ ഉത്തരം
    જવાબ ઉત્તર ਉੱਤਰ ਜਵਾਬ ଉତ୍ତର පිළිතුර คำตอบ ตอบ ចម្លើយ အဖြေ
""")
_ANSWER_PHRASES = ("đáp án", "đáp số", "câu trả lời")
_OUTCOME = words("""
    solution result resultado solución solução resultat résultat ergebnis lösung risultato soluzione
    uitkomst oplossing wynik výsledek výsledok rezultat rezultatul eredmény megoldás sonuç hasil
    hasilnya результат αποτέλεσμα תוצאה الناتج النتيجة الحل نتیجه نتیجہ
""")
_OUTCOME_ANYWHERE = words("结果 結果 결과 परिणाम ফলাফল முடிவு ఫలితం ಫಲಿತಾಂಶ ഫലം પરિણામ ผลลัพธ์")
_OUTCOME_PHRASES = ("kết quả",)
_LABEL = words("""
    label verdict relation relationship classification conclusion category class prediction judgment
    judgement decision choice option inference etiqueta relación conclusión relação étiquette
    beziehung einordnung urteil etichetta relazione метка отношение вывод ilişki etiket hubungan
    العلاقة التصنيف
""")
_LABEL_ANYWHERE = words(
    "标签 標籤 关系 關係 结论 結論 ラベル 関係 관계 라벨 लेबल संबंध সম্পর্ক உறவு సంబంధం ಸಂಬಂಧ ബന്ധം"
)
_LABEL_PHRASES = ("nhãn", "quan hệ")
_FINAL = words("""
    final finale finaal finales definitiva endgültige endgültig correct correcta correcte right
    richtige ostateczna końcowa nihai akhir finală konečná окончательный итоговый правильный τελική
    النهائي النهائية نهایی
""")
_FINAL_ANYWHERE = words(
    "最终 最終 最后 अंतिम अन्तिम চূড়ান্ত இறுதி తుది చివరి ಅಂತಿಮ അന്തിമ અંતિમ ਅੰਤਿਮ สุดท้าย 최종"
)
_IS = words("""
    is are was were be equals equal becomes comes would should must will es son sería será fue est
    sont serait sera vaut ist sind lautet beträgt wäre è sono sarebbe sarà é são seria zijn luidt
    bedraagt är er blir bliver jest wynosi brzmi zní este adalah ialah yaitu là bằng είναι это равен
    равна равно равняется є дорівнює היא הוא هو هي هى برابر
""")
_IS_ANYWHERE = words("是 为 為 等于 等於 应为 は 은 는 है हैं হল হলো হচ্ছে คือ เท่ากับ ആണ് आहे છે ਹੈ छ")
_ABOUT = words("""
    approximately approx about around roughly nearly almost aproximadamente unos cerca environ etwa
    ungefähr rund circa około asi ungefär sekitar примерно около 约 约为 約 大约 लगभग
""")
_NEAR = words("exactly just only simply equal to the a an exactement genau tam ровно")
_WHY = words("""
    because since porque puesto pois parce puisque weil perché poiché omdat fordi eftersom ponieważ
    protože потому поскольку çünkü karena vì
""")
_WHY_ELSEWHERE = words("car da denn want ya")  # in English they mean something else
_WHY_ANYWHERE = words("""
    因为 因為 因 なぜなら 왜냐하면 क्योंकि কারণ ஏனெனில் ஏனென்றால் ఎందుకంటే ಏಕೆಂದರೆ കാരണം
    કારણ ਕਿਉਂਕਿ เพราะ
""")
_WHEN = words("""
    after before once when while después antes cuando après avant quand nachdem bevor wenn als dopo
    prima quando depois antes após etter før efter före nadat voordat po przed gdy после когда
""")
_WHEN_ANYWHERE = words("之后 以后 后 之前 以前 時 のあと")
_CLAUSE = words("as so where which after for considering based if when who that while")
_SO = words("""
    so therefore thus hence consequently finally altogether overall conclusion total ultimately
    accordingly así luego entonces tanto total finalmente conclusión portanto logo assim então enfim
    donc ainsi alors finalement somme also folglich somit daher deshalb insgesamt schließlich quindi
    perciò dunque pertanto infine dus daarom totaal derfor alltså därför siis więc zatem tedy takže
    proto deci așadar tehát így dolayısıyla böylece yani jadi maka vậy итак значит следовательно
    таким отже άρα επομένως לכן إذن لذلك إذا بالتالي پس بنابراین لہذا
""")
_SO_ANYWHERE = words("""
    所以 因此 因而 故 综上 總之 总之 共 したがって よって ゆえに 따라서 그러므로 इसलिए अतः
    কাজেই সুতরাং তাই ஆகவே எனவே కాబట్టి ಆದ್ದರಿಂದ അതിനാൽ તેથી ดังนั้น म्हणून
""")
_ENGLISH = frozenset(
    words("""
        the is of and are answer each she he they we have with that there it therefore thus hence
        were this which equals result final solution from by at was will would you my has had his
        her per for but not more then them their can
    """)
)
_ALSO_ENGLISH = words("""
    so ans total conclusion consequently finally altogether overall ultimately accordingly be equal
    becomes comes should must
""")
_NOT_ENGLISH = frozenset([*_ANSWER, *_OUTCOME, *_IS, *_SO]) - _ENGLISH - frozenset(_ALSO_ENGLISH)
_LATIN = re.compile(r"[A-Za-zÀ-ɏͰ-Ͽа-яА-ЯёЁіїєґІЇЄҐ]")
_TELLING_WORDS = 4  # so many without one of English are another language's
YES = words("""
    yes yeah yep true correct sí si oui ja da да sim evet igen tak हाँ हां 是 はい 예 네 نعم
""")
NO = words("no nope false incorrect non nein não nee нет hayır nie नहीं 否 不 いいえ 아니요 لا")
# One-letter headings of an answer: only before a colon at the start of a line.
INITIALS = "A|R|Ans|Sol|Rpta|Resp|Antw|Odp|О"
ANSWERS = Lexicon(_ANSWER, _ANSWER_ANYWHERE, _ANSWER_PHRASES)
OUTCOMES = Lexicon(
    [*_ANSWER, *_OUTCOME],
    [*_ANSWER_ANYWHERE, *_OUTCOME_ANYWHERE],
    [*_ANSWER_PHRASES, *_OUTCOME_PHRASES],
)
LABELS = Lexicon(
    [*_ANSWER, *_OUTCOME, *_LABEL],
    [*_ANSWER_ANYWHERE, *_OUTCOME_ANYWHERE, *_LABEL_ANYWHERE],
    [*_ANSWER_PHRASES, *_OUTCOME_PHRASES, *_LABEL_PHRASES],
)
FINALS = Lexicon(_FINAL, _FINAL_ANYWHERE)  # the final, the correct answer
IS = Lexicon(_IS, _IS_ANYWHERE)  # between a name and what it names
ABOUT = Lexicon(_ABOUT)  # before a number that is not exact
NEAR = Lexicon([*_ABOUT, *_NEAR])  # may stand before a number
WHY = Lexicon(_WHY, _WHY_ANYWHERE)  # before the reason of what comes before
WHY_ELSEWHERE = Lexicon(_WHY_ELSEWHERE)
ASIDES = Lexicon([*_WHY, *_CLAUSE], _WHY_ANYWHERE)  # before a clause that is no part of a value
SUBORDINATES = Lexicon(_WHEN, _WHEN_ANYWHERE)  # before the circumstances of a value
CONCLUSIONS = Lexicon(_SO, _SO_ANYWHERE)
# Opens a closing remark: what follows the answer and is none.
REMARKS = re.compile(
    r"^[\W_]*(?:i (?:hope|solved|used|worked|checked|found|got|did|think|know)|hope |let me know"
    r"|let us know|feel free|please|note\b|n\.?b\.?\b|p\.?s\.?\b|check\b|checking|verif"
    r"|double-?check|proof\b|explanation|explained|reason(?:ing)?\b|justification|rationale"
    r"|here(?:'s| is) (?:why|how)|remember|word count|thank|good luck|great[!,]|would you|do you"
    r"|can you|if you (?:have|need|want|would|like)|source|reference|see\b|cf\.|confidence"
    r"|this (?:took|problem|question|matches|agrees|assumes|confirms|checks|makes sense|was|can)"
    r"|comprobación|comprobemos|verificación|nota\b|espero|vérification|remarque|j'espère|probe\b"
    r"|hinweis|anmerkung|ich hoffe|begründung|verifica\b|spero|verificação|controle\b|проверка"
    r"|примечание|надеюсь|检查|验证|注[:：]|说明|希望|検算|確認|검산|जाँच|जांच|नोट|ध्यान|आशा)",
    re.IGNORECASE,
)
# Says that there is no answer.
GIVES_UP = re.compile(
    r"(?:\b(?:could|can|do|did|was|were|am|is|are|'m|'re)(?:\s+not|n['’]?t|not)|can['’]?t)\s+(?:be\s+)?"
    r"(?:able\s+to\s+)?(?:solve|know|determine|answer|find|compute|calculate|work\s+out|figure"
    r"|sure|possible|solved|determined|answered|found|computed|calculated)"
    r"|\b(?:unable|impossible|fail(?:ed)?)\s+to\s+(?:solve|determine|answer|find|compute|calculate)"
    r"|\bcan(?:not|['’]?t)\s+do\b|\bi\s+give\s+up\b|\bnot\s+enough\s+information|\bno\s+idea\b|\bno\s+sé\b"
    r"|\bje\s+ne\s+sais|\bweiß\s+(?:ich\s+)?(?:es\s+)?nicht|\bне\s+знаю|不知道|无法|わかりません"
    r"|모르겠|नहीं\s+पता",
    re.IGNORECASE,
)


def is_european(text: str) -> bool:
    """Whether the text is in a language of the Latin, Greek or Cyrillic alphabet that is not
    English: there a comma is the decimal mark, and a dot groups thousands."""
    if not _LATIN.search(text):
        return False
    found = {word.lower() for word in WORD.findall(text)}
    english = len(found & _ENGLISH)
    foreign = len(found & _NOT_ENGLISH)
    if english or foreign:
        return foreign >= max(english, 1)  # "is" is Dutch as well
    return len(found) >= _TELLING_WORDS
