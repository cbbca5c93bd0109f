"""What the searches for a text have in common: prompts are read, and the loops compiled and kept, as by the `Sampler`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm.generation import automata
from keras_lm.generation.decode import Knobs, Rules
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings


class Search:
    """The base of `BeamSearch` and `ContrastiveSearch`.

    Args:
        model, end_id, never, pieces, jit_compile: As in `Sampler`.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        end_id: int,
        never: Sequence[int] = (),
        pieces: Sequence[bytes] | None = None,
        jit_compile: bool = True,
    ):
        self._sampler = Sampler(model, end_id=end_id, never=never, pieces=pieces, jit_compile=jit_compile)

    @property
    def num_compilations(self) -> int:
        """As in `Sampler`."""
        return self._sampler.num_compilations

    def _run(
        self,
        function: Callable,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        told: tuple[Mapping[int, float] | None, Sequence[bytes], automata.Constraint | Sequence[automata.Constraint | None] | None],
        numbers: Mapping[str, float],
        *,
        sources: Sequence[Sequence[int]] | None,
        samples: int,
        **static: int,
    ):
        """Reads the prompts, `samples` rows each, and searches from there; both parts are compiled, and kept, by the sampler.

        Args:
            function: Called as `function(decoder, carry, knobs, rules, room=..., **numbers, **static)`; `room` holds a number a prompt.
            told: Bias, stop strings and constraint, as in `Sampler.stream`.
            sources: As there.
            numbers: Become scalar tensors.
            static: Compiled in.
        """
        sampler = self._sampler
        bias, stop, constraint = told
        sampler._check(prompts, stop, sources)
        limits = np.repeat(sampler.limits(list(map(len, prompts)), settings), samples)
        rules, places = sampler._rules(bias, stop, constraint, limits, len(prompts))
        carry, room = sampler._begin([list(prompt) for prompt in prompts], settings, {}, places, sources)
        tables = rules.tables()

        def traced(carry, knobs, tables, inputs):
            told = Rules(rules.end_id, degree=rules.degree, **tables)
            return function(sampler.decoder, carry, Knobs(**knobs), told, **inputs, **static)

        shapes = [tuple(tensor.shape) for tensor in tf.nest.flatten((carry, tables)) if tensor is not None]
        key = (*shapes, rules.degree, *(table is None for table in tables.values()), *static.values())
        inputs = {"room": tf.constant(room[::samples]), **{name: tf.constant(number) for name, number in numbers.items()}}
        return sampler._function(function.__name__, traced, *key)(carry, vars(Knobs.of(settings, len(places))), tables, inputs)
