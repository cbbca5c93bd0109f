"""Language models in TensorFlow and Keras, from text to a model that TF Serving serves.

The way of the data: text → tokens → windows → model → training → generation → export. The names below are loaded when they are
first used, so that `import keras_lm` and `--help` cost nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Corpus": "corpora",
    "open_corpus": "corpora",
    "ByteTokenizer": "tokenizers",
    "CharacterTokenizer": "tokenizers",
    "SentencePieceTokenizer": "tokenizers",
    "WordPieceTokenizer": "tokenizers",
    "WordTokenizer": "tokenizers",
    "load_tokenizer": "tokenizers:load",
    "training_batches": "pipeline",
    "evaluation_batches": "pipeline",
    "gru_lm": "models",
    "lstm_lm": "models",
    "simple_rnn_lm": "models",
    "transformer_lm": "models",
    "TrainingSettings": "training.settings",
    "Run": "training.run",
    "prepare": "training.preparation",
    "train": "training.loop",
    "Distribution": "training.distribution",
    "Evaluator": "evaluation",
    "SamplingSettings": "generation.settings",
    "BeamSettings": "generation.settings",
    "ContrastiveSettings": "generation.settings",
    "Sampler": "generation.sampler",
    "LiteRTSampler": "generation.litert",
    "BeamSearch": "generation.beam",
    "ContrastiveSearch": "generation.contrastive",
    "SpeculativeSampler": "generation.speculative",
    "Regex": "generation.automata",
    "Choice": "generation.automata",
    "Grammar": "generation.grammar",
    "TextGenerator": "generation.text",
    "LabelledTexts": "labelled",
    "reviews": "labelled",
    "read_labelled": "labelled",
    "BagOfWords": "classical.bag_of_words",
    "BagOfWordsClassifier": "classical.bag_of_words",
    "NGramModel": "classical.ngram",
    "read_arpa": "classical.arpa",
    "write_arpa": "classical.arpa",
    "word2vec": "embeddings.word2vec",
    "Word2VecSettings": "embeddings.word2vec",
    "glove": "embeddings.glove",
    "GloVeSettings": "embeddings.glove",
    "WordVectors": "embeddings.vectors",
    "export_model": "export.saved_model",
    "export_run": "export.saved_model",
    "export_labeller": "export.saved_model",
    "ExportedGenerator": "export.saved_model",
    "ExportedLabeller": "export.labelled",
    "Labeller": "tasks.labeller",
    "Answerer": "tasks.answering",
    "SentenceVectors": "tasks.similarity",
    "VectorIndex": "tasks.index",
    "LatentSpace": "tasks.latent",
    "ChatSession": "tasks.chat",
    "ChatFormat": "tasks.conversation",
    "UserError": "errors",
}
"""Public names, and where each lives: `module`, or `module:name` where it has another name there."""

_PACKAGES = ("pretrained",)
"""Packages with public names of their own."""

__all__ = sorted([*_PUBLIC, *_PACKAGES])


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"keras_lm.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'keras_lm' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(f"keras_lm.{module}"), attribute or name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC, *_PACKAGES]
