"""What a run will take: operations counted, energy read or said to be unavailable, all tasks."""

from __future__ import annotations

import dataclasses

import pytest
import tensorflow as tf
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from keras_lm import models
from keras_lm.training import energy, estimate
from keras_lm.training.flops import count_flops
from keras_lm.training.preparation import prepare
from keras_lm.training.settings import TrainingSettings


def test_as_many_operations_as_torch_counts_for_the_same_transformer():
    model = models.transformer_lm(120, context_length=24, embedding_dim=32, num_layers=2, num_heads=4)
    config = transformers.GPT2Config(vocab_size=120, n_positions=24, n_embd=32, n_layer=2, n_head=4, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        transformers.GPT2LMHeadModel(config)(torch.zeros([3, 24], dtype=torch.long))
    assert count_flops(model, tf.zeros([3, 24], tf.int32)) == counter.get_total_flops()


def test_loops_count_as_often_as_they_run():
    width, hidden, size = 8, 12, 50
    model = models.lstm_lm(size, embedding_dim=width, hidden_dim=hidden, num_layers=1)
    products = 2 * 4 * hidden * (width + hidden)
    counted = [count_flops(model, tf.zeros([2, time], tf.int32)) for time in (5, 6)]
    assert counted[1] - counted[0] == 2 * (products + 2 * hidden * size)


def test_gradients_take_twice_what_their_product_took():
    left, right = tf.Variable(tf.ones([4, 6])), tf.Variable(tf.ones([6, 5]))

    @tf.function(jit_compile=True)
    def gradients():
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.matmul(left, right) ** 2)
        return tape.gradient(total, [left, right])

    assert count_flops(gradients) == 3 * 2 * 4 * 6 * 5
    assert not tf.config.functions_run_eagerly()


def test_energy_is_read_where_the_machine_tells_it(tmp_path, monkeypatch):
    zeus = pytest.importorskip("zeus.device.cpu")
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "name").write_text("package-0\n")
    (package / "max_energy_range_uj").write_text("262143328850\n")
    (package / "energy_uj").write_text("1000000\n")
    monkeypatch.setattr(zeus.rapl, "RAPL_DIR", str(tmp_path))
    monkeypatch.setattr(zeus, "rapl_is_available", lambda: True)
    monkeypatch.setattr(zeus, "_cpus", None)
    monkeypatch.setattr(zeus.rapl, "rapl_is_available", lambda: True)
    taken = energy.measured(lambda: (package / "energy_uj").write_text("6500000\n"))
    assert taken.joules == pytest.approx(5.5) and taken.source.startswith("processors 6 J")


def test_energy_that_nobody_tells_is_not_made_up(monkeypatch):
    done = []
    monkeypatch.setattr(energy.importlib.util, "find_spec", lambda name: None)
    taken = energy.measured(lambda: done.append(1))
    assert done == [1] and taken.joules is None and 'pip install "keras_lm[energy]"' in taken.source


TASKS = {
    "masked": {"task": "masked", "model": "transformer"},
    "vae": {"task": "vae", "latent_dim": 4},
    "translation": {"task": "translation", "num_layers": 1},
    "tagging": {"task": "tagging"},
}


@pytest.mark.parametrize("task", TASKS)
def test_runs_of_every_task(task, tmp_path):
    lines = [f"{'abcdefgh'[number % 8 :]} {'hgfedcba'[number % 5 :]}" for number in range(400)]
    corpus = tmp_path / "corpus"
    shown = {
        "translation": lambda line: line.replace(" ", "\t"),
        "tagging": lambda line: " ".join(f"{word}/n" for word in line.split()),
    }.get(task, lambda line: line)
    corpus.write_text("\n".join(map(shown, dict.fromkeys(lines))) + "\n")
    sizes = {"embedding_dim": 8, "hidden_dim": 8, "sequence_length": 16, "batch_size": 2, "steps": 10, "vocabulary_size": 40, "xla": "off"}
    settings = TrainingSettings(**{"corpus": str(corpus), "model": "gru", **sizes, **TASKS[task], "out": str(tmp_path / "run")})
    run = prepare(settings)
    result = estimate.estimate(run, seconds=0.1)
    assert 0 < result.step_tokens <= settings.batch_size * settings.sequence_length
    assert result.step_flops > 0 and result.evaluation_seconds > 0 and result.step_seconds > 0
    text = estimate.report(run, dataclasses.replace(result, energy=energy.Energy(2.0, "processors 2 J")))
    assert "mJ a token, processors 2 J" in text and "the run     10 steps" in text
    assert not (run.folder / "model.keras").exists()
