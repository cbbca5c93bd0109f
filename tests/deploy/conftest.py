"""What these tests share: the clients as modules, and an export served by the stand-in."""

from __future__ import annotations

import importlib
import pathlib
import sys
import types

import pytest

from keras_lm.export.saved_model import export_run
from keras_lm.training.run import Run
from tests.deploy.stand_in import StandIn


@pytest.fixture(scope="session")
def deploy(repository: pathlib.Path) -> pathlib.Path:
    return repository / "deploy"


@pytest.fixture(scope="session")
def clients(deploy: pathlib.Path) -> types.SimpleNamespace:
    """The client programs, imported as the scripts that they are."""
    sys.path.insert(0, str(deploy / "clients"))
    try:
        names = ("signatures", "rest", "grpc_client", "stream")
        return types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(deploy / "clients"))


@pytest.fixture(scope="session")
def saved_models(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """`saved_models/` with quickstart/1, which is here the small run."""
    folder = tmp_path_factory.mktemp("saved_models")
    export_run(small_run, folder / "quickstart")
    return folder


@pytest.fixture(scope="session")
def server(saved_models: pathlib.Path):
    """The stand-in on free ports, with the files of deploy/."""
    server = StandIn(saved_models)
    yield server
    server.close()
