import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_lm import pipeline
from keras_lm.errors import UserError
from keras_lm.input_service import served_batches, window_reader
from keras_lm.shards import RECORD_TOKENS, ShardedIds, ShardWriter

SERVICE = tf.data.experimental.service
WORKER = """
import sys, tensorflow as tf
service = tf.data.experimental.service
port, dispatcher = sys.argv[1:]
address = f"localhost:{port}"
server = service.WorkerServer(service.WorkerConfig(dispatcher_address=dispatcher, worker_address=address, port=int(port)))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module", params=["uint16", "int32"])
def ids(request, tmp_path_factory):
    """Ids in several shards, the first of them of several records, the last very short."""
    folder = tmp_path_factory.mktemp("ids")
    values = np.random.default_rng(0).integers(0, 60_000, 5 * RECORD_TOKENS + 3).astype(request.param)
    with ShardWriter(folder, "train", request.param, 2 * RECORD_TOKENS) as writer:
        writer.write(values)
    return ShardedIds([(pathlib.Path(folder) / shard["file"], shard["tokens"]) for shard in writer.shards], request.param), values


@pytest.mark.parametrize("span", [1, 2, 300, RECORD_TOKENS + 7, 3 * RECORD_TOKENS])
def test_windows_read_by_tensorflow_are_those_of_the_ids(ids, span):
    stored, values = ids
    window = tf.function(window_reader(stored, span), input_signature=[tf.TensorSpec([], tf.int64)])
    last = len(values) - span
    borders = [place + off for place in range(0, last, RECORD_TOKENS) for off in (-span, -span + 1, -1, 0, 1)]
    for start in {0, last, *(place for place in borders if 0 <= place <= last)}:
        assert np.array_equal(window(start), values[start : start + span])


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def service():
    """A dispatcher with two workers: one here, one in another process."""
    here, there = free_ports(2)
    dispatcher = SERVICE.DispatchServer(SERVICE.DispatcherConfig(worker_addresses=[f"localhost:{here}", f"localhost:{there}"]))
    address = dispatcher.target.split("://")[1]
    config = SERVICE.WorkerConfig(dispatcher_address=address, worker_address=f"localhost:{here}", port=here)
    worker = SERVICE.WorkerServer(config)
    command = [sys.executable, "-c", WORKER, str(there), address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"ready\n"
        yield dispatcher.target
        process.kill()
    worker._stop()
    dispatcher._stop()


@pytest.mark.parametrize("stateful", [False, True])
def test_a_service_gives_the_same_batches_in_the_same_order(service, ids, stateful):
    stored, values = ids
    settings = {"sequence_length": 40, "batch_size": 6, "seed": 3, "start_step": 17, "stateful": stateful}
    expected = list(pipeline.training_batches(values, **settings).take(15))
    for rows in (None, (1, 4)):
        first, end = rows or (0, 6)
        served = list(served_batches(stored, service=service, num_workers=2, rows=rows, **settings).take(15))
        for (inputs, targets), (served_inputs, served_targets) in zip(expected, served, strict=True):
            assert np.array_equal(inputs[first:end], served_inputs)
            assert np.array_equal(targets[first:end], served_targets)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_wrong_number_of_workers_gives_no_other_order(service, ids, num_workers):
    """Which worker comes first in a round is not known beforehand: the order is right by chance, or it is an error."""
    stored, values = ids
    settings = {"sequence_length": 40, "batch_size": 6}
    served = iter(served_batches(stored, service=service, num_workers=num_workers, **settings))
    for inputs, _ in pipeline.training_batches(values, **settings).take(12):
        try:
            served_inputs, _ = next(served)
        except tf.errors.InvalidArgumentError as error:
            assert "num_workers is not that of the service" in str(error)
            return
        assert np.array_equal(inputs, served_inputs)


def test_a_short_text_is_refused_before_anything_is_sent(ids):
    with pytest.raises(UserError, match="shorter than one window"):
        served_batches(ids[0], service="grpc://localhost:1", num_workers=1, sequence_length=1 << 20, batch_size=1)
