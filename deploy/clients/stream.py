"""A text token by token, with the `step` signature: the client keeps the state of the model and draws the tokens; the server computes.

    python deploy/clients/stream.py --export saved_models/quickstart/1 --prompt 中国

The first call reads the prompt, and every other call one token; each gives the logits for the next token and the state to send with it.
What the state is depends on the model, and the client need not know: whatever comes out beside the logits goes in again. Ids and
characters are matched with the tokenizer inside the export, of characters or of bytes; for sub-words a client has to bring SentencePiece
or WordPiece.

Keys and values of a Transformer grow with each call, and a server that batches refuses to put tensors of different lengths together: serve
streaming clients with BATCHING=false, or from a server of their own.
"""

from __future__ import annotations

import codecs
import json
import math
import pathlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc_client
import signatures

PROGRAM = "stream.py"
NEVER = (0, 1, 2)
"""Padding, the unknown token and the start of a document: no text holds them."""
END = 3
"""The token that ends a text."""


class Codec:
    """Text and ids, for the tokenizer that lies in an export.

    Args:
        folder: A version's folder, such as saved_models/quickstart/1.

    Raises:
        ValueError: no export there, or one whose text this client cannot take apart.
    """

    def __init__(self, folder: str):
        extra = pathlib.Path(folder) / "assets.extra"
        try:
            about = json.loads((extra / "keras_lm.json").read_text(encoding="utf-8"))
            tokenizer = json.loads((extra / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{folder} is no version of an export: {error.filename} is not there") from error
        if tokenizer["kind"] not in ("char", "byte") or about["clean"]:
            raise ValueError(f"{folder} has a {tokenizer['kind']} tokenizer and cleans with {about['clean']}: this client knows neither")
        self.context_length: int | None = about["context_length"]
        self._start = [2] if about["documents"] else []
        pieces = (
            [bytes([value]) for value in range(256)] if tokenizer["kind"] == "byte" else [text.encode() for text in tokenizer["vocabulary"]]
        )
        self._pieces = [b""] * 4 + pieces
        self._ids = {piece: number for number, piece in enumerate(self._pieces) if piece}
        self._bytes = tokenizer["kind"] == "byte"

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt, with the token that begins a document where the model was trained with one."""
        parts = [bytes([value]) for value in text.encode()] if self._bytes else [character.encode() for character in text]
        return (self._start + [self._ids.get(part, 1) for part in parts]) or [2]

    def decode(self, ids: Iterator[int]) -> Iterator[str]:
        """The text of ids as they come; bytes are held back until they are a character."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for number in ids:
            if text := decoder.decode(self._pieces[number]):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text


def tokens(
    step: Callable[[dict[str, Any]], dict[str, Any]],
    ids: Sequence[int],
    choose: Callable[[Sequence[float]], int],
    *,
    max_new_tokens: int,
    context_length: int | None = None,
) -> Iterator[int]:
    """The new tokens of a text, one by one.

    Args:
        step: Calls the signature: inputs in, outputs out.
        ids: The prompt.
        choose: From the logits of the next token to its id.
        max_new_tokens: The most to give.
        context_length: The most that prompt and text may be together; `None`: nothing bounds them.
    """
    if context_length is not None:
        max_new_tokens = min(max_new_tokens, max(context_length - len(ids), 0))
    state: dict[str, Any] = {}
    for _ in range(max_new_tokens):
        state = step({"ids": [list(ids)], **state})
        token = choose(state.pop("logits")[0])
        if token == END:
            return
        yield token
        ids = [token]


def chooser(temperature: float, seed: int) -> Callable[[Sequence[float]], int]:
    """Draws from the softmax of logits / temperature; 0 takes the most probable token."""
    generator = random.Random(seed)

    def choose(logits: Sequence[float]) -> int:
        allowed = [number for number in range(len(logits)) if number not in NEVER]
        best = max(allowed, key=lambda number: logits[number])
        if temperature == 0:
            return best
        weights = [math.exp((logits[number] - logits[best]) / temperature) for number in allowed]
        return generator.choices(allowed, weights)[0]

    return choose


def main() -> int:
    parser = signatures.parser(PROGRAM, "Streams a text from TensorFlow Serving, over gRPC.", "localhost:8500")
    parser.add_argument("--export", metavar="FOLDER", required=True, help="a version on this machine: its tokenizer is read")
    parser.add_argument("--prompt", metavar="TEXT", required=True)
    parser.add_argument("--max-new-tokens", type=int, metavar="N", default=128, help="default: %(default)s")
    parser.add_argument("--temperature", type=float, metavar="F", default=0.8, help="0 takes the most probable (default: %(default)s)")
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="default: %(default)s")
    options = parser.parse_args()
    try:
        codec = Codec(options.export)
        with grpc_client.connected(options.server) as server:

            def step(inputs: dict[str, Any]) -> dict[str, Any]:
                message = grpc_client.encoded(options.model, "step", inputs, options.version, options.label)
                return grpc_client.predict(server, message, options.timeout)

            choose = chooser(options.temperature, options.seed)
            limits = {"max_new_tokens": options.max_new_tokens, "context_length": codec.context_length}
            print(options.prompt, end="", flush=True)
            for text in codec.decode(tokens(step, codec.encode(options.prompt), choose, **limits)):
                print(text, end="", flush=True)
            print()
    except (ValueError, ConnectionError) as error:
        return signatures.fail(PROGRAM, str(error))
    except ImportError as error:
        return signatures.fail(PROGRAM, f"{error}: pip install grpcio tensorflow-serving-api")
    return 0


if __name__ == "__main__":
    sys.exit(main())
