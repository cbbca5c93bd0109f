"""Encoder-decoders, step by step and sampled: against the full pass over source and target, and against transformers' Marian."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers

from keras_lm import layers, models
from keras_lm.errors import UserError
from keras_lm.generation.automata import Choice, Regex
from keras_lm.generation.beam import BeamSearch, BeamSettings
from keras_lm.generation.contrastive import ContrastiveSearch, ContrastiveSettings
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from keras_lm.generation.text import TextGenerator, source_ids
from keras_lm.tokenizers import CharacterTokenizer
from tests.generation.test_beam import log_probabilities
from tests.generation.test_sampler import generate
from tests.test_seq2seq import SMALL, build

START, END, NEVER = 2, 3, (0, 1, 2)
LETTERS = [b"", b"\xef\xbf\xbd", b"", b"", *(bytes([97 + letter]) for letter in range(16))]  # a to p
SOURCES = [[5, 6, 7, 8, 9, END], [10, END], [11, 12, 13, END]]
PROMPTS = [[START], [START, 7, 8], [START, 4, 9, 10, 4]]


def some_slow(*fast):
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in SMALL]


def lively(name):
    """Weights so large that distributions have peaks, and an output of its own: with the embedding's, a text repeats one token."""
    model, random = build(name, tied=False), np.random.default_rng(6)
    for variable in model.trainable_variables:
        variable.assign(random.normal(1.0 if "gamma" in variable.path else 0.0, 0.5, variable.shape))
    return model


def padded(sources):
    return keras.utils.pad_sequences(sources, padding="post")


def sampler_of(model, **kwargs):
    return Sampler(model, end_id=END, never=NEVER, **{"jit_compile": False, **kwargs})


def search_of(kind, model, **kwargs):
    return kind(model, end_id=END, never=NEVER, **{"jit_compile": False, **kwargs})


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL)
def test_cached_decoding_equals_full_forward(name, jit_compile):
    """Targets of different lengths behind sources of different lengths, prefilled together and then fed token by token."""
    model = build(name)
    decoder = Decoder(model)
    source, ids = padded(SOURCES), np.random.randint(0, 20, (3, 12)).astype(np.int32)
    full = model([source, ids]).numpy()
    padding, width = np.array([0, 2, 4], np.int32), 6
    shifted = np.zeros((3, 12), np.int32)
    for row in range(3):
        shifted[row, padding[row] :] = ids[row, : 12 - padding[row]]

    @tf.function(jit_compile=jit_compile)
    def prefill(ids, source):
        return decoder.extend(ids, decoder.init_state(3, 16, source), 0, tf.constant(padding))

    @tf.function(jit_compile=jit_compile)
    def step(token, state, slot):
        return decoder.extend(token, state, slot, tf.constant(padding))

    logits, state = prefill(tf.constant(shifted[:, :width]), tf.constant(source))
    for slot in range(width, 13):
        for row in range(3):
            np.testing.assert_allclose(logits[row], full[row, slot - 1 - padding[row]], atol=1e-5)
        if slot < 12:
            logits, state = step(tf.constant(shifted[:, slot : slot + 1]), state, tf.constant(slot))


@pytest.mark.parametrize("name", SMALL)
def test_several_tokens_at_a_time_equal_full_forward(name):
    model = build(name)
    decoder = Decoder(model)
    source, ids = padded(SOURCES[:2]), np.random.randint(0, 20, (2, 12)).astype(np.int32)
    state, padding, pieces = decoder.init_state(2, 12, tf.constant(source)), tf.zeros([2], tf.int32), []
    for start, end in ((0, 4), (4, 9), (9, 10), (10, 12)):
        logits, state = decoder.extend_all(tf.constant(ids[:, start:end]), state, start if start == 0 else tf.constant(start), padding)
        pieces.append(logits.numpy())
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), model([source, ids]), atol=1e-5)


def test_rows_and_slots_move_with_their_memories():
    """Rows repeated and exchanged, slots dropped in front and added behind: the same logits follow."""
    for name in ("transformer", "gru-bahdanau-2", "gru-luong"):
        model = build(name)
        decoder = Decoder(model)
        ids, padding = tf.constant([[0, 0, 5, 6], [0, 7, 8, 9], [0, 0, 9, 4]]), tf.constant([2, 1, 2])
        _, state = decoder.extend(ids, decoder.init_state(3, 4, tf.constant(padded(SOURCES))), 0, padding)
        rows = tf.constant([2, 0, 0, 1])
        state = decoder.take_rows(decoder.moved(state, tf.constant(1), 8), rows)
        logits, _ = decoder.extend(tf.constant([[4], [5], [6], [7]]), state, tf.constant(3), tf.gather(padding - 1, rows))
        for row, (source, target) in enumerate([(2, [9, 4, 4]), (0, [5, 6, 5]), (0, [5, 6, 6]), (1, [7, 8, 9, 7])]):
            expected = model([np.array([SOURCES[source]]), np.array([target])])[0, -1]
            np.testing.assert_allclose(logits[row], expected, atol=1e-5, err_msg=name)


def greedy_by_full_passes(model, source, prompt, number):
    """`model([source, target])`, argmax, append, repeat: no cache, and no padding."""
    ids = list(prompt)
    while len(ids) < len(prompt) + number and ids[-1] != END:
        logits = model([np.array([source], np.int32), np.array([ids], np.int32)])[0, -1].numpy()
        logits[list(NEVER)] = -np.inf
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", some_slow("transformer", "gru-bahdanau-2"))
def test_greedy_equals_the_loop_a_reader_would_write(name, jit_compile):
    model = lively(name)
    rows, _ = generate(
        sampler_of(model, jit_compile=jit_compile), PROMPTS, SamplingSettings(temperature=0.0, max_new_tokens=8), sources=SOURCES
    )
    for source, prompt, row in zip(SOURCES, PROMPTS, rows, strict=True):
        assert row == greedy_by_full_passes(model, source, prompt, 8)


@pytest.mark.parametrize("name", some_slow("gru-bahdanau"))
def test_a_text_does_not_depend_on_its_batch(name):
    """Nor on the padding of its source beside a longer one; samples are what their seeds give; another source, another draw."""
    sampler = sampler_of(build(name))  # all tokens nearly alike: what differs are the draws
    settings, sources = SamplingSettings(seed=20, max_new_tokens=8, num_samples=2), [[5] * 15 + [END], *SOURCES[1:]]
    together, _ = generate(sampler, PROMPTS, settings, sources=sources)
    assert together == generate(sampler, PROMPTS, settings, sources=sources)[0]
    alone = lambda row, number: generate(
        sampler, [PROMPTS[number]], SamplingSettings(seed=20 + row, max_new_tokens=8), sources=[SOURCES[number]]
    )
    for row in (2, 3, 4, 5):
        assert alone(row, row // 2)[0] == [together[row]]
    same_prompt = lambda source: generate(sampler, [[START, 7]], SamplingSettings(seed=3, max_new_tokens=8), sources=[source])[0]
    assert same_prompt(SOURCES[0]) == same_prompt(SOURCES[0]) != same_prompt(SOURCES[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_same_seed_same_text_with_xla_and_without(name):
    settings = SamplingSettings(seed=11, max_new_tokens=10, top_k=12, top_p=0.9, repetition_penalty=1.1, num_samples=2)
    model = build(name)
    texts = [generate(sampler_of(model, jit_compile=jit_compile), PROMPTS, settings, sources=SOURCES) for jit_compile in (True, False)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["transformer", pytest.param("gru-bahdanau", marks=pytest.mark.slow)])
def test_the_parts_of_a_stream_are_the_text(name):
    """With their log-probabilities; a stop string ends them."""
    model = lively(name)
    sampler = sampler_of(model, pieces=LETTERS)
    settings, rules = SamplingSettings(max_new_tokens=11, temperature=0.0, top_logprobs=2), {"sources": SOURCES, "bias": {END: -np.inf}}
    free = sampler.generate(PROMPTS, settings, **rules)[0].ids
    stop = b"".join(LETTERS[token] for token in free[3:5])
    ended = next(place for place in range(2, 12) if b"".join(LETTERS[token] for token in free[:place]).endswith(stop))
    whole = sampler.generate(PROMPTS, settings, stop=[stop], **rules)
    assert (whole[0].ids, whole[0].finish_reason) == (free[:ended], "stop")
    parts = list(sampler.stream(PROMPTS, settings, stop=[stop], chunk_size=4, **rules))
    assert all(len(part.ids) <= 4 for row in parts for part in row)
    assert [sum(row[1:], row[0]) for row in zip(*parts, strict=True)] == whole
    for text, source, prompt in zip(whole, SOURCES, PROMPTS, strict=True):
        expected = tf.nn.log_softmax(model([np.array([source]), np.array([prompt + text.ids[:-1]])])[0, len(prompt) - 1 :]).numpy()
        np.testing.assert_allclose(text.logprobs, expected[np.arange(len(text.ids)), text.ids], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformer", "gru-bahdanau-2"])
def test_growing_caches_give_the_same_text(name):
    model, settings = build(name), SamplingSettings(max_new_tokens=10, seed=1, num_samples=2)
    whole, growing = (sampler_of(model, cache_step=cache_step) for cache_step in (None, 4))
    assert growing.generate(PROMPTS, settings, sources=SOURCES) == whole.generate(PROMPTS, settings, sources=SOURCES)


@pytest.mark.slow
def test_a_full_context_ends_the_text_or_slides():
    """Beyond the context the source is read again, and the text goes on from its last half."""
    model = lively("transformer")  # context 16
    sampler = Sampler(model, end_id=END, never=(*NEVER, END), jit_compile=False)
    settings = {"temperature": 0.0, "max_new_tokens": 20, "num_samples": 2}
    cut, reasons = generate(sampler, [[START]] * 2, SamplingSettings(**settings), sources=SOURCES[:2])
    assert ([len(row) for row in cut], set(reasons)) == ([15] * 4, {"context"})
    slid, reasons = generate(sampler, [[START]] * 2, SamplingSettings(**settings, when_full="slide"), sources=SOURCES[:2])
    assert ([len(row) for row in slid], set(reasons)) == ([20] * 4, {"length"})
    assert slid[0] == slid[1] != slid[2] == slid[3]
    rest, _ = generate(sampler, [row[-8:] for row in cut[::2]], SamplingSettings(temperature=0.0, max_new_tokens=5), sources=SOURCES[:2])
    assert [cut[0] + rest[0], cut[2] + rest[1]] == slid[::2]


def test_sources_of_a_bucket_compile_nothing_new():
    sampler = sampler_of(build("gru-luong"))
    settings = SamplingSettings(max_new_tokens=3)
    for length in range(1, 17):
        sampler.generate([[START]], settings, sources=[[5] * length])
    assert sampler.num_compilations == 2  # `begin` and `advance`
    for length in (17, 24, 32):
        sampler.generate([[START]], settings, sources=[[5] * length])
    assert sampler.num_compilations == 4


@pytest.mark.parametrize("context_length", [8, 20])
def test_a_source_as_long_as_the_context_is_read(context_length):
    """Where positions have an end, the padding of a source may not go beyond it."""
    model = build("transformer-learned", context_length=context_length)
    source = [5] * (context_length - 1) + [END]
    (row,), _ = generate(sampler_of(model), [[START]], SamplingSettings(temperature=0.0, max_new_tokens=2), sources=[source])
    assert row == greedy_by_full_passes(model, source, [START], 2)


def beams_by_full_passes(model, source, prompt, settings):
    """Beam search with lists: the best texts as (score, ids)."""
    running, done, size = [(0.0, [])], [], settings.num_beams
    given = lambda rows: model([np.array([source] * len(rows), np.int32), rows])
    for length in range(1, settings.max_new_tokens + 1):
        scale = length**settings.length_penalty
        scores = log_probabilities(given, [prompt + ids for _, ids in running])
        everything = [
            (score + row[token], [*ids, token]) for (score, ids), row in zip(running, scores, strict=True) for token in range(len(row))
        ]
        best = sorted(everything, key=lambda pair: -pair[0])[: 2 * size]
        running = [pair for pair in best if pair[1][-1] != END][:size]
        ended = [(score / scale, ids) for score, ids in best[:size] if ids[-1] == END or length == settings.max_new_tokens]
        done = sorted(done + ended, key=lambda pair: -pair[0])[:size]
        if len(done) == size and running[0][0] / scale <= done[-1][0]:
            break
    return done[: settings.num_return]


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", some_slow("gru-bahdanau-2"))
def test_beams_equal_a_search_by_full_passes(name, jit_compile):
    model = lively(name)
    settings = BeamSettings(num_beams=4, num_return=4, max_new_tokens=6)
    found = search_of(BeamSearch, model, jit_compile=jit_compile).generate(PROMPTS, settings, sources=SOURCES)
    for source, prompt, beams in zip(SOURCES, PROMPTS, found, strict=True):
        expected = beams_by_full_passes(model, source, prompt, settings)
        np.testing.assert_allclose([beam.score for beam in beams], [score for score, _ in expected], atol=1e-4)
        assert [beam.ids for beam in beams] == [ids for _, ids in expected]


def marian():
    """The Transformer of 2017 as we write it, and the same one of `transformers`."""
    torch.set_num_threads(1)
    ours = lively("transformer-2017")
    config = transformers.MarianConfig(
        vocab_size=20,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=32,
        activation_function="relu",
        scale_embedding=True,
        dropout=0.0,
        pad_token_id=0,
        eos_token_id=END,
        forced_eos_token_id=None,
        decoder_start_token_id=START,
        tie_word_embeddings=False,
    )
    theirs = transformers.MarianMTModel(config).eval()
    embedding = ours.get_layer("embedding")
    weights = {f"model.{name}.weight": embedding.embeddings for name in ("shared", "encoder.embed_tokens", "decoder.embed_tokens")}
    weights["lm_head.weight"] = tf.transpose(embedding.reverse_embeddings)

    def copy(name, layer, slices=(slice(None),), names=("",)):
        for part, suffix in zip(slices, names, strict=True):
            for key, value in (("weight", layer.weights[0]), ("bias", layer.weights[1])):
                weights[f"model.{name}{suffix}.{key}"] = np.asarray(value)[..., part].T

    thirds = [slice(0, 16), slice(16, 32), slice(32, 48)]
    for side, norms in (("encoder", ("self_attn", "final")), ("decoder", ("self_attn", "encoder_attn", "final"))):
        blocks = models.encoder_of(ours) if side == "encoder" else ours
        for number in range(2):
            block, place = blocks.get_layer(f"{side}_block_{number}"), f"{side}.layers.{number}."
            copy(f"{place}self_attn.", block.attention.qkv, thirds, ("q_proj", "k_proj", "v_proj"))
            copy(f"{place}self_attn.out_proj", block.attention.output_projection)
            if side == "decoder":
                copy(f"{place}encoder_attn.q_proj", block.memory_attention.query)
                copy(f"{place}encoder_attn.", block.memory_attention.key_value, thirds[:2], ("k_proj", "v_proj"))
                copy(f"{place}encoder_attn.out_proj", block.memory_attention.output_projection)
            ours_norms = [block.attention_norm, *([block.memory_norm] if side == "decoder" else []), block.feed_forward_norm]
            for norm, layer in zip(norms, ours_norms, strict=True):
                copy(f"{place}{norm}_layer_norm", layer)
            copy(f"{place}fc1", block.widen)
            copy(f"{place}fc2", block.narrow)
    missing, unexpected = theirs.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in weights.items()}, strict=False)
    assert not unexpected
    assert all(re.search("embed_positions|final_logits_bias", name) for name in missing)
    return ours, theirs


@pytest.fixture(scope="module")
def twins():
    return marian()


@pytest.fixture(scope="module")
def search(twins):
    return search_of(BeamSearch, twins[0])


def test_the_original_transformer_is_that_of_transformers(twins):
    ours, theirs = twins
    source, target = padded(SOURCES), np.random.randint(4, 20, (3, 9)).astype(np.int32)
    given = {"input_ids": source, "attention_mask": source != 0, "decoder_input_ids": target}
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(value).long() for name, value in given.items()}).logits.numpy()
    np.testing.assert_allclose(ours([source, target]), expected, atol=1e-4)
    assert tf.reduce_mean(tf.reduce_max(tf.nn.softmax(expected), axis=-1)) > 0.2  # peaks, or the scores would all be alike


@pytest.mark.parametrize(
    "change", [{}, {"length_penalty": 2.0}, {"early_stopping": True}, {"no_repeat_ngram_size": 2}, {"num_beams": 1}], ids=str
)
def test_the_texts_and_scores_of_transformers(twins, search, change):
    """Beam search over sources of different lengths in one batch."""
    settings = BeamSettings(**{"num_beams": 4, "max_new_tokens": 10, **change})
    settings = BeamSettings(**{**vars(settings), "num_return": settings.num_beams})
    found = search.generate([[START]] * 3, settings, sources=SOURCES)
    source = padded(SOURCES)
    expected = twins[1].generate(
        torch.tensor(source).long(),
        attention_mask=torch.tensor(source != 0).long(),
        do_sample=False,
        num_beams=settings.num_beams,
        num_return_sequences=settings.num_return,
        max_new_tokens=settings.max_new_tokens,
        max_length=None,
        length_penalty=settings.length_penalty,
        early_stopping=settings.early_stopping,
        no_repeat_ngram_size=settings.no_repeat_ngram_size,
        suppress_tokens=list(NEVER),
        output_scores=True,
        return_dict_in_generate=True,
    )
    texts = [row[1:].tolist() for row in expected.sequences]
    texts = [row[: row.index(END) + 1] if END in row else row for row in texts]
    assert [beam.ids for beams in found for beam in beams] == texts
    if settings.num_beams > 1:
        np.testing.assert_allclose([beam.score for beams in found for beam in beams], expected.sequences_scores, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "last"), [("gru-luong", "attention"), pytest.param("transformer", "decoder_norm", marks=pytest.mark.slow)]
)
def test_contrastive_search_by_full_passes(name, last):
    """The paper's rule with a source, a full pass for every candidate."""
    model = lively(name)
    both = keras.Model(model.inputs, [model.get_layer(last).output, model.outputs[0]])
    settings = ContrastiveSettings(max_new_tokens=5, alpha=0.5, top_k=3)
    texts = search_of(ContrastiveSearch, model).generate(PROMPTS, settings, sources=SOURCES)
    for source, prompt, text in zip(SOURCES, PROMPTS, texts, strict=True):
        ids, given = list(prompt), lambda rows, source=source: both([np.array([source] * len(rows), np.int32), np.array(rows, np.int32)])
        while len(ids) < len(prompt) + 5 and ids[-1] != END:
            probabilities = np.exp(log_probabilities(lambda rows, given=given: given(rows)[1], [ids])[0])
            probabilities /= probabilities.sum()
            candidates = np.argsort(-probabilities)[:3]
            hidden = given([[*ids, token] for token in candidates])[0].numpy()
            hidden /= np.linalg.norm(hidden, axis=-1, keepdims=True)
            likeness = np.einsum("knd,kd->kn", hidden[:, :-1], hidden[:, -1]).max(axis=1)
            ids.append(int(candidates[np.argmax(0.5 * probabilities[candidates] - 0.5 * likeness)]))
        assert text.ids == ids[len(prompt) :]


def test_drawn_texts_match_their_pattern():
    sampler = sampler_of(lively("gru-luong"), pieces=LETTERS)
    settings = SamplingSettings(temperature=3.0, max_new_tokens=10, num_samples=10)
    texts = sampler.generate(PROMPTS, settings, sources=SOURCES, constraint=Regex("[a-d]+p|(no){2,3}").compile(LETTERS))
    written = [b"".join(LETTERS[token] for token in text.ids).decode() for text in texts if text.finish_reason == "end"]
    assert len(set(written)) > 5
    assert all(re.fullmatch("[a-d]+p|(no){2,3}", text) for text in written)


@pytest.mark.slow
def test_beams_are_the_texts_that_a_constraint_allows():
    search = search_of(BeamSearch, lively("transformer"), pieces=LETTERS)
    constraint = Choice(["ab", "abcd", "b"]).compile(LETTERS)
    found = search.generate(PROMPTS, BeamSettings(num_return=4), sources=SOURCES, constraint=constraint)
    assert [sorted(beam.ids for beam in beams) for beams in found] == [[[4, 5, END], [4, 5, 6, 7, END], [5, END]]] * 3


def test_sources_that_cannot_be_used():
    settings = {Sampler: SamplingSettings(max_new_tokens=2), BeamSearch: BeamSettings(max_new_tokens=2)}
    settings[ContrastiveSearch] = ContrastiveSettings(max_new_tokens=2)
    causal, pairs = models.transformer_lm(20, context_length=16, embedding_dim=16, num_layers=1), build("transformer")
    for kind, own in settings.items():
        search = search_of(kind, pairs)
        with pytest.raises(ValueError, match="an encoder-decoder needs sources, one for each prompt, and no other model takes them"):
            search.generate([[START]], own)
        with pytest.raises(ValueError, match="no other model takes them"):
            search_of(kind, causal).generate([[START]], own, sources=SOURCES[:1])
        for sources in ([], SOURCES[:1], [SOURCES[0], []]):
            with pytest.raises(ValueError, match="there must be a source, of one token at least, for each of the 2 prompts"):
                search.generate([[START]] * 2, own, sources=sources)
        assert search.generate([], own, sources=[]) == []


def test_a_state_without_its_source_is_refused():
    with pytest.raises(ValueError, match="transformer_seq2seq needs a source"):
        Decoder(build("transformer")).init_state(1, 8)
    causal = models.gru_lm(20, embedding_dim=8, hidden_dim=8)
    with pytest.raises(ValueError, match=f"{causal.name} reads no source"):
        Decoder(causal).init_state(1, 8, tf.constant([[5]]))


@pytest.mark.parametrize("cross", [False, True], ids=["causal-model", "encoder-decoder"])
def test_a_block_that_sees_the_whole_text_is_refused_by_name(cross):
    """Of an encoder-decoder, where it stands in the decoder; the encoder's own blocks are no hindrance."""
    if cross:
        pairs = build("transformer")
        (memory, visible), target = pairs.get_layer("encoder").output, pairs.inputs[1]
        memory, visible = (output for output in pairs.get_layer("decoder_block_0").input[1:])
        x = pairs.get_layer("embedding")(target)
        block = layers.TransformerBlock(4, 32, 16, causal=False, cross=True, name="whole")(x, memory=memory, memory_visible=visible)
        model = keras.Model(pairs.inputs, keras.layers.Dense(20)(block))
    else:
        block = layers.TransformerBlock(4, 32, 16, causal=False, name="whole")
        model = keras.Sequential([keras.Input([None], dtype="int32"), keras.layers.Embedding(20, 16), block, keras.layers.Dense(20)])
    with pytest.raises(ValueError, match="layer whole sees the whole text, so it sees the tokens it should predict: give it causal=True"):
        Decoder(model)


TOKENIZER = CharacterTokenizer.fit(["abcdefghijklmnop"])


@pytest.fixture(scope="module")
def generator():
    keras.utils.set_random_seed(0)
    return TextGenerator(lively("gru-luong"), TOKENIZER, jit_compile=False, longest_source=6)


@pytest.mark.slow
def test_of_texts_the_prompt_is_the_source_and_the_text_its_target(generator):
    sources = ["abc", "p", "ponml"]
    ids = source_ids(TOKENIZER, tf.constant(sources)).to_list()
    assert [row[-1] for row in ids] == [END] * 3
    results = generator.generate(sources, max_new_tokens=6)
    for source, result in zip(ids, results, strict=True):  # by default the most probable token at each step
        expected = greedy_by_full_passes(generator.model, source, [START], 6)
        assert result.text == "".join(LETTERS[token].decode() for token in expected)
        assert result.num_tokens == len(expected)
    assert len({result.text for result in results}) > 1
    assert "".join(generator.stream(sources[2], max_new_tokens=6)) == results[2].text
    assert generator.generate([]) == generator.beam_search([]) == generator.contrastive_search([]) == []


@pytest.mark.slow
def test_searches_of_texts_are_greedy_at_their_limits(generator):
    sources = ["abc", "p", "ponml"]
    greedy = [result.text for result in generator.generate(sources, max_new_tokens=6)]
    assert [best.text for (best,) in generator.beam_search(sources, num_beams=1, max_new_tokens=6)] == greedy
    assert [result.text for result in generator.contrastive_search(sources, alpha=0.0, max_new_tokens=6)] == greedy


def test_of_a_source_that_is_too_long_the_beginning_is_read(generator):
    with pytest.warns(UserWarning, match="a source has 9 tokens; the model reads the first 6") as caught:
        (result,) = generator.generate(["abcdefgh"], max_new_tokens=4, seed=1, temperature=1.0)
    assert [warning.filename for warning in caught] == [__file__]
    expected = generator.sampler.generate([[START]], SamplingSettings(max_new_tokens=4, seed=1, temperature=1.0), sources=[[*range(4, 10)]])
    assert result.text == "".join(LETTERS[token].decode() for token in expected[0].ids)


def test_a_draft_is_refused(generator):
    with pytest.raises(UserError, match="an encoder-decoder takes no draft"):
        TextGenerator(generator.model, generator.tokenizer, draft="lookup")


def test_an_empty_source_is_refused(generator):
    for search in (generator.generate, generator.beam_search, generator.contrastive_search):
        with pytest.raises(UserError, match="a source is empty: give at least one word"):
            search(["abc", " "])
    with pytest.raises(UserError, match="a source is empty"):
        next(generator.stream(""))
