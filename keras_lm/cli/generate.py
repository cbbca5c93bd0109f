"""`keras_lm-generate`: text from a run or from an export."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from keras_lm.cli import options
from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.generation.settings import SamplingSettings
from keras_lm.training.run import Run

_EPILOG = """examples:
  keras_lm-generate runs/quickstart --prompt 中国 --temperature 0.7 --top-k 40
  keras_lm-generate saved_models/quickstart --prompt 中国 --max-new-tokens 50 --seed 7

Prints the prompt and what follows it. Temperature 0 is greedy. The same seed gives the same text."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-generate",
        usage="%(prog)s RUN --prompt TEXT [flags]",
        description="Generate text from a trained model.",
        epilog=_EPILOG,
    )
    result.add_argument("model", metavar="RUN", help="a run folder, or an exported folder (saved_models/NAME)")
    result.add_argument("--prompt", metavar="TEXT", required=True, help="what the text begins with")
    result.add_argument(
        "--unknown",
        choices=("refuse", "replace"),
        default="refuse",
        help="characters never seen in training: refuse, or replace by the unknown token",
    )
    options.add_fields(result, SamplingSettings, {"max_new_tokens": "sampling"})
    return result


def generate(arguments: Sequence[str] | None) -> int:
    given = vars(parser().parse_args(arguments))
    folder, prompt, unknown = given.pop("model"), given.pop("prompt"), given.pop("unknown")
    settings = SamplingSettings(**given)
    if not prompt:
        raise UserError("the prompt is empty: give at least one character")
    exported = layout.is_export(folder)
    run = None if exported else _open_run(folder)
    if exported:
        layout.find(folder)

    options.start_tensorflow()
    text = _from_export(folder, prompt, unknown, settings) if exported else _from_run(run, prompt, unknown, settings)
    print(prompt + text)
    return 0


def _open_run(folder: str) -> Run:
    if pathlib.Path(folder).is_dir() and not (pathlib.Path(folder) / "settings.yaml").exists():
        raise UserError(f"{folder} holds neither a run (settings.yaml) nor an export (saved_model.pb)")
    return Run.open(folder)


def _from_run(run: Run, prompt: str, unknown: str, settings: SamplingSettings) -> str:
    from keras_lm.generation.text import TextGenerator

    tokenizer = run.load_tokenizer()
    _check_known(tokenizer, prompt, run.settings.clean, unknown)
    generator = TextGenerator(run.load_model(), tokenizer, clean=run.settings.clean, documents=run.settings.documents)
    return generator.generate([prompt], settings)[0].text


def _from_export(folder: str, prompt: str, unknown: str, settings: SamplingSettings) -> str:
    import tensorflow as tf

    from keras_lm import cleaning, tokenizers
    from keras_lm.export.saved_model import ExportedGenerator
    from keras_lm.generation.text import prompt_ids

    generator = ExportedGenerator(folder)
    metadata = generator.metadata
    tokenizer = tokenizers.load(generator.folder / layout.TOKENIZER)
    _check_known(tokenizer, prompt, metadata["clean"], unknown)
    length = len(prompt_ids(tokenizer, cleaning.compose(metadata["clean"])(tf.constant([prompt])), metadata["documents"])[0])
    context = metadata["context_length"]
    if context and length >= context:
        raise UserError(f"the prompt has {length} tokens; the context of {context} has room for {context - 1}: shorten it")
    if context and length + settings.max_new_tokens > context:
        print(
            f"keras_lm-generate: the text will end where the context of {context} tokens does; a run folder goes on beyond it",
            file=sys.stderr,
        )
    return generator.generate([prompt], settings)[0].text


def _check_known(tokenizer, prompt: str, clean: Sequence[str], unknown: str) -> None:
    import tensorflow as tf

    from keras_lm import cleaning

    characters = tokenizer.unknown_characters(cleaning.compose(clean)(tf.constant(prompt)).numpy().decode("utf-8", "replace"))
    if characters and unknown == "refuse":
        shown = " ".join(characters[:10])
        raise UserError(f"the prompt has characters never seen in training: {shown} (--unknown replace goes on without them)")


def main() -> None:
    sys.exit(options.run(lambda: generate(None), "keras_lm-generate"))
