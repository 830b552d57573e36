"""A refusal declines to answer; to say politely that a table is taken is an answer."""

import pytest

from engine.curation.refusals import FORMS, is_refusal

REFUSALS = {
    "en": [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t assist with that request.",
        "I cannot provide instructions for making weapons.",
        "As an AI language model, I don't have personal opinions on this topic.",
        "I am not able to answer this question.",
        "Sorry, I won't be able to comply with your request. It violates our policy.",
        "I must respectfully decline to write that. I have to decline this request.",
        "I can't help with that. Is there anything else I can help you with?",
        "I'm unable to create that content, but let me know if you have other questions.",
    ],
    "es": [
        "Lo siento, pero no puedo ayudarte con eso.",
        "No me es posible proporcionar esa información.",
        "Como modelo de lenguaje, no tengo opiniones personales.",
        "Lo siento, no puedo cumplir con esa solicitud. ¿Hay algo más en lo que pueda ayudarte?",
    ],
    "fr": [
        "Désolé, je ne peux pas vous aider avec cela.",
        "Je ne suis malheureusement pas en mesure de répondre à cette question.",
        "En tant que modèle de langage, je n'ai pas d'opinion.",
        "En tant qu'IA, je ne peux pas le faire.",
        "Désolé, mais je ne peux pas vous aider avec cela.",
        "Je dois refuser de rédiger ce texte.",
    ],
    "de": [
        "Es tut mir leid, dabei kann ich Ihnen nicht helfen.",
        "Ich kann diese Anfrage leider nicht beantworten.",
        "Als KI-Sprachmodell habe ich keine eigene Meinung.",
        "Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.",
        "Ich darf keine Anleitung dazu geben.",
        "Ich kann dazu nichts sagen und muss die Bitte ablehnen. Ich muss sie ablehnen.",
    ],
    "pt": [
        "Desculpe, não posso ajudar com isso.",
        "Desculpe, mas não posso atender a esse pedido.",
        "Infelizmente não consigo fornecer essa informação.",
        "Como um modelo de linguagem, não tenho opiniões pessoais.",
    ],
    "hi": [
        "क्षमा करें, मैं इसमें आपकी मदद नहीं कर सकता।",
        "क्षमा करें, लेकिन मैं यह जानकारी नहीं दे सकता।",
        "मैं इस प्रश्न का उत्तर देने में असमर्थ हूँ।",
        "एक एआई मॉडल होने के नाते मेरी कोई राय नहीं है।",
    ],
    "zh": [
        "抱歉，我无法帮助您完成这个请求。",
        "对不起，但我无法满足您的要求。",
        "对不起，我不能提供这方面的信息。",
        "作为一个人工智能语言模型，我没有个人观点。",
        "很抱歉，我無法回答這個問題。",
    ],
}
ANSWERS = [
    "Sorry, I can't reserve at that time, can I book at 6:30?",
    "I'm sorry, I was unable to book a table for you.",
    "I could not find any flights for that date.",
    "Unfortunately I can't help with that, but I can recommend another restaurant.",
    "I can't offer you the red one. Would you like the blue one?",
    "She said that she cannot come.",
    "The lock is stuck; you can't open it without a key.",
    "I can help with that.",
    "Thanks a lot, I won't be needing any more help.",
    "I am like a moth to a flame; I can't help but be drawn to her.",
    "We are not able to offer any positions at this time.",
    "There is no direct train on Sunday.",
    "You can't divide by zero, so the expression has no value.",
    "No puedo reservar a esa hora, ¿le sirve a las ocho?",
    "No puedo ayudarle con la cena, pero puedo recomendarle un hotel.",
    "Je ne peux pas réserver à cette heure.",
    "Leider ist um acht nichts mehr frei.",
    "Ich kann Ihnen das nicht buchen, aber ich kann Ihnen ein anderes Hotel anbieten.",
    "Não encontrei voos para essa data.",
    "उस समय कोई मेज़ खाली नहीं है।",
    "那个时间没有空位，七点可以吗？",
    "我不能提供红色的，但可以提供蓝色的。",
    "不能被三整除的数有很多。",
    "#### 72",
    "",
    None,
]


@pytest.mark.parametrize(
    ("language", "text"), [(name, text) for name in REFUSALS for text in REFUSALS[name]]
)
def test_a_refusal_is_told_in_each_language(language, text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_that_says_no_is_none(text):
    assert not is_refusal(text)


def test_every_language_of_the_table_is_tried():
    assert set(REFUSALS) == set(FORMS)


def test_a_long_answer_says_something_else_besides():
    refusal = "I can't help with that. "
    assert is_refusal(refusal)
    assert not is_refusal(refusal + "The capital of France is Paris. " * 20)


def test_no_text_takes_long():
    assert not is_refusal("I can't " * 60 + "stop")
    assert not is_refusal("a" * 10_000_000)
