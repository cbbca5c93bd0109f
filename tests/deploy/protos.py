"""Two messages of TensorFlow Serving that its Python package leaves out: BatchingParameters and MonitoringConfig.

The fields, with their numbers, are those of `session_bundle_config.proto` and `monitoring_config.proto`, so that the text files of deploy/
are read here as the server reads them: an unknown field or a wrong type is an error.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_FIELD = descriptor_pb2.FieldDescriptorProto
_INT64, _STRING, _BOOL = (
    f".{kind.DESCRIPTOR.full_name}" for kind in (wrappers_pb2.Int64Value, wrappers_pb2.StringValue, wrappers_pb2.BoolValue)
)

_MESSAGES = {
    "BatchingParameters": [
        ("max_batch_size", _INT64),
        ("batch_timeout_micros", _INT64),
        ("max_enqueued_batches", _INT64),
        ("num_batch_threads", _INT64),
        ("thread_pool_name", _STRING),
        ("allowed_batch_sizes", [_FIELD.TYPE_INT64]),
        ("pad_variable_length_inputs", _FIELD.TYPE_BOOL),
        ("enable_large_batch_splitting", _BOOL),
        ("max_execution_batch_size", _INT64),
    ],
    "PrometheusConfig": [("enable", _FIELD.TYPE_BOOL), ("path", _FIELD.TYPE_STRING)],
    "MonitoringConfig": [("prometheus_config", ".keras_lm.tests.PrometheusConfig")],
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="keras_lm/tests/serving.proto", package="keras_lm.tests", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, start=1):
            repeated, kind = isinstance(kind, list), kind[0] if isinstance(kind, list) else kind
            entry = message.field.add(name=field, number=number, label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL)
            if isinstance(kind, str):
                entry.type, entry.type_name = _FIELD.TYPE_MESSAGE, kind
            else:
                entry.type = kind
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
_pool.Add(_file())

BatchingParameters = message_factory.GetMessageClass(_pool.FindMessageTypeByName("keras_lm.tests.BatchingParameters"))
MonitoringConfig = message_factory.GetMessageClass(_pool.FindMessageTypeByName("keras_lm.tests.MonitoringConfig"))
