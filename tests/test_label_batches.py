import itertools

import numpy as np
import pytest

from keras_lm.errors import UserError
from keras_lm.label_batches import LabelledIds, encode_labelled, label_batches, label_evaluation_batches, load_labelled
from keras_lm.tokenizers import CharacterTokenizer

LETTERS = "abcdefgh"


def examples(form="text", number=50):
    """Texts of 0 to 12 letters; the label of a text is its length, of a letter its place in the alphabet, of two their place and a half."""
    generator = np.random.default_rng(0)
    for count in range(number):
        text = "".join(generator.choice(list(LETTERS), size=count % 13))
        labels = {
            "text": [len(text)],
            "token": [LETTERS.index(letter) for letter in text],
            "span": [count, count + 1],
            "pair": [count + 0.5],
        }
        yield "train" if count % 5 else "validation", (text, text[::-1] + "a") if form in ("span", "pair") else (text,), labels[form]


@pytest.fixture(params=["text", "token", "span", "pair"])
def tokens(request, tmp_path):
    rows = list(examples(request.param))
    return rows, encode_labelled(rows, CharacterTokenizer(list(LETTERS)), tmp_path / "tokens", form=request.param)


def letters(text):
    return [4 + LETTERS.index(letter) for letter in text]


def test_texts_and_labels_come_back(tokens, tmp_path):
    rows, parts = tokens
    loaded = load_labelled(tmp_path / "tokens")
    for name, part in parts.items():
        own = [row for row in rows if row[0] == name]
        texts = LabelledIds(loaded[name], longest=40)
        assert len(texts) == len(own) == len(part.ends)
        for number, (_, given, labels) in enumerate(own):
            ids, found = texts[number]
            if texts.form == "span":
                assert [text.tolist() for text in ids] == [[2, *letters(given[0]), 3, *letters(given[1]), 3]]
            else:
                assert [text.tolist() for text in ids] == [[2, *letters(text), 3] for text in given]
            assert found.tolist() == labels
            assert texts.lengths[number] == max(map(len, ids))


def test_weights_stand_where_labels_do_and_add_up_to_one(tokens):
    _, parts = tokens
    texts = LabelledIds(parts["train"], longest=8)
    for ids, (labels, weights) in itertools.islice(label_batches(texts, batch_size=4), 12):
        ids, labels, weights = ids.numpy(), labels.numpy(), weights.numpy()
        if texts.form == "token":
            np.testing.assert_array_equal(weights > 0, ids >= 4)  # letters, and neither start, end nor padding
            np.testing.assert_array_equal(labels[weights > 0], ids[weights > 0] - 4)
        assert weights.sum() == pytest.approx(1)
        assert (ids[:, 0] == 2).all()
        assert len(ids) == (8 if texts.form == "pair" else 4)
        last = np.take_along_axis(ids, (ids > 0).sum(axis=1, keepdims=True) - 1, axis=1)
        assert (last == 3).all()  # of a text that was cut too


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
    assert sorted(seen) == sorted(text.astype(np.int32).tobytes() for number in range(40) for text in texts[number][0])


def test_evaluation_asks_for_every_label_once(tokens):
    _, parts = tokens
    texts = LabelledIds(parts["train"], longest=20)
    batches = list(label_evaluation_batches(texts, batch_size=16))
    assert sum(weights.sum() for _, (_, weights) in batches) == len(parts["train"].labels)
    assert {len(ids) for ids, _ in batches} == {32 if texts.form == "pair" else 16}


def test_of_pairs_all_first_texts_come_before_all_second_ones(tmp_path):
    parts = encode_labelled(examples("pair"), CharacterTokenizer(list(LETTERS)), tmp_path / "tokens", form="pair")
    texts = LabelledIds(parts["train"], longest=20)
    ids, labels, weights = texts.padded(np.array([7, 3]), 16, rows=3)
    for row, number in enumerate((7, 3)):
        for side, text in enumerate(texts[number][0]):
            assert ids[3 * side + row].tolist() == [*text.tolist(), *[0] * (16 - len(text))]
    assert not ids[[2, 5]].any()
    assert (labels.dtype, weights.tolist()) == (np.float32, [1, 1, 0])


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
