"""Scaling laws in small: trains a recipe in several sizes, fits loss against parameters and tokens, and draws both.

    python benchmarks/scaling.py --config recipes/scaling.yaml
    python benchmarks/scaling.py --config recipes/scaling.yaml --corpus tinyshakespeare.txt --sizes 2x32 2x64 3x96 4x128

Interrupted, it goes on where it was. Each size is a run of its own under --out.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from keras_lm.errors import UserError
from keras_lm.training.run import read_yaml, settings_from


def main() -> None:
    args = _arguments()
    recipe = read_yaml(args.config)
    sizes = [_size(text) for text in args.sizes]
    from systems.runs import trained

    from keras_lm import plots, scaling
    from keras_lm.training import estimate

    points = []
    for layers, width in sizes:
        overrides = {"num_layers": layers, "embedding_dim": width, "out": str(args.out / f"{layers}x{width}")}
        overrides |= {"corpus": args.corpus} if args.corpus else {}
        overrides |= {"steps": args.steps} if args.steps else {}
        settings = settings_from(recipe, str(args.config), **overrides)
        print(f"\n{layers} x {width}", flush=True)
        run = trained(settings)
        counts = estimate.parameters(run.load_model())
        tokens = settings.batch_size * settings.sequence_length
        curve = [(line["step"] * tokens, line["val_loss"]) for line in run.read_metrics()]
        points.append(scaling.SizedRun(parameters=counts["matrices"] + counts["vectors"], curve=curve))
    by_size = scaling.fit_power_law([point.parameters for point in points], [point.loss for point in points])
    # The least model that still learns is not the point here: tokens are what the largest one is short of.
    by_tokens = scaling.fit_power_law(*zip(*points[-1].curve, strict=True))
    print(f"\npython benchmarks/scaling.py --config {args.config} --sizes {' '.join(args.sizes)}\n")
    print("| parameters without embeddings | tokens read | best validation loss | the fitted line |\n|---|---|---|---|")
    for point in points:
        print(f"| {point.parameters:,} | {point.curve[-1][0]:,} | {point.loss:.4f} | {by_size(point.parameters):.4f} |")
    print(f"\nL(N) = (N_c / N)^{by_size.exponent:.4f}, N_c = {by_size.scale:.3g}; R² {by_size.r_squared:.3f}")
    print(f"L(D) = (D_c / D)^{by_tokens.exponent:.4f}, D_c = {by_tokens.scale:.3g}; R² {by_tokens.r_squared:.3f} (the largest model)")
    plots.scaling_laws(points, by_size, by_tokens, args.out / "scaling.png")
    print(args.out / "scaling.png")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="recipe that all sizes share")
    parser.add_argument("--corpus", help="in place of the recipe's")
    parser.add_argument("--steps", type=int, help="in place of the recipe's")
    parser.add_argument("--sizes", nargs="+", default=["2x32", "2x64", "3x96", "4x128"], metavar="LxD", help="layers x width, ascending")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"), help="folder of the runs (default: %(default)s)")
    return parser.parse_args()


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise UserError(f"a size is layers x width, as 4x128, got {text!r}")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    main()
