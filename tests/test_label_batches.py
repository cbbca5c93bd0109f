import itertools

import numpy as np
import pytest

from keras_lm.errors import UserError
from keras_lm.label_batches import LabelledIds, encode_labelled, label_batches, label_evaluation_batches, load_labelled
from keras_lm.tokenizers import CharacterTokenizer

LETTERS = "abcdefgh"


def examples(per_token=False, number=50):
    """Texts of 0 to 12 letters; the label of a text is its length, of a letter its place in the alphabet."""
    generator = np.random.default_rng(0)
    for count in range(number):
        text = "".join(generator.choice(list(LETTERS), size=count % 13))
        yield "train" if count % 5 else "validation", text, [LETTERS.index(letter) for letter in text] if per_token else [len(text)]


@pytest.fixture(params=[False, True], ids=["texts", "tokens"])
def tokens(request, tmp_path):
    rows = list(examples(request.param))
    return rows, encode_labelled(rows, CharacterTokenizer(list(LETTERS)), tmp_path / "tokens", per_token=request.param)


def test_texts_and_labels_come_back(tokens, tmp_path):
    rows, parts = tokens
    loaded = load_labelled(tmp_path / "tokens")
    for name, part in parts.items():
        own = [row for row in rows if row[0] == name]
        texts = LabelledIds(loaded[name], longest=20)
        assert len(texts) == len(own) == part.documents
        for number, (_, text, labels) in enumerate(own):
            ids, found = texts[number]
            assert ids.tolist() == [2, *(4 + LETTERS.index(letter) for letter in text), 3]
            assert found.tolist() == labels


def test_weights_stand_where_labels_do_and_add_up_to_one(tokens):
    _, parts = tokens
    texts = LabelledIds(parts["train"], longest=8)
    for ids, (labels, weights) in itertools.islice(label_batches(texts, batch_size=4), 12):
        ids, labels, weights = ids.numpy(), labels.numpy(), weights.numpy()
        if texts.per_token:
            np.testing.assert_array_equal(weights > 0, ids >= 4)  # letters, and neither start, end nor padding
            np.testing.assert_array_equal(labels[weights > 0], ids[weights > 0] - 4)
        assert weights.sum() == pytest.approx(1)
        assert (ids[:, 0] == 2).all()
        assert ((ids == 3).sum(axis=1) == 1).all()  # of a text that was cut the end stays


def test_a_batch_depends_on_seed_and_step_alone_and_an_epoch_has_each_text_once(tokens):
    _, parts = tokens
    texts = LabelledIds(parts["train"], longest=16)
    first = [batch[0].numpy() for batch in itertools.islice(label_batches(texts, batch_size=4, seed=3), 25)]
    later = [batch[0].numpy() for batch in itertools.islice(label_batches(texts, batch_size=4, seed=3, start_step=7), 5)]
    for one, other in zip(first[7:], later, strict=False):
        np.testing.assert_array_equal(one, other)
    another = next(label_batches(texts, batch_size=4, seed=4))[0].numpy()
    assert another.shape != first[0].shape or (another != first[0]).any()
    seen = [row[row > 0].tobytes() for batch in first[:10] for row in batch]
    assert len(texts) == 40
    assert sorted(seen) == sorted(texts[number][0].astype(np.int32).tobytes() for number in range(40))


def test_evaluation_asks_for_every_label_once(tokens):
    _, parts = tokens
    texts = LabelledIds(parts["train"], longest=20)
    batches = list(label_evaluation_batches(texts, batch_size=16))
    assert sum(weights.sum() for _, (_, weights) in batches) == len(parts["train"].labels)
    assert {len(ids) for ids, _ in batches} == {16}


def test_damaged_labels_are_refused(tokens, tmp_path):
    path = tmp_path / "tokens" / "labels.npz"
    whole = path.read_bytes()
    for damaged in (whole[:-40], b"", None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"labels.npz is missing or damaged: train the run anew"):
            load_labelled(tmp_path / "tokens")


def test_labels_of_other_texts_are_refused(tmp_path):
    tokenizer = CharacterTokenizer(list(LETTERS))
    encode_labelled(examples(), tokenizer, tmp_path / "one")
    encode_labelled(examples(number=60), tokenizer, tmp_path / "other")
    (tmp_path / "other" / "labels.npz").replace(tmp_path / "one" / "labels.npz")
    with pytest.raises(UserError, match="holds labels of 48 texts, but there are 40"):
        load_labelled(tmp_path / "one")
