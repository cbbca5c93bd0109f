"""What finds numbers of persons in a text: a function a kind, by what the numbers look like and by their checks, in Chinese and English.

Each is called with a text in which full-width letters and digits are ordinary ones (`narrow`), and gives spans. Patterns find what may be
meant; `checks` and the words just before and behind say whether it is. A run of digits inside a longer one is nothing, and neither is one
that is called an order, an amount or a version.

This is Python's `re`: RE2, which TensorFlow has, cannot look behind, and knows no check digit. Most of a text holds no digits at all, and
is passed over at once: numbers are looked for around runs of digits alone.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from keras_lm.privacy.checks import COUNTRY_CODE, has_place_and_birth, is_bank_card, is_id_card


class Span(NamedTuple):
    """A secret in a text.

    Args:
        start: Its first character.
        end: The one behind its last.
        kind: What it is: a key of `RECOGNISERS`, `name`, or what another recogniser calls it.
        key: The secret in one form, however it was written: what has the same key gets the same placeholder.
    """

    start: int
    end: int
    kind: str
    key: str


Recogniser = Callable[[str], Iterable[Span]]
"""Finds secrets in a text; spans need no order, and may overlap."""

_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if code != 0xFF0E} | {0x3000: 0x20}
"""But for the full stop, which stands between the amounts of a table as well as inside them."""


def narrow(text: str) -> str:
    """The text with full-width letters, digits and marks as ordinary ones, character for character.

    >>> narrow("电话：１３８")
    '电话:138'
    """
    return text.translate(_NARROW)


may_hold_numbers = re.compile("[0-9@\uff10-\uff19\uff20]").search
"""Whether a text may hold anything that the functions here find: each of these has a digit, or is an address of e-mail."""

# What may not stand around a number: digits and letters, and what joins it to more digits.
_FREE = r"(?<![0-9A-Za-z_#])(?<![0-9][.．\-])(?<![A-Za-z]/)"
_END = r"(?![0-9A-Za-z_])(?![.．\-][0-9])"
_STRETCH = re.compile(r"[0-9](?:[ ().\-]{0,3}[0-9]){6,}")
_BEFORE, _BEHIND = 8, 16  # characters around a stretch that may belong to a number: plus and brackets, check character and extension


@functools.lru_cache(maxsize=1)
def _windows(text: str) -> tuple[tuple[int, int], ...]:
    """Where numbers may be: first character and end of each place, none touching the next."""
    windows: list[tuple[int, int]] = []
    for stretch in _STRETCH.finditer(text):
        start, end = max(stretch.start() - _BEFORE, 0), stretch.end() + _BEHIND
        if windows and windows[-1][1] >= start:
            windows[-1] = windows[-1][0], end
        else:
            windows.append((start, end))
    return tuple(windows)


def _matches(text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """The matches of a pattern in and around the runs of seven digits or more."""
    for start, end in _windows(text):
        yield from pattern.finditer(text, start, end)


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


_BORN = r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
_ID_CARD = re.compile(rf"{_FREE}[1-9](?:[0-9]{{5}}([ -]?){_BORN}\1[0-9]{{3}}[0-9Xx]|[0-9]{{14}}){_END}")
_IDENTITY = re.compile(r"(?:身份|证件|identity|\bid\b)[^0-9\n]{0,12}$", re.IGNORECASE)


def id_cards(text: str) -> Iterator[Span]:
    """Chinese identity cards: 18 characters whose check character is right, also in groups of 6, 8 and 4, or the 15 digits of the old form.

    >>> [span.key for span in id_cards("身份证11010519491231002X，不是110105194912310021")]
    ['11010519491231002X']
    """
    for match in _matches(text, _ID_CARD):
        number = re.sub(r"[ -]", "", match.group()).upper()
        if is_id_card(number) and (len(number) == 18 or _is_old_id_card(text, match)):
            yield Span(*match.span(), "id_card", number)


def _is_old_id_card(text: str, match: re.Match[str]) -> bool:
    called = _IDENTITY.search(_before(text, match)) is not None
    return called or not (is_bank_card(match.group()) or _is_something_else(text, match))


_BANK_CARD = re.compile(
    rf"{_FREE}[2-9](?:[0-9]{{12,18}}|[0-9]{{5}}[ -][0-9]{{10,13}}|[0-9]{{3}}([ -])[0-9]{{4,6}}(?:\1[0-9]{{1,5}}){{1,3}}){_END}"
)


def bank_cards(text: str) -> Iterator[Span]:
    """Bank cards of 13 to 19 digits, whole or in groups, whose first digits an issuer has and whose last is Luhn's check digit.

    >>> [span.key for span in bank_cards("卡号6222 0212 3456 7890 128，订单6222021234567890129")]
    ['6222021234567890128']
    """
    for match in _matches(text, _BANK_CARD):
        groups = re.split(r"[ -]", match.group())
        while groups and not _is_card_shape(groups):
            groups.pop()  # what stands behind the last group is another number
        number = "".join(groups)
        if is_bank_card(number) and not (len(number) == 18 and has_place_and_birth(number)):
            yield Span(match.start(), match.start() + len(number) + len(groups) - 1, "bank_card", number)


def _is_card_shape(groups: Sequence[str]) -> bool:
    """Whether digits may be grouped so: not at all, by fours, as 6 and the rest, or as 4, 6 and the rest."""
    *sizes, last = map(len, groups)
    by_fours = (sizes == [4] * 3 and last <= 4) or (sizes == [4] * 4 and last <= 3)
    return by_fours or sizes in ([], [6]) or (sizes == [4, 6] and last in (4, 5))


_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9_][A-Za-z0-9._%+\-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}"
    r"(?![A-Za-z0-9@])"
)


def emails(text: str) -> Iterator[Span]:
    """Addresses of e-mail, in Latin letters.

    >>> [span.key for span in emails("写信到Li.Lei@mail.example.com。@李雷 不是")]
    ['li.lei@mail.example.com']
    """
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield Span(*match.span(), "email", match.group().lower())


_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?<![0-9A-Za-z_])(?<![0-9][.\-])(?:{_OCTET}\.){{3}}{_OCTET}(?![0-9A-Za-z_])(?!\.[0-9A-Za-z])")
_MAY_BE_IPV4 = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]")
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z_.])(?=[0-9A-Fa-f:]{0,38}[0-9])"  # dead::beef is a name in a program
    r"(?:[0-9A-Fa-f]{3,4}:(?:[0-9A-Fa-f]{0,4}:){1,6}|(?:[0-9A-Fa-f]{1,4}:){7})[0-9A-Fa-f]{1,4}(?![0-9A-Za-z_:])"
)
_MAY_BE_IPV6 = re.compile(r":[0-9A-Fa-f]{0,4}:")
_GROUP = re.compile(r"(?:(?<![0-9A-Za-z])[0-9A-Fa-f]{1,4}|:):$")
_VERSION = re.compile(
    r"(?:版本|版|固件|第|§|(?<![A-Za-z])(?:version|ver|v|release|build|firmware|section))[ 号:为是.]{0,4}$", re.IGNORECASE
)
_PART = re.compile(r" ?[节章条款版]")


def ip_addresses(text: str) -> Iterator[Span]:
    """Addresses of the Internet protocol, of version 4 and 6, but for versions of programs and numbers of sections.

    >>> [span.key for span in ip_addresses("从192.168.1.20或2001:db8::7登录，版本1.2.3.4，12:30:45")]
    ['192.168.1.20', '2001:db8::7']
    """
    if _MAY_BE_IPV4.search(text):
        for match in _IPV4.finditer(text):
            if not _VERSION.search(_before(text, match)) and not _PART.match(text, match.end()):
                yield Span(*match.span(), "ip", match.group())
    if _MAY_BE_IPV6.search(text):
        for match in _IPV6.finditer(text):
            if _GROUP.search(_before(text, match)):
                continue
            with contextlib.suppress(ValueError):
                yield Span(*match.span(), "ip", str(ipaddress.IPv6Address(match.group())))


_MAC = re.compile(
    r"(?<![0-9A-Za-z_])(?<!(?<![0-9A-Za-z])[0-9A-Fa-f]{2}[:\-])"  # MAC: is no pair
    r"(?:[0-9A-Fa-f]{2}([:\-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})"
    r"(?![0-9A-Za-z_])(?![:\-.][0-9A-Fa-f])"
)
_MAY_BE_MAC = re.compile(r":[0-9A-Fa-f]{2}:|-[0-9A-Fa-f]{2}-|\.[0-9A-Fa-f]{4}\.")


def mac_addresses(text: str) -> Iterator[Span]:
    """Addresses of network cards: six pairs of hexadecimal digits, or three groups of four; digits alone only between colons.

    >>> [span.key for span in mac_addresses("MAC 00:1A:2b:3c:4D:5e, 001a.2b3c.4d5e, 20-11-22-10-30-59")]
    ['001a2b3c4d5e', '001a2b3c4d5e']
    """
    if _MAY_BE_MAC.search(text):
        for match in _MAC.finditer(text):
            key = re.sub(r"[:\-.]", "", match.group()).lower()
            if match.group(1) == ":" or not key.isdecimal():
                yield Span(*match.span(), "mac", key)


_PROVINCE = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_PLATE = re.compile(
    rf"[{_PROVINCE}][A-HJ-NP-Z][ ·•・\-]?"
    r"([A-HJK][A-HJ-NP-Z0-9][0-9]{4}|[0-9]{5}[A-HJK]|[A-HJ-NP-Z0-9]{4}[A-HJ-NP-Z0-9挂学警港澳领试])(?![0-9A-Z])",
    re.IGNORECASE,
)
_ENGLISH_PLATE = re.compile(
    r"(?i:(?:licen[cs]e|number) plates?|plate (?:number|no\.?)|registration (?:number|plate|mark))(?i: is| was| reads|:| #)*[ :]{1,2}[\"']?"
    r"([A-Z0-9]{1,4}[ \-]?[A-Z0-9]{2,5})(?![0-9A-Za-z\-])"
)


def plates(text: str) -> Iterator[Span]:
    """Plates of cars: Chinese ones, of new energy too, anywhere; others behind the words «license plate» or the like.

    >>> [span.key for span in plates("车牌京A·12345和粤BD12345，川A股跌；license plate ABC-1234")]
    ['京A12345', '粤BD12345', 'ABC1234']
    """
    for match in _PLATE.finditer(text):
        if sum(map(str.isdigit, match.group(1))) >= 3:
            yield Span(*match.span(), "plate", re.sub(r"[ ·•・\-]", "", match.group()).upper())
    if "late" in text or "egistration" in text:
        for match in _ENGLISH_PLATE.finditer(text):
            key = re.sub(r"[ \-]", "", match.group(1))
            if not key.isalpha() and not key.isdecimal():
                yield Span(*match.span(1), "plate", key)


_CALLED = re.compile(
    r"(?:电话|手机|热线|传真|座机|联系|致电|拨打|tel|phone|mobile|cell|fax|call|dial|whatsapp|hotline|ring)[^0-9\n]{0,12}$", re.IGNORECASE
)
_CALLED_AT_ONCE = re.compile(
    r"(?:电话|手机|热线|传真|电传|座机|致电|拨打|(?<![A-Za-z])(?:tel|telephone|phone|fax|call|dial))(?:号码?| number)?"
    r"(?: is|为|是|[ :.]){0,3}$",
    re.IGNORECASE,
)
_FOLLOWS = re.compile(r"(?:电话|传真|电传|热线|tel|phone)(?:号码?)?[ :为是]{0,2}(?:[0-9()\- ]{7,16} ?[、,/或和] ?){1,2}$", re.IGNORECASE)
_SOMETHING_ELSE = re.compile(
    r"(?:[单编票账帐户学工货型卡批案文证][号码]|编码|流水号?|序列号?|QQ|时间戳|代码|条码|书号"
    r"|(?<![A-Za-z])(?:order|invoice|tracking|serial|sku|item|timestamp|account|reference|ref|ticket|case|id|uid|no|parcel|batch|isbn|issn))"
    r"(?: (?:number|no|id|code))?(?: is| was|[ 号码为是#:.\-\"“]){0,4}$",
    re.IGNORECASE,
)
_UNIT = re.compile(
    r" ?(?:[元块万亿吨人次个年页条件点米克]|美元|欧元|字节|毫秒|微秒|[%‰]"
    r"|(?:km|kg|usd|rmb|cny|dollars?|bytes?|people|users|pages|items|ms|seconds)\b)",
    re.IGNORECASE,
)


def _before(text: str, match: re.Match[str]) -> str:
    return text[max(match.start() - 40, 0) : match.start()]


def _is_something_else(text: str, match: re.Match[str]) -> bool:
    """Whether the words around say that digits without any mark are another number, or an amount."""
    return _UNIT.match(text, match.end()) is not None or _SOMETHING_ELSE.search(_before(text, match)) is not None


_CALLABLE = r"(?:(?<![0-9A-Za-z_#])|(?<=[Tt][Ee][Ll]))(?<![0-9][.\-])(?<![A-Za-z]/)"  # 电话138..., Tel138...
_EXTENSION = r"(?:(?:-| ?转 ?| ?x| ?ext\.? ?)[0-9]{1,5})?"
_MOBILE = re.compile(
    rf"(?P<mark>(?<![0-9A-Za-z_])\(?\+86\)?[ -]?|{_CALLABLE}\(?(?:00)?86\)?[ -]?)?(?(mark)|{_CALLABLE})"
    rf"(?P<number>1(?:3[0-9]|4[014-9]|5[0-35-9]|6[25-7]|7[0-8]|8[0-9]|9[0-35-9])(?:[ .\-]?[0-9]){{8}}){_END}"
)
_MOBILE_GROUPS = frozenset({(11,), (3, 4, 4), (3, 8), (4, 4, 3), (4, 3, 4), (3, 3, 5), (5, 6), (6, 5), (7, 4)})
_LANDLINE = re.compile(
    rf"{_CALLABLE}(?P<mark>\()?0(?P<number>(?:10|2[0-57-9])(?(mark)\)|-?) ?[2-8][0-9]{{3}}[ -]?[0-9]{{4}}"
    rf"|[3-9][1-9][0-9](?(mark)\)|-?) ?[2-8][0-9]{{2,3}}[ -]?[0-9]{{4}}){_EXTENSION}{_END}"
)
_SERVICE = re.compile(
    rf"{_CALLABLE}(?P<number>[48]00(?P<mark>[ -])[0-9]{{3}}[ -]?[0-9]{{4}}|400(?P<other>[ -])[0-9]{{4}}[ -]?[0-9]{{3}}"
    rf"|400[0-9]-[0-9]{{3}}-[0-9]{{3}}|[48]00[0-9]{{7}}){_END}"
)
_NORTH_AMERICA = re.compile(
    rf"(?:(?<![0-9A-Za-z_])\+1[ .\-]?|{_CALLABLE}(?:1[ .\-])?)(?P<number>(?:\([2-9][0-9]{{2}}\) ?|[2-9][0-9]{{2}}[ .\-]?)"
    rf"[2-9][0-9]{{2}}[ .\-]?[0-9]{{4}}){_EXTENSION}{_END}"
)
_BRITAIN = re.compile(
    rf"{_CALLABLE}0(?P<number>7[0-9]{{3}}[ -][0-9]{{3}}[ -]?[0-9]{{3}}|[12][0-9]{{1,3}}[ -][0-9]{{3,4}}[ -][0-9]{{3,4}}"
    rf"|1[0-9]{{3}}[ -][0-9]{{6}}){_END}"
)
_ABROAD = re.compile(
    r"(?<![0-9A-Za-z_+])(?:\+|(?<![0-9][ .\-])00)(?=[1-9])[0-9]{1,3}(?:[ .\-]?(?:\([0-9]{1,4}\)|[0-9]+(?![0-9]))){1,7}(?![0-9A-Za-z_])"
)
_LOCAL = re.compile(rf"{_CALLABLE}[2-9][0-9]{{2,3}}[ -]?[0-9]{{4}}{_EXTENSION}{_END}(?! [0-9])")


def phones(text: str) -> Iterator[Span]:
    """Telephone numbers: Chinese mobile phones, land lines with their area code, service numbers; North American and British ones; any with
    a plus and a country's code; numbers of 7 or 8 digits behind a word such as 电话 or «call».

    >>> found = set(phones("手机13812345678或+86 138 1234 5678，座机(010)6234-5678；call 212-555-0123；订单号13812345678，1234567890123"))
    >>> [span.key for span in sorted(found)]
    ['13812345678', '13812345678', '1062345678', '2125550123']
    """
    if not _windows(text):
        return
    for pattern, is_meant in _PHONES:
        for match in _matches(text, pattern):
            if is_meant(text, match):
                yield Span(*match.span(), "phone", _digits(match["number"]))
    for match in _matches(text, _ABROAD):
        yield from _international(match)
    for match in _matches(text, _LOCAL):
        if _CALLED_AT_ONCE.search(_before(text, match)) or _FOLLOWS.search(_before(text, match)):
            yield Span(*match.span(), "phone", _digits(match.group()))


def _is_mobile(text: str, match: re.Match[str]) -> bool:
    groups = tuple(map(len, re.split(r"[ .\-]", match["number"])))
    if groups not in _MOBILE_GROUPS or _is_a_part(text, match):
        return False
    return bool(match["mark"]) or len(groups) > 1 or _is_called_or_plain(text, match)


def _is_landline(text: str, match: re.Match[str]) -> bool:
    marked = bool(match["mark"]) or not match.group().isdecimal()
    return not _is_a_part(text, match) and (marked or _is_called_or_plain(text, match))


def _is_a_part(text: str, match: re.Match[str]) -> bool:
    """Whether groups of digits between spaces are the last ones of more."""
    return " " in match.group() and re.search(r"[0-9] $", text[max(match.start() - 2, 0) : match.start()]) is not None


def _is_service(text: str, match: re.Match[str]) -> bool:
    return not match.group().isdecimal() or _CALLED.search(_before(text, match)) is not None


def _is_north_american(text: str, match: re.Match[str]) -> bool:
    marked = match.group()[0] in "+(" or len(re.findall(r"[.\-)]", match["number"])) >= 2 or ") " in match.group()
    return marked or _CALLED.search(_before(text, match)) is not None


def _is_called_or_plain(text: str, match: re.Match[str]) -> bool:
    return _CALLED_AT_ONCE.search(_before(text, match)) is not None or not _is_something_else(text, match)


_PHONES = (
    (_MOBILE, _is_mobile),
    (_LANDLINE, _is_landline),
    (_SERVICE, _is_service),
    (_NORTH_AMERICA, _is_north_american),
    (_BRITAIN, lambda text, match: not _is_a_part(text, match)),
)

_LENGTHS = {"86": (10, 11), "1": (10, 10), "852": (8, 8), "853": (8, 8), "886": (8, 9), "44": (9, 10), "81": (9, 10)}
"""Fewest and most digits behind a country's code; of the others 6 to 12."""


def _international(match: re.Match[str]) -> Iterator[Span]:
    """The number that begins with a country's code; what stands behind its last digit may be another number."""
    written = match.group()
    code = COUNTRY_CODE.match(written, 1 if written[0] == "+" else 2)
    if code is None or (written[0] == "0" and code.end() < len(written) and written[code.end()] not in " -.("):
        return
    least, most = _LENGTHS.get(code.group(), (6, 12))
    for end in range(len(written), code.end(), -1):
        if not written[end - 1].isdecimal() or written[end : end + 1].isdecimal():
            continue
        national = _digits(written[code.end() : end].replace("(0)", "")).removeprefix("0")
        bare = written[code.end() : end].isdecimal()
        if least <= len(national) <= most and (len(national) >= 8 or not bare):
            yield Span(match.start(), match.start() + end, "phone", national)
            return


RECOGNISERS: dict[str, Recogniser] = {
    "email": emails,
    "mac": mac_addresses,
    "ip": ip_addresses,
    "id_card": id_cards,
    "bank_card": bank_cards,
    "phone": phones,
    "plate": plates,
}
"""The recognisers by kind. Where two find the same characters, the one that stands first is right."""
