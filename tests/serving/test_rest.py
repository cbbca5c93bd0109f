"""TF Serving's REST interface, case by case, over a real socket; the words are those of its sources."""

import base64
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.export.saved_model import ExportedGenerator
from keras_lm.generation.settings import SamplingSettings

ROUTE = "/v1/models/tiny:predict"


def generate(**knobs):
    settings = SamplingSettings(**knobs)
    names = (
        "max_new_tokens min_new_tokens repetition_penalty presence_penalty frequency_penalty no_repeat_ngram_size "
        "temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff seed"
    )
    return {name: getattr(settings, name) for name in names.split()}


def refused(client, body, status=400, route=ROUTE):
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    answer = client.post(route, content=content)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    return answer.json()["error"]


@pytest.fixture(scope="module")
def texts(exported):
    """What the library says of the same export."""
    return [each.text for each in ExportedGenerator(exported).generate(["中国", "abc"], SamplingSettings(max_new_tokens=12, seed=3))]


def test_rows_and_columns_say_what_the_library_says(client, texts):
    knobs = generate(max_new_tokens=12)
    seeds = [3, 4]
    rows = [{"prompts": prompt, **knobs, "seed": seed} for prompt, seed in zip(["中国", "abc"], seeds, strict=True)]
    by_row = client.post(ROUTE, json={"signature_name": "generate", "instances": rows}).json()["predictions"]
    assert [row["text"] for row in by_row] == texts
    columns = {"prompts": ["中国", "abc"], **{name: [value] * 2 for name, value in knobs.items()}, "seed": seeds}
    outputs = client.post(ROUTE, json={"signature_name": "generate", "inputs": columns}).json()["outputs"]
    assert outputs == {name: [row[name] for row in by_row] for name in by_row[0]}


def test_a_single_input_may_stand_without_its_name(client):
    by_row = client.post(ROUTE, json={"instances": ["中国", "abc"]}).json()["predictions"]
    assert sorted(by_row[0]) == ["finish_reason", "num_tokens", "text"]
    assert client.post(ROUTE, json={"instances": [{"prompts": "中国"}, {"prompts": "abc"}]}).json()["predictions"] == by_row
    assert client.post(ROUTE, json={"inputs": ["中国", "abc"]}).json()["outputs"]["text"] == [row["text"] for row in by_row]
    assert client.post(ROUTE, json={"inputs": {"prompts": ["中国"]}}).json()["outputs"]["text"] == [by_row[0]["text"]]


def test_binary_strings_are_base64(client):
    """Of a row, of a plain list, and in columns; bytes that are not UTF-8 become U+FFFD, as in any export."""
    encoded = {"b64": base64.b64encode("中国".encode()).decode()}
    expected = client.post(ROUTE, json={"instances": ["中国"]}).json()
    assert client.post(ROUTE, json={"instances": [{"prompts": encoded}]}).json() == expected
    assert client.post(ROUTE, json={"inputs": [encoded]}).json()["outputs"]["text"] == [expected["predictions"][0]["text"]]
    assert client.post(ROUTE, json={"instances": [{"prompts": {"b64": "//8="}}]}).status_code == 200
    assert "Unable to base64 decode" in refused(client, {"instances": [{"prompts": {"b64": "*"}}]})


def test_floats_are_written_as_short_as_they_are(client, exported):
    answer = client.post(ROUTE, json={"signature_name": "next_token", "inputs": {"prompts": ["a"], "k": [3]}})
    written = json.loads(answer.content, parse_float=str)["outputs"]["probabilities"][0]
    loaded = tf.saved_model.load(str(exported / "1"))
    expected = loaded.signatures["next_token"](prompts=tf.constant(["a"]), k=tf.constant([3]))["probabilities"].numpy()[0]
    assert all(len(text.lstrip("0.")) <= 9 for text in written)
    np.testing.assert_array_equal(np.array(written, np.float32), expected)


def test_the_state_of_a_model(client):
    expected = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for route in ("/v1/models/tiny", "/v1/models/tiny/versions/1"):
        assert client.get(route).json() == {"model_version_status": [expected]}
    assert client.head("/v1/models/tiny").status_code == 200
    assert client.get("/v1/models/half").json() == {"error": "Could not find any versions of model half"}
    assert client.get("/v1/models/tiny/versions/7").json() == {"error": "Could not find version 7 of model tiny"}
    assert client.get("/v1/models/tiny/versions/7").status_code == 404


def test_metadata(client):
    answer = client.get("/v1/models/tiny/metadata").json()
    assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "1"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) >= {"serving_default", "generate", "score", "next_token", "step", "attention"}
    info = signatures["serving_default"]["inputs"]["prompts"]
    assert info["dtype"] == "DT_STRING"
    assert info["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert signatures["serving_default"]["method_name"] == "tensorflow/serving/predict"
    assert client.get("/v1/models/tiny/versions/1/metadata").json() == answer


def test_attention_for_the_page(client):
    outputs = client.post(ROUTE, json={"signature_name": "attention", "inputs": {"texts": ["中国"]}}).json()["outputs"]
    assert outputs["tokens"][0][-2:] == ["中", "国"]
    assert np.array(outputs["weights"]).shape == (1, 2, 2, len(outputs["tokens"][0]), len(outputs["tokens"][0]))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
        (b'{"instances": ["\xff"]}', "JSON Parse error: Invalid encoding in string."),
        ('{"instances": ["\\ud800"]}', "JSON Parse error: The surrogate pair in string is invalid."),
        ("[" * 100_000, "JSON Parse error: The document is nested too deeply."),
        (f'{{"instances": [{"9" * 5000}]}}', "JSON Parse error: Number too big"),
        ("[1]", "JSON Value: [1] Is not object"),
        ({"signature_name": 5, "instances": ["a"]}, "'signature_name' key must be a string value."),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": ["a"], "instances": ["a"]}, "expecting only one of 'inputs' or 'instances' keys to exist"),
        ({"instances": "a"}, "Excepting 'instances' to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"signature_name": "none", "instances": ["a"]}, 'Serving signature name: "none" not found in signature def'),
        ({"instances": [1]}, "JSON Value: 1 Type: Number is not of expected type: string"),
        ({"instances": [None]}, "JSON Value: null Type: Null is not of expected type: string"),
        ({"instances": ["a", ["b", "c"]]}, "Expecting tensor size: 1 but got: 2"),
        ({"instances": [["a", "b"], ["a", ["b"]]]}, "Encountered list at unexpected level: 1 expected < 1"),
        ({"instances": [["a"], [["b"]]]}, "Expecting shape [1] but got: [1,1]"),
        ({"instances": ["a", {"prompts": "b"}]}, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": [{"prompts": "b"}, "a"]}, "Expecting object but got list at item 1 of input list"),
        ({"instances": [{"prompt": "b"}]}, "key: prompt of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named"),
        ({"instances": [{}]}, "JSON object: {} keys must be equal to: prompts"),
        ({"instances": [[["a"]]]}, "Input prompts has shape [1,1,1], expected [-1]"),
        ({"inputs": "a"}, "Input prompts has shape [], expected [-1]"),
        ({"inputs": {"prompt": ["a"]}}, "Missing named input: prompts in 'inputs' object."),
        ({"inputs": [["a"], "b"]}, "found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ({"inputs": [["a"], ["b", "c"]]}, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ({"signature_name": "next_token", "instances": ["a"]}, "instances is a plain list, but expecting list of objects"),
        ({"signature_name": "next_token", "inputs": ["a"]}, "inputs is a plain value/list, but expecting an object"),
        ({"signature_name": "next_token", "inputs": {"prompts": ["a"]}}, "Missing named input: k in 'inputs' object."),
        ({"signature_name": "next_token", "inputs": {"prompts": ["a"], "k": [1.5]}}, "Type: Number is not of expected type: int32"),
        ({"signature_name": "next_token", "inputs": {"prompts": ["a"], "k": [2**31]}}, "is not of expected type: int32"),
        ({"signature_name": "next_token", "inputs": {"prompts": ["a"], "k": [True]}}, "Type: True is not of expected type: int32"),
        ({"signature_name": "next_token", "inputs": {"prompts": ["a"], "k": [{"b64": "YQ=="}]}}, "Object is not of expected type: int32"),
        ({"instances": ["a"] * 33}, "Input prompts has 33 rows: at most 32 are allowed"),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_tf_serving(client, body, words):
    assert words in refused(client, body)


def test_numbers_that_no_float_holds_and_those_that_are_none(client):
    knobs = {name: [value] for name, value in generate(max_new_tokens=3).items()}
    ask = lambda value: {"signature_name": "generate", "inputs": {"prompts": ["a"], **knobs, "temperature": [value]}}
    assert "Cannot convert JSON value: 1e+39 to float without loss of precision." in refused(client, ask(1e39))
    assert "without loss of precision" in refused(client, ask(2**24 + 1))
    for value in ("NaN", "Infinity", "-Infinity", "1e999", "1"):  # a knob that is no number has its default, one out of range the nearest
        assert client.post(ROUTE, content=json.dumps(ask(0)).replace('"temperature": [0]', f'"temperature": [{value}]')).status_code == 200
    many = {**ask(1.0)["inputs"], "max_new_tokens": [5000]}
    assert "max_new_tokens is 5000: at most 4096" in refused(client, {"signature_name": "generate", "inputs": many})


def test_routes_that_are_none(client):
    for method, path in (
        ("GET", "/v1/foo"),
        ("POST", "/v1/foo"),
        ("POST", "/v1/models/tiny"),
        ("GET", "/v1/models/tiny:predict"),
        ("PUT", "/v1/models/tiny"),
        ("POST", "/v1/models/tiny/version/1:predict"),
        ("POST", "/v1/models/tiny/versions/HELLO:predict"),
        ("POST", "/v1/models/tiny/versions/1:explain"),
        ("GET", "/v1/models/%2e%2e/%2e%2e/etc/passwd"),
    ):
        answer = client.request(method, path)
        assert answer.status_code == 400, (method, path)
        assert answer.json()["error"].startswith(f"Malformed request: {method} /v1/")
    assert "Failed to convert version" in refused(client, {}, route=f"/v1/models/tiny/versions/{2**64 - 1}:predict")
    assert client.get("/elsewhere").status_code == 404


def test_models_versions_and_labels_that_are_none(client):
    assert refused(client, {"instances": ["a"]}, 404, "/v1/models/half:predict") == "Servable not found for request: Latest(half)"
    answer = refused(client, {"instances": ["a"]}, 404, "/v1/models/tiny/versions/99:predict")
    assert answer == "Servable not found for request: Specific(tiny, 99)"
    answer = refused(client, {"instances": ["a"]}, 400, "/v1/models/tiny/labels/canary:predict")
    assert answer == "Unrecognized servable version label: canary"


def test_classify_and_regress_need_a_signature_of_that_method(client):
    examples = {"examples": [{"x": 1.0}]}
    for method, kind in (("classify", "classification"), ("regress", "regression")):
        answer = refused(client, examples, route=f"/v1/models/tiny:{method}")
        wanted = f"Expected {kind} signature method_name to be tensorflow/serving/{method}. Was: tensorflow/serving/predict"
        assert answer == wanted
    unknown = {"signature_name": "none", **examples}
    assert refused(client, unknown, route="/v1/models/tiny:regress") == "No signature was found with the name: none"
