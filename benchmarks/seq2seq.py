"""Encoder-decoders: trains each recipe with several seeds, and prints what they write for held-out sources, beside a floor.

    python benchmarks/seq2seq.py recipes/tatoeba-{transformer,gru}.yaml --corpus tatoeba-en-zh.tsv     # BLEU and chrF
    python benchmarks/seq2seq.py recipes/headlines{-clauses,}.yaml --min-new-tokens 18                # ROUGE
    python benchmarks/seq2seq.py recipes/reverse-{transformer,bahdanau,luong}.yaml --lengths 24       # right to the letter, by length

A recipe that starts from the `out` of another one named before it starts from that one's run of the same seed, which is not judged.
Interrupted, it goes on where it was. Each seed is a run of its own under --out. The floor of a translation is that of the most similar
sentence trained on; of a headline the text's first sentence, cut to a headline's mean length, and whole. Minutes are those of the
training, from a run's first file to its last, so of a run that was interrupted too many.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from systems.report import write_json

from keras_lm.training.run import Run, read_yaml, settings_from
from keras_lm.training.settings import TrainingSettings

SCORES = {"translation": ("bleu", "chrf"), "summarization": ("rouge1", "rouge2", "rouge_l")}


@dataclasses.dataclass(frozen=True)
class Row:
    """What the seeds of a recipe came to."""

    recipe: str
    model: str
    parameters: int
    minutes: list[float]
    losses: list[float]
    scores: dict[str, list[float]]
    exact: list[float]

    def line(self) -> str:
        scores = " | ".join(_spread(values, 2 if name in ("bleu", "chrf") else 4) for name, values in self.scores.items())
        minutes = statistics.median(self.minutes)
        return (
            f"| {self.recipe} | {self.model} | {self.parameters:,} | {minutes:.1f} | {_spread(self.losses, 3)} | {scores} "
            f"| {_spread(self.exact, 3)} |"
        )


def main() -> None:
    args = _arguments()
    recipes = {path.stem: read_yaml(path) for path in args.recipes}
    overrides = {name: value for name in ("corpus", "learning_rate", "steps") if (value := getattr(args, name)) is not None}
    overrides["sample_tokens"] = 0
    stem_of = {recipe["out"]: stem for stem, recipe in recipes.items() if "out" in recipe}
    starts = {stem_of[recipe["start_from"]] for recipe in recipes.values() if recipe.get("start_from") in stem_of}

    def settings_of(stem: str, seed: int) -> TrainingSettings:
        own = {"seed": seed, "out": str(args.out / f"{stem}-{seed}")}
        if (start := recipes[stem].get("start_from")) in stem_of:
            own["start_from"] = str(args.out / f"{stem_of[start]}-{seed}")
        return settings_from(recipes[stem], f"{stem}.yaml", **overrides, **own)

    runs = {stem: [settings_of(stem, seed) for seed in args.seeds] for stem in recipes}
    from systems.runs import trained

    rows, by_length, floors = [], {}, {}
    for stem, seeds in runs.items():
        finished = []
        for settings in seeds:
            print(f"\n{stem}, seed {settings.seed}", flush=True)
            finished.append(trained(settings))
        if stem in starts:
            continue
        rows.append(_row(stem, finished, args))
        if args.lengths:
            by_length[stem] = [right_by_length(run, args.lengths) for run in finished]
        else:
            floors |= _floors(finished[0], args.part)
        if args.json:
            write_json(args.json, rows, without=())
    names = SCORES[finished[0].settings.task]
    print("\npython benchmarks/seq2seq.py", *sys.argv[1:], end="\n\n")
    print(f"| recipe | model | parameters | minutes | loss | {' | '.join(names)} | right to the letter |")
    print("|---|---|---|---|---|---" + "|---" * len(names) + "|")
    print(*(row.line() for row in rows), sep="\n")
    for floor, scores in floors.items():
        cells = " | ".join(f"{scores[name]:.{2 if name in ('bleu', 'chrf') else 4}f}" for name in names)
        print(f"| {floor} | - | - | - | - | {cells} | - |")
    if by_length:
        lengths = range(1, args.lengths + 1)
        print("\nRight to the letter, by length (those trained on end at 16), mean of the seeds:\n")
        print("| recipe | " + " | ".join(map(str, lengths)) + " |\n|---" + "|---" * args.lengths + "|")
        for stem, curves in by_length.items():
            print(f"| {stem} | " + " | ".join(f"{statistics.mean(curve[length] for curve in curves):.2f}" for length in lengths) + " |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE", help="YAML files of settings, all of one task")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--corpus", help="in place of the recipes'")
    parser.add_argument("--learning-rate", type=float, help="in place of the recipes'")
    parser.add_argument("--steps", type=int, help="in place of the recipes'")
    parser.add_argument("--part", choices=("validation", "test"), default="test", help="what is judged on (default: test)")
    parser.add_argument("--num-beams", type=int, default=4, help="default: 4")
    parser.add_argument("--min-new-tokens", type=int, default=0, metavar="N", help="fewest tokens of what is written (default: 0)")
    parser.add_argument("--lengths", type=int, metavar="N", help="of copy and reverse: also random strings of each length up to N")
    parser.add_argument("--out", type=Path, default=Path("runs/seq2seq"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    return parser.parse_args()


def _row(stem: str, runs: list[Run], args: argparse.Namespace) -> Row:
    from keras_lm.tasks import summarization, translation
    from keras_lm.tasks.references import references
    from keras_lm.tasks.scoring import exact_match

    task = runs[0].settings.task
    evaluate: Callable = {"translation": translation, "summarization": summarization}[task].evaluate
    results = [evaluate(run, args.part, num_beams=args.num_beams, min_new_tokens=args.min_new_tokens) for run in runs]
    right = list(references(runs[0], args.part).values())
    return Row(
        recipe=stem,
        model=runs[0].settings.model,
        parameters=runs[0].load_model().count_params(),
        minutes=[_minutes(run) for run in runs],
        losses=[run.load_evaluator()(run.load_tokens()[args.part]).loss for run in runs],
        scores={name: [getattr(scores, name) for scores, _ in results] for name in SCORES[task]},
        exact=[exact_match(texts, right) for _, texts in results],
    )


def _minutes(run: Run) -> float:
    last = max(path.stat().st_mtime for path in run.folder.rglob("*"))
    return (last - (run.folder / "tokens" / "manifest.json").stat().st_mtime) / 60


def _floors(run: Run, part: str) -> dict[str, dict[str, float]]:
    from keras_lm.tasks import summarization, translation

    corpus = Path(run.settings.corpus).name
    if run.settings.task == "translation":
        return {f"floor, {corpus}": dataclasses.asdict(translation.floor(run, part))}
    kinds = {f"floor, {corpus}, first sentences cut": False, f"floor, {corpus}, first sentences": True}
    return {name: dataclasses.asdict(summarization.floor(run, part, whole=whole)) for name, whole in kinds.items()}


def right_by_length(run: Run, longest: int, number: int = 100) -> dict[int, float]:
    """The share of random strings of each length that come out right to the letter, greedily."""
    draw = random.Random(1_000)
    answer = {"copy": str, "reverse": lambda text: text[::-1]}[run.settings.corpus]
    generator = run.make_generator()
    shares = {}
    for length in range(1, longest + 1):
        sources = ["".join(draw.choices("abcdefghijklmnop", k=length)) for _ in range(number)]
        texts = generator.generate(sources, temperature=0.0, max_new_tokens=min(longest + 2, run.settings.sequence_length - 1))
        shares[length] = sum(text.text == answer(source) for source, text in zip(sources, texts, strict=True)) / number
    return shares


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f}" + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
