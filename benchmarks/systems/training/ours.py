"""This library's training step, called as its loop calls it: batches from the pipeline, and no loss waited for before the next step."""

from __future__ import annotations

from pathlib import Path

from systems.keras_weights import assign_lstm, assign_transformer
from systems.training.batches import dataset
from systems.training.works import BETAS, CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, Work, initial_weights


def build_model(work: Work):
    """The model of `keras_lm` for this work, with the weights that all systems begin with."""
    import keras_lm

    if work.kind == "lstm":
        model = keras_lm.lstm_lm(
            work.vocabulary_size, embedding_dim=work.embedding_dim, hidden_dim=work.hidden_dim, num_layers=work.num_layers
        )
        assign_lstm(model, initial_weights(work))
        return model
    from keras_lm.layers import gelu_tanh

    model = keras_lm.transformer_lm(
        work.vocabulary_size,
        context_length=work.sequence_length,
        embedding_dim=work.embedding_dim,
        num_layers=work.num_layers,
        num_heads=work.num_heads,
        positions="learned",
        activation=gelu_tanh if work.activation == "gelu_tanh" else work.activation,
    )
    assign_transformer(model, initial_weights(work))
    return model


class Xla:
    """The step compiled by XLA."""

    jit_compile = True

    def __init__(self, work: Work, batches: Path, folder: Path):
        from keras_lm.training.optimizers import make_optimizer
        from keras_lm.training.settings import TrainingSettings
        from keras_lm.training.step import make_train_step

        settings = TrainingSettings(
            model=work.kind,
            sequence_length=work.sequence_length,
            batch_size=work.batch_size,
            learning_rate=LEARNING_RATE,
            schedule="constant",
            warmup_steps=0,
            beta_2=BETAS[1],
            weight_decay=WEIGHT_DECAY,
            clip_norm=CLIP_NORM,
        )
        model = build_model(work)
        self.step = make_train_step(model, make_optimizer(settings, model), settings, jit_compile=self.jit_compile)
        self.parameters = sum(variable.value.shape.num_elements() for variable in model.trainable_variables)
        self.batches = iter(dataset(work))

    def train(self, steps: int) -> float:
        losses = [self.step(*next(self.batches)).loss for _ in range(steps)]
        return sum(map(float, losses)) / steps


class Graph(Xla):
    """The step as a graph, which XLA leaves alone."""

    jit_compile = False
