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
    from keras_lm.generation.grammar import Grammar
    from keras_lm.generation.text import Generated

_EPILOG = """examples:
  keras_lm-generate runs/quickstart --prompt 中国 --temperature 0.7 --top-k 40 --stream
  keras_lm-generate runs/quickstart --prompt 中国 --num-samples 3 --min-p 0.05 --no-repeat-ngram-size 4
  keras_lm-generate runs/quickstart --prompt 中国 --num-beams 4 --num-samples 2 --no-repeat-ngram-size 3
  keras_lm-generate runs/quickstart --prompt １９９８年 --allow "[０-９]{1,2}月[０-９]{1,2}日"
  keras_lm-generate runs/book --prompt "It was " --grammar json --max-new-tokens 60
  keras_lm-generate saved_models/quickstart --prompt 中国 --max-new-tokens 50 --seed 7
  keras_lm-generate saved_models/quickstart/model-int8.tflite --prompt 中国 --stream
  keras_lm-generate runs/sentences-vae --from-prior --num-samples 5
  keras_lm-generate runs/sentences-vae --between 房间很干净。 服务态度太差了！ --num-samples 7

Prints the prompt and what follows it; of a run of translation or summarization the prompt is the source, and what is written for it is
printed alone, and of a vae it is read and written again. Temperature 0 is greedy. The same seed gives the same text. The first call for a
model compiles the sampler, which takes seconds; what is compiled is kept in ~/.cache/keras_lm (KERAS_LM_XLA_CACHE= switches that off)."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-generate",
        usage="%(prog)s RUN (--prompt TEXT | --from-prior | --between TEXT TEXT) [flags]",
        description="Generate text from a trained model.",
        epilog=_EPILOG,
    )
    result.add_argument("model", metavar="RUN", help="a run folder, an exported folder (saved_models/NAME), or a .tflite file")
    result.add_argument("--prompt", metavar="TEXT", help="what the text begins with; of a vae the sentence that is read, and written again")
    vae = result.add_argument_group("sentence VAEs, in place of or beside --prompt; --num-samples says how many sentences")
    vae.add_argument("--from-prior", action="store_true", help="write sentences from vectors that are drawn by --seed")
    vae.add_argument("--between", nargs=2, metavar="TEXT", help="write sentences from the line between the vectors of two")
    vae.add_argument(
        "--radius", type=float, metavar="F", help="write sentences from vectors about that of the prompt; 1: its own posterior"
    )
    result.add_argument(
        "--grammar", metavar="FILE|json", help="a grammar in Lark's notation that the whole new text must follow, from its rule start on"
    )
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
    from_prior, between, radius, grammar = (given.pop(name) for name in ("from_prior", "between", "radius", "grammar"))
    search = _search(given)
    settings = SamplingSettings(**{name: value for name, value in given.items() if name not in (*_BEAM, "alpha")})
    if (prompt is not None) + from_prior + (between is not None) != 1:
        raise UserError("give one of --prompt TEXT, --from-prior and --between TEXT TEXT")
    if prompt is None or radius is not None:
        if search or stream or draft or grammar:
            raise UserError("sentences of vectors are sampled: leave --stream, --num-beams, --alpha, --draft and --grammar out")
        _check_vae(folder, given, radius, between)
        if "temperature" not in given:
            settings = dataclasses.replace(settings, temperature=0.0)  # the vector alone decides
        return _from_vectors(folder, prompt, between, radius, unknown, settings)
    if not prompt:
        raise UserError("the prompt is empty: give at least one character")
    if stream and settings.num_samples > 1:
        raise UserError("--stream prints one text: leave --num-samples out")
    if sum((stream, search is not None, draft is not None)) > 1:
        raise UserError("--stream, --num-beams, --alpha and --draft exclude each other: give one of them")
    if grammar and (settings.allow or draft):
        raise UserError("--grammar, --allow and --draft exclude each other: give one of them")
    if folder.endswith(".tflite"):
        if search or draft or grammar:
            raise UserError("a LiteRT file samples: --num-beams, --alpha, --draft and --grammar need a run folder")
        _from_lite(folder, prompt, unknown, settings, stream)
        return 0
    exported = layout.is_export(folder)
    run = None if exported else _open_run(folder)
    task = layout.find(folder)[1].get("task", "lm") if exported else run.settings.task
    if task in LABELLED or task == "masked":
        hint = ": keras_lm-predict says what it finds" if task in LABELLED else ""
        raise UserError(f"{folder} is of {task}, which writes no text{hint}")
    if exported and (stream or search or draft or grammar):
        what = "--stream, --num-beams, --alpha, --draft and --grammar"
        raise UserError(f"an export samples, and gives its text at once: {what} need a run folder")
    guesser = _open_run(draft) if draft not in (None, "lookup") else draft

    pairs = run.settings.reads_pairs or run.settings.has_latent if run else layout.find(folder)[1].get("reads_sources", False)
    if pairs and draft:
        raise UserError(f"--draft is for language models, not for {task}")
    if pairs and "temperature" not in given:
        settings = dataclasses.replace(settings, temperature=0.0)  # one right answer is asked for
    grammar = _read_grammar(grammar) if grammar else None

    options.keep_compilations()
    options.start_tensorflow()
    if stream:
        _stream(run, prompt, unknown, settings, grammar)
        return 0
    with options.Spinner("loading, compiling and generating"):
        if exported:
            texts = _from_export(folder, prompt, unknown, settings)
        else:
            texts = _from_run(run, prompt, unknown, settings, grammar, search, guesser)
    shown = "" if pairs else prompt  # a target stands alone
    for number, text in enumerate(texts):
        if number:
            print("-" * 20)
        print(shown + text.text)
        if text.tokens is not None:
            _print_tokens(text.tokens)
    return 0


def _check_vae(folder: str, given: dict[str, object], radius: float | None, between: list[str] | None) -> None:
    if folder.endswith(".tflite") or layout.is_export(folder) or not _open_run(folder).settings.has_latent:
        raise UserError(f"{folder} is no run folder of --task vae: --from-prior, --between and --radius need one")
    if radius is not None and not 0 <= radius < float("inf"):
        raise UserError(f"--radius must be 0 or more, got {radius}")
    if between and given.get("num_samples", _STEPS) < 2:
        raise UserError("--between writes both ends: --num-samples must be at least 2")


def _from_vectors(
    folder: str, prompt: str | None, between: list[str] | None, radius: float | None, unknown: str, settings: SamplingSettings
) -> int:
    """Prints sentences of a VAE, a line each."""
    number, settings = settings.num_samples, dataclasses.replace(settings, num_samples=1)
    options.keep_compilations()
    options.start_tensorflow()
    from keras_lm.tasks.latent import LatentSpace

    with options.Spinner("loading, compiling and generating"):
        run = _open_run(folder)
        for text in between or ([prompt] if prompt else []):
            _check_known(run.load_tokenizer(), text, run.settings.clean, unknown)
        space = LatentSpace.of(run)
        if between:
            texts = space.interpolate(*between, number if number > 1 else _STEPS, settings)
        elif prompt is None:
            texts = space.sample(number, settings, seed=settings.seed)
        else:
            texts = space.neighbours(prompt, number, settings, radius=radius, seed=settings.seed)
    print(*(text.text for text in texts), sep="\n")
    return 0


_STEPS = 7
"""Sentences of `--between` where their number is not given."""


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


def _read_grammar(name: str) -> Grammar:
    """A grammar out of a file or the package, checked before anything slow begins."""
    from keras_lm.generation.grammar import PACKAGED, Grammar

    path = pathlib.Path(name)
    if path.is_file():
        try:
            grammar = Grammar(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise UserError(f"{name} is not UTF-8 text") from None
    elif name in PACKAGED:
        grammar = Grammar.named(name)
    else:
        raise UserError(f"{name} is no file, and of the packaged grammars there is {', '.join(PACKAGED)}")
    grammar.automaton()
    return grammar


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
    grammar: Grammar | None,
    search: BeamSettings | ContrastiveSettings | None,
    guesser: Run | str | None,
) -> list[Generated]:
    generator = _generator(run, prompt, unknown, guesser)
    if search is None:
        return generator.generate([prompt], settings, allow=grammar)
    from keras_lm.generation.automata import Regex

    rules = {"stop": settings.stop, "allow": Regex(settings.allow) if settings.allow else grammar}
    if isinstance(search, ContrastiveSettings):
        return generator.contrastive_search([prompt], search, **rules)
    return generator.beam_search([prompt], search, **rules)[0]


def _stream(run: Run, prompt: str, unknown: str, settings: SamplingSettings, grammar: Grammar | None) -> None:
    with options.Spinner("loading and compiling") as spinner:
        pieces = _generator(run, prompt, unknown).stream(prompt, settings, allow=grammar)
        first = ("" if run.settings.reads_pairs or run.settings.has_latent else prompt) + next(pieces, "")
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
    options.keep_memory()
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
