"""The checksums of numbers that people and accounts are known by; each holds for one in ten to one
in four thousand million numbers of its form by chance."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
# Verhoeff (1969): the multiplication table of the dihedral group of order ten, and the permutation
# that a digit goes through as often as its place says.
_TIMES = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 2, 3, 4, 0, 6, 7, 8, 9, 5),
    (2, 3, 4, 0, 1, 7, 8, 9, 5, 6),
    (3, 4, 0, 1, 2, 8, 9, 5, 6, 7),
    (4, 0, 1, 2, 3, 9, 5, 6, 7, 8),
    (5, 9, 8, 7, 6, 0, 4, 3, 2, 1),
    (6, 5, 9, 8, 7, 1, 0, 4, 3, 2),
    (7, 6, 5, 9, 8, 2, 1, 0, 4, 3),
    (8, 7, 6, 5, 9, 3, 2, 1, 0, 4),
    (9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
)
_MOVED = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def is_luhn(digits: str) -> bool:
    """Luhn's sum (ISO/IEC 7812): every second digit from the right but one counts double."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        if place % 2:
            value = sum(divmod(2 * value, 10))
        total += value
    return total % 10 == 0


def is_verhoeff(digits: str) -> bool:
    """Verhoeff's check, which India's Aadhaar has."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = _MOVED[value]
        check = _TIMES[check][value]
    return check == 0


def is_mod_97(letters: str) -> bool:
    """ISO 7064, mod 97-10, as an IBAN has it: its first four characters go to its end, a letter
    counts as 10 to 35, and the rest by 97 is one."""
    moved = letters[4:] + letters[:4]
    number = "".join(str(int(letter, 36)) for letter in moved)
    return int(number) % 97 == 1


def is_cpf(digits: str) -> bool:
    """Brazil's CPF: the last two of eleven digits check those before them, modulo 11."""
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        weights = range(length + 1, 1, -1)
        total = _weighted(digits[:length], weights)
        if int(digits[length]) != total * 10 % 11 % 10:
            return False
    return True


def is_dni(letters: str) -> bool:
    """Spain's DNI and NIE: the letter is told by the number modulo 23; X, Y, Z begin as 0, 1, 2."""
    number = letters[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == letters[-1]


def is_resident_id(letters: str) -> bool:
    """China's resident identity number (GB 11643): mod 11-2, an X counts as ten."""
    weights = [2**place % 11 for place in range(17, 0, -1)]
    total = _weighted(letters[:17], weights)
    return "10X98765432"[total % 11] == letters[17]


def is_base58check(letters: str) -> bool:
    """Bitcoin's first form of an address: 25 bytes whose last four are of a double SHA-256."""
    number = 0
    for letter in letters:
        number = number * 58 + _BASE58.index(letter)
    if number.bit_length() > 25 * 8:
        return False
    data = number.to_bytes(25, "big")
    check = hashlib.sha256(hashlib.sha256(data[:-4]).digest()).digest()
    return check[:4] == data[-4:]


def is_bech32(letters: str) -> bool:
    """Bitcoin's second form (BIP 173, and BIP 350 for later versions), in one case."""
    prefix, _, data = letters.lower().rpartition("1")
    values = [ord(letter) >> 5 for letter in prefix] + [0]
    values += [ord(letter) & 31 for letter in prefix]
    values += [_BECH32.index(letter) for letter in data]
    return _bech32_rest(values) in (1, 0x2BC830A3)


def _bech32_rest(values: Sequence[int]) -> int:
    rest = 1
    for value in values:
        top = rest >> 25
        rest = (rest & 0x1FFFFFF) << 5 ^ value
        for bit, term in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            if top >> bit & 1:
                rest ^= term
    return rest


def _weighted(digits: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))
