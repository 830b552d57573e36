"""Personal data is found by form and checksum, and what only looks like it is left alone."""

import random

import pytest

from benchmarks.curation.planted import planted
from engine.curation.privacy import KINDS, Pii, pii_in, redacted
from engine.errors import SpecError

FOUND = {
    "email": [
        ("Write to jo.smith+x@mail.example.co.uk.", "jo.smith+x@mail.example.co.uk"),
        ("<jörg@bücher.de>", "jörg@bücher.de"),
        ("ADA@EXAMPLE.ORG", "ADA@EXAMPLE.ORG"),
        ("mail li＠example.com！", "li＠example.com"),
    ],
    "phone": [
        ("Their number is 415-285-7117.", "415-285-7117"),
        ("call (415) 285-7117", "(415) 285-7117"),
        ("1-800-555-0199", "1-800-555-0199"),
        ("+44 20 7946 0958", "+44 20 7946 0958"),
        ("+49 (0)30 901820", "+49 (0)30 901820"),
        ("Phone: 5552671234", "5552671234"),
        ("Tel. 01 23 45 67 89", "01 23 45 67 89"),
        ("मोबाइल नंबर ९८७६५ ४३२१०", "९८७६५ ४३२१०"),
        ("手机号码13812345678，", "13812345678"),
    ],
    "card": [
        ("4111 1111 1111 1111", "4111 1111 1111 1111"),
        ("card 5555-5555-5555-4444.", "5555-5555-5555-4444"),
        ("378282246310005", "378282246310005"),
        ("3782 822463 10005 1234", "3782 822463 10005"),
        ("4222222222222", "4222222222222"),
        ("no. 12 4111 1111 1111 1111 737", "4111 1111 1111 1111"),
        ("４１１１ １１１１ １１１１ １１１１", "４１１１ １１１１ １１１１ １１１１"),
    ],
    "iban": [
        ("IBAN GB82 WEST 1234 5698 7654 32 please", "GB82 WEST 1234 5698 7654 32"),
        ("de89370400440532013000", "de89370400440532013000"),
    ],
    "ssn": [
        ("it is 219-09-9999", "219-09-9999"),
        ("SSN: 219099999", "219099999"),
        ("social security number 219 09 9999", "219 09 9999"),
        ("219‑09‑9999", "219‑09‑9999"),
    ],
    "ip_address": [
        ("8.8.8.8", "8.8.8.8"),
        ("at 151.101.1.69:443.", "151.101.1.69"),
        ("[2001:4860:4860::8888]", "2001:4860:4860::8888"),
        ("2a01:4f8:0:1:2:3:4:5", "2a01:4f8:0:1:2:3:4:5"),
    ],
    "aadhaar": [
        ("2345 6789 0124", "2345 6789 0124"),
        ("Aadhaar: 234567890124", "234567890124"),
        ("आधार संख्या २३४५ ६७८९ ०१२४", "२३४५ ६७८९ ०१२४"),
    ],
    "pan": [("PAN ABCPE1234F", "ABCPE1234F"), ("pan: abcpe1234f", "abcpe1234f")],
    "cpf": [("529.982.247-25", "529.982.247-25"), ("CPF 52998224725", "52998224725")],
    "dni": [("12345678Z", "12345678Z"), ("DNI 12.345.678-z", "12.345.678-z")],
    "resident_id": [("身份证号11010519491231002X。", "11010519491231002X")],
    "mac_address": [
        ("00:1A:2b:3c:4D:5e", "00:1A:2b:3c:4D:5e"),
        ("001a.2b3c.4d5e", "001a.2b3c.4d5e"),
    ],
    "wallet": [
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
        ("0x" + "aB" * 20 + ",", "0x" + "aB" * 20),
    ],
    "secret": [
        ("key AKIAIOSFODNN7EXAMPLE.", "AKIAIOSFODNN7EXAMPLE"),
        ("postgres://joe:s3cret@db/x", "joe:s3cret"),
        ('password = "hunter2hunter2"', "hunter2hunter2"),
        ("Das Passwort ist geheim99, danke", "geheim99"),
        ("密码：abc12345", "abc12345"),
        ("api_key: 0123456789abcdef0123", "0123456789abcdef0123"),
    ],
}
NOTHING = [
    None,
    "",
    "no",
    # numbers of other things
    "In 2021 2022 2023 2024 they sold 1,234,567,890,123 clips.",
    "4111 1111 1111 1112",
    "4111 1111 1111 1111 1111 1111",
    "0000 0000 0000 0000",
    "0.4111111111111111",
    "9780306406157",  # an ISBN
    "1700000000000 ms",
    "x = 123-45-67890",
    "000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567",
    "987654321",
    "200 300 4000 apples",
    "$415-285-7117",
    "115-285-7117",
    "call on 2024-05-06 at 10:30 or 06/05/2024",
    "Call 911",
    "5 + 10000000 = 10000005",
    "2345 6789 0123",
    "123456789012",
    "GB82 WEST 1234 5698 7654 33",
    "529.982.247-26",
    "12345678A",
    "11010519491331002X",
    "version 1.2.3.4",
    "10.0.0.1, 192.168.1.1, 127.0.0.1, 224.0.0.1, 256.1.1.1, 1.2.3.4.5",
    "2001:db8::1, fe80::1, ::1",
    "std::vector, 10:20:30",
    "00:00:00:00:00:00",
    "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
    # shapes of other things
    "user@host, @app.route, a @ b.c, x@w.transpose()",
    "sk-learn-is-a-library-that-is-long",
    "eyJub3RoaW5nIjoxfQ.eyJub3RoaW5nIjoxfQ.c2lnbmF0dXJlYW5kbW9yZQ",
    "password: your password here",
    "The password must have 8 to 16 characters and 1 digit.",
    "max_tokens: 100000, token: word",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----",
    "[EMAIL] and [PHONE], password: [SECRET]",
]
# A search that takes the square of a text's length takes a minute or more for these.
HOSTILE = {
    "digits": "1" * 1_000_000,
    "digits_of_scripts": "1१１٣²" * 20_000,
    "groups": "4 4 4 4 " * 12_000,
    "cards": "4111 1111 1111 1112\n" * 5_000,
    "letters": "a" * 100_000,
    "at_signs": "a@a." * 25_000,
    "domains": "a@" + "a." * 50_000,
    "passwords": "password:" * 11_000,
    "keys": "-----BEGIN PRIVATE KEY-----" * 4_000,
    "heads": "eyJ" + "a" * 100_000,
    "ibans": "DE12" * 25_000,
    "colons": "2a:" * 33_000,
    "dots": "1." * 50_000,
    "brackets": "(" * 100_000,
    "addresses": "a://" * 25_000,
    "surrogates": "\ud800\udfff1" * 33_000,
}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(kind, text, value) for kind in FOUND for text, value in FOUND[kind]],
)
def test_a_value_is_found_whole_and_under_its_kind(kind, text, value):
    start = text.index(value)
    assert pii_in(text) == [Pii(kind, start, start + len(value))]
    assert pii_in(text, [kind]) == pii_in(text)
    assert redacted(text) == text.replace(value, f"[{kind.upper()}]")


@pytest.mark.parametrize("text", NOTHING)
def test_what_only_looks_like_it_is_left_alone(text):
    assert pii_in(text) == []


def test_a_private_key_goes_to_its_end_and_a_cut_one_as_far_as_it_goes():
    lines = "\n".join(["Proc-Type: 4,ENCRYPTED", *["MIIEowIBAAKCAQEAx0123456789abcdefg" * 2] * 3])
    block = f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----"
    assert redacted(f"keep {block}\nthis") == "keep [SECRET]\nthis"
    assert redacted(f"{block}\n{block}") == "[SECRET]\n[SECRET]"
    cut = "-----BEGIN PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEAx0123456789abcdefg\n" * 3
    assert redacted(cut + "and so on.") == "[SECRET]and so on."
    assert pii_in("A file begins with -----BEGIN PRIVATE KEY----- and so on.") == []


def test_a_token_is_known_by_its_head():
    token = (
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0"
        ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
    )
    assert redacted(f"see {token}.") == "see [SECRET]."


def test_overlapping_finds_are_one_under_the_first_kind():
    text = "postgres://joe:s3cret@db.example.com/x"
    (pii,) = pii_in(text)
    assert (pii.kind, text[pii.start : pii.end]) == ("secret", "joe:s3cret@db.example.com")


def test_only_the_kinds_asked_for_are_found():
    text = "joe@example.com, 415-285-7117"
    assert redacted(text, ["email"]) == "[EMAIL], 415-285-7117"
    assert redacted(text, ["phone", "email"]) == "[EMAIL], [PHONE]"
    assert redacted(text, []) == text
    with pytest.raises(SpecError, match=r"\['mail'\]; there are \['secret', 'email'"):
        pii_in(text, ["mail"])


def test_every_planted_value_is_found_and_none_is_left():
    for value in planted(seed=1, each=8):
        text = f"So {value.text}\nand more."
        start = 3 + len(value.before)
        kinds = [
            p.kind for p in pii_in(text) if p.start <= start and p.end >= start + len(value.shown)
        ]
        assert kinds == [value.kind], value
        assert value.shown not in redacted(text)


def test_redaction_leaves_nothing_to_find():
    draw = random.Random(2)
    values = [value.text for value in planted(seed=2, each=8)]
    for _ in range(200):
        text = draw.choice(["", " ", "-", "\n"]).join(draw.sample(values, 6))
        once = redacted(text)
        assert pii_in(once) == []
        assert redacted(once) == once


def test_every_kind_is_planted_somewhere():
    assert {value.kind for value in planted(seed=1, each=1)} == set(KINDS) == set(FOUND)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(20)
def test_no_text_takes_more_than_linear_time(name):
    pii_in(HOSTILE[name])
