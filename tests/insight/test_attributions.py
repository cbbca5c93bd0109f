import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.heads import classifier, tagger, text_body
from keras_lm.insight.attributions import attributions, integrate, leave_one_out
from keras_lm.insight.reading import Reader
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer

TOKENIZER = ByteTokenizer()
SMALL = {"embedding_dim": 16, "num_layers": 2}
TEXT = "not bad"


def shaken(model):
    """A model that says something: its matrices are large."""
    generator = np.random.default_rng(0)
    for weight in model.trainable_variables:
        if len(weight.shape) > 1:
            weight.assign(generator.normal(0, 0.5, size=weight.shape))
    return model


def language_model(kind, **arguments):
    sizes = {"num_heads": 2, "context_length": 16} if kind == "transformer" else {"hidden_dim": 16}
    return Reader(shaken(models.MODELS[kind](260, dropout=0.5, **SMALL, **sizes, **arguments)), TOKENIZER)


def labelled(kind, **arguments):
    sizes = {"num_heads": 2, "context_length": 16} if kind == "transformer" else {"hidden_dim": 8}
    model = shaken(classifier(text_body(kind, 260, **SMALL, **sizes), 3, **arguments))
    return Reader(model, TOKENIZER, classes=["bad", "fair", "good"], ends=True)


READERS = {kind: (language_model, kind, {}) for kind in models.MODELS}
READERS |= {f"{kind}-classifier": (labelled, kind, {}) for kind in models.MODELS}
READERS |= {f"{kind}-classifier-{pooling}": (labelled, kind, {"pooling": pooling}) for kind in models.MODELS for pooling in ("max", "last")}
READERS["gpt2"] = language_model, "transformer", {"positions": "learned", "use_bias": True, "activation": "gelu_tanh"}
READERS["llama"] = language_model, "transformer", {"normalization_kind": "rms", "gated": True, "activation": "silu", "num_kv_heads": 1}


@pytest.mark.parametrize("name", READERS)
def test_integrated_gradients_are_complete(name):
    make, kind, arguments = READERS[name]
    reader = make(kind, **arguments)
    found = attributions(reader, TEXT)
    assert abs(found.integrated.sum() - (found.score - found.baseline_score)) < 1e-3
    assert found.tokens == tuple(TEXT) and found.left_out.shape == (len(TEXT),)
    assert abs(found.score - found.baseline_score) > 0.05
    assert found.target == next(one for one, _ in found.alternatives if one not in ("<pad>", "<unk>", "<s>"))


@pytest.mark.parametrize("name", ["gru", "transformer", "transformer-classifier"])
def test_leaving_a_token_out_is_reading_the_text_without_it(name):
    make, kind, arguments = READERS[name]
    reader = make(kind, **arguments)
    found = attributions(reader, TEXT)
    number = list(reader.output_names).index(found.target)

    def score(text):
        outputs = reader.model(tf.constant([reader.read(text).ids]))
        log_p = tf.nn.log_softmax(outputs if reader.classes else outputs[:, -1])[0].numpy()
        return log_p[number] if reader.classes is None else log_p[number] - np.log1p(-np.exp(log_p[number]))

    assert found.score == pytest.approx(score(TEXT), abs=1e-3)
    expected = [score(TEXT) - score(TEXT[:place] + TEXT[place + 1 :]) for place in range(len(TEXT))]
    np.testing.assert_allclose(found.left_out, expected, atol=1e-3)
    np.testing.assert_array_equal(found.left_out, leave_one_out(reader, TEXT))
    ranks = [np.argsort(np.argsort(values)) for values in (found.integrated, found.left_out)]
    assert found.correlation == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-6)


def test_a_target_that_is_asked_for_is_explained():
    found = attributions(language_model("gru"), TEXT, "!")
    assert found.target == "!" and found.score < np.log(dict(found.alternatives).get("!", 1.0)) + 1e-4
    assert attributions(language_model("gru"), TEXT, "</s>").target == "</s>"
    assert attributions(labelled("gru"), TEXT, "fair").target == "fair"


def test_of_a_linear_classifier_each_token_has_its_share():
    """A mean of embeddings and one matrix: of two classes the log-odds are linear, and the shares known."""
    keras = pytest.importorskip("keras")
    ids = keras.Input([None], dtype="int32")
    vectors = keras.layers.Embedding(260, 4, embeddings_initializer="normal")(ids)
    model = classifier(keras.Model(ids, vectors), 2)
    reader = Reader(shaken(model), TOKENIZER, classes=["bad", "good"], ends=True)
    found = attributions(reader, TEXT, "good")
    own = slice(1, -1)
    matrix = model.get_layer("classes").kernel.numpy()
    rows = model.layers[1](np.array([reader.read(TEXT).ids]))[0].numpy()
    expected = rows @ (matrix[:, 1] - matrix[:, 0]) / len(rows)
    np.testing.assert_allclose(found.integrated, expected[own], atol=1e-5)
    assert found.gradients == 10  # one piece, eight points in it and its two ends


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_they_are_those_of_captum(scale):
    """Layer normalisation and tanh in front of a softmax, in torch; the larger the vectors, the nearer to the baseline all is decided."""
    torch = pytest.importorskip("torch")
    captum = pytest.importorskip("captum.attr")
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=[6, 8]), generator.normal(size=[8, 3])
    inputs = scale * generator.normal(size=[5, 6])

    def score_of(x):
        x = torch.nn.functional.layer_norm(x, [6], eps=1e-2)
        return torch.log_softmax(torch.tanh(x @ torch.tensor(first)).mean(dim=1) @ torch.tensor(second), dim=-1)[:, 1]

    def value_and_gradient(points):
        x = tf.constant(points, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(x)
            mean, variance = tf.nn.moments(x, [-1], keepdims=True)
            hidden = tf.reduce_mean(tf.tanh((x - mean) * tf.math.rsqrt(variance + 1e-2) @ first), axis=1)
            scores = tf.nn.log_softmax(hidden @ second)[:, 1]
        return scores.numpy(), tape.gradient(scores, x).numpy()

    found = integrate(value_and_gradient, inputs, np.zeros_like(inputs), tolerance=1e-5)
    x = torch.tensor(inputs[None])
    theirs = captum.IntegratedGradients(score_of).attribute(
        x, torch.zeros_like(x), n_steps=20000, method="riemann_middle", internal_batch_size=20000
    )
    np.testing.assert_allclose(found.attributions, theirs[0].sum(-1).numpy(), atol=1e-4)
    assert abs(found.gap) < 1e-5


def test_what_cannot_be_complete_ends_and_says_so():
    jump = lambda points: (np.where(points[:, 0, 0] > 0.3, 1.0, 0.0), np.zeros_like(points))  # no gradient leads over it
    found = integrate(jump, np.ones([1, 1]), np.zeros([1, 1]), most=200)
    assert found.gap == -1.0 and 200 <= found.gradients < 300


def test_what_cannot_be_explained_is_refused():
    with pytest.raises(UserError, match="unknown class 'goood': did you mean 'good'"):
        attributions(labelled("gru"), TEXT, "goood")
    with pytest.raises(UserError, match="the target 'ab' is 2 tokens of this tokenizer"):
        attributions(language_model("gru"), TEXT, "ab")
    characters = CharacterTokenizer.fit(["not bad"])
    with pytest.raises(UserError, match="the target 'x' is unknown to this tokenizer"):
        attributions(Reader(models.gru_lm(characters.vocabulary_size, embedding_dim=4, hidden_dim=4), characters), TEXT, "x")
    with pytest.raises(UserError, match="the model reads 15 at a time"):
        attributions(language_model("transformer"), "a" * 16)
    with pytest.raises(UserError, match="attributions are of language models and classifiers"):
        model = tagger(text_body("gru", 260, embedding_dim=4, hidden_dim=4), 3)
        attributions(Reader(model, TOKENIZER, classes=["a", "b", "c"]), TEXT)
    with pytest.raises(UserError, match="without its one token there is nothing left"):
        attributions(Reader(models.gru_lm(260, embedding_dim=4, hidden_dim=4), TOKENIZER, begins=False), "a")
    ngrams = labelled("gru", ngrams=2)
    with pytest.raises(UserError, match="leave_one_out takes any classifier"):
        attributions(ngrams, TEXT)
    assert leave_one_out(ngrams, TEXT).shape == (len(TEXT),)
    with pytest.raises(UserError, match="the model knows 260 tokens, but 4 are named"):
        Reader(models.gru_lm(260, embedding_dim=4, hidden_dim=4), CharacterTokenizer([]))
