"""`keras_lm-serve` as a program."""

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from keras_lm.export.tflite import export_lite_model
from tests.serving.conftest import wait_for

SERVE = [sys.executable, "-c", "from keras_lm.cli.serve import main; main()"]


def refused(*arguments, **environment):
    """Its one line, without having spent the time that TensorFlow takes to be imported."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*SERVE, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, **environment})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    return line.removeprefix("keras_lm-serve: ")


@contextlib.contextmanager
def started(*arguments, **environment):
    """The program and a client of it."""
    process = subprocess.Popen(
        [*SERVE, *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    errors = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr))
    reader.start()
    try:
        line = process.stdout.readline()
        assert line.startswith("serving "), "".join(errors)
        with httpx.Client(base_url=re.search(r"http://\S+", line)[0], timeout=120) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


def test_help():
    done = subprocess.run([*SERVE, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--max-queue N" in done.stdout and "/healthz" in done.stdout


def test_what_cannot_be_served_is_said_in_one_line(exported, tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_LM_TOKEN", raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "token").write_text("two words")
    (tmp_path / "model.tflite").write_text("no such thing")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert refused(exported, "--port", port) == f"port {port} is in use: stop what listens there, or give another with --port"
    open_to_others = "0.0.0.0 is open to other machines: give a token (--token-file, KERAS_LM_TOKEN), or --allow-open"
    for arguments, words in (
        (["nowhere"], "no such folder: nowhere"),
        (["empty"], "empty holds neither an export (saved_model.pb) nor a run (settings.yaml)"),
        (["model.tflite"], "model.tflite is not a LiteRT file"),
        ([exported, "--host", "0.0.0.0"], open_to_others),
        ([exported, "--port", "70000"], "--port must be from 0 to 65535, got 70000"),
        ([exported, "--host", "192.0.2.1", "--allow-open"], "--host 192.0.2.1 is no address of this machine"),
        ([exported, "--max-queue", "0"], "max_queue must be at least 1, got 0"),
        ([exported, "--name", "a/b"], "--name must be a word without / and :, got 'a/b'"),
        ([exported, "--labels", "stable"], "--labels takes LABEL=VERSION, got 'stable'"),
        ([exported, "--format", "cn"], "unknown format 'cn': did you mean 'en'? (known: chatml, en, zh)"),
        ([exported, "--token-file", "token"], "token must hold one word of ASCII characters, the token"),
        ([exported, "--prot", "1"], "unknown argument --prot: did you mean --port?"),
    ):
        assert refused(*arguments) == words


def test_sigterm_finishes_what_runs_and_then_ends_well(exported):
    """The whole text comes; a request on a connection that is open then is refused; the status is 0."""
    with started(exported, "--no-xla", KERAS_LM_TOKEN="secret") as (process, client):
        assert client.get("/v1/models").status_code == 401
        client.headers["Authorization"] = "Bearer secret"
        asked = {"model": "tiny", "prompt": "中国", "max_tokens": 50, "min_tokens": 50, "seed": 1}
        expected = client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
        with client.stream("POST", "/v1/completions", json={**asked, "n": 8, "stream": True}) as answer:
            lines = answer.iter_lines()
            events = [next(lines)]
            process.send_signal(signal.SIGTERM)
            events += lines
        chunks = [json.loads(line.removeprefix("data: ")) for line in events if line and line != "data: [DONE]"]
        text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == 0)
        assert text == expected
        assert events[-1] in ("data: [DONE]", "")
        assert process.wait(60) == 0


@pytest.mark.slow
def test_a_run_is_exported_first(small_run):
    with started(small_run.folder, "--no-xla", "--name", "small") as (_, client):
        assert client.get("/v1/models").json()["data"][0]["id"] == "small"
        assert client.post("/v1/models/small:predict", json={"instances": ["The "]}).status_code == 200
        assert client.post("/v1/completions", json={"model": "small", "prompt": "The "}).status_code == 200


def test_a_litert_file(tiny, tmp_path):
    """Says what its generator says, one text after the other, and has no signatures."""
    from keras_lm.export.tflite_generator import TFLiteGenerator
    from keras_lm.generation.settings import SamplingSettings

    path = export_lite_model(*tiny, tmp_path / "tiny")
    expected = TFLiteGenerator(path).generate("中国", SamplingSettings(max_new_tokens=12, seed=4, num_samples=3))
    with started(path) as (_, client):
        asked = {"model": "tiny", "prompt": "中国", "max_tokens": 12, "seed": 4, "n": 3}
        answer = client.post("/v1/completions", json=asked).json()
        assert [choice["text"] for choice in answer["choices"]] == [text for text, _ in expected]
        answer = client.post("/v1/completions", json={**asked, "logprobs": 1})
        assert (answer.status_code, "log-probabilities" in answer.json()["error"]["message"]) == (400, True)
        answer = client.post("/v1/models/tiny:predict", json={"instances": ["a"]})
        assert (answer.status_code, "LiteRT" in answer.json()["error"]) == (400, True)
        assert client.get("/v1/models/tiny/metadata").json()["metadata"]["signature_def"]["signature_def"] == {}
        text = client.post("/v1/completions", json={**asked, "n": 1, "stream": True}).text
        assert text.endswith("data: [DONE]\n\n")
        wait_for(lambda: 'keras_lm_texts_running{model="tiny",version="1"} 0.0' in client.get("/metrics").text)
