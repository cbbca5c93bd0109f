"""Word vectors beside gensim's: quality and words a second on the same ids, and what vectors are worth to a language model.

    python benchmarks/word_vectors.py                       # People's Daily and King James; gensim with as many threads as there are cores
    python benchmarks/word_vectors.py --gain                # a language model over words, with and without vectors to begin with
    python benchmarks/word_vectors.py --pairs zh_STS-B.train.tsv zh_STS-B.test.tsv   # sentences as the mean of their words' vectors

Quality on People's Daily: how often the part of speech of a word that was not learnt from can be told from its vector (logistic regression;
its most frequent tag in the newspaper is right; 70 % of the words to learn from). On King James: Spearman's correlation with people's
ratings in WordSim-353 and SimLex-999, for the pairs whose words both occur, and how far our mean is from gensim's, with the interval that
95 % of differences fall into when the pairs are drawn anew (bootstrap).
"""

from __future__ import annotations

import argparse
import collections
import os
import statistics
import time
import warnings
from pathlib import Path

import numpy as np

DIMENSIONS, WINDOW, NEGATIVES, MIN_COUNT = 100, 5, 5, 5


def main() -> None:
    args = _arguments()
    if args.gain:
        _print_gain(args)
        return
    if args.pairs:
        _print_pairs(args)
        return
    for corpus in args.corpora:
        ids, names, documents = _words(corpus, args.vocabulary_size)
        judge = _tag_judge(names) if corpus == "peoples-daily" else _rating_judge(names)
        print(f"\n{corpus}: {len(ids):,} tokens, {len(names):,} ids, {args.epochs} epochs, {DIMENSIONS} dimensions\n")
        print("| | words/s, median | ratio to gensim | quality, mean and spread |\n|---|---|---|---|")
        for architecture in ("skip_gram", "cbow"):
            speeds, quality, tables = (collections.defaultdict(list) for _ in range(3))
            for seed in range(args.rounds):  # in turns, so that what else the machine does meets both
                for name, learn in (("keras_lm", _ours), ("gensim", _gensim)):
                    table, seconds = learn(ids, documents, names, architecture, seed, args.epochs)
                    speeds[name].append(args.epochs * len(ids) / seconds)
                    quality[name].append(judge(table))
                    tables[name].append(table)
            for name, values in speeds.items():
                ratio = statistics.median(values) / statistics.median(speeds["gensim"])
                row = "; ".join(_spread(part) for part in zip(*quality[name], strict=True))
                print(f"| {name} {architecture} | {statistics.median(values):,.0f} | {ratio:.2f} | {row} |", flush=True)
            if corpus != "peoples-daily":
                _print_differences(tables, names, architecture)
        if args.glove:
            table, seconds = _glove(ids, names, 0)
            print(f"| keras_lm glove | {seconds:.0f} s | | {'; '.join(f'{value:.3f}' for value in judge(table))} |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=["peoples-daily", "kjv"], help="default: %(default)s")
    parser.add_argument("--vocabulary-size", type=int, default=20_000, help="of the tokenizer of words (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="seeds, and measurements of speed (default: %(default)s)")
    parser.add_argument("--glove", action="store_true", help="GloVe too, which gensim has not")
    parser.add_argument("--gain", action="store_true", help="train language models with and without vectors")
    parser.add_argument(
        "--pairs",
        nargs=2,
        type=Path,
        metavar=("TRAIN", "TEST"),
        help="lines `text TAB text TAB score`: learn from People's Daily and the sentences of TRAIN, judge averaged vectors on TEST",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of all but the speeds (default: 0 1 2)")
    parser.add_argument("--steps", type=int, default=600, help="of each language model (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/word-vectors"), help="folder of the language models (default: %(default)s)")
    return parser.parse_args()


def _words(corpus: str, vocabulary_size: int) -> tuple[np.ndarray, list[str], list[list[str]]]:
    """As `_ids_of`, of the training text of a corpus."""
    from keras_lm import corpora, pipeline

    texts = [text.lower() for split, text in pipeline.split_texts(corpora.open_corpus(corpus), "hash") if split == "train"]
    return _ids_of(texts, vocabulary_size)[1:]


def _ids_of(texts: list[str], vocabulary_size: int) -> tuple:
    """The tokenizer learnt from texts, the texts as ids, the name of each id, and the documents as lists of names for gensim."""
    from keras_lm.token_names import word_names
    from keras_lm.tokenizer_base import END_ID, NUM_SPECIAL, START_ID
    from keras_lm.tokenizers import WordTokenizer

    tokenizer = WordTokenizer.fit(texts, vocabulary_size)
    rows = tokenizer.tokenize(texts).to_list()
    names = word_names(tokenizer)
    ids = np.concatenate([[START_ID, *row, END_ID] for row in rows]).astype(np.int32)
    return tokenizer, ids, names, [[names[token] for token in row if token >= NUM_SPECIAL] for row in rows]


def _ours(ids: np.ndarray, documents: list, names: list[str], architecture: str, seed: int, epochs: int) -> tuple[np.ndarray, float]:
    from keras_lm.embeddings.word2vec import Word2VecSettings, word2vec

    settings = Word2VecSettings(
        architecture=architecture,
        dimensions=DIMENSIONS,
        window=WINDOW,
        negatives=NEGATIVES,
        min_count=MIN_COUNT,
        epochs=epochs,
        seed=seed,
    )
    begin = time.perf_counter()  # what XLA compiles counts too
    return word2vec(ids, len(names), settings), time.perf_counter() - begin


def _gensim(ids: np.ndarray, documents: list, names: list[str], architecture: str, seed: int, epochs: int) -> tuple[np.ndarray, float]:
    from gensim.models import Word2Vec

    model = Word2Vec(
        vector_size=DIMENSIONS,
        window=WINDOW,
        negative=NEGATIVES,
        min_count=MIN_COUNT,
        sg=int(architecture == "skip_gram"),
        workers=os.cpu_count(),
        seed=seed,
        epochs=epochs,
    )
    model.build_vocab(documents)  # not timed, as our tokens were counted before
    begin = time.perf_counter()
    model.train(documents, total_examples=len(documents), epochs=epochs)
    seconds = time.perf_counter() - begin
    table = np.zeros([len(names), DIMENSIONS], np.float32)
    for row, name in enumerate(names):
        if name in model.wv:
            table[row] = model.wv[name]
    return table, seconds


def _glove(ids: np.ndarray, names: list[str], seed: int) -> tuple[np.ndarray, float]:
    from keras_lm.embeddings.glove import GloVeSettings, glove

    begin = time.perf_counter()
    return glove(ids, len(names), GloVeSettings(dimensions=DIMENSIONS, min_count=MIN_COUNT, seed=seed)), time.perf_counter() - begin


def _tag_judge(names: list[str]):
    """Accuracy of the part of speech, for words with one of the 15 most frequent tags."""
    from sklearn.linear_model import LogisticRegression
    from systems.tagged import people_daily_tags

    tags = people_daily_tags()
    tag_of = {row: tags[name] for row, name in enumerate(names) if name in tags}

    def judge(table: np.ndarray) -> tuple[float]:
        rows = np.array([row for row in tag_of if table[row].any()])
        frequent = {tag for tag, _ in collections.Counter(tag_of[row] for row in rows).most_common(15)}
        rows = np.random.default_rng(0).permutation([row for row in rows if tag_of[row] in frequent])
        cut = len(rows) * 7 // 10
        unit = table[rows] / np.linalg.norm(table[rows], axis=1, keepdims=True) * np.sqrt(table.shape[1])
        right = np.array([tag_of[row] for row in rows])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(max_iter=300, C=0.3).fit(unit[:cut], right[:cut])
        return (float(model.score(unit[cut:], right[cut:])),)

    return judge


def _rating_judge(names: list[str]):
    """Spearman's correlation with WordSim-353 and SimLex-999, which lie among gensim's test data."""
    from gensim.test.utils import datapath

    from keras_lm.embeddings.evaluation import word_similarity
    from keras_lm.embeddings.vectors import vectors_of

    def judge(table: np.ndarray) -> tuple[float, ...]:
        vectors = vectors_of(names, table)
        found = [word_similarity(vectors, datapath(name)) for name in ("wordsim353.tsv", "simlex999.txt")]
        judge.pairs = [part.pairs for part in found]
        return tuple(part.spearman for part in found)

    return judge


def _print_differences(tables: dict[str, list[np.ndarray]], names: list[str], architecture: str) -> None:
    """Spearman's correlation, mean of the seeds, ours less gensim's, with its interval over the pairs."""
    from gensim.test.utils import datapath
    from scipy.stats import rankdata

    rows = {name: row for row, name in enumerate(names) if all(table[row].any() for own in tables.values() for table in own)}
    for list_name in ("wordsim353.tsv", "simlex999.txt"):
        lines = [line.lower().split("\t") for line in Path(datapath(list_name)).read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if not line[0].startswith("#") and line[0] in rows and line[1] in rows]
        first, second = ([rows[line[side]] for line in lines] for side in (0, 1))
        ratings = np.array([float(line[2]) for line in lines])
        unit = lambda table, places: table[places] / np.linalg.norm(table[places], axis=1, keepdims=True)
        cosines = {name: [np.sum(unit(table, first) * unit(table, second), axis=1) for table in own] for name, own in tables.items()}

        def difference(drawn: np.ndarray, cosines: dict = cosines, ratings: np.ndarray = ratings) -> float:
            ranks = rankdata(ratings[drawn])
            mean = {name: np.mean([np.corrcoef(rankdata(one[drawn]), ranks)[0, 1] for one in own]) for name, own in cosines.items()}
            return mean["keras_lm"] - mean["gensim"]

        generator = np.random.default_rng(0)
        low, high = np.percentile([difference(generator.integers(0, len(lines), len(lines))) for _ in range(1000)], [2.5, 97.5])
        found = difference(np.arange(len(lines)))
        print(f"    {architecture}, {list_name}, {len(lines)} pairs: {found:+.3f}, 95 % from {low:+.3f} to {high:+.3f}", flush=True)


def _spread(values: tuple[float, ...]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


def _print_pairs(args: argparse.Namespace) -> None:
    """Spearman's correlation of people's scores with the cosines of averaged vectors."""
    from keras_lm import corpora, pipeline, similar
    from keras_lm.embeddings.vectors import WordVectors

    train, test = map(similar.read_scored, args.pairs)
    texts = [text for split, text in pipeline.split_texts(corpora.open_corpus("peoples-daily"), "hash") if split == "train"]
    tokenizer, ids, names, documents = _ids_of([*texts, *train.firsts, *train.seconds], args.vocabulary_size)
    words = lambda text: [names[token] for token in tokenizer.tokenize([text])[0].numpy()]
    print(f"\n{test.name}: {len(test):,} pairs; vectors of {len(names):,} words from {len(ids):,} tokens, {args.epochs} epochs\n")
    print("| averaged vectors | Spearman, test, mean and spread |\n|---|---|")
    for architecture in ("skip_gram", "cbow"):
        for name, learn in (("keras_lm", _ours), ("gensim", _gensim)):
            found = []
            for seed in args.seeds:
                table = learn(ids, documents, names, architecture, seed, args.epochs)[0]
                vectors = WordVectors(names, table)
                sides = [similar.averaged_vectors(side, vectors, words) for side in (test.firsts, test.seconds)]
                found.append(similar.spearman(similar.row_cosines(*sides), test.scores))
            print(f"| {name} {architecture} | {_spread(tuple(found))} |", flush=True)


def _print_gain(args: argparse.Namespace) -> None:
    """Language models over words on a tenth of the newspaper's training text, and on all of it; vectors from all of it."""
    from systems.runs import trained

    from keras_lm import corpora, pipeline
    from keras_lm.embeddings.vectors import vectors_of
    from keras_lm.embeddings.word2vec import Word2VecSettings, word2vec
    from keras_lm.token_names import word_names
    from keras_lm.tokenizers import WordTokenizer
    from keras_lm.training.settings import TrainingSettings

    args.out.mkdir(parents=True, exist_ok=True)
    splits = collections.defaultdict(list)
    for split, text in pipeline.split_texts(corpora.open_corpus("peoples-daily"), "hash"):
        splits[split].append(text)
    print("| language model over words | begins with | best validation loss, nats a word, mean and spread | gain |\n|---|---|---|---|")
    for share in (10, 1):
        path = args.out / f"text-{share}.txt"
        path.write_text("\n".join(splits["train"][::share] + splits["validation"]), encoding="utf-8")
        tokenizer = WordTokenizer.fit(splits["train"][::share], 8000)
        ids = np.concatenate([[2, *row, 3] for row in tokenizer.tokenize(splits["train"]).to_list()])
        table = word2vec(ids, tokenizer.vocabulary_size, Word2VecSettings(dimensions=128, epochs=10))
        vectors_of(word_names(tokenizer), table).save(args.out / f"vectors-{share}.bin")
        losses = {}
        for name, file in (("chance", None), ("Word2Vec", str(args.out / f"vectors-{share}.bin"))):
            for seed in args.seeds:
                settings = TrainingSettings(
                    corpus=str(path),
                    tokenizer="word",
                    vocabulary_size=8000,
                    model="gru",
                    embedding_dim=128,
                    hidden_dim=256,
                    num_layers=1,
                    sequence_length=64,
                    batch_size=16,
                    dropout=0.2,
                    learning_rate=3e-3,
                    steps=args.steps,
                    evaluate_every=100,
                    sample_tokens=0,
                    seed=seed,
                    word_vectors=file,
                    out=str(args.out / f"{share}-{name}-{seed}"),
                )
                losses.setdefault(name, []).append(min(line["val_loss"] for line in trained(settings).read_metrics()))
            gain = statistics.mean(losses["chance"]) - statistics.mean(losses[name])
            text = "all" if share == 1 else f"a {share}th"
            print(f"| {text} of the training text, {args.steps} steps | {name} | {_spread(losses[name])} | {gain:+.3f} |", flush=True)


if __name__ == "__main__":
    main()
