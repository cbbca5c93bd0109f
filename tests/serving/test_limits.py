"""Limits, tokens, names, clients that go away and clients that do not read, over real sockets."""

import contextlib
import http.client
import json
import socket
import threading
import time

import httpx
import pytest

from keras_lm.errors import UserError
from keras_lm.serving.engine import EngineClosed, Piece, QueueFull
from keras_lm.serving.settings import Limits
from keras_lm.serving.versions import Model, Version
from tests.serving.conftest import serving, wait_for


class Ticket:
    num_prompt_tokens = 1

    def __init__(self):
        self.cancelled = threading.Event()

    def cancel(self):
        self.cancelled.set()


class SlowEngine:
    """Says one letter after the other, up to `max_new_tokens`, as slowly as it is told."""

    running = waiting = 0

    def __init__(self, seconds: float = 0.01, most: int = 100):
        self.seconds, self.most, self.tickets, self.closed = seconds, most, [], False

    def count_tokens(self, prompt):
        return len(prompt)

    def submit(self, prompt, settings, deliver):
        if self.closed:
            raise EngineClosed("closed")
        if sum(not ticket.done for ticket in self.tickets) >= self.most:
            raise QueueFull("full")
        ticket = Ticket()
        ticket.done = False
        self.tickets.append(ticket)
        threading.Thread(target=self._write, args=(ticket, settings, deliver), daemon=True).start()
        return ticket

    def _write(self, ticket, settings, deliver):
        for number in range(1, settings.max_new_tokens + 1):
            if (self.seconds and ticket.cancelled.wait(self.seconds)) or ticket.cancelled.is_set():
                deliver(Piece("", [], 0, "cancelled"))
                break
            deliver(Piece("x" * 1000, [], 1, "length" if number == settings.max_new_tokens else ""))
        ticket.done = True

    def close(self, finish=True, timeout=None):
        self.closed = True


@contextlib.contextmanager
def slow(engine, limits=None, **options):
    """A client of a server over such an engine."""
    limits = limits or Limits()
    version = Version(1, 0, {"context_length": None}, str, [], engine=engine)
    model = Model("slow", "nowhere", limits, load=lambda *_: version)
    model.versions = {1: version}
    with serving([model], limits, **options) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


ASKED = {"model": "slow", "prompt": "a", "max_tokens": 3}


def connect(client):
    host, port = client.base_url.host, client.base_url.port
    return socket.create_connection((host, port), timeout=30)


def send(connection, body, path="/v1/completions"):
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)


def test_a_body_that_is_too_long(address):
    """With a Content-Length, before it is read; and in chunks without one."""
    with slow(SlowEngine(), Limits(max_body_bytes=2000)) as client:
        answer = client.post("/v1/completions", content=b"x" * 2001)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert "at most 2000 bytes" in answer.json()["error"]["message"]
        answer = client.post("/v1/completions", content=(b"x" * 100 for _ in range(40)))
        assert answer.status_code == 413
        assert client.post("/v1/completions", json=ASKED).status_code == 200


def test_more_tokens_than_are_allowed():
    with slow(SlowEngine(), Limits(max_new_tokens=5, max_prompt_tokens=10, max_prompts=2)) as client:
        for change, words in (
            ({"max_tokens": 6}, "max_tokens is 6: at most 5"),
            ({"prompt": "a" * 11}, "a prompt has 11 tokens: at most 10"),
            ({"n": 3}, "3 texts are asked for: at most 2"),
        ):
            answer = client.post("/v1/completions", json={**ASKED, **change})
            assert (answer.status_code, words in answer.json()["error"]["message"]) == (400, True)
        unsaid = client.post("/v1/completions", json={"model": "slow", "prompt": "a"}).json()
        assert unsaid["usage"]["completion_tokens"] == 5


def test_a_full_queue():
    """Of the texts of a request all are taken or none."""
    engine = SlowEngine(0.3, most=2)
    with slow(engine) as client:
        first = threading.Thread(target=client.post, args=["/v1/completions"], kwargs={"json": ASKED})
        first.start()
        wait_for(lambda: engine.tickets)
        answer = client.post("/v1/completions", json={**ASKED, "n": 2})
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        assert "at most 256 wait" in answer.json()["error"]["message"]
        assert engine.tickets[1].cancelled.wait(5)
        first.join()
        assert "keras_lm_queue_refusals_total 1.0" in client.get("/metrics").text


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_that_takes_too_long(streamed):
    engine = SlowEngine(5.0)
    with slow(engine, Limits(max_seconds=0.3)) as client:
        answer = client.post("/v1/completions", json={**ASKED, "stream": streamed})
        assert answer.status_code == 504
        assert "over 0.3 s" in answer.json()["error"]["message"]
        assert engine.tickets[0].cancelled.wait(5)


def test_a_stream_that_takes_too_long_ends_with_the_error():
    engine = SlowEngine(0.2)
    with slow(engine, Limits(max_seconds=0.7)) as client:
        lines = client.post("/v1/completions", json={**ASKED, "max_tokens": 50, "stream": True}).text.strip().split("\n\n")
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"
        assert engine.tickets[0].cancelled.wait(5)


def test_a_body_that_does_not_come():
    with slow(SlowEngine(), Limits(max_seconds=0.3)) as client, connect(client) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_goes_away_frees_its_place(streamed):
    engine = SlowEngine(0.05)
    with slow(engine) as client:
        connection = connect(client)
        send(connection, {**ASKED, "max_tokens": 1000, "stream": streamed})
        wait_for(lambda: engine.tickets)
        if streamed:
            assert connection.recv(100)
        time.sleep(0.2)
        assert not engine.tickets[0].cancelled.is_set()
        connection.close()
        assert engine.tickets[0].cancelled.wait(10)


def test_a_client_that_does_not_read_delays_no_one(monkeypatch):
    """Its text is ended once too much waits, others go on, and what it then reads ends with the reason."""
    engine = SlowEngine(0.0)
    with slow(engine, Limits(max_unread=64, max_new_tokens=100_000)) as client, connect(client) as connection:
        send(connection, {**ASKED, "max_tokens": 100_000, "stream": True})
        wait_for(lambda: engine.tickets)
        for _ in range(5):
            began = time.monotonic()
            assert client.post("/v1/completions", json=ASKED).status_code == 200
            assert time.monotonic() - began < 10
        assert engine.tickets[0].cancelled.wait(30)
        read = b""
        while b"\r\n0\r\n\r\n" not in read[-100:]:
            read += connection.recv(2**20)
        assert b'"code":"unread"' in read[-1000:]
        assert b"[DONE]" not in read
        assert "keras_lm_streams_cut_off_total 1.0" in client.get("/metrics").text


def test_a_client_that_never_reads_is_given_up(monkeypatch):
    monkeypatch.setattr("keras_lm.serving.streams.SEND_SECONDS", 0.5)
    with slow(SlowEngine(0.0), Limits(max_unread=64, max_new_tokens=100_000)) as client, connect(client) as connection:
        send(connection, {**ASKED, "max_tokens": 100_000, "stream": True})
        cut = lambda: 'route="/v1/completions",status="200"' in client.get("/metrics").text
        wait_for(cut, 20)


def test_a_token():
    with slow(SlowEngine(), token="secret-1") as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret-1"}, {"Authorization": "Bearer \xff"}):
            encoded = {name: value.encode("latin-1") for name, value in headers.items()}
            answer = client.post("/v1/completions", json=ASKED, headers=encoded)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert isinstance(client.get("/v1/models/slow", headers=encoded).json()["error"], str)
        assert client.get("/metrics").status_code == 401
        assert client.get("/").status_code == client.get("/healthz").status_code == 200
        assert client.post("/v1/completions", json=ASKED, headers={"Authorization": "Bearer secret-1"}).status_code == 200


def test_other_names_and_other_sites_are_not_answered():
    """So that no page of another site reaches the server through a person's browser, by its own name or by one that leads here."""
    with slow(SlowEngine()) as client:
        for headers, status in (
            ({"Host": "evil.example"}, 403),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),
            ({"Host": "[::1]:9000"}, 200),
        ):
            answer = client.post("/v1/completions", json=ASKED, headers=headers)
            assert answer.status_code == status, headers
            assert "access-control-allow-origin" not in answer.headers
    with slow(SlowEngine(), any_host=True) as client:
        assert client.post("/v1/completions", json=ASKED, headers={"Host": "model.example"}).status_code == 200


def test_a_failing_step_is_said():
    class Failing(SlowEngine):
        def _write(self, ticket, settings, deliver):
            deliver(Piece("x", [], 1))
            deliver(Piece("", [], 0, "error"))

    with slow(Failing()) as client:
        assert client.post("/v1/completions", json=ASKED).status_code == 500
        streamed = client.post("/v1/completions", json={**ASKED, "stream": True}).text
        assert "a step of the model failed" in streamed and "[DONE]" not in streamed


def test_an_engine_that_closes():
    engine = SlowEngine()
    with slow(engine) as client:
        engine.close()
        answer = client.post("/v1/completions", json=ASKED)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_the_page_and_its_policy():
    with slow(SlowEngine()) as client:
        answer = client.get("/")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        head = client.head("/")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(answer.content)))


def test_metrics_count_tokens_and_times():
    with slow(SlowEngine()) as client:
        for _ in range(2):
            client.post("/v1/completions", json=ASKED)
        client.get("/v1/nothing")
        text = client.get("/metrics").text
        for line in (
            'keras_lm_requests_total{route="/v1/completions",status="200"} 2.0',
            'keras_lm_requests_total{route="other",status="400"} 1.0',
            "keras_lm_new_tokens_total 6.0",
            "keras_lm_prompt_tokens_total 2.0",
            "keras_lm_time_to_first_token_seconds_count 2.0",
            "keras_lm_time_per_token_seconds_count 2.0",
            'keras_lm_texts_running{model="slow",version="1"} 0.0',
        ):
            assert line in text


def test_rubbish_instead_of_http(address):
    host, port = address.removeprefix("http://").split(":")
    for rubbish in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 1000, b"GET " + b"a" * 200_000):
        with socket.create_connection((host, int(port)), timeout=30) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(rubbish)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200


def test_limits_check_themselves():
    for name in ("max_body_bytes", "max_prompts", "max_queue", "max_connections"):
        with pytest.raises(UserError, match=f"{name} must be at least 1, got 0"):
            Limits(**{name: 0})
    for value in (0.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="max_seconds must be over 0"):
            Limits(max_seconds=value)
