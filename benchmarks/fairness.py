"""What counterfactual augmentation does to a language model: trained with and without, probed with paired prompts, and what it costs.

    python benchmarks/fairness.py --sentiment runs/reviews
    python benchmarks/fairness.py recipes/quickstart.yaml --change embedding_dim=128,steps=1000 --seeds 0 1 2 --picture fairness.png

Both models of a seed have the same settings but for `counterfactual`, and so the same steps, weights at the start and held-out text.
Values of a template are averaged over the seeds before intervals are made. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import yaml

from keras_lm import insight_plots
from keras_lm.corpora import open_corpus
from keras_lm.counterfactual import Swapper
from keras_lm.files import replacing
from keras_lm.group_terms import GROUPS, LANGUAGES, read_group_terms
from keras_lm.insight.fairness import PairedPrompt, paired_prompts, readable_prompts
from keras_lm.insight.fairness_report import Difference, probe, summarize
from keras_lm.insight.paired_statistics import mean_interval, sign_flip_p
from keras_lm.insight.reading import Reader
from keras_lm.pipeline import Tokens, split_texts
from keras_lm.training.run import Run, read_yaml, settings_from
from keras_lm.training.settings import TrainingSettings

MEASURES = ("favour", "continuation", "sentiment")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one trained model came to.

    Args:
        validation, test: Perplexity of the held-out text.
        named, exchanged: Perplexity of the held-out documents that have terms of the group, as they are and with the terms exchanged.
        documents: How many there are.
        values: By measure, one a prompt.
    """

    validation: float
    test: float
    named: float
    exchanged: float
    documents: int
    values: dict[str, list[float]]


def main() -> None:
    args = _arguments()
    from systems.runs import trained

    terms = read_group_terms()
    recipe = {**read_yaml(args.recipe), **yaml.safe_load(f"{{{args.change.replace('=', ': ')}}}")}
    sentiment = Run.open(args.sentiment) if args.sentiment else None
    arms: dict[str, list[Measured]] = {}
    prompts: list[PairedPrompt] = []
    for name, groups in (("plain", ()), (args.group, (args.group,))):
        arms[name] = []
        for seed in args.seeds:
            out = args.out / f"{args.recipe.stem}-{name}-{seed}"
            settings = settings_from(recipe, args.recipe.name, seed=seed, counterfactual=groups, export=None, sample_tokens=0, out=str(out))
            print(f"\n{name}, seed {seed}", flush=True)
            run = trained(settings)
            reader = Reader.of(run)
            own, _ = readable_prompts(reader, paired_prompts(terms, terms.groups, args.language))
            if prompts and own != prompts:
                raise SystemExit(
                    "the models have other vocabularies, and cannot read the same prompts: choose a tokenizer of characters or bytes"
                )
            prompts = own
            arms[name].append(_measured(run, settings, sentiment, args))
    _report(arms, prompts, args)


def _measured(run: Run, settings: TrainingSettings, sentiment: Run | None, args: argparse.Namespace) -> Measured:
    """Of one run; what was measured before is read from its folder."""
    key = {
        "language": args.language,
        "samples": args.samples,
        "sentiment": str(args.sentiment),
        "group": args.group,
        "groups": list(read_group_terms().groups),
    }
    path = run.folder / "fairness.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("key") == key:
            return Measured(**kept)
    evaluate, tokens = run.load_evaluator(), run.load_tokens()
    swap = Swapper(args.group)
    corpus = open_corpus(settings.corpus, document=settings.document, errors=settings.errors)
    held_out = [text for split, text in split_texts(corpus, settings.split, settings.clean) if split != "train"]
    named = [text for text in held_out if swap(text) != text]
    texts = {"named": named, "exchanged": [swap(text) for text in named]}
    perplexity = {name: evaluate(tokens[name]).perplexity for name in ("validation", "test")}
    perplexity |= {name: evaluate(_tokens(run, own)).perplexity for name, own in texts.items()}
    found = probe(run, sentiment=sentiment, language=args.language, samples=args.samples)
    values = {name: own.tolist() for name, own in found.measured.items()}
    result = Measured(**perplexity, documents=len(named), values=values)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"key": key, **dataclasses.asdict(result)}), encoding="utf-8")
    return result


def _tokens(run: Run, texts: Sequence[str]) -> Tokens:
    """Documents as the run's evaluator reads them."""
    tokenizer = run.load_tokenizer()
    rows = tokenizer.tokenize(tf.constant(list(texts))).to_list()
    ids = np.array([token for row in rows for token in (tokenizer.start_id, *row, tokenizer.end_id)], np.int32)
    characters = sum(map(len, texts))
    return Tokens(ids=ids, characters=characters, bytes=sum(len(text.encode()) for text in texts), documents=len(texts), unknown=0)


def _report(arms: dict[str, list[Measured]], prompts: list[PairedPrompt], args: argparse.Namespace) -> None:
    seeds = " ".join(map(str, args.seeds))
    command = f"python benchmarks/fairness.py {args.recipe}" + (f" --change {args.change}" if args.change else "") + f" --seeds {seeds}"
    print(f"\n{command} --language {args.language} --group {args.group} --samples {args.samples}\n")
    documents = next(iter(arms.values()))[0].documents
    print(
        f"Perplexity; {documents} held-out documents have terms of {args.group}. Mean ± standard deviation over {len(args.seeds)} seeds.\n"
    )
    print(
        "| trained | validation | test | with such terms | the same, terms exchanged | exchanged / as they are |\n|---|---|---|---|---|---|"
    )
    for name, runs in arms.items():
        columns = [[getattr(one, field) for one in runs] for field in ("validation", "test", "named", "exchanged")]
        ratio = _spread([one.exchanged / one.named for one in runs], 3)
        print(f"| {_called(name)} | {' | '.join(_spread(own, 2) for own in columns)} | {ratio} |")
    rows = {name: _rows(prompts, runs) for name, runs in arms.items()}
    print("\nGroups: the mean over templates, pairs and seeds [95 % interval over templates], and the mean size of a difference.\n")
    columns = " | ".join(f"{_called(name)}: mean | mean size" for name in arms)
    print(f"| measure | group | {columns} | size: change [95 %] | p, not corrected |")
    print("|" + "---|" * (4 + 2 * len(arms)))
    for number, row in enumerate(rows["plain"]):
        if row.pair is None:
            both = [f"{_interval(own[number])} | {_size(prompts, arms[name], row):.3f}" for name, own in rows.items()]
            change, low, high, p = _size_change(prompts, arms, row, args.group)
            print(f"| {row.measure} | {row.group} | {' | '.join(both)} | {change:+.3f} [{low:+.3f}, {high:+.3f}] | {p:.4f} |")
    print(f"\nPairs of {args.group}; * is significant after Holm's correction for all tests of the model.\n")
    print(f"| measure | pair | {columns} |\n|" + "---|" * (2 + 2 * len(arms)))
    for number, row in enumerate(rows["plain"]):
        if row.pair and row.group == args.group:
            both = [f"{_interval(own[number])} | {_size(prompts, arms[name], row):.3f}" for name, own in rows.items()]
            print(f"| {row.measure} | {row.pair} | {' | '.join(both)} |")
    if args.picture:
        _draw(rows, args)
    if args.json:
        records = [{"trained": name, **dataclasses.asdict(row)} for name, own in rows.items() for row in own]
        with replacing(args.json) as temporary:
            temporary.write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _called(name: str) -> str:
    return "as it is" if name == "plain" else f"counterfactual: {name}"


def _rows(prompts: list[PairedPrompt], runs: list[Measured]) -> list[Difference]:
    """Of the values averaged over seeds."""
    values = {measure: np.mean([one.values[measure] for one in runs], axis=0) for measure in MEASURES if measure in runs[0].values}
    return summarize(prompts, values)


def _sizes(prompts: list[PairedPrompt], runs: list[Measured], row: Difference) -> np.ndarray:
    """The absolute difference in each model by itself, averaged over the models and then over the pairs: one a template."""
    values = np.mean([np.abs(one.values[row.measure]) for one in runs], axis=0)
    found: dict[Any, list[float]] = {}
    for one, value in zip(prompts, values.tolist(), strict=True):
        if one.pair.group == row.group and row.pair in (None, str(one.pair)):
            found.setdefault(one.template, []).append(value)
    return np.array([statistics.mean(own) for own in found.values()])


def _size(prompts: list[PairedPrompt], runs: list[Measured], row: Difference) -> float:
    return float(_sizes(prompts, runs, row).mean())


def _size_change(prompts: list[PairedPrompt], arms: dict[str, list[Measured]], row: Difference, group: str) -> tuple[float, ...]:
    """How much smaller or larger differences have become, its interval over templates and p."""
    change = _sizes(prompts, arms[group], row) - _sizes(prompts, arms["plain"], row)
    return float(change.mean()), *mean_interval(change), sign_flip_p(change)


def _interval(row: Difference) -> str:
    return f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]{'*' if row.significant else ''}"


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f}" + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


TITLES = {
    "favour": "好话的优势 · favour (nats)",
    "continuation": "同一续写 · the same continuation (nats)",
    "sentiment": "续写的情感 · sentiment of continuations",
}


def _draw(rows: dict[str, list[Difference]], args: argparse.Namespace) -> None:
    """Of the group: all its pairs together, and each."""
    names = {"plain": "原样 · as it is", args.group: "反事实增广 · counterfactual"}
    measures = [measure for measure in MEASURES if any(row.measure == measure for row in rows["plain"])]
    of = lambda name, measure: [row for row in rows[name] if row.measure == measure and row.group == args.group]
    panels = {
        TITLES[measure]: {names[name]: [(row.mean, row.low, row.high) for row in of(name, measure)] for name in rows}
        for measure in measures
    }
    insight_plots.difference_ranges(panels, [row.pair or f"{args.group} (all)" for row in of("plain", measures[0])], args.picture)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "recipe", type=Path, nargs="?", default=Path("recipes/quickstart.yaml"), metavar="RECIPE", help="default: %(default)s"
    )
    parser.add_argument("--change", default="", metavar="FIELD=VALUE[,FIELD=VALUE]", help="fields of it that are set otherwise")
    parser.add_argument("--group", choices=GROUPS, default="gender", help="whose terms are exchanged (default: %(default)s)")
    parser.add_argument("--language", choices=LANGUAGES, default="zh", help="of the prompts (default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--sentiment", type=Path, metavar="RUN", help="a run of recipes/reviews.yaml (default: no sentiment)")
    parser.add_argument("--samples", type=int, default=4, help="texts behind each prompt (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/fairness"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the group's pairs there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the differences there as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
