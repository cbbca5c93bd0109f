import json
import pathlib
import threading

import numpy as np
import pytest
import tensorflow as tf

from keras_lm import pipeline, shards
from keras_lm.errors import UserError
from keras_lm.shards import RECORD_TOKENS, ShardedIds, ShardWriter
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer


def written(folder, ids, dtype="uint16", shard_tokens=shards.SHARD_TOKENS):
    """The ids on disk: in shards that the arguments cut."""
    with ShardWriter(folder, "train", dtype, shard_tokens) as writer:
        for piece in np.array_split(ids, 7):
            writer.write(piece)
    return writer.shards, ShardedIds([(pathlib.Path(folder) / shard["file"], shard["tokens"]) for shard in writer.shards], dtype)


def random_ids(size, dtype="uint16"):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, size).astype(dtype)


def texts(count=400):
    return [(("train", "validation", "test")[number % 3], f"文 number {number}") for number in range(count)]


@pytest.fixture
def corpus(tmp_path):
    """A small tokenized corpus of three splits."""
    pipeline.encode(iter(texts()), ByteTokenizer(), tmp_path / "tokens")
    return tmp_path / "tokens"


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
@pytest.mark.parametrize("size", [0, 1, RECORD_TOKENS - 1, RECORD_TOKENS, RECORD_TOKENS + 1, 9 * RECORD_TOKENS + 5])
def test_shards_are_tfrecords_of_raw_ids(tmp_path, size, dtype):
    ids = random_ids(size, dtype)
    made, _ = written(tmp_path, ids, dtype, shard_tokens=2 * RECORD_TOKENS)
    dataset = tf.data.TFRecordDataset([str(tmp_path / shard["file"]) for shard in made])
    records = [tf.io.decode_raw(record, dtype).numpy() for record in dataset]
    assert np.array_equal(np.concatenate([ids[:0], *records]), ids)
    assert all(len(record) <= RECORD_TOKENS for record in records)
    assert [shard["tokens"] for shard in made] == [2 * RECORD_TOKENS] * (size // (2 * RECORD_TOKENS)) + [size % (2 * RECORD_TOKENS)] * (
        size % (2 * RECORD_TOKENS) > 0
    )
    for shard in made:
        assert shard["bytes"] == (tmp_path / shard["file"]).stat().st_size == shards.file_size(shard["tokens"], dtype)


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_any_slice_is_that_of_the_array(tmp_path, dtype):
    ids = random_ids(7 * RECORD_TOKENS + 123, dtype)
    _, stored = written(tmp_path, ids, dtype, shard_tokens=2 * RECORD_TOKENS)
    assert (len(stored), stored.shape, stored.dtype, len(stored.paths)) == (len(ids), ids.shape, ids.dtype, 4)
    borders = [place + off for place in range(0, len(ids) + RECORD_TOKENS, RECORD_TOKENS) for off in (-1, 0, 1)]
    for start in [None, *borders]:
        for stop in [None, *borders]:
            assert np.array_equal(stored[start:stop], ids[start:stop]), (start, stop)
    random = np.random.default_rng(1)
    for start, length in zip(random.integers(0, len(ids), 500), random.integers(0, 2 * RECORD_TOKENS, 500), strict=True):
        assert np.array_equal(stored[start : start + length], ids[start : start + length])
    for index in (0, -1, 5, RECORD_TOKENS, 2 * RECORD_TOKENS - 1, 2 * RECORD_TOKENS):
        assert stored[index] == ids[index]
    with pytest.raises(IndexError):
        stored[len(ids)]
    assert np.array_equal(np.asarray(stored, np.int64), ids)
    assert np.array_equal(stored[10:9000:17], ids[10:9000:17])


def test_many_threads_read_more_shards_than_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_OPEN_FILES", 2)
    ids = random_ids(8 * RECORD_TOKENS)
    _, stored = written(tmp_path, ids, shard_tokens=RECORD_TOKENS)
    wrong = []

    def read(seed):
        for start in np.random.default_rng(seed).integers(0, len(ids) - 300, 300):
            if not np.array_equal(stored[start : start + 300], ids[start : start + 300]):
                wrong.append(start)

    threads = [threading.Thread(target=read, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(stored._files) == 2


def test_batches_from_disk_are_those_from_memory(tmp_path):
    ids = random_ids(3 * RECORD_TOKENS + 77)
    _, stored = written(tmp_path, ids, shard_tokens=RECORD_TOKENS)
    for stateful in (False, True):
        settings = {"sequence_length": 50, "batch_size": 8, "seed": 3, "stateful": stateful}
        from_disk, from_memory = pipeline.training_batches(stored, **settings), pipeline.training_batches(ids, **settings)
        for one, other in zip(from_disk.take(60), from_memory.take(60), strict=True):
            assert np.array_equal(one, other)
    for one, other in zip(
        pipeline.evaluation_batches(stored, sequence_length=100, batch_size=4),
        pipeline.evaluation_batches(ids, sequence_length=100, batch_size=4),
        strict=True,
    ):
        assert all(map(np.array_equal, one, other))


def test_manifest_says_what_the_shards_hold(corpus):
    manifest = shards.read_manifest(corpus)
    assert (manifest["format"], manifest["dtype"], manifest["documents"], manifest["kind"]) == (1, "uint16", True, "byte")
    assert manifest["tokenizer"] == shards.fingerprint(ByteTokenizer())
    assert {path.name for path in corpus.iterdir()} == {"manifest.json"} | {
        shard["file"] for split in manifest["splits"].values() for shard in split["shards"]
    }
    for name, split in manifest["splits"].items():
        own = [text for split, text in texts() if split == name]
        assert split["documents"] == len(own)
        assert split["characters"] == sum(map(len, own))
        assert split["bytes"] == sum(len(text.encode()) for text in own)
        assert split["tokens"] == split["bytes"] + 2 * len(own) == sum(shard["tokens"] for shard in split["shards"])
        assert [shard["file"] for shard in split["shards"]] == [f"{name}-00000-of-00001.tfrecord"]
    seen = []
    shards.verify(corpus, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in corpus.glob("*.tfrecord"))
    assert shards.damaged(corpus) == []


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-1] if how == "cut" else data)


@pytest.mark.parametrize(
    ("how", "message"), [("missing", "is missing"), ("cut", "bytes, and the manifest says"), ("altered", "is altered")]
)
def test_a_damaged_shard_is_named(corpus, how, message):
    path = corpus / "validation-00000-of-00001.tfrecord"
    damage(path, how)
    with pytest.raises(UserError, match=message) as caught:
        shards.verify(corpus)
    assert path.name in str(caught.value)
    assert "has to be tokenized again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert shards.damaged(corpus) == [path.name]
    if how == "altered":
        wanted = json.loads((corpus / "manifest.json").read_text())["splits"]["validation"]["shards"][0]["checksum"]
        assert wanted[:16] in str(caught.value)
        assert shards.checksum(path)[:16] in str(caught.value)
        pipeline.load_tokens(corpus)  # sizes alone do not show it
    else:
        with pytest.raises(UserError, match=message):
            pipeline.load_tokens(corpus)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no tokenized corpus"),
        ("{", "manifest.json is damaged"),
        ("[]", "manifest.json is damaged"),
        ('{"format": 2}', "of a later release"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=message):
        pipeline.load_tokens(tmp_path)


def test_another_tokenizer_is_refused(corpus, tmp_path):
    shards.check_tokenizer(corpus, ByteTokenizer())
    for folder, tokenizer in ((tmp_path / "same", ByteTokenizer()), (tmp_path / "other", CharacterTokenizer("ab"))):
        folder.mkdir()
        tokenizer.save(folder)
    shards.check_tokenizer(corpus, tmp_path / "same")
    with pytest.raises(UserError, match=r"the tokenizer in .*other did not write the ids in .*tokens"):
        shards.check_tokenizer(corpus, tmp_path / "other")
    with pytest.raises(UserError, match="this tokenizer did not write"):
        shards.check_tokenizer(corpus, CharacterTokenizer("ab"))


def test_an_error_in_writing_leaves_no_folder(tmp_path):
    def broken():
        yield "train", "text"
        raise UserError("no more")

    with pytest.raises(UserError, match=r"^no more$"):
        pipeline.encode(broken(), ByteTokenizer(), tmp_path / "tokens")
    assert list(tmp_path.iterdir()) == []
