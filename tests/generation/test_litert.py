import dataclasses
import sys

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.generation import litert_convert
from keras_lm.generation.litert import LiteRTSampler
from keras_lm.generation.litert_convert import convert, memories
from keras_lm.generation.litert_runtime import Step
from keras_lm.generation.numpy_filters import KNOBS, Filters, log_softmax
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


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "transformer" else pytest.mark.slow) for name in SMALL])
def test_float32_gives_the_text_of_the_sampler(name):
    model = sharpened(name)
    lite, sampler = LiteRTSampler(model, end_id=END, jit_compile=False), Sampler(model, end_id=END, jit_compile=False)
    for settings in (
        SamplingSettings(temperature=0.0, max_new_tokens=9),
        SamplingSettings(top_k=5, repetition_penalty=1.2, no_repeat_ngram_size=2, num_samples=2, seed=4, max_new_tokens=9),
        SamplingSettings(top_p=0.8, num_samples=2, seed=5, max_new_tokens=9),
    ):
        assert lite.generate(PROMPTS, settings) == sampler.generate(PROMPTS, settings)


def test_xnnpack_runs_a_step_in_one_piece():
    # What it does not know would cut the step, and its threads would meet at every cut.
    model = models.transformer_lm(400, context_length=16, embedding_dim=32, num_layers=3, num_heads=4, num_kv_heads=2)
    step = Step(convert(model, slots=16, precision="int8"), memories(model))
    names = [operation["op_name"] for operation in step._interpreter._get_ops_details()]
    assert names.count("SOFTMAX") == 3 and names.count("DELEGATE") == 1


CHOICES = [{"temperature": 0.0}, {}, {"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.8}, {"temperature": 1.4, "top_k": 20, "top_p": 0.95}]


@pytest.mark.parametrize("vocabulary", [5, 60, litert_convert.FEW_IDS])
@pytest.mark.parametrize("knobs", CHOICES, ids=str)
def test_a_file_chooses_what_numpy_draws(knobs, vocabulary):
    random, rows = np.random.default_rng(8), 50
    logits = random.normal(size=(rows, vocabulary), scale=3).astype(np.float32)
    logits[::2] = logits[::2].round()  # many that are equal
    bias = np.where(random.random(logits.shape) < 0.2, np.float32("-inf"), np.float32(0))
    bias[7] = -np.inf
    filters = Filters({name: getattr(SamplingSettings(**knobs), name) for name in KNOBS}, end_id=END)
    uniform = np.where(knobs == CHOICES[0], 0, random.random(rows)).astype(np.float32)
    given = dict(zip(("temperature", "top_k", "top_p"), filters.choice, strict=True), uniform=uniform)
    given = {name: np.broadcast_to(np.float32(value) if name != "top_k" else np.int32(value), [rows]) for name, value in given.items()}
    given = {"logits": logits, "bias": bias, **{name: values[:, None] for name, values in given.items()}}
    specs = [tf.TensorSpec(array.shape, array.dtype, name) for name, array in given.items()]
    named = tf.function(lambda *tensors: litert_convert.choose(**dict(zip(given, tensors, strict=True))), input_signature=specs)
    interpreter = Interpreter(model_content=tf.lite.TFLiteConverter.from_concrete_functions([named.get_concrete_function()]).convert())
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], given[details["name"]])
    interpreter.invoke()
    tokens = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = [filters.draw(*row, 0, number) for *row, number in zip(logits, bias, uniform.tolist(), strict=True)]
    assert tokens.tolist() == [vocabulary if token is None else token for token in expected]
    assert expected[7] is None and len(set(expected)) > 3


def test_a_file_that_gives_logits_alone_gives_the_same_text(monkeypatch):
    model, settings = sharpened("gru"), [SamplingSettings(**knobs, max_new_tokens=9, seed=1) for knobs in CHOICES]
    settings += [SamplingSettings(max_new_tokens=9, min_p=0.2), SamplingSettings(temperature=0.0, typical_p=0.3, max_new_tokens=9)]
    settings += [SamplingSettings(min_new_tokens=6, max_new_tokens=9), SamplingSettings(frequency_penalty=1.0, max_new_tokens=9)]
    chosen = [LiteRTSampler(model, end_id=END, jit_compile=False).generate(PROMPTS, each) for each in settings]
    monkeypatch.setattr(litert_convert, "FEW_IDS", 0)
    sampler = LiteRTSampler(model, end_id=END, jit_compile=False)
    assert [sampler.generate(PROMPTS, each) for each in settings] == chosen
    assert not sampler._steps[len(PROMPTS)].chooses


@pytest.mark.parametrize("num_kv_heads", [12, pytest.param(6, marks=pytest.mark.slow)])
def test_many_rows_are_attended_to_part_by_part(num_kv_heads):
    model = models.transformer_lm(50, context_length=80, embedding_dim=48, num_layers=2, num_heads=12, num_kv_heads=num_kv_heads)
    for variable in model.trainable_variables:
        variable.assign(variable * 3)
    ids = np.random.default_rng(0).integers(4, 50, [7, 71]).astype(np.int32)  # with more slots than the caches begin with
    step = Step(convert(model, batch=7, slots=80), memories(model))
    assert [rows.stop for rows in memories(model)[0].parts(7).values()] == ([2, 4, 6, 7] if num_kv_heads == 12 else [4, 7])
    expected = np.take_along_axis(log_softmax(model(ids[:, :-1]).numpy()), ids[:, 1:, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(step.log_likelihood(ids[:, :-1], ids[:, 1:]), expected, atol=1e-4)
    names = [operation["op_name"] for operation in step._interpreter._get_ops_details()]
    assert names.count("DELEGATE") <= 4  # the choice has some of its own


@pytest.mark.slow
def test_streaming_and_sliding_go_through_the_same_interpreter():
    model = sharpened("transformer-gpt2")
    lite = LiteRTSampler(model, end_id=END, never=(END,), jit_compile=False)
    settings = SamplingSettings(max_new_tokens=20, when_full="slide", seed=2)
    whole = lite.generate([[5, 6, 7]], settings)
    parts = list(lite.stream([[5, 6, 7]], settings, chunk_size=3))
    assert [sum(row[1:], row[0]) for row in zip(*parts, strict=True)] == whole
    assert whole == Sampler(model, end_id=END, never=(END,), jit_compile=False).generate([[5, 6, 7]], settings)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-5), pytest.param("float16", 0.005, marks=pytest.mark.slow), ("int8", 0.05)]
)
def test_log_likelihoods_are_those_of_the_full_pass(precision, tolerance):
    model = build("transformer", vocabulary_size=64)
    ids = np.random.default_rng(0).integers(4, 64, [3, 13]).astype(np.int32)
    logits = model(ids[:, :-1]).numpy()
    expected = np.take_along_axis(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), ids[:, 1:, None], axis=-1)[..., 0]
    lite = LiteRTSampler(model, precision=precision, end_id=END, jit_compile=False)
    np.testing.assert_allclose(lite.log_likelihood(ids[:, :-1], ids[:, 1:]), expected, atol=tolerance)


def test_what_is_refused(monkeypatch):
    with pytest.raises(UserError, match="precision must be one of float32, float16, int8, got 'int4'"):
        LiteRTSampler(build("gru"), precision="int4", end_id=END)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    sampler = LiteRTSampler(build("gru"), end_id=END, jit_compile=False)
    with pytest.raises(UserError, match=r"LiteRT is not installed: pip install 'keras_lm\[tflite\]'"):
        sampler.generate([[5]], dataclasses.replace(SamplingSettings(), max_new_tokens=1))


def test_caches_grow_while_a_text_does_whatever_the_chunks_that_are_read():
    model = models.transformer_lm(64, context_length=300, embedding_dim=16, num_layers=2, num_heads=2)
    ids = np.random.default_rng(0).integers(4, 64, [1, 200]).astype(np.int32)
    step = Step(convert(model, slots=300, chunk=32), memories(model))
    for sizes in ([200], [48, 40, 112], [1, 62, 2, 135]):
        step.begin()
        for size, end in zip(sizes, np.cumsum(sizes), strict=True):
            step.read(ids[0, end - size : end - 1].tolist())
            logits = step.run(ids[:, end - 1])
        np.testing.assert_allclose(logits, model(ids).numpy()[:, -1], atol=1e-4)
