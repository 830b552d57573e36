"""The language of a text that is long enough to have one."""

import pytest

from engine.curation.languages import language_of


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The quick brown fox jumps over the lazy dog."),
        ("es", "¿Cuántos clips vendió Natalia en total entre abril y mayo?"),
        ("fr", "Je voudrais réserver une table pour deux personnes ce soir."),
        ("de", "Wie viele Stunden braucht der Zug von Bonn nach München?"),
        ("pt", "Quantas maçãs sobraram depois que João deu três à irmã?"),
        ("hi", "कल सुबह बाज़ार से दो किलो आम लाने हैं।"),
        ("zh", "火车从北京到上海需要几个小时？"),
        ("ja", "明日の朝、駅前で会いましょう。"),
        ("ta", "நாளை காலை சந்தையில் இரண்டு கிலோ மாம்பழம் வாங்க வேண்டும்."),
        ("ru", "Сколько часов едет поезд от Москвы до Казани?"),
    ],
)
def test_the_language_of_a_sentence(language, text):
    assert language_of(text) == language
    assert language_of(text + " " + text) == language


@pytest.mark.parametrize(
    "text", [None, "", "ok", "42", "#### 72", "3 + 4 = 7\n" * 50, "好的", "👍" * 40]
)
def test_what_is_too_short_has_none(text):
    assert language_of(text) is None


def test_a_long_text_is_judged_by_its_head():
    assert language_of("The train leaves at nine. " * 400_000) == "en"
