"""A run on a corpus that was tokenized before: the same run, and what is refused."""

import socket

import pytest
import tensorflow as tf

from keras_lm.cli import options, train
from keras_lm.errors import UserError
from keras_lm.preparation.prepare import prepare as prepare_corpus
from keras_lm.preparation.settings import PreparationSettings
from keras_lm.training import loop
from keras_lm.training.preparation import prepare
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings

SMALL = {"model": "gru", "embedding_dim": 16, "num_layers": 1, "sequence_length": 8, "batch_size": 4, "steps": 6, "sample_tokens": 0}


@pytest.fixture(autouse=True)
def _corpus(tmp_path):
    lines = [f"{number} times {other} is {number * other}" for number in range(20) for other in range(20)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    prepare_corpus(PreparationSettings(corpus=("text.txt",), clean=("lower",), workers=1, shard_tokens=4096, out="data"))


def test_shards_made_before_train_to_the_same_weights():
    before = prepare(TrainingSettings(**SMALL, tokens="data", out="before"))
    assert loop.train(before) == loop.train(prepare(TrainingSettings(**SMALL, corpus="text.txt", clean=("lower",), out="now")))
    assert before.settings.clean == ("lower",) and before.settings.split == "hash"
    assert Run.open("before").settings == before.settings
    assert not (before.folder / "tokens").exists()


def test_an_altered_shard_is_named_and_training_does_not_start(tmp_path):
    run = prepare(TrainingSettings(**SMALL, tokens="data", out="run"))
    shard = sorted((tmp_path / "data").glob("train-*.tfrecord"))[1]
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=rf"{shard.name} is altered: .*keras_lm-prepare --out data --resume makes it again"):
        loop.train(run)
    shard.write_bytes(content[:-5])
    with pytest.raises(UserError, match=rf"{shard.name} has \d+ bytes, and the manifest says \d+"):
        loop.train(run)
    assert not (run.folder / "checkpoints").exists()


def test_a_tokenizer_that_did_not_write_the_shards_is_refused(tmp_path):
    run = prepare(TrainingSettings(**SMALL, tokens="data", out="run"))
    other = prepare(TrainingSettings(**SMALL, corpus="pydoc", out="other"))
    for path in (other.folder / "tokenizer").iterdir():
        (run.folder / "tokenizer" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="did not write the ids in data"):
        loop.train(run)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokens", "nowhere"], "nowhere holds no tokenized corpus"),
        (["--tokens", "data", "--corpus", "text.txt", "--clean", "nfkc"], "tokenized already: leave corpus, clean out"),
    ],
)
def test_what_the_command_refuses(capsys, flags, message):
    assert options.run(lambda: train.train(flags), "keras_lm-train") == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_tf_data_service_gives_the_same_run():
    service = tf.data.experimental.service
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=0, worker_addresses=[f"localhost:{port}"]))
    address = dispatcher.target.removeprefix("grpc://")
    worker = service.WorkerServer(service.WorkerConfig(dispatcher_address=address, worker_address=f"localhost:{port}", port=port))
    served = loop.train(prepare(TrainingSettings(**SMALL, tokens="data", data_service=dispatcher.target, out="served")))
    assert served == loop.train(prepare(TrainingSettings(**SMALL, tokens="data", out="own")))
    worker._stop()
    dispatcher._stop()
