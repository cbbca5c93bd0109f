import itertools
import json
import time

import keras
import lark
import numpy as np
import pytest

from keras_lm import corpora, tokenizers
from keras_lm.errors import UserError
from keras_lm.generation.automata import START, Regex
from keras_lm.generation.grammar import Grammar
from keras_lm.generation.text import TextGenerator
from keras_lm.models import gru_lm

SUMS = """
start: start ("+" | "-") product | product
product: product "*" factor | factor
factor: "-" factor | "(" start ")" | INT
%import common.INT
%ignore " "
"""

GRAMMARS = {
    "list": 'start: "a" ("," "a")*',
    "left": 'start: start "," "a" | "a"',
    "right": 'start: "a" "," start | "a"',
    "both ends": 'start: start "," start | "a"',
    "itself twice": 'start: start start | "a"',
    "brackets": 'start: ("(" start ")")*',
    "pairs of brackets": 'start: "(" start ")" start |',
    "a to b": 'start: ["a" start "b"]',
    "palindromes": 'start: "a" start "a" | "b" start "b" | "a" | "b" |',
    "sums": 'start: start "+" term | term\nterm: "(" start ")" | "-" term | "a"',
    "one rule of sums": 'start: start "+" start | "-" start | "(" start ")" | "a"',
    "nothing in front": 'start: nothing "a" [start] "b"\nnothing: ["c"]',
    "tail calls": 'start: "a" other | "b"\nother: "b" start | "a"',
    "no call between": 'start: "a" other | "a"\nother: start "b" | "b"',
    "stars in stars": 'start: ("a" ("b" "c"?)*)+ "."',
    "shared beginnings": 'start: "a" start "b" | "a" start "c" | "a"',
    "template": 'start: _separated{pair, ","}\npair: "a" ":" ("b" | "(" start ")")\n_separated{x, sep}: x (sep x)*',
    "counted": 'start: "a"~2..3 "b"~1 start?',
    "terminals": 'start: WORD ("," WORD)* [END]\nWORD: /[ab]+/\nEND: "c" | ".."',
    "one letter, two terminals": "start: X Y | Y X\nX: /a+/\nY: /a*b/",
    "any case": 'start: "ab"i start?',
}


BYTES = tokenizers.ByteTokenizer()


def acceptor(allow):
    """Whether a text is allowed, by the edges over bytes, one after the other."""
    constraint = allow.compile(BYTES.pieces())
    sources = np.repeat(np.arange(len(constraint.accepting)), np.diff(constraint.starts))
    edges = {
        (int(source), int(token)): int(target) for source, token, target in zip(sources, constraint.tokens, constraint.targets, strict=True)
    }

    def accepts(text: str) -> bool:
        state = START
        for value in text.encode():
            state = edges.get((state, value + tokenizers.NUM_SPECIAL))
            if state is None:
                return False
        return bool(constraint.accepting[state])

    return accepts


def parses(parser: lark.Lark, text: str) -> bool:
    try:
        parser.parse(text)
    except lark.exceptions.LarkError:
        return False
    return True


@pytest.fixture(scope="module")
def untrained():
    """A small model that has learnt nothing, and its texts under a grammar."""
    keras.utils.set_random_seed(1)
    generator = TextGenerator(gru_lm(BYTES.vocabulary_size, embedding_dim=16, hidden_dim=32), BYTES, jit_compile=False)

    def draw(grammar: Grammar, number: int, **knobs: object) -> list[str]:
        return [text.text for text in generator.generate([""], allow=grammar, num_samples=number, temperature=1.0, **knobs)]

    return draw


@pytest.mark.parametrize("name", GRAMMARS)
def test_texts_are_accepted_just_if_lark_parses_them(name):
    grammar = GRAMMARS[name]
    parser, accepts = lark.Lark(grammar, parser="earley", lexer="dynamic_complete"), acceptor(Grammar(grammar, depth=8))
    letters = sorted(set("abc().,+-:") & set(grammar))
    longest = {1: 8, 2: 8, 3: 6, 4: 5}.get(len(letters), 4)
    texts = ["".join(text) for size in range(longest + 1) for text in itertools.product(letters, repeat=size)]
    texts += ["aABb", "a:(a:b)", "a:b,a:(a:b,a:b)", "((()))", "-(a+-a)+a", "aab.bc"]
    allowed = {text for text in texts if accepts(text)}
    assert allowed == {text for text in texts if parses(parser, text)}
    assert len(allowed) > 1


@pytest.mark.parametrize("parser", ["earley", "lalr"])
def test_lark_parses_every_text_that_is_drawn(untrained, parser):
    parser, texts = lark.Lark(SUMS, parser=parser), untrained(Grammar(SUMS), 200, max_new_tokens=20)
    assert len(set(texts)) > 100
    assert all(parses(parser, text) for text in texts)
    assert any("(" in text for text in texts)
    assert max(map(len, texts)) == 20


@pytest.mark.parametrize("kind", ["byte", "sentencepiece"])
def test_a_thousand_json_texts_are_json(kind):
    tokenizer = BYTES
    if kind != "byte":
        documents = list(corpora.open_corpus("pydoc").documents())[:30] + list(corpora.open_corpus("peoples-daily").documents())[:30]
        tokenizer = tokenizers.TOKENIZERS[kind].fit([*documents, *(json.dumps({"a": [text[:20]]}) for text in documents)], 2000)
        assert max(map(len, tokenizer.pieces())) > 6
    generator = TextGenerator(gru_lm(tokenizer.vocabulary_size, embedding_dim=8, hidden_dim=8), tokenizer, jit_compile=False)
    grammar = Grammar.named("json", start="object")
    found = generator.generate([""], allow=grammar, max_new_tokens=40, num_samples=1000, temperature=1.0, seed=1)
    objects = [json.loads(text.text) for text in found]
    assert all(isinstance(one, dict) for one in objects)
    assert len({text.text for text in found}) > 400
    assert {text.finish_reason for text in found} == {"end", "length"}
    assert {type(value) for one in objects for value in one.values()} >= {dict, list, str, int, float}


JSON = [
    '""',
    '"中😀"',
    r'"\"\\\/\b\f\n\r\t\u00e9"',
    "0",
    "-0.5e-10",
    "12E+3",
    "true",
    "[]",
    "{}",
    '{"a":1,"b": [null, false]}',
    '[[{"a":[0]}]]',
]
NO_JSON = [
    "",
    " 1",
    "01",
    "1.",
    ".5",
    "+1",
    "'a'",
    '"\n"',
    '"\\x"',
    '"\\u12"',
    "[1,]",
    '{"a"}',
    "{1:2}",
    "[1 ,2]",
    "[1,  2]",
    "NaN",
    "tru",
    "1 ",
]


def test_json_is_that_of_the_standard():
    accepts = acceptor(Grammar.named("json"))
    for text in JSON:
        json.loads(text)
        assert accepts(text), text
    assert not any(map(accepts, NO_JSON))
    assert acceptor(Grammar.named("json", start="array"))("[1]")
    assert not acceptor(Grammar.named("json", start="object"))("[1]")


def test_json_over_five_thousand_characters_takes_a_second():
    characters = [*map(chr, range(32, 127)), *map(chr, range(0x4E00, 0x4E00 + 4900))]
    start = time.perf_counter()
    constraint = Grammar.named("json").compile(tokenizers.CharacterTokenizer(characters).pieces())
    assert time.perf_counter() - start < 10  # 0.5 on an idle core
    assert len(constraint.accepting) < 3000
    assert len(constraint.tokens) < 600_000


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_nesting_is_bounded_by_depth(depth):
    wrapped = lambda text, left, right, times: left * times + text + right * times
    for grammar, text, left, right in (
        ('start: "(" start ")" | "x"', "x", "(", ")"),
        (SUMS, "1", "(", ")"),
        (SUMS, "1", "-(1*", "+2)"),
        ('start: "a" start "b" | "a" "b"', "ab", "a", "b"),
        ('start: "a" other | "a"\nother: start "b" | "b"', "ab", "a", "b"),
    ):
        accepts = acceptor(Grammar(grammar, depth=depth))
        assert accepts(wrapped(text, left, right, depth))
        assert not accepts(wrapped(text, left, right, depth + 1))
    accepts = acceptor(Grammar.named("json", depth=depth))
    assert accepts(wrapped("", "[", "]", depth + 1))
    assert accepts(wrapped("1", '{"a":', "}", depth))
    assert not accepts(wrapped("1", "[", "]", depth + 1))


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        ('start: "a" ("," "a")*', "a" + ",a" * 100),
        ('start: start "," "a" | "a"', "a" + ",a" * 100),
        ('start: "a" "," start | "a"', "a" + ",a" * 100),
        ('start: start "," start | "a"', "a" + ",a" * 100),
        ('start: "a" other | "b"\nother: "b" start | "a"', "ab" * 100 + "b"),
        (SUMS, "--1+2*-3" * 50),
    ],
)
def test_repetition_takes_no_depth(grammar, text):
    assert acceptor(Grammar(grammar, depth=0))(text)


def test_a_regular_grammar_is_its_regular_expression():
    grammar = 'start: NAME ("." NAME)* [ARGUMENTS]\nNAME: /[a-z_中]\\w*/\nARGUMENTS: "(" ")"\n'
    one, other = (allow.compile(BYTES.pieces()) for allow in (Grammar(grammar), Regex(r"[a-z_中]\w*(\.[a-z_中]\w*)*(\(\))?")))
    assert one.distance[START] == other.distance[START] == 1
    assert acceptor(Grammar(grammar))("中a9.b()") and not acceptor(Grammar(grammar))("9a")


def test_what_is_ignored_is_not_written(untrained):
    assert all(" " not in text for text in untrained(Grammar(SUMS), 50, max_new_tokens=10))
    assert acceptor(Grammar('start: "a" WS "b"\n%ignore WS\n%import common.WS'))("a \nb")  # but for where it is asked for


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (Grammar('start: "a'), "the grammar cannot be used: Unexpected input at line 1 column 8"),
        (Grammar('start: "a"\n  : b'), r"Expecting option .* at line 2 column 3"),
        (Grammar("start: b"), "Rule 'b' used but not defined"),
        (Grammar('start: "a"', start="value"), "it has no rule 'value' to start with"),
        (Grammar("%import nowhere.X\nstart: X"), "No such file or directory: 'nowhere.lark'"),
        (Grammar("%declare X\nstart: X"), "nothing says what X is"),
        (
            Grammar("start: X\n%import common.ESCAPED_STRING -> X"),
            "the terminal X of the grammar: the pattern .* cannot be used: neither look-around",
        ),
        (Grammar('start: a\na: b "x"\nb: a "y" | "z"'), "indirect left recursion, a → b → a"),
        (Grammar('start: nothing start "x" | "y"\nnothing: ["a"]'), "indirect left recursion, start → start"),
        (Grammar('start: "(" start ")"'), "the grammar has no text at depth 5"),
        (Grammar('start: a\na: "(" b ")"\nb: "(" a ")" | "x"', depth=0), "the grammar has no text at depth 0"),
        (Grammar('start: "☃"'), "no text that this tokenizer can write matches the grammar 'start: \"☃\"'"),
        (
            Grammar("start: " + " | ".join(f'"{left}" start "{left}"' for left in "abcdefghij") + ' | "x"'),
            "more than 100000 states at depth 5: lower depth",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(grammar, message):
    with pytest.raises(UserError, match=message) as caught:
        grammar.compile(tokenizers.CharacterTokenizer(["a", "b", "(", ")", "x"]).pieces())
    assert "\n" not in str(caught.value)


def test_names_and_depths_are_checked_at_once():
    with pytest.raises(UserError, match=r"unknown grammar 'jsn': did you mean 'json'\?"):
        Grammar.named("jsn")
    with pytest.raises(UserError, match="depth must be 0 or more, got -1"):
        Grammar('start: "a"', depth=-1)


def test_parts_that_cannot_be_written_are_left_out():
    pieces = tokenizers.CharacterTokenizer(["a", ",", "["]).pieces()
    constraint = Grammar('start: "[" start "]" | "a" ["," start]').compile(pieces)
    assert sorted(set(constraint.tokens.tolist())) == [4, 5]  # no bracket, for none could be closed
