import dataclasses
import functools
import itertools
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.speculative import SpeculativeSampler, SpeculativeStatistics, look_up
from keras_lm.layers import TransformerBlock
from keras_lm.models import gru_lm, lstm_lm, transformer_lm
from tests.conftest import scripted_model
from tests.test_models import build

END = 3
WIDTH = 8  # of the vocabulary
PROMPTS = [[5, 6, 7, 4], [7, 5, 7, 5, 7], [4, 4, 6, 7]]  # of one bucket
GREEDY = SamplingSettings(temperature=0.0, max_new_tokens=40, min_new_tokens=40)


def decisive(model, scale=25.0):
    """The model with larger weights: its greedy texts vary, and no argmax is a matter of rounding."""
    model.set_weights([weight * scale if weight.ndim > 1 else weight for weight in model.get_weights()])
    return model


def mixed_lm():
    ids = keras.Input([None], dtype="int32")
    x = keras.layers.LSTM(8, return_sequences=True)(keras.layers.Embedding(WIDTH, 8)(ids))
    x = TransformerBlock(num_heads=1, feed_forward_dim=8, context_length=64)(x)
    return keras.Model(ids, keras.layers.Dense(WIDTH)(x))


DRAFTS = {
    "transformer": lambda: transformer_lm(WIDTH, context_length=64, embedding_dim=8, num_layers=1, num_heads=1, positions="learned"),
    "gru": lambda: gru_lm(WIDTH, embedding_dim=8, hidden_dim=8, num_layers=1),
    "lstm": lambda: lstm_lm(WIDTH, embedding_dim=8, hidden_dim=8),
    "mixed": mixed_lm,
    "itself": lambda: target(),
    "none": lambda: None,
}


@functools.cache
def target():
    keras.utils.set_random_seed(1)
    return decisive(transformer_lm(WIDTH, context_length=64, embedding_dim=16, num_layers=2, num_heads=2, tied=False))


@functools.cache
def draft_of(name):
    keras.utils.set_random_seed(2)
    draft = DRAFTS[name]()
    return draft if name in ("itself", "none") else decisive(draft)


@functools.cache
def greedy_texts():
    return Sampler(target(), end_id=END, never=(0, 1, 2), jit_compile=False).generate(PROMPTS, GREEDY)


def looked_up(ids, count):
    """The rule in Python: the longest last tokens first, the latest place first."""
    for size in (3, 2, 1):
        for place in range(len(ids) - size - 1, -1, -1):
            if ids[place : place + size] == ids[len(ids) - size :]:
                rhythm = ids[place + size :]
                return [rhythm[number % len(rhythm)] for number in range(count)]
    return []


def by_full_passes(draft, text, prompt, count):
    """The statistics of the greedy algorithm, from the text that is right, and full passes of the draft."""
    full = None if draft is None else tf.function(draft)

    def guesses(ids):
        if draft is None:
            return looked_up(ids, count)
        ids = list(ids)
        for _ in range(count):
            logits = full(np.array([ids + [0] * (64 - len(ids))], np.int32))[0, len(ids) - 1].numpy()
            logits[[0, 1, 2, END]] = -np.inf
            ids.append(int(logits.argmax()))
        return ids[-count:]

    done, passes, proposed, accepted = 0, 0, 0, 0
    while done < len(text):
        guessed = guesses(prompt + text[:done])[: len(text) - done]
        right = [guess == token for guess, token in zip(guessed, text[done:], strict=False)]
        run = len(list(itertools.takewhile(bool, right)))
        passes, proposed, accepted = passes + 1, proposed + len(guessed), accepted + run
        done += run + 1
    return passes, proposed, accepted


def some_slow(*fast):
    cases = itertools.product(DRAFTS, (False, True))
    return [pytest.param(*case, marks=() if case in fast else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(("name", "jit_compile"), some_slow(("none", False)))
def test_greedy_is_the_text_of_the_sampler_in_the_passes_it_should_take(name, jit_compile):
    draft = draft_of(name)
    sampler = SpeculativeSampler(target(), draft=draft, num_draft=3, end_id=END, never=(0, 1, 2), jit_compile=jit_compile)
    assert sampler.generate(PROMPTS, GREEDY) == greedy_texts()
    counted = [by_full_passes(draft, text.ids, prompt, 3) for prompt, text in zip(PROMPTS, greedy_texts(), strict=True)]
    assert sampler.statistics == SpeculativeStatistics(*map(sum, zip(*counted, strict=True)))
    if name == "itself":
        assert sampler.statistics == SpeculativeStatistics(target_passes=3 * 10, proposed=3 * 30, accepted=3 * 30)
    else:
        assert sampler.statistics.accepted > 10


@functools.cache
def small_sampler(name):
    """Over 6 tokens, all of which may come; the model and the draft are sure of different things."""
    keras.utils.set_random_seed(3)
    options = {"context_length": 16, "embedding_dim": 8, "num_layers": 1, "num_heads": 1}
    model = decisive(transformer_lm(6, tied=False, **options), 20.0)
    draft = {
        "transformer": lambda: transformer_lm(6, **options),
        "gru": lambda: gru_lm(6, embedding_dim=8, hidden_dim=8),
        "none": lambda: None,
    }
    draft = draft[name]()
    return SpeculativeSampler(model, draft=draft and decisive(draft, 20.0), num_draft=2, end_id=END)


def exact(model, prompt, number, temperature, top_k):
    """The probability of every text of `number` tokens, or of fewer that end, by full passes."""
    texts, ended = {(): 1.0}, {}
    for _ in range(number):
        logits = model(np.array([[*prompt, *text] for text in texts], np.int32))[:, -1].numpy().astype(np.float64) / temperature
        logits[logits < np.sort(logits)[:, [-top_k]]] = -np.inf
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = weights / weights.sum(axis=1, keepdims=True)
        longer = {(*text, token): texts[text] * row[token] for text, row in zip(texts, shares, strict=True) for token in range(6)}
        texts = {text: share for text, share in longer.items() if text[-1] != END and share > 0}
        ended |= {text: share for text, share in longer.items() if text[-1] == END and share > 0}
    return texts | ended


def p_value(counts, shares):
    """Of the chi-square test; what should come less than 5 times is thrown together."""
    expected = shares * counts.sum()
    rare = expected < 5
    counts, expected = (np.append(values[~rare], values[rare].sum()) for values in (counts, expected))
    if expected[-1] < 1:
        counts, expected = counts[:-1], expected[:-1]
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(tf.math.igammac((len(counts) - 1) / 2, statistic / 2))


@pytest.mark.parametrize(
    ("name", "temperature", "top_k"),
    [
        ("transformer", 1.0, 6),
        pytest.param("transformer", 0.7, 3, marks=pytest.mark.slow),
        pytest.param("none", 1.0, 6, marks=pytest.mark.slow),
        pytest.param("none", 1.5, 4, marks=pytest.mark.slow),
        pytest.param("gru", 1.0, 6, marks=pytest.mark.slow),
        pytest.param("gru", 2.0, 5, marks=pytest.mark.slow),
    ],
)
def test_the_first_three_tokens_are_jointly_those_of_the_model(name, temperature, top_k):
    sampler, prompt = small_sampler(name), [5, 4, 5, 4]
    shares = exact(sampler.decoder.model, prompt, 3, temperature, top_k)
    settings = SamplingSettings(max_new_tokens=3, temperature=temperature, top_k=top_k, seed=6)
    texts = [tuple(text.ids) for text in sampler.generate([prompt] * 2000, settings)]
    assert set(texts) <= set(shares)
    assert 0.05 < sampler.statistics.accepted_share < 0.95
    counts = np.array([texts.count(text) for text in shares])
    assert p_value(counts, np.array(list(shares.values()))) > 0.001


def test_a_draft_that_is_the_model_is_always_right():
    model = build("transformer")
    sampler = SpeculativeSampler(model, draft=model, num_draft=3, end_id=END, never=(END,), jit_compile=False)
    (text,) = sampler.generate([[5, 6, 7, 8]], SamplingSettings(temperature=1.5, top_p=0.9, max_new_tokens=12))
    assert len(set(text.ids)) > 3
    assert sampler.statistics == SpeculativeStatistics(target_passes=3, proposed=9, accepted=9)
    assert sampler.statistics.accepted_share == 1


def test_looking_up_pays_where_the_text_repeats_itself():
    sampler = SpeculativeSampler(scripted_model([4, 5, 6, 7, 4], 12), num_draft=4, end_id=END)
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=40)
    (text,) = sampler.generate([[4, 5, 6, 7, 4]], greedy)
    assert text.ids == [5, 6, 7, 4] * 10
    assert sampler.statistics == SpeculativeStatistics(target_passes=8, proposed=32, accepted=32)
    (text,) = sampler.generate([[4]], greedy)  # nothing to look up before the first four tokens are there
    assert text.ids == [5, 6, 7, 4] * 10
    assert sampler.statistics == SpeculativeStatistics(target_passes=4 + 8, proposed=4 * 7 + 1, accepted=4 * 7 + 1)


@pytest.mark.parametrize(
    ("text", "guesses"),
    [
        ([5], None),
        ([5, 6, 7], None),
        ([5, 6, 7, 5], [6, 7, 5, 6]),
        ([5, 5], [5, 5, 5, 5]),
        ([5, 8, 5, 9, 5], [9, 5, 9, 5]),  # the latest place
        ([1, 2, 3, 8, 8, 2, 3, 9, 9, 1, 2, 3], [8, 8, 2, 3]),  # three tokens rather than two
        ([0, 1, 2, 3, 8, 7, 1, 2, 3, 9, 6, 0, 1, 2, 3], [9, 6, 0, 1]),  # three are the most, so the latest of them
    ],
)
def test_what_is_looked_up(text, guesses):
    behind = [text[-1], 1, 2, 3]  # what an earlier round left there
    found_guesses, found = look_up(tf.constant(text + behind), tf.constant(len(text)), 4, 3)
    assert bool(found) == (guesses is not None)
    if found:
        assert found_guesses.numpy().tolist() == guesses == looked_up(text, 4)


def test_texts_end_where_they_should():
    script = [5, 9, 4, 7, 8, 10, 11, END]
    model = scripted_model(script, 12)
    for draft in (model, scripted_model([5, 9, 4, 8, 7], 12)):
        sampler = SpeculativeSampler(model, draft=draft, num_draft=3, end_id=END, jit_compile=False)
        for most in range(1, 11):
            (text,) = sampler.generate([[5]], SamplingSettings(temperature=0.0, max_new_tokens=most))
            assert text.ids == script[1 : most + 1]
            assert text.finish_reason == ("end" if most >= 7 else "length")
    (text,) = sampler.generate([[5]], SamplingSettings(temperature=0.0, max_new_tokens=9, min_new_tokens=8), bias={0: 1.0})
    assert (text.ids[:6], text.ids[6], len(text.ids)) == (script[1:7], 0, 9)
    assert sampler.generate([[5]], SamplingSettings(), bias=dict.fromkeys(range(12), -np.inf))[0].finish_reason == "blocked"


@pytest.mark.slow
def test_a_full_context_ends_the_text():
    """Learned positions, of which there are 16 for the model and 8 for its draft."""
    model, prompts = decisive(build("transformer-gpt2")), [[5, 6, 7, 8], [8] * 15, [9] * 14]
    draft = transformer_lm(20, context_length=8, embedding_dim=8, num_layers=1, positions="learned")
    sampler = SpeculativeSampler(model, draft=draft, end_id=END, never=(END,), jit_compile=False)
    texts = sampler.generate(prompts, GREEDY)
    assert [len(text.ids) for text in texts] == [12, 1, 2]
    assert {text.finish_reason for text in texts} == {"context"}
    assert texts == Sampler(model, end_id=END, never=(END,), jit_compile=False).generate(prompts, GREEDY)


@pytest.mark.slow
def test_same_seed_same_text_with_xla_and_without():
    settings = SamplingSettings(seed=11, max_new_tokens=10, top_k=5, temperature=1.5)
    samplers = [SpeculativeSampler(target(), num_draft=2, end_id=END, jit_compile=jit_compile) for jit_compile in (False, True)]
    first, second = (sampler.generate(PROMPTS, settings) for sampler in samplers)
    assert first == second == samplers[1].generate(PROMPTS, settings)
    (alone,) = samplers[1].generate(PROMPTS[2:], dataclasses.replace(settings, seed=13))
    assert alone == first[2]
    assert samplers[1].generate(PROMPTS, dataclasses.replace(settings, seed=12)) != first


@pytest.mark.slow
def test_knobs_seeds_and_lengths_compile_nothing():
    sampler, times = SpeculativeSampler(target(), end_id=END), [time.process_time()]
    random = np.random.default_rng(0)
    for _ in range(30):
        settings = SamplingSettings(
            max_new_tokens=int(random.integers(2, 20)),
            min_new_tokens=int(random.integers(0, 2)),
            temperature=random.choice([0.0, 0.7]),
            top_k=int(random.integers(0, 8)),
            top_p=random.choice([0.5, 1.0]),
            min_p=random.choice([0.0, 0.1]),
            typical_p=random.choice([0.9, 1.0]),
            epsilon_cutoff=random.choice([0.0, 0.01]),
            eta_cutoff=random.choice([0.0, 0.01]),
            seed=int(random.integers(0, 1000)),
        )
        sampler.generate([random.integers(0, 8, size=random.integers(6, 10)).tolist()], settings, bias={4: 1.0})
        times.append(time.process_time())
    assert sampler.num_compilations == 2
    assert times[-1] - times[1] < times[1] - times[0]  # XLA compiles anew, without tracing, where a value has become a constant
    sampler.generate([[5, 6, 7]], settings)  # another bucket: the reading alone
    assert sampler.num_compilations == 3


@pytest.mark.parametrize(
    "setting",
    [
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": 0.1},
        {"no_repeat_ngram_size": 3},
        {"stop": ("x",)},
        {"allow": "x"},
        {"num_samples": 2},
        {"top_logprobs": 0},
        {"when_full": "slide"},
    ],
)
def test_settings_that_it_does_not_know_are_refused(setting):
    sampler = SpeculativeSampler(target(), end_id=END)
    (name,) = setting
    with pytest.raises(UserError, match=f"speculative decoding knows no {name}, got .*: leave it out, or use Sampler"):
        sampler.generate([[5]], SamplingSettings(**setting))


def test_models_and_prompts_that_cannot_be_used():
    with pytest.raises(UserError, match=r"layer lstm\w* is recurrent, so its model cannot check several tokens at once"):
        SpeculativeSampler(mixed_lm(), end_id=END)
    with pytest.raises(UserError, match="draft and model must share a vocabulary, got 20 and 8 tokens"):
        SpeculativeSampler(target(), draft=build("gru"), end_id=END)
    with pytest.raises(UserError, match="num_draft must be at least 1, got 0"):
        SpeculativeSampler(target(), num_draft=0, end_id=END)
    sampler = SpeculativeSampler(target(), end_id=END)
    assert sampler.generate([], SamplingSettings()) == []
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        sampler.generate([[5], []], SamplingSettings())
    with pytest.raises(ValueError, match="a prompt has 64 tokens; the context of 64 leaves room for 63"):
        sampler.generate([[5] * 64], SamplingSettings())
