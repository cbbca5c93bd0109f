"""How good a sentence VAE is on sentences it has not seen: the two parts of its bound, and whether its vector is used at all.

What a language model gives exactly, -ln P(text), a VAE bounds from above by reconstruction + KL; so its perplexity is a bound too, to be
laid beside that of a language model which reads the same sentences, each by itself (`keras_lm.evaluation.DocumentEvaluator`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.parallel import DocumentIds, pair_evaluation_batches
from keras_lm.pipeline import Tokens
from keras_lm.recurrent import run_model
from keras_lm.tracing import by_shape
from keras_lm.vae import draw, kl_of_units, latent_decoder, posterior_of

LEAST_KL = 3.0
"""Nats a sentence below which a posterior counts as collapsed."""

_ACTIVE = 0.01  # the variance of a unit's mean over the sentences above which it counts as active (Burda et al. 2016, §5.2)


@dataclasses.dataclass(frozen=True)
class VAEEvaluation:
    """What a VAE makes of sentences.

    Attributes:
        loss: The bound on -ln P, in nats a token: reconstruction and KL of all sentences over their tokens.
        perplexity: exp(loss), a bound as well.
        reconstruction: Mean of -ln P(sentence | z), in nats a sentence; z is drawn once for each, the same at every pass.
        kl: Mean of KL(q(z | sentence) || N(0, 1)), in nats a sentence.
        active_units: Units of z whose posterior mean varies over the sentences, with a variance over 0.01.
        latent_dim: Units that there are.
        bits_per_character, bits_per_byte: The bound in bits, of the sentences' Unicode characters and UTF-8 bytes.
        tokens: Predicted tokens: all of each sentence and its end.
        sentences: How many there are.
        characters, bytes: Size of the text.
        unknown_tokens: Tokens that are the unknown one: where there are any, the bits are too few.
    """

    loss: float
    perplexity: float
    reconstruction: float
    kl: float
    active_units: int
    latent_dim: int
    bits_per_character: float
    bits_per_byte: float
    tokens: int
    sentences: int
    characters: int
    bytes: int
    unknown_tokens: int


def collapse(evaluation: VAEEvaluation) -> str | None:
    """Says that the posterior has collapsed, and what to change; `None` where it has not.

    Example:

    >>> numbers = {"loss": 4.0, "perplexity": 54.6, "reconstruction": 80.0, "kl": 0.2, "active_units": 1, "latent_dim": 16}
    >>> sizes = dict.fromkeys(("bits_per_character", "bits_per_byte", "tokens", "sentences", "characters", "bytes", "unknown_tokens"), 1)
    >>> collapse(VAEEvaluation(**numbers, **sizes))[:88]
    'the posterior has collapsed: the KL is 0.2 nats a sentence (under 3), 1 of 16 units are '
    """
    found = []
    if evaluation.kl < LEAST_KL:
        found.append(f"the KL is {evaluation.kl:.1f} nats a sentence (under {LEAST_KL:g})")
    if 2 * evaluation.active_units < evaluation.latent_dim:
        found.append(f"{evaluation.active_units} of {evaluation.latent_dim} units are active (under half)")
    if not found:
        return None
    return (
        f"the posterior has collapsed: {', '.join(found)}; the decoder writes without its vector. "
        "Raise --free-bits, --kl-steps or --word-dropout, or lower --latent-dim"
    )


class VAEEvaluator:
    """Evaluates one VAE again and again, compiled once for each width of a batch.

    Args:
        model: One of `keras_lm.vae`.
        sequence_length: Tokens to which a sentence is cut.
        batch_size: Sentences a batch.
        jit_compile: Whether XLA compiles it.

    Example:

    >>> from keras_lm.vae import recurrent_vae
    >>> evaluator = VAEEvaluator(recurrent_vae(10, latent_dim=2, embedding_dim=4, hidden_dim=4), sequence_length=8, batch_size=2)
    >>> text = Tokens(ids=np.array([2, 5, 6, 3, 2, 7, 3]), characters=3, bytes=3, documents=2, unknown=0)
    >>> result = evaluator(text)
    >>> result.tokens, result.latent_dim, abs(result.loss - (result.reconstruction + result.kl) * 2 / 5) < 1e-6
    (5, 2, True)
    >>> evaluator.importance_weighted(text, samples=5) < result.perplexity + 0.1
    True

    References:
        Burda et al. 2016, «Importance Weighted Autoencoders» (arXiv:1509.00519).
    """

    result_type = VAEEvaluation

    def __init__(self, model: keras.Model, *, sequence_length: int, batch_size: int, jit_compile: bool = True):
        self.model, self.sequence_length, self.batch_size = model, sequence_length, batch_size
        reader, writer = posterior_of(model), latent_decoder(model)

        @tf.function(jit_compile=jit_compile, autograph=False)
        def judged(sources: tf.Tensor, inputs: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
            posterior = run_model(reader, sources)
            z = draw(posterior, seed)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, run_model(writer, [z, inputs]))
            mean, log_variance = tf.split(posterior, 2, axis=-1)
            # ln N(z; 0, 1) - ln q(z | sentence), in which the constants cancel
            ratio = 0.5 * tf.reduce_sum((z - mean) ** 2 / tf.exp(log_variance) + log_variance - z**2, axis=-1)
            return tf.reduce_sum(losses * weights, axis=1), tf.reduce_sum(kl_of_units(posterior), axis=1), ratio, mean

        self._judged = by_shape(judged, compiled=jit_compile)

    def __call__(
        self,
        tokens: Tokens,
        progress: Callable[[int], None] | None = None,
        *,
        share: tuple[int, int] = (0, 1),
        combine: Callable[[list[float]], list[float]] = list,
    ) -> VAEEvaluation:
        """One pass over `tokens`.

        Args:
            tokens: What to evaluate on.
            progress: Is told the number of tokens done.
            share, combine: As `keras_lm.evaluation.Evaluator` takes them; a VAE is evaluated by one process.

        Raises:
            UserError: no sentences.
        """
        columns = [judged for (judged,) in self._pass(tokens, 1, progress)]
        reconstruction, kl, _, means = (np.concatenate(column) for column in zip(*columns, strict=True))
        predicted = int(np.minimum(DocumentIds(tokens.ids, self.sequence_length).target_lengths, self.sequence_length).sum())
        total = float(reconstruction.sum() + kl.sum())
        return VAEEvaluation(
            loss=total / predicted,
            perplexity=math.exp(min(total / predicted, 700.0)),
            reconstruction=float(reconstruction.mean()),
            kl=float(kl.mean()),
            active_units=int((means.var(axis=0) > _ACTIVE).sum()),
            latent_dim=means.shape[1],
            bits_per_character=total / math.log(2) / max(tokens.characters, 1),
            bits_per_byte=total / math.log(2) / max(tokens.bytes, 1),
            tokens=predicted,
            sentences=len(kl),
            characters=tokens.characters,
            bytes=tokens.bytes,
            unknown_tokens=tokens.unknown,
        )

    def importance_weighted(self, tokens: Tokens, samples: int, progress: Callable[[int], None] | None = None) -> float:
        """A tighter bound on the perplexity: -ln of the mean of P(sentence | z) P(z) / q(z | sentence) over several z.

        Args:
            tokens: What to evaluate on.
            samples: How many z are drawn for each sentence.
            progress: Is told the number of tokens done, of all z.

        Raises:
            UserError: no sentences.
        """
        total = 0.0
        for drawn in self._pass(tokens, samples, progress):
            logs = np.stack([ratio - reconstruction for reconstruction, _, ratio, _ in drawn])  # (samples, sentences)
            total -= float((np.logaddexp.reduce(logs, axis=0) - math.log(samples)).sum())
        predicted = np.minimum(DocumentIds(tokens.ids, self.sequence_length).target_lengths, self.sequence_length).sum()
        return math.exp(min(total / predicted, 700.0))

    def _pass(self, tokens: Tokens, samples: int, progress: Callable[[int], None] | None):
        """For each batch what is found with each of several z: of the sentences without those that fill the last batch, in float64."""
        documents = DocumentIds(tokens.ids, self.sequence_length)
        if not len(documents):
            raise UserError("there is no sentence to evaluate on: give more text")
        done = 0
        for number, ((sources, inputs), (labels, weights)) in zip(
            itertools.count(), pair_evaluation_batches(documents, batch_size=self.batch_size)
        ):
            real, given = weights.any(axis=1), [tf.constant(part) for part in (sources, inputs, labels, weights)]
            drawn = []
            for sample in range(samples):
                found = self._judged(*given, tf.constant([number, sample]))
                drawn.append([part.numpy()[real].astype(np.float64) for part in found])
                done += int(weights.sum())
                if progress:
                    progress(done)
            yield drawn
