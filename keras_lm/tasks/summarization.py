"""Summarisation: how good a run's summaries or headlines are, and those that take the text's own beginning (articles A0, A3)."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from keras_lm.tasks.floors import lead_sentence
from keras_lm.tasks.references import references, write
from keras_lm.tasks.scoring import SummaryScores, summary_scores
from keras_lm.tasks.translation import language_of
from keras_lm.training.run import Run


def evaluate(
    run: Run,
    part: str = "test",
    *,
    num_beams: int = 4,
    no_repeat_ngram_size: int = 3,
    min_new_tokens: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[SummaryScores, list[str]]:
    """ROUGE of a run's summaries of a split.

    Args:
        run: Of `--task summarization`.
        no_repeat_ngram_size: No sequence of this many tokens comes twice in a summary (Paulus et al. 2017, arXiv:1705.04304); 0 is off.
        part, num_beams, min_new_tokens, progress: As in `keras_lm.tasks.translation.evaluate`, whose errors it raises.
    """
    right = references(run, part)
    sources = list(right)
    limits = {"num_beams": num_beams, "min_new_tokens": min_new_tokens, "max_new_tokens": run.settings.sequence_length}
    found = write(run.make_generator(), sources, no_repeat_ngram_size=no_repeat_ngram_size, **limits, progress=progress)
    return summary_scores(found, list(right.values()), language_of(right)), found


def floor(run: Run, part: str = "test", *, whole: bool = False) -> SummaryScores:
    """The same of each text's first sentence, cut to the mean length of the summaries trained on, or `whole`."""
    lengths = [len(target) for targets in references(run, "train").values() for target in targets]
    limit = None if whole else round(statistics.mean(lengths))
    right = references(run, part)
    return summary_scores([lead_sentence(text, limit) for text in right], list(right.values()), language_of(right))
