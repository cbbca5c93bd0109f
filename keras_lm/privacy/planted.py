"""Sentences with secrets planted in them, and where they stand: what recognisers are judged by, made and not collected.

Numbers are made from their public rules, with code that the recognisers do not share: area codes, first digits of cards, check digits
by their weights. Half of the sentences are Chinese, half English; besides secrets they hold what looks like one and is none: numbers of
orders, amounts, dates, versions, runs of digits whose check digit is wrong, ISBNs, @-mentions, names that are in no list.

A sentence is a function of the seed and its number.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import ipaddress
import itertools
import random
from collections.abc import Callable, Iterable, Iterator

Maker = Callable[[random.Random, bool], str]
"""Makes a number for a Chinese text, or else for an English one."""


@dataclasses.dataclass(frozen=True)
class PlantedText:
    """A text, and the secrets in it.

    Args:
        text: The text.
        spans: First character, end and kind of each secret, in their order.
    """

    text: str
    spans: tuple[tuple[int, int, str], ...]


@dataclasses.dataclass
class Score:
    """How well a kind is found.

    Args:
        planted: Secrets of the kind.
        found: Spans that are called by the kind.
        right: Of these, how many are a secret of it, from its first character to its last.
    """

    planted: int = 0
    found: int = 0
    right: int = 0

    @property
    def recall(self) -> float:
        """Share of the secrets that are found; 1 where there are none."""
        return self.right / self.planted if self.planted else 1.0

    @property
    def precision(self) -> float:
        """Share of what is found that is a secret; 1 where nothing is."""
        return self.right / self.found if self.found else 1.0


def score(find: Callable[[str], Iterable[tuple[int, int, str]]], texts: Iterable[PlantedText]) -> dict[str, Score]:
    """Judges what finds spans, kind by kind.

    Args:
        find: From a text to spans, of which the first three fields are start, end and kind.
        texts: To judge it on.

    Example:

    >>> score(lambda text: [(0, 2, "name")], [PlantedText("李雷说", ((0, 2, "name"),)), PlantedText("她说", ())])
    {'name': Score(planted=1, found=2, right=1)}
    """
    scores: dict[str, Score] = collections.defaultdict(Score)
    for planted in texts:
        found = {tuple(span[:3]) for span in find(planted.text)}
        for *_, kind in planted.spans:
            scores[kind].planted += 1
        for span in found:
            scores[span[2]].found += 1
            scores[span[2]].right += span in planted.spans
    return dict(sorted(scores.items()))


def planted_texts(number: int, seed: int = 0) -> Iterator[PlantedText]:
    """Sentences with secrets and with what looks like them.

    Args:
        number: How many; every fourth holds no secret, the others one to three.
        seed: Of the random numbers.

    Example:

    >>> texts = list(planted_texts(8))
    >>> [len(planted.spans) > 0 for planted in texts]
    [True, True, True, True, True, True, False, False]
    """
    for place in range(number):
        draw = random.Random(f"{seed} {place}")
        yield _sentence(draw, chinese=place % 2 == 0, secrets=draw.randint(1, 3) if place // 2 % 4 != 3 else 0)


def _sentence(draw: random.Random, *, chinese: bool, secrets: int) -> PlantedText:
    clauses = [(draw.choice(list(SECRETS)), True) for _ in range(secrets)]
    clauses += [("", False)] * draw.randint(0 if secrets else 1, 2)
    draw.shuffle(clauses)
    text, spans = "", []
    for number, (kind, is_secret) in enumerate(clauses):
        if number:
            text += draw.choice("，；。" if chinese else (", ", "; ", ". ", " and "))
        if not is_secret:
            text += _decoy(draw, chinese)
            continue
        make, *templates = SECRETS[kind]
        before, _, behind = draw.choice(templates[not chinese]).partition("{}")
        kind = "phone" if kind == "local" else kind
        secret = make(draw, chinese)
        if chinese and kind in ("phone", "id_card", "bank_card") and draw.random() < 0.08:
            secret = secret.translate(_WIDE)
        text += before
        spans.append((len(text), len(text) + len(secret), kind))
        text += secret + behind
    return PlantedText(text + ("。" if chinese else "."), tuple(spans))


_WIDE = {code: code + 0xFEE0 for code in (*range(0x30, 0x3A), 0x58)}


def _run(draw: random.Random, length: int) -> str:
    return "".join(draw.choices("0123456789", k=length))


def luhn_digit(digits: str) -> str:
    """The check digit that belongs behind these digits.

    >>> luhn_digit("7992739871")
    '3'
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value // 10 + value % 10
    return str(-total % 10)


_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def id_card_digit(digits: str) -> str:
    """The check character that belongs behind the 17 digits of an identity card, by the weights of GB 11643.

    >>> id_card_digit("11010519491231002")
    'X'
    """
    return "10X98765432"[sum(int(digit) * weight for digit, weight in zip(digits, _WEIGHTS, strict=True)) % 11]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_CARRIERS = (  # the first three digits that the carriers have been given
    *_words("134 135 136 137 138 139 147 150 151 152 157 158 159 172 178 182 183 184 187 188 195 197 198"),  # China Mobile
    *_words("130 131 132 145 155 156 166 175 176 185 186 196"),  # China Unicom
    *_words("133 149 153 173 177 180 181 189 190 191 193 199"),  # China Telecom
    "192",  # China Broadnet
)
_AREAS = {  # area codes without their 0, and the digits behind them
    8: _words("10 21 22 23 24 25 27 28 29 311 371 431 451 512 532 551 571 574 591 592 731 755 757 769 771 851 871 898 991"),
    7: _words("312 335 349 412 453 470 523 555 562 576 635 668 717 730 746 772 793 830 875 897 917 937 951 971 994"),
}


def _mobile(draw: random.Random, chinese: bool) -> str:
    first, second, third = draw.choice(_CARRIERS), _run(draw, 4), _run(draw, 4)
    mark = draw.choices(["", "-", " ", "."], [6, 2, 2, 0.3])[0]
    country = draw.choices(["", "+86 ", "+86-", "+86", "(+86)", "86-", "0086 "], [12 if chinese else 0, 3, 1, 2, 1, 0.3, 0.5])[0]
    return country + mark.join((first, second, third))


def _landline(draw: random.Random, chinese: bool) -> str:
    length = draw.choice((7, 8, 8))
    area, local = draw.choice(_AREAS[length]), draw.choice("2345678") + _run(draw, length - 1)
    spaced = f"{local[:-4]} {local[-4:]}"
    if not chinese:
        return f"+86 {area} {spaced}"
    forms = (f"0{area}-{local}", f"0{area}-{local}", f"(0{area}){local}", f"0{area} {spaced}", f"0{area}{local}", f"+86-{area}-{local}")
    return draw.choice((*forms, f"0{area}-{local}-{draw.randint(1, 8999)}", f"0{area}-{local}转{draw.randint(1, 8999)}"))


def _local(draw: random.Random, chinese: bool) -> str:
    number = draw.choice("2345678") + _run(draw, draw.choice((6, 7) if chinese else (6,)))
    return number if chinese else f"{number[:3]}-{number[3:]}"


def _service(draw: random.Random, chinese: bool) -> str:
    number = _run(draw, 7)
    if not chinese:
        return f"1-8{draw.choice(('00', '88', '77'))}-{draw.randint(200, 999)}-{_run(draw, 4)}"
    return draw.choice((f"400-{number[:3]}-{number[3:]}", f"400-{number[:4]}-{number[4:]}", f"800-{number[:3]}-{number[3:]}"))


def _north_american(draw: random.Random, chinese: bool) -> str:
    area, exchange, line = draw.choice((201, 212, 303, 312, 415, 503, 617, 713, 808, 917)), draw.randint(200, 999), _run(draw, 4)
    forms = (f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}", f"{area}.{exchange}.{line}", f"+1 {area} {exchange} {line}")
    return draw.choice((*forms, f"+1-{area}-{exchange}-{line}", f"+1{area}{exchange}{line}"))


_ABROAD = (  # the form of numbers in a plan: a digit for each #
    *("+44 20 7### ####", "+44 (0)20 7### ####", "020 7### ####", "07### ######", "0161 4## ####", "01### ######", "+447#########"),
    *("+49 30 ########", "+33 1 4# ## ## ##", "+81 3-####-####", "+852 2### ####", "+853 28## ####", "+886 2 2### ####", "+65 6### ####"),
    *("+61 2 9### ####", "+7 495 ###-##-##", "+39 06 ### ####", "+91 98### #####", "+82 2-###-####", "+971 4 ### ####"),
)


def _abroad(draw: random.Random, chinese: bool) -> str:
    forms = [form for form in _ABROAD if form[0] == "+"] if chinese else _ABROAD
    return "".join(_run(draw, 1) if character == "#" else character for character in draw.choice(forms))


def _phone(draw: random.Random, chinese: bool) -> str:
    makers = (_mobile, _landline, _service, _north_american, _abroad)
    return draw.choices(makers, [6, 3, 1, 0, 0.5] if chinese else [1, 0.5, 0.5, 5, 3])[0](draw, chinese)


_PLACES = (
    *_words("110101 110108 120103 130102 210203 230103 310104 310115 320106 330106 340104 350203 370202 410105 420106 430102 440305"),
    *_words("450103 460106 500103 510107 520103 530102 610113 620102 630104 640106 650102"),
)


def _birthday(draw: random.Random, first: int, last: int) -> str:
    start = datetime.date(first, 1, 1)
    return (start + datetime.timedelta(draw.randrange((datetime.date(last, 12, 31) - start).days))).strftime("%Y%m%d")


def _id_card(draw: random.Random, chinese: bool) -> str:
    place = draw.choice(_PLACES)
    if draw.random() < 0.08:
        return place + _birthday(draw, 1930, 1990)[2:] + _run(draw, 3)
    born, number = _birthday(draw, 1930, 2020), _run(draw, 3)
    number += id_card_digit(place + born + number)
    number = number.lower() if draw.random() < 0.3 else number
    return draw.choices(["", " ", "-"], [8, 1, 1])[0].join((place, born, number))


_CARDS = (  # first digits, and how many digits in all
    *((prefix, 19) for prefix in _words("622202 622848 621700 621226 621661 623668 620058 955880")),
    *((prefix, 16) for prefix in _words("622588 622575 625965 436742 453242 512466 545619 552534 356833 601100 222300 272000")),
    *(("378282", 15), ("341111", 15), ("364100", 14), ("305693", 14), ("422222", 13)),
)


def _bank_card(draw: random.Random, chinese: bool) -> str:
    prefix, length = draw.choice(_CARDS[:14] if chinese and draw.random() < 0.8 else _CARDS)
    digits = prefix + _run(draw, length - 7)
    return _grouped(draw, digits + luhn_digit(digits))


def _grouped(draw: random.Random, digits: str) -> str:
    mark = draw.choices(["", " ", "-"], [5, 4, 1])[0]
    sizes = {15: (4, 6, 5), 14: (4, 6, 4)}.get(len(digits), (4, 4, 4, 4, 3))
    ends = list(itertools.accumulate(sizes))
    return mark.join(part for size, end in zip(sizes, ends, strict=True) if (part := digits[end - size : end]))


_DOMAINS = _words(
    "qq.com 163.com 126.com sina.com.cn example.com mail.example.org gmail.com foxmail.com pku.edu.cn uni-example.de a-b.co.uk"
)
_SYLLABLES = _words("li wang zhang chen liu yang mei hua ling john mary smith lee anna tom work info")


def _email(draw: random.Random, chinese: bool) -> str:
    one, other = draw.choices(_SYLLABLES, k=2)
    local = draw.choice((f"{one}{other}", f"{one}.{other}", f"{one}_{_run(draw, 2)}", f"{one}{_run(draw, 4)}", f"{one}+{other}"))
    local = draw.choice((local, local.title(), local, _mobile(draw, True)[-11:].replace("-", "").replace(" ", ""), _run(draw, 9)))
    return f"{local}@{draw.choice(_DOMAINS)}"


def _ip(draw: random.Random, chinese: bool) -> str:
    if draw.random() < 0.7:
        network = draw.choice(("10", "172.16", "192.168", "8.8", str(draw.randint(1, 223))))
        return ".".join([network, *(str(draw.randint(0, 255)) for _ in range(3 - network.count(".")))])
    groups = [draw.choice((0x2001, 0x2408, 0x240E, 0xFE80, 0xFD12)), *(draw.choice((0, 0, draw.getrandbits(16))) for _ in range(7))]
    groups[-1] = draw.randint(1, 0xFFFF)
    address = ipaddress.IPv6Address(sum(group << 16 * place for place, group in enumerate(reversed(groups))))
    return draw.choice((str(address), address.exploded, str(address).upper()))


def _mac(draw: random.Random, chinese: bool) -> str:
    pairs = [f"{draw.getrandbits(8):02x}" for _ in range(5)] + [draw.choice("abcdef") + draw.choice("0123456789abcdef")]
    whole = "".join(pairs)
    written = draw.choice((":".join(pairs), ":".join(pairs), "-".join(pairs), f"{whole[:4]}.{whole[4:8]}.{whole[8:]}"))
    return written.upper() if draw.random() < 0.5 else written


_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # I and O would be read as digits


def _plate(draw: random.Random, chinese: bool) -> str:
    if not chinese:
        letters, digits = "".join(draw.choices(_LETTERS, k=3)), _run(draw, 4)
        return draw.choice((f"{letters}-{digits}", f"{letters} {digits}", f"{letters}{digits[:3]}", f"{digits[0]}{letters}{digits[1:]}"))
    serial = list(_run(draw, 5))
    for place in draw.sample(range(5), draw.choice((0, 1, 1, 2))):
        serial[place] = draw.choice(_LETTERS)
    forms = ["".join(serial)] * 3 + [
        _run(draw, 4) + draw.choice("挂学警"),
        draw.choice("DF") + _run(draw, 5),
        _run(draw, 5) + draw.choice("DF"),
    ]
    region = draw.choice("京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼")
    return f"{region}{draw.choice('ABCDEFGHJKLMN')}{draw.choice(('', '', '·', ' '))}{draw.choice(forms)}"


_SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕"
_GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛超明霞平刚桂英华玉兰鹏飞红梅晨曦宇轩梓涵欣怡浩然思远雅婷"
_FIRST = _words(
    "James Mary Robert Patricia John Jennifer Michael Linda David Elizabeth William Susan Richard Jessica Mark Karen Daniel Nancy"
)
_LAST = _words("Smith Johnson Williams Brown Jones Garcia Miller Davis Wilson Anderson Taylor Moore Jackson Martin Thompson White Clark")


def _all_names() -> tuple[list[str], list[str]]:
    draw = random.Random("names")
    chinese = dict.fromkeys(draw.choice(_SURNAMES) + "".join(draw.choices(_GIVEN, k=draw.choice((1, 2, 2)))) for _ in range(900))
    english = [f"{first} {last}" for first, last in itertools.product(_FIRST, _LAST)]
    draw.shuffle(english)
    return list(chinese), english


_CHINESE_NAMES, _ENGLISH_NAMES = _all_names()
LISTED_NAMES: tuple[str, ...] = (*_CHINESE_NAMES[:200], *_ENGLISH_NAMES[:150])
"""The names that are planted: what a list of names is to hold. Others are made of the same parts, and are in no list."""


def _name(draw: random.Random, chinese: bool) -> str:
    if chinese:
        return draw.choice(LISTED_NAMES[:200])
    name = draw.choice(LISTED_NAMES[200:])
    return name.upper() if draw.random() < 0.1 else name


def _other_name(draw: random.Random, chinese: bool) -> str:
    """A name that is in no list and holds none that is."""
    while True:
        name = draw.choice(_CHINESE_NAMES[200:] if chinese else _ENGLISH_NAMES[150:])
        if not any(listed in name for listed in LISTED_NAMES):
            return name


_Templates = tuple[str, ...]
SECRETS: dict[str, tuple[Maker, _Templates, _Templates]] = {
    "phone": (
        _phone,
        ("电话{}", "请拨打{}咨询", "手机号是{}", "联系方式：{}（微信同号）", "有事打{}", "热线 {}", "他留下了{}这个号码", "{}一直没人接"),
        (
            "call {}",
            "my number is {}",
            "phone: {}",
            "you can reach us at {} any time",
            "she left {} on the note",
            "Tel. {}",
            "text {} today",
        ),
    ),
    "local": (_local, ("电话：{}", "请致电{}", "传真{}", "座机号码{}"), ("call {}", "phone {}", "fax: {}")),
    "id_card": (
        _id_card,
        ("身份证号{}", "证件号码：{}", "持{}办理", "身份证：{}已核验", "登记的是{}"),
        ("ID card {}", "identity number: {}", "the resident with {} has signed", "Chinese ID {}"),
    ),
    "bank_card": (
        _bank_card,
        ("银行卡号{}", "请汇到{}", "卡号：{}，开户行北京", "转到{}这张卡", "尾款打到{}即可"),
        ("card number {}", "pay to {} please", "credit card: {}", "charged to {} yesterday", "her Visa {} was declined"),
    ),
    "email": (
        _email,
        ("邮箱{}", "请发邮件到{}", "投稿：{}", "联系{}即可"),
        ("email {}", "write to {}", "contact: {}", "<{}>", "mail {} for details"),
    ),
    "ip": (
        _ip,
        ("从{}登录", "服务器地址是{}", "IP：{}", "{}超时", "禁止{}访问"),
        ("from {}", "server {}", "ping {}", "the host {} is down", "http://[{}]/"),
    ),
    "mac": (
        _mac,
        ("网卡地址{}", "MAC：{}", "设备{}已上线", "绑定{}"),
        ("MAC {}", "device {} joined", "link/ether {}", "hardware address: {}"),
    ),
    "plate": (
        _plate,
        ("车牌{}", "一辆{}的轿车", "车号：{}", "{}违停"),
        ("license plate {}", "plate number: {}", "number plate is {}", "registration number {}"),
    ),
    "name": (
        _name,
        ("{}说没问题", "联系人：{}", "由{}负责", "感谢{}的帮助", "{}和我都去了", "收件人{}"),
        ("{} said so", "ask {}", "Dear {}", "signed by {}", "{}'s office", "with {} and me"),
    ),
}
"""What is planted: how it is made, and sentences for it in Chinese and in English. `local` is a telephone number of a town."""


def _wrong(draw: random.Random, digits: str, right: str) -> str:
    return digits + draw.choice([digit for digit in "0123456789" if digit != right])


def _not_an_id_card(draw: random.Random, chinese: bool) -> str:
    digits = draw.choice(_PLACES) + _birthday(draw, 1950, 2010) + _run(draw, 3)
    return _wrong(draw, digits, id_card_digit(digits))


def _not_a_bank_card(draw: random.Random, chinese: bool) -> str:
    prefix, length = draw.choice(_CARDS)
    digits = prefix + _run(draw, length - 7)
    return _grouped(draw, _wrong(draw, digits, luhn_digit(digits)))


def _like_a_mobile(draw: random.Random, chinese: bool) -> str:
    return draw.choice(_CARRIERS) + _run(draw, 8)


def _long_run(draw: random.Random, chinese: bool) -> str:
    return _run(draw, draw.randint(9, 12)) + _like_a_mobile(draw, chinese)


def _isbn(draw: random.Random, chinese: bool) -> str:
    digits = "9787" + _run(draw, 8)
    digits += str(-sum(int(digit) * (1, 3)[place % 2] for place, digit in enumerate(digits)) % 10)
    return draw.choice((digits, f"{digits[:3]}-{digits[3]}-{digits[4:7]}-{digits[7:12]}-{digits[12]}"))


def _date(draw: random.Random, chinese: bool) -> str:
    day = _birthday(draw, 1990, 2025)
    return draw.choice((f"{day[:4]}-{day[4:6]}-{day[6:]}", f"{day[:4]}/{day[4:6]}/{day[6:]}", day, f"{day[6:]}.{day[4:6]}.{day[:4]}"))


def _time(draw: random.Random, chinese: bool) -> str:
    hour, minute, second = draw.randrange(24), draw.randrange(60), draw.randrange(60)
    return draw.choice(
        (f"{hour:02}:{minute:02}:{second:02}", f"{hour}:{minute:02}", f"{_date(draw, chinese)} {hour:02}:{minute:02}:{second:02}")
    )


def _version(draw: random.Random, chinese: bool) -> str:
    return ".".join(str(draw.randint(0, 20)) for _ in range(draw.choice((3, 4))))


def _amount(draw: random.Random, chinese: bool) -> str:
    return draw.choice((f"{draw.randrange(10**7):,}", f"{draw.randrange(10**6)}.{draw.randrange(100):02}", _like_a_mobile(draw, chinese)))


def _order(draw: random.Random, chinese: bool) -> str:
    day = _birthday(draw, 2015, 2025)
    return draw.choice(
        (day + _run(draw, 8), f"SF{_run(draw, 12)}", f"{day[:4]}-{_run(draw, 6)}", f"{draw.choice(_LETTERS)}{_run(draw, 9)}")
    )


def _decimal(draw: random.Random, chinese: bool) -> str:
    return draw.choice(
        (f"{draw.randrange(10)}.{_run(draw, 14)}", f"39.{_run(draw, 7)},116.{_run(draw, 7)}", f"{_run(draw, 2)}.{_run(draw, 2)}%")
    )


def _hexadecimal(draw: random.Random, chinese: bool) -> str:
    whole = f"{draw.getrandbits(128):032x}"
    return draw.choice((whole, f"{whole[:8]}-{whole[8:12]}-{whole[12:16]}-{whole[16:20]}-{whole[20:]}", f"#{whole[:6]}", f"0x{whole[:12]}"))


def _years(draw: random.Random, chinese: bool) -> str:
    first = draw.randint(1950, 2010)
    return draw.choice((f"{first}-{first + 9}", " ".join(str(first + step) for step in range(4)), f"{first}/{first + 1}"))


def _timestamp(draw: random.Random, chinese: bool) -> str:
    return str(draw.randint(10**9, 2 * 10**9)) + draw.choice(("", _run(draw, 3)))


_DECOYS: tuple[tuple[Maker, tuple[str, ...], tuple[str, ...]], ...] = (
    (_not_an_id_card, ("单据{}", "编号{}", "{}不对"), ("document {}", "{} is wrong", "file {}")),
    (_not_a_bank_card, ("流水号{}", "{}无法识别", "序列{}"), ("reference {}", "{} was refused", "serial number {}")),
    (_like_a_mobile, ("订单号{}", "QQ号：{}", "工号{}", "运单号为{}"), ("order {}", "ticket no. {}", "tracking number: {}", "account {}")),
    (_long_run, ("条码{}", "{}是内部代码"), ("barcode {}", "{} is our code")),
    (_isbn, ("书号ISBN {}", "ISBN：{}", "这本书是{}"), ("ISBN {}", "the book {}")),
    (_date, ("{}开会", "日期是{}"), ("on {}", "dated {}")),
    (_time, ("{}开始", "于{}结束"), ("at {}", "starts {}")),
    (_version, ("版本{}", "升级到v{}", "见第{}节"), ("version {}", "v{} is out", "see section {}")),
    (_amount, ("共{}元", "￥{}元整", "播放{}次"), ("{} dollars in all", "paid {} USD", "{} people watched")),
    (_order, ("订单{}", "快递单号{}"), ("order number {}", "invoice {}")),
    (_decimal, ("系数{}", "坐标{}"), ("factor {}", "at {}")),
    (_hexadecimal, ("哈希{}", "标识{}"), ("hash {}", "id {}")),
    (_years, ("{}年间", "{}各年"), ("from {}", "in {}")),
    (_timestamp, ("时间戳{}", "时间戳为{}"), ("timestamp {}", "timestamp is {}")),
    (_other_name, ("{}没有来", "问过{}"), ("{} was absent", "so says {}")),
    (lambda draw, chinese: draw.choice(("小明", "user_123", "openai2024", "技术部")), ("@{} 请看", "转给@{}"), ("@{} see this", "cc @{}")),
    (
        lambda draw, chinese: _run(draw, 6),
        ("邮编{}", "股票{}涨了", "川A股跌了{}点", "京B轮融资{}元", "{}步"),
        ("postcode {}", "room {}", "std::vector of {}", "the Market sold {}", "dead::beef {}"),
    ),
)


def _decoy(draw: random.Random, chinese: bool) -> str:
    make, *templates = draw.choice(_DECOYS)
    return draw.choice(templates[not chinese]).replace("{}", make(draw, chinese))
