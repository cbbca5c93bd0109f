"""Ranks of canaries beside those by the full forward pass of every candidate."""

import dataclasses
import math
import random

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.corpora import Corpus
from keras_lm.errors import UserError
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import TextGenerator
from keras_lm.insight.exposure import CHANCE, exposures, extraction
from keras_lm.insight.reading import Reader
from keras_lm.models import gru_lm, lstm_lm, transformer_lm
from keras_lm.pipeline import split_of
from keras_lm.privacy.canaries import Canary, CanaryFormat, make_canaries, plant
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer, SentencePieceTokenizer
from keras_lm.training import loop
from keras_lm.training.preparation import prepare
from keras_lm.training.settings import TrainingSettings

FORM = CanaryFormat(text="{name}的号码是{secret}。", symbols="０１２３", length=3)
TEXTS = ["王李张刘陈杨赵黄周吴建国华明文志海春平军的号码是０１２３。", "号码是０１号码是０２号码是３３"]


def models(vocabulary_size):
    sizes = {"embedding_dim": 16, "num_layers": 2}
    return {
        "lstm": lambda: lstm_lm(vocabulary_size, hidden_dim=16, **sizes),
        "gru": lambda: gru_lm(vocabulary_size, hidden_dim=16, **sizes),
        "transformer": lambda: transformer_lm(vocabulary_size, context_length=48, num_heads=2, **sizes),
    }


def sharpened(model):
    """Weights at random as large as trained ones, so that candidates differ."""
    tf.random.set_seed(1)
    model.set_weights([weight + np.random.default_rng(i).normal(0, 0.5, weight.shape) for i, weight in enumerate(model.get_weights())])
    return model


def by_forward_pass(reader, canary, form):
    """Bits and rank, from ln P of every whole candidate without any cache."""
    tokenizer, scores = reader.tokenizer, {}
    start = [tokenizer.start_id] * int(reader.begins)
    rows = {secret: [*start, *tokenizer.tokenize(tf.constant([canary.before + secret])).to_list()[0]] for secret in form.secrets()}
    common = next(i for i, column in enumerate(zip(*rows.values(), strict=False)) if len(set(column)) > 1)
    padded = tf.ragged.constant(list(rows.values())).to_tensor(tokenizer.pad_id)  # behind the text, where no position before it looks
    for (secret, row), logprobs in zip(rows.items(), tf.nn.log_softmax(reader.model.predict(padded, verbose=0)).numpy(), strict=True):
        scores[secret] = sum(float(logprobs[place - 1, row[place]]) for place in range(common, len(row)))
    planted = scores[canary.secret]
    return -planted / math.log(2), 1 + sum(score > planted + 1e-5 for secret, score in scores.items() if secret != canary.secret)


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
@pytest.mark.parametrize("tokenizer", ["char", "byte", "sentencepiece"])
def test_ranks_are_those_of_scoring_every_candidate(kind, tokenizer):
    tokens = {
        "char": lambda: CharacterTokenizer.fit(TEXTS),
        "byte": ByteTokenizer,
        "sentencepiece": lambda: SentencePieceTokenizer.fit(TEXTS * 20, 300),
    }[tokenizer]()
    reader = Reader(sharpened(models(tokens.vocabulary_size)[kind]()), tokens)
    canaries = make_canaries([0] * 6, FORM)
    for found in exposures(reader, canaries, FORM, batch_size=8, jit_compile=False):
        bits, rank = by_forward_pass(reader, found.canary, FORM)
        assert found.rank == rank
        np.testing.assert_allclose(found.bits, bits, rtol=1e-4)
        assert found.exposure == 6 - math.log2(rank)


def test_compiled_or_not_and_in_any_batch_the_same():
    reader = Reader(
        sharpened(models(60)["lstm"]()), CharacterTokenizer([chr(0x4E00 + i) for i in range(46)] + list("０１２３的号码是王。"))
    )
    canaries = [Canary("的号码是", secret, "。") for secret in ("０１２", "３３３")]
    reference = exposures(reader, canaries, FORM, batch_size=64, jit_compile=True)
    for size in (2, 3, 16):
        found = exposures(reader, canaries, FORM, batch_size=size, jit_compile=False)
        assert [one.rank for one in found] == [one.rank for one in reference]


def test_tokens_that_join_symbols_are_ranked_all_the_same():
    form = CanaryFormat(text="pin {secret}!", symbols="07", length=4)
    tokenizer = SentencePieceTokenizer.fit(["pin 0707! pin 0700! pin 7777!", "pin 0707 0707 7707 07"] * 20, 280)
    assert len(tokenizer.tokenize(tf.constant(["pin 0707"])).to_list()[0]) < 8  # several digits are one token
    reader = Reader(sharpened(models(tokenizer.vocabulary_size)["gru"]()), tokenizer)
    for secret in ("0707", "7000"):
        (found,) = exposures(reader, [Canary("pin ", secret, "!")], form, batch_size=8, jit_compile=False)
        assert found.rank == by_forward_pass(reader, found.canary, form)[1]


def test_a_hundred_canaries_that_were_never_read_rank_by_chance():
    tokenizer = CharacterTokenizer.fit(TEXTS)
    reader = Reader(sharpened(models(tokenizer.vocabulary_size)["lstm"]()), tokenizer)
    form = CanaryFormat(text="{name}的号码是{secret}。", symbols="０１２３", length=5)
    found = exposures(reader, make_canaries([0] * 100, form, seed=3), form, batch_size=512, jit_compile=False)
    shares = np.array([(one.rank - 0.5) / one.candidates for one in found])
    assert abs(shares.mean() - 0.5) < 3 / math.sqrt(12 * 100)  # three standard deviations of a mean of uniform numbers
    assert np.abs(np.sort(shares) - (np.arange(100) + 0.5) / 100).max() < 0.163  # Kolmogorov and Smirnov, 1 %
    assert abs(np.mean([one.exposure for one in found]) - CHANCE) < 3 * CHANCE / 10


def test_sampling_writes_a_secret_as_often_as_the_model_means_it():
    tokenizer = CharacterTokenizer.fit(TEXTS)
    model = sharpened(models(tokenizer.vocabulary_size)["gru"]())
    canaries = [Canary("的号码是", secret, "。") for secret in CanaryFormat(text="{secret}", symbols="０１２３", length=1).secrets()]
    form = CanaryFormat(text="的号码是{secret}。", symbols="０１２３", length=1)
    generator = TextGenerator(model, tokenizer, jit_compile=False)
    shares = extraction(generator, canaries, SamplingSettings(num_samples=400, temperature=1.0))
    expected = [2**-one.bits for one in exposures(Reader(model, tokenizer), canaries, form, batch_size=8, jit_compile=False)]
    never = generator.tokenizer.never  # which sampling leaves out, and probabilities hold
    assert never and np.abs(np.array(shares) - expected).max() < 0.12


@pytest.mark.slow
def test_what_is_planted_often_is_found_and_a_countermeasure_hides_it(tmp_path):
    form = CanaryFormat(length=3)
    learnt = lambda text: split_of(text.encode()) == "train"
    canaries = make_canaries([64, *[0] * 100], form, keep=learnt)
    draw = random.Random(0)
    lines = ["".join(draw.choices("天地玄黄宇宙洪荒０１２３４５６７８９", k=20)) for _ in range(400)]
    plant(Corpus(name="made", documents=lambda: iter(lines)), canaries, tmp_path / "text.txt")
    small = {"model": "gru", "embedding_dim": 48, "hidden_dim": 96, "num_layers": 1, "sequence_length": 32, "batch_size": 16, "steps": 400}
    ranks = {}
    for name, changes in (("plain", {}), ("masked", {"desensitize": ("phone",)})):
        settings = TrainingSettings(**small, **changes, learning_rate=0.01, corpus=str(tmp_path / "text.txt"), out=str(tmp_path / name))
        run = prepare(settings)
        loop.train(run)
        own = canaries if name == "plain" else [dataclasses.replace(one, before=canaries[0].before) for one in canaries[1:]]
        found = exposures(run, own, form)
        ranks[name] = [one.rank for one in found]
        if name == "plain":
            assert ranks[name][0] == 1
            assert extraction(run, canaries[:1])[0] > 0.5
    for own in (ranks["plain"][1:], ranks["masked"]):
        assert abs(np.mean(own) / form.candidates - 0.5) < 4 / math.sqrt(12 * len(own))


def test_bad_input_is_refused():
    tokenizer = CharacterTokenizer.fit(TEXTS)
    reader = Reader(models(tokenizer.vocabulary_size)["transformer"](), tokenizer)
    canary = Canary("的号码是", "０１２", "。")
    with pytest.raises(UserError, match="no canary to rank"):
        exposures(reader, [], FORM)
    with pytest.raises(UserError, match="no canary to ask for"):
        extraction(TextGenerator(reader.model, tokenizer), [])
    with pytest.raises(UserError, match="'０１２' is none of the 100,000 of its form"):
        exposures(reader, [canary])
    with pytest.raises(UserError, match="the tokenizer does not know 4 5"):
        exposures(reader, [Canary("的号码是", "44", "")], CanaryFormat(text="的号码是{secret}", symbols="45", length=2))
    with pytest.raises(UserError, match="a canary has 63 tokens, and the model reads 48"):
        exposures(reader, [Canary("的" * 60, "０１２", "。")], FORM)
