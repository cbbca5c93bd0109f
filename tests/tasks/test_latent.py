import numpy as np
import pytest

from keras_lm.errors import UserError
from keras_lm.tasks.latent import LatentSpace

TEXTS = ["房间很好。", "早餐不贵，下次再说。", "这本书太新！"]


@pytest.fixture(scope="module")
def space(small_vae_run):
    return LatentSpace.of(small_vae_run)


def written(texts):
    return [text.text for text in texts]


def test_vectors_tell_sentences_apart_whatever_their_batch(space):
    vectors = space.encode(TEXTS * 20)
    assert vectors.shape == (60, 4)
    np.testing.assert_allclose(vectors[:3], np.concatenate([space.encode([text]) for text in TEXTS]), atol=1e-5)
    assert np.linalg.norm(vectors[0] - vectors[1]) > 0.3
    assert space.encode([]).shape == (0, 4)


def test_a_vector_is_written_as_the_generator_writes_its_sentence(space, small_vae_run):
    """The run's generator goes from a sentence to its mean, and from there to text."""
    expected = small_vae_run.make_generator().generate(TEXTS, max_new_tokens=15)
    assert written(space.decode(space.encode(TEXTS))) == written(expected)


def test_the_same_seed_gives_the_same_sentences(space):
    texts = written(space.sample(8, seed=3))
    assert texts == written(space.sample(8, seed=3))
    assert texts != written(space.sample(8, seed=4))
    assert len(set(texts)) > 2
    near = written(space.neighbours(TEXTS[0], 4, radius=1.5, seed=1))
    assert near == written(space.neighbours(TEXTS[0], 4, radius=1.5, seed=1))
    assert len(set(written(space.neighbours(TEXTS[0], 4, radius=0.0)))) == 1


def test_a_line_between_two_sentences_has_them_at_its_ends(space):
    texts = written(space.interpolate(TEXTS[0], TEXTS[1], 5))
    assert len(texts) == 5
    assert [texts[0], texts[-1]] == written(space.decode(space.encode(TEXTS[:2])))


def test_what_cannot_be_written_is_refused(space, small_run):
    with pytest.raises(UserError, match=r"vectors must be of shape \(sentences, 4\), got \(2, 3\)"):
        space.decode(np.zeros([2, 3]))
    with pytest.raises(UserError, match="steps must be at least 2"):
        space.interpolate("a", "b", 1)
    with pytest.raises(UserError, match="is a run of lm, whose model has no vector of a sentence"):
        LatentSpace.of(small_run)
