import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.generation.sampler import Sampler, left_padded
from keras_lm.generation.settings import SamplingSettings
from tests.conftest import as_ids, scripted_model
from tests.test_models import SMALL, build

END = 3


def some_slow(*fast):
    """The models, all but `fast` marked slow: compiling is what takes the time."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in SMALL]


def sampler_of(name, **kwargs):
    return Sampler(build(name), end_id=END, never=(0, 1, 2), **kwargs)


def test_the_script_is_spoken_to_its_end():
    script = [5, 9, 4, 7, END]
    sampler = Sampler(scripted_model(script, 12), end_id=END)
    rows, reasons = sampler.generate([[5], [4, 5, 9]], SamplingSettings(temperature=0.0, max_new_tokens=10))
    assert rows == [[9, 4, 7, END], [4, 7, END]]
    assert reasons == ["end", "end"]


def test_length_and_stop_end_a_text():
    script = [5, 9, 4, 7, 8, 10, 11]
    sampler = Sampler(scripted_model(script, 12), end_id=END)
    settings = SamplingSettings(temperature=0.0, max_new_tokens=3)
    assert sampler.generate([[5]], settings) == ([[9, 4, 7]], ["length"])
    assert sampler.generate([[5]], settings, stop=[[1, 1, 1], [9, 4]]) == ([[9, 4]], ["stop"])
    assert sampler.generate([[9]], settings, stop=[[9, 4]]) == ([[4, 7, 8]], ["length"])  # what stands in the prompt does not stop


@pytest.mark.parametrize("name", some_slow("lstm", "transformer-gpt2"))
def test_greedy_equals_the_loop_a_reader_would_write(name):
    """`model(ids)`, argmax, append, repeat: the full pass each time, no cache."""
    model = build(name)
    prompts = [[5], [6, 7, 8], [9, 10, 11, 12, 13]]
    rows, _ = Sampler(model, end_id=END, never=(0, 1, 2)).generate(prompts, SamplingSettings(temperature=0.0, max_new_tokens=8))
    for prompt, row in zip(prompts, rows, strict=True):
        ids = list(prompt)
        for _ in range(8):
            logits = model(np.array([ids], np.int32))[0, -1].numpy()
            logits[:3] = -np.inf
            ids.append(int(logits.argmax()))
            if ids[-1] == END:
                break
        assert ids[len(prompt) :] == row


@pytest.mark.parametrize("name", some_slow("gru", "transformer"))
def test_same_seed_same_text_with_xla_and_without(name):
    settings = SamplingSettings(seed=11, max_new_tokens=10, top_k=12, top_p=0.9, repetition_penalty=1.1)
    prompts = [[5, 6], [7], [8, 9, 10, 11]]
    model = build(name)
    first = Sampler(model, end_id=END)
    assert first.generate(prompts, settings) == first.generate(prompts, settings)
    assert first.generate(prompts, settings) == Sampler(model, end_id=END, jit_compile=False).generate(prompts, settings)
    other, _ = first.generate(prompts, SamplingSettings(seed=12, max_new_tokens=10))
    assert other != first.generate(prompts, settings)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_a_text_does_not_depend_on_its_batch(name):
    sampler = sampler_of(name)
    prompts = [[5, 6], [7], [8, 9, 10, 11]]
    together, _ = sampler.generate(prompts, SamplingSettings(seed=20, max_new_tokens=8))
    for row, prompt in enumerate(prompts):
        alone, _ = sampler.generate([prompt], SamplingSettings(seed=20 + row, max_new_tokens=8))
        assert alone[0] == together[row]


@pytest.mark.parametrize("name", [pytest.param("gru", marks=pytest.mark.slow), "transformer"])
def test_prompt_length_and_knobs_do_not_recompile(name):
    """One compilation a bucket and batch size; none for a knob."""
    sampler = sampler_of(name)
    for length, knobs in itertools.product((5, 6, 7, 8), ({}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.5, "seed": 9})):
        sampler.generate([list(range(4, 4 + length))], SamplingSettings(max_new_tokens=5, **knobs))
    for max_new_tokens, penalty in ((1, 1.5), (7, 1.0)):
        settings = SamplingSettings(max_new_tokens=max_new_tokens, repetition_penalty=penalty)
        sampler.generate([[5] * 8], settings, stop=[[4, 4, 4], [5, 5]])
    assert sampler.num_compilations == 1
    sampler.generate([[5] * 9], SamplingSettings(max_new_tokens=5))  # the next bucket
    assert sampler.num_compilations == 2
    sampler.generate([[5] * 8, [5]], SamplingSettings(max_new_tokens=5))  # another batch size
    assert sampler.num_compilations == 3


@pytest.mark.slow
def test_generation_goes_on_beyond_the_context():
    sampler = Sampler(build("transformer"), end_id=END, never=(0, 1, 2, END))  # context 16
    rows, reasons = sampler.generate([[5, 6, 7], [8] * 15], SamplingSettings(seed=1, max_new_tokens=60, temperature=2.0))
    assert [len(row) for row in rows] == [60, 60]
    assert reasons == ["length", "length"]


@pytest.mark.slow
def test_what_is_beyond_the_context_follows_from_its_last_half():
    model = build("transformer")
    sampler = Sampler(model, end_id=END, never=(0, 1, 2, END))
    whole, _ = sampler.generate([[5, 6, 7, 8]], SamplingSettings(temperature=0.0, max_new_tokens=20))
    first, _ = sampler.generate([[5, 6, 7, 8]], SamplingSettings(temperature=0.0, max_new_tokens=12))
    rest, _ = sampler.generate([([5, 6, 7, 8] + first[0])[-8:]], SamplingSettings(temperature=0.0, max_new_tokens=8))
    assert whole[0] == first[0] + rest[0]


def test_never_ids_do_not_come_out():
    rows, _ = sampler_of("gru", jit_compile=False).generate([[5]] * 16, SamplingSettings(temperature=5.0, max_new_tokens=50))
    assert not {0, 1, 2} & set(itertools.chain(*rows))


def test_tokens_are_drawn_from_the_softmax():
    """Chi-square of 4,000 first tokens against the probabilities of the full pass."""
    model = build("gru", vocabulary_size=8)
    for variable in model.trainable_variables:
        variable.assign(variable * 3)
    probabilities = tf.nn.softmax(model(np.array([[5, 6]], np.int32))[0, -1]).numpy()
    sampler = Sampler(model, end_id=END, jit_compile=False)
    rows, _ = sampler.generate([[5, 6]] * 4000, SamplingSettings(temperature=1.0, max_new_tokens=1, seed=3))
    counts = np.bincount([row[0] for row in rows], minlength=8)
    chi_square = float(((counts - 4000 * probabilities) ** 2 / (4000 * probabilities)).sum())
    assert chi_square < 24.3  # 99.9 % of the distribution with 7 degrees of freedom


def test_repetition_penalty_counts_prompt_and_text():
    """Against the loop over the full pass, with CTRL's rule applied to what has occurred."""
    model = build("gru")
    rows, _ = Sampler(model, end_id=END, jit_compile=False).generate(
        [[5, 6]], SamplingSettings(temperature=0.0, max_new_tokens=12, repetition_penalty=1.3)
    )
    ids = [5, 6]
    while len(ids) < 14 and ids[-1] != END:
        logits = model(np.array([ids], np.int32))[0, -1].numpy()
        for token in set(ids):
            logits[token] = logits[token] / 1.3 if logits[token] > 0 else logits[token] * 1.3
        ids.append(int(logits.argmax()))
    assert rows[0] == ids[2:]
    free, _ = Sampler(model, end_id=END, jit_compile=False).generate([[5, 6]], SamplingSettings(temperature=0.0, max_new_tokens=12))
    assert rows != free


def test_weights_are_read_at_each_call():
    model = scripted_model([5, 9], 12)
    sampler = Sampler(model, end_id=END)
    assert sampler.generate([[5]], SamplingSettings(temperature=0.0, max_new_tokens=1))[0] == [[9]]
    model.set_weights(scripted_model([5, 10], 12).get_weights())
    assert sampler.generate([[5]], SamplingSettings(temperature=0.0, max_new_tokens=1))[0] == [[10]]
    assert sampler.num_compilations == 1


def test_prompts_that_cannot_be_used():
    sampler = sampler_of("transformer")
    assert sampler.generate([], SamplingSettings()) == ([], [])
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        sampler.generate([[5], []], SamplingSettings())
    with pytest.raises(ValueError, match="a prompt has 16 tokens; the context of 16 leaves room for 15"):
        sampler.generate([[5] * 16], SamplingSettings())


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
