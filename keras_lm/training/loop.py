"""The one training loop: settings in, a run folder out.

A step is one compiled function; between steps Python does nothing but count. The state after n steps is a function of the settings and
n alone: the order of the data comes from `keras_lm.pipeline`, dropout's seeds travel in the checkpoint, so a resumed run ends as the run
that was never stopped.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm import corpora, models, pipeline, plots, tokenizers
from keras_lm.errors import UserError
from keras_lm.evaluation import Evaluation, Evaluator
from keras_lm.files import replacing
from keras_lm.generation.text import TextGenerator
from keras_lm.training.checkpoint import Checkpointer
from keras_lm.training.progress import ProgressBar
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; the run was saved at the step it had reached."""


def prepare(settings: TrainingSettings) -> Run:
    """Reads the corpus, learns the tokenizer, writes the ids: everything before the first step.

    Args:
        settings: Of the new run.

    Returns:
        The run, its folder made.

    Raises:
        UserError: a corpus, tokenizer or folder that cannot be used.
    """
    corpus = corpora.open_corpus(settings.corpus, document=settings.document, errors=settings.errors, data_dir=settings.data_dir)

    def fill(folder: pathlib.Path) -> None:
        say = lambda text: print(text, file=sys.stderr, flush=True)
        say(f"reading {corpus.name}, learning a {settings.tokenizer} vocabulary ...")
        texts = (text for split, text in pipeline.split_texts(corpus, settings.split, settings.clean) if split == "train")
        tokenizer = tokenizers.get(settings.tokenizer).fit(texts, settings.vocabulary_size)
        tokenizer.save(folder / "tokenizer")
        pairs = pipeline.split_texts(corpus, settings.split, settings.clean)
        tokens = pipeline.encode(pairs, tokenizer, folder / "tokens", documents=settings.documents)
        _check_sizes(tokens, settings, corpus.name)
        train, validation = tokens["train"], tokens["validation"]
        say(
            f"{tokenizer.vocabulary_size:,} tokens in the vocabulary; {len(train.ids):,} to train on "
            f"({train.characters:,} characters), {len(validation.ids):,} to validate"
        )

    return Run.create(settings, fill)


def _check_sizes(tokens: dict[str, pipeline.Tokens], settings: TrainingSettings, name: str) -> None:
    characters = sum(part.characters for part in tokens.values())
    if characters < 2:
        raise UserError(f"the corpus {name} has {characters} characters: a language model needs text")
    train = len(tokens["train"].ids)
    if train < settings.sequence_length + 1:
        raise UserError(
            f"the training part of {name} has {train} tokens, shorter than one window of {settings.sequence_length} and its target: "
            "give more text or a smaller --sequence-length"
        )
    if settings.stateful:
        pipeline.stateful_steps(train, settings.sequence_length, settings.batch_size)
    if len(tokens["validation"].ids) < 2:
        documents = sum(part.documents for part in tokens.values())
        hint = "" if settings.split == "contiguous" else ": --split contiguous holds out the end of the text instead"
        raise UserError(f"no text of {name} ({documents} documents) falls into the validation split{hint}")


def train(run: Run, *, resume: bool = False, callbacks: Sequence[keras.callbacks.Callback] = ()) -> Evaluation:
    """Trains a prepared run to its end.

    Args:
        run: From `prepare`, or `Run.open` with `resume`.
        resume: Whether to go on from the last checkpoint.
        callbacks: Keras callbacks; an «epoch» is the stretch between two evaluations, and its logs hold `loss`, `perplexity`,
            `tokens_per_second`, `val_loss` and `val_perplexity`. `callback.model` is the model.

    Returns:
        The validation result of the best model, which `model.keras` holds.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came, and the state was saved.
        UserError: nothing to resume.
    """
    return _Training(run, callbacks).run_to_end(resume)


class _Training:
    def __init__(self, run: Run, callbacks: Sequence[keras.callbacks.Callback]):
        self.run, self.settings = run, run.settings
        settings = self.settings
        keras.utils.set_random_seed(settings.seed)
        self.tokenizer = run.load_tokenizer()
        self.tokens = run.load_tokens()
        self.model = models.get(settings.model)(self.tokenizer.vocabulary_size, **settings.model_arguments())
        self.optimizer = make_optimizer(settings, self.model)
        self.jit_compile = use_xla(settings)
        self.states = models.zero_states(self.model, settings.batch_size) if settings.stateful else {}
        self.states = tf.nest.map_structure(lambda state: tf.Variable(state, trainable=False), self.states)
        self.counters = {
            "step": tf.Variable(0, dtype=tf.int64),
            "best_step": tf.Variable(0, dtype=tf.int64),
            "best_loss": tf.Variable(math.inf, dtype=tf.float64),
            "worse": tf.Variable(0, dtype=tf.int64),  # evaluations since the best
            "interval_steps": tf.Variable(0, dtype=tf.int64),  # steps since the last evaluation
            "interval_loss": tf.Variable(0.0, dtype=tf.float64),  # and the sum of their losses
        }
        self.checkpointer = Checkpointer(
            run.folder / "checkpoints",
            model=self.model,
            optimizer=self.optimizer,
            counters=self.counters,
            states=tf.nest.flatten(self.states),
            keep=settings.keep_checkpoints,
        )
        self.evaluator = Evaluator(
            self.model,
            sequence_length=settings.sequence_length,
            batch_size=settings.batch_size,
            stateful=settings.stateful,
            jit_compile=self.jit_compile,
        )
        self.generator = TextGenerator(self.model, self.tokenizer, clean=settings.clean, documents=settings.documents)
        self.train_step = make_train_step(self.model, self.optimizer, settings, jit_compile=self.jit_compile)
        self.callbacks = keras.callbacks.CallbackList([ProgressBar(), *callbacks], model=self.model)

    def run_to_end(self, resume: bool) -> Evaluation:
        settings = self.settings
        if resume:
            self.checkpointer.restore()
        step = int(self.counters["step"].numpy())
        self.run.rewind(step)
        batches = iter(
            pipeline.training_batches(
                self.tokens["train"].ids,
                sequence_length=settings.sequence_length,
                batch_size=settings.batch_size,
                seed=settings.seed,
                start_step=step,
                stateful=settings.stateful,
            )
        )
        self.callbacks.set_params({"verbose": 1, "epochs": -(-settings.steps // settings.evaluate_every), "steps": settings.evaluate_every})
        self.callbacks.on_train_begin()
        with _signals() as stop_requested:
            if not resume:
                self.checkpointer.save(step)
            while step < settings.steps and not self._out_of_patience():
                step = self._interval(step, batches, stop_requested)
            if stop_requested():
                raise Interrupted
        self.callbacks.on_train_end()
        (best,) = [line for line in self.run.read_metrics() if line["step"] == int(self.counters["best_step"].numpy())]
        return Evaluation(**{name: best[f"val_{name}"] for name in Evaluation.__dataclass_fields__})

    def _interval(self, step: int, batches: Iterator, stop_requested: Callable[[], bool]) -> int:
        """Trains up to the next evaluation, evaluates, and returns the step reached."""
        settings = self.settings
        epoch = step // settings.evaluate_every
        end = min((epoch + 1) * settings.evaluate_every, settings.steps)
        self.callbacks.params["steps"] = end - epoch * settings.evaluate_every
        self.callbacks.on_epoch_begin(epoch)
        total, count = float(self.counters["interval_loss"].numpy()), int(self.counters["interval_steps"].numpy())
        clock: float | None = None  # starts after the first step, which compiles
        timed = 0
        logs: dict[str, float] = {}
        while step < end:
            if stop_requested():
                self._save(step, total, count)
                raise Interrupted
            inputs, targets = next(batches)
            if settings.stateful:
                self._reset_states_at_epoch(step)
            loss, states = self.train_step(inputs, targets, tf.nest.map_structure(tf.convert_to_tensor, self.states))
            tf.nest.map_structure(lambda variable, state: variable.assign(state), self.states, states)
            step += 1
            loss = float(loss)
            _check_finite(loss, step)
            total, count = total + loss, count + 1
            now = time.perf_counter()
            if clock is None:
                clock = now
            else:
                timed += inputs.shape[0] * inputs.shape[1]
            logs = {"loss": total / count, "perplexity": _exp(total / count)}
            if timed:
                logs["tokens_per_second"] = timed / (now - clock)
            self.callbacks.on_train_batch_end(step - epoch * settings.evaluate_every - 1, logs)
            if step % settings.checkpoint_every == 0 and step < end:
                self._save(step, total, count)
        evaluation = self._evaluate(step, logs)
        self.callbacks.on_epoch_end(epoch, {**logs, "val_loss": evaluation.loss, "val_perplexity": evaluation.perplexity})
        self._sample(step)
        self._save(step, 0.0, 0)
        return step

    def _evaluate(self, step: int, logs: dict[str, float]) -> Evaluation:
        evaluation = self.evaluator(self.tokens["validation"])
        _check_finite(evaluation.loss, step)
        values = {f"val_{name}": value for name, value in vars(evaluation).items()}
        rate = float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))
        self.run.append_metrics({"step": step, **logs, "learning_rate": rate, **values})
        if evaluation.loss < float(self.counters["best_loss"].numpy()):
            with replacing(self.run.folder / "model.keras") as temporary:
                self.model.save(temporary)
            self.counters["best_loss"].assign(evaluation.loss)
            self.counters["best_step"].assign(step)
            self.counters["worse"].assign(0)
        else:
            self.counters["worse"].assign_add(1)
        plots.learning_curves(self.run.read_metrics(), self.run.folder / "curves.png")
        return evaluation

    def _sample(self, step: int) -> None:
        if not self.settings.sample_tokens:
            return
        prompt = self.settings.sample_prompt
        result = self.generator.generate([prompt], max_new_tokens=self.settings.sample_tokens)[0]
        self.run.append_sample(step, prompt + result.text)
        print(f"{prompt}{result.text}\n", flush=True)

    def _save(self, step: int, interval_loss: float, interval_steps: int) -> None:
        self.counters["step"].assign(step)
        self.counters["interval_loss"].assign(interval_loss)
        self.counters["interval_steps"].assign(interval_steps)
        self.checkpointer.save(step)

    def _reset_states_at_epoch(self, step: int) -> None:
        settings = self.settings
        steps = pipeline.stateful_steps(len(self.tokens["train"].ids), settings.sequence_length, settings.batch_size)
        if step % steps == 0:
            tf.nest.map_structure(lambda variable: variable.assign(tf.zeros_like(variable)), self.states)

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= int(self.counters["worse"].numpy())


def use_xla(settings: TrainingSettings) -> bool:
    """Whether to compile: `auto` means yes, but for a recurrent model on a GPU, whose cuDNN kernels XLA cannot take."""
    if settings.xla != "auto":
        return settings.xla == "on"
    return settings.model == "transformer" or not tf.config.list_physical_devices("GPU")


def make_optimizer(settings: TrainingSettings, model: keras.Model) -> keras.Optimizer:
    """The optimizer of `settings`, its schedule and clipping included, built for `model` (article A2 §3, A3 §8)."""
    rate: float | keras.optimizers.schedules.LearningRateSchedule = settings.learning_rate
    warmup = min(settings.warmup_steps, settings.steps)
    if settings.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else settings.learning_rate,
            max(settings.steps - warmup, 1),
            alpha=0.1,
            warmup_target=settings.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    elif warmup:
        rate = keras.optimizers.schedules.PolynomialDecay(0.0, warmup, settings.learning_rate)
    clip = {"global_clipnorm": settings.clip_norm or None}
    if settings.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay, beta_2=settings.beta_2, **clip)
        # Biases, norms and other vectors are left alone: decay is for matrices.
        optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) < 2])
    elif settings.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, beta_2=settings.beta_2, **clip)
    elif settings.optimizer == "rmsprop":
        optimizer = keras.optimizers.RMSprop(rate, momentum=settings.momentum, **clip)
    else:
        optimizer = keras.optimizers.SGD(rate, momentum=settings.momentum, **clip)
    optimizer.build(model.trainable_variables)
    return optimizer


def make_train_step(model: keras.Model, optimizer: keras.Optimizer, settings: TrainingSettings, *, jit_compile: bool) -> Callable:
    """One update as a compiled function.

    Returns:
        `(inputs, targets, states) -> (loss, states)`: `(batch, time)` ids twice and the carried states (empty unless stateful) to the mean
        cross-entropy in nats a token, without penalties, and the states after the window.
    """
    matrices = [variable for variable in model.trainable_variables if len(variable.shape) > 1]
    parts = settings.accumulate

    def gradients(inputs: tf.Tensor, targets: tf.Tensor, states: dict) -> tuple[list[tf.Tensor], tf.Tensor, dict]:
        with tf.GradientTape() as tape:
            if settings.stateful:
                logits, states = models.run_stateful(model, inputs, states, training=True)
            else:
                logits = model(inputs, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
            penalty = tf.add_n([tf.constant(0.0), *map(tf.cast, model.losses, [tf.float32] * len(model.losses))])
            if settings.l1:
                penalty += settings.l1 * tf.add_n([tf.reduce_sum(tf.abs(variable.value)) for variable in matrices])
            if settings.l2:
                penalty += settings.l2 * tf.add_n([tf.reduce_sum(tf.square(variable.value)) for variable in matrices])
            objective = loss + penalty
        return [tf.convert_to_tensor(g) for g in tape.gradient(objective, [v.value for v in model.trainable_variables])], loss, states

    @tf.function(jit_compile=jit_compile, autograph=False)
    def train_step(inputs: tf.Tensor, targets: tf.Tensor, states: dict) -> tuple[tf.Tensor, dict]:
        if parts == 1:
            sums, loss, states = gradients(inputs, targets, states)
        else:
            sums, losses, after = None, [], []
            cut = lambda tensor: tf.split(tensor, parts)
            rows = [tf.nest.map_structure(lambda tensor, part=part: cut(tensor)[part], states) for part in range(parts)]
            for part_inputs, part_targets, part_states in zip(cut(inputs), cut(targets), rows, strict=True):
                new, part_loss, part_after = gradients(part_inputs, part_targets, part_states)
                sums = new if sums is None else [one + other for one, other in zip(sums, new, strict=True)]
                losses.append(part_loss)
                after.append(part_after)
            sums = [gradient / parts for gradient in sums]
            loss = tf.add_n(losses) / parts
            states = tf.nest.map_structure(lambda *tensors: tf.concat(tensors, axis=0), *after)
        optimizer.apply(sums, model.trainable_variables)
        return loss, states

    return train_step


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


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise UserError(f"the loss became {loss} at step {step}: lower --learning-rate (the last checkpoint is whole)")


def _exp(loss: float) -> float:
    return float(np.exp(min(loss, 700.0)))
