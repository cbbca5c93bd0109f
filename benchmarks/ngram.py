"""N-gram models: how good they are by order and smoothing, and beside NLTK and KenLM.

    python benchmarks/ngram.py                                                          # held-out loss; counting beside NLTK
    python benchmarks/ngram.py --lmplz kenlm/build/bin/lmplz                            # estimates beside those of KenLM's lmplz too
    python benchmarks/ngram.py --corpora kjv --unit word                                # words are what stands between spaces
    python benchmarks/ngram.py --corpora peoples-daily --unit segmented                 # words of WordTokenizer: jieba's, for Chinese

Where the module kenlm is installed, it scores our ARPA files too. lmplz is a program of KenLM's sources, built with CMake and Boost.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

ROUNDS = 5


def main() -> None:
    args = _arguments()
    for corpus in args.corpora:
        splits, names = _splits(corpus, args.unit)
        train, test = splits["train"], splits["test"]
        sizes = f"{len(train.ids):,} tokens to count, {len(test.ids):,} held out, {len(names):,} ids"
        print(f"\n{corpus}, {args.unit}: {sizes}\n")
        _print_quality(train, test, len(names), args.orders)
        _print_speed(train.ids[: args.tokens], len(names), args.orders)
        _print_kenlm(train.ids, test.ids, names, args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=["peoples-daily", "kjv"], help="default: %(default)s")
    parser.add_argument("--orders", nargs="+", type=int, default=[1, 2, 3, 4, 5], help="default: 1 to 5")
    parser.add_argument("--unit", choices=["char", "word", "segmented"], default="char", help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=200_000, help="for the race against NLTK (default: %(default)s)")
    parser.add_argument("--lmplz", type=Path, metavar="PROGRAM", help="KenLM's estimator")
    return parser.parse_args()


def _splits(corpus: str, unit: str) -> tuple[dict, list[str]]:
    """The splits as ids, and a name for each id. The vocabulary is that of the part to count."""
    from keras_lm import corpora, pipeline
    from keras_lm.classical import arpa
    from keras_lm.token_names import token_names
    from keras_lm.tokenizer_base import END_ID, START_ID, UNKNOWN_ID
    from keras_lm.tokenizers import CharacterTokenizer, WordTokenizer

    texts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for split, text in pipeline.split_texts(corpora.open_corpus(corpus), "hash"):
        texts[split].append(text)
    if unit == "char":
        tokenizer = CharacterTokenizer.fit(texts["train"])
        cut, words, names = list, tokenizer.vocabulary, token_names(tokenizer)
    elif unit == "segmented":
        tokenizer = WordTokenizer.fit(texts["train"])
        names = token_names(tokenizer)
        cut, words = lambda text: tokenizer.tokenize([text])[0].numpy().tolist(), range(4, tokenizer.vocabulary_size)
    else:
        cut, words = str.split, sorted({word for text in texts["train"] for word in text.split()})
        names = [arpa.PAD, arpa.UNKNOWN, arpa.START, arpa.END, *words]
    number_of = {word: number for number, word in enumerate(words, start=4)}
    splits = {}
    for name, documents in texts.items():
        rows = [[START_ID, *(number_of.get(piece, UNKNOWN_ID) for piece in cut(text)), END_ID] for text in documents]
        ids = np.array(list(itertools.chain.from_iterable(rows)))
        characters, size = sum(map(len, documents)), sum(len(text.encode()) for text in documents)
        unknown = int((ids == UNKNOWN_ID).sum())
        splits[name] = pipeline.Tokens(ids=ids, characters=characters, bytes=size, documents=len(documents), unknown=unknown)
    return splits, names


def _print_quality(train, test, vocabulary_size: int, orders: list[int]) -> None:
    from keras_lm.classical.ngram import NGramModel
    from keras_lm.classical.smoothing import SMOOTHINGS

    print("| order | smoothing | n-grams | nats a token | perplexity | bits a character | unknown tokens |\n|---|---|---|---|---|---|---|")
    for order, smoothing in itertools.product(orders, SMOOTHINGS):
        model = NGramModel.fit(train.ids, order, vocabulary_size=vocabulary_size, smoothing=smoothing)
        result = model.evaluate(test)
        print(
            f"| {order} | {smoothing} | {model.index.size(order):,} | {result.loss:.3f} | {result.perplexity:.1f} "
            f"| {result.bits_per_character:.3f} | {result.unknown_tokens} |",
            flush=True,
        )


def _print_speed(ids: np.ndarray, vocabulary_size: int, orders: list[int]) -> None:
    from nltk.lm import NgramCounter
    from nltk.util import everygrams

    from keras_lm.classical.counting import count_ngrams

    places = np.flatnonzero(ids == 2)
    documents = [part.tolist() for part in np.split(ids, places[1:])]
    words = [list(map(str, document)) for document in documents]  # NLTK takes strings
    print(f"\ncounting {len(ids):,} tokens, medians of {ROUNDS}\n\n| order | keras_lm, s | NLTK, s | ratio |\n|---|---|---|---|")
    for order in orders:
        times: dict[str, list[float]] = {"ours": [], "nltk": []}
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            ours = count_ngrams(ids, order, vocabulary_size=vocabulary_size)
            times["ours"].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            theirs = NgramCounter(everygrams(document, max_len=order) for document in words)
            times["nltk"].append(time.perf_counter() - begin)
        if sum(map(sum, ours.counts)) != theirs.N():
            raise SystemExit(f"the counts differ: {sum(map(sum, ours.counts))} and {theirs.N()}")
        own, other = statistics.median(times["ours"]), statistics.median(times["nltk"])
        print(f"| {order} | {own:.3f} | {other:.2f} | {other / own:.0f} |", flush=True)


def _print_kenlm(train: np.ndarray, test: np.ndarray, names: list[str], args: argparse.Namespace) -> None:
    from keras_lm.classical import arpa
    from keras_lm.classical.ngram import NGramModel

    lines = [" ".join(names[number] for number in part[1:-1]) for part in np.split(train, np.flatnonzero(train == 2)[1:])]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n| order | ours, s | lmplz, s | P of lmplz against ours | log10 P of kenlm against ours |")
        print("|---|---|---|---|---|")
        for order in args.orders:
            begin = time.perf_counter()
            model = NGramModel.fit(train, order, vocabulary_size=len(names))
            arpa.write_arpa(model, scratch / "ours.arpa", names)
            row = [str(order), f"{time.perf_counter() - begin:.1f}"]
            row += _beside_lmplz(model, test, names, order, scratch, args.lmplz) if args.lmplz else ["-", "-"]
            row.append(_beside_module(model, test, names, scratch / "ours.arpa"))
            print("| " + " | ".join(row) + " |", flush=True)


def _beside_lmplz(model, test: np.ndarray, names: list[str], order: int, scratch: Path, program: Path) -> list[str]:
    """Seconds, and the largest relative difference of a probability."""
    from keras_lm.classical import arpa

    begin = time.perf_counter()
    command = [program, "-o", str(order), "--text", scratch / "text.txt", "--arpa", scratch / "theirs.arpa", "-T", scratch / "lmplz"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    reference, _ = arpa.read_arpa(scratch / "theirs.arpa", names)
    ratio = np.exp(model.log_probabilities(test) - reference.log_probabilities(test))
    return [f"{seconds:.1f}", f"{np.nanmax(np.abs(ratio - 1)):.1e}"]


def _beside_module(model, test: np.ndarray, names: list[str], path: Path) -> str:
    """The largest difference of log10 P of a token of the held-out text, as the module kenlm reads our file."""
    try:
        import kenlm
    except ImportError:
        return "not installed"
    if model.order < 2:
        return "-"  # KenLM loads no unigrams
    theirs, worst = kenlm.Model(str(path)), 0.0
    for part in np.split(test, np.flatnonzero(test == 2)[1:]):
        scores = [score for score, *_ in theirs.full_scores(" ".join(names[number] for number in part[1:-1]))]
        worst = max(worst, float(np.abs(model.log_probabilities(part)[1:] / np.log(10) - scores).max()))
    return f"{worst:.1e}"


if __name__ == "__main__":
    main()
