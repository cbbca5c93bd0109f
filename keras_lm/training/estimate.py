"""What a run will take, before it is begun: parameters, memory and time, from a few real steps on its own text."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from keras_lm.label_batches import FORMS
from keras_lm.pipeline import Tokens
from keras_lm.recurrent import zero_states
from keras_lm.training.data import batches_of, make_evaluator, tokens_in
from keras_lm.training.energy import Energy, measured
from keras_lm.training.flops import count_flops
from keras_lm.training.loop import first_model
from keras_lm.training.optimizers import make_optimizer
from keras_lm.training.progress import duration
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings
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
        step_seconds: Mean of steps that need no compiling.
        step_tokens: Mean of the tokens of such a step, padding not counted; of texts with labels those that are read, else those asked for.
        step_flops: Floating-point operations of one step's products of matrices, forward and backward; the mean, too.
        evaluation_seconds: One pass over the validation split.
        tokens: Of the training split.
        energy: Of the steps that were measured.
        measured_tokens: Of these steps.
    """

    parameters: dict[str, int]
    weight_bytes: int
    optimizer_bytes: int
    peak_bytes: int
    first_step_seconds: float
    step_seconds: float
    step_tokens: float
    step_flops: float
    evaluation_seconds: float
    tokens: int
    energy: Energy
    measured_tokens: int


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
    # Batches of texts come in some widths. Each is compiled here, and then the same batches are measured.
    batches = list(itertools.islice(batches_of(settings, tokens["train"], run.load_tokenizer()), _BATCHES))
    begin = time.perf_counter()
    float(step(*batches[0], states).loss)
    first_step = time.perf_counter() - begin
    for batch in batches[1:]:
        float(step(*batch, states).loss)
    times: list[float] = []

    def work() -> None:
        while len(times) < _BATCHES or (sum(times) < seconds and len(times) < 100):
            for batch in batches:
                begin = time.perf_counter()
                float(step(*batch, states).loss)
                times.append(time.perf_counter() - begin)

    energy = measured(work)
    step_tokens = sum(tokens_in(*batch) for batch in batches) / _BATCHES
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    counted = make_train_step(model, optimizer, settings, jit_compile=False)
    of_each_shape = {_shapes(batch): batch for batch in batches}
    flops = {shapes: count_flops(counted, *batch, states) for shapes, batch in of_each_shape.items()}
    evaluator = make_evaluator(settings, model)
    part, share = _beginning(tokens["validation"], settings)
    evaluator(part)  # compiles
    begin = time.perf_counter()
    evaluator(part)
    return Estimate(
        parameters=parameters(model),
        weight_bytes=_bytes(model.variables),
        optimizer_bytes=_bytes(optimizer.variables),
        peak_bytes=peak,
        first_step_seconds=first_step,
        step_seconds=sum(times) / len(times),
        step_tokens=step_tokens,
        step_flops=sum(flops[_shapes(batch)] for batch in batches) / _BATCHES,
        evaluation_seconds=(time.perf_counter() - begin) / share,
        tokens=len(tokens["train"].ids),
        energy=energy,
        measured_tokens=round(step_tokens * len(times)),
    )


def _shapes(batch: tuple) -> tuple:
    return tuple(tuple(part.shape) for part in tf.nest.flatten(batch))


def _beginning(tokens: Tokens, settings: TrainingSettings) -> tuple[Tokens, float]:
    """Eight batches of a split, and the share of it that they are."""
    if not (settings.reads_pairs or settings.reads_labels or settings.reads_documents):
        ids = tokens.ids[: _BATCHES * settings.sequence_length * settings.batch_size + 1]
        return dataclasses.replace(tokens, ids=ids), len(ids) / len(tokens.ids)
    each = FORMS[tokens.form] if settings.reads_labels else 2 if settings.reads_pairs else 1  # documents a text
    ids = np.asarray(tokens.ids)
    starts = np.append(np.flatnonzero(ids == ids[:1]), len(ids))
    texts = min(_BATCHES * settings.batch_size, (len(starts) - 1) // each)
    part = {"ids": tokens.ids[: starts[texts * each]]}
    if settings.reads_labels:
        part |= {"labels": tokens.labels[: tokens.ends[texts - 1]], "ends": tokens.ends[:texts]}
    return dataclasses.replace(tokens, **part), texts * each / (len(starts) - 1)


_BATCHES = 8


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
    seen = settings.steps * result.step_tokens
    training, evaluating = settings.steps * result.step_seconds, evaluations * result.evaluation_seconds
    parts = ", ".join(f"{name} {count:,}" for name, count in result.parameters.items() if count)
    rate, flops = result.step_tokens / result.step_seconds, result.step_flops / result.step_tokens
    joules = result.energy.joules
    of_token = "" if joules is None else f"{1000 * joules / result.measured_tokens:.3g} mJ a token, "
    return "\n".join(
        [
            f"model       {settings.model}, {total:,} parameters ({parts})",
            f"text        {result.tokens:,} tokens; the run reads {seen:,.0f}: {seen / result.tokens:.2f} times all, "
            f"{seen / total:.1f} a parameter",
            f"memory      weights {_size(result.weight_bytes)}, gradients as much, optimizer {_size(result.optimizer_bytes)}; "
            f"the process took {_size(result.peak_bytes)} at its most",
            f"arithmetic  {flops:,.0f} floating-point operations a token, forward and backward; "
            f"{result.step_flops / result.step_seconds / 1e9:.1f} thousand million a second",
            f"a step      {1000 * result.step_seconds:.1f} ms, {rate:,.0f} tokens/s; the first takes {result.first_step_seconds:.1f} s, "
            "since it is compiled",
            f"energy      {of_token}{result.energy.source}",
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
