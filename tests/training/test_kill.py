"""A real process, killed by SIGKILL at thirty random moments, ends with what the process has that was never killed."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.training.run import Run

KILLS = 30
FLAGS = [
    *(
        "--corpus",
        "text.txt",
        "--model",
        "gru",
        "--embedding-dim",
        "64",
        "--num-layers",
        "1",
        "--sequence-length",
        "8",
        "--batch-size",
        "4",
    ),
    *("--steps", "1200", "--evaluate-every", "60", "--checkpoint-every", "3", "--warmup-steps", "2", "--sample-tokens", "5"),
    *("--dropout", "0.2", "--ema", "0.9", "--patience", "100", "--xla", "off", "--resume"),
]
# Imports TensorFlow once and forks, before it has started a thread: a start then takes a second and not eight.
DRIVER = """
import os, pathlib, random, signal, sys, time
import keras, tensorflow
from keras_lm.cli import options, train
from keras_lm.export import saved_model
from keras_lm.training import loop, preparation

kills, out, flags = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[2:]
random.seed(kills)


def last(out):
    steps = [int(path.name[5:]) for path in out.glob("checkpoints/step-*")]
    return max(steps, default=0)


statuses = []
while True:
    child = os.fork()
    if not child:
        os._exit(options.run(lambda: train.train(["--out", *flags]), "keras_lm-train"))
    # Some are killed while they start, most after a few checkpoints, and many of those while something is being written.
    early, in_a_save, begin = random.random() < 0.2, random.random() < 0.5, time.monotonic()
    end, wanted, before = begin + random.uniform(0.0, 2.0), random.randint(0, 4), last(out)
    while len(statuses) < kills and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        saving = any(out.glob("checkpoints/.step-*")) or any(out.glob(".*-*"))
        due = time.monotonic() > end if early else last(out) - before > 3 * wanted
        if due and (saving or early or not in_a_save):
            os.kill(child, signal.SIGKILL)
            break
    _, status = os.waitpid(child, 0)
    statuses.append(status)
    if status == 0:
        break
    assert status == signal.SIGKILL, status
print(len(statuses) - 1, "kills")
"""


def tensors(run):
    last = max((run.folder / "checkpoints").iterdir(), key=lambda path: int(path.name.removeprefix("step-")))
    reader = tf.train.load_checkpoint(str(last / "state"))
    names = [name for name in reader.get_variable_to_shape_map() if "save_counter" not in name and "_CHECKPOINTABLE" not in name]
    return {name: reader.get_tensor(name) for name in names}


@pytest.mark.slow
def test_a_run_killed_thirty_times_ends_as_one_that_was_not(tmp_path):
    lines = [f"{number} times {other} is {number * other}" for number in range(20) for other in range(20)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    outputs = [
        subprocess.run([sys.executable, "-c", DRIVER, str(kills), out, *FLAGS], cwd=tmp_path, capture_output=True, text=True, check=False)
        for kills, out in ((0, "whole"), (KILLS, "killed"))
    ]
    for output in outputs:
        assert output.returncode == 0, output.stderr[-3000:]
    assert outputs[1].stdout.splitlines()[-1] == f"{KILLS} kills"
    whole, killed = Run.open(tmp_path / "whole"), Run.open(tmp_path / "killed")
    expected, got = tensors(whole), tensors(killed)
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    for one, other in zip(whole.load_model().get_weights(), killed.load_model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    timeless = lambda run: [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in run.read_metrics()]
    assert timeless(killed) == timeless(whole)
    assert [line["step"] for line in killed.read_metrics()] == list(range(60, 1201, 60))
    assert (killed.folder / "samples.txt").read_text() == (whole.folder / "samples.txt").read_text()
    names = lambda run: sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("*"))
    assert names(killed) == names(whole)  # nothing left of what the kills cut off
