"""Personal data that no person has, in the ways in which people write it down.

Values are drawn by a seed and made right by their own sums, from the descriptions of their kinds
(ISO/IEC 7812 and 13616, UIDAI, SSA, BIP 173, RFC 7519 …), not from what engine/curation/privacy
looks for. `planted` gives a value of a kind, in one of eight ways where the kind has them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WAYS = 8
_ALPHANUMERIC = string.ascii_letters + string.digits
_BASE58 = "".join(sorted(set(_ALPHANUMERIC) - set("0OIl")))


@dataclass(frozen=True)
class Planted:
    """A value of a kind, and the words around it; `shown` is what must not be left."""

    kind: str
    before: str
    shown: str
    after: str

    @property
    def text(self) -> str:
        """As it stands in a text."""
        return self.before + self.shown + self.after


Drawn = tuple[str, str, str]  # before, shown, after


def planted(seed: int, each: int) -> list[Planted]:
    """`each` values of every kind, in its ways by turns."""
    found = []
    for kind, ways in KINDS.items():
        draw = random.Random(f"{seed} {kind}")
        for number in range(each):
            before, shown, after = ways(draw, number % WAYS)
            found.append(Planted(kind, before, shown, after))
    return found


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choice(string.digits) for _ in range(count))


def _letters(draw: random.Random, count: int, letters: str = _ALPHANUMERIC) -> str:
    return "".join(draw.choice(letters) for _ in range(count))


def _groups(text: str, sizes: Sequence[int], between: str) -> str:
    parts = []
    start = 0
    for size in sizes:
        parts.append(text[start : start + size])
        start += size
    return between.join(part for part in parts if part)


def _email(draw: random.Random, way: int) -> Drawn:
    name = draw.choice(["maria", "j.smith", "ravi_k", "li-wei", "o'neil", "anna.schmidt"])
    host = draw.choice(["example.com", "mail.example.co.uk", "uni-bonn.de", "firma.com.br"])
    name += _digits(draw, 3)
    return (
        ("write to ", f"{name}@{host}", " today"),
        ("Maria <", f"{name}@{host}", ">"),
        ("[mail](mailto:", f"{name}@{host}", ")"),
        ("MAIL: ", f"{name}@{host}".upper(), ""),
        ("it is ", f"{name}+news@{host}", "."),
        ('{"email": "', f"{name}@{host}", '"}'),
        ("Adresse: ", f"jörg.müller{_digits(draw, 2)}@{host}", ", danke"),
        ("邮箱：", f"{name}＠{host}", "。"),
    )[way]


def _phone(draw: random.Random, way: int) -> Drawn:
    area = draw.choice(["212", "415", "650", "713"])
    exchange = draw.choice("23456789") + _digits(draw, 2)
    line = _digits(draw, 4)
    mobile = draw.choice("6789") + _digits(draw, 9)
    return (
        ("call me at ", f"({area}) {exchange}-{line}", "."),
        ("the number is ", f"{area}-{exchange}-{line}", ", thanks"),
        ("office ", f"+1 {area} {exchange} {line}", ""),
        ("fax: ", f"{area}.{exchange}.{line}", ""),
        ("London: ", f"+44 20 {_digits(draw, 4)} {_digits(draw, 4)}", "."),
        ("मोबाइल नंबर ", f"{mobile[:5]} {mobile[5:]}", " है"),
        ("Tel.: ", f"030 {_digits(draw, 4)}-{_digits(draw, 3)}", " (Berlin)"),
        ("téléphone : ", f"06 {_groups(_digits(draw, 8), (2, 2, 2, 2), ' ')}", "."),
    )[way]


def _luhn(body: str) -> str:
    """The body with its check digit: from the right, every other digit counts double, and of a
    double above nine its digits."""
    total = 0
    for place, digit in enumerate(body[::-1]):
        if place % 2 == 0:
            total += sum(map(int, str(2 * int(digit))))
        else:
            total += int(digit)
    return body + str(-total % 10)


def _card(draw: random.Random, way: int) -> Drawn:
    visa = _luhn("4" + _digits(draw, 14))
    master = _luhn(f"5{draw.choice('12345')}" + _digits(draw, 13))
    amex = _luhn(f"3{draw.choice('47')}" + _digits(draw, 12))
    long = _luhn("62" + _digits(draw, 16))
    wide = _groups(visa, (4, 4, 4, 4), " ").translate({48 + n: 0xFF10 + n for n in range(10)})
    return (
        ("my card ", visa, " expires 04/29"),
        ("card: ", _groups(visa, (4, 4, 4, 4), " "), "."),
        ("(", _groups(master, (4, 4, 4, 4), "-"), ")"),
        ("Amex ", _groups(amex, (4, 6, 5), " "), ", code 1234"),
        ('"number":"', master, '",'),
        ("UnionPay ", long, ""),
        ("カード ", wide, "。"),
        ("pay with ", "4111 1111 1111 1111", " please"),
    )[way]


def _mod_97(country: str, body: str) -> str:
    value = "".join(str(string.digits.find(c) if c.isdigit() else ord(c) - 55) for c in body)
    value += "".join(str(ord(letter) - 55) for letter in country) + "00"
    return f"{country}{98 - int(value) % 97:02}{body}"


def _iban(draw: random.Random, way: int) -> Drawn:
    german = _mod_97("DE", _digits(draw, 18))
    british = _mod_97("GB", _letters(draw, 4, string.ascii_uppercase) + _digits(draw, 14))
    french = _mod_97("FR", _digits(draw, 10) + _letters(draw, 11).upper() + _digits(draw, 2))
    norwegian = _mod_97("NO", _digits(draw, 11))
    maltese = _mod_97("MT", "MALT" + _digits(draw, 5) + _letters(draw, 18).upper())
    fours = (4,) * 9
    return (
        ("IBAN ", german, "."),
        ("to ", _groups(german, fours, " "), " by Friday"),
        ("IBAN: ", british, ""),
        ("(", _groups(british, fours, " "), ")"),
        ("compte ", _groups(french, fours, " "), "."),
        ("konto ", norwegian, ","),
        ('"iban": "', maltese, '"'),
        ("iban ", _groups(german, fours, "-").lower(), " danke"),
    )[way]


def _ssn(draw: random.Random, way: int) -> Drawn:
    area = draw.choice([f"{n:03}" for n in range(1, 900) if n != 666])
    group = f"{draw.randrange(1, 100):02}"
    serial = f"{draw.randrange(1, 10000):04}"
    plain = f"{area}-{group}-{serial}"
    return (
        ("it is ", plain, "."),
        ("SSN: ", plain, ""),
        ("SSN ", f"{area}{group}{serial}", ","),
        ("social security number ", f"{area} {group} {serial}", "."),
        ('{"ssn": "', plain, '"}'),
        ("(", plain, ")"),
        ("number ", plain.replace("-", "\N{NON-BREAKING HYPHEN}"), " on file"),
        ("My social security no. is ", f"{area}{group}{serial}", ""),
    )[way]


def _ip_address(draw: random.Random, way: int) -> Drawn:
    public = f"{draw.choice([8, 23, 52, 81, 93, 151])}." + ".".join(
        str(draw.randrange(1, 255)) for _ in range(3)
    )
    groups = [f"{draw.randrange(1, 65536):x}" for _ in range(6)]
    long = "2a01:4f8:" + ":".join(groups)
    return (
        ("", "8.8.8.8", ""),
        ("from ", public, "."),
        ("http://", public, ":8080/x"),
        ("host=", public, ","),
        ("allow ", public, "/32"),
        ("resolver ", "2001:4860:4860::8888", "."),
        ("to ", long, ""),
        ("[", "2606:4700:" + groups[0] + "::" + groups[1], "]:443"),
    )[way]


# Verhoeff's check by its group: a digit below five turns a pentagon, one from five on mirrors it.
def _turned(first: int, second: int) -> int:
    if first < 5 and second < 5:
        return (first + second) % 5
    if first < 5:
        return (first + second - 5) % 5 + 5
    if second < 5:
        return (first - 5 - second) % 5 + 5
    return (first - second) % 5


def _verhoeff(body: str) -> str:
    def moved(digit: int, times: int) -> int:
        for _ in range(times):
            digit = int("1576283094"[digit])
        return digit

    for check in range(10):
        state = 0
        for place, digit in enumerate(reversed(body + str(check))):
            state = _turned(state, moved(int(digit), place % 8))
        if state == 0:
            return body + str(check)
    raise AssertionError("one of ten digits checks")


def _aadhaar(draw: random.Random, way: int) -> Drawn:
    number = _verhoeff(draw.choice("23456789") + _digits(draw, 10))
    fours = _groups(number, (4, 4, 4), " ")
    hindi = fours.translate({48 + n: 0x966 + n for n in range(10)})
    return (
        ("it is ", fours, "."),
        ("Aadhaar: ", number, ""),
        ("Aadhaar no. ", _groups(number, (4, 4, 4), "-"), ","),
        ("आधार संख्या ", hindi, " है"),
        ("aadhar number is ", number, "."),
        ('"uid": "', number, '"'),
        ("(", fours, ")"),
        ("ID ", fours.replace(" ", "\N{NO-BREAK SPACE}"), ""),
    )[way]


def _pan(draw: random.Random, way: int) -> Drawn:
    capitals = string.ascii_uppercase
    holder = draw.choice("ABCFGHJLPT")
    value = _letters(draw, 3, capitals) + holder + draw.choice(capitals)
    value += _digits(draw, 4) + draw.choice(capitals)
    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in value)
    return (
        ("it is ", value, "."),
        ("PAN: ", value, ""),
        ("(", value, ")"),
        ('{"pan": "', value, '"}'),
        ("pan card ", value.lower(), ","),
        ("PAN/", value, "/2024"),
        ("पैन ", wide, " है"),
        ("Permanent Account Number\n", value, "\n"),
    )[way]


def _token(draw: random.Random) -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    head = json.dumps({"alg": "HS256", "typ": "JWT"}).encode()
    body = json.dumps({"sub": _digits(draw, 6), "admin": True}).encode()
    return ".".join([part(head), part(body), part(draw.randbytes(32))])


def _block(draw: random.Random) -> str:
    lines = base64.encodebytes(draw.randbytes(300)).decode()
    return f"-----BEGIN RSA PRIVATE KEY-----\n{lines}-----END RSA PRIVATE KEY-----"


def _secret(draw: random.Random, way: int) -> Drawn:
    upper = string.ascii_uppercase
    slack = f"xoxb-{_digits(draw, 12)}-{_digits(draw, 12)}-{_letters(draw, 24)}"
    word = draw.choice(["sunny", "Tr0ub", "kitten", "geheim"]) + _digits(draw, 4) + "!"
    return (
        ("AWS_ACCESS_KEY_ID=", "AKIA" + _letters(draw, 16, upper + "234567"), "\n"),
        ("token ", "ghp_" + _letters(draw, 36), "."),
        ("export SLACK=", slack, ""),
        ("OPENAI_API_KEY=", "sk-proj-A1" + _letters(draw, 46), ""),
        ("", _block(draw), "\n"),
        ("Authorization: Bearer ", _token(draw), ""),
        ("the password is ", word, " for now"),
        ("aws_secret_access_key = ", "a1" + _letters(draw, 38, _ALPHANUMERIC + "/+"), "\n"),
    )[way]


def _base58check(payload: bytes) -> str:
    check = hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    number = int.from_bytes(payload + check, "big")
    letters = ""
    while number:
        number, rest = divmod(number, 58)
        letters = _BASE58[rest] + letters
    zeros = len(payload) - len(payload.lstrip(b"\0"))
    return "1" * zeros + letters


def _wallet(draw: random.Random, way: int) -> Drawn:
    first = _base58check(b"\0" + draw.randbytes(20))
    third = _base58check(b"\5" + draw.randbytes(20))
    ethereum = "0x" + draw.randbytes(20).hex()
    return (
        ("send to ", first, "."),
        ("BTC: ", third, ""),
        ("bitcoin:", first, "?amount=1"),
        ("(", third, ")"),
        ("wallet ", ethereum, ","),
        ('"to": "', ethereum, '"'),
        # The examples of BIP 173.
        ("pay ", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", ""),
        ("PAY ", "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4", "."),
    )[way]


def _mac_address(draw: random.Random, way: int) -> Drawn:
    pairs = _groups(draw.randbytes(6).hex(), (2,) * 6, ":")
    return (
        ("device ", pairs, "."),
        ("MAC ", pairs.upper(), ""),
        ("(", pairs.replace(":", "-"), ")"),
        ("ether ", pairs, " txqueuelen"),
        ("", pairs.upper().replace(":", "-"), ","),
        ("cisco ", _groups(pairs.replace(":", ""), (4, 4, 4), "."), ""),
        ('"mac":"', pairs, '"'),
        ("arp ", pairs, "\n"),
    )[way]


def _cpf(draw: random.Random, way: int) -> Drawn:
    digits = _digits(draw, 9)
    for _ in range(2):
        total = sum(int(d) * weight for weight, d in enumerate(reversed(digits), 2))
        digits += str((11 - total % 11) % 11 % 10 if total % 11 > 1 else 0)
    dotted = f"{digits[:3]}.{digits[3:6]}.{digits[6:9]}-{digits[9:]}"
    return (
        ("meu CPF é ", dotted, "."),
        ("CPF: ", digits, ""),
        ("(", dotted, ")"),
        ('{"cpf": "', digits, '"}'),
        ("documento ", dotted, ","),
        ("número ", f"{digits[:9]}-{digits[9:]}", "."),
        ("cpf ", f"{digits[:3]} {digits[3:6]} {digits[6:9]} {digits[9:]}", ""),
        ("", dotted.replace("-", "\N{EN DASH}"), ""),
    )[way]


def _dni(draw: random.Random, way: int) -> Drawn:
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    number = _digits(draw, 8)
    value = number + letters[int(number) % 23]
    sign = draw.randrange(3)
    rest = _digits(draw, 7)
    foreigner = "XYZ"[sign] + rest + letters[int(f"{sign}{rest}") % 23]
    return (
        ("mi DNI es ", value, "."),
        ("DNI: ", f"{number}-{value[-1]}", ""),
        ("NIE ", foreigner, ","),
        ("(", f"{foreigner[0]}-{rest}-{foreigner[-1]}", ")"),
        ('"dni": "', value, '"'),
        ("identidad ", f"{number[:2]}.{number[2:5]}.{number[5:]}-{value[-1]}", "."),
        ("dni ", value.lower(), " gracias"),
        ("titular ", value, ""),
    )[way]


def _resident_id(draw: random.Random, way: int) -> Drawn:
    region = draw.choice(["110105", "310101", "440305", "510107"])
    born = f"{draw.randrange(1950, 2006)}{draw.randrange(1, 13):02}{draw.randrange(1, 29):02}"
    body = region + born + _digits(draw, 3)
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    rest = sum(int(d) * weight for d, weight in zip(body, weights, strict=True)) % 11
    value = body + "10X98765432"[rest]
    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in value)
    return (
        ("身份证号", value, "。"),
        ("身份证：", value, ""),
        ("ID ", value, "."),
        ("(", value, ")"),
        ('"id": "', value, '"'),
        ("号码 ", _groups(value, (6, 8, 4), " "), "，"),
        ("id ", value.lower(), ","),
        ("证件", wide, "。"),
    )[way]


KINDS: dict[str, Callable[[random.Random, int], Drawn]] = {
    "email": _email,
    "phone": _phone,
    "card": _card,
    "iban": _iban,
    "ssn": _ssn,
    "ip_address": _ip_address,
    "aadhaar": _aadhaar,
    "pan": _pan,
    "secret": _secret,
    "wallet": _wallet,
    "mac_address": _mac_address,
    "cpf": _cpf,
    "dni": _dni,
    "resident_id": _resident_id,
}
