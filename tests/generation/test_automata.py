import re
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import corpora, tokenizers
from keras_lm.errors import UserError
from keras_lm.generation import automata
from keras_lm.generation.automata import (
    FREE,
    START,
    UNREACHABLE,
    Choice,
    Constraint,
    PieceTable,
    Regex,
    StopStrings,
    advance,
    allowed,
    joined,
    watch,
)
from keras_lm.generation.constraints import TokenEdges

PLENTY = tf.constant([1 << 20])
KINDS = ["char", "byte", "wordpiece", "sentencepiece", "word"]
PATTERNS = {
    r"[0-9]+": ["0", "1949", "20250101"],
    r"[一-龥]{2,5}": ["中国", "中国人民"],
    r"(?:19|20)[0-9]{2}-(?:0[1-9]|1[0-2])-[0-3][0-9]": ["1949-10-01", "2025-12-31"],
    r"yes|no|not sure|n": ["yes", "no", "not sure", "n"],
    r"a|ab|abc": ["a", "ab", "abc"],
    r'\{"name": "[^"\\]{1,12}", "age": (?:0|[1-9][0-9]{0,2})\}': ['{"name": "中国 Ann", "age": 41}', '{"name": "é", "age": 0}'],
    r"(?:😀|🎉){1,3}!?": ["😀", "🎉😀!"],
    r"(?i)the (?:class|ß|é)": ["The Class", "THE class", "the É"],
    r"[^a-z\n]{1,8}": ["中 1", "😀"],
    r"(?:the|a)? ?(?:python )*": ["", "the python python ", "a"],
    r"[a-z]+?(?:, [a-z]+)*\.$": ["one, two, three.", "a."],
    r"(?s).{0,20}": ["", "line\nline", "中国\n"],
}

MATCHING = [text for texts in PATTERNS.values() for text in texts]


@pytest.fixture(scope="module")
def fitted():
    """All four, fitted to a little English and Chinese, and to the characters of the patterns."""
    documents = list(corpora.open_corpus("pydoc").documents())[:60] + list(corpora.open_corpus("peoples-daily").documents())[:60]
    documents.append("".join(f"{character} " for text in [*PATTERNS, *MATCHING] for character in text))
    sizes = {"wordpiece": 3000, "sentencepiece": 3000, "word": 3000}
    return {kind: tokenizers.TOKENIZERS[kind].fit(documents, sizes.get(kind)) for kind in KINDS}


def accepts(constraint: Constraint, ids: list[int]) -> bool:
    """The tables read as their docstring says, one edge after the other."""
    state = START
    for token in ids:
        edges = slice(constraint.starts[state], constraint.starts[state + 1])
        places = np.flatnonzero(constraint.tokens[edges] == token)
        if not places.size:
            return False
        (state,) = constraint.targets[edges][places]
    return bool(constraint.accepting[state])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_random_walks_match_the_pattern(fitted, kind, pattern):
    tokenizer, pieces = fitted[kind], fitted[kind].pieces()
    constraint = Regex(pattern).compile(pieces)
    tables, random, batch = constraint.tensors(), np.random.default_rng(0), 16
    state, texts, running = tf.fill([batch], START), [b""] * batch, np.ones(batch, bool)
    for _ in range(40):
        choices = allowed(tables, constraint.degree, state, PLENTY, tokenizer.vocabulary_size, tokenizer.end_id).numpy()
        assert choices.any(axis=1).all(), "a dead end"
        assert not choices[:, : tokenizer.end_id].any()
        token = np.array([random.choice(np.flatnonzero(row)) for row in choices])
        for row in np.flatnonzero(running & choices[:, tokenizer.end_id]):
            assert re.fullmatch(pattern, texts[row].decode())
        running &= token != tokenizer.end_id
        if not running.any():
            break
        token = np.where(running, token, 0)
        texts = [text + pieces[one] for text, one in zip(texts, token, strict=True)]
        state = advance(tables, constraint.degree, state, tf.constant(token, tf.int32))
    assert len(set(texts)) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_are_accepted_just_if_they_match(fitted, kind, pattern):
    tokenizer = fitted[kind]
    constraint = Regex(pattern).compile(tokenizer.pieces())
    texts = [*MATCHING, *(text[:-1] for text in MATCHING), *(text + "?" for text in MATCHING)]
    for text, ids in zip(texts, tokenizer.tokenize(tf.constant(texts)).to_list(), strict=True):
        if tokenizer.unknown_id not in ids:
            assert accepts(constraint, ids) == bool(re.fullmatch(pattern, text)), text
        assert tokenizer.unknown_id not in ids or text not in MATCHING
    assert all(re.fullmatch(pattern, text) for text in PATTERNS[pattern])


@hypothesis.given(strings=st.lists(st.text("ab中 .", max_size=6), min_size=1, max_size=8), others=st.lists(st.text("ab中 .", max_size=6)))
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_choice_is_its_strings(strings, others):
    constraint = Choice(strings).compile(tokenizers.ByteTokenizer().pieces())
    for text in [*strings, *others, *(text + "a" for text in strings)]:
        assert accepts(constraint, [value + tokenizers.NUM_SPECIAL for value in text.encode()]) == (text in strings)


def test_every_spelling_of_a_choice_is_allowed():
    pieces = [b"", b"\xef\xbf\xbd", b"", b"", b"a", b"b", b"ab", b"ba", b"c", b"ab", b""]
    constraint = Choice(["aba", "cd"]).compile(pieces)
    spellings = [[4, 5, 4], [4, 7], [6, 4], [9, 4]]
    assert all(accepts(constraint, ids) for ids in spellings)
    first = allowed(constraint.tensors(), constraint.degree, tf.constant([START]), PLENTY, len(pieces), 3).numpy()[0]
    assert np.flatnonzero(first).tolist() == [4, 6, 9]  # no d: «cd» cannot be written, and its c leads nowhere


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_distance_is_that_of_the_shortest_text(fitted, pattern):
    constraint = Regex(pattern).compile(fitted["byte"].pieces())
    shortest = min(len(text.encode()) for text in PATTERNS[pattern])
    assert constraint.distance[START] <= shortest
    assert constraint.distance.max() < UNREACHABLE
    assert ((constraint.distance == 0) == constraint.accepting).all()
    sources = np.repeat(np.arange(len(constraint.accepting)), np.diff(constraint.starts))
    assert (constraint.distance[sources] <= constraint.distance[constraint.targets] + 1).all()
    nearest = np.full(len(constraint.accepting), UNREACHABLE)
    np.minimum.at(nearest, sources, constraint.distance[constraint.targets] + 1)
    assert (constraint.distance[constraint.accepting == 0] == nearest[constraint.accepting == 0]).all()


def test_states_from_which_no_text_can_end_are_known():
    edges = TokenEdges(*map(np.array, ([0, 0, 1, 2], [4, 5, 4, 4], [1, 2, 2, 2], [False, True, False])))
    constraint = Constraint.of(edges)
    assert constraint.distance.tolist() == [1, 0, UNREACHABLE]
    look = lambda state, left: np.flatnonzero(
        allowed(constraint.tensors(), constraint.degree, tf.constant([state]), tf.constant([left]), 6, 3)[0]
    )
    assert look(0, 9).tolist() == [4]  # 5 leads to where no text can end
    assert look(1, 9).tolist() == [3]
    assert look(2, 9).tolist() == [4]  # once there, it goes on
    assert look(0, 0).tolist() == [4, 5]


@pytest.mark.parametrize("kind", ["byte", "sentencepiece"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_random_walks_end_within_what_is_left(fitted, kind, pattern):
    pieces = fitted[kind].pieces()
    constraint = Regex(pattern).compile(pieces)
    tables, random = constraint.tensors(), np.random.default_rng(1)
    for more in range(4):
        limit, batch = max(1, int(constraint.distance[START]) + more), 8
        state, texts, running = tf.fill([batch], START), [b""] * batch, np.ones(batch, bool)
        for step in range(limit):
            choices = allowed(tables, constraint.degree, state, tf.fill([batch], limit - step), len(pieces), 3).numpy()
            token = np.array([random.choice(np.flatnonzero(row)) for row in choices])
            running &= token != 3
            texts = [text + pieces[one] * on for text, one, on in zip(texts, token, running.tolist(), strict=True)]
            state = advance(tables, constraint.degree, state, tf.constant(np.where(running, token, 0), tf.int32))
        assert all(re.fullmatch(pattern, text.decode()) for text in texts)


def test_joined_constraints_are_those_they_were(fitted):
    pieces = fitted["byte"].pieces()
    parts = [Regex(pattern).compile(pieces) for pattern in list(PATTERNS)[:4]]
    whole, places = joined([parts[0], None, parts[1], parts[0], parts[2], parts[3]])
    assert places[0] == places[3] == START
    assert places[1] == FREE
    assert len(whole.accepting) == sum(len(part.accepting) for part in parts)  # the one that comes twice is there once
    assert whole.degree == max(part.degree for part in parts)
    left = tf.constant([7])
    for part, place in zip(parts, places[[0, 2, 4, 5]], strict=True):
        for state in range(len(part.accepting)):
            own, there = tf.constant([state]), tf.constant([place + state])
            choices = allowed(part.tensors(), part.degree, own, left, 260, 3).numpy()
            assert np.array_equal(choices, allowed(whole.tensors(), whole.degree, there, left, 260, 3))
            token = tf.constant([np.flatnonzero(choices)[-1]], tf.int32)
            after = advance(part.tensors(), part.degree, own, token)
            assert advance(whole.tensors(), whole.degree, there, token) == after + place
    assert joined([None, None])[0] is None
    assert joined([parts[0], parts[0]])[1].tolist() == [START, START]


def test_many_strings_and_long_patterns_take_seconds(fitted):
    strings = [" ".join(f"{number * 7919 % 10007}中国") for number in range(10_000)]
    for allow in (Choice(strings), Regex(r"\w{1,64}"), Regex(".{0,200}"), Regex("a[^b]{40}c")):
        start = time.perf_counter()
        constraint = allow.compile(fitted["sentencepiece"].pieces())
        assert time.perf_counter() - start < 20  # 1 on two idle cores
        assert constraint.accepting.any()


def test_choices_and_patterns_are_values():
    assert {Choice(["a", "b"]): 1}[Choice(("a", "b"))] == 1
    assert Regex("a") == Regex("a") != Regex("b")


@pytest.mark.parametrize(
    ("allow", "message"),
    [
        (Regex("[a"), r"pattern '\[a' cannot be used: unterminated character set at position 0"),
        (Regex("a)|(b"), "unbalanced parenthesis at position 1"),
        (Regex("a(?=b)"), "look-around"),
        (Regex(r"(a)\1"), "back-references"),
        (Regex(r"\bcat"), "word boundaries"),
        (Regex(r"a[^\s\S]"), "has a part that no text matches"),
        (Regex("a$b"), "has a part that no text matches"),
        (Regex("☃"), "no text that this tokenizer can write matches the pattern '☃'"),
        (Regex("a*☃"), "no text that this tokenizer can write"),
        (Choice(["☃", "☃☃"]), "no text that this tokenizer can write matches the choice of '☃, ☃☃'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(allow, message):
    with pytest.raises(UserError, match=message) as caught:
        allow.compile(tokenizers.CharacterTokenizer(["a", "b", "c"]).pieces())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strings", [[], "word"])
def test_a_choice_needs_a_list_of_strings(strings):
    with pytest.raises(UserError, match="at least one string"):
        Choice(strings)


def test_parts_that_cannot_be_written_are_left_out():
    tokenizer = tokenizers.CharacterTokenizer(["a", "b"])
    constraint = Regex("(?:a|b☃|☃)+").compile(tokenizer.pieces())
    first = allowed(constraint.tensors(), constraint.degree, tf.constant([START]), PLENTY, 6, 3).numpy()[0]
    assert np.flatnonzero(first).tolist() == [4]


def test_rows_without_a_constraint_are_free():
    tokenizer = tokenizers.ByteTokenizer()
    constraint = Regex("a").compile(tokenizer.pieces())
    state = tf.constant([FREE, START])
    choices = allowed(constraint.tensors(), constraint.degree, state, PLENTY, 260, 3).numpy()
    assert choices[0].all()
    assert choices[1].sum() == 1
    after = advance(constraint.tensors(), constraint.degree, state, tf.constant([ord("a") + 4] * 2))
    assert after[0] == FREE
    choices = allowed(constraint.tensors(), constraint.degree, after, PLENTY, 260, 3).numpy()
    assert choices[0].all()
    assert np.flatnonzero(choices[1]).tolist() == [3]
    assert advance(constraint.tensors(), constraint.degree, after, tf.constant([3, 3])).numpy().tolist() == after.numpy().tolist()
    assert advance(constraint.tensors(), constraint.degree, after, tf.constant([0, 0])).numpy().tolist() == after.numpy().tolist()


def test_xla_walks_as_eager_and_another_pattern_compiles_nothing():
    tokenizer = tokenizers.ByteTokenizer()

    @tf.function(jit_compile=True, autograph=False)
    def both(tables, state, token):
        return allowed(tables, 64, state, PLENTY, 260, 3), advance(tables, 64, state, token)

    for allow in (Regex("[0-9]{2,4}"), Regex("a|ab[c-y]*"), Choice(["abc", "xyz", "9"])):
        constraint = allow.compile(tokenizer.pieces())
        assert constraint.degree == 64
        tables = constraint.tensors()
        for state in range(4):
            for value in b"a9b":
                states, token = tf.constant([state, START, FREE]), tf.constant([value + 4] * 3)
                choices, after = both(tables, states, token)
                assert np.array_equal(choices, allowed(tables, 64, states, PLENTY, 260, 3))
                assert np.array_equal(after, advance(tables, 64, states, token))
    assert both.experimental_get_tracing_count() == 1


def test_a_constraint_inside_a_loop_under_xla():
    tokenizer = tokenizers.ByteTokenizer()
    constraint = Regex("ab{3}c").compile(tokenizer.pieces())

    @tf.function(jit_compile=True, autograph=False)
    def greedy(tables):
        def step(count, state, ids):
            choices = allowed(tables, constraint.degree, state, PLENTY, 260, 3)
            token = tf.argmax(tf.cast(choices, tf.float32), axis=-1, output_type=tf.int32)
            return count + 1, advance(tables, constraint.degree, state, token), tf.tensor_scatter_nd_update(ids, [[count]], token[None])

        return tf.while_loop(lambda count, *_: count < 6, step, (0, tf.fill([2], START), tf.zeros([6, 2], tf.int32)))[2]

    ids = greedy(constraint.tensors())
    assert tokenizer.detokenize(tf.transpose(ids)).numpy().tolist() == [b"abbbc"] * 2
    assert ids[-1].numpy().tolist() == [3, 3]


NARROW = [b"", b"a", b"b", b"ab", b"ba", "中".encode(), b"\xe4", b"\xb8\xad", b"aba\xe4"]
WIDE = [*NARROW, b"a" * 9, b"bab\n" * 5]
STRINGS = st.lists(st.sampled_from([b"a", b"aa", b"aab", b"abab", b"b\n", b"ba", b"bb", "中".encode(), "a中".encode()]), max_size=4)


@pytest.mark.parametrize("pieces", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_stop_strings_are_found_wherever_they_begin_and_end(pieces, jit_compile):
    table = PieceTable(pieces)
    assert (table.values.shape[1] > automata._UNROLLED) == (pieces is WIDE)
    compiled = tf.function(watch, jit_compile=jit_compile, autograph=False)

    @hypothesis.given(
        stop=STRINGS, rows=st.lists(st.lists(st.integers(0, len(pieces) - 1), min_size=6, max_size=6), min_size=3, max_size=3)
    )
    @hypothesis.settings(max_examples=60, deadline=None)
    def check(stop, rows):
        tensors, node, texts = StopStrings(stop).tensors(), tf.zeros([3], tf.int32), [b""] * 3
        for column in zip(*rows, strict=True):
            node, hit = compiled(tensors, table.tensors(), node, tf.constant(column))
            lengths = [len(text) for text in texts]
            texts = [text + pieces[token] for text, token in zip(texts, column, strict=True)]
            ended = [
                any(text.endswith(string, 0, end) for string in stop for end in range(length + 1, len(text) + 1))
                for text, length in zip(texts, lengths, strict=True)
            ]
            assert hit.numpy().tolist() == ended

    check()
    assert compiled.experimental_get_tracing_count() == 1  # other stop strings compile nothing


def test_stop_strings_run_eagerly_and_on_any_batch():
    table, stop = PieceTable(WIDE).tensors(), StopStrings([b"\nb"]).tensors()
    node, hit = watch(stop, table, tf.zeros([2], tf.int32), tf.constant([10, 1]))
    assert hit.numpy().tolist() == [True, False]
    rows = tf.TensorSpec([None], tf.int32)
    dynamic = tf.function(lambda node, token: watch(stop, table, node, token), input_signature=[rows, rows], autograph=False)
    assert dynamic(tf.zeros([0], tf.int32), tf.zeros([0], tf.int32))[1].shape == [0]
    assert dynamic(node, tf.constant([2, 2]))[1].numpy().tolist() == [True, False]


def test_an_empty_stop_string_is_refused():
    with pytest.raises(UserError, match="must not be empty"):
        StopStrings([b"a", b""])


def test_many_stop_strings_at_once():
    stop = [f"{number} stop 停".encode() for number in range(200)]
    automaton = StopStrings(stop)
    pieces = [bytes([value]) for value in range(256)]
    table, text = PieceTable(pieces).tensors(), b"12 stop \xe5\x81" + stop[150] + b"!"
    node, hits = tf.zeros([1], tf.int32), []
    for value in text:
        node, hit = watch(automaton.tensors(), table, node, tf.constant([value]))
        hits.append(bool(hit[0]))
    assert hits == [False] * (len(text) - 2) + [True, False]
