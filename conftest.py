"""Before any test imports TensorFlow: it is quiet, keeps the memory it frees, and writes nothing into a home."""

from __future__ import annotations

import os
import time

import pytest

from keras_lm.cli.options import keep_memory

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_LM_XLA_CACHE"] = ""
keep_memory()


_BEGUN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--begin-within", type=float, metavar="SECONDS", help="leave out the tests that have not begun by then")


def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("--begin-within")
    if limit is not None and time.monotonic() - _BEGUN >= limit:
        pytest.skip(f"--begin-within: {limit:.0f} seconds are over")
