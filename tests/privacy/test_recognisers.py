"""What is a number of a person, and what only looks like one."""

import datetime
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lm.privacy import checks
from keras_lm.privacy.desensitizing import Desensitizer
from keras_lm.privacy.planted import LISTED_NAMES, id_card_digit, luhn_digit, planted_texts, score
from keras_lm.privacy.recognisers import RECOGNISERS, narrow

DIGITS = st.text("0123456789", min_size=1, max_size=30)


@given(DIGITS)
def test_luhn_accepts_one_check_digit_of_ten(digits):
    right = [digit for digit in "0123456789" if checks.passes_luhn(digits + digit)]
    assert right == [luhn_digit(digits)]


@given(st.text("0123456789", min_size=17, max_size=17))
def test_mod_11_2_accepts_one_check_character_of_eleven(digits):
    right = [character for character in "0123456789X" if checks.passes_mod_11_2(digits + character)]
    assert right == [id_card_digit(digits)]


@given(DIGITS, st.data())
def test_luhn_notices_any_wrong_digit(digits, data):
    number = digits + luhn_digit(digits)
    place = data.draw(st.integers(0, len(number) - 1))
    other = data.draw(st.sampled_from([digit for digit in "0123456789" if digit != number[place]]))
    assert not checks.passes_luhn(number[:place] + other + number[place + 1 :])


@given(st.dates(datetime.date(1900, 1, 1), datetime.date(2025, 12, 31)), st.text("0123456789", min_size=3, max_size=3))
def test_every_date_there_was_is_a_birthday(born, number):
    digits = f"110101{born:%Y%m%d}{number}"
    assert checks.is_id_card(digits + id_card_digit(digits))


@pytest.mark.parametrize(
    "digits",
    ["11010119900230123", "11010119901301123", "11010119900101" + "00", "99010119900101123", "00010119900101123", "11010117991301123"],
)
def test_what_has_no_place_or_no_date_is_no_id_card(digits):
    assert not checks.is_id_card((digits + id_card_digit(digits)) if len(digits) == 17 else digits)


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("phone", "13812345678", ["13812345678"]),
        ("phone", "请打１３８１２３４５６７８或+86 138-1234-5678。", ["１３８１２３４５６７８", "+86 138-1234-5678"]),
        ("phone", "138 1234 5678 / 138-1234-5678 / 138.1234.5678", ["138 1234 5678", "138-1234-5678", "138.1234.5678"]),
        ("phone", "Tel13812345678,0086-13812345678", ["13812345678", "0086-13812345678"]),
        ("phone", "（０１０）６２３４５６７８转801", ["（０１０）６２３４５６７８转801"]),
        ("phone", "0571-87654321、02162345678", ["0571-87654321", "02162345678"]),
        ("phone", "电话：62345678，62345679", ["62345678", "62345679"]),
        ("phone", "400-820-8820, 400 820 8820", ["400-820-8820", "400 820 8820"]),
        ("phone", "(212) 555-0123 or 212.555.0123 ext. 12", ["(212) 555-0123", "212.555.0123 ext. 12"]),
        ("phone", "+44 (0)20 7946 0958, 07700 900123, +49 30 901820", ["+44 (0)20 7946 0958", "07700 900123", "+49 30 901820"]),
        ("phone", "call 2125550123", ["2125550123"]),
        ("phone", "订单号13812345678，13812345678元，QQ：13812345678，x13812345678，#13812345678", []),
        ("phone", "913812345678 13812345678.5 2023-13812345678 12345678901 212 555 0123 62345678", []),
        ("phone", "1998 1999 2000 2001，2023-11-29 12:30:45，3.14159265358979，1,234,567,890", []),
        ("phone", "c0ffee13812345678 https://example.com/item/13812345678.html", []),
        ("id_card", "身份证11010519491231002x。", ["11010519491231002x"]),
        ("id_card", "110105 19491231 002X和110105-19491231-002X", ["110105 19491231 002X", "110105-19491231-002X"]),
        ("id_card", "证件110105491231002", ["110105491231002"]),
        ("id_card", "110105194912310021, 911010519491231002X, 订单号110105491231002", []),
        ("bank_card", "6222021234567890128 4111-1111-1111-1111", ["6222021234567890128", "4111-1111-1111-1111"]),
        ("bank_card", "卡6222 0212 3456 7890 128 2023年", ["6222 0212 3456 7890 128"]),
        ("bank_card", "3782 822463 10005", ["3782 822463 10005"]),
        ("bank_card", "6222021234567890129 4111 1111 1111 1112 9780306406157 62220212345678901286", []),
        ("email", "邮箱a.b+c@mail.example.co.uk，<x_1@163.com>.", ["a.b+c@mail.example.co.uk", "x_1@163.com"]),
        ("email", "@小明 user@localhost a@b 价格@5元 a@@b.com", []),
        ("ip", "192.168.0.1:80, 从10.0.0.255登录, server 8.8.8.8.", ["192.168.0.1", "10.0.0.255", "8.8.8.8"]),
        ("ip", "IP：2001:db8::7 [fe80::1ff:fe23:4567:890a]:80", ["2001:db8::7", "fe80::1ff:fe23:4567:890a"]),
        ("ip", "256.1.1.1 1.2.3.4.5 版本1.2.3.4 v1.2.3.4 第1.2.3.4节 12:30:45 std::vector dead::beef 1.2.3", []),
        ("ip", "山西１．３０．９０．５", []),
        ("mac", "MAC:00:1A:2B:3C:4D:5E 00-1a-2b-3c-4d-5e 001a.2b3c.4d5e", ["00:1A:2B:3C:4D:5E", "00-1a-2b-3c-4d-5e", "001a.2b3c.4d5e"]),
        ("mac", "00:1A:2B:3C:4D:5E:6F 20-11-22-10-30-59 12:30:45", []),
        ("plate", "京A12345、沪A·D1234、粤BD12345、粤B12345F、京A1234学", ["京A12345", "沪A·D1234", "粤BD12345", "粤B12345F", "京A1234学"]),
        ("plate", "license plate: ABC-1234, plate number is 7XYZ123", ["ABC-1234", "7XYZ123"]),
        ("plate", "川A股跌，新A12，京AI2345，沪ABCDEF，plate numbers, a plate of 12345", []),
    ],
)
def test_what_is_found(kind, text, found):
    spans = sorted(RECOGNISERS[kind](narrow(text)))
    assert list(dict.fromkeys(text[span.start : span.end] for span in spans)) == found


def test_one_number_has_one_key_however_it_is_written():
    for forms in (
        "13812345678 138-1234-5678 +8613812345678 0086-13812345678 １３８１２３４５６７８",
        "010-62345678 (010)62345678 01062345678 +86-10-62345678",
        "212-555-0123 +12125550123 (212)555-0123",
    ):
        assert len({span.key for form in forms.split() for span in RECOGNISERS["phone"](narrow(form))}) == 1, forms


@given(st.text("0123456789 ()-+.:xX@abf京A转", max_size=60))
def test_nothing_is_found_beyond_the_text(text):
    for find in RECOGNISERS.values():
        for span in find(text):
            assert 0 <= span.start < span.end <= len(text) and span.key


@pytest.mark.parametrize(
    "text", ["1" * 20_000, "+1" * 10_000, "1 " * 10_000, "a" * 20_000 + "@", "a." * 10_000 + "@a." + "a." * 9000, "1:" * 10_000]
)
def test_no_text_takes_long(text):
    begun = time.process_time()
    Desensitizer(names=LISTED_NAMES)(text)
    assert time.process_time() - begun < 5


def test_figures_on_planted_texts():
    """The issue's: recall at least 0.98 and precision at least 0.95, kind by kind."""
    scores = score(Desensitizer(names=LISTED_NAMES).find, planted_texts(2000, seed=7))
    assert set(scores) == {*RECOGNISERS, "name"}
    for kind, own in scores.items():
        assert own.planted > 100 and own.recall >= 0.98 and own.precision >= 0.95, (kind, own)


def test_planted_texts_are_a_function_of_the_seed():
    first, again, other = (list(planted_texts(20, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_recogniser_that_finds_nothing_fails_the_figures():
    assert all(own.recall == 0 for own in score(lambda text: [], planted_texts(50)).values())
