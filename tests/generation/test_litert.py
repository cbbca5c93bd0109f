import dataclasses
import sys

import numpy as np
import pytest

from keras_lm.errors import UserError
from keras_lm.generation.litert import LiteRTSampler
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings
from tests.test_models import SMALL, build

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12]]
END = 3


def sharpened(name):
    """A model whose choices do not hang on the last bit."""
    model = build(name)
    for variable in model.trainable_variables:
        variable.assign(variable * 3)
    return model


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in ("transformer", "lstm") else pytest.mark.slow) for name in SMALL])
def test_float32_gives_the_text_of_the_sampler(name):
    model = sharpened(name)
    lite, sampler = LiteRTSampler(model, end_id=END, jit_compile=False), Sampler(model, end_id=END, jit_compile=False)
    for settings in (
        SamplingSettings(temperature=0.0, max_new_tokens=9),
        SamplingSettings(top_k=5, repetition_penalty=1.2, no_repeat_ngram_size=2, num_samples=2, seed=4, max_new_tokens=9),
    ):
        assert lite.generate(PROMPTS, settings) == sampler.generate(PROMPTS, settings)


def test_streaming_and_sliding_go_through_the_same_interpreter():
    model = sharpened("transformer-gpt2")
    lite = LiteRTSampler(model, end_id=END, never=(END,), jit_compile=False)
    settings = SamplingSettings(max_new_tokens=20, when_full="slide", seed=2)
    whole = lite.generate([[5, 6, 7]], settings)
    parts = list(lite.stream([[5, 6, 7]], settings, chunk_size=3))
    assert [sum(row[1:], row[0]) for row in zip(*parts, strict=True)] == whole
    assert whole == Sampler(model, end_id=END, never=(END,), jit_compile=False).generate([[5, 6, 7]], settings)


def test_eight_bits_are_near_the_model():
    """The log-probabilities of the drawn tokens; on a model wide enough for its weights to be quantised."""
    model = build("gru", vocabulary_size=64)
    lite = LiteRTSampler(model, precision="int8", end_id=END, jit_compile=False)
    (text,) = lite.generate([[5, 6]], SamplingSettings(max_new_tokens=8, top_logprobs=0))
    logits = model(np.array([[5, 6, *text.ids[:-1]]], np.int32))[0, 1:].numpy()
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(text.logprobs, expected[np.arange(len(text.ids)), text.ids], atol=0.02)


def test_what_is_refused(monkeypatch):
    with pytest.raises(UserError, match="precision must be one of float32, int8, got 'int4'"):
        LiteRTSampler(build("gru"), precision="int4", end_id=END)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    sampler = LiteRTSampler(build("gru"), end_id=END, jit_compile=False)
    with pytest.raises(UserError, match=r"LiteRT is not installed: pip install 'keras_lm\[tflite\]'"):
        sampler.generate([[5]], dataclasses.replace(SamplingSettings(), max_new_tokens=1))
