import pytest

from engine.rows.answers.languages import languages_of, without_articles


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("¿Quién escribió el himno de la región?", "es"),
        ("Qui a écrit l'hymne de la région et quand ?", "fr"),
        ("Wer hat die Hymne der Region geschrieben, und wann?", "de"),
        ("Chi ha scritto l'inno della regione e quando?", "it"),
        ("Quem escreveu o hino da região e em que ano?", "pt"),
        ("Wie schreef het volkslied van de streek, en wanneer?", "nl"),
        ("Vem skrev sången och när var det?", "sv"),
        ("Cine a scris imnul și când a fost scris?", "ro"),
        ("Ποιος έγραψε τον ύμνο και πότε;", "el"),
        ("Ki írta a himnuszt, és mikor?", "hu"),
        ("من الذي كتب النشيد في عام ١٩٤٥؟", "ar"),
    ],
)
def test_function_words_tell_a_language(text, language):
    assert language in languages_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "Who wrote the anthem of the region, and when?",
        "as good as gold",
        "Die Hard was shown in Los Angeles",
        "the café in São Paulo",
        "Le Mans",
        "",
        "首都はどこですか",
    ],
)
def test_english_and_what_is_too_short_to_tell_have_none(text):
    assert languages_of(text) == ()


def test_articles_go_where_they_stand_and_where_they_hang():
    assert without_articles("el himno de la región", "es") == "himno de región"
    assert without_articles("l'homme et la mer", "fr") == "homme et mer"
    assert without_articles("as good as gold", "es") == "as good as gold"
    assert without_articles("النشيد الوطني", "ar") == "نشيد وطني"
    assert without_articles("الله", "ar") == "الله"
