import dataclasses
import itertools
import re

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.generation.automata import Choice, Regex
from keras_lm.generation.decode import Knobs, Rules, bias_against, decode, left_padded
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from tests.conftest import as_ids, scripted_model
from tests.test_models import SMALL, build

END = 3
LETTERS = [b"", b"\xef\xbf\xbd", b"", b"", *(bytes([97 + letter]) for letter in range(16))]  # a to p


def generate(sampler, prompts, settings, **rules):
    """Ids and reasons, as two lists."""
    texts = sampler.generate(prompts, settings, **rules)
    return [text.ids for text in texts], [text.finish_reason for text in texts]


def some_slow(*fast):
    """The models, all but `fast` marked slow: compiling is what takes the time."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in SMALL]


def sampler_of(name, **kwargs):
    return Sampler(build(name), end_id=END, never=(0, 1, 2), **kwargs)


def test_the_script_is_spoken_to_its_end():
    script = [5, 9, 4, 7, END]
    sampler = Sampler(scripted_model(script, 12), end_id=END)
    rows, reasons = generate(sampler, [[5], [4, 5, 9]], SamplingSettings(temperature=0.0, max_new_tokens=10))
    assert rows == [[9, 4, 7, END], [4, 7, END]]
    assert reasons == ["end", "end"]


def test_length_and_stop_end_a_text():
    script = [5, 9, 4, 7, 8, 10, 11]
    sampler = Sampler(scripted_model(script, 12), end_id=END, pieces=LETTERS[:12])
    settings = SamplingSettings(temperature=0.0, max_new_tokens=3)
    assert generate(sampler, [[5]], settings) == ([[9, 4, 7]], ["length"])
    assert generate(sampler, [[5]], settings, stop=[b"xyz", b"fa"]) == ([[9, 4]], ["stop"])
    assert generate(sampler, [[9]], settings, stop=[b"fa"]) == ([[4, 7, 8]], ["length"])  # what stands in the prompt does not stop


@pytest.mark.parametrize("name", some_slow("lstm", "transformer-gpt2"))
def test_greedy_equals_the_loop_a_reader_would_write(name):
    """`model(ids)`, argmax, append, repeat: the full pass each time, no cache."""
    model = build(name)
    prompts = [[5], [6, 7, 8], [9, 10, 11, 12, 13]]
    rows, _ = generate(Sampler(model, end_id=END, never=(0, 1, 2)), prompts, SamplingSettings(temperature=0.0, max_new_tokens=8))
    for prompt, row in zip(prompts, rows, strict=True):
        ids = list(prompt)
        for _ in range(8):
            logits = model(np.array([ids], np.int32))[0, -1].numpy()
            logits[:3] = -np.inf
            ids.append(int(logits.argmax()))
            if ids[-1] == END:
                break
        assert ids[len(prompt) :] == row


@pytest.mark.parametrize("name", some_slow("transformer"))
def test_same_seed_same_text_with_xla_and_without(name):
    settings = SamplingSettings(seed=11, max_new_tokens=10, top_k=12, top_p=0.9, repetition_penalty=1.1)
    prompts = [[5, 6], [7], [8, 9, 10, 11]]
    model = build(name)
    first = Sampler(model, end_id=END)
    assert generate(first, prompts, settings) == generate(first, prompts, settings)
    assert generate(first, prompts, settings) == generate(Sampler(model, end_id=END, jit_compile=False), prompts, settings)
    other, _ = generate(first, prompts, SamplingSettings(seed=12, max_new_tokens=10))
    assert other != generate(first, prompts, settings)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_a_text_does_not_depend_on_its_batch(name):
    sampler = sampler_of(name)
    prompts = [[5, 6], [7], [8, 9, 10, 11]]
    together, _ = generate(sampler, prompts, SamplingSettings(seed=20, max_new_tokens=8))
    for row, prompt in enumerate(prompts):
        alone, _ = generate(sampler, [prompt], SamplingSettings(seed=20 + row, max_new_tokens=8))
        assert alone[0] == together[row]


@pytest.mark.slow
def test_200_mixed_calls_compile_what_their_buckets_need():
    """Lengths, numbers of tokens, seeds, stop strings, biases, every knob: one `advance`, and a `begin` for each bucket of prompts."""
    sampler = Sampler(build("transformer"), end_id=END, never=(0, 1, 2), pieces=LETTERS)
    random = np.random.default_rng(0)
    for _ in range(200):
        settings = SamplingSettings(
            max_new_tokens=int(random.integers(1, 12)),
            repetition_penalty=random.choice([1.0, 1.3]),
            presence_penalty=random.choice([0.0, 0.5]),
            frequency_penalty=random.choice([0.0, 0.5]),
            no_repeat_ngram_size=int(random.integers(0, 4)),
            temperature=random.choice([0.0, 0.7]),
            top_k=int(random.integers(0, 20)),
            top_p=random.choice([0.5, 1.0]),
            min_p=random.choice([0.0, 0.1]),
            typical_p=random.choice([0.9, 1.0]),
            epsilon_cutoff=random.choice([0.0, 0.01]),
            eta_cutoff=random.choice([0.0, 0.01]),
            when_full=random.choice(["stop", "slide"]),
            seed=int(random.integers(0, 1000)),
        )
        stop = [b"abc", b"p"][: random.integers(0, 3)]
        bias = {int(token): 1.0 for token in random.integers(4, 20, size=random.integers(0, 3))}
        prompt = random.integers(4, 20, size=random.integers(1, 16)).tolist()
        chunk_size = random.choice([None, 3])
        assert list(sampler.stream([prompt], settings, stop=stop, bias=bias, chunk_size=chunk_size))
    buckets = 5  # all but the last token of a prompt of 1 to 15: 1, 2, 4, 8, 16
    assert sampler.num_compilations == 1 + buckets


def test_another_batch_size_compiles_once():
    sampler = sampler_of("gru", jit_compile=False)
    for batch in (1, 2, 1, 2):
        sampler.generate([[5, 6]] * batch, SamplingSettings(max_new_tokens=2))
    assert sampler.num_compilations == 4


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_growing_caches_give_the_same_text(jit_compile):
    """Samples of prompts of different lengths, whole, in chunks and sliding; a recurrent model has nothing that grows."""
    prompts, knobs = [[5, 6, 7], [8] * 9], {"seed": 1, "num_samples": 2}
    for name, count in (("transformer", 4), ("gru", 2)):  # `begin`, and `advance` with room for 8 (which is less than the prompt), 12, 16
        model = build(name)
        whole = Sampler(model, end_id=END, never=(0, 1, 2, END), jit_compile=jit_compile)
        growing = Sampler(model, end_id=END, never=(0, 1, 2, END), jit_compile=jit_compile, cache_step=4)
        for settings in (SamplingSettings(max_new_tokens=7, **knobs), SamplingSettings(max_new_tokens=20, when_full="slide", **knobs)):
            expected = whole.generate(prompts, settings)
            assert growing.generate(prompts, settings) == expected
            parts = list(growing.stream(prompts, settings, chunk_size=3))
            assert [sum(row[1:], row[0]) for row in zip(*parts, strict=True)] == expected
        assert growing.num_compilations >= count
    with pytest.raises(ValueError, match="cache_step must be at least 1"):
        Sampler(model, end_id=END, cache_step=0)


def test_a_full_context_ends_the_text_or_slides():
    sampler = Sampler(build("transformer"), end_id=END, never=(0, 1, 2, END), jit_compile=False)  # context 16
    prompts, settings = [[5, 6, 7], [8] * 15], SamplingSettings(seed=1, max_new_tokens=60, temperature=2.0)
    rows, reasons = generate(sampler, prompts, settings)
    assert [len(row) for row in rows] == [13, 1]
    assert reasons == ["context", "context"]
    slid, reasons = generate(sampler, prompts, dataclasses.replace(settings, when_full="slide"))
    assert [len(row) for row in slid] == [60, 60]
    assert reasons == ["length", "length"]
    assert slid[0][:13] == rows[0]


def test_what_is_beyond_the_context_follows_from_its_last_half():
    sampler = Sampler(build("transformer"), end_id=END, never=(0, 1, 2, END), jit_compile=False)
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=20, when_full="slide")
    (whole,), _ = generate(sampler, [[5, 6, 7, 8]], greedy)
    (first,), _ = generate(sampler, [[5, 6, 7, 8]], dataclasses.replace(greedy, max_new_tokens=12))
    (rest,), _ = generate(sampler, [[5, 6, 7, 8, *first][-8:]], dataclasses.replace(greedy, max_new_tokens=8))
    assert whole == first + rest


@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_the_parts_of_a_stream_are_the_text(name):
    sampler = sampler_of(name, jit_compile=False, pieces=LETTERS)
    settings = SamplingSettings(seed=3, max_new_tokens=13, top_logprobs=2, num_samples=2, temperature=1.5, when_full="slide")
    whole = sampler.generate([[5], [6, 7, 8]], settings, stop=[b"ca"])
    for chunk_size in (1, 4):
        parts = list(sampler.stream([[5], [6, 7, 8]], settings, stop=[b"ca"], chunk_size=chunk_size))
        assert all(len(part.ids) <= chunk_size for row in parts for part in row)
        assert [sum(row[1:], row[0]) for row in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("name", ["lstm", pytest.param("transformer-gpt2", marks=pytest.mark.slow)])
def test_samples_of_a_prompt_are_what_their_seeds_give(name):
    sampler = sampler_of(name, jit_compile=False)
    together, _ = generate(sampler, [[5, 6], [7]], SamplingSettings(seed=20, max_new_tokens=8, num_samples=3))
    assert len(together) == 6
    for row, prompt in enumerate([[5, 6]] * 3 + [[7]] * 3):
        alone, _ = generate(sampler, [prompt], SamplingSettings(seed=20 + row, max_new_tokens=8))
        assert alone[0] == together[row]


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_log_probabilities_are_those_of_the_full_pass(jit_compile):
    model = build("transformer")
    sampler = Sampler(model, end_id=END, jit_compile=jit_compile)
    settings = SamplingSettings(max_new_tokens=8, top_k=3, temperature=0.5, repetition_penalty=1.5, top_logprobs=4)
    prompt = [5, 6, 7]
    (text,) = sampler.generate([prompt], settings)
    expected = tf.nn.log_softmax(model(np.array([prompt + text.ids[:-1]], np.int32))[0, len(prompt) - 1 :]).numpy()
    np.testing.assert_allclose(text.logprobs, expected[np.arange(len(text.ids)), text.ids], atol=1e-5)
    for row, alternatives in zip(expected, text.alternatives, strict=True):
        assert [token for token, _ in alternatives] == np.argsort(-row)[:4].tolist()
        np.testing.assert_allclose([value for _, value in alternatives], np.sort(row)[::-1][:4], atol=1e-5)


def naive(model, prompt, number, change):
    """Greedy by the full pass; `change(logits, ids)` is the rule in NumPy."""
    ids = list(prompt)
    while len(ids) < len(prompt) + number and ids[-1] != END:
        logits = model(np.array([ids], np.int32))[0, -1].numpy()
        change(logits, ids)
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


def penalise_as_ctrl(logits, ids):
    for token in set(ids):
        logits[token] = logits[token] / 1.3 if logits[token] > 0 else logits[token] * 1.3


def penalise(logits, ids):
    counts = np.bincount(ids[2:], minlength=len(logits))
    logits -= 0.05 * (counts > 0) + 0.02 * counts


def hold_back_the_end(logits, ids):
    logits[END] = logits[END] + 9 if len(ids) >= 2 + 5 else -np.inf


def no_bigram_twice(logits, ids):
    for place in range(len(ids) - 1):
        if ids[place] == ids[-1]:
            logits[ids[place + 1]] = -np.inf


def add_bias(logits, ids):
    logits[9] += 1
    logits[11] = -np.inf


@pytest.mark.parametrize(
    ("rule", "knobs", "bias"),
    [
        (penalise_as_ctrl, {"repetition_penalty": 1.3}, {}),
        (penalise, {"presence_penalty": 0.05, "frequency_penalty": 0.02}, {}),
        (hold_back_the_end, {"min_new_tokens": 5}, {END: 9.0}),
        (no_bigram_twice, {"no_repeat_ngram_size": 2}, {}),
        (add_bias, {}, {9: 1.0, 11: -np.inf}),
    ],
)
def test_rules_equal_the_loop_a_reader_would_write(rule, knobs, bias):
    model = build("transformer")
    sampler = Sampler(model, end_id=END, jit_compile=False)
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=12, **knobs)
    (row,), _ = generate(sampler, [[5, 6]], greedy, bias=bias)
    assert row == naive(model, [5, 6], 12, rule)
    assert row != naive(model, [5, 6], 12, lambda logits, ids: None)


def test_stop_strings_are_found_across_and_inside_tokens():
    script = [5, 9, 4, 7, 8, 10, 11]
    pieces = [b"", b"?", b"", b"", b"th", b"a", "中".encode()[:2], "文".encode(), b"e end", "中".encode(), b"y", b"z"]
    sampler = Sampler(scripted_model(script, 12), end_id=END, pieces=pieces)  # writes: a 中 th 文 «e end» y z
    settings = SamplingSettings(temperature=0.0, max_new_tokens=6)
    find = lambda *stop: generate(sampler, [[5]], settings, stop=[text.encode() for text in stop])
    assert find("h文e") == ([[9, 4, 7, 8]], ["stop"])
    assert find("no", "end") == ([[9, 4, 7, 8]], ["stop"])  # inside a token
    assert find("e ") == ([[9, 4, 7, 8]], ["stop"])  # more follows in the token
    assert find("中") == ([[9]], ["stop"])
    assert find("a中") == ([[9, 4, 7, 8, 10, 11]], ["length"])  # begins in the prompt
    assert sampler.num_compilations == 2


@pytest.mark.parametrize("jit_compile", [False, True])
def test_constrained_texts_match_their_pattern(jit_compile):
    sampler = Sampler(build("gru"), end_id=END, never=(0, 1, 2), pieces=LETTERS, jit_compile=jit_compile)
    settings = SamplingSettings(temperature=3.0, max_new_tokens=10, num_samples=40)
    for allow in (Regex("[a-d]+p|(no){2,3}"), Choice(["abc", "abd", "b"])):
        texts = sampler.generate([[5]], settings, constraint=allow.compile(LETTERS))
        ended = [b"".join(LETTERS[token] for token in text.ids).decode() for text in texts if text.finish_reason == "end"]
        assert len(ended) > 5
        assert len(set(ended)) > 1
        pattern = allow.pattern if isinstance(allow, Regex) else "|".join(allow.strings)
        assert all(re.fullmatch(pattern, text) for text in ended)


def text_of(continuation):
    return b"".join(LETTERS[token] for token in continuation.ids).decode()


def test_each_prompt_has_a_constraint_of_its_own():
    model = build("gru")
    sampler, plain = (Sampler(model, end_id=END, never=(0, 1, 2), pieces=LETTERS, jit_compile=jit_compile) for jit_compile in (True, False))
    patterns = ["[a-d]+p", None, "(no){2,3}", "[a-d]+p"]
    compiled = {pattern: pattern and Regex(pattern).compile(LETTERS) for pattern in patterns}
    prompts = [[5], [6, 7], [8], [9, 10, 11]]
    settings = SamplingSettings(temperature=3.0, max_new_tokens=10, num_samples=3, seed=5)
    together = sampler.generate(prompts, settings, constraint=[compiled[pattern] for pattern in patterns])
    for row, (prompt, pattern) in enumerate(zip(prompts, patterns, strict=True)):
        texts = together[3 * row : 3 * row + 3]
        alone = dataclasses.replace(settings, seed=5 + 3 * row)
        assert plain.generate([prompt], alone, constraint=compiled[pattern]) == texts
        assert all(re.fullmatch(pattern or ".*", text_of(text)) for text in texts)
    for patterns in (["[a-d]+p", "b{3}", None, "c"], ["a", "a", "(ab|cd)+", "[a-p]*"], [None, None, None, "abc"]):
        sampler.generate(prompts, settings, constraint=[pattern and Regex(pattern).compile(LETTERS) for pattern in patterns])
    assert sampler.num_compilations == 2
    with pytest.raises(ValueError, match="one for each of the 4 prompts, got 2"):
        sampler.generate(prompts, settings, constraint=[None, None])


def reluctant(*tokens):
    """A bias that leaves some tokens to when nothing else may come."""
    return {**dict.fromkeys(tokens, -100.0), END: -200.0}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_text_is_whole_where_its_limit_is(jit_compile):
    sampler, constraint = sampler_of("gru", pieces=LETTERS, jit_compile=jit_compile), Regex("(ab)*c").compile(LETTERS)
    for limit, text, reason in (
        (1, "c", "length"),
        (2, "c", "end"),
        (5, "ababc", "length"),
        (6, "ababc", "end"),
        (9, "ababababc", "length"),
    ):
        settings = SamplingSettings(max_new_tokens=limit)
        (found,) = sampler.generate([[5, 6]], settings, constraint=constraint, bias=reluctant(6))
        assert (text_of(found), found.finish_reason) == (text, reason)
    assert sampler.num_compilations == 2
    streamed = list(sampler.stream([[5, 6]], settings, constraint=constraint, bias=reluctant(6), chunk_size=2))
    assert sum((part for (part,) in streamed[1:]), streamed[0][0]) == found
    (short,) = sampler.generate([[5]], SamplingSettings(max_new_tokens=2), constraint=Choice(["abcd"]).compile(LETTERS))
    assert (text_of(short), short.finish_reason) == ("ab", "length")  # too little for any text


def test_a_text_is_whole_where_the_context_is_full_or_slides():
    sampler, constraint = sampler_of("transformer", pieces=LETTERS, jit_compile=False), Regex("(ab)*c").compile(LETTERS)  # context 16
    prompts, each = [[5], [6, 7, 8]], [constraint, Regex("d(ef)*").compile(LETTERS)]
    settings = SamplingSettings(max_new_tokens=26)
    found = sampler.generate(prompts, settings, constraint=each, bias=reluctant(6))
    assert [(text_of(text), text.finish_reason) for text in found] == [("ab" * 7 + "c", "context"), ("d" + "ef" * 6, "context")]
    found = sampler.generate(prompts, dataclasses.replace(settings, when_full="slide"), constraint=each, bias=reluctant(6))
    assert [(text_of(text), text.finish_reason) for text in found] == [("ab" * 12 + "c", "end"), ("d" + "ef" * 12, "end")]


def test_where_nothing_is_allowed_the_text_is_blocked():
    sampler = Sampler(build("gru"), end_id=END, pieces=LETTERS, jit_compile=False)
    constraint = Choice(["ab"]).compile(LETTERS)
    text, free = sampler.generate([[5], [6]], SamplingSettings(max_new_tokens=4), constraint=constraint, bias={5: -np.inf})
    assert (text.ids, text.finish_reason) == ([4], "blocked")
    assert free == text


def test_more_padding_makes_no_difference():
    """A prompt aligned anywhere in its slots gives the same text."""
    decoder = Decoder(build("transformer"))
    knobs, rules = Knobs.of(SamplingSettings(temperature=1.0, seed=5), 1), Rules(END, bias_against((), decoder.vocabulary_size))
    texts = []
    for padding in (0, 1, 6):
        prompt = tf.constant([[7] * padding + [5, 6, 7]])
        ids, _, _ = decode(decoder, prompt, tf.constant([padding]), knobs, rules, capacity=8, room=tf.constant([9]))
        texts.append(ids.numpy().tolist())
    assert texts[0] == texts[1] == texts[2]


def test_eager_gives_the_same_text():
    model = build("transformer")
    settings, prompts = SamplingSettings(seed=11, max_new_tokens=8, top_k=12, top_p=0.9), [[5, 6], [7, 8]]
    decoder = Decoder(model)
    knobs, rules = Knobs.of(settings, 2), Rules(END, bias_against((), decoder.vocabulary_size))
    ids, lengths, _ = decode(decoder, tf.constant(prompts), tf.constant([0, 0]), knobs, rules, capacity=8, room=tf.constant([14, 14]))
    rows, _ = generate(Sampler(model, end_id=END, jit_compile=False), prompts, settings)
    assert [row[:length].tolist() for row, length in zip(ids.numpy(), lengths.numpy(), strict=True)] == rows


def test_finished_rows_do_not_change():
    script = [5, 9, 4, 7, END]
    sampler = Sampler(scripted_model(script, 12), end_id=END, jit_compile=False)
    parts = list(sampler.stream([[7], [5]], SamplingSettings(temperature=0.0, max_new_tokens=10), chunk_size=1))
    assert [row[0].ids for row in parts] == [[END], [], [], []]
    assert {row[0].finish_reason for row in parts} == {"end"}


def test_never_ids_do_not_come_out():
    rows, _ = generate(sampler_of("gru", jit_compile=False), [[5]] * 16, SamplingSettings(temperature=5.0, max_new_tokens=50))
    assert not {0, 1, 2} & set(itertools.chain(*rows))


def test_tokens_are_drawn_from_the_softmax():
    """Chi-square of 4,000 first tokens against the probabilities of the full pass."""
    model = build("gru", vocabulary_size=8)
    for variable in model.trainable_variables:
        variable.assign(variable * 3)
    probabilities = tf.nn.softmax(model(np.array([[5, 6]], np.int32))[0, -1]).numpy()
    sampler = Sampler(model, end_id=END, jit_compile=False)
    rows, _ = generate(sampler, [[5, 6]] * 4000, SamplingSettings(temperature=1.0, max_new_tokens=1, seed=3))
    counts = np.bincount([row[0] for row in rows], minlength=8)
    chi_square = float(((counts - 4000 * probabilities) ** 2 / (4000 * probabilities)).sum())
    assert chi_square < 24.3  # 99.9 % of the distribution with 7 degrees of freedom


def test_weights_are_read_at_each_call():
    model = scripted_model([5, 9], 12)
    sampler = Sampler(model, end_id=END)
    assert generate(sampler, [[5]], SamplingSettings(temperature=0.0, max_new_tokens=1))[0] == [[9]]
    model.set_weights(scripted_model([5, 10], 12).get_weights())
    assert generate(sampler, [[5]], SamplingSettings(temperature=0.0, max_new_tokens=1))[0] == [[10]]
    assert sampler.num_compilations == 2


def test_prompts_that_cannot_be_used():
    sampler = sampler_of("transformer")
    assert generate(sampler, [], SamplingSettings()) == ([], [])
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        generate(sampler, [[5], []], SamplingSettings())
    with pytest.raises(ValueError, match="a prompt has 16 tokens; the context of 16 leaves room for 15"):
        generate(sampler, [[5] * 16], SamplingSettings())


def test_left_padding_keeps_the_end():
    dense, padding = left_padded(as_ids([[1, 2, 3], [], [4]]), 2)
    assert dense.numpy().tolist() == [[2, 3], [0, 0], [0, 4]]
    assert padding.numpy().tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("max_new_tokens", 0, "at least 1"),
        ("temperature", -0.1, r"0 \(greedy\) or more"),
        ("temperature", float("nan"), r"0 \(greedy\) or more"),
        ("top_k", -1, r"0 \(off\) or more"),
        ("top_p", 0.0, "over 0 and at most 1"),
        ("top_p", 2.0, "over 0 and at most 1"),
        ("repetition_penalty", 0.0, "over 0"),
        ("stop", ("",), "strings that are not empty"),
        ("seed", -1, "from 0 to 2147483647"),
    ],
)
def test_settings_out_of_range_are_named(field, value, allowed):
    with pytest.raises(UserError, match=f"{field} must be {allowed}.*, got"):
        SamplingSettings(**{field: value})
