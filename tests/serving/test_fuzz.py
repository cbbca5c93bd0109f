"""Whatever a client sends: an answer below 500, and the server goes on."""

import hypothesis
import schemathesis

from benchmarks.serving import GOOD, malformed


def test_malformed_bodies(client):
    statuses = set()
    for path, body in malformed("tiny", 200):
        answer = client.post(path, content=body)
        assert answer.status_code < 500, (path, body, answer.text)
        assert answer.status_code == 200 or "error" in answer.json()
        statuses.add(answer.status_code)
    assert statuses >= {200, 400}
    for path, body in GOOD.items():
        assert client.post(path.replace("NAME", "tiny"), json={**body, **({} if "NAME" in path else {"model": "tiny"})}).status_code == 200


def test_what_the_description_allows(address):
    """Requests that schemathesis makes of the server's own description."""
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")

    unhurried = list(hypothesis.HealthCheck)
    settings = hypothesis.settings(max_examples=15, deadline=None, suppress_health_check=unhurried, derandomize=True, database=None)
    for operation in schema.get_all_operations():

        @settings
        @hypothesis.given(case=operation.ok().as_strategy())
        def ask(case):
            answer = case.call(timeout=120)
            assert answer.status_code < 500, answer.text

        ask()
