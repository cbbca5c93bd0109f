"""Before any test imports TensorFlow: it is quiet, and XLA keeps what it compiles for the tests that compile the same."""

from __future__ import annotations

import os
import pathlib

from keras_lm.cli.options import keep_compilations, keep_memory

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_LM_XLA_CACHE"] = str(pathlib.Path(__file__).parent / ".pytest_cache" / "xla")  # a test writes into no home
keep_compilations()
keep_memory()
