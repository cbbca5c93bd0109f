"""Before any test imports TensorFlow: it is quiet, keeps the memory it frees, and writes nothing into a home."""

from __future__ import annotations

import os

from keras_lm.cli.options import keep_memory

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_LM_XLA_CACHE"] = ""
keep_memory()
