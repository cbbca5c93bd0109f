"""A client for the gRPC interface of TensorFlow Serving: pip install grpcio tensorflow-serving-api

    python deploy/clients/grpc_client.py --prompt 中国 --temperature 0.7 --seed 1

One line of JSON comes out for each text. From Python:

    request = grpc_client.request("quickstart", "generate", ["中国"], temperature=0.7)
    with grpc_client.connected("localhost:8500") as server:
        print(grpc_client.predict(server, request)["text"][0])

gRPC converts nothing: an int32 input takes no float, and the other way round. The messages are part of TensorFlow, whose import takes some
seconds; a program that asks often keeps running, and keeps its connection.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import signatures

PROGRAM = "grpc_client.py"


def request(
    model: str, signature: str, texts: Sequence[str], *, version: int | None = None, label: str | None = None, **values: Any
) -> Any:
    """A `PredictRequest`.

    Args:
        model: The name in models.config.
        signature: The signature's name.
        texts: The prompts, or the texts to score.
        version, label: Which version; default the newest that is loaded.
        **values: Other inputs of the signature.
    """
    columns = signatures.columns(signature, texts, **values)
    return encoded(model, signature, columns, version, label)


def encoded(model: str, signature: str, inputs: Mapping[str, Any], version: int | None = None, label: str | None = None) -> Any:
    """The same, from lists or arrays by input: whole numbers become int32, others float32."""
    with _quiet_imports():
        import numpy as np
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

    result = predict_pb2.PredictRequest()
    result.model_spec.name = model
    result.model_spec.signature_name = signature
    if version is not None:
        result.model_spec.version.value = version
    if label:
        result.model_spec.version_label = label
    for name, value in inputs.items():
        array = np.asarray(value)
        if array.dtype.kind == "U":
            array = array.astype(object)
        elif array.dtype.kind in "if":
            array = array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
        result.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    return result


@contextlib.contextmanager
def connected(server: str) -> Iterator[Any]:
    """A `PredictionServiceStub` on a connection to `HOST:PORT`; where the name stands for several servers, calls take turns."""
    with _quiet_imports():
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

    options = [("grpc.lb_policy_name", "round_robin"), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server, options) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def predict(server: Any, request: Any, timeout: float = 60.0) -> dict[str, Any]:
    """Sends a request: a NumPy array for each output, strings as `str`.

    Raises:
        ConnectionError: no server there, no answer in time, or an answer that says what is wrong.
    """
    import grpc
    import numpy as np
    import tensorflow as tf

    try:
        response = server.Predict(request, timeout)
    except grpc.RpcError as error:
        code = error.code()
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            raise ConnectionError(f"no answer within {timeout:g} seconds") from error
        if code == grpc.StatusCode.UNAVAILABLE:
            raise ConnectionError(f"no server, or one with too much to do: {error.details()}") from error
        raise ConnectionError(f"the server answers {code.name}: {error.details()}") from error
    arrays = {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}
    decode = np.vectorize(lambda text: text.decode("utf-8", "replace"), otypes=[object])
    return {name: decode(array) if array.dtype == object and array.size else array for name, array in arrays.items()}


@contextlib.contextmanager
def _quiet_imports() -> Iterator[None]:
    """TensorFlow says a good deal on standard error when it is imported; here only if that fails."""
    if "tensorflow" in sys.modules:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(saved, log.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def main() -> int:
    parser = signatures.parser(PROGRAM, "Asks TensorFlow Serving for texts, over gRPC.", "localhost:8500")
    signatures.add_inputs(parser)
    options = parser.parse_args()
    try:
        columns = signatures.given(options)
        message = encoded(options.model, options.signature, columns, options.version, options.label)
        with connected(options.server) as server:
            answer = predict(server, message, options.timeout)
    except (ValueError, ConnectionError) as error:
        return signatures.fail(PROGRAM, str(error))
    except ImportError as error:
        return signatures.fail(PROGRAM, f"{error}: pip install grpcio tensorflow-serving-api")
    signatures.show(options.texts, {name: array.tolist() for name, array in answer.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
