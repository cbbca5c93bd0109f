"""`keras_lm-serve` under load: real HTTP on loopback, every answer compared with the library's text for its seed.

    python benchmarks/serving.py --run runs/quickstart
    python benchmarks/serving.py --export saved_models/quickstart --seconds 10 --clients 20

Prints, for one client, for 32 and for --clients at once: answers that were lost, cut or wrong, tokens a second, seconds to the first token
and a token; what a client that does not read costs the others; resident memory before and after; and what 2,000 malformed requests met.
Prompts are of 1 to half a context of tokens, texts of 8 to --max-new-tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_REQUESTS = 96  # different ones, which the clients send in turns
_HANGS = 60.0  # seconds after which an answer counts as lost


@dataclasses.dataclass
class Answer:
    """What came of a request: `lost`, `cut`, `wrong` or `right`."""

    kind: str
    first: float = float("nan")  # seconds to the first token
    token: float = float("nan")  # seconds a token after it
    num_tokens: int = 0


async def ask(port: int, request: dict[str, Any], expected: str | None) -> Answer:
    """Streams an answer, and compares its text."""
    answer = Answer("lost")
    try:
        async with _timeout(_HANGS):
            answer = await _ask(port, request, expected)
    except (OSError, asyncio.TimeoutError, ValueError):
        pass
    return answer


async def _ask(port: int, request: dict[str, Any], expected: str | None) -> Answer:
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            _message("/v1/completions", json.dumps({**request, "stream": True, "stream_options": {"include_usage": True}}).encode())
        )
        status = await reader.readline()
        if b" 200 " not in status:
            return Answer("lost")
        text, first, last, tokens, done = "", None, None, 0, False
        async for line in reader:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                done = True
                break
            event, now = json.loads(line[6:]), time.perf_counter()
            for choice in event["choices"]:
                text += choice["text"]
                first, last = first or now, now
            if event["usage"]:
                tokens = event["usage"]["completion_tokens"]
    finally:
        writer.close()
    if not done:
        return Answer("cut")
    kind = "right" if expected is None or text == expected else "wrong"
    return Answer(kind, first - began, (last - first) / max(1, tokens - 1), tokens)


def _message(path: str, body: bytes) -> bytes:
    # HTTP/1.0: the answer comes without chunks, up to the end of the connection
    return f"POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def _timeout(seconds: float):
    task = asyncio.current_task()
    handle = asyncio.get_running_loop().call_later(seconds, task.cancel)
    try:
        yield
    except asyncio.CancelledError:
        raise asyncio.TimeoutError from None
    finally:
        handle.cancel()


async def load(port: int, work: Sequence[tuple[dict, str]], clients: int, seconds: float) -> tuple[list[Answer], float]:
    """What so many clients get, each of which asks again as soon as it has its answer; and how long that took."""
    began, answers, turns = time.perf_counter(), [], iter(range(sys.maxsize))

    async def client() -> None:
        while time.perf_counter() - began < seconds:
            answers.append(await ask(port, *work[next(turns) % len(work)]))

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers, time.perf_counter() - began


@contextlib.asynccontextmanager
async def stalled(port: int, request: dict[str, Any], clients: int):
    """So many clients that ask for long texts and never read."""
    writers = []
    for _ in range(clients):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(_message("/v1/completions", json.dumps({**request, "logprobs": 20, "stream": True}).encode()))
        writers.append(writer)
    yield
    for writer in writers:
        writer.close()


GOOD = {
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    "/v1/models/NAME:predict": {"signature_name": "next_token", "inputs": {"prompts": ["a"], "k": [2]}},
}
"""A good body for each route; those of OpenAI's want `model` besides."""


def malformed(name: str, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Requests with something wrong, mostly: values of other kinds, other names, bytes taken out or put in. Path and body."""
    rng = random.Random(seed)
    words = ("model", name, "prompt", "n", "max_tokens", "instances", "inputs", "prompts", "signature_name", "generate", "b64", "中", "")
    numbers = (0, 1, -1, 2**31, 2**63, 10**30, 1.5, -0.0, 1e308, float("nan"), float("inf"), None, True, False)

    def value(depth: int = 0) -> Any:
        kind = rng.randrange(4 if depth < 5 else 2)
        if kind < 2:
            return rng.choice((words, numbers)[kind])
        if kind == 2:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        return {rng.choice(words): value(depth + 1) for _ in range(rng.randrange(5))}

    for number in range(count):
        path = rng.choice(list(GOOD))
        good = {**({} if "NAME" in path else {"model": name}), **GOOD[path]}
        if number % 4 == 0:
            content = json.dumps(value()).encode()
        elif number % 4 == 1:
            content = json.dumps({**good, rng.choice(list(good)): value()}).encode()
        else:
            damaged = bytearray(json.dumps(good).encode())
            for _ in range(rng.randrange(1, 5)):
                place = rng.randrange(len(damaged))
                damaged[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
            content = bytes(damaged)
        yield path.replace("NAME", name), content


async def fuzz(port: int, name: str, count: int) -> collections.Counter[str]:
    """The statuses that malformed requests met, `hang` for none."""
    statuses: collections.Counter[str] = collections.Counter()
    requests = malformed(name, count)

    async def client() -> None:
        for path, body in requests:
            status = "hang"
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                async with _timeout(_HANGS):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(_message(path, body))
                    status = (await reader.readline()).decode().split()[1]
                    await reader.read()
                    writer.close()
            statuses[status] += 1

    await asyncio.gather(*(client() for _ in range(8)))
    return statuses


@contextlib.contextmanager
def server(model: pathlib.Path, name: str) -> Iterator[tuple[int, int]]:
    """Port and process id of a server."""
    program = [sys.executable, "-c", "from keras_lm.cli.serve import main; main()", str(model), "--port", "0", "--name", name]
    process = subprocess.Popen([*program, "--max-queue", "1000"], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        yield int(re.search(r":(\d+)/", line)[1]), process.pid
    finally:
        process.terminate()
        process.wait()


def resident(process: int) -> float:
    """MB of memory that a process has."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def requests_with_texts(model: pathlib.Path, is_run: bool, name: str, longest: int) -> list[tuple[dict, str]]:
    """Requests of all lengths, each with what the library says."""
    from keras_lm.export import layout
    from keras_lm.generation.settings import SamplingSettings
    from keras_lm.tokenizers import load as load_tokenizer

    if is_run:
        from keras_lm.training.run import Run

        run = Run.open(model)
        generator, tokenizer = run.make_generator(), run.load_tokenizer()
        context = generator.sampler.decoder.context_length
    else:
        from keras_lm.export.saved_model import ExportedGenerator

        generator = ExportedGenerator(model)
        tokenizer, context = load_tokenizer(generator.folder / layout.TOKENIZER), generator.metadata["context_length"]
    rng = np.random.default_rng(0)
    pieces = [piece.decode("utf-8", "ignore") for piece in tokenizer.pieces()]
    pieces = [piece for piece in pieces if piece and "\ufffd" not in piece]
    most = (context or 512) // 2
    work = []
    for seed in range(_REQUESTS):
        size = int(np.exp(rng.uniform(0, np.log(most))))
        prompt = "".join(rng.choice(pieces, size))[:most]
        settings = SamplingSettings(max_new_tokens=int(rng.integers(8, longest + 1)), seed=seed, temperature=0.8)
        (expected,) = generator.generate([prompt], settings)
        asked = {"model": name, "prompt": prompt, "max_tokens": settings.max_new_tokens, "seed": seed, "temperature": 0.8}
        work.append((asked, expected.text))
    return work


def report(title: str, answers: Sequence[Answer], seconds: float) -> float:
    """Prints a row, and gives tokens a second."""
    kinds = collections.Counter(answer.kind for answer in answers)
    speed = sum(answer.num_tokens for answer in answers) / seconds
    spread = lambda values: " / ".join(f"{1000 * value:.0f}" for value in np.nanpercentile(list(values) or [np.nan], [50, 99]))
    whole = [answer for answer in answers if answer.kind == "right"]
    figures = f"{spread(answer.first for answer in whole):>14} {spread(answer.token for answer in whole):>14}"
    print(f"{title:<34} {len(answers):>7} {kinds['lost']:>5} {kinds['cut']:>4} {kinds['wrong']:>6} {speed:>9.0f} {figures}", flush=True)
    return speed


async def measure(port: int, process: int, name: str, work: Sequence[tuple[dict, str]], args: argparse.Namespace) -> None:
    await load(port, work, 32, min(3.0, args.seconds))  # whatever is made at first use
    heading = f"{'tokens/s':>9} {'first, ms':>14} {'token, ms':>14}"
    print(f"{'clients':<34} {'answers':>7} {'lost':>5} {'cut':>4} {'wrong':>6} {heading}   (p50 / p99)")
    short = max(2.0, args.seconds / 4)
    one = report("1", *await load(port, work, 1, short))
    many = report("32", *await load(port, work, 32, short))
    report("8", *await load(port, work, 8, short))
    async with stalled(port, {**work[0][0], "max_tokens": 4096}, 4):
        report("8, beside 4 that never read", *await load(port, work, 8, short))
    before = resident(process)
    report(str(args.clients), *await load(port, work, args.clients, args.seconds))
    print(f"32 at once write {many / one:.1f} times as much as one")
    print(f"resident memory: {before:.0f} MB before the {args.clients} clients, {resident(process):.0f} MB after")
    statuses = await fuzz(port, name, args.fuzz)
    print(f"{args.fuzz} malformed requests: {', '.join(f'{count} x {status}' for status, count in sorted(statuses.items()))}")
    print(f"resident memory: {resident(process):.0f} MB after them")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=pathlib.Path, metavar="RUN", help="a run folder, exported first")
    model.add_argument("--export", type=pathlib.Path, metavar="FOLDER", help="an export, saved_models/NAME")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="F", help="how long the many clients ask (default: 60)")
    parser.add_argument("--clients", type=int, default=100, metavar="N", help="how many (default: 100)")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="of the longest text (default: 64)")
    parser.add_argument("--fuzz", type=int, default=2000, metavar="N", help="malformed requests (default: 2000)")
    args = parser.parse_args()
    path = args.run or args.export
    work = requests_with_texts(path, args.run is not None, "model", args.max_new_tokens)
    with server(path, "model") as (port, process):
        asyncio.run(measure(port, process, "model", work, args))


if __name__ == "__main__":
    main()
