import keras
import numpy as np
import pytest

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.generation.automata import Choice
from keras_lm.generation.contrastive import ContrastiveSearch, ContrastiveSettings
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings
from tests.test_models import build

END, NEVER = 3, (0, 1, 2)
LETTERS = [b"", b"\xef\xbf\xbd", b"", b"", *(bytes([97 + letter]) for letter in range(16))]  # a to p
PROMPTS = [[5, 6, 7], [9], [10, 11, 12, 13, 14, 5]]


def sharpened(model, seed=6):
    """Weights so large that the distributions have peaks, and that texts of different lengths compete."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        last = 3.0 if "final_norm/gamma" in variable.path else 1.0
        centre = 1.0 if "gamma" in variable.path else 0.0
        variable.assign(last * random.normal(centre, 0.2, variable.shape))
    return model


def peaked(name):
    return sharpened(build(name))


def search_of(model, **kwargs):
    return ContrastiveSearch(model, end_id=END, never=NEVER, **{"jit_compile": False, **kwargs})


def last_hidden(model):
    """The model up to its output layer, and that layer's input with it."""
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], [model.layers[-1].input, model.outputs[0]])
    return keras.Model(model.inputs[0], [model.get_layer("final_norm").output, model.outputs[0]])


def by_full_passes(model, prompt, settings):
    """The paper's rule, a full pass for every candidate."""
    both = last_hidden(model)
    ids = list(prompt)
    while len(ids) < len(prompt) + settings.max_new_tokens and (len(ids) == len(prompt) or ids[-1] != END):
        logits = both(np.array([ids], np.int32))[1][0, -1].numpy().astype(np.float64)
        logits[list(NEVER)] = -np.inf
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        candidates = np.argsort(-probabilities)[: settings.top_k]
        hidden = both(np.array([[*ids, token] for token in candidates], np.int32))[0].numpy()
        hidden /= np.linalg.norm(hidden, axis=-1, keepdims=True)
        likeness = np.einsum("knd,kd->kn", hidden[:, :-1], hidden[:, -1]).max(axis=1)
        ids.append(int(candidates[np.argmax((1 - settings.alpha) * probabilities[candidates] - settings.alpha * likeness)]))
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [
        ("gru", False),
        pytest.param("transformer", True, marks=pytest.mark.slow),
        pytest.param("transformer-gpt2", False, marks=pytest.mark.slow),
        pytest.param("transformer-llama", False, marks=pytest.mark.slow),
        pytest.param("lstm", True, marks=pytest.mark.slow),
        pytest.param("simple_rnn", True, marks=pytest.mark.slow),
    ],
)
def test_the_rule_of_the_paper_by_full_passes(name, jit_compile):
    model = peaked(name)
    search = search_of(model, jit_compile=jit_compile)
    for alpha in (0.4, 0.8):
        settings = ContrastiveSettings(max_new_tokens=6, alpha=alpha)
        texts = search.generate(PROMPTS, settings)
        assert [text.ids for text in texts] == [by_full_passes(model, prompt, settings) for prompt in PROMPTS]
        assert all(text.finish_reason == ("end" if text.ids[-1] == END else "length") for text in texts)
    assert search.num_compilations == 2  # alpha is a number: one `begin`, one `search`


@pytest.mark.parametrize("name", ["lstm", pytest.param("transformer", marks=pytest.mark.slow)])
def test_without_alpha_it_is_greedy(name):
    model = peaked(name)
    shared = {"max_new_tokens": 10, "min_new_tokens": 3, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2}
    greedy = Sampler(model, end_id=END, never=NEVER, jit_compile=False).generate(PROMPTS, SamplingSettings(temperature=0.0, **shared))
    assert search_of(model).generate(PROMPTS, ContrastiveSettings(alpha=0.0, **shared)) == greedy
    assert search_of(model).generate(PROMPTS, ContrastiveSettings(alpha=0.9, top_k=1, **shared)) == greedy  # nothing to choose from


def test_it_does_not_repeat_itself_where_greedy_does():
    """A model that says what it heard: its hidden vectors are the tokens, so that only alpha makes it say something else."""
    model = keras.Sequential(
        [keras.Input([None], dtype="int32"), keras.layers.Embedding(12, 12), keras.layers.Dense(12, use_bias=False, name="logits")]
    )
    model.set_weights([np.eye(12, dtype=np.float32), np.eye(12, dtype=np.float32)])
    search = search_of(model)
    (greedy,) = search.generate([[5]], ContrastiveSettings(max_new_tokens=6, alpha=0.0, top_k=9))
    (contrastive,) = search.generate([[5]], ContrastiveSettings(max_new_tokens=6, alpha=0.6, top_k=9))
    assert greedy.ids == [5] * 6
    assert 5 not in contrastive.ids
    assert len(set(contrastive.ids)) == len(contrastive.ids)


@pytest.mark.slow
def test_the_full_context_is_used_and_each_prompt_has_its_own():
    for context, prompts in ((16, [[5] * 15, [6, 7, 8], [9] * 10]), (257, [[5] * 250])):
        model = sharpened(models.transformer_lm(20, context_length=context, embedding_dim=16, num_layers=1, num_heads=2))
        search, settings = search_of(model), ContrastiveSettings(max_new_tokens=12)
        found = search.generate(prompts, settings, bias={END: -np.inf})
        assert [len(text.ids) for text in found] == [min(12, context - len(prompt)) for prompt in prompts]
        assert [text.finish_reason for text in found] == ["length" if len(text.ids) == 12 else "context" for text in found]
        assert found == [search.generate([prompt], settings, bias={END: -np.inf})[0] for prompt in prompts]


def test_rules_hold():
    search = search_of(peaked("gru"), pieces=LETTERS)
    settings = ContrastiveSettings(max_new_tokens=12)
    (text,) = search.generate([[5, 6]], settings, constraint=Choice(["abc", "ddd"]).compile(LETTERS))
    assert text.ids in ([4, 5, 6, END], [7, 7, 7, END])
    (text,) = search.generate([[5, 6]], settings, constraint=Choice(["ab"]).compile(LETTERS), bias={5: -np.inf})
    assert (text.ids, text.finish_reason) == ([4], "blocked")
    (free,) = search.generate([[5, 6]], settings)
    (text,) = search.generate([[5, 6]], settings, stop=[LETTERS[free.ids[0]] + LETTERS[free.ids[1]]])
    assert (text.ids, text.finish_reason) == (free.ids[:2], "stop")


def test_models_and_prompts_that_cannot_be_used():
    search = search_of(build("transformer"))
    assert search.generate([], ContrastiveSettings()) == []
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        search.generate([[5], []], ContrastiveSettings())
    recurrent = keras.Sequential(
        [keras.Input([None], dtype="int32"), keras.layers.Embedding(9, 4), keras.layers.GRU(9, return_sequences=True)]
    )
    with pytest.raises(ValueError, match="no output layer of its own"):
        search_of(recurrent)


@pytest.mark.parametrize(
    ("field", "value", "allowed"), [("alpha", 1.1, "from 0 to 1"), ("top_k", 0, "at least 1"), ("max_new_tokens", 0, "at least 1")]
)
def test_settings_out_of_range_are_named(field, value, allowed):
    with pytest.raises(UserError, match=f"{field} must be {allowed}, got"):
        ContrastiveSettings(**{field: value})
