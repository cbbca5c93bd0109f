"""Placeholders in the place of secrets, and the names of a list."""

import json
import sys

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_lm import cleaning
from keras_lm.corpora import Corpus
from keras_lm.errors import UserError
from keras_lm.privacy import desensitizing, presidio
from keras_lm.privacy.desensitizing import Desensitizer, Report
from keras_lm.privacy.names import Names, read_names
from keras_lm.privacy.planted import LISTED_NAMES, planted_texts
from keras_lm.privacy.recognisers import Span

MASK = Desensitizer(names=LISTED_NAMES)


def test_the_same_secret_is_the_same_placeholder_throughout_a_document():
    text = "13812345678找13987654321，138 1234 5678又找+86 139 8765 4321；a@b.com"
    assert MASK(text) == "<电话1>找<电话2>，<电话1>又找<电话2>；<邮箱1>"
    assert MASK("13987654321") == "<PHONE_1>"


@pytest.mark.parametrize("seed", [0, 1])
def test_no_secret_stays_and_a_second_masking_changes_nothing(seed):
    for planted in planted_texts(400, seed):
        masked = MASK(planted.text)
        assert MASK(masked) == masked
        for start, end, kind in planted.spans:
            assert planted.text[start:end] not in masked, (planted, kind)


@given(st.text(st.sampled_from("0123456789 ()-+.,:/xX@abf京A转电话<>1_PHONE元\n"), max_size=80))
def test_masking_twice_is_masking_once(text):
    masked = MASK(text)
    assert MASK(masked) == masked


@given(st.text(max_size=60).filter(lambda text: not any(map(str.isdigit, text)) and "@" not in text and "＠" not in text))
def test_text_without_secrets_stays_as_it_is(text):
    assert Desensitizer()(text) is text


def test_numbers_go_on_behind_earlier_placeholders():
    assert MASK("<电话3>和13812345678") == "<电话3>和<电话4>"


def test_a_source_and_its_target_share_their_numbers():
    pair = ("Call +86 138 1234 5678, not 212-555-0123.", "别打212-555-0123，打13812345678。")
    assert MASK.document(pair) == ("Call <PHONE_1>, not <PHONE_2>.", "别打<电话2>，打<电话1>。")


def test_kinds_can_be_chosen():
    text = "13812345678 a@b.com"
    assert Desensitizer(["email"])(text) == "13812345678 <EMAIL_1>"
    with pytest.raises(UserError, match="unknown kind 'phones': did you mean 'phone'"):
        Desensitizer(["phones"])


def test_a_report_counts_and_tells_no_secret(tmp_path):
    report = Report()
    for text in ("13812345678 13812345678", "nothing", "a@b.com"):
        MASK.document((text,), report)
    report.write(tmp_path / "report.json")
    written = (tmp_path / "report.json").read_text()
    assert json.loads(written) == {"documents": 3, "masked_documents": 2, "masked": {"email": 1, "phone": 2}}
    assert Report.read(tmp_path / "report.json") == report


def test_the_report_of_a_corpus_is_that_of_its_last_pass():
    reports = {}
    corpus = Corpus(name="letters", documents=lambda: iter(["13812345678", "none"]), splits={"train": lambda: iter(["a@b.com"])})
    masked = MASK.corpus(corpus, reports)
    assert [list(masked.documents()) for _ in range(2)] == [["<PHONE_1>", "none"]] * 2
    assert list(masked.splits["train"]()) == ["<EMAIL_1>"]
    assert str(sum(reports.values(), Report())) == "masked in 2 of 3 documents: 1 phone, 1 email"


def test_as_a_map_bytes_that_are_no_utf_8_stay():
    given = [[b"\xff13812345678\xfe"], ["手机13812345678".encode()]]
    masked = cleaning.desensitize(tf.constant(given), MASK)
    assert masked.numpy().tolist() == [[b"\xff<PHONE_1>\xfe"], ["手机<电话1>".encode()]]


@pytest.mark.parametrize(
    ("names", "text", "masked"),
    [
        (["王明", "王明华"], "王明华和王明", "<姓名1>和<姓名2>"),
        (["Mark"], "Mark, Market, Denmark and 叫Mark的人", "<姓名1>, Market, Denmark and 叫<姓名1>的人"),
        (
            ["Mary Ann Smith", "Mary Ann"],
            "Mary Ann  Smith met mary ann, MARY ANN and Mary Anne",
            "<NAME_1> met mary ann, <NAME_2> and Mary Anne",
        ),
        (["Ｌｉ Ｌｅｉ"], "Li Lei said", "<NAME_1> said"),
        (["O'Neil", "Jean-Luc Picard"], "O'Neil and Jean-Luc Picard", "<NAME_1> and <NAME_2>"),
        (["电话", "PHONE"], "13812345678 <电话1> <PHONE_2>", "<电话3> <电话1> <PHONE_2>"),
    ],
)
def test_names(names, text, masked):
    assert Desensitizer(names=names)(text) == masked


def test_no_name_overlaps_another():
    spans = list(Names(["张三", "三丰", "张三丰"])("张三丰"))
    assert [span.key for span in spans] == ["张三丰"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: it should hold names, one a line"),
        (b" \n\n", "is empty"),
        ("李雷\n王\n".encode(), "line 2: a name of one character would mask ordinary words"),
        (b"Ann\n\xff\xfe\n", "line 2: this is not UTF-8"),
        (b"!!\n", "line 1: a name must begin with a letter"),
        (None, "no such file"),
    ],
)
def test_a_list_of_names_that_cannot_be_used_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_names(tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("kinds", "names_file", "message"),
    [
        (["phones"], None, "unknown kind to desensitize 'phones': did you mean 'phone'.*known: all, bank_card"),
        (["name"], None, "names_file is needed"),
        (["phone"], "names.txt", "names_file is for the kinds name and all"),
        ([], "names.txt", "names_file is for the kinds name and all"),
    ],
)
def test_kinds_that_do_not_fit_are_refused(kinds, names_file, message):
    with pytest.raises(UserError, match=message):
        desensitizing.load(kinds, names_file)


def test_a_list_that_was_changed_is_read_again(tmp_path):
    path = tmp_path / "names.txt"
    for name in ("李雷", "王芳"):
        path.write_text(f"{name}\n", encoding="utf-8")
        assert desensitizing.load(["name"], str(path))("李雷王芳").replace("<姓名1>", "") == {"李雷": "王芳", "王芳": "李雷"}[name]


def test_another_recogniser_has_what_ours_leave():
    find = lambda text: [Span(0, 5, "passport", "x"), Span(0, 4, "name", "y")]
    assert Desensitizer(["phone"], recogniser=find)("Alice, 13812345678") == "<PRIVATE_1>, <PHONE_1>"


@pytest.mark.slow  # presidio imports torch and transformers where they are installed
def test_presidio_finds_what_it_has_patterns_for():
    pytest.importorskip("presidio_analyzer")
    mask = Desensitizer(recogniser=presidio.presidio_recogniser())
    text = "My SSN is 536-90-4399, my IBAN GB29NWBK60161331926819, my phone 13812345678, https://example.com on Monday"
    report = Report()
    assert mask.document((text,), report) == (
        "My SSN is <PRIVATE_1>, my IBAN <PRIVATE_2>, my phone <PHONE_1>, https://example.com on Monday",
    )
    assert dict(report.masked) == {"us_ssn": 1, "iban_code": 1, "phone": 1}


def test_presidio_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(UserError, match=r"keras_lm\[privacy\]"):
        desensitizing.load(["presidio"])
