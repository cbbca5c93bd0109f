"""`keras_lm-generate`: text from a run or from an export."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_lm.cli import options
from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.generation.settings import WHEN_FULL, BeamSettings, ContrastiveSettings, SamplingSettings
from keras_lm.training.run import Run
from keras_lm.training.settings import LABELLED

if TYPE_CHECKING:
    from keras_lm.generation.text import Generated

_EPILOG = """examples:
  keras_lm-generate runs/quickstart --prompt 中国 --temperature 0.7 --top-k 40 --stream
  keras_lm-generate runs/quickstart --prompt 中国 --num-samples 3 --min-p 0.05 --no-repeat-ngram-size 4
  keras_lm-generate runs/quickstart --prompt 中国 --num-beams 4 --num-samples 2 --no-repeat-ngram-size 3
  keras_lm-generate runs/quickstart --prompt １９９８年 --allow "[０-９]{1,2}月[０-９]{1,2}日"
  keras_lm-generate saved_models/quickstart --prompt 中国 --max-new-tokens 50 --seed 7
  keras_lm-generate saved_models/quickstart/model-int8.tflite --prompt 中国 --stream

Prints the prompt and what follows it; of a run of translation or summarization the prompt is the source, and what is written for it is
printed alone. Temperature 0 is greedy. The same seed gives the same text. The first call for a model compiles
the sampler, which takes some seconds; what is compiled is kept in ~/.cache/keras_lm (KERAS_LM_XLA_CACHE= switches that off)."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-generate",
        usage="%(prog)s RUN --prompt TEXT [flags]",
        description="Generate text from a trained model.",
        epilog=_EPILOG,
    )
    result.add_argument("model", metavar="RUN", help="a run folder, an exported folder (saved_models/NAME), or a .tflite file")
    result.add_argument("--prompt", metavar="TEXT", required=True, help="what the text begins with")
    result.add_argument("--stream", action="store_true", help="print the text as it is made")
    result.add_argument(
        "--unknown",
        choices=("refuse", "replace"),
        default="refuse",
        help="characters never seen in training: refuse, or replace by the unknown token",
    )
    options.add_fields(result, SamplingSettings, {"max_new_tokens": "sampling"}, {"when_full": WHEN_FULL})
    options.add_fields(
        result, BeamSettings, {"num_beams": "beam search (more than one beam), which gives the best --num-samples texts"}, only=_BEAM
    )
    options.add_fields(
        result, ContrastiveSettings, {"alpha": "contrastive search, among the --top-k most probable tokens"}, only=("alpha",)
    )
    speculative = result.add_argument_group("speculative decoding")
    speculative.add_argument(
        "--draft", metavar="RUN|lookup", help="guess ahead with a smaller run of the same tokenizer, or from the text itself"
    )
    return result


_BEAM = ("num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping")
# What the searches have in common with sampling.
_SHARED = ("max_new_tokens", "min_new_tokens", "repetition_penalty", "no_repeat_ngram_size")


def generate(arguments: Sequence[str] | None) -> int:
    given = vars(parser().parse_args(arguments))
    folder, prompt, unknown, stream, draft = (given.pop(name) for name in ("model", "prompt", "unknown", "stream", "draft"))
    search = _search(given)
    settings = SamplingSettings(**{name: value for name, value in given.items() if name not in (*_BEAM, "alpha")})
    if not prompt:
        raise UserError("the prompt is empty: give at least one character")
    if stream and settings.num_samples > 1:
        raise UserError("--stream prints one text: leave --num-samples out")
    if sum((stream, search is not None, draft is not None)) > 1:
        raise UserError("--stream, --num-beams, --alpha and --draft exclude each other: give one of them")
    if folder.endswith(".tflite"):
        if search or draft:
            raise UserError("a LiteRT file samples: --num-beams, --alpha and --draft need a run folder")
        _from_lite(folder, prompt, unknown, settings, stream)
        return 0
    exported = layout.is_export(folder)
    run = None if exported else _open_run(folder)
    task = layout.find(folder)[1].get("task", "lm") if exported else run.settings.task
    if task in LABELLED or task == "masked":
        hint = ": keras_lm-predict says what it finds" if task in LABELLED else ""
        raise UserError(f"{folder} is of {task}, which writes no text{hint}")
    if exported and (stream or search or draft):
        raise UserError("an export samples, and gives its text at once: --stream, --num-beams, --alpha and --draft need a run folder")
    guesser = _open_run(draft) if draft not in (None, "lookup") else draft

    pairs = run.settings.reads_pairs if run else layout.find(folder)[1].get("reads_sources", False)
    if pairs and draft:
        raise UserError("--draft is for language models, not for translation and summarization")
    if pairs and "temperature" not in given:
        settings = dataclasses.replace(settings, temperature=0.0)  # one right answer is asked for

    options.keep_compilations()
    options.start_tensorflow()
    if stream:
        _stream(run, prompt, unknown, settings)
        return 0
    with options.Spinner("loading, compiling and generating"):
        texts = _from_export(folder, prompt, unknown, settings) if exported else _from_run(run, prompt, unknown, settings, search, guesser)
    shown = "" if pairs else prompt  # a target stands alone
    for number, text in enumerate(texts):
        if number:
            print("-" * 20)
        print(shown + text.text)
        if text.tokens is not None:
            _print_tokens(text.tokens)
    return 0


def _search(given: dict[str, object]) -> BeamSettings | ContrastiveSettings | None:
    """The settings of the search that was asked for by its own flags; flags that it does not know are refused."""
    beam, contrastive = {name for name in _BEAM if name in given}, "alpha" in given
    if not beam and not contrastive:
        return None
    if beam and contrastive:
        raise UserError("beam search and --alpha exclude each other")
    known = {*_SHARED, "stop", "allow", *(("num_samples", *_BEAM) if beam else ("alpha", "top_k"))}
    for name in given:
        if name not in known:
            kind = "beam" if beam else "contrastive"
            raise UserError(f"--{name.replace('_', '-')} is for sampling: {kind} search does not know it")
    own = {name: value for name, value in given.items() if name in known - {"stop", "allow", "num_samples"}}
    if contrastive:
        return ContrastiveSettings(**own)
    num_return = given.get("num_samples", 1)
    return BeamSettings(**{"num_beams": max(BeamSettings().num_beams, num_return), **own}, num_return=num_return)


def _print_tokens(tokens) -> None:
    """A line a token: its text, ln P, and what else was probable."""
    print()
    for token in tokens:
        alternatives = "  ".join(f"{text!r} {logprob:.2f}" for text, logprob in token.alternatives)
        print(f"{token.text!r:<12} {token.logprob:7.2f}" + (f"   {alternatives}" if alternatives else ""))


def _open_run(folder: str) -> Run:
    if pathlib.Path(folder).is_dir() and not (pathlib.Path(folder) / "settings.yaml").exists():
        raise UserError(f"{folder} holds neither a run (settings.yaml) nor an export (saved_model.pb)")
    return Run.open(folder)


def _generator(run: Run, prompt: str, unknown: str, guesser: Run | str | None = None):
    _check_known(run.load_tokenizer(), prompt, run.settings.clean, unknown)
    return run.make_generator(draft=guesser.load_model() if isinstance(guesser, Run) else guesser)


def _from_run(
    run: Run,
    prompt: str,
    unknown: str,
    settings: SamplingSettings,
    search: BeamSettings | ContrastiveSettings | None,
    guesser: Run | str | None,
) -> list[Generated]:
    generator = _generator(run, prompt, unknown, guesser)
    if search is None:
        return generator.generate([prompt], settings)
    from keras_lm.generation.automata import Regex

    rules = {"stop": settings.stop, "allow": Regex(settings.allow) if settings.allow else None}
    if isinstance(search, ContrastiveSettings):
        return generator.contrastive_search([prompt], search, **rules)
    return generator.beam_search([prompt], search, **rules)[0]


def _stream(run: Run, prompt: str, unknown: str, settings: SamplingSettings) -> None:
    with options.Spinner("loading and compiling") as spinner:
        pieces = _generator(run, prompt, unknown).stream(prompt, settings)
        first = ("" if run.settings.reads_pairs else prompt) + next(pieces, "")
        spinner.stop()
        for piece in itertools.chain([first], pieces):
            print(piece, end="", flush=True)
    print()


def _from_export(folder: str, prompt: str, unknown: str, settings: SamplingSettings) -> list[Generated]:
    import tensorflow as tf

    from keras_lm import cleaning, tokenizers
    from keras_lm.export.saved_model import ExportedGenerator
    from keras_lm.generation.text import prompt_ids

    generator = ExportedGenerator(folder)
    metadata = generator.metadata
    tokenizer = tokenizers.load(generator.folder / layout.TOKENIZER)
    _check_known(tokenizer, prompt, metadata["clean"], unknown)
    if generator.reads_sources:
        return generator.generate([prompt], settings)
    length = len(prompt_ids(tokenizer, cleaning.compose(metadata["clean"])(tf.constant([prompt])), metadata["documents"])[0])
    context = metadata["context_length"]
    if context and length >= context:
        raise UserError(f"the prompt has {length} tokens; the context of {context} has room for {context - 1}: shorten it")
    _warn_of_context(context, length, settings)
    return generator.generate([prompt], settings)


def _from_lite(path: str, prompt: str, unknown: str, settings: SamplingSettings, stream: bool) -> None:
    """Prints text from a LiteRT file; nothing of this imports TensorFlow."""
    from keras_lm.export.tflite_generator import TFLiteGenerator

    with options.quiet_start():
        generator = TFLiteGenerator(path)
        length = len(generator.encode(prompt))
    _refuse_unknown(generator.codec.unknown_characters(generator.codec.clean(prompt)), unknown)
    _warn_of_context(generator.metadata["context_length"], length, settings)
    if not stream:
        print(f"\n{'-' * 20}\n".join(prompt + text for text, _ in generator.generate(prompt, settings)))
        return
    pieces = generator.stream(prompt, settings)
    for piece in itertools.chain([prompt + next(pieces, "")], pieces):
        print(piece, end="", flush=True)
    print()


def _warn_of_context(context: int | None, length: int, settings: SamplingSettings) -> None:
    if context and length + settings.max_new_tokens > context:
        print(
            f"keras_lm-generate: the text will end with the context of {context} tokens (from a run folder, --when-full slide goes on)",
            file=sys.stderr,
        )


def _check_known(tokenizer, prompt: str, clean: Sequence[str], unknown: str) -> None:
    import tensorflow as tf

    from keras_lm import cleaning

    _refuse_unknown(tokenizer.unknown_characters(cleaning.compose(clean)(tf.constant(prompt)).numpy().decode("utf-8", "replace")), unknown)


def _refuse_unknown(characters: Sequence[str], unknown: str) -> None:
    if characters and unknown == "refuse":
        shown = " ".join(characters[:10])
        raise UserError(f"the prompt has characters never seen in training: {shown} (--unknown replace goes on without them)")


def main() -> None:
    sys.exit(options.run(lambda: generate(None), "keras_lm-generate"))
