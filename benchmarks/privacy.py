"""How well secrets are found in sentences in which they were planted, kind by kind, and how fast a corpus is masked.

    python benchmarks/privacy.py
    python benchmarks/privacy.py --corpora peoples-daily kjv 'letters/*.txt' --show 20

The sentences are made, anew for each seed; a secret counts as found where a span begins and ends with it and has its kind. What
is found in the corpora is for the eye: nothing says what is a secret there. One process on one core.
"""

from __future__ import annotations

import argparse
import collections
import time

from keras_lm.corpora import open_corpus
from keras_lm.privacy.desensitizing import Desensitizer
from keras_lm.privacy.planted import LISTED_NAMES, Score, planted_texts, score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=10_000, help="of each seed (default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[11, 12, 13], help="default: %(default)s")
    parser.add_argument("--corpora", nargs="*", default=["peoples-daily", "reviews", "kjv", "pydoc"], help="default: %(default)s")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the first N that are found in each corpus")
    args = parser.parse_args()
    mask = Desensitizer(names=LISTED_NAMES)
    scores: dict[str, list[Score]] = collections.defaultdict(list)
    for seed in args.seeds:
        for kind, own in score(mask.find, planted_texts(args.sentences, seed)).items():
            scores[kind].append(own)
    print(f"{args.sentences:,} sentences for each of the seeds {', '.join(map(str, args.seeds))}; the lowest of the seeds\n")
    print("| kind | planted | recall | precision |\n|---|---|---|---|")
    for kind, own in sorted(scores.items()):
        planted, recall, precision = sum(one.planted for one in own), min(one.recall for one in own), min(one.precision for one in own)
        print(f"| {kind} | {planted:,} | {recall:.4f} | {precision:.4f} |")
    print("\n| corpus | MB | documents | found | MB/s | MB/s with names |\n|---|---|---|---|---|---|")
    for source in args.corpora:
        _print_corpus(source, mask, args.show)


def _print_corpus(source: str, with_names: Desensitizer, show: int) -> None:
    documents = list(open_corpus(source).documents())
    size = sum(len(text.encode()) for text in documents) / 1e6
    seconds, found = {}, []
    for mask in (with_names, Desensitizer()):
        begin = time.process_time()
        found = [(text, span) for text in documents for span in mask.find(text)]
        seconds[mask] = time.process_time() - begin
    speeds = [size / taken for taken in reversed(seconds.values())]
    print(f"| {source} | {size:.1f} | {len(documents):,} | {len(found):,} | {speeds[0]:.1f} | {speeds[1]:.1f} |", flush=True)
    for text, span in found[:show]:
        print(f"    {span.kind}: ...{text[max(span.start - 12, 0) : span.end + 8]}...")


if __name__ == "__main__":
    main()
