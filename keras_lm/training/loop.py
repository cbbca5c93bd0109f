"""The one training loop: settings in, a run folder out.

A step is one compiled function; between steps Python does nothing but count. The state after n steps is a function of the settings and
n alone: the order of the data and what dropout draws are functions of the seed and the step, everything else travels in the checkpoint.
So a run that was killed and resumed, however often, ends as the run that never was.

The loop itself is the same on one device and under TensorFlow's strategies. Every worker goes through it in step with the others; the
first of them alone writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm import heads, models, pipeline, plots, seq2seq, shards, tagged, vae
from keras_lm.embeddings.vectors import WordVectors, start_embedding
from keras_lm.errors import UserError
from keras_lm.evaluation import Evaluation
from keras_lm.files import replacing
from keras_lm.parallel import DocumentIds, PairIds
from keras_lm.recurrent import zero_states
from keras_lm.sentence_vectors import sentence_encoder
from keras_lm.token_names import word_names
from keras_lm.training.checkpoint import Checkpointer
from keras_lm.training.data import batches_of, make_evaluator, tokens_in
from keras_lm.training.distribution import Distribution, guarded
from keras_lm.training.optimizers import averaged_weights, make_optimizer
from keras_lm.training.progress import ProgressBar, TensorBoard
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings
from keras_lm.training.step import StepResult, make_train_step, use_xla
from keras_lm.tuning import tune


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; the run was saved at the step it had reached."""


def train(
    run: Run,
    *,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    distribution: Distribution | None = None,
) -> Evaluation:
    """Trains a prepared run to its end.

    Args:
        run: From `prepare`, or `Run.open` with `resume`.
        resume: Whether to go on from the last checkpoint; without one the run begins at step 0.
        callbacks: Keras callbacks; an «epoch» is the stretch between two evaluations, and its logs hold `loss`, `perplexity`,
            `gradient_norm`, `tokens_per_second`, `val_loss` and `val_perplexity`, of texts with labels `val_accuracy` and no perplexity.
            `callback.model` is the model.
        distribution: The devices; default what the settings name. Several workers have to be joined before TensorFlow is used at all:
            then make it first, and hand it to `prepare` as well.

    Returns:
        The validation result of the best model, which `model.keras` holds.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came to one of the workers, and the state was saved.
        UserError: no checkpoint that can be read, a loss that is no number, memory or disk full, a worker lost.
    """
    settings = run.settings
    if resume:
        run.check_version()
    training = _Training(run, callbacks, distribution or Distribution(settings.strategy, settings.worker_timeout))
    return guarded(lambda: training.run_to_end(resume), lambda: f"at step {training.step}")


def build_model(settings: TrainingSettings, vocabulary_size: int, classes: Sequence[str] = ()) -> keras.Model:
    """The model of `settings`, its weights drawn from their seed; `classes` are the names of the labels, where the task has them."""
    keras.utils.set_random_seed(settings.seed)
    default = keras.config.dtype_policy()
    keras.config.set_dtype_policy(settings.precision)
    try:
        arguments = settings.model_arguments()
        if settings.reads_labels:
            return _with_head(heads.text_body(settings.model, vocabulary_size, **arguments), settings, classes)
        if settings.task == "masked":
            return models.masked_lm(models.transformer_encoder(vocabulary_size, **arguments))
        if settings.has_latent:
            return vae.VAES[settings.model](vocabulary_size, **arguments)
        build = seq2seq.SEQ2SEQ[settings.model] if settings.reads_pairs else models.get(settings.model)
        return build(vocabulary_size, **arguments)
    finally:
        keras.config.set_dtype_policy(default)


def _with_head(body: keras.Model, settings: TrainingSettings, classes: Sequence[str]) -> keras.Model:
    if settings.task == "classification":
        return heads.classifier(body, len(classes), pooling=settings.pooling, dropout=settings.dropout, ngrams=settings.ngrams)
    if settings.task == "answering":
        return heads.answerer(body)
    if settings.task == "similarity":
        return sentence_encoder(body, pooling=settings.pooling, dropout=settings.dropout)
    never = {
        "forbidden": tagged.forbidden_transitions(classes),
        "forbidden_start": tagged.forbidden_starts(classes),
        "forbidden_end": tagged.forbidden_ends(classes),
    }
    return heads.tagger(body, len(classes), crf=settings.crf, **never)


def first_model(run: Run, settings: TrainingSettings | None = None) -> keras.Model:
    """The model that a run begins with: of its settings, drawn by their seed or with the weights of another run; or a checkpoint's.

    Args:
        run: A prepared run.
        settings: In place of the run's own.
    """
    settings = settings or run.settings
    if settings.pretrained is None:
        model = build_model(settings, run.load_tokenizer().vocabulary_size, run.load_labels() if settings.reads_labels else ())
        if settings.start_from and settings.reads_labels:
            heads.take_body(model, run.load_pretrained())
            tune(model, settings.tune, rank=settings.lora_rank)
        elif settings.start_from:
            model.set_weights(run.load_pretrained().get_weights())
        return model
    keras.utils.set_random_seed(settings.seed)
    if not settings.reads_labels:
        return run.load_pretrained()
    model = _with_head(run.load_pretrained(), settings, run.load_labels())
    tune(model, settings.tune, rank=settings.lora_rank)
    return model


class _Training:
    def __init__(self, run: Run, callbacks: Sequence[keras.callbacks.Callback], distribution: Distribution):
        self.run, self.settings, self.devices = run, run.settings, distribution
        settings = self.settings
        self.rows = distribution.rows(settings.batch_size)
        share = settings.batch_size // distribution.num_replicas
        if share % settings.accumulate:
            raise UserError(f"accumulate must divide the rows of a replica ({share}), got {settings.accumulate}")
        self.tokenizer = run.load_tokenizer()
        self.tokens = run.load_tokens()
        shards.check_tokenizer(run.tokens_folder, run.folder / "tokenizer")
        shards.verify(run.tokens_folder, _reporter())
        with distribution.strategy.scope():
            self.model = first_model(run)
            if settings.word_vectors:
                start_embedding(self.model, word_names(self.tokenizer), WordVectors.load(run.folder / "word_vectors.bin"))
            self.optimizer = make_optimizer(settings, self.model)
        # What is evaluated, sampled from and kept: a model of its own where the one that learns is spread over devices, computes in 16
        # bits, or is not the average that was asked for.
        self.result_is_copied = distribution.is_distributed or settings.ema > 0 or settings.precision != "float32"
        plain = dataclasses.replace(settings, precision="float32")
        self.result_model = first_model(run, plain) if self.result_is_copied else self.model
        jit_compile = use_xla(settings)
        self.states = zero_states(self.model, settings.batch_size) if settings.stateful else {}
        self.states = tf.nest.map_structure(lambda state: tf.Variable(state, trainable=False), self.states)
        self.counters = {
            "step": tf.Variable(0, dtype=tf.int64),
            "best_step": tf.Variable(0, dtype=tf.int64),
            "best_loss": tf.Variable(math.inf, dtype=tf.float64),
            "worse": tf.Variable(0, dtype=tf.int64),  # evaluations since the best
            "interval_steps": tf.Variable(0, dtype=tf.int64),  # steps since the last evaluation
            "interval_loss": tf.Variable(0.0, dtype=tf.float64),  # the sum of their losses
            "interval_norm": tf.Variable(0.0, dtype=tf.float64),  # and of their gradients' norms
        }
        self.checkpointer = Checkpointer(
            run.folder / "checkpoints",
            model=self.model,
            optimizer=self.optimizer,
            counters=self.counters,
            states=tf.nest.flatten(self.states),
            keep=settings.keep_checkpoints,
        )
        self.evaluator = make_evaluator(settings, self.result_model)
        self.generator = run.make_generator(self.result_model) if settings.writes else None
        self.train_step = make_train_step(self.model, self.optimizer, settings, jit_compile=jit_compile, distribution=distribution)
        own = [ProgressBar(settings.steps)] if distribution.is_chief else []
        if settings.tensorboard and distribution.is_chief:
            own.append(TensorBoard(run.folder / "tensorboard", lambda: self.step))
        self.callbacks = keras.callbacks.CallbackList([*own, *callbacks], model=self.model)
        self.step = 0
        self.best: Evaluation | None = None

    def run_to_end(self, resume: bool) -> Evaluation:
        settings = self.settings
        if resume and self.checkpointer.steps():  # a run killed before its first checkpoint begins anew
            self.checkpointer.restore()
        else:
            resume = False
        self.step = int(self.counters["step"].numpy())
        self._agree_on_step()
        if self.devices.is_chief:
            self.checkpointer.sweep(after=self.step)
            self.run.rewind(self.step)
        self.callbacks.set_params({"verbose": 1, "epochs": -(-settings.steps // settings.evaluate_every), "steps": settings.evaluate_every})
        self.callbacks.on_train_begin()
        with _signals() as stop_requested:
            if not resume:
                self._save(Interval())
            batches = batches_of(settings, self.tokens["train"], self.tokenizer, start_step=self.step, rows=self.rows)
            while self.step < settings.steps and not self._out_of_patience():
                self._interval(batches, stop_requested)
            if stop_requested():
                raise Interrupted
        self.callbacks.on_train_end()
        if self.best is None:  # of before this process
            (line,) = [line for line in self.run.read_metrics() if line["step"] == int(self.counters["best_step"].numpy())]
            result = self.evaluator.result_type
            self.best = result(**{name: line[f"val_{name}"] for name in result.__dataclass_fields__})
        return self.best

    def _agree_on_step(self) -> None:
        workers = self.devices.num_workers
        total, squares = self.devices.sum_over_workers([float(self.step), float(self.step) ** 2])
        if total != workers * self.step or squares != workers * self.step**2:
            raise UserError(
                f"the workers do not go on from the same step (here {self.step}): "
                f"the run folder {self.run.folder} must be one that all share"
            )

    def _interval(self, batches: Iterator, stop_requested: Callable[[], bool]) -> None:
        """Trains up to the next evaluation, and evaluates."""
        settings = self.settings
        epoch = self.step // settings.evaluate_every
        begin, end = epoch * settings.evaluate_every, min((epoch + 1) * settings.evaluate_every, settings.steps)
        self.callbacks.params["steps"] = end - begin
        self.callbacks.on_epoch_begin(epoch, {"step": self.step})
        sums = (self.counters[name].numpy().item() for name in ("interval_steps", "interval_loss", "interval_norm"))
        interval = Interval(*sums, of_tokens=not settings.reads_labels)
        pending: StepResult | None = None  # what the last step gave is looked at while the next one runs

        def settle() -> bool:
            nonlocal pending
            if pending is None:
                return False
            votes = interval.add(pending, self.step)
            pending = None
            self.callbacks.on_train_batch_end(self.step - begin - 1, interval.logs())
            return votes > 0

        while self.step < end:
            inputs, targets = next(batches)
            if settings.stateful:
                self._reset_states_at_epoch()
            states = tf.nest.map_structure(tf.convert_to_tensor, self.states)
            vote = float(stop_requested())
            result = self.train_step(self.devices.spread(inputs), self.devices.spread(targets), states, vote)
            tf.nest.map_structure(lambda variable, state: variable.assign(state), self.states, result.states)
            stop = settle()
            self.step += 1
            pending = result
            interval.tick(tokens_in(inputs, targets))
            if stop or (self.step % settings.checkpoint_every == 0 and self.step < end):
                stop = settle() or stop
                if self.step < end:
                    self._save(interval)
                    if stop:
                        raise Interrupted
        settle()
        logs = {**interval.logs(), "learning_rate": float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))}
        evaluation = self._evaluate(logs)
        judged = {f"val_{name}": getattr(evaluation, name) for name in ("loss", "perplexity", "accuracy") if hasattr(evaluation, name)}
        self.callbacks.on_epoch_end(epoch, {**logs, **judged})
        self._sample()
        self._save(Interval())

    def _evaluate(self, logs: dict[str, float]) -> Evaluation:
        if self.result_is_copied:
            sources = averaged_weights(self.optimizer) if self.settings.ema else [v.value for v in self.model.trainable_variables]
            for target, source in zip(self.result_model.trainable_variables, sources, strict=True):
                target.assign(tf.convert_to_tensor(source))
        devices = self.devices
        evaluation = self.evaluator(
            self.tokens["validation"], share=(devices.worker, devices.num_workers), combine=devices.sum_over_workers
        )
        check_finite(evaluation.loss, "loss on the validation split", self.step)
        better = evaluation.loss < float(self.counters["best_loss"].numpy())
        if devices.is_chief:
            values = {f"val_{name}": value for name, value in vars(evaluation).items()}
            self.run.append_metrics({"step": self.step, **logs, **values})
            if better:
                with replacing(self.run.folder / "model.keras") as temporary:
                    self.result_model.save(temporary)
            plots.learning_curves(self.run.read_metrics(), self.run.folder / "curves.png")
        if better:
            self.best = evaluation
            self.counters["best_loss"].assign(evaluation.loss)
            self.counters["best_step"].assign(self.step)
            self.counters["worse"].assign(0)
        else:
            self.counters["worse"].assign_add(1)
        return evaluation

    def _sample(self) -> None:
        if self.generator is None or not self.settings.sample_tokens or not self.devices.is_chief:
            return
        if self.settings.reads_pairs or self.settings.has_latent:
            prompt = self.settings.sample_prompt or self._first_source()
            result = self.generator.generate([prompt], max_new_tokens=self.settings.sample_tokens)[0]
            text = f"{prompt} → {result.text}"
        else:
            prompt = self.settings.sample_prompt
            text = prompt + self.generator.generate([prompt], max_new_tokens=self.settings.sample_tokens)[0].text
        self.run.append_sample(self.step, text)
        print(f"{text}\n", flush=True)

    def _first_source(self) -> str:
        ids = PairIds if self.settings.reads_pairs else DocumentIds
        source, _ = ids(self.tokens["validation"].ids, self.settings.sequence_length - 1)[0]  # an end token will follow
        return self.tokenizer.detokenize(tf.constant(source, tf.int32)[None])[0].numpy().decode()

    def _save(self, interval: Interval) -> None:
        self.counters["step"].assign(self.step)
        self.counters["interval_steps"].assign(interval.steps)
        self.counters["interval_loss"].assign(interval.loss)
        self.counters["interval_norm"].assign(interval.norm)
        if self.devices.is_chief:
            self.checkpointer.save(self.step)

    def _reset_states_at_epoch(self) -> None:
        settings = self.settings
        steps = pipeline.stateful_steps(len(self.tokens["train"].ids), settings.sequence_length, settings.batch_size)
        if self.step % steps == 0:
            tf.nest.map_structure(lambda variable: variable.assign(tf.zeros_like(variable)), self.states)

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= int(self.counters["worse"].numpy())


class Interval:
    """What is summed up between two evaluations; the loss is `of_tokens`, and has a perplexity, or of labels."""

    def __init__(self, steps: int = 0, loss: float = 0.0, norm: float = 0.0, *, of_tokens: bool = True):
        self.steps, self.loss, self.norm, self.of_tokens = steps, loss, norm, of_tokens
        self._clock: float | None = None  # starts after the first step of this process, which compiles
        self._timed = 0

    def add(self, result: StepResult, step: int) -> float:
        """Takes in what step number `step` gave; returns the votes for stopping.

        Raises:
            UserError: a loss or a gradient that is no number.
        """
        loss, norm = float(result.loss), float(result.gradient_norm)
        check_finite(loss, "loss", step)
        check_finite(norm, "gradient's norm", step)
        self.steps, self.loss, self.norm = self.steps + 1, self.loss + loss, self.norm + norm
        return float(result.votes)

    def tick(self, tokens: int) -> None:
        """Counts a step of so many tokens for the speed."""
        if self._clock is None:
            self._clock = time.perf_counter()
        else:
            self._timed += tokens

    def logs(self) -> dict[str, float]:
        """The means so far."""
        mean = self.loss / self.steps
        perplexity = {"perplexity": float(np.exp(min(mean, 700.0)))} if self.of_tokens else {}
        logs = {"loss": mean, **perplexity, "gradient_norm": self.norm / self.steps}
        if self._timed:
            logs["tokens_per_second"] = self._timed / (time.perf_counter() - self._clock)
        return logs


def _reporter() -> Callable[[int, int], None]:
    """Says every few seconds how far the shards of a large corpus have been checked."""
    spoken = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal spoken
        if time.monotonic() - spoken > 2:
            spoken = time.monotonic()
            print(f"checking the shards: {100 * done // total} % of {total / 1e6:,.0f} MB", file=sys.stderr, flush=True)

    return report


def check_finite(value: float, name: str, step: int) -> None:
    """Ends a run whose numbers have run away.

    Raises:
        UserError: `value` is infinite or no number.
    """
    if not math.isfinite(value):
        raise UserError(
            f"the {name} became {value} at step {step}: lower --learning-rate or --clip-norm, or raise --warmup-steps, and train anew "
            "(the last checkpoint and model.keras are of before)"
        )


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Turns Ctrl-C and SIGTERM into a flag that the loop reads between two steps; a second one acts at once."""
    requested = False
    previous: dict[int, object] = {}

    def handler(number: int, frame: object) -> None:
        nonlocal requested
        requested = True
        restore()

    def restore() -> None:
        for number, old in previous.items():
            signal.signal(number, old)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handler)
    try:
        yield lambda: requested
    finally:
        restore()
