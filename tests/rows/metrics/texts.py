"""Two sentences in each of 16 scripts, as people write them: a short and a longer one."""

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
