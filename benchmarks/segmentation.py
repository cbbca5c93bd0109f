"""How well words are found: against the words that are marked in People's Daily, by precision, recall and F1 over whole words.

    python benchmarks/segmentation.py

jieba itself, and `WordTokenizer`, which runs inside the graph: learnt from jieba's words, and from the marked ones: from the
training split (by a hash of each text), judged on the test split.
"""

from __future__ import annotations

import argparse
import time

from keras_lm.segmentation import boundary_scores, segmenter
from keras_lm.tagged import peoples_daily_tagged
from keras_lm.tokenizers import WordTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary-sizes", nargs="+", type=int, default=[8000, 20_000, 50_000], help="default: %(default)s")
    args = parser.parse_args()
    splits = peoples_daily_tagged().split()
    train, marked = ([list(text.words) for text in splits[name].texts] for name in ("train", "test"))
    texts = ["".join(words) for words in marked]
    print(f"{len(train):,} texts to learn from, {sum(map(len, marked)):,} words in {len(marked):,} to judge on\n")
    print("| words found by | ids | precision | recall | F1 | characters/s |\n|---|---|---|---|---|---|")
    for name in ("characters", "jieba"):
        cut = segmenter(name)
        _print_row(name, "", marked, texts, lambda texts, cut=cut: [cut(text) for text in texts])
    of_text = {"".join(words): words for words in train}
    for name, source in (("jieba's words", "jieba"), ("the marked words", of_text.__getitem__)):
        for size in args.vocabulary_sizes:
            tokenizer = WordTokenizer.fit(list(of_text), size, segmenter=source)
            _print_row(
                f"WordTokenizer, {name}", f"{tokenizer.vocabulary_size:,}", marked, texts, lambda texts, own=tokenizer: _cut(own, texts)
            )


def _cut(tokenizer: WordTokenizer, texts: list[str]) -> list[list[str]]:
    """Words, of which a character that is written in bytes is one."""
    pieces, rows = tokenizer.pieces(), []
    for row in tokenizer.tokenize(texts).to_list():
        words, rest = [], b""
        for token in row:
            rest += pieces[token]
            if rest.decode("utf-8", "ignore").encode() == rest:
                words.append(rest.decode())
                rest = b""
        rows.append(words)
    return rows


def _print_row(name: str, size: str, marked: list[list[str]], texts: list[str], find) -> None:
    find(texts[:1])  # the dictionary is loaded, the graph traced
    begin = time.perf_counter()
    found = find(texts)
    speed = sum(map(len, texts)) / (time.perf_counter() - begin)
    print(f"| {name} | {size} | {' | '.join(f'{value:.3f}' for value in boundary_scores(found, marked))} | {speed:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
