"""What a training run is made of, as one value that checks itself; free of TensorFlow, so that bad input is refused at once."""

from __future__ import annotations

import dataclasses
import types
import typing

from keras_lm.errors import UserError, unknown_name
from keras_lm.group_terms import check_groups
from keras_lm.preparation import settings as preparation
from keras_lm.preparation.settings import CLEANERS, check_vocabulary_size
from keras_lm.privacy.desensitizing import check_kinds
from keras_lm.training.task_rules import LABELLED, PAIRS, check_task

CHOICES: dict[str, tuple[str, ...]] = {
    **preparation.CHOICES,
    "task": ("lm", "masked", "translation", "summarization", "classification", "tagging", "answering", "similarity", "vae"),
    "model": ("simple_rnn", "lstm", "gru", "transformer"),
    "attention": ("bahdanau", "luong"),
    "pooling": ("mean", "max", "last"),
    "tune": ("full", "head", "lora"),
    "positions": ("rotary", "learned"),
    "normalization": ("layer", "rms"),
    "optimizer": ("adamw", "adam", "rmsprop", "sgd"),
    "schedule": ("cosine", "constant"),
    "xla": ("auto", "on", "off"),
    "precision": ("float32", "mixed_bfloat16"),
    "strategy": ("none", "mirrored", "multiworker", "tpu"),
}
"""The words that a field takes. The tables of the library hold the same names, and a test compares them."""

AUGMENTATIONS = ("delete", "insert", "keyboard", "noise", "swap", "synonym")
"""Ways to change a text: the names in `keras_lm.augmentation`, as a test compares."""

_OF_CHECKPOINT = (
    "tokens",
    "tokenizer",
    "vocabulary_size",
    "model",
    "embedding_dim",
    "hidden_dim",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "bidirectional",
    "positions",
    "normalization",
    "tied",
    "word_vectors",
    "stateful",
    "precision",
)
"""What nobody may set of a run that goes on with a checkpoint."""

_OF_START = (
    *("reads_pairs", "tokenizer", "model", "embedding_dim", "hidden_dim", "num_layers", "attention", "pointer", "num_heads"),
    *("num_kv_heads", "positions", "normalization", "tied", "precision", "has_latent", "latent_dim"),
)
"""What a run has in common with the one that it starts from."""

_OF_BODY = (
    *("reads_both_ways", "tokenizer", "model", "embedding_dim", "hidden_dim", "num_layers", "num_heads", "positions", "normalization"),
    "precision",
)
"""The same of a run for a task with labels, which takes over what reads, and no output."""

GROUPS: dict[str, str] = {
    "task": "text",
    "tokenizer": "tokens",
    "pretrained": "model",
    "optimizer": "optimisation",
    "steps": "course of the run",
    "strategy": "devices",
    "export": "output",
}
"""Headings of `--help`, by the field that each begins with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that decides what a run becomes.

    Args:
        task: What the model is to do: lm (go on with a text), masked (find hidden tokens), translation or summarization (write a target
            for a source), classification (say what a text is), tagging (mark words and their parts of speech), answering (find the answer
            to a question in a passage), similarity (make vectors of texts, to be searched and compared), vae (make a vector of a sentence,
            and sentences of vectors).
        corpus: Text to learn: peoples-daily, reviews, review-sentences, kjv, pydoc, tfds:NAME[/CONFIG], or a file or glob of UTF-8 text
            (.gz too); for vae one whose documents are sentences. For
            translation and summarization pairs: translations, headlines, principal-clauses, copy, reverse, tfds:NAME[/CONFIG], a file of
            lines source TAB target, or SOURCE_FILE,TARGET_FILE; default translations or headlines. For classification: reviews (the
            default), or a file of lines text TAB label. For tagging: peoples-daily, or a file of lines of word/tag. For answering:
            peoples-daily (questions are made of its sentences), tfds:NAME[/CONFIG], or a JSON file in SQuAD's form. For similarity: pairs
            as above that belong together, by default headlines, or a file of lines text TAB text TAB score.
        test_corpus: Labelled texts that are held out, as corpus has them; by default a part of corpus is.
        class_names: File of the names of the classes, a line each, where labels are numbers.
        examples: Most labelled texts to learn from, drawn by the seed; default all.
        swap: Whether source and target of the pairs change places.
        simplified: Whether traditional Chinese characters of the pairs become simplified ones.
        document: What one document of a text file is: line, paragraph or file.
        errors: Bytes that are not UTF-8: strict refuses them, replace reads them as U+FFFD.
        data_dir: Folder of prepared TensorFlow datasets; default their own.
        clean: Cleaners to apply, in this order: control, lower, nfkc, whitespace.
        desensitize: Secrets to mask before all else: all, or some of email, mac, ip, id_card, bank_card, phone, plate, name; presidio adds
            what presidio-analyzer finds. Prompts are not masked.
        names_file: File of the names of persons to mask, one a line.
        counterfactual: Groups whose terms are exchanged in a second copy of each document to learn from that has any: gender (他 and 她, he
            and she), region, age, occupation. What is held out stays as it is.
        deduplicate: Whether a document that comes again, but for white space, is left out, once secrets are masked.
        split: How text is held out: hash (90/5/5 by document), contiguous (first 90 %, last 10 %), given (the corpus' own).
        tokens: A corpus that keras_lm-prepare has tokenized, in place of all of the above and of the tokenizer.
        tokenizer: What a token is: char, byte, wordpiece, sentencepiece or word.
        vocabulary_size: Most tokens in the vocabulary; default all characters, 8000 sub-words or 20000 words.
        pretrained: Folder of a checkpoint as transformers saves it (GPT-2, Llama, Mistral, StarCoder2; for classification and similarity
            BERT); the run goes on with its model and tokenizer, whose fields are then left out.
        start_from: Folder of another run of the same model, with whose best weights and tokenizer this one begins: one that was trained on
            much text, say, or on pairs that were made up. A task with labels begins with what a run of lm, masked or another such task
            has learnt.
        model: simple_rnn, lstm, gru or transformer.
        sequence_length: Tokens a window; for the transformer also its longest context. Of pairs: tokens to which sources and targets are
            cut; of documents read by themselves, to which they are.
        by_document: Whether a language model reads each document by itself, from its start to its end, as a VAE does; default are windows
            cut out of the text as it runs on.
        embedding_dim: Width of a token's vector; for the transformer of the whole model.
        hidden_dim: Width of a recurrent layer, or of the transformer's feed-forward part; default embedding_dim, or 4 x embedding_dim.
        num_layers: Recurrent layers or transformer blocks.
        attention: How the decoder of a gru looks at its source: bahdanau (before each step) or luong (after it).
        pointer: Let the decoder copy tokens of its source: names and numbers, of which few pairs teach little.
        bidirectional: Whether a task with labels reads a text both ways; without it as a language model does, which may then be the start.
        pooling: What a classifier, or similarity, makes of a text's vectors: mean, max or last.
        ngrams: Tokens of the longest runs that speak for a class by themselves, beside what the model makes of the text, as in a bag of
            words; 0 is off.
        crf: Whether a tagger judges tags as a sequence.
        tune: What of a model learns that begins with another run's: full (all of it), head, or lora (the head, and matrices of low rank
            beside those of a transformer).
        lora_rank: That rank.
        latent_dim: Width of the vector that a VAE makes of a sentence.
        kl_steps: Steps in which the weight of a VAE's KL rises from 0 to 1; 0 is 1 from the beginning.
        kl_cycles: How often it rises anew, over the run.
        free_bits: Nats of KL, of each unit of that vector, that cost a VAE nothing; 0 is off.
        num_heads: Attention heads of the transformer; divides embedding_dim.
        num_kv_heads: Key/value heads of the transformer; default num_heads.
        positions: Positions of the transformer: rotary or learned.
        normalization: Normalisation in the transformer: layer or rms.
        tied: Whether the transformer's output matrix is its embedding's.
        word_vectors: File of vectors (word2vec's format, text or .bin, or GloVe's) that the embedding begins with.
        dropout: Share of activations dropped in training.
        word_dropout: Share of the tokens read in training that are hidden; of a VAE, from its decoder.
        augment: Ways to change the texts a classifier learns from: synonym, insert, delete, swap, noise, keyboard; a half of each batch is.
        augment_share: Share of a text's words or characters that each way changes.
        label_smoothing: Share of the probability that the loss wants spread over all tokens; 0 is off.
        optimizer: adamw, adam, rmsprop or sgd.
        learning_rate: The highest learning rate.
        schedule: cosine (falls to a tenth over the run) or constant; both after the warm-up.
        warmup_steps: Steps in which the learning rate rises from 0.
        beta_2: Second-moment decay of adam and adamw.
        momentum: Momentum of sgd and rmsprop.
        weight_decay: Decoupled weight decay of adamw, on matrices only.
        clip_norm: Gradients are scaled down to this global norm; 0 is off.
        l1: Weight of the sum of absolute weights in the loss.
        l2: Weight of the sum of squared weights in the loss.
        ema: Decay of a moving average of the weights, e.g. 0.999, which is evaluated and kept in place of them; 0 is off.
        steps: Updates to make.
        batch_size: Windows, or pairs, an update.
        accumulate: Parts into which a batch is cut to save memory; the update is that of the whole batch.
        stateful: Whether windows continue each other and recurrent states are carried; for recurrent models.
        seed: Decides weights, order and dropout: the same seed gives the same run.
        evaluate_every: Steps between evaluations on the validation split.
        patience: Evaluations without a better validation loss after which the run ends early; 0 is off.
        checkpoint_every: Steps between checkpoints, besides one at each evaluation.
        keep_checkpoints: How many of the last checkpoints to keep; the best model is kept besides.
        sample_prompt: What the sample texts begin with; default nothing. Of pairs: a source; default the first one held out.
        sample_tokens: Length of the sample text after each evaluation; 0 is off.
        tensorboard: Whether losses, learning rate, gradient norm and samples are also written for TensorBoard.
        strategy: none (one device), mirrored (all GPUs of this machine), multiworker (those of the machines in TF_CONFIG) or tpu.
        data_service: Address of a tf.data service (grpc://HOST:PORT) that reads the shards, for slow disks; default this process reads.
        data_service_workers: How many workers that service has; its dispatcher must have been started with their addresses.
        worker_timeout: Seconds to wait for the other workers.
        precision: float32, or mixed_bfloat16 (products in 16 bits, weights in 32).
        xla: Whether XLA compiles the training step: auto, on or off.
        export: Folder to export the trained model to, e.g. saved_models/NAME; default no export.
        out: Folder of the run; default runs/CORPUS-MODEL.

    Raises:
        UserError: a value out of range or not among the choices, or two that contradict each other; the message names the field.

    Example:

    >>> TrainingSettings(model="gru", steps=100).batch_size
    32
    >>> TrainingSettings(steps=-1)
    Traceback (most recent call last):
    ...
    keras_lm.errors.UserError: steps must be at least 1, got -1
    """

    task: str = "lm"
    corpus: str = "peoples-daily"
    document: str = "line"
    errors: str = "strict"
    data_dir: str | None = None
    clean: tuple[str, ...] = ()
    desensitize: tuple[str, ...] = ()
    names_file: str | None = None
    counterfactual: tuple[str, ...] = ()
    deduplicate: bool = False
    split: str = "hash"
    test_corpus: str | None = None
    class_names: str | None = None
    examples: int | None = None
    swap: bool = False
    simplified: bool = False
    tokens: str | None = None
    tokenizer: str = "char"
    vocabulary_size: int | None = None
    pretrained: str | None = None
    start_from: str | None = None
    model: str = "transformer"
    sequence_length: int = 128
    by_document: bool = False
    embedding_dim: int = 256
    hidden_dim: int | None = None
    num_layers: int = 2
    attention: str = "bahdanau"
    pointer: bool = False
    bidirectional: bool = True
    pooling: str = "mean"
    ngrams: int = 0
    crf: bool = True
    tune: str = "full"
    lora_rank: int = 8
    latent_dim: int = 16
    kl_steps: int = 0
    kl_cycles: int = 1
    free_bits: float = 0.0
    num_heads: int = 4
    num_kv_heads: int | None = None
    positions: str = "rotary"
    normalization: str = "layer"
    tied: bool = True
    word_vectors: str | None = None
    dropout: float = 0.0
    word_dropout: float = 0.0
    augment: tuple[str, ...] = ()
    augment_share: float = 0.1
    label_smoothing: float = 0.0
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 100
    beta_2: float = 0.99
    momentum: float = 0.0
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    ema: float = 0.0
    steps: int = 2000
    batch_size: int = 32
    accumulate: int = 1
    stateful: bool = False
    seed: int = 0
    evaluate_every: int = 250
    patience: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    sample_prompt: str = ""
    sample_tokens: int = 100
    tensorboard: bool = False
    strategy: str = "none"
    data_service: str | None = None
    data_service_workers: int = 1
    worker_timeout: int = 300
    precision: str = "float32"
    xla: str = "auto"
    export: str | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_type(field.name, getattr(self, field.name), typing.get_type_hints(type(self))[field.name])
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise unknown_name(name, getattr(self, name), choices)
        for name in self.clean:
            if name not in CLEANERS:
                raise unknown_name("cleaner", name, CLEANERS)
        check_kinds(self.desensitize)
        check_groups(self.counterfactual)
        for name in ("sequence_length", "embedding_dim", "num_layers", "num_heads", "lora_rank", "latent_dim", "kl_cycles"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("steps", "batch_size", "accumulate"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("evaluate_every", "checkpoint_every", "keep_checkpoints", "worker_timeout", "data_service_workers"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("vocabulary_size", "hidden_dim", "num_kv_heads", "examples"):
            self.require(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        for name in ("ngrams", "kl_steps", "free_bits"):
            self.require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("warmup_steps", "weight_decay", "clip_norm", "l1", "l2", "patience", "sample_tokens"):
            self.require(name, getattr(self, name) >= 0, "0 or more")
        self.require("learning_rate", 0 < self.learning_rate < float("inf"), "over 0")
        for name in ("dropout", "word_dropout", "augment_share"):
            self.require(name, 0 <= getattr(self, name) < 1, "at least 0 and under 1")
        for name in self.augment:
            if name not in AUGMENTATIONS:
                raise unknown_name("augmentation", name, AUGMENTATIONS)
        self.require("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and under 1")
        self.require("ema", 0 <= self.ema < 1, "at least 0 and under 1")
        self.require("beta_2", 0 <= self.beta_2 < 1, "at least 0 and under 1")
        self.require("momentum", 0 <= self.momentum < 1, "at least 0 and under 1")
        self.require("seed", 0 <= self.seed < 2**31, "from 0 to 2147483647")
        self.require("batch_size", self.batch_size % self.accumulate == 0, f"a multiple of accumulate ({self.accumulate})")
        self.require("export", self.export != "", "a folder")
        self.require("word_vectors", self.word_vectors != "", "a file")
        check_vocabulary_size(self.tokenizer, self.vocabulary_size)
        check_task(self)
        self._check_pretrained()
        self._check_start()
        if self.model == "transformer":
            self.require("num_heads", self.embedding_dim % self.num_heads == 0, f"a divisor of embedding_dim ({self.embedding_dim})")
            kv_heads = self.num_kv_heads or self.num_heads
            self.require("num_kv_heads", self.num_heads % kv_heads == 0, f"a divisor of num_heads ({self.num_heads})")
            if self.positions == "rotary":
                even = (self.embedding_dim // self.num_heads) % 2 == 0
                self.require("embedding_dim", even, f"an even multiple of num_heads ({self.num_heads}) for rotary positions")
            if self.stateful:
                raise UserError("stateful is for recurrent models: a transformer carries no state from window to window")
        if self.stateful and self.strategy != "none":
            raise UserError(f"stateful is for one device: with strategy {self.strategy} the rows of a batch would not meet their states")

    def _check_pretrained(self) -> None:
        if self.pretrained is None:
            return
        if self.task not in ("lm", "classification", "similarity"):  # a tag or a span is of characters
            raise UserError(f"pretrained is for --task lm, classification and similarity, not for {self.task}")
        for field in dataclasses.fields(self):
            if field.name in _OF_CHECKPOINT and getattr(self, field.name) != field.default:
                raise UserError(f"{field.name} is the checkpoint's where there is a pretrained one: leave it out")

    def _check_start(self) -> None:
        self.require("start_from", self.start_from != "", "a folder")
        if self.start_from is None:
            return
        for name in ("pretrained", "tokens", "word_vectors", "vocabulary_size"):
            if getattr(self, name) is not None:
                raise UserError(f"{name} does not go with start_from, which brings its own tokenizer and weights: leave it out")

    def check_same_model(self, other: TrainingSettings) -> None:
        """Refuses a run to start from whose weights do not fit.

        Raises:
            UserError: it has another model, tokenizer or kind of task; for a transformer, another context.
        """
        fixed = self.model == "transformer" and self.positions == "learned"
        names = (*("reads_pairs",), *_OF_BODY) if self.reads_labels else (*("reads_labels", "reads_both_ways"), *_OF_START)
        for name in (*names, "sequence_length") if fixed else names:
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise UserError(
                    f"{name} is {ours!r} here, but {theirs!r} in {self.start_from}, which the run is to start from: make it the same"
                )

    def require(self, name: str, condition: bool, allowed: str) -> None:
        if not condition:
            raise UserError(f"{name} must be {allowed}, got {getattr(self, name)!r}")

    @property
    def folder(self) -> str:
        """The run's folder: `out`, or a name made of corpus and model."""
        source = self.tokens.rstrip("/").rpartition("/")[2] if self.tokens else self.corpus
        corpus = "".join(character if character.isalnum() or character in "-_" else "-" for character in source)
        return self.out or f"runs/{corpus.strip('-')}-{self.model}"

    @property
    def reads_pairs(self) -> bool:
        """Whether the model reads a source and writes a target, or goes on with one text."""
        return self.task in PAIRS

    @property
    def reads_labels(self) -> bool:
        """Whether the model says something of a text, as labels teach it, and writes none."""
        return self.task in LABELLED

    @property
    def reads_both_ways(self) -> bool:
        """Whether a position knows what stands to its right as well."""
        return self.bidirectional if self.reads_labels else self.task == "masked"

    @property
    def has_latent(self) -> bool:
        """Whether the model makes a vector of a sentence, and a sentence of a vector."""
        return self.task == "vae"

    @property
    def reads_documents(self) -> bool:
        """Whether each row of a batch is a document by itself."""
        return self.by_document or self.has_latent

    @property
    def writes(self) -> bool:
        """Whether the model writes text."""
        return self.task == "lm" or self.reads_pairs or self.has_latent

    @property
    def documents(self) -> bool:
        """Whether the text is read as documents, each between a start and an end token, or as one long text without them."""
        return self.split != "contiguous"

    def model_arguments(self) -> dict[str, object]:
        """What the function that builds the model takes besides the vocabulary's size: that in `keras_lm.models.MODELS`,
        `keras_lm.seq2seq.SEQ2SEQ`, `keras_lm.vae.VAES`, `keras_lm.models.transformer_encoder` (masked) or `keras_lm.heads.text_body` (tasks
        with labels).
        """
        result = {"embedding_dim": self.embedding_dim, "num_layers": self.num_layers, "dropout": self.dropout}
        if self.has_latent:
            result["latent_dim"] = self.latent_dim
        if self.reads_labels:
            result["bidirectional"] = self.bidirectional
        if self.model != "transformer":
            result["hidden_dim"] = self.hidden_dim or self.embedding_dim
            return {**result, "attention": self.attention, "tied": self.tied, "pointer": self.pointer} if self.reads_pairs else result
        result |= {
            "context_length": self.sequence_length,
            "num_heads": self.num_heads,
            "feed_forward_dim": self.hidden_dim,
            "positions": self.positions,
            "normalization_kind": self.normalization,
        }
        if self.task == "masked":
            return {**result, "norm_first": True, "use_bias": False, "epsilon": None}
        if self.reads_labels:
            return result
        result["tied"] = self.tied
        if self.has_latent:
            return result
        return {**result, **({"pointer": self.pointer} if self.reads_pairs else {"num_kv_heads": self.num_kv_heads})}


def check_type(name: str, value: object, hint: object) -> None:
    """Refuses a value whose type is not the field's, as a YAML file may hold one.

    Raises:
        UserError: e.g. a word where a number is due.
    """
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in allowed:
        if typing.get_origin(option) is tuple:
            if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
                return
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return
        elif option is int and isinstance(value, bool):
            continue
        elif isinstance(value, option):
            return
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "nothing"}
    described = " or ".join(words.get(option, "a list of names") for option in allowed)
    raise UserError(f"{name} must be {described}, got {value!r}")
