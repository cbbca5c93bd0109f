"""Machine translation: how good a run's is, and the floor it stands on (articles A0 to A3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from keras_lm.segmentation import HAN
from keras_lm.tasks.floors import NearestNeighbour
from keras_lm.tasks.references import references, write
from keras_lm.tasks.scoring import TranslationScores, translation_scores
from keras_lm.training.run import Run


def evaluate(
    run: Run, part: str = "test", *, num_beams: int = 4, min_new_tokens: int = 0, progress: Callable[[int], None] | None = None
) -> tuple[TranslationScores, list[str]]:
    """BLEU and chrF of a run's translations of a split.

    Args:
        run: Of `--task translation`.
        part: `train`, `validation` or `test`.
        num_beams, min_new_tokens: As in `keras_lm.tasks.references.write`.
        progress: Is told the number of sources done.

    Returns:
        The scores, and the translation of each source of `references(run, part)`.

    Raises:
        UserError: as `references`; sacrebleu is not installed.
    """
    right = references(run, part)
    sources, settings = list(right), run.settings
    limits = {"num_beams": num_beams, "min_new_tokens": min_new_tokens, "max_new_tokens": settings.sequence_length}
    found = write(run.make_generator(), sources, **limits, progress=progress)
    return translation_scores(found, list(right.values()), language_of(right)), found


def floor(run: Run, part: str = "test") -> TranslationScores:
    """The same of the translation of the most similar sentence trained on (`keras_lm.tasks.floors.NearestNeighbour`)."""
    known = [(source, target) for source, targets in references(run, "train").items() for target in targets]
    right = references(run, part)
    nearest = NearestNeighbour(*map(list, zip(*known, strict=True)))
    return translation_scores(nearest.predict(list(right)), list(right.values()), language_of(right))


def language_of(right: Mapping[str, Sequence[str]]) -> str:
    """`zh` where most targets hold Chinese characters, else `en`: what decides how BLEU and ROUGE count.

    Example:

    >>> language_of({"Hi.": ["嗨。", "你好。"]}), language_of({"嗨。": ["Hi."]})
    ('zh', 'en')
    """
    targets = [target for own in right.values() for target in own]
    return "zh" if 2 * sum(bool(re.search(f"[{HAN}]", target)) for target in targets) > len(targets) else "en"
