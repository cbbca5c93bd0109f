"""Everything before the first step: the corpus is read, the vocabulary learned, the ids written."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator

import keras

from keras_lm import corpora, label_batches, parallel, pipeline, shards, tokenizers
from keras_lm.counterfactual import Counterfactuals
from keras_lm.deduplication import Duplicates, deduplicated
from keras_lm.embeddings.vectors import WordVectors, check_width
from keras_lm.errors import UserError
from keras_lm.files import replacing
from keras_lm.layers import TransformerBlock
from keras_lm.pretrained.loading import Pretrained, load
from keras_lm.privacy import desensitizing
from keras_lm.privacy.desensitizing import REPORT, Report
from keras_lm.token_names import word_names
from keras_lm.training.data import examples_of, pairs_of
from keras_lm.training.distribution import Distribution, guarded
from keras_lm.training.run import LABELS, PRETRAINED, Run
from keras_lm.training.settings import TrainingSettings


def prepare(settings: TrainingSettings, distribution: Distribution | None = None) -> Run:
    """Reads the corpus, learns the tokenizer, writes the ids: everything before the first step.

    Args:
        settings: Of the new run.
        distribution: The devices, where there are several workers: the first prepares, the others wait for it.

    Returns:
        The run, its folder made.

    Raises:
        UserError: a corpus, tokenizer or folder that cannot be used.
    """
    if distribution is None or distribution.num_workers == 1:
        return _prepare(settings)
    run = _prepare(settings) if distribution.is_chief else None
    guarded(lambda: distribution.sum_over_workers([0.0]), lambda: "while the corpus was read")
    return run or Run.open(settings.folder)


def _prepare(settings: TrainingSettings) -> Run:
    say = lambda text: print(text, file=sys.stderr, flush=True)
    take_vectors = _vectors_taker(settings, say)
    if settings.tokens:
        manifest = shards.read_manifest(settings.tokens)
        of_manifest = {name: manifest[name] for name in ("document", "split")} | {"clean": tuple(manifest["clean"])}
        of_manifest["desensitize"] = tuple(manifest.get("desensitize", ()))  # which older ones do not know
        settings = dataclasses.replace(settings, corpus=" ".join(manifest["corpus"]), tokenizer=manifest["kind"], **of_manifest)

        def take(folder: pathlib.Path) -> None:
            shutil.copytree(pathlib.Path(settings.tokens) / "tokenizer", folder / "tokenizer")
            take_vectors(folder)
            _report(pipeline.load_tokens(settings.tokens), manifest["vocabulary_size"], settings, say)

        return Run.create(settings, take)
    start = Run.open(settings.start_from) if settings.start_from else None
    if start:
        settings.check_same_model(start.settings)
    if settings.reads_pairs:
        return Run.create(settings, _pairs_filler(settings, start, say))
    if settings.reads_labels:
        return Run.create(settings, _labels_filler(settings, start, say))
    pretrained = _load_pretrained(settings) if settings.pretrained else None
    corpus = corpora.open_corpus(settings.corpus, document=settings.document, errors=settings.errors, data_dir=settings.data_dir)
    reports: dict[str, Report] = {}
    if settings.desensitize:
        corpus = desensitizing.load(settings.desensitize, settings.names_file).corpus(corpus, reports)
    duplicates: dict[str, Duplicates] = {}
    if settings.deduplicate:
        corpus = deduplicated(corpus, duplicates)
    counterparts = Counterfactuals(settings.counterfactual)

    def texts() -> Iterator[tuple[str, str]]:
        return counterparts(pipeline.split_texts(corpus, settings.split, settings.clean))

    def fill(folder: pathlib.Path) -> None:
        if pretrained:
            say(f"reading {corpus.name} ...")
            tokenizer = pretrained.tokenizer
            _take_checkpoint(pretrained.model, folder)
        elif start:
            say(f"reading {corpus.name}, with the tokenizer of {start.folder} ...")
            tokenizer = _taken_from(start, folder)
        else:
            say(f"reading {corpus.name}, learning a {settings.tokenizer} vocabulary ...")
            train = (text for split, text in texts() if split == "train")
            tokenizer = tokenizers.get(settings.tokenizer).fit(train, settings.vocabulary_size)
        tokenizer.save(folder / "tokenizer")
        take_vectors(folder)
        tokens = pipeline.encode(texts(), tokenizer, folder / "tokens", documents=settings.documents)
        if settings.counterfactual:
            say(str(counterparts))
        _report_masked(sum(reports.values(), Report()), settings, folder, say)
        if settings.deduplicate:
            say(str(sum(duplicates.values(), Duplicates())))
        _report(tokens, tokenizer.vocabulary_size, settings, say)

    return Run.create(settings, fill)


def _load_pretrained(settings: TrainingSettings) -> Pretrained:
    """The checkpoint that a run goes on with; for a task with labels its `encoder` does.

    Raises:
        UserError: one that cannot be read, or has no tokenizer; one that reads in another direction than the task wants; windows longer
            than its context.
    """
    loaded = load(settings.pretrained, dropout=settings.dropout)
    kind = loaded.config["model_type"]
    if settings.reads_labels and loaded.model.name == "transformer_lm":
        raise UserError(f"{settings.pretrained} holds a {kind}, which reads from left to right: {settings.task} goes on with a BERT")
    if not settings.reads_labels and loaded.model.name != "transformer_lm":
        raise UserError(f"{settings.pretrained} holds a {kind}, which reads both ways: it is no language model")
    if loaded.tokenizer is None:
        raise UserError(loaded.no_tokenizer)
    body = loaded.encoder if settings.reads_labels else loaded.model
    sizes = loaded.tokenizer.vocabulary_size, body.get_layer("embedding").input_dim
    if sizes[0] != sizes[1]:
        raise UserError(f"{settings.pretrained} has a tokenizer of {sizes[0]} tokens, and a model of {sizes[1]}")
    if settings.reads_labels and loaded.tokenizer.pad_id != 0:
        raise UserError(
            f"{settings.pretrained} pads with {loaded.tokenizer.pad_id}: only checkpoints that pad with 0 go on with {settings.task}"
        )
    context = next(layer.context_length for layer in body.layers if isinstance(layer, TransformerBlock))
    if settings.sequence_length > context:
        raise UserError(f"sequence_length must be at most {context}, the context of {settings.pretrained}, got {settings.sequence_length}")
    return loaded


def _take_checkpoint(model: keras.Model, folder: pathlib.Path) -> None:
    with replacing(folder / PRETRAINED) as temporary:
        model.save(temporary)


def _taken_from(start: Run, folder: pathlib.Path) -> tokenizers.Tokenizer:
    """Takes the best model of the run to start from into a new one, and gives its tokenizer.

    Raises:
        UserError: a run without a model.
    """
    if not (start.folder / "model.keras").is_file():
        raise UserError(f"{start.folder} has no model.keras yet: train it up to its first evaluation")
    with replacing(folder / PRETRAINED) as temporary:
        shutil.copyfile(start.folder / "model.keras", temporary)
    return start.load_tokenizer()


def _pairs_filler(settings: TrainingSettings, start: Run | None, say: Callable[[str], None]) -> Callable[[pathlib.Path], None]:
    """What reads the pairs of a run into its folder; one tokenizer is learnt from both sides."""

    def passed(report: Report | None = None) -> Iterator[tuple[str, str, str]]:
        pairs, same = itertools.tee(pairs_of(settings, report))
        texts = pipeline.cleaned((text for _, *pair in same for text in pair), settings.clean)
        for split, *_ in pairs:
            yield split, next(texts), next(texts)

    def fill(folder: pathlib.Path) -> None:
        if start:
            say(f"reading pairs of {settings.corpus}, with the tokenizer of {start.folder} ...")
            tokenizer = _taken_from(start, folder)
        else:
            say(f"reading pairs of {settings.corpus}, learning a {settings.tokenizer} vocabulary of both sides ...")
            texts = (text for split, *pair in passed() if split == "train" for text in pair)
            tokenizer = tokenizers.get(settings.tokenizer).fit(texts, settings.vocabulary_size)
        tokenizer.save(folder / "tokenizer")
        report = Report()
        tokens = parallel.encode_pairs(passed(report), tokenizer, folder / "tokens")
        _report_masked(report, settings, folder, say)
        for name in ("train", "validation"):
            if not tokens[name].documents:
                raise UserError(f"no pair of {settings.corpus} falls into the {name} split: give more pairs")
        say(
            f"{tokenizer.vocabulary_size:,} tokens in the vocabulary; {tokens['train'].documents:,} pairs to train on, "
            f"{tokens['validation'].documents:,} to validate, {tokens['test'].documents:,} to test"
        )
        sources, targets = parallel.PairIds(tokens["train"].ids, settings.sequence_length).cut()
        if sources or targets:
            say(f"{sources:,} sources and {targets:,} targets are longer than {settings.sequence_length} tokens and are cut")

    return fill


def _labels_filler(settings: TrainingSettings, start: Run | None, say: Callable[[str], None]) -> Callable[[pathlib.Path], None]:
    """What reads texts with labels into the folder of a run, and the names of the labels into its `labels.json`."""
    report = Report()
    pretrained = _load_pretrained(settings) if settings.pretrained else None
    examples = examples_of(settings, report)

    def fill(folder: pathlib.Path) -> None:
        _report_masked(report, settings, folder, say)
        train = examples.splits["train"]
        if start:
            say(f"reading {examples.name}, with the tokenizer of {start.folder} ...")
            tokenizer = _taken_from(start, folder)
        elif pretrained:
            say(f"reading {examples.name}, with the tokenizer of {settings.pretrained} ...")
            tokenizer = pretrained.tokenizer
            _take_checkpoint(pretrained.encoder, folder)
        else:
            say(f"reading {examples.name}, learning a {settings.tokenizer} vocabulary ...")
            texts = pipeline.cleaned((text for example in train for text in example.texts), settings.clean)
            tokenizer = tokenizers.get(settings.tokenizer).fit(texts, settings.vocabulary_size)
        tokenizer.save(folder / "tokenizer")
        rows, same = itertools.tee(examples.rows())
        texts = pipeline.cleaned((text for _, own, _ in same for text in own), settings.clean)
        cleaned = ((split, tuple(itertools.islice(texts, len(own))), labels) for split, own, labels in rows)
        tokens = label_batches.encode_labelled(cleaned, tokenizer, folder / "tokens", form=LABELS_OF[settings.task])
        with replacing(folder / LABELS) as temporary:
            temporary.write_text(json.dumps(examples.classes, ensure_ascii=False) + "\n", encoding="utf-8")
        what = {"answering": "passages with a question", "similarity": "pairs"}.get(settings.task, "texts")
        say(
            f"{tokenizer.vocabulary_size:,} tokens in the vocabulary; {len(train):,} {what} to learn from, "
            f"{len(tokens['validation'].ends):,} to validate, {len(tokens['test'].ends):,} to test"
            + (f"; {len(examples.classes):,} labels" if examples.classes else "")
        )
        if settings.task == "classification" and examples.unlearnt:  # of tags, places in a word that none has are no news
            count, more = len(examples.unlearnt), " ..." if len(examples.unlearnt) > 5 else ""
            say(f"{count:,} of the labels stand in no text to learn from, and are hardly learnt: {', '.join(examples.unlearnt[:5])}{more}")
        if examples.unknown:
            say(f"{examples.unknown:,} texts held out have a label that none to learn from has, and are left out")
        cut = int((label_batches.LabelledIds(tokens["train"], settings.sequence_length).lengths > settings.sequence_length).sum())
        if cut:
            say(f"{cut:,} {what} are longer than {settings.sequence_length} tokens and are cut")

    return fill


LABELS_OF = {"classification": "text", "tagging": "token", "answering": "span", "similarity": "pair"}
"""What a task's labels are of: `keras_lm.label_batches.FORMS`."""


def _vectors_taker(settings: TrainingSettings, say: Callable[[str], None]) -> Callable[[pathlib.Path], None]:
    """What writes the vectors of the tokenizer's words into the run, which then needs their file no more; it is read and checked now."""
    if settings.word_vectors is None:
        return lambda folder: None
    vectors = WordVectors.load(settings.word_vectors)
    check_width(vectors.dimensions, settings.embedding_dim)

    def take(folder: pathlib.Path) -> None:
        names = word_names(tokenizers.load(folder / "tokenizer"))
        wanted = vectors.only(names)
        wanted.save(folder / "word_vectors.bin")
        say(f"{len(wanted):,} of {len(names):,} tokens begin with a vector of {settings.word_vectors}")

    return take


def _report_masked(report: Report, settings: TrainingSettings, folder: pathlib.Path, say: Callable[[str], None]) -> None:
    """Writes what was masked into the folder of a run, if anything was to be."""
    if settings.desensitize:
        report.write(folder / REPORT)
        say(f"{report}  ({REPORT})")


def _report(tokens: dict[str, pipeline.Tokens], vocabulary_size: int, settings: TrainingSettings, say: Callable[[str], None]) -> None:
    _check_sizes(tokens, settings)
    train, validation = tokens["train"], tokens["validation"]
    say(
        f"{vocabulary_size:,} tokens in the vocabulary; {len(train.ids):,} to train on "
        f"({train.characters:,} characters), {len(validation.ids):,} to validate"
    )


def _check_sizes(tokens: dict[str, pipeline.Tokens], settings: TrainingSettings) -> None:
    name = settings.corpus
    characters = sum(part.characters for part in tokens.values())
    if characters < 2:
        raise UserError(f"the corpus {name} has {characters} characters: a language model needs text")
    train = len(tokens["train"].ids)
    if train < settings.sequence_length + 1:
        raise UserError(
            f"the training part of {name} has {train} tokens, shorter than one window of {settings.sequence_length} and its target: "
            "give more text or a smaller --sequence-length"
        )
    if settings.stateful:
        pipeline.stateful_steps(train, settings.sequence_length, settings.batch_size)
    if len(tokens["validation"].ids) < 2:
        documents = sum(part.documents for part in tokens.values())
        hint = "" if settings.split == "contiguous" else ": --split contiguous holds out the end of the text instead"
        raise UserError(f"no text of {name} ({documents} documents) falls into the validation split{hint}")
