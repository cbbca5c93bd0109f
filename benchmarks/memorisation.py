"""What models keep of canaries: exposure by how often each was planted, for LSTM and Transformer, with and without countermeasures.

    python benchmarks/memorisation.py
    python benchmarks/memorisation.py --only lstm-plain      # train and measure one; without it what is there is not done again

Canaries are made numbers of telephones, of which the last four digits are drawn, planted as lines of their own in the first part of
People's Daily. Each model is trained as it is and its last weights are looked at (`plain`), with dropout, with early stopping
(`--patience 1`; the best weights), with `--deduplicate` and with `--desensitize phone`. The picture is docs/pictures/memorisation.png.
Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

from keras_lm.corpora import Corpus, open_corpus
from keras_lm.files import replacing
from keras_lm.privacy.canaries import Canary, CanaryFormat, make_canaries, plant, read_canaries, write_canaries
from keras_lm.training.run import settings_from

FORM = CanaryFormat(text="{name}的手机号码是１３８００１３{secret}。", length=4)
COUNTS = (1, 2, 4, 8, 16, 32, 64)

MODELS: dict[str, dict[str, Any]] = {
    "lstm": {"model": "lstm", "embedding_dim": 128, "hidden_dim": 256, "num_layers": 1, "learning_rate": 0.008},
    "transformer": {"model": "transformer", "embedding_dim": 160, "num_layers": 2, "num_heads": 4, "learning_rate": 0.003},
}

STEPS = {"lstm": 1600, "transformer": 1200}
"""Sixteen and twelve times through the text: the LSTM learns more slowly."""

MEASURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "early stopping": {"patience": 1},
    "deduplication": {"deduplicate": True},
    "desensitisation": {"desensitize": ("phone",)},
}


def main() -> None:
    args = _arguments()
    form = FORM
    canaries, corpus = _planted(args, form)
    names = [f"{model}-{measure}" for model, measure in itertools.product(MODELS, MEASURES)]
    for name in names if args.only is None else args.only:
        _measure(name, args, form, canaries, corpus)
    found = {name: json.loads(path.read_text()) for name in names if (path := args.out / _slug(name) / "memorisation.json").is_file()}
    if found:
        _print(found, args, form)
        _draw(found, form, args.picture)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="peoples-daily", help="default: %(default)s")
    parser.add_argument("--characters", type=int, default=100_000, help="of the corpus, from its beginning (default: %(default)s)")
    parser.add_argument("--each", type=int, default=4, help="canaries for each number of repetitions (default: %(default)s)")
    parser.add_argument("--never", type=int, default=100, help="canaries that are never planted (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=100, help="texts drawn behind each planted canary (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="updates, of 16 windows of 64 characters (default: lstm 1600, transformer 1200)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="MODEL-MEASURE", help="train and measure these alone, e.g. 'lstm-early stopping'")
    parser.add_argument("--out", type=Path, default=Path("runs/memorisation"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/memorisation.png"), help="default: %(default)s")
    return parser.parse_args()


def _planted(args: argparse.Namespace, form: CanaryFormat) -> tuple[list[Canary], Path]:
    """The canaries and the text with them, made once."""
    text, listed = args.out / "planted.txt", args.out / "canaries.json"
    if not listed.is_file():
        from keras_lm.pipeline import split_of

        learnt = lambda line: split_of(line.encode()) == "train"
        repetitions = [0] * args.never + [count for count in COUNTS for _ in range(args.each)]
        canaries = make_canaries(repetitions, form, seed=args.seed, keep=learnt)
        plant(_beginning(args.corpus, args.characters), canaries, text, seed=args.seed)
        write_canaries(canaries, listed)
    return read_canaries(listed), text


def _beginning(source: str, characters: int) -> Corpus:
    documents, left = [], characters
    for document in open_corpus(source).documents():
        if left <= 0:
            break
        documents.append(document)
        left -= len(document)
    return Corpus(name=source, documents=lambda: iter(documents))


def _measure(name: str, args: argparse.Namespace, form: CanaryFormat, canaries: list[Canary], corpus: Path) -> None:
    kind, _, measure = name.partition("-")
    folder = args.out / _slug(name)
    result = folder / "memorisation.json"
    if result.is_file():
        return
    values = {
        "corpus": str(corpus),
        "sequence_length": 64,
        "batch_size": 16,
        "steps": args.steps or STEPS[kind],
        "evaluate_every": 80,
        "seed": args.seed,
    }
    values |= {"sample_tokens": 0, "checkpoint_every": 500, "out": str(folder)}
    settings = settings_from({**values, **MODELS[kind], **MEASURES[measure]}, name)

    import keras
    from systems.runs import trained

    from keras_lm.generation.settings import SamplingSettings
    from keras_lm.insight.exposure import exposures, extraction
    from keras_lm.insight.reading import Reader

    last: list[keras.Model] = []

    class Last(keras.callbacks.Callback):
        def on_train_end(self, logs: Any = None) -> None:
            last.append(self.model)

    print(f"\n{name}", flush=True)
    began = time.monotonic()
    run = trained(settings, [Last()])
    taken = time.monotonic() - began
    model = run.load_model() if measure == "early stopping" else last[0]
    reader = Reader(model, run.load_tokenizer(), begins=settings.documents)
    began = time.monotonic()
    ranks = exposures(reader, canaries, form, progress=lambda done: print(f"{done} canaries ranked", flush=True))
    ranking = time.monotonic() - began
    planted = [canary for canary in canaries if canary.repetitions]
    generator = run.make_generator(model)
    shares = extraction(generator, planted, SamplingSettings(num_samples=args.samples, temperature=1.0))
    metrics = run.read_metrics()
    best = min(metrics, key=lambda line: line["val_loss"])
    judged = best if measure == "early stopping" else metrics[-1]
    values = {
        "steps": metrics[-1]["step"],
        "judged_step": judged["step"],
        "val_loss": judged["val_loss"],
        "best_val_loss": best["val_loss"],
        "train_loss": judged["loss"],
        "training_seconds": taken,
        "ranking_seconds": ranking,
        "tokens": len(run.load_tokens()["train"].ids),
        "ranks": [{**dataclasses.asdict(one.canary), "bits": one.bits, "rank": one.rank, "exposure": one.exposure} for one in ranks],
        "extracted": [[canary.repetitions, share] for canary, share in zip(planted, shares, strict=True)],
    }
    with replacing(result) as temporary:
        temporary.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _print(found: dict[str, dict[str, Any]], args: argparse.Namespace, form: CanaryFormat) -> None:
    each, most = args.each, form.candidates
    print(f"\nmean exposure in bits of {each} canaries for each number of repetitions, of log2 {most:,} = {_most(form):.1f}\n")
    print(
        "| run | steps | validation loss | " + " | ".join(f"{count} times" for count in COUNTS) + f" | never ({args.never}) | extracted |"
    )
    print("|---" * (len(COUNTS) + 5) + "|")
    for name, one in found.items():
        cells = [f"{statistics.mean(own):.1f}" for own in _by_count(one).values()]
        never = [line["exposure"] for line in one["ranks"] if not line["repetitions"]]
        shares = {count: [share for times, share in one["extracted"] if times == count] for count in COUNTS}
        drawn = ", ".join(f"{statistics.mean(own):.0%} at {count}" for count, own in shares.items() if max(own) > 0) or "none"
        print(
            f"| {name} | {one['judged_step']:,} of {one['steps']:,} | {one['val_loss']:.3f} | "
            + " | ".join(cells)
            + f" | {statistics.mean(never):.2f} | {drawn} |"
        )
    print(
        "\nnever planted: mean share of candidates that rank before, and the largest gap to evenly spread shares (Kolmogorov and Smirnov)\n"
    )
    print("| run | planted 64 times: first | mean share | largest gap |\n|---|---|---|---|")
    for name, one in found.items():
        first = [line["rank"] for line in one["ranks"] if line["repetitions"] == COUNTS[-1]]
        shares = sorted((line["rank"] - 0.5) / most for line in one["ranks"] if not line["repetitions"])
        gap = max(abs(share - (place + 0.5) / len(shares)) for place, share in enumerate(shares))
        print(f"| {name} | {sum(rank == 1 for rank in first)} of {len(first)} | {statistics.mean(shares):.3f} | {gap:.3f} |")
    seconds = [one["ranking_seconds"] for one in found.values()]
    print(f"\nranking {args.never + each * len(COUNTS)} canaries exactly: {min(seconds):.0f} to {max(seconds):.0f} s a run")


def _draw(found: dict[str, dict[str, Any]], form: CanaryFormat, path: Path) -> None:
    from keras_lm.plots import exposure_over_repetitions

    panels: dict[str, dict[str, Any]] = {}
    for name, one in found.items():
        kind, _, measure = name.partition("-")
        panels.setdefault({"lstm": "LSTM", "transformer": "Transformer"}[kind], {})[measure] = _by_count(one)
    exposure_over_repetitions(panels, _most(form), path)


def _by_count(one: dict[str, Any]) -> dict[int, list[float]]:
    return {count: [line["exposure"] for line in one["ranks"] if line["repetitions"] == count] for count in COUNTS}


def _most(form: CanaryFormat) -> float:
    return math.log2(form.candidates)


def _slug(name: str) -> str:
    return name.replace(" ", "-")


if __name__ == "__main__":
    main()
