"""Checksums hold for published examples, and not for their neighbours."""

import pytest

from engine.curation.privacy import checksums

RIGHT = {
    checksums.is_luhn: ["79927398713", "4111111111111111", "378282246310005"],
    checksums.is_verhoeff: ["2363", "123451", "1428570"],
    checksums.is_mod_97: ["GB82WEST12345698765432", "DE89370400440532013000", "NO9386011117947"],
    checksums.is_cpf: ["52998224725", "11144477735"],
    checksums.is_dni: ["12345678Z", "00000000T", "X1234567L", "Z7654321H"],
    checksums.is_resident_id: ["11010519491231002X", "440524188001010014"],
}
ADDRESSES = {
    checksums.is_base58check: [
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
        "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
        "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy",
    ],
    checksums.is_bech32: [
        "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
        "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4",
        "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
    ],
}
CASES = [(check, text) for check, texts in (RIGHT | ADDRESSES).items() for text in texts]


@pytest.mark.parametrize(("check", "text"), CASES)
def test_a_published_example_holds(check, text):
    assert check(text)


@pytest.mark.parametrize(("check", "text"), CASES)
def test_one_other_digit_breaks_it(check, text):
    head = 3  # "bc1" is no digit of an address
    if len(text) < 20:
        head = 0
    places = [place for place in range(head, len(text)) if text[place].isdigit()]
    assert places
    for place in places:
        other = "4" if text[place] == "3" else "3"
        assert not check(text[:place] + other + text[place + 1 :])


def test_verhoeff_finds_neighbours_that_changed_places():
    assert checksums.is_verhoeff("2363")
    assert not checksums.is_verhoeff("3263")
    assert not checksums.is_verhoeff("2633")


def test_eleven_equal_digits_are_no_cpf():
    assert not checksums.is_cpf("11111111111")
