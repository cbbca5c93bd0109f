import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_lm import corpora, pipeline, tokenizers
from keras_lm.corpora import Corpus
from keras_lm.errors import UserError
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer


def corpus_of(documents, **kwargs):
    return Corpus(name="test", documents=lambda: iter(documents), **kwargs)


def batches(ids, count, **kwargs):
    dataset = pipeline.training_batches(np.asarray(ids), **kwargs)
    return [(inputs.numpy(), targets.numpy()) for inputs, targets in dataset.take(count)]


def test_split_does_not_depend_on_order_or_repetition():
    documents = [f"document {number}" for number in range(2000)]
    forward = {text: split for split, text in pipeline.split_texts(corpus_of(documents), "hash")}
    backward = {text: split for split, text in pipeline.split_texts(corpus_of([*reversed(documents), *documents]), "hash")}
    assert forward == backward
    shares = collections.Counter(forward.values())
    assert 1750 < shares["train"] < 1850
    assert 60 < shares["validation"] < 140
    assert 60 < shares["test"] < 140


def test_split_is_the_same_in_every_process():
    held_out = {
        "line 17": "validation",
        "line 30": "test",
        "line 33": "validation",
        "line 39": "validation",
        "line 45": "test",
        "line 48": "test",
    }
    for number in range(60):
        assert pipeline.split_of(f"line {number}".encode()) == held_out.get(f"line {number}", "train")


def test_contiguous_split_cuts_the_text_at_nine_tenths():
    documents = ["first line", "second", "", "fourth line here", "x"]
    text = "\n".join(documents)
    parts = collections.defaultdict(str)
    for split, piece in pipeline.split_texts(corpus_of(documents), "contiguous"):
        parts[split] += piece
    assert parts["train"] == text[: len(text) * 9 // 10]
    assert parts["train"] + parts["validation"] == text


def test_given_split_is_the_corpus_own():
    splits = {"train": lambda: iter(["a", "b"]), "test": lambda: iter(["c"])}
    assert list(pipeline.split_texts(corpus_of([], splits=splits), "given")) == [("train", "a"), ("train", "b"), ("test", "c")]
    with pytest.raises(UserError, match="defines no splits of its own"):
        list(pipeline.split_texts(corpus_of(["a"]), "given"))


def test_cleaning_comes_before_the_split():
    pairs = list(pipeline.split_texts(corpus_of(["ＡＢＣ", "abc"]), "hash", ["nfkc", "lower"]))
    assert pairs[0] == pairs[1]


def test_encoding_writes_documents_between_start_and_end(tmp_path):
    tokenizer = CharacterTokenizer.fit(["ab"])
    a, b = tokenizer.tokenize(["ab"]).to_list()[0]
    tokens = pipeline.encode(iter([("train", "ab"), ("test", "b?"), ("train", "a")]), tokenizer, tmp_path / "tokens")
    assert tokens["train"].ids[:].tolist() == [2, a, b, 3, 2, a, 3]
    assert tokens["test"].ids[:].tolist() == [2, b, 1, 3]
    assert tokens["validation"].ids[:].tolist() == []
    assert (tokens["train"].characters, tokens["train"].documents, tokens["test"].unknown) == (3, 2, 1)
    again = pipeline.load_tokens(tmp_path / "tokens")
    assert np.array_equal(again["train"].ids, tokens["train"].ids)


def test_encoding_one_text_adds_nothing(tmp_path):
    tokenizer = ByteTokenizer()
    texts = ["床前明月光", "疑是地上霜", "举头望明月", "低头思故乡"] * 300
    pairs = pipeline.split_texts(corpus_of(texts), "contiguous")
    tokens = pipeline.encode(pairs, tokenizer, tmp_path / "tokens", documents=False)
    joined = np.concatenate([tokens["train"].ids, tokens["validation"].ids])
    assert tokenizer.detokenize([joined.tolist()]).numpy()[0].decode() == "\n".join(texts)
    assert tokens["train"].bytes + tokens["validation"].bytes == len("\n".join(texts).encode())
    assert tokens["test"].documents == len(tokens["test"].ids) == 0


@pytest.mark.parametrize("documents", [True, False])
@pytest.mark.parametrize("kind", ["char", "byte", "wordpiece", "sentencepiece", "word"])
def test_encoding_gives_each_split_its_texts_in_order(tmp_path, kind, documents):
    """Against tokenizing each text by itself; texts of all lengths, and more of them than are tokenized at a time."""
    random = np.random.default_rng(0)
    words = ["", "a", "plus", "一", "二三", "😀", "thirty-one", "\n", "é "]
    texts = [" ".join(random.choice(words, size)) for size in [*random.integers(0, 12, 1500), 3000]]
    pairs = [(str(random.choice(pipeline.SPLITS, p=[0.8, 0.1, 0.1])), text) for text in texts]
    tokenizer = tokenizers.get(kind).fit(texts[:500], {"wordpiece": 100, "sentencepiece": 300, "word": 400}.get(kind))
    tokens = pipeline.encode(iter(pairs), tokenizer, tmp_path / "tokens", documents=documents)
    for name in pipeline.SPLITS:
        own = [text for split, text in pairs if split == name]
        rows = tokenizer.tokenize(tf.constant(own)).to_list()
        rows = [[2, *row, 3] for row in rows] if documents else rows
        assert tokens[name].ids[:].tolist() == [token for row in rows for token in row]
        assert (tokens[name].characters, tokens[name].documents) == (sum(map(len, own)), len(own))
        assert tokens[name].unknown == sum(row.count(1) for row in rows)


@pytest.mark.parametrize("stateful", [False, True])
def test_readers_of_some_rows_give_the_batch_together(stateful):
    settings = {"sequence_length": 8, "batch_size": 6, "seed": 2, "stateful": stateful, "start_step": 11}
    whole = batches(np.arange(700), 25, **settings)
    for cuts in ([0, 6], [0, 2, 4, 6], [0, 1, 6]):
        parts = [batches(np.arange(700), 25, rows=rows, **settings) for rows in itertools.pairwise(cuts)]
        for step, (inputs, targets) in enumerate(whole):
            assert np.array_equal(np.concatenate([part[step][0] for part in parts]), inputs)
            assert np.array_equal(np.concatenate([part[step][1] for part in parts]), targets)
    with pytest.raises(ValueError, match="within the 6 rows"):
        batches(np.arange(700), 1, rows=(4, 7), **settings)


def test_targets_are_inputs_shifted_by_one():
    for stateful in (False, True):
        for inputs, targets in batches(np.arange(1000), 40, sequence_length=7, batch_size=3, seed=1, stateful=stateful):
            assert (targets == inputs + 1).all()


def test_an_epoch_loses_nothing_at_window_borders():
    ids, length = np.arange(103), 10
    windows = -(-(len(ids) - 1) // length) + 1
    for epoch in range(4):
        seen = batches(ids, (epoch + 1) * windows, sequence_length=length, batch_size=1, seed=5)[epoch * windows :]
        assert set(np.concatenate([targets.ravel() for _, targets in seen]).tolist()) == set(range(1, 103))


def test_order_is_a_function_of_seed_and_step():
    settings = {"sequence_length": 8, "batch_size": 4}
    for stateful in (False, True):
        whole = batches(np.arange(2000), 300, seed=3, stateful=stateful, **settings)
        for start in (0, 1, 77, 250):
            rest = batches(np.arange(2000), 20, seed=3, stateful=stateful, start_step=start, **settings)
            assert all((one[0] == other[0]).all() for one, other in zip(whole[start:], rest, strict=False))
    other_seed = batches(np.arange(2000), 300, seed=4, **settings)
    whole = batches(np.arange(2000), 300, seed=3, **settings)
    assert sum((one[0] == other[0]).all() for one, other in zip(whole, other_seed, strict=True)) < 5


def test_epochs_differ_in_order_and_in_borders():
    ids, windows = np.arange(161), 17
    seen = [int(inputs[0, 0]) for inputs, _ in batches(ids, 3 * windows, sequence_length=10, batch_size=1, seed=0)]
    first, second, third = seen[:windows], seen[windows : 2 * windows], seen[2 * windows :]
    assert len({tuple(first), tuple(second), tuple(third)}) == 3
    assert len({tuple(sorted(epoch)) for epoch in (first, second, third)}) > 1


def test_stateful_windows_continue_each_other():
    steps = pipeline.stateful_steps(1000, 10, 4)
    seen = batches(np.arange(1000), 2 * steps, sequence_length=10, batch_size=4, seed=1, stateful=True)
    for epoch in range(2):
        for (inputs, _), (following, _) in zip(seen[epoch * steps :][:steps], seen[epoch * steps + 1 :][: steps - 1], strict=False):
            assert (following[:, 0] == inputs[:, -1] + 1).all()


def test_a_text_of_one_window_is_enough_and_a_shorter_one_is_not():
    (inputs, _targets), *_ = batches(np.arange(9), 1, sequence_length=8, batch_size=2)
    assert inputs.tolist() == [list(range(8))] * 2
    with pytest.raises(UserError, match="shorter than one window of 8"):
        batches(np.arange(8), 1, sequence_length=8, batch_size=2)
    with pytest.raises(UserError, match="too few for 4 rows of 8"):
        batches(np.arange(20), 1, sequence_length=8, batch_size=4, stateful=True)


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("total", [2, 9, 64, 65, 100, 131])
def test_evaluation_predicts_every_token_once(total, stateful):
    predicted = collections.Counter()
    for inputs, targets, weights in pipeline.evaluation_batches(np.arange(total), sequence_length=8, batch_size=4, stateful=stateful):
        assert ((targets == inputs + 1) | (weights == 0)).all()
        predicted.update(targets[weights > 0].tolist())
    assert predicted == dict.fromkeys(range(1, total), 1)


def test_a_real_corpus_passes_through(tmp_path):
    corpus = corpora.open_corpus("pydoc")
    tokenizer = CharacterTokenizer.fit(text for split, text in pipeline.split_texts(corpus, "hash") if split == "train")
    tokens = pipeline.encode(pipeline.split_texts(corpus, "hash"), tokenizer, tmp_path / "tokens")
    assert sum(part.characters for part in tokens.values()) == sum(map(len, corpus.documents()))
    assert tokens["train"].unknown == 0
