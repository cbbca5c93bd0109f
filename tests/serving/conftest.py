"""A tiny model as an export, and servers of it on loopback."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import httpx
import keras
import pytest
import uvicorn

from keras_lm import models
from keras_lm.export.saved_model import export_model
from keras_lm.serving.app import create_app
from keras_lm.serving.settings import Limits
from keras_lm.serving.versions import Model, load_version
from keras_lm.tokenizers import CharacterTokenizer

load_quickly = functools.partial(load_version, xla=False)


@pytest.fixture(scope="session")
def tiny() -> tuple[keras.Model, CharacterTokenizer]:
    """A Transformer that has learnt nothing, and its tokenizer."""
    keras.utils.set_random_seed(1)
    tokenizer = CharacterTokenizer.fit(["abcdefghijklmnopqrstuvwxyz ,.\n中国人民问答：你好"])
    sizes = {"context_length": 64, "embedding_dim": 16, "num_layers": 2, "num_heads": 2}
    return models.transformer_lm(tokenizer.vocabulary_size, **sizes), tokenizer


@pytest.fixture(scope="session")
def exported(tiny, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Its export, `NAME/1` inside. Tests must not change it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    export_model(*tiny, folder)
    return folder


@contextlib.contextmanager
def serving(models: Sequence[Model], limits: Limits | None = None, token: str | None = None, **options: object) -> Iterator[str]:
    """The address of a server for these models, in a thread."""
    app = create_app(models, limits or Limits(), token, **options)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_for(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits until something is so, and fails where it does not come about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def model(exported: pathlib.Path) -> Model:
    """The export, loaded; a server that had it closes it."""
    loaded = Model("tiny", exported, Limits(), load=load_quickly)
    loaded.load()
    return loaded


@pytest.fixture(scope="module")
def address(model: Model) -> Iterator[str]:
    """Of a server of the tiny model, with the limits that it has by itself."""
    with serving([model]) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    """Asks it."""
    with httpx.Client(base_url=address, timeout=120) as client:
        yield client
