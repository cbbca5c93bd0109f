"""What a sentence VAE is for: vectors of sentences, and sentences of vectors (Bowman et al. 2016, §4 and §5)."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm import cleaning
from keras_lm.errors import UserError
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import Generated, TextGenerator
from keras_lm.recurrent import run_model
from keras_lm.tasks.text_batches import row_batches, text_rows
from keras_lm.tokenizer_base import Tokenizer
from keras_lm.tracing import by_shape
from keras_lm.training.run import Run
from keras_lm.training.step import use_xla
from keras_lm.vae import latent_decoder, posterior_of


class LatentSpace:
    """A sentence VAE with its tokenizer: sentences → z, z → sentences.

    Args:
        model: One of `keras_lm.vae`.
        tokenizer: The one it was trained with.
        longest: Tokens to which a sentence is cut, its end counted.
        clean: Cleaners, as `keras_lm.cleaning.compose` takes them.
        batch_size: Sentences read at a time.
        jit_compile: Whether XLA compiles it.

    Attributes:
        latent_dim: Width of z.

    Example:

    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> from keras_lm.vae import recurrent_vae
    >>> space = LatentSpace(recurrent_vae(260, latent_dim=4, embedding_dim=8, hidden_dim=8), ByteTokenizer(), longest=32)
    >>> space.encode(["A fine day.", "A bad one."]).shape
    (2, 4)
    >>> [len(texts) for texts in (space.sample(3, max_new_tokens=4), space.interpolate("a", "b", 5, max_new_tokens=4))]
    [3, 5]
    """

    def __init__(
        self,
        model: keras.Model,
        tokenizer: Tokenizer,
        *,
        longest: int,
        clean: Sequence[str] = (),
        batch_size: int = 32,
        jit_compile: bool = True,
    ):
        self.model, self.tokenizer, self.longest, self.batch_size = model, tokenizer, longest, batch_size
        self._clean = cleaning.compose(clean)
        self.generator = TextGenerator(latent_decoder(model), tokenizer, jit_compile=jit_compile)
        self.latent_dim: int = self.generator.sampler.decoder.source_dim
        reader = posterior_of(model)

        @tf.function(jit_compile=jit_compile, autograph=False)
        def read(ids: tf.Tensor) -> tf.Tensor:
            return run_model(reader, ids)

        self._read = by_shape(read, compiled=jit_compile)

    @classmethod
    def of(cls, run: Run) -> LatentSpace:
        """That of a run of `--task vae`; compiled by XLA where its training was.

        Raises:
            UserError: a run of another task.
        """
        settings = run.settings
        if not settings.has_latent:
            raise UserError(f"{run.folder} is a run of {settings.task}, whose model has no vector of a sentence: train one with --task vae")
        sizes = {"longest": settings.sequence_length, "clean": settings.clean, "jit_compile": use_xla(settings)}
        return cls(run.load_model(), run.load_tokenizer(), **sizes)

    def posterior(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of z, `(texts, latent_dim)` float32 each."""
        found = np.zeros([len(texts), 2 * self.latent_dim], np.float32)
        rows = [row[1:] for row in text_rows(texts, self.tokenizer, self._clean, self.longest + 1)]  # a source has no start token
        for numbers, ids in row_batches(rows, self.longest, self.batch_size):
            found[numbers] = self._read(tf.constant(ids)).numpy()[: len(numbers)]
        mean, log_variance = np.split(found, 2, axis=1)
        return mean, np.exp(0.5 * log_variance)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """The z of each sentence, its posterior's mean: `(texts, latent_dim)` float32."""
        return self.posterior(texts)[0]

    def decode(self, vectors: np.ndarray, settings: SamplingSettings | None = None, **knobs: object) -> list[Generated]:
        """Writes a sentence from each z.

        Args:
            vectors: `(sentences, latent_dim)`.
            settings: How to sample; default the most probable token always, so that z alone decides.
            **knobs: Fields of `SamplingSettings`, in place of `settings` or on top of it.

        Raises:
            UserError: vectors of another width.
        """
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.latent_dim:
            raise UserError(f"vectors must be of shape (sentences, {self.latent_dim}), got {vectors.shape}")
        if settings is None:
            knobs = {"max_new_tokens": self.longest - 1, **knobs}
        return self.generator.generate(vectors, settings, **knobs)

    def sample(self, number: int, settings: SamplingSettings | None = None, *, seed: int = 0, **knobs: object) -> list[Generated]:
        """Writes sentences from z that are drawn from the prior N(0, 1).

        Args:
            number: How many.
            settings, **knobs: As in `decode`.
            seed: Of z.
        """
        return self.decode(np.random.default_rng(seed).standard_normal([number, self.latent_dim]), settings, **knobs)

    def neighbours(
        self, text: str, number: int, settings: SamplingSettings | None = None, *, radius: float = 1.0, seed: int = 0, **knobs: object
    ) -> list[Generated]:
        """Writes sentences from z near that of a text.

        Args:
            text: Any sentence.
            number: How many.
            settings, **knobs: As in `decode`.
            radius: How far: 1 (default) draws from the text's own posterior, 2 goes twice as far.
            seed: Of z.
        """
        mean, deviation = self.posterior([text])
        noise = np.random.default_rng(seed).standard_normal([number, self.latent_dim])
        return self.decode(mean + radius * deviation * noise, settings, **knobs)

    def interpolate(self, first: str, last: str, steps: int, settings: SamplingSettings | None = None, **knobs: object) -> list[Generated]:
        """Writes sentences from z on the line between those of two texts.

        Args:
            first, last: Any two sentences.
            steps: How many, both ends counted; at least 2.
            settings, **knobs: As in `decode`.

        Raises:
            UserError: fewer than two steps.
        """
        if steps < 2:
            raise UserError(f"steps must be at least 2, the two ends, got {steps}")
        ends = self.encode([first, last])
        return self.decode(np.linspace(ends[0], ends[1], steps), settings, **knobs)
