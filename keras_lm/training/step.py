"""One update of the weights as one compiled function.

On one device XLA compiles all of it. Under a strategy it compiles what a replica does alone, forward and backward; sums over replicas,
clipping and the optimizer stay outside, where TensorFlow's engine has its own operations for them.

Dropout draws from numbers that are a function of the seed and the step, not from a state that moves on: what happened before a step, a
restart for instance, cannot change what it draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_lm.heads import summed_loss
from keras_lm.recurrent import run_model, run_stateful
from keras_lm.tracing import by_shape
from keras_lm.training.distribution import Distribution
from keras_lm.training.settings import TrainingSettings
from keras_lm.vae import kl_cost, kl_weight, with_posterior


class StepResult(NamedTuple):
    """What a step gives.

    Args:
        loss: Mean cross-entropy of the batch before the update, in nats a token, without penalties; `()` float32.
        gradient_norm: Global norm of the gradients before they were clipped; `()` float32.
        votes: The sum of what the workers passed as `vote`; `()` float32.
        states: Carried recurrent states after the window, by layer; empty unless stateful.
    """

    loss: tf.Tensor
    gradient_norm: tf.Tensor
    votes: tf.Tensor
    states: dict[str, list[tf.Tensor]]


def make_train_step(
    model: keras.Model,
    optimizer: keras.Optimizer,
    settings: TrainingSettings,
    *,
    jit_compile: bool,
    distribution: Distribution | None = None,
) -> Callable[..., StepResult]:
    """The update of `model` as a function.

    Args:
        model: From ids to logits.
        optimizer: Built for it.
        settings: Of which penalties, clipping, accumulation and the seed are used; of a VAE what its KL costs.
        jit_compile: Whether XLA compiles it.
        distribution: The devices; default one.

    Returns:
        `(inputs, targets, states={}, vote=0.0) -> StepResult`; `inputs` and `targets` are `(batch, time)` ids, or those of
        `keras_lm.parallel.pair_batches`, `keras_lm.label_batches` or `keras_lm.masking`; under a strategy as `Distribution.spread`
        gives them.
    """
    devices = distribution or Distribution()
    trained, drawn = model.trainable_variables, seed_states(model)
    parts, replicas = settings.accumulate, devices.num_replicas
    run = with_posterior(model) if settings.has_latent else model

    # Weights come in as tensors: a compiled function inside a replica does not know which replica's variable it would read.
    def gradients(weights: list, inputs: tf.Tensor, targets: tf.Tensor, states: dict, draw: tf.Tensor) -> tuple[list, tf.Tensor, dict]:
        seeds = [_seed(settings.seed, number, draw, variable.dtype) for number, variable in enumerate(drawn)]
        mapping = list(zip([*trained, *drawn], [*weights, *seeds], strict=True))
        with tf.GradientTape() as tape, keras.StatelessScope(state_mapping=mapping):
            tape.watch(weights)
            if settings.stateful:
                logits, states = run_stateful(model, inputs, states, training=True)
            else:
                logits = run_model(run, list(inputs) if isinstance(inputs, tuple) else inputs, training=True)
            if settings.has_latent:
                logits, posterior = logits
            if isinstance(targets, tuple):  # weights add up to 1 over the whole batch: divided below, so are the sums here
                labels, of_token = targets
                mean = lambda losses: tf.reduce_sum(losses * of_token) * (replicas * parts)
                loss = summed_loss(model, labels, logits, of_token) * (replicas * parts)
            else:
                mean, loss = tf.reduce_mean, tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
            penalty = tf.constant(0.0)
            if settings.label_smoothing:
                penalty += settings.label_smoothing * (mean(-tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)) - loss)
            if settings.has_latent:
                sentences = tf.reduce_max(of_token, axis=1) * (replicas * parts)
                rising = {"steps": settings.steps, "rising": settings.kl_steps, "cycles": settings.kl_cycles}
                penalty += kl_weight(draw // (replicas * parts), **rising) * kl_cost(posterior, sentences, settings.free_bits)
            matrices = [weight for weight in weights if len(weight.shape) > 1]
            if settings.l1:
                penalty += settings.l1 * tf.add_n([tf.reduce_sum(tf.abs(weight)) for weight in matrices])
            if settings.l2:
                penalty += settings.l2 * tf.add_n([tf.reduce_sum(tf.square(weight)) for weight in matrices])
            objective = (loss + penalty) / replicas
        return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(objective, weights)], loss / replicas, states

    def of_replica(weights: list, inputs: tf.Tensor, targets: tf.Tensor, states: dict, draw: tf.Tensor) -> tuple[list, tf.Tensor, dict]:
        if parts == 1:
            return gradients(weights, inputs, targets, states, draw)
        sums, losses, after = None, [], []
        for part in range(parts):
            cut = tf.nest.map_structure(lambda tensor, part=part: tf.split(tensor, parts)[part], (inputs, targets, states))
            new, part_loss, part_after = gradients(weights, *cut, draw * parts + part)
            sums = new if sums is None else [one + other for one, other in zip(sums, new, strict=True)]
            losses.append(part_loss)
            after.append(part_after)
        states = tf.nest.map_structure(lambda *tensors: tf.concat(tensors, axis=0), *after)
        return [gradient / parts for gradient in sums], tf.add_n(losses) / parts, states

    if devices.is_distributed:
        # Keras sums over replicas after clipping, which would clip each replica's part for itself. Here they are summed before.
        optimizer._all_reduce_sum_gradients = lambda pairs: pairs
    compiled = tf.function(of_replica, jit_compile=True, autograph=False) if jit_compile and devices.is_distributed else of_replica

    def replica_update(inputs: tf.Tensor, targets: tf.Tensor, states: dict, vote: tf.Tensor, step: tf.Tensor) -> StepResult:
        context = tf.distribute.get_replica_context()
        draw = step * replicas + tf.cast(context.replica_id_in_sync_group, step.dtype)
        weights = [tf.convert_to_tensor(variable.value) for variable in trained]
        found, loss, states = compiled(weights, inputs, targets, states, draw)
        if devices.is_distributed:
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, [loss, vote * devices.num_workers / replicas, *found])
            loss, vote, *found = total
        norm = tf.linalg.global_norm(found)
        if settings.clip_norm:
            scale = settings.clip_norm / tf.maximum(norm, settings.clip_norm)
            found = [gradient * scale for gradient in found]
        optimizer.apply(found, trained)
        return StepResult(loss, norm, vote, states)

    @tf.function(jit_compile=jit_compile and not devices.is_distributed, autograph=False)
    def update(inputs: Any, targets: Any, states: dict, vote: tf.Tensor) -> StepResult:
        step = tf.cast(optimizer.iterations.value, tf.int64)
        result = devices.strategy.run(replica_update, args=(inputs, targets, states, vote, step))
        if devices.is_distributed:  # the same on every replica
            result = StepResult(*(devices.strategy.experimental_local_results(value)[0] for value in result[:3]), {})
        return result

    called = update if devices.is_distributed else by_shape(update, compiled=jit_compile)

    def train_step(inputs: Any, targets: Any, states: dict | None = None, vote: float = 0.0) -> StepResult:
        return called(inputs, targets, states or {}, tf.constant(vote, tf.float32))

    return train_step


def use_xla(settings: TrainingSettings) -> bool:
    """Whether to compile: `auto` means yes, but for a recurrent model on a GPU, whose cuDNN kernels XLA cannot take."""
    if settings.xla != "auto":
        return settings.xla == "on"
    return settings.model == "transformer" or not tf.config.list_physical_devices("GPU")


def _seed(seed: int, number: int, draw: tf.Tensor, dtype: str) -> tf.Tensor:
    """The state of the `number`-th random layer at the `draw`-th draw of a run begun with `seed`."""
    return tf.stack([tf.constant((seed * 1_000_003 + number) % 2**31, dtype), tf.cast(draw, dtype)])


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """The states of the model's random layers, which a step gives values of its own."""
    return [variable for variable in model.non_trainable_variables if "seed_generator" in variable.path]
