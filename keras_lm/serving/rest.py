"""TF Serving's REST interface over an export: its JSON, its rules, its words where something is wrong.

Both forms of a request: rows (`instances`) and columns (`inputs`). Its rules follow the server's sources (json_tensor.cc, predict_util.cc,
classifier.cc, regressor.cc), so that what is answered here is answered there. What differs: limits on rows and new tokens.

References:
    https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2

from keras_lm.serving.refusing import Refused, parse_json
from keras_lm.serving.settings import Limits

DEFAULT = "serving_default"

MOST_VALUES = 4_000_000
"""The most numbers and strings of an answer."""

_DEEPEST = 32
_SHOWN = 200  # characters of a value in a message
_STATUS = {
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.FAILED_PRECONDITION: 400,
    tf.errors.OUT_OF_RANGE: 400,
    tf.errors.NOT_FOUND: 404,
    tf.errors.RESOURCE_EXHAUSTED: 429,
    tf.errors.UNIMPLEMENTED: 501,
    tf.errors.UNAVAILABLE: 503,
}
_METHODS = {"classify": ("classification", "tensorflow/serving/classify"), "regress": ("regression", "tensorflow/serving/regress")}


def invalid(message: str) -> Refused:
    """A 400 in TF Serving's words."""
    return Refused(400, message)


class Signatures:
    """The signatures of one version, asked in JSON.

    Args:
        folder: The version's.
        loaded: What `tf.saved_model.load` gave of it.

    Attributes:
        definitions: By name.
    """

    def __init__(self, folder: pathlib.Path, loaded: Any):
        self._loaded = loaded  # must stay alive as long as its signatures
        graph = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0]
        self.definitions: dict[str, meta_graph_pb2.SignatureDef] = {
            name: definition for name, definition in graph.signature_def.items() if not name.startswith("__")
        }

    def predict(self, body: bytes, limits: Limits) -> bytes:
        """Answers a `:predict`.

        Raises:
            Refused: what is wrong with it.
        """
        document = _document(body)
        name = document.get("signature_name", "") or DEFAULT
        if name not in self.definitions:
            raise invalid(f'Serving signature name: "{_cut(name)}" not found in signature def')
        definition = self.definitions[name]
        if "instances" in document and "inputs" in document:
            both = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
            raise invalid(f"JSON Value: {_shown(document)} {both}")
        if "instances" not in document and "inputs" not in document:
            raise invalid("Missing 'inputs' or 'instances' key")
        by_row = "instances" in document
        arrays = _rows(document, definition.inputs) if by_row else _columns(document["inputs"], definition.inputs)
        _check(arrays, definition.inputs, limits)
        outputs = self._run(name, arrays)
        if sum(value.size for value in outputs.values()) > MOST_VALUES:
            raise invalid(f"the answer would hold over {MOST_VALUES} values: ask for fewer rows")
        return _answer(outputs, by_row)

    def classify_or_regress(self, method: str, body: bytes) -> Refused:
        """Why a `:classify` or `:regress` is refused: no export of keras_lm has such a signature."""
        name = _document(body).get("signature_name", "") or DEFAULT
        if name not in self.definitions:
            return invalid(f"No signature was found with the name: {_cut(name)}")
        kind, wanted = _METHODS[method]
        was = self.definitions[name].method_name
        return invalid(f"Expected {kind} signature method_name to be {wanted}. Was: {was}")

    def _run(self, name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        inputs = self.definitions[name].inputs
        try:
            tensors = {alias: tf.constant(value, tf.as_dtype(inputs[alias].dtype)) for alias, value in arrays.items()}
            return {alias: value.numpy() for alias, value in self._loaded.signatures[name](**tensors).items()}
        except tf.errors.OpError as error:
            first = (error.message or "").strip().partition("\n")[0]
            raise Refused(_STATUS.get(error.error_code, 500), first or type(error).__name__) from None


def metadata(model: str, version: int, definitions: Mapping[str, meta_graph_pb2.SignatureDef]) -> dict[str, Any]:
    """What `/metadata` says."""
    message = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in definitions.items():
        message.signature_def[name].CopyFrom(definition)
    printed = json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {"model_spec": {"name": model, "signature_name": "", "version": str(version)}, "metadata": {"signature_def": printed}}


def status(states: Mapping[int, str]) -> dict[str, Any]:
    """What a model's own route says of its versions, the newest first.

    Args:
        states: By version what is wrong with it, or "" where it is served.

    Example:

    >>> status({1: ""})["model_version_status"]
    [{'version': '1', 'state': 'AVAILABLE', 'status': {'error_code': 'OK', 'error_message': ''}}]
    """
    return {
        "model_version_status": [
            {
                "version": str(number),
                "state": "END" if wrong else "AVAILABLE",
                "status": {"error_code": "UNKNOWN" if wrong else "OK", "error_message": wrong},
            }
            for number, wrong in sorted(states.items(), reverse=True)
        ]
    }


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = parse_json(body)
    except ValueError as error:
        raise invalid(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid(f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value.")
    return document


def _rows(document: dict[str, Any], known: Mapping[str, Any]) -> dict[str, np.ndarray]:
    rows = document["instances"]
    if not isinstance(rows, list):
        raise invalid(f"JSON Value: {_shown(document)} Excepting 'instances' to be an list/array")
    if not rows:
        raise invalid(f"JSON Value: {_shown(document)} No values in 'instances' array")
    if not isinstance(rows[0], dict) and len(known) > 1:
        raise invalid("instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map")
    named, keys = _is_object(rows[0]), ",".join(sorted(known))
    leaves: dict[str, list] = {name: [] for name in known}
    shapes: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if named != _is_object(row):
            what = "Expecting object but got list" if named else "Expecting value/list but got object"
            raise invalid(f"{what} at item {number} of input list")
        where = f"Failed to process element: {number}"
        for name, value in row.items() if named else [(next(iter(known)), row)]:
            try:
                _add_row(name, value, known, leaves, shapes)
            except Refused as error:
                key = f" key: {_cut(name)}" if named else ""
                raise invalid(f"{where}{key} of 'instances' list. Error: INVALID_ARGUMENT: {error.message}") from None
        if named and set(row) != set(known):
            raise invalid(f"{where} of 'instances' list. JSON object: {_shown(row)} keys must be equal to: {keys}")
    return {name: _array(leaves[name], [len(rows), *shapes[name]], known[name].dtype) for name in known}


def _add_row(name: str, value: Any, known: Mapping[str, Any], leaves: dict[str, list], shapes: dict[str, list[int]]) -> None:
    if name not in known:
        raise invalid(f"JSON object: does not have named input: {_cut(name)}")
    shape = _shape(value)
    _fill(value, 0, shape, known[name].dtype, leaves[name])
    expected = shapes.setdefault(name, shape)
    if math.prod(shape) != math.prod(expected):
        raise invalid(f"Expecting tensor size: {math.prod(expected)} but got: {math.prod(shape)}")
    if shape != expected:
        raise invalid(f"Expecting shape {_sizes(expected)} but got: {_sizes(shape)}")


def _columns(columns: Any, known: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not _is_object(columns):
        if len(known) > 1:
            raise invalid("inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map")
        columns = {next(iter(known)): columns}
    arrays = {}
    for name, info in known.items():
        if name not in columns:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        shape, leaves = _shape(columns[name]), []
        _fill(columns[name], 0, shape, info.dtype, leaves)
        arrays[name] = _array(leaves, shape, info.dtype)
    return arrays


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _shape(value: Any) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > _DEEPEST:
            raise invalid(f"Encountered list at unexpected level: {_DEEPEST} expected < {_DEEPEST}")
        if not value:
            break
        value = value[0]
    return shape


def _sizes(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _fill(value: Any, level: int, shape: list[int], dtype: int, leaves: list) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            place = f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {len(shape)}"
            raise invalid(f"JSON Value: {_shown(value)} {place}")
        leaves.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}")
    for each in value:
        _fill(each, level + 1, shape, dtype, leaves)


def _leaf(value: Any, dtype: int) -> Any:
    if dtype == types_pb2.DT_STRING:
        if isinstance(value, dict):
            return _bytes(value)
        if isinstance(value, str):
            return value.encode()
    elif dtype == types_pb2.DT_BOOL:
        if isinstance(value, bool):
            return value
    elif dtype in (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _decimal(value, dtype)
    elif isinstance(value, int) and not isinstance(value, bool):
        bounds = np.iinfo(tf.as_dtype(dtype).as_numpy_dtype)
        if bounds.min <= value <= bounds.max:
            return value
    raise invalid(f"JSON Value: {_shown(value)} Type: {_kind(value)} is not of expected type: {_type_name(dtype)}")


def _bytes(value: dict) -> bytes:
    if not _is_base64(value):
        raise invalid(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


def _decimal(value: float, dtype: int) -> float:
    """A number, unless float or double cannot hold it: whole numbers exactly, others in size."""
    info = np.finfo(tf.as_dtype(dtype).as_numpy_dtype)
    whole, most = isinstance(value, int), 2 ** (info.nmant + 1)
    if abs(value) >= most if whole else math.isfinite(value) and abs(value) > float(info.max):
        raise invalid(f"Cannot convert JSON value: {_shown(value)} to {_type_name(dtype)} without loss of precision.")
    return float(value)


def _array(leaves: list, shape: list[int], dtype: int) -> np.ndarray:
    of = tf.as_dtype(dtype)
    return np.array(leaves, object if of == tf.string else of.as_numpy_dtype).reshape(shape)


def _check(arrays: dict[str, np.ndarray], known: Mapping[str, Any], limits: Limits) -> None:
    for name, value in arrays.items():
        expected = tf.TensorShape(known[name].tensor_shape)
        if not expected.is_compatible_with(value.shape):
            sizes = [-1 if size is None else size for size in expected.as_list()]
            raise invalid(f"Input {name} has shape {_sizes(list(value.shape))}, expected {_sizes(sizes)}")
        if value.ndim and len(value) > limits.max_prompts:
            raise invalid(f"Input {name} has {len(value)} rows: at most {limits.max_prompts} are allowed in a request")
    most = arrays.get("max_new_tokens", np.zeros(0))
    if most.size and most.max() > limits.max_new_tokens:
        raise invalid(f"max_new_tokens is {most.max()}: at most {limits.max_new_tokens} are allowed")


def _answer(outputs: dict[str, np.ndarray], by_row: bool) -> bytes:
    values = {name: _values(value, name.endswith("_bytes")) for name, value in sorted(outputs.items())}
    if not by_row:
        answer: dict[str, Any] = {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    else:
        sizes = {name: len(value) if value.ndim else -1 for name, value in outputs.items()}
        if min(sizes.values()) < 1 or len(set(sizes.values())) > 1:
            raise invalid(f"Tensor names: {', '.join(outputs)} have inconsistent batch sizes: {', '.join(map(str, sizes.values()))}")
        names = list(values)
        rows = zip(*values.values(), strict=True)
        answer = {"predictions": [dict(zip(names, row, strict=True)) if len(names) > 1 else row[0] for row in rows]}
    return json.dumps(answer, ensure_ascii=False).encode()


def _values(value: np.ndarray, as_bytes: bool) -> Any:
    if value.dtype.kind == "f" and value.dtype != np.float64:  # 0.1 as 0.1, and not as the double that is nearest to the float
        return np.array([float(str(each)) for each in value.ravel()]).reshape(value.shape).tolist()
    if value.dtype.kind != "O":
        return value.tolist()
    text = (lambda item: {"b64": base64.b64encode(item).decode()}) if as_bytes else (lambda item: item.decode("utf-8", "replace"))
    if not value.ndim:
        return text(value.item())
    flat = np.empty(value.size, object)
    flat[:] = [text(item) for item in value.ravel()]
    return flat.reshape(value.shape).tolist()


def _type_name(dtype: int) -> str:
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    return {dict: "Object", list: "Array", str: "String"}.get(type(value), "Number")


def _shown(value: Any) -> str:
    try:
        return _cut(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        return "..."


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
