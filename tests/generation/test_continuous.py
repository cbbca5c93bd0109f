import itertools
import random

import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.generation.continuous import TOGETHER, ContinuousBatch, Newcomer
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from tests.test_models import build

IDS = {"end_id": 3, "never": (0, 1, 2)}


def model_of(name):
    """Sharper than an untrained one, so that a wrong state shows."""
    model = build(name)
    model.set_weights([weights * 3 for weights in model.get_weights()])
    return model


def some_settings(rng, number):
    return SamplingSettings(
        max_new_tokens=(most := rng.randrange(1, 30)),
        min_new_tokens=rng.randrange(most),
        temperature=rng.choice([0.0, 0.7, 1.0]),
        top_k=rng.choice([0, 5]),
        top_p=rng.choice([1.0, 0.8]),
        repetition_penalty=rng.choice([1.0, 1.3]),
        frequency_penalty=rng.choice([0.0, 0.5]),
        no_repeat_ngram_size=rng.choice([0, 2]),
        top_logprobs=rng.choice([None, 3]),
        when_full=rng.choice(["stop", "slide"]),
        seed=number,
    )


def newcomer(key, prompt, settings, bias=None):
    return Newcomer(key, prompt, settings, bias or {})


def drawn_together(batch, wanted, rng, leave=()):
    """What comes of the texts, each of which joins at a time of its own; those in `leave` are taken out before their end."""
    waiting, parts, ended = list(wanted), {}, set()
    while waiting or batch.running:
        while waiting and batch.free and rng.random() < 0.6:
            keys = [waiting.pop(0) for _ in range(min(rng.choice([1, 2, 5]), batch.free, len(waiting)))]
            newcomers = [newcomer(key, *wanted[key]) for key in keys]
            if rng.random() < 0.5 or any(one.bias for one in newcomers):
                batch.join(batch.read(newcomers))
            else:
                batch.join_unread(newcomers)  # however long they are
        for key, part in batch.step(rng.choice([1, 3, 8])).items():
            assert key not in ended
            parts[key] = parts[key] + part if key in parts else part
            if part.finish_reason:
                ended.add(key)
            elif key in leave:
                batch.leave(key)
                ended.add(key)
    return parts


def check_equal(sampler, wanted, parts):
    for key, (prompt, settings, bias) in wanted.items():
        (alone,) = sampler.generate([prompt], settings, bias=bias)
        assert (parts[key].ids, parts[key].finish_reason) == (alone.ids, alone.finish_reason), settings
        if settings.top_logprobs is None:
            assert parts[key].logprobs is parts[key].alternatives is None
        else:
            np.testing.assert_allclose(parts[key].logprobs, alone.logprobs, atol=1e-4)
            assert [len(others) for others in parts[key].alternatives] == [3] * len(alone.ids)
            assert [others[0][0] for others in parts[key].alternatives] == [others[0][0] for others in alone.alternatives]


@pytest.mark.parametrize(
    "name",
    ["lstm", "transformer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gru", "transformer-gpt2", "transformer-llama"))],
)
def test_a_text_is_the_one_it_would_be_alone(name):
    """Whenever it joins, whoever else is there, in a context of 16 tokens that most texts fill."""
    model, rng = model_of(name), random.Random(1)
    wanted = {}
    for number in range(12):
        bias = {7: 2.0, 9: float("-inf")} if number % 2 else {}
        wanted[number] = ([rng.randrange(4, 20) for _ in range(rng.randrange(1, 15))], some_settings(rng, number), bias)
    batch = ContinuousBatch(Decoder(model), **IDS, max_batch=5, jit_compile=False)
    leaving = {"a": wanted[0], "b": wanted[5]}
    parts = drawn_together(batch, {**leaving, **wanted}, rng, leave=leaving)
    check_equal(Sampler(model, **IDS, jit_compile=False), wanted, parts)
    assert batch.running == 0


@pytest.mark.parametrize("name", ["gru", pytest.param("transformer", marks=pytest.mark.slow)])
def test_the_same_compiled_by_xla(name):
    model, rng = model_of(name), random.Random(2)
    wanted = {number: ([5, 6, 7 + number], some_settings(rng, number), None) for number in range(4)}
    batch = ContinuousBatch(Decoder(model), **IDS, max_batch=2)
    check_equal(Sampler(model, **IDS, jit_compile=False), wanted, drawn_together(batch, wanted, rng))


def test_a_long_prompt_moves_those_that_run_and_a_long_text_runs_past_the_slots():
    model = model_of("transformer")
    batch = ContinuousBatch(Decoder(model), **IDS, max_batch=4, jit_compile=False)
    settings = SamplingSettings(max_new_tokens=14, min_new_tokens=14, seed=1)
    wanted = {number: ([5, *[6 + number] * (12 * (number % 2))], settings, None) for number in range(12)}
    parts = drawn_together(batch, wanted, random.Random(3))
    check_equal(Sampler(model, **IDS, jit_compile=False), wanted, parts)


def test_a_long_prompt_takes_a_free_row_between_others():
    model, settings = model_of("transformer"), SamplingSettings(max_new_tokens=12, min_new_tokens=12, seed=1)
    batch = ContinuousBatch(Decoder(model), **IDS, max_batch=4, jit_compile=False)
    wanted = {number: ([5, 6 + number], settings, None) for number in range(3)} | {"long": ([7] * 12, settings, None)}
    for number in range(3):
        batch.join(batch.read([newcomer(number, *wanted[number])]))
    parts = batch.step(1)
    batch.leave(1)
    batch.join(batch.read([newcomer("long", *wanted["long"])]))
    while batch.running:
        for key, part in batch.step().items():
            parts[key] = parts[key] + part if key in parts else part
    del wanted[1]
    check_equal(Sampler(model, **IDS, jit_compile=False), wanted, parts)


def test_a_batch_is_as_large_as_it_has_to_be():
    batch = ContinuousBatch(Decoder(model_of("gru")), **IDS, max_batch=5, jit_compile=False)
    settings = SamplingSettings(max_new_tokens=60, min_new_tokens=60)
    for number in range(5):
        batch.join(batch.read([newcomer(number, [5], settings)]))
    assert (batch.running, batch.free, len(batch.step(1))) == (5, 0, 5)
    with pytest.raises(ValueError, match="the batch is full: 5 of 5 texts"):
        batch.join(batch.read([newcomer("one more", [5], settings)]))
    for number in range(4):
        batch.leave(number)
    batch.leave("who was never there")
    assert (batch.running, batch.free) == (1, 4)
    sizes = {len(batch._rows)}
    while batch.running:
        batch.step(1)
        sizes.add(len(batch._rows))
    assert sizes == {5, 1}
    assert batch.step() == {}


def test_prompts_are_read_in_groups_that_take_least_time():
    batch = ContinuousBatch(Decoder(model_of("gru")), **IDS, jit_compile=False)
    lengths = [5, 30, 6, 200, 16, 1, 31]
    costs = {(1, 8): 3, (4, 8): 4, (8, 8): 6, (1, 16): 4, (4, 16): 6, (8, 16): 10, (1, 32): 6, (4, 32): 10, (8, 32): 20, (1, 256): 50}
    batch._costs = costs
    batch._step_costs = dict.fromkeys(batch._step_costs, 100)
    assert batch.groups(lengths, alone={5}) == ([], [[0, 5], [1, 2, 4, 6], [3]])
    assert batch.groups(lengths) == ([5], [[0], [1, 2, 4, 6], [3]])  # of a single token there is nothing to read
    batch._costs = {**costs, (8, 32): 13}  # one call for all the short ones
    assert batch.groups(lengths, alone={5}) == ([], [[0, 1, 2, 4, 5, 6], [3]])
    batch._costs = {form: cost if form[0] == 1 else 100 for form, cost in costs.items()}
    assert batch.groups(lengths, alone={5}) == ([], [[number] for number in range(7)])
    assert batch.groups([]) == ([], [])


def test_short_prompts_are_left_to_the_steps_where_that_takes_less_time():
    batch = ContinuousBatch(Decoder(model_of("gru")), **IDS, jit_compile=False)
    batch._costs, batch._step_costs = {(1, 8): 3, (4, 8): 6, (1, 16): 4, (4, 16): 7}, {1: 1, 4: 2, 8: 3, 16: 5, 32: 9}
    assert batch.groups([3]) == ([0], [])  # two tokens of a step each, where a call takes three
    assert batch.groups([5]) == ([], [[0]])
    assert batch.groups([5, 8]) == ([0], [[1]])  # half a step each for two of four rows: 2 for the one, 3.5 for the other
    assert batch.groups([5, 8, 9]) == ([], [[0, 1, 2]])
    assert batch.groups([2] * 32 + [9]) == (list(range(32)), [[32]])
    assert batch.groups([2, 2], alone={1}) == ([0], [[1]])


def test_no_more_prompts_are_read_together_than_may():
    batch = ContinuousBatch(Decoder(model_of("gru")), **IDS, jit_compile=False)
    unread, groups = batch.groups([9] * 12)
    assert not unread
    assert sorted(itertools.chain(*groups)) == list(range(12))
    assert max(map(len, groups)) == TOGETHER


def test_a_context_of_a_few_tokens():
    model = models.transformer_lm(20, context_length=3, embedding_dim=8, num_layers=1, num_heads=1)
    batch = ContinuousBatch(Decoder(model), **IDS, max_batch=2, jit_compile=False)
    assert batch.groups([2, 1], alone={0, 1}) == ([], [[0, 1]])


def longer_model():
    """Texts of this one stand in 128, 192 or 332 slots."""
    model = models.transformer_lm(20, context_length=300, embedding_dim=8, num_layers=1, num_heads=2)
    model.set_weights([weights * 3 for weights in model.get_weights()])
    return model


def prompts_of_all_lengths(rng, count, longest):
    wanted = {}
    for number in range(count):
        prompt, most = [rng.randrange(4, 20) for _ in range(int(longest ** rng.random()))], rng.randrange(1, 40)
        wanted[number] = (prompt, SamplingSettings(max_new_tokens=most, min_new_tokens=most, seed=number), None)
    return wanted


def test_there_are_as_many_slots_as_the_texts_need():
    model, rng = longer_model(), random.Random(4)
    batch = ContinuousBatch(Decoder(model), **IDS, max_batch=5, jit_compile=False)
    counts = []
    step = batch.step

    def noting(most):
        parts = step(most)
        counts.append(batch._slots)
        return parts

    batch.step = noting
    wanted = prompts_of_all_lengths(rng, 30, 260)
    check_equal(Sampler(model, **IDS, jit_compile=False), wanted, drawn_together(batch, wanted, rng))
    changes = {(before, after) for before, after in itertools.pairwise(counts) if before != after}
    assert {before < after for before, after in changes} == {True, False}  # more of them, and fewer again
    assert set(counts) == {128, 192, 332}


@pytest.mark.parametrize("model", [longer_model, lambda: model_of("gru")], ids=["transformer", "gru"])
def test_warming_up_meets_every_form_that_comes_later(model):
    """XLA compiles for shapes; none of those below is new to it."""
    batch, rng = ContinuousBatch(Decoder(model()), **IDS, max_batch=20, jit_compile=False), random.Random(5)
    batch._jit_compile = True  # prompts are padded as they are for XLA, whose time this test does without
    met = set()

    def noting(name, function):
        def call(*inputs):
            shapes = tuple(tuple(part.shape) for part in tf.nest.flatten(inputs))
            met.add((name, shapes, tuple(batch._history.shape) if name == "read" else tuple(tf.shape(batch._history).numpy())))
            return function(*inputs)

        return call

    batch._read, batch._write = noting("read", batch._read), noting("write", batch._write)
    batch._advance = {rows: noting("advance", function) for rows, function in batch._advance.items()}
    batch.warm_up()
    known = set(met)
    waiting = list(prompts_of_all_lengths(rng, 150, min(290, batch.context - 1)).items())
    while waiting or batch.running:
        taken = [waiting.pop() for _ in range(min(len(waiting), batch.free, rng.randrange(12)))]
        unread, groups = batch.groups([len(wanted[0]) for _, wanted in taken])
        batch.join_unread([newcomer(taken[number][0], *taken[number][1]) for number in unread])
        for group in groups:
            batch.join(batch.read([newcomer(taken[number][0], *taken[number][1]) for number in group]))
        batch.step(rng.choice([1, 3, 8]))
    assert met == known


def test_what_cannot_be_read():
    batch = ContinuousBatch(Decoder(model_of("transformer")), **IDS, jit_compile=False)
    settings = SamplingSettings()
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        batch.read([newcomer("empty", [], settings)])
    with pytest.raises(ValueError, match="a prompt has 16 tokens; the context of 16 leaves room for 15"):
        batch.read([newcomer("long", [5] * 16, settings)])
    for count in (0, TOGETHER + 1):
        with pytest.raises(ValueError, match=f"1 to {TOGETHER} prompts are read in one call, got {count}"):
            batch.read([newcomer(number, [5], settings) for number in range(count)])
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        batch.join_unread([newcomer("empty", [], settings)])
    with pytest.raises(ValueError, match="a text with a bias must be read before it joins"):
        batch.join_unread([newcomer("biased", [5], settings, {7: 1.0})])
    with pytest.raises(ValueError, match="the batch is full: 0 of 32 texts"):
        batch.join_unread([newcomer(number, [5], settings) for number in range(33)])
    with pytest.raises(ValueError, match="max_batch must be at least 1, got 0"):
        ContinuousBatch(Decoder(model_of("gru")), **IDS, max_batch=0)
