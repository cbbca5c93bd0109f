import dataclasses

import pytest

from keras_lm.errors import UserError
from keras_lm.planning import Atom, Literal, Predicate, Rule, read_domain, read_problem
from keras_lm.planning.reading import PACKAGED

DOMAIN = """name: cups
types: {cup: object, shelf: object}
predicates:
  on: {parameters: {cup: cup, shelf: shelf}}
  held: {parameters: {cup: cup}}
  near: {parameters: {one: shelf, other: shelf}}
rules:
  both-ways: {parameters: {a: shelf, b: shelf}, if: "near(a, b)", then: "near(b, a)"}
actions:
  take:
    parameters: {cup: cup, shelf: shelf}
    if: on(cup, shelf)
    effects: held(cup), not on(cup, shelf)
"""
PROBLEM = """domain: cups.yaml
objects: {cup: [red, blue], shelf: [top, low]}
facts:
  - on(red, top)
  - on(blue, low), near(top, low)
goal: held(red), not held(blue)
"""


@pytest.fixture
def written(tmp_path):
    def write(domain=DOMAIN, problem=PROBLEM):
        (tmp_path / "cups.yaml").write_text(domain, encoding="utf-8")
        path = tmp_path / "problem.yaml"
        path.write_text(problem, encoding="utf-8")
        return path

    return write


def test_a_problem_finds_its_domain_beside_it(written):
    problem = read_problem(written())
    assert problem.objects == {"red": "cup", "blue": "cup", "top": "shelf", "low": "shelf"}
    assert sorted(map(str, problem.facts)) == ["near(top, low)", "on(blue, low)", "on(red, top)"]
    assert [str(one) for one in problem.goal] == ["held(red)", "not held(blue)"]


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_problems_have_words_in_two_languages_for_everything(name):
    problem = read_problem(name)
    domain = problem.domain
    for part in (*domain.predicates.values(), *domain.rules.values(), *domain.actions.values()):
        assert {"en", "zh"} <= set(part.text)
        for text in part.text.values():
            text.format(**dict.fromkeys(part.parameters, ""))  # no other names in braces


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    if: on(cup, shelf)", "    if: onn(cup, shelf)", r"cups.yaml, line 12: unknown predicate 'onn': did you mean 'on'"),
        ("    if: on(cup, shelf)", "    if: on(cup)", r"cups.yaml, line 12: on is said of 2, not of 1: on\(cup\)"),
        ("    if: on(cup, shelf)", "    if: on(shelf, cup)", r"cups.yaml, line 12: shelf is a shelf, but on is said of a cup"),
        ("    if: on(cup, shelf)", "    if: on(cup, rack)", r"cups.yaml, line 12: unknown object or variable 'rack'"),
        ("    if: on(cup, shelf)", "    if: [on(cup, shelf)]", r"cups.yaml, line 12: .* with commas between"),
        ("    if: on(cup, shelf)", "    when: on(cup, shelf)", r"cups.yaml, line 12: unknown field 'when'"),
        ("    if: on(cup, shelf)", "    cost: -1", r"cups.yaml, line 12: there should be a whole number"),
        ("{cup: cup, shelf: shelf}}", "{cup: cup, shelf: shelv}}", r"cups.yaml, line 4: unknown type 'shelv': did you mean 'shelf'"),
        (
            "    parameters: {cup: cup, shelf: shelf}",
            "    parameters:\n      cup: cup\n      shelf: shelv",
            r"cups.yaml, line 13: unknown type 'shelv'",
        ),
        ("types: {cup: object, shelf: object}", "types: {cup: shelf, shelf: cup}", r"cups.yaml, line 2: type cup is a kind of itself"),
        ("effects: held(cup),", "effects: near(shelf, shelf), held(cup),", r"take changes near, which rules decide"),
        ('then: "near(b, a)"', 'then: "not near(b, a)"', r"line 8: a rule concludes what is so"),
        ("held(cup), not on(cup, shelf)", "held(cup) not on(cup, shelf)", r"line 13: .* should read like"),
        ("actions:", "actions: [", r"cups.yaml, line \d+: "),
    ],
)
def test_what_is_wrong_in_a_domain_is_named_with_its_line(written, old, new, message):
    assert old in DOMAIN
    with pytest.raises(UserError, match=message):
        read_problem(written(domain=DOMAIN.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("on(red, top)", "on(red, sky)", r"problem.yaml, line 4: unknown object or variable 'sky'"),
        ("on(red, top)", "on(top, red)", r"problem.yaml, line 4: top is a shelf, but on is said of a cup"),
        ("on(red, top)", "not on(red, top)", r"problem.yaml, line 4: what is not said is not so"),
        ("[red, blue]", "[red, red]", r"problem.yaml, line 2: object red is there already"),
        ("{cup: [red", "{mug: [red", r"problem.yaml, line 2: unknown type 'mug'"),
        ("goal: held(red), not held(blue)", "gaol: held(red)", r"line 6: unknown field 'gaol': did you mean 'goal'"),
        ("goal: held(red), not held(blue)", "", r"goal is missing"),
        ("domain: cups.yaml", "domain: cupz", r"problem.yaml, line 1: cupz is no file"),
        ("domain: cups.yaml", "domain: other.yaml", r"other.yaml cannot be read: No such file"),
    ],
)
def test_what_is_wrong_in_a_problem_is_named_with_its_line(written, old, new, message):
    assert old in PROBLEM
    with pytest.raises(UserError, match=message):
        read_problem(written(problem=PROBLEM.replace(old, new)))


def test_rules_that_have_no_clear_meaning_are_refused():
    domain = read_domain("blocks")
    predicates = {**domain.predicates, "above": Predicate({"a": "block", "b": "block"})}
    pair = {"a": "block", "b": "block", "c": "block"}
    above, on = Atom("above", ("a", "b")), Atom("on", ("a", "b"))
    rules = {
        "near": Rule(pair, (Literal(on),), above),
        "far": Rule(pair, (Literal(on), Literal(Atom("above", ("b", "c")))), Atom("above", ("a", "c"))),
    }
    with pytest.raises(UserError, match="the rules of above lead back to it over facts that actions change"):
        dataclasses.replace(domain, predicates=predicates, rules=rules)
    with pytest.raises(UserError, match="make a fact follow from its own opposite"):
        dataclasses.replace(domain, predicates=predicates, rules={"liar": Rule(pair, (Literal(above, False),), above)}, actions={})
