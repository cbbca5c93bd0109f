"""Which numbers there can be: check digits, dates of birth, who issues a card, which country a telephone number begins with.

A run of digits that fails its check is no identity card and no bank card, whatever stands around it.

References:
    GB 11643-1999 (identity cards) and ISO/IEC 7064, MOD 11-2; ISO/IEC 7812-1 (cards, Luhn's check digit); ITU-T E.164 (country codes).
"""

from __future__ import annotations

import datetime
import re

PROVINCES = frozenset(
    f"{region}{number}"
    for region, last in enumerate((5, 3, 7, 6, 4, 5), start=1)  # north, north-east, east, south, south-west, north-west
    for number in range(0 if region == 5 else 1, last + 1)
) | {"71", "81", "82", "83", "91"}
"""The first two digits of an identity card: a province, a residence permit (81 to 83), or someone born abroad (91)."""

_DOUBLED = {str(digit): sum(divmod(2 * digit, 10)) for digit in range(10)}


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others by Luhn's rule.

    >>> passes_luhn("4111111111111111"), passes_luhn("4111111111111112")
    (True, False)
    """
    return (sum(map(int, digits[::-2])) + sum(_DOUBLED[digit] for digit in digits[-2::-2])) % 10 == 0


def passes_mod_11_2(number: str) -> bool:
    """Whether the last character, a digit or X for ten, is the check character of the digits before it by ISO/IEC 7064, MOD 11-2.

    >>> passes_mod_11_2("11010519491231002X"), passes_mod_11_2("110105194912310021")
    (True, False)
    """
    product = 0
    for digit in number[:-1]:
        product = (product + int(digit)) * 2 % 11
    return (product + (10 if number[-1] in "Xx" else int(number[-1]))) % 11 == 1


def is_id_card(number: str) -> bool:
    """Whether this can be a Chinese identity card: a place, a date of birth that there was, and in the form of 18 its check character.

    The old form of 15 digits has a year of two digits and no check.

    >>> is_id_card("11010519491231002X"), is_id_card("11010519490231002X"), is_id_card("110105491231002")
    (True, False, True)
    """
    return has_place_and_birth(number) and (len(number) == 15 or passes_mod_11_2(number))


def has_place_and_birth(number: str) -> bool:
    """Whether a number of 15 or 18 characters begins as an identity card does: with a place and a date of birth that there was."""
    if len(number) not in (15, 18):
        return False
    born = number[6:14] if len(number) == 18 else "19" + number[6:12]
    abroad = number[0] == "9" and number[1:3] in PROVINCES  # the permit of foreigners: 9, then where it was issued
    if not abroad and number[:2] not in PROVINCES:
        return False
    try:
        datetime.date(int(born[:4]), int(born[4:6]), int(born[6:]))
    except ValueError:
        return False
    return True


_ISSUERS = (
    (r"62|81[0-7]", (16, 17, 18, 19)),  # UnionPay
    (r"955[89]|60[13]|685800|690755", (16, 17, 18, 19)),  # Chinese banks, from before UnionPay
    (r"4", (13, 16, 19)),  # Visa
    (r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),  # Mastercard
    (r"3[47]", (15,)),  # American Express
    (r"30[0-5]|3095|3[689]", (14,)),  # Diners Club
    (r"35(?:2[89]|[3-8])", (16, 17, 18, 19)),  # JCB
    (r"6011|64[4-9]|65", (16, 19)),  # Discover
    (r"5018|5020|5038|5893|6304|6759|676[1-3]", (16, 17, 18, 19)),  # Maestro
    (r"220[0-4]", (16, 17, 18, 19)),  # Mir
)
_ISSUER = tuple((re.compile(prefix), lengths) for prefix, lengths in _ISSUERS)


def is_bank_card(digits: str) -> bool:
    """Whether this can be the number of a bank card: an issuer's first digits, as many digits as it uses, and Luhn's check digit.

    >>> is_bank_card("6222021234567890128"), is_bank_card("6222021234567890129"), is_bank_card("0000000000000000")
    (True, False, False)
    """
    return any(len(digits) in lengths and prefix.match(digits) for prefix, lengths in _ISSUER) and passes_luhn(digits)


COUNTRY_CODE = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|(?:2[1-69]|35|37|38|50|59|67|68|69|85|88|96|97|99)[0-9]|42[013]"
)
"""How the international number of a telephone begins."""
