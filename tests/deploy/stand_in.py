"""A stand-in for TensorFlow Serving, where it is not to be had: its two protocols over real sockets, its rules, a C++ session behind them.

It reads the files of deploy/ as the server does: which versions are loaded and what labels they carry (models.config), how requests are put
together (batching_parameters.txt), where the metrics are (monitoring.config). Its rules follow the server's sources (json_tensor.cc,
predict_util.cc, batching_session.cc) in what a client notices: which requests are refused, and in what words.

    python -m tests.deploy.stand_in saved_models       # REST on 8501, gRPC on 8500
"""

from __future__ import annotations

import concurrent.futures
import http.server
import json
import pathlib
import queue
import re
import sys
import threading
import time
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from tests.deploy import protos

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"


class Refused(Exception):
    """A request that the server answers with an error."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code, self.message = code, message


def invalid(message: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


class Batcher:
    """Puts the requests for one signature together, row by row, and takes the answers apart again."""

    def __init__(self, run, parameters):
        self._run, self._parameters = run, parameters
        self._waiting: queue.Queue = queue.Queue()
        self.sizes: list[int] = []  # rows of each batch, before it is filled up
        threading.Thread(target=self._work, daemon=True).start()

    def __call__(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if any(value.ndim == 0 for value in feeds.values()):
            raise invalid("Batching Run() input tensors must have at least one dimension")
        (rows, *others) = {len(value) for value in feeds.values()}
        if others:
            raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
        if rows > self._parameters.max_batch_size.value:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {self._parameters.max_batch_size.value}")
        future: concurrent.futures.Future = concurrent.futures.Future()
        self._waiting.put((rows, feeds, future))
        return future.result()

    def _work(self) -> None:
        task = None
        while True:
            tasks = [task or self._waiting.get()]
            task, deadline = None, time.monotonic() + self._parameters.batch_timeout_micros.value / 1e6
            while (left := deadline - time.monotonic()) > 0:
                try:
                    task = self._waiting.get(timeout=left)
                except queue.Empty:
                    break
                if sum(rows for rows, *_ in tasks) + task[0] > self._parameters.max_batch_size.value:
                    break
                tasks.append(task)
                task = None
            self._answer(tasks)

    def _answer(self, tasks: list) -> None:
        rows = sum(rows for rows, *_ in tasks)
        self.sizes.append(rows)
        fill = next(size for size in self._parameters.allowed_batch_sizes if size >= rows) - rows
        try:
            merged = {}
            for name in tasks[0][1]:
                parts = [feeds[name] for _, feeds, _ in tasks]
                if len({part.shape[1:] for part in parts}) > 1:
                    raise invalid(f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off.")
                merged[name] = np.concatenate([*parts, np.repeat(parts[0][:1], fill, axis=0)])
            outputs = self._run(merged)
            if any(len(value) != rows + fill for value in outputs.values()):
                raise invalid(
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
                )
        except Exception as error:
            for *_, future in tasks:
                future.set_exception(error)
            return
        start = 0
        for rows, _, future in tasks:
            future.set_result({name: value[start : start + rows] for name, value in outputs.items()})
            start += rows


class Version:
    """One version of a model, loaded as the server loads it."""

    def __init__(self, folder: pathlib.Path, number: int, parameters):
        self.number = number
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder / str(number)))
        self.signatures = {name: graph.signature_def[name] for name in graph.signature_def if not name.startswith("__")}
        self.batchers = {name: Batcher(self._runner(definition), parameters) for name, definition in self.signatures.items()}

    def _runner(self, definition):
        def run(feeds):
            fetches = {name: info.name for name, info in definition.outputs.items()}
            return self._session.run(fetches, {definition.inputs[name].name: value for name, value in feeds.items()})

        return run

    def signature(self, name: str) -> Any:
        if (name or "serving_default") not in self.signatures:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        return self.signatures[name or "serving_default"]

    def predict(self, name: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        """Checks the tensors of a request as the server does, fills in defaults, and runs them."""
        definition, feeds = self.signature(name), {}
        unknown = set(inputs) - set(definition.inputs)
        if unknown:
            used = ",".join(sorted(set(inputs) - unknown))
            raise invalid(f"Inputs contains invalid name. Used request inputs: {used}, request input: {','.join(sorted(inputs))}")
        for number, (alias, info) in enumerate(definition.inputs.items()):
            if alias not in inputs and alias not in definition.defaults:
                raise invalid(f"Signature input alias: {alias}(feed name: {info.name}) not found in request and no default value provided.")
            tensor = inputs.get(alias, definition.defaults.get(alias))
            if tensor.dtype != info.dtype:
                expected, provided = tf.as_dtype(info.dtype).name, tf.as_dtype(tensor.dtype).name
                raise invalid(f"Expects arg[{number}] to be {expected} but {provided} is provided")
            feeds[alias] = tf.make_ndarray(tensor)
            if not tf.TensorShape(info.tensor_shape).is_compatible_with(feeds[alias].shape):
                raise invalid(f"Cannot feed value of shape {feeds[alias].shape} for tensor {info.name}")
        return self.batchers[name or "serving_default"](feeds)


class Model:
    """The versions that models.config names, and their labels."""

    def __init__(self, config, models: pathlib.Path, parameters):
        folder = models / pathlib.PurePosixPath(config.base_path).relative_to("/models")
        self.name, self.labels = config.name, dict(config.version_labels)
        self.versions = {number: Version(folder, number, parameters) for number in config.model_version_policy.specific.versions}

    def choose(self, version: int | None, label: str | None) -> Version:
        if label:
            if label not in self.labels:
                raise invalid(f"Unrecognized servable version label: {label}")
            version = self.labels[label]
        if version is None:
            return self.versions[max(self.versions)]
        if version not in self.versions:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Could not find version {version} of model {self.name}")
        return self.versions[version]


class StandIn:
    """The server.

    Args:
        models: What Docker Compose mounts at /models.
        rest_port, grpc_port: 0 takes any that is free.
    """

    def __init__(self, models: pathlib.Path, rest_port: int = 0, grpc_port: int = 0):
        config = text_format.Parse((DEPLOY / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
        parameters = text_format.Parse((DEPLOY / "batching_parameters.txt").read_text(), protos.BatchingParameters())
        monitoring = text_format.Parse((DEPLOY / "monitoring.config").read_text(), protos.MonitoringConfig())
        self.metrics_path = monitoring.prometheus_config.path if monitoring.prometheus_config.enable else None
        self.models = {each.name: Model(each, pathlib.Path(models), parameters) for each in config.model_config_list.config}
        self.requests = 0

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", rest_port), type("Handler", (_Handler,), {"server_of_models": self}))
        self.rest_port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self._grpc = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Predictions(self), self._grpc)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(self), self._grpc)
        self.grpc_port = self._grpc.add_insecure_port(f"127.0.0.1:{grpc_port}")
        self._grpc.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(None)

    def model(self, name: str) -> Model:
        if name not in self.models:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
        return self.models[name]

    def status(self, name: str) -> get_model_status_pb2.GetModelStatusResponse:
        response = get_model_status_pb2.GetModelStatusResponse()
        for number in self.model(name).versions:
            response.model_version_status.add(version=number, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE)
        return response

    def metadata(self, name: str, version: Version) -> get_model_metadata_pb2.GetModelMetadataResponse:
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = name
        response.model_spec.version.value = version.number
        definitions = get_model_metadata_pb2.SignatureDefMap()
        for key, definition in version.signatures.items():
            definitions.signature_def[key].CopyFrom(definition)
        response.metadata["signature_def"].Pack(definitions)
        return response


class _Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, server: StandIn):
        self._server = server

    def _version(self, spec) -> Version:
        number = spec.version.value if spec.HasField("version") else None
        return self._server.model(spec.name).choose(number, spec.version_label)

    def Predict(self, request, context):
        self._server.requests += 1
        try:
            version = self._version(request.model_spec)
            outputs = version.predict(request.model_spec.signature_name, dict(request.inputs))
        except Refused as refused:
            message = (
                refused.message if "Could not find" not in refused.message else f"Servable not found for request: {request.model_spec.name}"
            )
            context.abort(refused.code, message)
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(request.model_spec)
        response.model_spec.version.value = version.number
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    def GetModelMetadata(self, request, context):
        try:
            return self._server.metadata(request.model_spec.name, self._version(request.model_spec))
        except Refused as refused:
            context.abort(refused.code, refused.message)


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, server: StandIn):
        self._server = server

    def GetModelStatus(self, request, context):
        try:
            return self._server.status(request.model_spec.name)
        except Refused as refused:
            context.abort(refused.code, refused.message)


_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata|:predict)?")
_HTTP = {grpc.StatusCode.INVALID_ARGUMENT: 400, grpc.StatusCode.NOT_FOUND: 404}


class _Handler(http.server.BaseHTTPRequestHandler):
    server_of_models: StandIn

    def do_GET(self) -> None:
        if self.path == self.server_of_models.metrics_path:
            count = self.server_of_models.requests
            text = f'# TYPE :tensorflow:serving:request_count counter\n:tensorflow:serving:request_count{{status="OK"}} {count}\n'
            self._send(200, text.encode(), "text/plain")
        else:
            self._answer(None)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes | None) -> None:
        server = self.server_of_models
        try:
            match = _PATH.fullmatch(self.path)
            if match is None or (match[4] == ":predict") != (body is not None):
                raise invalid(f"Malformed request: {self.command} {self.path}")
            model = server.model(match[1])
            version = model.choose(int(match[2]) if match[2] else None, match[3])
            if body is None:
                message = server.metadata(model.name, version) if match[4] else server.status(model.name)
                text = json_format.MessageToJson(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
            else:
                server.requests += 1
                text = json.dumps(predict_json(version, body), ensure_ascii=False)
            self._send(200, text.encode())
        except Refused as refused:
            self._send(_HTTP[refused.code], json.dumps({"error": refused.message}).encode())

    def _send(self, status: int, content: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def predict_json(version: Version, body: bytes) -> dict[str, Any]:
    """A `:predict` request in either form, as json_tensor.cc reads it and writes its answer."""
    try:
        document = json.loads(body)
    except ValueError as error:
        raise invalid(f"JSON Parse error: {error}") from error
    name = document.get("signature_name", "")
    definition = version.signature(name)
    known = definition.inputs
    if ("instances" in document) == ("inputs" in document):
        raise invalid("Missing 'inputs' or 'instances' key")
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list) or not rows:
            raise invalid("Excepting 'instances' to be an list/array" if not isinstance(rows, list) else "No values in 'instances' array")
        if not isinstance(rows[0], dict):
            if len(known) > 1:
                raise invalid(
                    "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"
                )
            rows = [{next(iter(known)): value} for value in rows]
        for number, row in enumerate(rows):
            for key in row:
                if key not in known:
                    error = f"JSON object: does not have named input: {key}"
                    raise invalid(f"Failed to process element: {number} key: {key} of 'instances' list. Error: INVALID_ARGUMENT: {error}")
            if set(row) != set(known):
                keys = ",".join(sorted(known))
                raise invalid(f"Failed to process element: {number} of 'instances' list. JSON object: {row} keys must be equal to: {keys}")
        columns = {key: [row[key] for row in rows] for key in known}
    else:
        columns = document["inputs"]
        if not isinstance(columns, dict):
            if len(known) > 1:
                raise invalid(
                    "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"
                )
            columns = {next(iter(known)): columns}
        for key in known:
            if key not in columns:
                raise invalid(f"Missing named input: {key} in 'inputs' object.")
    tensors = {key: _tensor(columns[key], tf.as_dtype(info.dtype)) for key, info in known.items()}
    outputs = {key: _values(value) for key, value in version.predict(name, tensors).items()}
    if "inputs" in document:
        return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
    if len(outputs) == 1:
        return {"predictions": next(iter(outputs.values()))}
    return {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]}


def _tensor(value: Any, dtype: tf.DType) -> Any:
    kinds = {tf.string: str, tf.int32: int, tf.float32: (int, float)}[dtype]
    leaves = [value]
    while any(isinstance(leaf, list) for leaf in leaves):
        leaves = [inner for leaf in leaves for inner in (leaf if isinstance(leaf, list) else [leaf])]
    for leaf in leaves:
        if not isinstance(leaf, kinds) or isinstance(leaf, bool):
            raise invalid(f"JSON Value: {json.dumps(leaf)} Type: {type(leaf).__name__} is not of expected type: {dtype.name}")
    return tf.make_tensor_proto(np.array(value, object if dtype == tf.string else dtype.as_numpy_dtype))


def _values(value: np.ndarray) -> list:
    decode = lambda item: (
        item.decode("utf-8") if isinstance(item, bytes) else [decode(inner) for inner in item] if isinstance(item, list) else item
    )
    return decode(value.tolist())


if __name__ == "__main__":
    server = StandIn(pathlib.Path(sys.argv[1]), 8501, 8500)
    print(f"REST on {server.rest_port}, gRPC on {server.grpc_port}; Ctrl-C ends it", flush=True)
    threading.Event().wait()
