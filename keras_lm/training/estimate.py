"""What a run will take, before it is begun: parameters, memory and time, from a few real steps on its own text."""

from __future__ import annotations

import dataclasses
import resource
import sys
import time

import keras
import tensorflow as tf

from keras_lm.recurrent import zero_states
from keras_lm.training.data import batches_of, make_evaluator
from keras_lm.training.loop import first_model
from keras_lm.training.optimizers import make_optimizer
from keras_lm.training.progress import duration
from keras_lm.training.run import Run
from keras_lm.training.step import make_train_step, use_xla


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What was measured and counted.

    Args:
        parameters: Trainable numbers, by what they are: `embedding`, `matrices`, `vectors`.
        weight_bytes: Of the weights; the gradients take as much.
        optimizer_bytes: Of the optimizer's state.
        peak_bytes: The most memory that this process has had, TensorFlow itself included.
        first_step_seconds: With compiling.
        step_seconds: Median of those after it.
        evaluation_seconds: One pass over the validation split.
        tokens: Of the training split.
    """

    parameters: dict[str, int]
    weight_bytes: int
    optimizer_bytes: int
    peak_bytes: int
    first_step_seconds: float
    step_seconds: float
    evaluation_seconds: float
    tokens: int


def estimate(run: Run, *, seconds: float = 3.0) -> Estimate:
    """Makes a few steps of a prepared run on one device, writes nothing.

    Args:
        run: From `prepare`.
        seconds: How long to measure steps.
    """
    settings = run.settings
    tokens = run.load_tokens()
    model = first_model(run)
    optimizer = make_optimizer(settings, model)
    step = make_train_step(model, optimizer, settings, jit_compile=use_xla(settings))
    states = zero_states(model, settings.batch_size) if settings.stateful else {}
    batches = batches_of(settings, tokens["train"], run.load_tokenizer())
    times: list[float] = []
    while len(times) < 3 or (sum(times[1:]) < seconds and len(times) < 100):
        begin = time.perf_counter()
        float(step(*next(batches), states).loss)
        times.append(time.perf_counter() - begin)
    # The first batch compiles; the part of the split that is read after it says how long all of it takes.
    evaluator = make_evaluator(settings, model)
    part = dataclasses.replace(tokens["validation"], ids=tokens["validation"].ids[: 8 * settings.sequence_length * settings.batch_size + 1])
    evaluator(dataclasses.replace(part, ids=part.ids[:2]))
    begin = time.perf_counter()
    evaluator(part)
    evaluation = (time.perf_counter() - begin) * len(tokens["validation"].ids) / len(part.ids)
    return Estimate(
        parameters=parameters(model),
        weight_bytes=_bytes(model.variables),
        optimizer_bytes=_bytes(optimizer.variables),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        first_step_seconds=times[0],
        step_seconds=sorted(times[1:])[len(times) // 2 - 1],
        evaluation_seconds=evaluation,
        tokens=len(tokens["train"].ids),
    )


def parameters(model: keras.Model) -> dict[str, int]:
    """The trainable numbers of a model, by what they are: `embedding`, `matrices`, `vectors`."""
    counts = {"embedding": 0, "matrices": 0, "vectors": 0}
    for variable in model.trainable_variables:
        kind = "embedding" if "embedding" in variable.path else "matrices" if len(variable.shape) > 1 else "vectors"
        counts[kind] += int(tf.size(variable.value))
    return counts


def _bytes(variables: list[keras.Variable]) -> int:
    return sum(int(tf.size(variable.value)) * variable.value.dtype.size for variable in variables)


def report(run: Run, result: Estimate) -> str:
    """The estimate in words."""
    settings, total = run.settings, sum(result.parameters.values())
    evaluations = -(-settings.steps // settings.evaluate_every)
    seen = settings.steps * settings.batch_size * settings.sequence_length
    training, evaluating = settings.steps * result.step_seconds, evaluations * result.evaluation_seconds
    parts = ", ".join(f"{name} {count:,}" for name, count in result.parameters.items() if count)
    rate = settings.batch_size * settings.sequence_length / result.step_seconds
    return "\n".join(
        [
            f"model       {settings.model}, {total:,} parameters ({parts})",
            f"text        {result.tokens:,} tokens; the run reads {seen:,}: {seen / result.tokens:.2f} times all, "
            f"{seen / total:.1f} a parameter",
            f"memory      weights {_size(result.weight_bytes)}, gradients as much, optimizer {_size(result.optimizer_bytes)}; "
            f"the process took {_size(result.peak_bytes)} at its most",
            f"a step      {1000 * result.step_seconds:.1f} ms, {rate:,.0f} tokens/s; the first takes {result.first_step_seconds:.1f} s, "
            "since it is compiled",
            f"the run     {settings.steps:,} steps {duration(training)}, {evaluations} evaluations {duration(evaluating)}: about "
            f"{duration(training + evaluating + result.first_step_seconds)}, samples not counted",
        ]
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
