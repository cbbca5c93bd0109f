"""Memory over distance: associative recall by four models of equal size, how far gradients reach, how states tell senses apart.

    python benchmarks/memory.py                                       # recall: three seeds, the notebook's steps and four times as many
    python benchmarks/memory.py --rates 1e-3 3e-3 1e-2 2e-2 4e-2      # which learning rate suits each model (one seed)
    python benchmarks/memory.py --runs runs/quality/peoples-daily-*   # gradients and senses in models trained on text

Runs come from benchmarks/quality.py or keras_lm-train; for the senses they have to be of Chinese text, a character a token.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np

KINDS = ("simple_rnn", "lstm", "gru", "transformer")
REACH = (1, 2, 5, 10, 20, 40)


def main() -> None:
    args = _arguments()
    print("python benchmarks/memory.py " + " ".join(sys.argv[1:]))
    if args.runs:
        _print_gradients(args)
        _print_senses(args)
    elif args.rates:
        _print_rates(args)
    else:
        _print_recall(args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--steps", nargs="+", type=int, default=[800, 3200], help="default: 800 3200")
    parser.add_argument("--parameters", type=int, default=80_000, help="of each model (default: %(default)s)")
    parser.add_argument("--rates", nargs="+", type=float, help="learning rates to try")
    parser.add_argument("--runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--windows", type=int, default=256, help="of validation text, for the gradients (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/memory"), help="folder of the pictures (default: %(default)s)")
    return parser.parse_args()


def _recall(kind: str, args: argparse.Namespace, steps: int, seed: int, learning_rate: float | None = None) -> np.ndarray:
    from keras_lm.insight.recall import RecallTask, recall_accuracy, recall_model, train_recall

    task = RecallTask()
    model = recall_model(kind, task, args.parameters, seed)
    loss = train_recall(model, task, steps=steps, seed=seed, learning_rate=learning_rate)
    shares = recall_accuracy(model, task, range(1, task.num_keys + 1))
    print(f"{kind}, {steps} steps, seed {seed}: {model.count_params():,} parameters, loss {loss:.3f}, mean {shares.mean():.3f}", flush=True)
    return shares


def _print_recall(args: argparse.Namespace) -> None:
    from keras_lm import plots
    from keras_lm.insight.recall import RecallTask

    task = RecallTask()
    shown = [distance for distance in (1, 2, 4, 8, 16, 24) if distance <= task.num_keys]
    lines = []
    for steps in args.steps:
        curves = {kind: [_recall(kind, args, steps, seed) for seed in args.seeds] for kind in KINDS}
        for kind, runs in curves.items():
            cells = [_spread([run[distance - 1] for run in runs]) for distance in shown]
            lines.append(f"| {kind} | {steps} | " + " | ".join([*cells, _spread([run.mean() for run in runs])]) + " |")
        plots.recall_over_distance(range(1, task.num_keys + 1), curves, 1 / task.num_values, args.out / f"recall-{steps}.png")
    print(f"\nshare of answers right, {len(args.seeds)} seeds, mean (least to largest); {task}; a guess: {1 / task.num_values:.2f}\n")
    print("| model | steps | " + " | ".join(f"distance {distance}" for distance in shown) + " | all distances |")
    print("|---" * (len(shown) + 3) + "|")
    print(*lines, sep="\n")


def _print_rates(args: argparse.Namespace) -> None:
    steps, seed = args.steps[0], args.seeds[0]
    table = {kind: [_recall(kind, args, steps, seed, rate).mean() for rate in args.rates] for kind in KINDS}
    print(f"\nmean share of answers right after {steps} steps, by largest learning rate\n")
    print("| model | " + " | ".join(f"{rate:g}" for rate in args.rates) + " |\n" + "|---" * (len(args.rates) + 1) + "|")
    for kind, shares in table.items():
        print(f"| {kind} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")


def _print_gradients(args: argparse.Namespace) -> None:
    from keras_lm import plots
    from keras_lm.insight.memory import gradient_reach
    from keras_lm.training.run import Run

    curves = {}
    print(f"\nsize of the gradient of the loss in the input k steps before, k = 0 as 1; mean over up to {args.windows} held-out windows\n")
    print("| run | " + " | ".join(f"k = {distance}" for distance in REACH) + " |\n" + "|---" * (len(REACH) + 1) + "|")
    for folder in args.runs:
        run = Run.open(folder)
        length = run.settings.sequence_length + 1
        text = np.asarray(run.load_tokens()["validation"].ids[: args.windows * length])
        ids = text[: len(text) // length * length].reshape(-1, length)
        curves[folder.name] = gradient_reach(run.load_model(), ids)
        cells = [f"{curves[folder.name][k] / curves[folder.name][0]:.1e}" if k < length - 1 else "-" for k in REACH]
        print(f"| {folder.name} | " + " | ".join(cells) + " |", flush=True)
    plots.gradient_reach(curves, args.out / "gradients.png")


def _print_senses(args: argparse.Namespace) -> None:
    from keras_lm.errors import UserError
    from keras_lm.insight.senses import context_means, load_senses, sense_separation, sense_states, static_vectors
    from keras_lm.training.run import Run

    examples = load_senses()
    print(f"\nnearest neighbour of the same sense, and silhouette: means over {len({example.word for example in examples})} words\n")
    print("| run | vectors | accuracy | silhouette |\n|---|---|---|---|")
    for folder in args.runs:
        run = Run.open(folder)
        model, tokenizer = run.load_model(), run.load_tokenizer()
        try:
            states = sense_states(model, tokenizer, examples)
        except UserError as error:  # not trained on Chinese
            print(f"| {folder.name} | {error} | - | - |")
            continue
        matrix = np.asarray(next(layer for layer in model.layers if hasattr(layer, "embeddings")).embeddings.numpy())
        vectors = {"the word's row": static_vectors(matrix, tokenizer, examples)}
        for window in (1, 2, 4, None):
            name = f"mean of {window or 'all'} before it"
            vectors[name] = context_means(matrix, tokenizer, examples, window)
        vectors |= {f"state: {name}": own for name, own in list(states.items())[1:]}
        for name, own in vectors.items():
            found = sense_separation(own, examples)
            accuracy, silhouette = (statistics.mean(getattr(word, field) for word in found) for field in ("accuracy", "silhouette"))
            print(f"| {folder.name} | {name} | {accuracy:.3f} | {silhouette:.3f} |", flush=True)


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return mean + (f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
