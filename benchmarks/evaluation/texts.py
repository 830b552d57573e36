"""Texts that metrics are held to: two in each of 18 scripts, English with all its marks, and pairs
of longer English texts that are made of a word list."""

import random
import re
import string
from collections import Counter

SCRIPTS = {
    "latin": ("Good morning", "The river rose over its banks after three days of rain."),
    "latin_accents": ("Así es", "El niño comió pan con jamón, ¿verdad? Straße und Kälte."),
    "cyrillic": ("Привет", "Завтра утром поезд отправится в семь часов."),
    "greek": ("Καλημέρα", "Το τρένο φεύγει αύριο το πρωί στις επτά."),
    "arabic": ("مرحبا", "سيغادر القطار غدا صباحا في الساعة السابعة."),
    "hebrew": ("שלום", "הרכבת תצא מחר בבוקר בשעה שבע."),
    "devanagari": ("नमस्ते", "कल सुबह सात बजे रेलगाड़ी चलेगी।"),
    "bengali": ("নমস্কার", "কাল সকাল সাতটায় ট্রেন ছাড়বে।"),
    "tamil": ("வணக்கம்", "நாளை காலை ஏழு மணிக்கு ரயில் புறப்படும்."),
    "telugu": ("నమస్కారం", "రేపు ఉదయం ఏడు గంటలకు రైలు బయలుదేరుతుంది."),
    "georgian": ("გამარჯობა", "ხვალ დილით მატარებელი შვიდ საათზე გავა."),
    "ethiopic": ("ሰላም", "ባቡሩ ነገ ጠዋት በሰባት ሰዓት ይነሳል።"),
    "hangul": ("안녕하세요", "내일 아침 일곱 시에 기차가 출발합니다."),
    "han": ("你好", "明天早上七点火车出发，请不要迟到。"),
    "japanese": ("おはよう", "明日の朝七時にスーパー列車が出発します。"),
    "thai": ("สวัสดี", "พรุ่งนี้เช้ารถไฟจะออกเวลาเจ็ดโมง"),
    "khmer": ("សួស្តី", "ព្រឹកស្អែករថភ្លើងចេញនៅម៉ោងប្រាំពីរ។"),
    "burmese": ("မင်္ဂလာပါ", "မနက်ဖြန်မနက် ရထားထွက်မည်။"),
}
ENGLISH = (
    "The cat sat on the mat, and the dog didn't care.",
    "It's a well-known fact: 1,200 people (or so) left in 2021!",
    "He said “no” — twice. State-of-the-art e-mail_address",
    "no",
    "The the THE",
    "Prices rose 3.5% to $14.20; nobody was surprised...",
    "",
)
_LISTED = """the a of and to in that it was for on with as his they at be this from have or by one
had not but what all were when we there can an your which their said if do will each about how up
out river bridge council report model train student teacher well-known don't U.S. 3.5% $1,200 (sic)
“quoted” state-of-the-art 2021; finally, yes! maybe? it's e.g. no. 42: Mr. O'Neil"""
WORDS = _LISTED.split()


def english_pairs(count: int, seed: int) -> list[tuple[str, str, str]]:
    """(text, reference, second reference): the text is the reference with a fifth of its words
    changed, taken out or put in."""
    draws = random.Random(seed)
    pairs = []
    for _ in range(count):
        reference = draws.choices(WORDS, k=draws.randint(1, 60))
        text = []
        for word in reference:
            kind = draws.random()
            if kind < 0.1:
                text.append(draws.choice(WORDS))
            elif kind < 0.15:
                text += [word, draws.choice(WORDS)]
            elif kind > 0.05 + 0.15:
                text.append(word)
        second = draws.choices(WORDS, k=draws.randint(1, 60))
        pairs.append((" ".join(text), " ".join(reference), " ".join(second)))
    return pairs


def squad_words(text: str) -> list[str]:
    """The official v1.1 rule, told again: lower case, ASCII punctuation taken out, then the
    articles, then split at white space."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def squad_f1(said: str, wanted: str) -> float:
    """The official v1.1 F1 of one answer and one reference."""
    said_words, wanted_words = squad_words(said), squad_words(wanted)
    shared = sum((Counter(said_words) & Counter(wanted_words)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(said_words), shared / len(wanted_words)
    return 2 * precision * recall / (precision + recall)
