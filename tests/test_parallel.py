import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.evaluation import Evaluator, PairEvaluator
from keras_lm.parallel import PairIds, encode_pairs, load_pair_tokens, pair_batches, pair_evaluation_batches
from keras_lm.pipeline import Tokens
from keras_lm.seq2seq import rnn_seq2seq, transformer_seq2seq
from keras_lm.shards import SPLITS
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer

START, END = 2, 3
PAIRS = [
    ("train", "Hi.", "嗨。"),
    ("validation", "Run!", "跑！"),
    ("train", "Hi.", "你好。"),
    ("train", "It is a rather long sentence.", "😀"),
    ("test", "a", "一个"),
]


def made_up(number, longest=40, seed=0):
    """So many pairs of ids as `PairIds` reads them, of all lengths; the first id of each source is its number."""
    random = np.random.default_rng(seed)
    rows = []
    for pair in range(number):
        source, target = (random.integers(4, 50, size=random.integers(0, longest)).tolist() for _ in range(2))
        rows += [START, 100 + pair, *source, END, START, *target, END]
    return np.array(rows, np.int32)


def take(count, *args, **kwargs):
    """So many batches as NumPy arrays: sources, inputs, labels, weights."""
    batches = itertools.islice(pair_batches(*args, **kwargs), count)
    return [[part.numpy() for part in tf.nest.flatten(batch)] for batch in batches]


def assert_equal(batches, others):
    for one, other in zip(batches, others, strict=True):
        for part, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, same)


@pytest.mark.parametrize(
    "tokenizer", [ByteTokenizer(), CharacterTokenizer.fit(text for _, *pair in PAIRS for text in pair)], ids=["byte", "char"]
)
def test_pairs_come_back_as_they_were_written(tokenizer, tmp_path):
    tokens = encode_pairs(iter(PAIRS), tokenizer, tmp_path / "tokens")
    again = load_pair_tokens(tmp_path / "tokens")
    assert set(tokens) == set(again) == set(SPLITS)
    for split in SPLITS:
        expected = [pair for name, *pair in PAIRS if name == split]
        assert tokens[split].ids[:].tolist() == again[split].ids[:].tolist()
        pairs = PairIds(again[split].ids, longest=100)
        assert len(pairs) == len(expected) == again[split].documents
        written = []
        for source, target in (pairs[number] for number in range(len(pairs))):
            assert (source[-1], target[0], target[-1]) == (END, START, END)
            written.append([tokenizer.detokenize(tf.constant([ids]))[0].numpy().decode() for ids in (source[:-1], target[1:-1])])
        assert written == expected
        targets = "".join(target for _, target in expected)
        assert (again[split].characters, again[split].bytes) == (len(targets), len(targets.encode()))  # of targets alone
    assert json.loads((tmp_path / "tokens" / "targets.json").read_text())["test"] == {"characters": 2, "bytes": 6, "documents": 1}


def test_a_batch_holds_its_pairs():
    """Each source with its end, each target shifted by one; weights are alike and add up to 1."""
    pairs = PairIds(made_up(30), longest=64)
    for sources, inputs, labels, weights in take(12, pairs, batch_size=5):
        assert sources.shape == inputs.shape == labels.shape == weights.shape == (5, pairs.width(sources[:, 0] - 100))
        for row, number in enumerate(sources[:, 0] - 100):
            source, target = pairs[number]
            for padded, part in ((sources, source), (inputs, target[:-1]), (labels, target[1:])):
                assert padded[row, : len(part)].tolist() == part.tolist()
                assert not padded[row, len(part) :].any()
        np.testing.assert_array_equal(weights > 0, labels != 0)
        assert len(np.unique(weights[weights > 0])) == 1
        assert weights.sum() == pytest.approx(1, abs=1e-5)


def test_the_width_of_a_batch_is_a_power_of_two_or_halfway_or_the_longest():
    pairs = PairIds(made_up(30, longest=24), longest=20)
    widths = {sources.shape[1] for sources, *_ in take(30, pairs, batch_size=1)}
    assert widths == {8, 12, 16, 20}
    lengths = np.maximum(pairs.source_lengths, pairs.target_lengths)
    assert [pairs.width(np.array([number])) for number in range(30)] == [
        min(20, 8 if one <= 8 else 12 if one <= 12 else 16 if one <= 16 else 24) for one in lengths
    ]


def test_a_batch_depends_on_seed_and_step_alone():
    """A run that resumes at a step, in the middle of an epoch or of a later one, reads what the whole run read there."""
    pairs = PairIds(made_up(23), longest=64)
    whole = take(20, pairs, batch_size=4, seed=7)  # six steps an epoch
    assert_equal(take(20, pairs, batch_size=4, seed=7), whole)
    for start in (1, 6, 13):
        assert_equal(take(20 - start, pairs, batch_size=4, seed=7, start_step=start), whole[start:])
    order = lambda batches: [(sources[:, 0]).tolist() for sources, *_ in batches]
    assert order(whole[:6]) != order(whole[6:12])
    assert order(whole) != order(take(20, pairs, batch_size=4, seed=8))


@pytest.mark.parametrize(("number", "batch_size"), [(24, 4), (23, 4), (3, 8), (300, 2)])
def test_each_pair_comes_once_in_an_epoch(number, batch_size):
    """Where the last batch is not full, some come once more, and none twice more."""
    pairs, steps = PairIds(made_up(number), longest=64), -(-number // batch_size)
    for epoch in range(2):
        batches = take(steps, pairs, batch_size=batch_size, start_step=epoch * steps)
        seen = np.concatenate([sources[:, 0] - 100 for sources, *_ in batches])
        counts = np.bincount(seen, minlength=number)
        assert counts.min() == steps * batch_size // number
        assert counts.max() == -(-steps * batch_size // number)


def test_pairs_of_like_length_stand_together():
    pairs = PairIds(made_up(400), longest=64)
    lengths = np.maximum(pairs.source_lengths, pairs.target_lengths)
    spread = [np.ptp(lengths[sources[:, 0] - 100]) for sources, *_ in take(100, pairs, batch_size=4)]
    assert np.mean(spread) < 3 < np.ptp(lengths)


def test_rows_are_slices_of_the_whole_batch():
    """The width and the weights too, so that the losses of several processes add up to that of one."""
    pairs = PairIds(made_up(23), longest=64)
    whole = take(8, pairs, batch_size=6, seed=1, start_step=3)
    for first, end in ((0, 2), (2, 6), (5, 6)):
        part = take(8, pairs, batch_size=6, seed=1, start_step=3, rows=(first, end))
        assert_equal(part, [[array[first:end] for array in batch] for batch in whole])


def test_what_is_too_long_is_cut():
    """A cut source has no end, nor has a cut target; lengths are told as they were, and the weights know what is left."""
    ids = np.array([START, *range(10, 30), END, START, *range(30, 37), END, START, 4, END, START, *range(40, 60), END])
    pairs = PairIds(ids, longest=8)
    assert pairs.source_lengths.tolist() == [21, 2]
    assert pairs.target_lengths.tolist() == [8, 21]
    assert pairs.cut() == (1, 1)
    ((sources, inputs, labels, weights),) = take(1, pairs, batch_size=2)
    first = sources[:, 0].tolist().index(10)
    assert sources[first].tolist() == [*range(10, 18)]
    assert inputs[first].tolist() == [START, *range(30, 37)]
    assert labels[first].tolist() == [*range(30, 37), END]  # just as long as may be
    assert inputs[1 - first].tolist() == [START, *range(40, 47)]
    assert labels[1 - first].tolist() == [*range(40, 48)]
    np.testing.assert_allclose(weights, 1 / 16)
    assert PairIds(ids, longest=21).cut() == (0, 0)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_evaluation_asks_for_each_token_of_each_target_once(batch_size):
    pairs, seen = PairIds(made_up(13), longest=20), {}
    for (sources, inputs), (labels, weights) in pair_evaluation_batches(pairs, batch_size=batch_size):
        assert sources.shape == inputs.shape == labels.shape == weights.shape
        assert len(sources) == batch_size
        np.testing.assert_array_equal(weights, labels != 0)
        for source, given, wanted in zip(sources, inputs, labels, strict=True):
            if source.any():
                assert given[0] == START
                assert given[1:][wanted[1:] != 0].tolist() == wanted[:-1][wanted[1:] != 0].tolist()
                seen.setdefault(source[0] - 100, []).append(wanted[wanted != 0].tolist())
            else:
                assert not wanted.any()  # a row that fills the last batch
    assert seen == {number: [pairs[number][1][1:].tolist()] for number in range(13)}


def tokens_of(ids, **sizes):
    return Tokens(ids=ids, **{"characters": 100, "bytes": 200, "documents": 13, "unknown": 0, **sizes})


@pytest.mark.parametrize("build", [rnn_seq2seq, transformer_seq2seq])
def test_the_loss_is_that_of_a_full_pass_over_each_pair_alone(build):
    """In NumPy, without padding and without batches."""
    sizes = {"hidden_dim": 12} if build is rnn_seq2seq else {"context_length": 20, "num_layers": 1}
    model, ids = build(120, embedding_dim=16, **sizes), made_up(13)
    for variable in model.trainable_variables:
        variable.assign(variable + np.random.normal(0, 0.2, variable.shape))
    result = PairEvaluator(model, sequence_length=20, batch_size=4)(tokens_of(ids))
    pairs, total, count = PairIds(ids, longest=20), 0.0, 0
    for source, target in (pairs[number] for number in range(13)):
        logits = model([source[None], target[None, :-1]])[0].numpy().astype(np.float64)
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        total -= log_probabilities[np.arange(len(target) - 1), target[1:]].sum()
        count += len(target) - 1
    assert result.tokens == count
    assert result.loss == pytest.approx(total / count, rel=1e-5)
    assert result.perplexity == pytest.approx(np.exp(total / count), rel=1e-4)
    assert result.bits_per_character == pytest.approx(total / np.log(2) / 100, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(total / np.log(2) / 200, rel=1e-5)


def test_shares_of_several_processes_add_up():
    model, tokens = rnn_seq2seq(120, embedding_dim=8, hidden_dim=8), tokens_of(made_up(13))
    evaluator, told, sums = PairEvaluator(model, sequence_length=20, batch_size=2), [], []
    whole = evaluator(tokens, told.append)
    assert told == sorted(told) and told[-1] == whole.tokens
    for share in range(3):
        evaluator(tokens, share=(share, 3), combine=lambda values: sums.append(values) or values)
    loss, count = np.sum(sums, axis=0)
    assert (loss / count, count) == (pytest.approx(whole.loss, rel=1e-6), whole.tokens)
    assert isinstance(evaluator, Evaluator)
    with pytest.raises(UserError, match="the text to evaluate on is empty"):
        evaluator(tokens_of(np.zeros([0], np.int32)))
