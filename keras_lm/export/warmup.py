"""Requests that a server makes of itself before it answers others: `assets.extra/tf_serving_warmup_requests`.

The first call of a graph costs seconds (its optimisation, and with XLA a compilation for each size). TF Serving replays these when it loads
a version, before the version takes part in serving; a version whose requests fail is not served, and the one before it goes on.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from keras_lm.export.compiled import NARROWEST
from keras_lm.export.signature import Signature
from keras_lm.tokenizers import Tokenizer

BATCHES = {False: (1, 4), True: (1, 2, 4, 8)}
"""The numbers of rows in the requests, without XLA and with it."""

_LONG = 128  # tokens of a long prompt, where nothing bounds it


def write_requests(
    path: str | os.PathLike, signatures: Mapping[str, Signature], tokenizer: Tokenizer, *, name: str, context_length: int | None, xla: bool
) -> int:
    """Writes requests for every signature: each size of batch, short and long prompts; with XLA a prompt for each width it compiles.

    Args:
        path: The file; a TFRecord of `PredictionLog`.
        signatures: By name.
        tokenizer: What the prompts are made with.
        name: The model's name.
        context_length: The longest text in tokens; `None`: nothing bounds it.
        xla: Whether the signatures compile.

    Returns:
        How many there are.
    """
    most = min(_LONG, context_length or _LONG)
    # A token short of a bucket, because many models put a start token in front.
    lengths = [NARROWEST << doubled for doubled in range(5) if NARROWEST << doubled < most] if xla else [5]
    texts = [_text(tokenizer, length - 1) for length in [*lengths, most]]
    written = 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests(signatures, texts, BATCHES[xla]):
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = name, signature
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
            written += 1
    return written


def requests(
    signatures: Mapping[str, Signature], texts: list[str], batches: tuple[int, ...]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """A signature's name and its inputs, all of them, with a row for each text of the batch."""
    for (name, signature), batch in itertools.product(signatures.items(), batches):
        strings = [key for key, given in signature.inputs.items() if given.spec.dtype == tf.string]
        for text in texts if strings else [""]:
            values = {key: np.repeat(given.default, batch, axis=0) for key, given in signature.inputs.items() if given.default is not None}
            values.update({key: np.array([text.encode()] * batch, object) for key in strings})
            others = {key: given.spec for key, given in signature.inputs.items() if key not in values}
            shapes = {key: [batch, *(size or 1 for size in spec.shape.as_list()[1:])] for key, spec in others.items()}
            yield name, values | {key: np.full(shapes[key], 2, spec.dtype.as_numpy_dtype) for key, spec in others.items()}


def _text(tokenizer: Tokenizer, length: int) -> str:
    """About `length` tokens of the vocabulary."""
    pieces = [piece.decode("utf-8", "ignore") for piece in tokenizer.pieces()[4:]]
    return "".join(itertools.islice(itertools.cycle([piece for piece in pieces if piece] or ["a"]), length))
