"""A text as a trained run reads it: what all that looks inside a run begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_lm import cleaning
from keras_lm.errors import UserError
from keras_lm.insight.attention import readable_names
from keras_lm.tokenizer_base import Tokenizer
from keras_lm.training.run import Run


@dataclasses.dataclass(frozen=True)
class Reading:
    """The tokens of one text, with what the model puts around them.

    Attributes:
        ids: The start token where the model reads one, the text's own, the end token where the model reads one.
        tokens: What each is called.
        first, after: The text's own tokens are those from `first` up to `after`.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    first: int
    after: int


class Reader:
    """A trained model with all that turns a text into what it reads.

    Args:
        model: From ids `(batch, time)`: a language model, a masked one, or one with a head of `keras_lm.heads`; or an encoder-decoder.
        tokenizer: The one it was trained with.
        classes: Names of the labels, in the order of their numbers, for a classifier or a tagger. Default none: it names tokens.
        clean: The cleaners its training text went through, as `keras_lm.cleaning.compose` takes them.
        begins: Whether a start token stands before each text. Default; a model of one long text (`--split contiguous`) has none.
        ends: Whether an end token stands behind. Default no, as language models go on.
        longest: Most tokens of a text, start and end counted; default what the model was made for, where that is bounded.

    Raises:
        UserError: another number of names, or of tokens, than the model knows.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> Reader(gru_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer()).read("at").tokens
    ('<s>', 'a', 't')
    """

    def __init__(
        self,
        model: keras.Model,
        tokenizer: Tokenizer,
        *,
        classes: Sequence[str] | None = None,
        clean: Sequence[str] = (),
        begins: bool = True,
        ends: bool = False,
        longest: int | None = None,
    ):
        self.model, self.tokenizer = model, tokenizer
        self.classes = None if classes is None else tuple(classes)
        self.begins, self.ends = begins, ends
        self.token_names = readable_names(tokenizer)
        bounds = [layer.context_length for layer in model._flatten_layers() if getattr(layer, "context_length", None)]
        self.longest = min([*bounds, *([longest] if longest else [])], default=None)
        self._clean = cleaning.compose(clean)
        known, names = getattr(model, "output_shape", (None,))[-1], self.token_names if classes is None else self.classes
        if isinstance(known, int) and self.names_outputs and known != len(names):
            kind = "tokens" if classes is None else "labels"
            raise UserError(f"the model knows {known} {kind}, but {len(names)} are named: give what it was trained with")

    @classmethod
    def of(cls, subject: Run | Reader) -> Reader:
        """That of a run, of any task but `vae`; a reader is given back as it is.

        Raises:
            UserError: a run of `vae`, whose encoder reads no text that it would go on with; as `Run.load_model`.
        """
        if isinstance(subject, Reader):
            return subject
        settings = subject.settings
        if settings.has_latent:
            raise UserError(f"{subject.folder} is a run of vae: keras_lm.tasks.latent shows what its vector holds")
        labelled = settings.task in ("classification", "tagging")
        return cls(
            subject.load_model(),
            subject.load_tokenizer(),
            classes=subject.load_labels() if labelled else None,
            clean=settings.clean,
            begins=settings.documents or settings.reads_labels,
            ends=settings.reads_labels or (settings.task == "masked" and settings.documents),
            longest=settings.sequence_length if settings.reads_labels or settings.reads_pairs else None,
        )

    @property
    def names_outputs(self) -> bool:
        """Whether the last axis of what the model gives is tokens, classes or tags."""
        return self.model.name not in ("answerer", "sentence_encoder", "transformer_encoder")

    @property
    def output_names(self) -> Sequence[str]:
        """What the numbers on the last axis of the model's logits are called."""
        return self.token_names if self.classes is None else self.classes

    @property
    def writes(self) -> bool:
        """Whether the model goes on with a text: from each position it says which token is next."""
        return self.classes is None and self.names_outputs and self.model.name != "masked_lm"

    def one_text(self, what: str) -> None:
        """Refuses a model that reads two texts, or is given more than ids.

        Args:
            what: What needs a model of one text, for the message.

        Raises:
            UserError: an encoder-decoder.
        """
        if len(self.model.inputs) > 1:
            raise UserError(f"{what} are shown of models that read one text: {self.model.name} can show its attention")

    def read(self, text: str) -> Reading:
        """The tokens of a text.

        Raises:
            UserError: a text without tokens, or with more than the model reads; the message says how many fit.
        """
        ids = self.tokenizer.tokenize(self._clean(tf.constant([text]))).to_list()[0] if text.strip() else []
        if not ids:
            raise UserError("the text is empty: give at least one character that is not white space")
        first = int(self.begins)
        room = None if self.longest is None else self.longest - first - int(self.ends)
        if room is not None and len(ids) > room:
            raise UserError(f"the text has {len(ids)} tokens, and the model reads {room} at a time: shorten it")
        whole = [*[self.tokenizer.start_id] * first, *ids, *[self.tokenizer.end_id] * int(self.ends)]
        return Reading(tuple(whole), tuple(self.token_names[number] for number in whole), first, first + len(ids))

    def cleaned(self, text: str) -> str:
        """The text behind the cleaners."""
        return self._clean(tf.constant([text]))[0].numpy().decode()
