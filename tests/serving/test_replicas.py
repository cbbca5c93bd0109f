"""Two replicas behind nginx, with the configuration of deploy/serve."""

import collections
import concurrent.futures
import contextlib
import re
import shutil
import socket
import subprocess
import time

import httpx
import pytest

from tests.serving.conftest import wait_for
from tests.serving.test_limits import ASKED, SlowEngine, connect, send, slow

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx on this machine")


@contextlib.contextmanager
def balancer(repository, folder, ports):
    """A client of nginx before these ports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    text = (repository / "deploy" / "serve" / "nginx.conf").read_text(encoding="utf-8").replace("/tmp/", f"{folder}/")
    for written, port in zip(("8501", "8601", "8602"), (own, *ports), strict=True):
        text = re.sub(rf"127\.0\.0\.1:{written}\b", f"127.0.0.1:{port}", text)
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{own}", timeout=60) as client:

            def answers():
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/healthz").status_code == 200

            wait_for(answers, 20)
            yield client
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def two(engines, repository, folder):
    """A client of nginx before a server for each engine."""
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(slow(engine)).base_url.port for engine in engines]
        yield stack.enter_context(balancer(repository, folder, ports))


def test_requests_are_spread_and_go_on_where_one_replica_ends(repository, tmp_path):
    engines = [SlowEngine(0.02), SlowEngine(0.02)]
    with two(engines, repository, tmp_path) as client:
        ask = lambda _: client.post("/v1/completions", json={**ASKED, "max_tokens": 20}).status_code
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert collections.Counter(pool.map(ask, range(24))) == {200: 24}
        assert min(len(engine.tickets) for engine in engines) >= 6
        with client.stream("POST", "/v1/completions", json={**ASKED, "max_tokens": 50, "stream": True}) as answer:
            lines = answer.iter_lines()
            began = time.monotonic()
            next(lines)
            assert time.monotonic() - began < 0.9  # of a text that takes a second
        engines[0].close()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert collections.Counter(pool.map(ask, range(24))) == {200: 24}


def test_a_client_that_goes_away_frees_its_place_behind_the_balancer(repository, tmp_path):
    engines = [SlowEngine(0.05), SlowEngine(0.05)]
    with two(engines, repository, tmp_path) as client:
        connection = connect(client)
        send(connection, {**ASKED, "max_tokens": 1000, "stream": True})
        assert connection.recv(100)
        connection.close()
        wait_for(lambda: all(ticket.cancelled.is_set() for engine in engines for ticket in engine.tickets), 20)
