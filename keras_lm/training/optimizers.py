"""The optimizer of a run, its schedule included. Clipping is not in it: gradients are clipped after they are summed over replicas."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_lm.training.settings import TrainingSettings


def make_optimizer(settings: TrainingSettings, model: keras.Model) -> keras.Optimizer:
    """The optimizer of `settings`, built for `model` (article A2 §3, A3 §8).

    Args:
        settings: Name the optimizer, its learning rate, schedule, decay and the moving average of the weights.
        model: Its trainable variables are what is updated.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> optimizer = make_optimizer(TrainingSettings(model="gru", optimizer="sgd"), gru_lm(10, embedding_dim=4, hidden_dim=4))
    >>> type(optimizer).__name__
    'SGD'
    """
    rate = learning_rate(settings)
    average = {"use_ema": settings.ema > 0, "ema_momentum": settings.ema or 0.99}
    if settings.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay, beta_2=settings.beta_2, **average)
        # Biases, norms and other vectors are left alone: decay is for matrices.
        optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) < 2])
    elif settings.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, beta_2=settings.beta_2, **average)
    elif settings.optimizer == "rmsprop":
        optimizer = keras.optimizers.RMSprop(rate, momentum=settings.momentum, **average)
    else:
        optimizer = keras.optimizers.SGD(rate, momentum=settings.momentum, **average)
    optimizer.build(model.trainable_variables)
    return optimizer


def learning_rate(settings: TrainingSettings) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate of `settings` over the steps of a run."""
    warmup = min(settings.warmup_steps, settings.steps)
    if settings.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else settings.learning_rate,
            max(settings.steps - warmup, 1),
            alpha=0.1,
            warmup_target=settings.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    if warmup:
        return keras.optimizers.schedules.PolynomialDecay(0.0, warmup, settings.learning_rate)
    return settings.learning_rate


def averaged_weights(optimizer: keras.Optimizer) -> list[tf.Variable]:
    """The exponential moving averages of the trainable variables, in their order; for an optimizer with `use_ema`."""
    # Keras has no public name for them but the one that overwrites the model with them, which would end its training.
    return [variable.value for variable in optimizer._model_variables_moving_average]
