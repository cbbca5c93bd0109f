"""Against one device: the same run over two logical devices, and over two and three processes that meet on 127.0.0.1."""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.training.cluster import Cluster
from keras_lm.training.distribution import Distribution, guarded
from keras_lm.training.run import Run

FLAGS = [
    *("--corpus", "text.txt", "--model", "gru", "--embedding-dim", "16", "--num-layers", "1", "--sequence-length", "8"),
    *("--batch-size", "12", "--steps", "12", "--evaluate-every", "5", "--checkpoint-every", "3", "--warmup-steps", "2"),
    *("--learning-rate", "0.01", "--clip-norm", "0.1", "--sample-tokens", "5"),
]
TRAIN = "import sys; from keras_lm.cli import options, train; sys.exit(options.run(lambda: train.train(None), 'keras_lm-train'))"
TWO_DEVICES = (
    "import tensorflow as tf; cpu = tf.config.list_physical_devices('CPU')[0]; "
    "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2); "
)


@pytest.fixture(autouse=True)
def _text(tmp_path):
    lines = [f"{number} times {other} is {number * other}" for number in range(20) for other in range(20)]
    (tmp_path / "text.txt").write_text("\n".join(lines))


def start(*flags, code=TRAIN, environment=None):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})}
    return subprocess.Popen(
        [sys.executable, "-c", code, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def train(*flags, **options):
    process = start(*FLAGS, *flags, **options)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output


def cluster(size):
    """`TF_CONFIG` for each of so many workers."""
    sockets = [socket.socket() for _ in range(size)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return [{"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}})} for i in range(size)]


def start_workers(size, *flags):
    return [start(*FLAGS, "--strategy", "multiworker", *flags, environment=environment) for environment in cluster(size)]


def finish(workers):
    results = [(worker.communicate(timeout=240), worker.returncode) for worker in workers]
    return [(status, errors) for (_, errors), status in results]


def wait_for_metrics(folder, lines, seconds=120):
    end = time.monotonic() + seconds
    path = f"{folder}/metrics.jsonl"
    while not os.path.exists(path) or len(open(path).readlines()) < lines:
        assert time.monotonic() < end, "the run made no progress"
        time.sleep(0.05)


def weights(folder):
    return Run.open(folder).load_model().get_weights()


def assert_close(folder, other):
    for one, two in zip(weights(folder), weights(other), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-6)


@pytest.mark.slow
def test_mirrored_over_two_devices_equals_one_device():
    train("--out", "one")
    train("--out", "two", "--strategy", "mirrored", code=TWO_DEVICES + TRAIN)
    assert_close("two", "one")
    one, two = (Run.open(folder).read_metrics() for folder in ("one", "two"))
    for line, other in zip(one, two, strict=True):
        assert line["val_loss"] == pytest.approx(other["val_loss"], abs=1e-6)
        assert line["gradient_norm"] == pytest.approx(other["gradient_norm"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_equal_one(size):
    train("--out", "one")
    for status, errors in finish(start_workers(size, "--out", "several")):
        assert status == 0, errors
    assert_close("several", "one")
    assert [line["step"] for line in Run.open("several").read_metrics()] == [5, 10, 12]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2])
def test_dropout_accumulation_averages_and_16_bits_under_a_strategy(size):
    flags = (
        "--dropout",
        "0.2",
        "--accumulate",
        "2",
        "--ema",
        "0.9",
        "--precision",
        "mixed_bfloat16",
        "--model",
        "transformer",
        "--num-heads",
        "2",
    )
    for status, errors in finish(start_workers(size, "--out", "several", *flags)):
        assert status == 0, errors
    losses = [line["val_loss"] for line in Run.open("several").read_metrics()]
    assert losses[-1] < losses[0] < 3.3


@pytest.mark.slow
def test_a_lost_worker_ends_the_others_with_one_line_and_all_resume_exactly():
    long = ("--steps", "60", "--evaluate-every", "20", "--dropout", "0.2")
    assert [status for status, _ in finish(start_workers(2, "--out", "whole", *long))] == [0, 0]
    workers = start_workers(2, "--out", "broken", *long)
    wait_for_metrics("broken", 1)
    workers[1].send_signal(signal.SIGKILL)
    (status, errors), _ = finish(workers)
    assert status == 2
    assert "keras_lm-train: another worker was lost at step" in errors.splitlines()[-1]
    assert errors.splitlines()[-1].endswith("start all of them again with --resume")
    assert [status for status, _ in finish(start_workers(2, "--out", "broken", "--resume", *long))] == [0, 0]
    for one, other in zip(weights("broken"), weights("whole"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_signal_to_one_worker_saves_and_ends_all():
    long = ("--steps", "2000", "--evaluate-every", "20", "--checkpoint-every", "1000")
    workers = start_workers(2, "--out", "stopped", *long)
    wait_for_metrics("stopped", 1)
    workers[1].send_signal(signal.SIGTERM)
    results = finish(workers)
    assert [status for status, _ in results] == [130, 130], results
    assert "saved; to go on:" in results[0][1]


@pytest.mark.parametrize("present", [0, 1])
def test_a_worker_that_never_comes_is_named(present):
    environment = cluster(2)[present]
    absent = Cluster.parse(environment["TF_CONFIG"]).workers[1 - present]
    with pytest.raises(UserError, match=rf"waited 2 s in vain for worker {1 - present} \({absent}\): start it"):
        Cluster.parse(environment["TF_CONFIG"]).meet(2.0)


def test_workers_meet_whoever_comes_first_and_a_stranger_is_not_counted():
    three = [Cluster.parse(environment["TF_CONFIG"]) for environment in cluster(3)]
    host, _, port = three[0].workers[0].rpartition(":")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(three[1].meet, 20.0)
        time.sleep(0.3)
        chief = pool.submit(three[0].meet, 20.0)
        time.sleep(0.3)
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        time.sleep(0.6)
        assert not chief.done() and not first.done()
        last = pool.submit(three[2].meet, 20.0)
        for each in (chief, first, last):
            assert each.result(timeout=20) is None


def test_an_address_that_is_taken_is_named():
    environment = cluster(2)[0]
    chief = Cluster.parse(environment["TF_CONFIG"])
    taken = socket.create_server(("", int(chief.workers[0].rpartition(":")[2])))
    with taken, pytest.raises(UserError, match="of this worker cannot be used: Address already in use"):
        chief.meet(2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold 'cluster' and 'task'"),
        ('{"cluster": {"worker": ["a:1"]}}', "must hold 'cluster' and 'task'"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}', "not 'ps'"),
        ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}', "must be a list of addresses"),
        ('{"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}', "must be a list of addresses"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}', "'a' is no address of the form host:port"),
        ('{"cluster": {"worker": ["a:99999"]}, "task": {"type": "worker", "index": 0}}', "is no address"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', "a:1 is named twice"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "index must be from 0 to 0 for worker, got 1"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}', "type must be one of worker, got 'chief'"),
        ('{"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}', "there can be one chief"),
    ],
)
def test_a_malformed_tf_config(text, message):
    with pytest.raises(UserError, match=message):
        Cluster.parse(text)


def test_a_chief_is_the_first_of_the_workers():
    config = {"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "task": {"type": "worker", "index": "1"}}
    cluster = Cluster.parse(json.dumps(config))
    assert cluster.workers == ("a:1", "b:1", "c:1")
    assert cluster.index == 2
    assert not cluster.is_chief


def test_no_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="needs the variable TF_CONFIG on every worker"):
        Distribution("multiworker")


def test_keras_distribution_is_refused_since_it_would_do_nothing(monkeypatch):
    monkeypatch.setattr(keras.distribution, "distribution", lambda: object())
    with pytest.raises(UserError, match=r"keras\.distribution does nothing on TensorFlow"):
        Distribution()


def test_a_batch_is_cut_evenly_or_refused():
    devices = Distribution("mirrored")
    assert devices.rows(12) == (0, 12)
    devices.__dict__["strategy"] = type("Three", (), {"num_replicas_in_sync": 3})()
    with pytest.raises(UserError, match=r"batch_size must be a multiple of the number of replicas \(3\), got 8"):
        devices.rows(8)


def test_no_tpu():
    with pytest.raises(UserError, match="no TPU was found"):
        Distribution("tpu")


def test_out_of_memory_says_what_to_make_smaller():
    with pytest.raises(UserError, match=r"out of memory at step 3 .*: lower --batch-size or --sequence-length, or .* --accumulate"):
        guarded(lambda: tf.zeros([1 << 42]), lambda: "at step 3")
