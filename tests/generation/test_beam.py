import itertools
import re

import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.generation.automata import Choice, Regex
from keras_lm.generation.beam import BeamSearch, BeamSettings
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings
from tests.generation.test_contrastive import sharpened
from tests.test_models import build

END, NEVER = 3, (0, 1, 2)
VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS = 23, 32, 16, 2, 4
PROMPTS = [[5, 6, 7], [9], [10, 11, 12, 13, 14, 5]]
LETTERS = [b"", b"\xef\xbf\xbd", b"", b"", *(bytes([97 + letter]) for letter in range(16))]  # a to p


def twins(seed=6):
    """A model of ours and the same one of `transformers`."""
    shape = {"context_length": CONTEXT, "embedding_dim": WIDTH, "num_layers": LAYERS, "num_heads": HEADS}
    ours = sharpened(models.transformer_lm(VOCABULARY, positions="learned", use_bias=True, **shape), seed)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        activation_function="gelu",
        layer_norm_epsilon=1e-5,
        bos_token_id=2,
        eos_token_id=END,
        pad_token_id=0,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    weights = {}

    def copy(name, layer):
        for ours_name, theirs_name in (("gamma", "weight"), ("kernel", "weight"), ("beta", "bias"), ("bias", "bias")):
            if getattr(layer, ours_name, None) is not None:
                weights[f"transformer.{name}.{theirs_name}"] = torch.tensor(np.asarray(getattr(layer, ours_name)))

    for number in range(LAYERS):
        block = ours.get_layer(f"block_{number}")
        copy(f"h.{number}.ln_1", block.attention_norm)
        copy(f"h.{number}.attn.c_attn", block.attention.qkv)
        copy(f"h.{number}.attn.c_proj", block.attention.output_projection)
        copy(f"h.{number}.ln_2", block.feed_forward_norm)
        copy(f"h.{number}.mlp.c_fc", block.widen)
        copy(f"h.{number}.mlp.c_proj", block.narrow)
    copy("ln_f", ours.get_layer("final_norm"))
    weights["transformer.wte.weight"] = torch.tensor(np.asarray(ours.get_layer("embedding").embeddings))
    weights["transformer.wpe.weight"] = torch.tensor(np.asarray(ours.get_layer("positions").embeddings))
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    theirs.load_state_dict(weights)
    return ours, theirs


@pytest.fixture(scope="module")
def gpt2():
    torch.set_num_threads(1)
    return twins()


@pytest.fixture(scope="module")
def compiled(gpt2):
    return BeamSearch(gpt2[0], end_id=END, never=NEVER)


def reference(model, prompt, settings):
    """What `transformers` finds: ids without padding, and scores."""
    found = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        do_sample=False,
        num_beams=settings.num_beams,
        num_return_sequences=settings.num_return,
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens or None,
        length_penalty=settings.length_penalty,
        early_stopping=settings.early_stopping,
        repetition_penalty=settings.repetition_penalty,
        no_repeat_ngram_size=settings.no_repeat_ngram_size,
        suppress_tokens=list(NEVER),
        output_scores=True,
        return_dict_in_generate=True,
    )
    rows = [row[len(prompt) :].tolist() for row in found.sequences]
    return [row[: row.index(END) + 1] if END in row else row for row in rows], found.sequences_scores.tolist()


def test_the_two_models_agree(gpt2):
    ours, theirs = gpt2
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (2, CONTEXT))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(ours(ids.astype(np.int32)), expected, atol=1e-4)
    assert tf.reduce_mean(tf.reduce_max(tf.nn.softmax(expected), axis=-1)) > 0.2  # peaks, or the scores would all be alike


SETTINGS = [
    {},
    {"length_penalty": 0.0},
    {"length_penalty": 2.0},
    {"length_penalty": -1.0},
    {"early_stopping": True},
    {"early_stopping": True, "length_penalty": 2.0},
    {"max_new_tokens": 3},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.4, "min_new_tokens": 6},
]


@pytest.mark.parametrize("change", SETTINGS, ids=str)
@pytest.mark.parametrize("num_beams", [4, pytest.param(7, marks=pytest.mark.slow)])
def test_the_texts_and_scores_of_transformers(gpt2, compiled, change, num_beams):
    settings = BeamSettings(**{"max_new_tokens": 16, "num_beams": num_beams, "num_return": num_beams, **change})
    found = compiled.generate(PROMPTS, settings)
    for prompt, beams in zip(PROMPTS, found, strict=True):
        texts, scores = reference(gpt2[1], prompt, settings)
        np.testing.assert_allclose([beam.score for beam in beams], scores, atol=1e-4)
        assert [beam.ids for beam in beams] == texts
        assert all(beam.finish_reason == ("end" if beam.ids[-1] == END else "length") for beam in beams)


def test_another_number_compiles_nothing(compiled):
    for change in SETTINGS:
        compiled.generate(PROMPTS, BeamSettings(**{"max_new_tokens": 16, "num_return": 2, **change}))
    assert compiled.num_compilations == 2  # the reading and the search


def search_of(model, **kwargs):
    return BeamSearch(model, end_id=END, never=NEVER, **{"jit_compile": False, **kwargs})


def log_probabilities(model, rows):
    """Of what follows each row, by a full pass; the rows are of one length."""
    logits = model(np.array(rows, np.int32))[:, -1].numpy().astype(np.float64)
    scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    scores[:, list(NEVER)] = -np.inf
    return scores


def by_full_passes(model, prompt, settings):
    """Diverse beam search as Vijayakumar et al. write it, with lists: the best texts of all groups as (score, ids)."""
    size = settings.num_beams // settings.num_beam_groups
    beams, done = ([start for _ in range(settings.num_beam_groups)] for start in ([(0.0, [])], []))
    for length in range(1, settings.max_new_tokens + 1):
        taken, scale = 0.0, length**settings.length_penalty
        for group, running in enumerate(beams):
            if not running:
                continue
            scores = log_probabilities(model, [prompt + ids for _, ids in running]) - settings.diversity_penalty * taken
            everything = [
                (score + row[token], [*ids, token]) for (score, ids), row in zip(running, scores, strict=True) for token in range(len(row))
            ]
            best = sorted(everything, key=lambda pair: -pair[0])[: 2 * size]
            going = [pair for pair in best if pair[1][-1] != END][:size]
            taken = taken + np.bincount([ids[-1] for _, ids in going], minlength=scores.shape[-1])
            ended = [(score / scale, ids) for score, ids in best[:size] if ids[-1] == END or length == settings.max_new_tokens]
            done[group] = sorted(done[group] + ended, key=lambda pair: -pair[0])[:size]
            hopeful = len(done[group]) < size or (going[0][0] / scale > done[group][-1][0] and not settings.early_stopping)
            beams[group] = going if hopeful else []
    return sorted(itertools.chain(*done), key=lambda pair: -pair[0])[: settings.num_return]


@pytest.mark.parametrize(
    ("name", "groups", "penalty", "change"),
    [
        ("lstm", 2, 0.5, {}),
        ("transformer", 3, 0.3, {"length_penalty": 2.0}),
        pytest.param("transformer-gpt2", 6, 1.0, {"early_stopping": True}, marks=pytest.mark.slow),
        pytest.param("gru", 1, 0.0, {"length_penalty": 0.0}, marks=pytest.mark.slow),
        pytest.param("transformer", 2, 1.0, {"jit_compile": True}, marks=pytest.mark.slow),
        pytest.param("simple_rnn", 3, 0.5, {"jit_compile": True}, marks=pytest.mark.slow),
    ],
)
def test_groups_avoid_each_other_as_by_full_passes(name, groups, penalty, change):
    jit_compile = change.pop("jit_compile", False)
    model = sharpened(build(name))
    settings = BeamSettings(num_beams=6, num_beam_groups=groups, diversity_penalty=penalty, num_return=6, max_new_tokens=6, **change)
    for prompt, beams in zip(PROMPTS, search_of(model, jit_compile=jit_compile).generate(PROMPTS, settings), strict=True):
        expected = by_full_passes(model, prompt, settings)
        np.testing.assert_allclose([beam.score for beam in beams], [score for score, _ in expected], atol=1e-4)
        assert [beam.ids for beam in beams] == [ids for _, ids in expected]


def test_groups_begin_differently_under_a_large_penalty():
    search, settings = search_of(build("gru")), {"num_beams": 4, "num_return": 4, "max_new_tokens": 5}
    (alike,) = search.generate([[5]], BeamSettings(**settings))
    (diverse,) = search.generate([[5]], BeamSettings(num_beam_groups=4, diversity_penalty=100.0, **settings))
    assert len({beam.ids[0] for beam in alike}) < 4
    assert len({beam.ids[0] for beam in diverse}) == 4


@pytest.mark.parametrize("length_penalty", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_enough_beams_find_the_best_texts_of_all(length_penalty):
    """Four letters and the end, three tokens: 85 texts, 16 unfinished ones at most."""
    model = sharpened(build("gru", vocabulary_size=8))
    texts = {ids: 0.0 for length in (1, 2, 3) for ids in itertools.product(range(END, 8), repeat=length)}
    texts = {ids: 0.0 for ids in texts if END not in ids[:-1] and (ids[-1] == END or len(ids) == 3)}
    assert len(texts) == 85
    for ids in texts:
        scores = [log_probabilities(model, [[5, 6, *ids[:place]]])[0, token] for place, token in enumerate(ids)]
        texts[ids] = sum(scores) / len(ids) ** length_penalty
    best = sorted(texts, key=texts.get, reverse=True)[:16]
    settings = BeamSettings(max_new_tokens=3, num_beams=16, num_return=16, length_penalty=length_penalty)
    (beams,) = search_of(model).generate([[5, 6]], settings)
    assert [tuple(beam.ids) for beam in beams] == best
    np.testing.assert_allclose([beam.score for beam in beams], [texts[ids] for ids in best], atol=1e-5)


def test_one_beam_is_greedy():
    model = sharpened(build("transformer"))
    greedy = Sampler(model, end_id=END, never=NEVER, jit_compile=False)
    shared = {"max_new_tokens": 9, "min_new_tokens": 3, "no_repeat_ngram_size": 2}
    expected = greedy.generate(PROMPTS, SamplingSettings(temperature=0.0, **shared))
    found = search_of(model).generate(PROMPTS, BeamSettings(num_beams=1, **shared))
    assert [(beam.ids, beam.finish_reason) for (beam,) in found] == [(text.ids, text.finish_reason) for text in expected]


def test_the_texts_that_a_constraint_allows_are_found_and_no_others():
    model = sharpened(build("transformer"))
    search = search_of(model, pieces=LETTERS)
    constraint = Choice(["ab", "abcd", "b"]).compile(LETTERS)
    (beams,) = search.generate([[5, 6]], BeamSettings(num_return=4, length_penalty=0.0), constraint=constraint)
    allowed = [[4, 5, END], [4, 5, 6, 7, END], [5, END]]
    assert sorted(beam.ids for beam in beams) == allowed
    for beam in beams:
        rows = [log_probabilities(model, [[5, 6, *beam.ids[:place]]])[0, token] for place, token in enumerate(beam.ids)]
        assert beam.score == pytest.approx(sum(rows), abs=1e-4)
    assert beams == sorted(beams, key=lambda beam: -beam.score)


def test_each_prompt_has_a_constraint_of_its_own_and_its_texts_are_whole():
    search = search_of(sharpened(build("transformer")), pieces=LETTERS)  # context 16
    each = [Regex("(ab)*c|(ab)*d").compile(LETTERS), None, Choice(["ab", "abcd", "b"]).compile(LETTERS)]
    prompts, settings = [[5, 6], [7], [8, 9]], BeamSettings(num_return=4, max_new_tokens=5, num_beam_groups=2)
    found = search.generate(prompts, settings, constraint=each)
    text_of = lambda beam: b"".join(LETTERS[token] for token in beam.ids).decode()
    for prompt, constraint, beams in zip(prompts, each, found, strict=True):
        (alone,) = search.generate([prompt], settings, constraint=constraint)
        assert [(beam.ids, beam.finish_reason) for beam in beams] == [(beam.ids, beam.finish_reason) for beam in alone]
        np.testing.assert_allclose([beam.score for beam in beams], [beam.score for beam in alone], atol=1e-4)
    assert all(re.fullmatch("(ab)*[cd]", text_of(beam)) for beam in found[0])
    assert all(text_of(beam) in ("ab", "abcd", "b") for beam in found[2])
    held = BeamSettings(num_return=2, num_beams=2, max_new_tokens=40, length_penalty=9.0)  # long texts, but the context has room for 15
    (beams,) = search.generate([[5]], held, constraint=each[0], bias={END: -200.0, 6: -50.0, 7: -50.0})
    assert [(text_of(beam)[:-1], beam.finish_reason) for beam in beams] == [("ab" * 7, "context")] * 2


def test_where_nothing_is_allowed_the_text_is_blocked():
    search, constraint = search_of(build("gru"), pieces=LETTERS), Choice(["ab"]).compile(LETTERS)
    ((beam,),) = search.generate([[5]], BeamSettings(num_return=2), constraint=constraint, bias={5: -np.inf})
    assert (beam.ids, beam.finish_reason) == ([4], "blocked")


def test_stop_strings_end_texts():
    search = search_of(sharpened(build("gru")), pieces=LETTERS)
    settings = BeamSettings(max_new_tokens=6, min_new_tokens=4, num_return=4, length_penalty=0.0)
    text_of = lambda beam: b"".join(LETTERS[token] for token in beam.ids)
    (free,) = search.generate([[5, 6]], settings)
    stop = (text_of(free[0])[1:3], text_of(free[-1])[2:3])
    (stopped,) = search.generate([[5, 6]], settings, stop=stop)
    assert any(beam.finish_reason == "stop" for beam in stopped)
    for beam in stopped:
        assert text_of(beam).endswith(stop) == (beam.finish_reason == "stop")
        assert not any(string in text_of(beam)[:-1] for string in stop)
    assert stopped[0].score >= free[0].score  # a part of a text is never less probable than the text


@pytest.mark.slow
def test_a_full_context_ends_texts_and_each_prompt_has_its_own():
    search = search_of(sharpened(build("transformer-gpt2")))  # context 16
    settings, bias = BeamSettings(max_new_tokens=12, num_return=2), {END: -np.inf}
    prompts = [[5] * 15, [6, 7, 8], [9] * 10]
    found = search.generate(prompts, settings, bias=bias)
    assert [[len(beam.ids) for beam in beams] for beams in found] == [[1, 1], [12, 12], [6, 6]]
    assert [beams[0].finish_reason for beams in found] == ["context", "length", "context"]
    for prompt, beams in zip(prompts, found, strict=True):
        (alone,) = search.generate([prompt], settings, bias=bias)
        assert [beam.ids for beam in alone] == [beam.ids for beam in beams]


def test_prompts_that_cannot_be_used():
    search = search_of(build("transformer"))
    assert search.generate([], BeamSettings()) == []
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        search.generate([[5], []], BeamSettings())
    with pytest.raises(ValueError, match="a prompt has 16 tokens; the context of 16 leaves room for 15"):
        search.generate([[5] * 16], BeamSettings())
    with pytest.raises(ValueError, match="stop strings need the pieces"):
        search.generate([[5]], BeamSettings(), stop=[b"a"])


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("max_new_tokens", 0, "at least 1"),
        ("min_new_tokens", 129, "from 0 to max_new_tokens"),
        ("num_beams", 0, "at least 1"),
        ("num_beam_groups", 3, r"a divisor of num_beams \(4\)"),
        ("num_beam_groups", 0, r"a divisor of num_beams \(4\)"),
        ("diversity_penalty", -1.0, r"0 \(off\) or more"),
        ("diversity_penalty", 1.0, "0 without num_beam_groups"),
        ("length_penalty", float("nan"), "a finite number"),
        ("num_return", 5, r"from 1 to num_beams \(4\)"),
        ("repetition_penalty", 0.0, "over 0"),
        ("no_repeat_ngram_size", -1, "0 \\(off\\) or more"),
    ],
)
def test_settings_out_of_range_are_named(field, value, allowed):
    with pytest.raises(UserError, match=f"{field} must be {allowed}.*, got"):
        BeamSettings(**{field: value})
