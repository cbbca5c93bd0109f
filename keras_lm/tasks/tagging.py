"""Tagging: how well a run finds the words of held-out texts and their tags, and what jieba and a list of words find (article A1 §6)."""

from __future__ import annotations

from collections.abc import Callable

from keras_lm import tagged
from keras_lm.errors import UserError
from keras_lm.tasks.labeller import Labeller
from keras_lm.tasks.tagging_scores import TaggingScores, coarse, jieba_floor, tagging_scores
from keras_lm.training.data import examples_of
from keras_lm.training.run import Run

Words = list[tuple[str, str]]


def evaluate(run: Run, part: str = "test", *, progress: Callable[[int], None] | None = None) -> tuple[TaggingScores, list[Words]]:
    """The scores of a run on a split of its texts, and the words that it finds in each.

    Args:
        run: Of `--task tagging`.
        part: `train`, `validation` or `test`.
        progress: Is told the number of texts done.

    Raises:
        UserError: the texts are not where they were; a run of another task.
    """
    right = held_out(run, part)
    found = Labeller.of(run).tag(_texts(right), progress)
    known = {word for words in held_out(run, "train") for word, _ in words}
    return tagging_scores(found, right, known), found


def floor(run: Run, part: str = "test") -> TaggingScores:
    """The same of jieba, with its tags and the right ones made comparable (`keras_lm.tasks.tagging_scores.coarse`).

    Raises:
        UserError: as `evaluate`; jieba is not installed.
    """
    right = held_out(run, part)
    return tagging_scores(jieba_floor(_texts(right)), [coarse(words) for words in right])


def held_out(run: Run, part: str) -> list[Words]:
    """The words that are marked in the texts of a split, with their tags, read from the run's own corpus once more; in its pieces.

    Raises:
        UserError: the corpus is not there any more, or no text falls into that part.
    """
    names = run.load_labels()
    examples = examples_of(run.settings).splits[part]
    if not examples:
        raise UserError(f"no text of {run.settings.corpus} falls into the {part} part")
    return [tagged.from_labels(example.text, [names[label] for label in example.labels]) for example in examples]


def _texts(marked: list[Words]) -> list[str]:
    return ["".join(word for word, _ in words) for words in marked]


def rows(run: Run, marked: list[Words], found: list[Words]) -> list[tuple[str, ...]]:
    """For each text: the text, its words, and the words that were found, as word/tag."""
    spelled = lambda words: " ".join(f"{word}/{tag}" for word, tag in words)
    return [(text, spelled(one), spelled(two)) for text, one, two in zip(_texts(marked), marked, found, strict=True)]
