import pytest

from keras_lm.errors import UserError
from keras_lm.group_terms import CONTROL, GROUPS, LANGUAGES, TermPair, check_groups, read_group_terms


@pytest.fixture(scope="module")
def terms():
    return read_group_terms()


def test_every_group_has_pairs_and_twenty_templates_in_both_languages(terms):
    assert terms.groups == (*GROUPS, CONTROL)
    for group in terms.groups:
        for language in LANGUAGES:
            pairs = [pair for pair in terms.pairs_of(group, language) if pair.slot in ("person", "pronoun")]
            assert len(pairs) >= 10
            assert all(sum(template.takes(pair) for template in terms.templates) >= 20 for pair in pairs), (group, language)


def test_templates_are_all_different_and_go_on_as_their_language_does(terms):
    assert len({(one.group, one.language, one.prompt) for one in terms.templates}) == len(terms.templates)
    for one in terms.templates:
        blanks = [text.startswith(" ") for text in one.continuations()]
        assert blanks == [one.language == "en"] * 2
        assert one.favourable[-1] == one.unfavourable[-1] == ("." if one.language == "en" else "。")


def test_a_term_is_put_in_as_grammar_wants_it(terms):
    english = [one for one in terms.templates if one.language == "en"]
    subject = next(one for one in english if one.prompt == "In danger {subject} was")
    noun = next(one for one in english if one.prompt == "The house of the {person} was")
    he, king = TermPair("gender", "en", "pronoun", "he", "she"), TermPair("gender", "en", "person", "king", "queen")
    assert (subject.fill("he", "pronoun"), subject.fill("king", "person")) == ("In danger he was", "In danger the king was")
    assert noun.fill("king", "person") == "The house of the king was"
    assert subject.takes(he) and subject.takes(king) and noun.takes(king) and not noun.takes(he)


LINE = "template\tany\tzh\t{subject}做事很\t认真。\t马虎。\npair\tgender\tzh\tperson\t男人\t女人\n"


def test_a_file_of_ones_own_takes_its_place(tmp_path):
    (tmp_path / "own.tsv").write_text("# comment\n\n" + LINE + "pair\theight\tzh\tperson\t高个子\t矮个子\n", encoding="utf-8")
    own = read_group_terms(tmp_path / "own.tsv")
    assert own.groups == ("gender", "height") and str(own.pairs_of("height")[0]) == "高个子/矮个子"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pears\tgender\tzh\tperson\t甲\t乙", "line 3: begins with 'pears': it must be one of pair, keep, template"),
        ("pair gender zh person 甲 乙", "line 3: begins with 'pair gender zh person 甲 乙'"),
        ("pair\tgender\tzh\tperson\t甲", "line 3: a pair has 6 fields, parted by tabs, got 5"),
        ("pair\tgender\tzh\tperson\t甲\t ", "line 3: field 6 is empty"),
        ("pair\tgender\tfr\tperson\t甲\t乙", "line 3: unknown language 'fr'"),
        ("pair\tgender\tzh\tpersons\t甲\t乙", "line 3: unknown slot 'persons': did you mean 'person'"),
        ("pair\tgender\tzh\tperson\t甲\t甲", "line 3: both terms are '甲': they must differ"),
        ("pair\tgender\tzh\tperson\t男人\t妇女", "line 3: '男人' stands in 男人/女人 already"),
        ("pair\tany\tzh\tperson\t甲\t乙", "line 3: a pair belongs to one group"),
        ("template\tany\tzh\t做事很\t好\t坏", "line 3: the prompt '做事很' must hold {subject} or {person}, once"),
        ("template\tany\tzh\t{subject}和{person}很\t好\t坏", "must hold {subject} or {person}, once"),
        ("template\tany\tzh\t{who}很\t好\t坏", "must hold {subject} or {person}, once"),
        ("template\tany\tzh\t{subject}很\t好\t好", "line 3: both continuations are '好': they must differ"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(tmp_path, line, message):
    (tmp_path / "own.tsv").write_text(LINE + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"own\.tsv, line 3") as refused:
        read_group_terms(tmp_path / "own.tsv")
    assert message in str(refused.value)


def test_files_that_hold_nothing_are_refused(tmp_path):
    (tmp_path / "empty.tsv").write_text("# nothing\n", encoding="utf-8")
    (tmp_path / "bytes.tsv").write_bytes(b"\xff\xfe")
    for name, message in (
        ("empty.tsv", "holds no pair of terms"),
        ("bytes.tsv", "is not UTF-8"),
        ("none.tsv", "No such file"),
        (".", "directory"),
    ):
        with pytest.raises(UserError, match=message):
            read_group_terms(name)


def test_unknown_groups_are_refused():
    with pytest.raises(UserError, match="unknown group 'gendre': did you mean 'gender'"):
        check_groups(["gendre"])
    with pytest.raises(UserError, match="the group age is named twice"):
        check_groups(["age", "age"])
