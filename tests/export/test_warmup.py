import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from keras_lm import models
from keras_lm.export import layout
from keras_lm.export import served as graphs
from keras_lm.export.saved_model import export_model
from keras_lm.export.warmup import write_requests
from keras_lm.generation.settings import SamplingSettings
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer
from tests.export.session import Served


def recorded(version):
    """Model, signature and inputs of each request, as TF Serving reads them."""
    for record in tf.compat.v1.io.tf_record_iterator(f"{version}/{layout.WARMUP}"):
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        yield request.model_spec.name, request.model_spec.signature_name, inputs


@pytest.mark.slow
@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_request_runs(xla, tmp_path):
    """Each signature, each size of batch; every input with that many rows, for a server that batches demands it."""
    tokenizer = CharacterTokenizer.fit(["ab"])
    model = models.transformer_lm(tokenizer.vocabulary_size, context_length=8, embedding_dim=8, num_layers=1, num_heads=2)
    version = export_model(model, tokenizer, tmp_path / "name", xla=xla)
    served, seen = Served(version), set()
    requests = list(recorded(version))
    assert len(requests) <= 1000  # TF Serving reads no more
    for name, signature, inputs in requests:
        assert name == "name"
        assert set(inputs) == set(served.definitions[signature].inputs)
        (rows,) = {len(value) for value in inputs.values()}
        seen.add((signature, rows))
        if not xla or rows < 4:
            for output in served(signature, inputs).values():
                assert len(output) == rows
    batches = (1, 2, 4, 8) if xla else (1, 4)
    names = ("serving_default", "generate", "score", "next_token", "step", "attention")
    assert seen == {(name, rows) for name in names for rows in batches}


def test_prompts_meet_each_bucket_and_are_text(tmp_path):
    model, settings = models.gru_lm(260, embedding_dim=4, hidden_dim=4), SamplingSettings()
    entries = graphs.Served(model, ByteTokenizer(), defaults=settings, xla=True).entries
    (tmp_path / layout.WARMUP).parent.mkdir()
    count = write_requests(tmp_path / layout.WARMUP, entries, ByteTokenizer(), name="bytes", context_length=None, xla=True)
    found = list(recorded(tmp_path))
    assert len(found) == count
    prompts = {inputs["prompts"][0].decode() for _, signature, inputs in found if signature == "serving_default"}
    assert sorted(map(len, prompts)) == [31, 63, 127]
    assert not any("\ufffd" in prompt for prompt in prompts)
