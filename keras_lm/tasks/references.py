"""What people wrote for the sources of a run that were held out, and what its model writes for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from keras_lm import pipeline
from keras_lm.errors import UserError
from keras_lm.generation.settings import BeamSettings
from keras_lm.generation.text import TextGenerator
from keras_lm.pairs import by_source
from keras_lm.training.data import pairs_of
from keras_lm.training.run import Run


def references(run: Run, part: str) -> dict[str, list[str]]:
    """The targets of each source of a split, read from the run's own corpus once more.

    Args:
        run: Of a task that reads pairs.
        part: `train`, `validation` or `test`.

    Raises:
        UserError: the corpus is not there any more; no pair falls into that part.
    """
    settings = run.settings
    found = by_source((source, target) for split, source, target in pairs_of(settings) if split == part)
    if not found:
        raise UserError(f"no pair of {settings.corpus} falls into the {part} part")
    if settings.clean:  # a model is judged by what it was taught to write
        clean = lambda texts: pipeline.cleaned(iter(texts), settings.clean)
        found = {source: list(clean(targets)) for source, targets in found.items()}
    return found


def write(
    generator: TextGenerator,
    sources: Sequence[str],
    *,
    num_beams: int = 4,
    no_repeat_ngram_size: int = 0,
    min_new_tokens: int = 0,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """The target that beam search finds for each source.

    Args:
        generator: Of an encoder-decoder.
        sources: Any number of texts.
        num_beams: Texts followed at a time; 1 takes the most probable token at each step.
        no_repeat_ngram_size: No sequence of this many tokens comes twice in a target; 0 is off.
        min_new_tokens, max_new_tokens: Fewest and most tokens of a target. The fewest that are best are found on the validation part.
        batch_size: Sources at a time; the last ones are joined by some of the first, so that one size is compiled.
        progress: Is told the number of sources done.

    Returns:
        A text for each source, in their order.
    """
    limits = {"min_new_tokens": min_new_tokens, "max_new_tokens": max_new_tokens, "no_repeat_ngram_size": no_repeat_ngram_size}
    order = sorted(range(len(sources)), key=lambda number: len(sources[number]))
    written = [""] * len(sources)
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        texts = [sources[number] for number in itertools.islice(itertools.cycle(numbers), min(batch_size, len(order)))]
        if num_beams > 1:
            found = [best.text for best, *_ in generator.beam_search(texts, BeamSettings(num_beams=num_beams, **limits))]
        else:
            found = [one.text for one in generator.generate(texts, temperature=0.0, **limits)]
        for number, text in zip(numbers, found, strict=False):
            written[number] = text
        if progress:
            progress(start + len(numbers))
    return written
