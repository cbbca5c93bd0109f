"""N-grams against NLTK, which counts tuples in dictionaries, and against sums that have to be one."""

import math

import numpy as np
import pytest
from nltk.lm import MLE as MaximumLikelihood
from nltk.lm import KneserNeyInterpolated, Laplace, Vocabulary
from nltk.util import everygrams

from keras_lm.classical.counting import count_ngrams
from keras_lm.classical.ngram import NGramModel
from keras_lm.classical.smoothing import SMOOTHINGS
from keras_lm.errors import UserError
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import TextGenerator
from keras_lm.pipeline import Tokens
from keras_lm.tokenizers import CharacterTokenizer

START, END = 2, 3
SIZE = 14


def documents(number=300, seed=0):
    rng = np.random.default_rng(seed)
    return [[START, *(rng.choice(8, size=rng.integers(1, 20), p=np.arange(1, 9) / 36) + 4).tolist(), END] for _ in range(number)]


def joined(texts):
    return np.array([token for text in texts for token in text])


def of_nltk(model, order, texts):
    """`model` fitted on our n-grams: one start token a document, as KenLM has it, where NLTK's own padding gives it several."""
    vocabulary = Vocabulary([str(token) for text in texts for token in text])
    model.fit([everygrams(list(map(str, text)), max_len=order) for text in texts], vocabulary)
    return model


def score(model, context, word):
    return model.score(str(word), [str(token) for token in context])


def contexts(texts, order, limit=200):
    """Places with a whole context of words, where NLTK has no convention of its own."""
    places = [(text[place - order + 1 : place], text[place]) for text in texts for place in range(order, len(text))]
    return places[:limit]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_of_all_next_tokens_sum_to_one(smoothing, order):
    model = NGramModel.fit(joined(documents()), order, vocabulary_size=SIZE, smoothing=smoothing)
    for context in ([START], [START, 5], [4, 5, 6, 7], [13, 13, 13], [11, 4, START], *(text[:-2] for text in documents(20, seed=1))):
        values = np.exp(model.next_log_probabilities(context))
        assert values.sum() == pytest.approx(1, abs=1e-5)
        assert values[0] == values[START] == 0


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_text_scored_at_once_is_the_text_scored_token_by_token(smoothing, order):
    model = NGramModel.fit(joined(documents()), order, vocabulary_size=SIZE, smoothing=smoothing)
    ids = joined(documents(30, seed=2))
    at_once = model.log_probabilities(ids)
    for place in range(1, len(ids)):
        if ids[place] == START:
            assert np.isnan(at_once[place])
        else:
            assert at_once[place] == pytest.approx(model.next_log_probabilities(ids[:place])[ids[place]], abs=1e-5)


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_kneser_ney_is_that_of_nltk(order):
    texts = documents()
    reference = of_nltk(KneserNeyInterpolated(order, discount=0.1), order, texts)
    # NLTK ends with unigrams that are not discounted.
    model = NGramModel.fit(joined(texts), order, vocabulary_size=SIZE, smoothing="kneser_ney", discounts=[0.0, *[0.1] * (order - 1)])
    for context, word in contexts(documents(60, seed=3), order):
        if START not in context:
            assert np.exp(model.next_log_probabilities(context)[word]) == pytest.approx(score(reference, context, word), rel=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_maximum_likelihood_is_that_of_nltk(order):
    texts = documents()
    reference = of_nltk(MaximumLikelihood(order), order, texts)
    model = NGramModel.fit(joined(texts), order, vocabulary_size=SIZE, smoothing="mle")
    for context, word in contexts(texts, order):
        if order > 1:  # NLTK's unigrams count the start token
            assert np.exp(model.next_log_probabilities(context)[word]) == pytest.approx(score(reference, context, word), rel=1e-5)


def test_add_one_is_that_of_nltk():
    texts = documents()
    reference = of_nltk(Laplace(3), 3, texts)
    model = NGramModel.fit(joined(texts), 3, vocabulary_size=SIZE, smoothing="add_k", k=1.0)
    words = len(reference.vocab)  # it counts the start token and an unknown one of its own; ours are all ids but start and padding
    for context, word in contexts(texts, 3):
        total = reference.context_counts(tuple(map(str, context))).N()
        expected = score(reference, context, word) * (total + words) / (total + SIZE - 2)
        assert np.exp(model.next_log_probabilities(context)[word]) == pytest.approx(expected, rel=1e-5)


def test_counts_are_those_of_a_dictionary():
    texts = documents()
    counts = count_ngrams(joined(texts), 4, vocabulary_size=SIZE)
    expected = {}
    for text in texts:
        for gram in everygrams(text, max_len=4):
            expected[gram] = expected.get(gram, 0) + 1
    for order in range(2, 5):
        ours = dict(zip(map(tuple, counts.index.ids(order).tolist()), counts.counts[order - 1].tolist(), strict=True))
        assert ours == {gram: number for gram, number in expected.items() if len(gram) == order}


def test_a_word_never_seen_has_a_probability():
    ids = joined(documents())
    for smoothing in ("add_k", "kneser_ney", "modified_kneser_ney"):
        model = NGramModel.fit(ids, 3, vocabulary_size=SIZE, smoothing=smoothing)
        text = Tokens(ids=np.array([START, 4, 1, 12, END]), characters=3, bytes=3, documents=1, unknown=1)
        assert np.isfinite(model.log_probabilities(text.ids)[1:]).all()
        assert model.evaluate(text).unknown_tokens == 1
        assert model.evaluate(text).tokens == 4


def test_maximum_likelihood_is_infinitely_surprised():
    model = NGramModel.fit(joined(documents()), 2, vocabulary_size=SIZE, smoothing="mle")
    evaluation = model.evaluate(Tokens(ids=np.array([START, 4, 12]), characters=2, bytes=2, documents=1, unknown=0))
    assert evaluation.loss == evaluation.perplexity == math.inf


def test_perplexity_and_bits_are_of_the_probabilities():
    ids = joined(documents(50, seed=4))
    model = NGramModel.fit(joined(documents()), 3, vocabulary_size=SIZE)
    evaluation = model.evaluate(Tokens(ids=ids, characters=1000, bytes=3000, documents=50, unknown=0))
    values = model.log_probabilities(ids)
    values = values[~np.isnan(values)]
    assert evaluation.tokens == len(values) == len(ids) - 50
    assert evaluation.loss == pytest.approx(-values.mean(), rel=1e-5)
    assert evaluation.perplexity == pytest.approx(math.exp(-values.mean()), rel=1e-5)
    assert evaluation.bits_per_character == pytest.approx(-values.sum() / math.log(2) / 1000, rel=1e-5)
    assert evaluation.bits_per_byte == pytest.approx(evaluation.bits_per_character / 3)


def test_kneser_ney_is_better_than_add_one_and_a_bigram_better_than_nothing():
    text = "the cat sat on the mat and the dog sat on the log while the rat sat on the hat " * 3
    held_out = "the dog sat on the mat and the cat sat on the log "
    tokenizer = CharacterTokenizer.fit([text])
    ids, test = (tokenizer.tokenize([part]).flat_values.numpy() for part in (text, held_out))
    tokens = Tokens(ids=test, characters=len(test), bytes=len(test), documents=1, unknown=0)
    fit = lambda order, **options: NGramModel.fit(ids, order, vocabulary_size=tokenizer.vocabulary_size, **options).evaluate(tokens).loss
    assert fit(4) < fit(4, smoothing="add_k") < fit(1)


@pytest.mark.parametrize(
    "knobs",
    [{}, {"temperature": 0.0}, {"top_k": 2}, {"stop": ["sat"]}, {"top_logprobs": 2}, {"num_samples": 3}, {"no_repeat_ngram_size": 2}],
    ids=str,
)
def test_generation_has_the_knobs_of_the_neural_sampler(knobs):
    text = "the cat sat on the mat and the dog sat on the log while the rat sat on the hat"
    tokenizer = CharacterTokenizer.fit([text])
    ids = np.array([START, *tokenizer.tokenize([text]).flat_values.numpy(), END])
    model = NGramModel.fit(ids, 4, vocabulary_size=tokenizer.vocabulary_size, smoothing="mle")
    generator = TextGenerator(model, tokenizer, jit_compile=False)
    settings = SamplingSettings(max_new_tokens=40, seed=5)
    texts = generator.generate(["the ", ""], settings, **knobs)
    assert len(texts) == 2 * knobs.get("num_samples", 1)
    assert generator.generate(["the ", ""], settings, **knobs) == texts
    for generated, begin in zip(texts, np.repeat(["the ", ""], len(texts) // 2), strict=True):
        if "no_repeat_ngram_size" not in knobs:  # every four characters of it stand in the text
            written = begin + generated.text
            assert all(written[place : place + 4] in text for place in range(len(written) - 3))
        if "stop" in knobs:
            assert "sat" not in generated.text
        if "top_logprobs" in knobs:
            assert all(math.isfinite(token.logprob) for token in generated.tokens)
    assert "".join(generator.stream("the ", settings, **{**knobs, "num_samples": 1})) == texts[0].text


@pytest.mark.parametrize("id_", [-1, 5])
def test_ids_that_the_vocabulary_has_not_are_refused(id_):
    model = NGramModel.fit(np.array([4, 4, 4]), 2, vocabulary_size=5)
    for ask in (model.log_probabilities, model.next_log_probabilities):
        with pytest.raises(UserError, match=f"ids must be from 0 to 4, one for each word of the vocabulary, got .*{id_}"):
            ask(np.array([4, id_]))


def test_a_tokenizer_of_another_model_is_refused():
    model = NGramModel.fit(np.array([4, 4, 4]), 2, vocabulary_size=5)
    with pytest.raises(UserError, match="the model has 5 tokens, the tokenizer 6: give the tokenizer that the model was trained with"):
        TextGenerator(model, CharacterTokenizer(["a", "b"]))


def test_what_cannot_be_searched_is_said():
    tokenizer = CharacterTokenizer(["a"])
    model = NGramModel.fit(np.array([4, 4, 4]), 2, vocabulary_size=5)
    with pytest.raises(UserError, match="need a Keras model: NGramModel can only be sampled"):
        TextGenerator(model, tokenizer).beam_search(["a"])


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_an_order_above_every_text_of_many(smoothing):
    ids = joined([[START, 4, END], [START, 5, END]] * 5)
    longer, longest = (NGramModel.fit(ids, order, vocabulary_size=SIZE, smoothing=smoothing) for order in (4, 6))
    assert longest.index.size(6) == 0
    scores = longest.log_probabilities(ids)
    assert np.isfinite(scores[ids != START]).all()
    np.testing.assert_array_equal(scores, longer.log_probabilities(ids))  # empty orders say nothing


@pytest.mark.parametrize(
    ("ids", "order", "options", "message"),
    [
        ([4, 5], 0, {}, "order must be a whole number from 1 on, got 0"),
        ([4, 5], 2.0, {}, "order must be a whole number from 1 on, got 2.0"),
        ([4, 5], 1, {"k": 0.5}, "smoothing 'modified_kneser_ney' takes no k"),
        ([4, 5], 3, {}, "at most the length of the text, 2 tokens, got 3"),
        ([], 1, {}, "nothing to count: the text is empty"),
        ([4, 20], 1, {}, "ids must be from 0 to 13, one for each word of the vocabulary, got 4 to 20"),
        ([4, 5], 2, {"smoothing": "kneser_nay"}, "did you mean 'kneser_ney'?"),
        ([4, 5], 2, {"smoothing": "add_k", "k": 0.0}, "k must be above 0, got 0.0"),
        ([4, 5], 2, {"smoothing": "kneser_ney", "discounts": [0.1]}, "discounts must be 2 numbers from 0 to 1"),
    ],
)
def test_bad_input_is_named(ids, order, options, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        NGramModel.fit(np.array(ids, int), order, vocabulary_size=SIZE, **options)


def test_nothing_to_evaluate_on_is_named():
    model = NGramModel.fit(np.array([4, 5, 4]), 2, vocabulary_size=SIZE)
    with pytest.raises(UserError, match="the text to evaluate on is empty"):
        model.evaluate(Tokens(ids=np.array([], int), characters=0, bytes=0, documents=0, unknown=0))
