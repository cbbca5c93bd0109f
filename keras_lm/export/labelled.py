"""What an export serves of a model that says something of texts, as graphs: strings in, names of labels, an answer or a vector out; and an
export of that kind used from Python.

As in `keras_lm.export.served`, every input and output has the batch as its first axis, bytes that are not UTF-8 become U+FFFD, a text that
is too long loses its end, a batch of none gives a batch of none, and nothing is compiled by XLA.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm import cleaning, tagged
from keras_lm.export import layout
from keras_lm.export.served import valid_utf8
from keras_lm.export.signature import Input, Signature
from keras_lm.heads import best_labels, best_spans
from keras_lm.recurrent import run_model
from keras_lm.tasks.answering import Answer
from keras_lm.tasks.labeller import Prediction
from keras_lm.tokenizers import Tokenizer

_BLOCK = 256  # texts asked for at a time


class ServedLabeller(tf.Module):
    """What is saved of a model that says something of a text.

    Args:
        model: One of `keras_lm.heads`, or a sentence encoder.
        tokenizer: The one it was trained with.
        classes: The names of the labels, in the order of their numbers; none for a model that has no labels.
        longest: Tokens to which a text is cut, its start and end counted.
        clean: Cleaners, as `keras_lm.cleaning.compose` takes them.

    Attributes:
        entries: The signatures by name.
    """

    def __init__(self, model: keras.Model, tokenizer: Tokenizer, classes: Sequence[str], *, longest: int, clean: Sequence[str] = ()):
        super().__init__()
        self.weights = [variable.value for variable in model.variables]  # and not the model: see `keras_lm.export.served.Served`
        self.tokenizer = tokenizer
        graphs = _LabelGraphs(model, tokenizer, tuple(classes), longest, clean)
        strings = Input(tf.TensorSpec([None], tf.string))
        meaning, graph = {
            "classifier": (
                "What each text is: the most probable class, its probability, and those of all, in the order of `classes`.",
                graphs.classify,
            ),
            "tagger": ("The label of each character of each text, '' behind its end, and the text with its words marked.", graphs.tag),
            "answerer": (
                "The answer to each question that its passage holds, at which character it begins, and its probability.",
                graphs.answer,
            ),
            "sentence_encoder": ("A vector of length one for each text: the product of two is their cosine.", graphs.vectors),
        }[model.name]
        inputs = {"questions": strings, "passages": strings} if model.name == "answerer" else {"texts": strings}
        self.entries = {"serving_default": Signature(meaning, inputs, graph)}


class _LabelGraphs:
    """The functions behind the signatures, and what they share."""

    def __init__(self, model: keras.Model, tokenizer: Tokenizer, classes: tuple[str, ...], longest: int, clean: Sequence[str]):
        self._model, self._tokenizer, self._classes = model, tokenizer, classes
        self._longest, self._clean = longest, cleaning.compose(clean)

    def _ids(self, texts: tf.Tensor) -> tf.Tensor:
        """`(batch, time)` int32, padded with 0; one row of an empty text where there is none."""
        cleaned = self._clean(valid_utf8(texts))
        some = tf.cond(tf.size(texts) > 0, lambda: cleaned, lambda: tf.constant([""]))
        rows = self._tokenizer.tokenize(some)[:, : self._longest - 2]
        edge = lambda token: tf.fill([tf.shape(some)[0], 1], tf.constant(token, rows.dtype))
        return tf.concat([edge(self._tokenizer.start_id), rows, edge(self._tokenizer.end_id)], axis=1).to_tensor(0)

    def vectors(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"vectors": run_model(self._model, self._ids(texts))[: tf.size(texts)]}

    def answer(self, questions: tf.Tensor, passages: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.debugging.assert_equal(tf.size(questions), tf.size(passages), "there must be a passage for each question")
        some = tf.size(questions) > 0
        asked, read = (tf.cond(some, lambda texts=texts: valid_utf8(texts), lambda: tf.constant([""])) for texts in (questions, passages))
        asked_ids = self._tokenizer.tokenize(asked)[:, : self._longest - 4]
        room = self._longest - 3 - asked_ids.row_lengths()
        read_ids = self._tokenizer.tokenize(read)
        read_ids = tf.RaggedTensor.from_tensor(read_ids.to_tensor(0), lengths=tf.minimum(read_ids.row_lengths(), room))
        edge = lambda token: tf.fill([tf.shape(asked)[0], 1], tf.constant(token, asked_ids.dtype))
        begin, end = edge(self._tokenizer.start_id), edge(self._tokenizer.end_id)
        ids = tf.concat([begin, asked_ids, end, read_ids, end], axis=1).to_tensor(0)
        first, last, _, probability = best_spans(run_model(self._model, ids))
        before = tf.cast(asked_ids.row_lengths(), tf.int32) + 2
        empty, start = read_ids.row_lengths() == 0, tf.maximum(first - before, 0)
        texts = tf.strings.substr(tf.where(empty, " ", read), start, last - first + 1, unit="UTF8_CHAR")
        count = tf.size(questions)
        return {
            "answer": tf.where(empty, "", texts)[:count],
            "start": tf.where(empty, 0, start)[:count],
            "probability": tf.where(empty, 0.0, probability)[:count],
        }

    def classify(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = tf.nn.softmax(run_model(self._model, self._ids(texts)))[: tf.size(texts)]
        names = tf.constant(self._classes)
        return {
            "label": tf.gather(names, tf.argmax(probabilities, axis=1)),
            "probability": tf.reduce_max(probabilities, axis=1),
            "probabilities": probabilities,
            "classes": tf.tile(names[None], [tf.size(texts), 1]),
        }

    def tag(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = self._ids(texts)
        labels = best_labels(self._model, ids, run_model(self._model, ids))[:, 1:]
        characters = tf.strings.unicode_split(valid_utf8(texts), "UTF-8")[:, : self._longest - 2]
        padded = characters.to_tensor("")
        names = tf.gather(tf.constant(self._classes), labels[: tf.size(texts), : tf.shape(padded)[1]])
        names = tf.where(padded == "", "", names)
        tag = tf.strings.regex_replace(names, "^[BMES]-", "")
        last = tf.strings.regex_full_match(names, "[ES]-.*")
        ends = tf.where(last, tf.strings.join(["/", tag, " "]), "")
        marked = tf.strings.strip(tf.strings.reduce_join(tf.strings.join([padded, ends]), axis=1))
        return {"characters": padded, "labels": names, "marked": marked}


class ExportedLabeller:
    """An export of a model that says something of texts, used from Python as `keras_lm.tasks.labeller.Labeller` is.

    Args:
        folder: A version's folder, or the one that holds versions: the newest is taken.

    Raises:
        UserError: no export there.

    Example: `ExportedLabeller("saved_models/reviews").classify(["房间很干净。"])`
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder, self.metadata = layout.find(folder)
        if self.metadata["needs_tensorflow_text"]:
            cleaning.tensorflow_text()
        self._loaded = tf.saved_model.load(str(self.folder))  # must stay alive as long as its signatures
        self.classes = tuple(self.metadata["classes"])

    def classify(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """A `Prediction` for each text; `progress` is told the number of texts done."""
        predictions = []
        for outputs in self._outputs(texts, progress):
            for row in outputs["probabilities"].tolist():
                best = int(np.argmax(row))
                predictions.append(Prediction(self.classes[best], row[best], dict(zip(self.classes, row, strict=True))))
        return predictions

    def tag(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> list[list[tuple[str, str]]]:
        """The words of each text with their tags; `progress` is told the number of parts done, into which long texts are cut."""
        parts = [(number, part) for number, text in enumerate(texts) for part in tagged.cut_text(text, self.metadata["longest"] - 2)]
        words: list[list[tuple[str, str]]] = [[] for _ in texts]
        rows = (row for outputs in self._outputs([part for _, part in parts], progress) for row in outputs["labels"].tolist())
        for (number, part), row in zip(parts, rows, strict=True):
            words[number] += tagged.from_labels(part, [label.decode() for label in row[: len(part)]])
        return words

    def answer(self, questions: Sequence[str], passages: Sequence[str], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """An `Answer` to each question from its passage, of which the part that fits beside the question is read."""
        answers = []
        for start in range(0, len(questions), _BLOCK):
            block = [tf.constant(list(texts[start : start + _BLOCK]), tf.string) for texts in (questions, passages)]
            outputs = self._loaded.signatures["serving_default"](questions=block[0], passages=block[1])
            rows = zip(*(outputs[name].numpy().tolist() for name in ("answer", "start", "probability")), strict=True)
            answers += [Answer(text.decode(), place, probability) for text, place, probability in rows]
            if progress:
                progress(len(answers))
        return answers

    def vectors(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """A vector of length one for each text, `(texts, width)` float32."""
        blocks = [outputs["vectors"] for outputs in self._outputs(texts, progress)]
        return np.concatenate(blocks) if blocks else np.zeros([0, self.metadata["width"]], np.float32)

    def _outputs(self, texts: Sequence[str], progress: Callable[[int], None] | None):
        for start in range(0, len(texts), _BLOCK):
            block = tf.constant(list(texts[start : start + _BLOCK]), tf.string)
            yield {name: output.numpy() for name, output in self._loaded.signatures["serving_default"](texts=block).items()}
            if progress:
                progress(start + int(tf.size(block)))
