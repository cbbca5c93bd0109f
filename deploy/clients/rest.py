"""A client for the REST interface of TensorFlow Serving, with the standard library alone.

    python deploy/clients/rest.py --prompt 中国 --temperature 0.7 --seed 1
    python deploy/clients/rest.py --signature score --text 中国人民 --text 民人国中

One line of JSON comes out for each text. From Python:

    answer = rest.predict("http://localhost:8501", "quickstart", "generate", ["中国"], temperature=0.7)
    print(answer["text"][0])

REST knows no defaults: all inputs of a signature must be in the request, so the client fills in those that are not given.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

import signatures

PROGRAM = "rest.py"


def body(signature: str, texts: Sequence[str], *, rows: bool = False, **values: Any) -> bytes:
    """The body of a `:predict` request.

    Args:
        signature: The signature's name.
        texts: The prompts, or the texts to score.
        rows: An object for each text (`instances`) instead of a list for each input (`inputs`).
        **values: Other inputs of the signature.

    >>> body("next_token", ["a"], k=2)
    b'{"signature_name": "next_token", "inputs": {"prompts": ["a"], "k": [2]}}'
    >>> body("next_token", ["a"], k=2, rows=True)
    b'{"signature_name": "next_token", "instances": [{"prompts": "a", "k": 2}]}'
    """
    return encoded(signature, signatures.columns(signature, texts, **values), rows)


def encoded(signature: str, columns: dict[str, list], rows: bool = False) -> bytes:
    """The same, from columns."""
    if rows:
        content = {"instances": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}
    else:
        content = {"inputs": columns}
    return json.dumps({"signature_name": signature, **content}).encode()


def address(server: str, model: str, version: int | None = None, label: str | None = None) -> str:
    """Where a model answers, without `:predict`; this alone tells its state.

    >>> address("http://localhost:8501/", "quickstart", label="stable")
    'http://localhost:8501/v1/models/quickstart/labels/stable'
    """
    which = f"/versions/{version}" if version is not None else f"/labels/{urllib.parse.quote(label)}" if label else ""
    return f"{server.rstrip('/')}/v1/models/{urllib.parse.quote(model)}{which}"


def call(url: str, data: bytes | None, timeout: float) -> dict[str, Any]:
    """Sends a request (a GET without data) and reads the JSON that comes back.

    Raises:
        ConnectionError: no server there, no answer in time, or an answer that says what is wrong.
    """
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = json.loads(text)["error"]
        raise ConnectionError(f"the server answers {error.code}: {text}") from error
    except TimeoutError as error:
        raise ConnectionError(f"no answer from {url} within {timeout:g} seconds") from error
    except (urllib.error.URLError, OSError) as error:
        raise ConnectionError(f"no server at {url}: {getattr(error, 'reason', error)}") from error
    except (ValueError, http.client.HTTPException) as error:
        raise ConnectionError(f"what answers at {url} is no TensorFlow Serving: {error}") from error


def outputs(answer: dict[str, Any]) -> dict[str, list]:
    """The columns of an answer in either form. Where a signature has one output, the server leaves out its name: here it is `text`.

    >>> outputs({"predictions": [{"text": "b", "num_tokens": 1}]})
    {'text': ['b'], 'num_tokens': [1]}
    """
    if "outputs" in answer:
        content = answer["outputs"]
        return content if isinstance(content, dict) else {"text": content}
    content = answer["predictions"]
    if not isinstance(content[0], dict):
        return {"text": content}
    return {name: [row[name] for row in content] for name in content[0]}


def predict(server: str, model: str, signature: str, texts: Sequence[str], *, timeout: float = 60.0, **values: Any) -> dict[str, list]:
    """Calls a signature of a model's newest version: a list for each output, with a value for each text."""
    return outputs(call(address(server, model) + ":predict", body(signature, texts, **values), timeout))


def main() -> int:
    parser = signatures.parser(PROGRAM, "Asks TensorFlow Serving for texts, over REST.", "http://localhost:8501")
    signatures.add_inputs(parser)
    parser.add_argument("--rows", action="store_true", help="send an object for each text (instances), not a list for each input (inputs)")
    options = parser.parse_args()
    try:
        columns = signatures.given(options)
        url = address(options.server, options.model, options.version, options.label)
        answer = call(url + ":predict", encoded(options.signature, columns, options.rows), options.timeout)
    except (ValueError, ConnectionError) as error:
        return signatures.fail(PROGRAM, str(error))
    signatures.show(options.texts, outputs(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
