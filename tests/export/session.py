"""The C++ session path, which TF Serving takes: an export's signatures without any of TensorFlow 2's Python around them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


class Served:
    """A version loaded into a session; called with a signature and its inputs. What is left out takes its default, as in TF Serving."""

    def __init__(self, version: str | os.PathLike):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            self.definitions = tf.compat.v1.saved_model.load(self._session, ["serve"], str(version)).signature_def

    def __call__(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        definition = self.definitions[signature]
        values = {name: tf.make_ndarray(default) for name, default in definition.defaults.items()} | dict(inputs)
        feeds = {definition.inputs[name].name: value for name, value in values.items()}
        return self._session.run({name: tensor.name for name, tensor in definition.outputs.items()}, feeds)
