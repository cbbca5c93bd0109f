"""The clients against an export: what they send fits its signatures, and what the stand-in answers is the library's text."""

import concurrent.futures
import dataclasses
import doctest
import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.generation.decode import Knobs, dtype_of
from keras_lm.generation.settings import FINISH_REASONS, SamplingSettings
from keras_lm.generation.text import TextGenerator

PROMPTS = ["The ", "the statement is a ", "中 a class", ""]
KNOBS = {"max_new_tokens": 20, "temperature": 0.9, "top_k": 20, "repetition_penalty": 1.2, "seed": 5}


@pytest.fixture(scope="module")
def generator(small_run):
    return TextGenerator(small_run.load_model(), small_run.load_tokenizer(), jit_compile=False)


@pytest.fixture(scope="module")
def definitions(saved_models):
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(saved_models / "quickstart" / "1"))
        return {name: graph.signature_def[name] for name in graph.signature_def}


def run(deploy, name, *arguments, **environment):
    command = [sys.executable, deploy / "clients" / name] if name.endswith(".py") else ["bash", deploy / "clients" / name]
    environment = {**os.environ, **environment}
    return subprocess.run([*map(str, command), *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=120)


def texts(generator, prompts, **knobs):
    """What the library gives, each prompt alone, with one seed for all, as the clients send it."""
    return [generator.generate([prompt], SamplingSettings(**knobs))[0].text for prompt in prompts]


def test_doctests(clients):
    for module in vars(clients).values():
        result = doctest.testmod(module)
        assert result.failed == 0
    assert doctest.testmod(clients.rest).attempted > 2


def test_knobs_of_the_clients_are_those_of_the_library(clients):
    assert list(clients.signatures.KNOBS) == list(Knobs.names())
    for field in dataclasses.fields(SamplingSettings):
        if field.name in Knobs.names():
            assert clients.signatures.KNOBS[field.name] == field.default
            assert type(clients.signatures.KNOBS[field.name]) is type(field.default)
            assert dtype_of(field.name) == (tf.int32 if isinstance(field.default, int) else tf.float32)


@pytest.mark.parametrize("name", ["rest.py", "grpc_client.py", "stream.py"])
def test_help_and_bad_flags_come_before_tensorflow(deploy, name):
    for flags, status in ((["--help"], 0), (["--nonsense"], 2)):
        command = [sys.executable, "-X", "importtime", deploy / "clients" / name, *flags]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == status
        assert not re.search(r"\b(tensorflow|numpy|grpc|keras_lm)\b", result.stderr)


@pytest.mark.parametrize("signature", ["serving_default", "generate", "score", "next_token"])
def test_requests_fit_the_signatures(clients, definitions, signature):
    """Names, dtypes and shapes of every input, with both protocols, and one axis for all, so that a server may batch."""
    inputs = definitions[signature].inputs
    columns = json.loads(clients.rest.body(signature, PROMPTS))["inputs"]
    assert set(columns) == set(inputs) == {clients.signatures.TEXTS[signature], *clients.signatures.VALUES[signature]}
    rows = json.loads(clients.rest.body(signature, PROMPTS, rows=True))["instances"]
    assert [set(row) for row in rows] == [set(inputs)] * len(PROMPTS)
    assert {name: [row[name] for row in rows] for name in inputs} == {name: columns[name] for name in inputs}
    request = clients.grpc_client.request("quickstart", signature, PROMPTS, label="stable")
    assert (request.model_spec.name, request.model_spec.signature_name, request.model_spec.version_label) == (
        "quickstart",
        signature,
        "stable",
    )
    assert set(request.inputs) == set(inputs)
    for name, info in inputs.items():
        assert request.inputs[name].dtype == info.dtype, name
        array = tf.make_ndarray(request.inputs[name])
        assert array.shape == (len(PROMPTS),) and tf.TensorShape(info.tensor_shape).is_compatible_with(array.shape)
        values = [value.decode() if isinstance(value, bytes) else value for value in array.tolist()]
        assert values == pytest.approx(columns[name]) if info.dtype == tf.float32.as_datatype_enum else values == columns[name]


def test_both_protocols_give_the_text_of_the_library(clients, server, generator):
    expected = texts(generator, PROMPTS, **KNOBS)
    for rows in (False, True):
        body = clients.rest.body("generate", PROMPTS, rows=rows, **KNOBS)
        url = clients.rest.address(f"http://127.0.0.1:{server.rest_port}", "quickstart", label="stable")
        assert clients.rest.outputs(clients.rest.call(url + ":predict", body, 60))["text"] == expected
    request = clients.grpc_client.request("quickstart", "generate", PROMPTS, version=1, **KNOBS)
    with clients.grpc_client.connected(f"127.0.0.1:{server.grpc_port}") as stub:
        answer = clients.grpc_client.predict(stub, request)
        assert answer["text"].tolist() == expected
        assert (answer["num_tokens"] <= 20).all() and set(answer["finish_reason"].tolist()) <= set(FINISH_REASONS)
        plain = clients.grpc_client.predict(stub, clients.grpc_client.request("quickstart", "serving_default", PROMPTS))
    assert plain["text"].tolist() == texts(generator, PROMPTS)
    assert clients.rest.predict(f"http://127.0.0.1:{server.rest_port}", "quickstart", "serving_default", PROMPTS)["text"] == texts(
        generator, PROMPTS
    )


def test_a_knob_a_row(clients, server, generator):
    rows = {"max_new_tokens": [3, 9, 5, 7], "temperature": [0.0, 0.5, 1.0, 0.0], "seed": [1, 2, 3, 4]}
    answer = clients.rest.predict(f"http://127.0.0.1:{server.rest_port}", "quickstart", "generate", PROMPTS, **rows)
    for number, prompt in enumerate(PROMPTS):
        knobs = {name: values[number] for name, values in rows.items()}
        assert answer["text"][number] == texts(generator, [prompt], **knobs)[0]


def test_score_and_next_token(clients, server, small_run):
    model, tokenizer = small_run.load_model(), small_run.load_tokenizer()
    url = f"http://127.0.0.1:{server.rest_port}"
    ids = [tokenizer.start_id, *tokenizer.tokenize(tf.constant(["The class"])).to_list()[0]]
    log_probabilities = tf.nn.log_softmax(model(np.array([ids]))[0]).numpy()
    score = clients.rest.predict(url, "quickstart", "score", ["The class"])
    expected = sum(log_probabilities[place, token] for place, token in enumerate(ids[1:]))
    assert score["log_likelihood"] == pytest.approx([expected], rel=1e-4)
    following = clients.rest.predict(url, "quickstart", "next_token", ["The class", "a"], k=[3, 2])
    best = np.argsort(-log_probabilities[-1])[:3]
    assert following["ids"][0] == best.tolist()
    assert following["probabilities"][0] == pytest.approx(np.exp(log_probabilities[-1][best]), rel=1e-3)
    assert following["ids"][1][2] == -1


def test_eight_clients_at_once_get_the_texts_they_would_get_alone(deploy, server, generator):
    """Programs of their own, whose requests the server puts into one batch."""
    prompts = [f"{'The' * (number % 3 + 1)} {number}" for number in range(8)]
    lengths = [5 + 3 * number for number in range(8)]
    sizes = server.models["quickstart"].versions[1].batchers["generate"].sizes
    before = len(sizes)

    def ask(number):
        flags = ["--server", f"http://127.0.0.1:{server.rest_port}", "--prompt", prompts[number], "--seed", number, "--temperature", 1.0]
        return run(deploy, "rest.py", *flags, "--max-new-tokens", lengths[number], *(["--rows"] if number % 2 else []))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, range(8)))
    for number, result in enumerate(results):
        assert result.returncode == 0, result.stderr
        line = json.loads(result.stdout)
        expected = texts(generator, prompts[number : number + 1], seed=number, temperature=1.0, max_new_tokens=lengths[number])
        assert (line["input"], line["text"]) == (prompts[number], expected[0])
    assert sum(sizes[before:]) == 8


def test_batched_requests_of_both_protocols_do_not_touch_each_other(clients, server, generator):
    """Threads that ask at the same moment, of sizes that do not fill a batch, so that the server merges and fills up."""
    url, settings = f"http://127.0.0.1:{server.rest_port}", {"temperature": 1.0, "max_new_tokens": 12}
    expected = [texts(generator, PROMPTS[: 1 + number % 3], seed=number, **settings) for number in range(12)]
    sizes = server.models["quickstart"].versions[1].batchers["generate"].sizes
    before = len(sizes)

    with clients.grpc_client.connected(f"127.0.0.1:{server.grpc_port}") as stub:

        def ask(number):
            prompts = PROMPTS[: 1 + number % 3]
            if number % 2:
                return clients.rest.predict(url, "quickstart", "generate", prompts, seed=number, **settings)["text"]
            request = clients.grpc_client.request("quickstart", "generate", prompts, seed=number, **settings)
            return clients.grpc_client.predict(stub, request)["text"].tolist()

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            assert list(pool.map(ask, range(12))) == expected
    assert len(sizes) - before < 12 and max(sizes[before:]) <= 16  # some were merged


def test_the_grpc_program(deploy, server, generator):
    flags = ["--server", f"127.0.0.1:{server.grpc_port}", "--prompt", "The ", "--seed", 3, "--label", "stable"]
    result = run(deploy, "grpc_client.py", *flags)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["text"] == texts(generator, ["The "], seed=3)[0]


@pytest.mark.slow
def test_streaming_gives_the_greedy_text_of_the_library(clients, deploy, saved_models, server, generator):
    """Token by token, the state in the client's hands."""
    codec = clients.stream.Codec(saved_models / "quickstart" / "1")
    with clients.grpc_client.connected(f"127.0.0.1:{server.grpc_port}") as stub:
        step = lambda inputs: clients.grpc_client.predict(stub, clients.grpc_client.encoded("quickstart", "step", inputs))
        for prompt in PROMPTS:
            pieces = list(
                codec.decode(
                    clients.stream.tokens(
                        step, codec.encode(prompt), clients.stream.chooser(0.0, 0), max_new_tokens=15, context_length=None
                    )
                )
            )
            assert "".join(pieces) == texts(generator, [prompt], temperature=0.0, max_new_tokens=15)[0]
            assert len(pieces) > 3
    flags = ["--export", saved_models / "quickstart" / "1", "--prompt", "The ", "--temperature", 0, "--max-new-tokens", 15]
    result = run(deploy, "stream.py", "--server", f"127.0.0.1:{server.grpc_port}", *flags)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "The " + texts(generator, ["The "], temperature=0.0, max_new_tokens=15)[0] + "\n"


def test_chooser_draws_from_the_softmax(clients):
    logits = [9.0, 9.0, 9.0, 0.0, np.log(3.0), -np.inf]
    choose = clients.stream.chooser(1.0, seed=0)
    drawn = [choose(logits) for _ in range(4000)]
    assert set(drawn) == {3, 4}  # never padding, the unknown token or a start
    assert drawn.count(4) / 4000 == pytest.approx(0.75, abs=0.03)
    assert clients.stream.chooser(0.0, seed=0)(logits) == 4


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def one_line(result, message):
    assert result.returncode != 0 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert message in result.stderr


def test_errors_of_the_rest_program_are_one_line(deploy, server):
    here = ["--server", f"http://127.0.0.1:{server.rest_port}", "--prompt", "The "]
    one_line(run(deploy, "rest.py", *here, "--model", "nope"), "the server answers 404: Could not find any versions of model nope")
    one_line(run(deploy, "rest.py", *here, "--version", 7), "the server answers 404: Could not find version 7 of model quickstart")
    one_line(run(deploy, "rest.py", *here, "--label", "nope"), "the server answers 400: Unrecognized servable version label: nope")
    one_line(run(deploy, "rest.py", "--server", f"http://127.0.0.1:{free_port()}", "--prompt", "a"), "no server at http://127.0.0.1")
    one_line(run(deploy, "rest.py", "--server", f"http://127.0.0.1:{server.grpc_port}", "--prompt", "a", "--timeout", 5), "rest.py: ")
    one_line(run(deploy, "rest.py", *here, "--temprature", 0.5), "unrecognized arguments: --temprature 0.5")
    one_line(run(deploy, "rest.py", *here, "--k", 3), "generate has no input k")
    one_line(run(deploy, "rest.py", *here, "--top-k", "many"), "--top-k: invalid int value: 'many'")
    one_line(run(deploy, "rest.py"), "required: --prompt")
    one_line(run(deploy, "rest.py", *here, *["--prompt", "a"] * 16), "Task size 17 is larger than maximum input batch size 16")


def test_errors_of_the_grpc_programs_are_one_line(clients, deploy, saved_models, server, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grpc_client.py", "--server", f"127.0.0.1:{free_port()}", "--prompt", "a", "--timeout", "5"])
    status = clients.grpc_client.main()
    one_line(subprocess.CompletedProcess([], status, *capsys.readouterr()), "grpc_client.py: no server")
    one_line(run(deploy, "stream.py", "--export", saved_models, "--prompt", "a"), "is no version of an export")
    with clients.grpc_client.connected(f"127.0.0.1:{server.grpc_port}") as stub:
        alone = clients.grpc_client.encoded("quickstart", "generate", {"prompts": ["a"]})
        assert clients.grpc_client.predict(stub, alone)["text"].shape == (1,)  # the knobs have defaults, of one row each
        for model, inputs, message in [
            ("quickstart", {"prompts": ["a", "b"]}, "must have equal 0th-dimension size"),
            ("nope", {"prompts": ["a"]}, "NOT_FOUND: Servable not found for request: nope"),
            ("quickstart", {"prompts": ["a"], "temprature": [0.5]}, "INVALID_ARGUMENT: Inputs contains invalid name"),
            ("quickstart", {"prompts": ["a"], "temperature": [1]}, "to be float32 but int32 is provided"),
            ("quickstart", {"prompts": ["a", "b"], "temperature": [0.5]}, "must have equal 0th-dimension size"),
        ]:
            with pytest.raises(ConnectionError, match=message):
                clients.grpc_client.predict(stub, clients.grpc_client.encoded(model, "generate", inputs))


def test_a_client_that_waits_too_long_says_so(clients):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(ConnectionError, match=r"within 0\.3 seconds"):
            clients.rest.predict(f"http://127.0.0.1:{port}", "quickstart", "generate", ["a"], timeout=0.3)


def test_rest_refuses_what_the_server_refuses(clients, server):
    """The rules of json_tensor.cc that a hand-written request meets."""
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/quickstart:predict"
    for body, message in [
        ({"instances": []}, "No values in 'instances' array"),
        ({"signature_name": "nope", "instances": ["a"]}, "not found in signature def"),
        ({"signature_name": "generate", "instances": ["a"]}, "instances is a plain list"),
        ({"signature_name": "generate", "inputs": {"prompts": ["a"], "seed": [1]}}, "Missing named input"),
        ({"signature_name": "generate", "instances": [{"prompts": "a", "sede": 1}]}, "does not have named input: sede"),
        ({"instances": [1]}, "is not of expected type: string"),
        ({"prompts": ["a"]}, "Missing 'inputs' or 'instances' key"),
    ]:
        with pytest.raises(ConnectionError, match=message):
            clients.rest.call(url, json.dumps(body).encode(), 30)


def test_curl(deploy, server, generator):
    result = run(deploy, "curl.sh", 'The "\\', SERVER=f"http://127.0.0.1:{server.rest_port}", METRICS="yes")
    assert result.returncode == 0, result.stderr
    answers = {question: answer for question, _, answer in (part.partition("\n") for part in result.stdout.split("\n# ")[1:])}
    assert "AVAILABLE" in answers["is it there, and which versions?"]
    plain = texts(generator, ['The "\\'])[0]
    assert json.loads(answers["a prompt, rows, the defaults of the model"])["predictions"][0]["text"] == plain
    assert json.loads(answers["two prompts, columns"])["outputs"]["text"] == [plain, plain]
    knobs = {"max_new_tokens": 20, "temperature": 0.7, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 1}
    assert json.loads(answers["the knobs, columns"])["outputs"]["text"] == texts(generator, ['The "\\'], **knobs)
    assert len(json.loads(answers["what comes next?"])["predictions"][0]["tokens"]) == 5
    assert "requests so far, for Prometheus" in answers
    assert re.search(r"request_count\{.*\} \d+", result.stdout)
    assert run(deploy, "curl.sh", "a", SERVER=f"http://127.0.0.1:{server.rest_port}", MODEL="nope").returncode != 0


def test_health_check_of_compose(deploy, server):
    """The very command, but for the port: healthy where the model is loaded, not where it is unknown or nobody listens."""
    import yaml

    from tests.deploy.test_configs import interpolated

    def healthy(port, **variables):
        compose = yaml.safe_load(interpolated((deploy / "compose.yaml").read_text(encoding="utf-8"), **variables))
        first, *command = compose["services"]["serving"]["healthcheck"]["test"]
        assert first == "CMD"
        command = [word.replace("/8501", f"/{port}") for word in command]
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0

    assert healthy(server.rest_port)
    assert not healthy(server.rest_port, MODEL="nope")
    assert not healthy(free_port())
