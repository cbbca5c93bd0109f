"""What presidio-analyzer finds, as one more recogniser: numbers of other countries, and names where a spaCy model knows them.

Its patterns for English texts (numbers of social security, IBAN, wallets, telephones as Google's library reads them) need no model. Names
of persons do: an installed spaCy model of English (`en_core_web_sm` or another) or of Chinese (`zh_core_web_sm`) is used, and without one
there are none. It is slow, some kB/s: for small corpora, or to see what the patterns of `recognisers` leave.

References: https://microsoft.github.io/presidio/
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
from collections.abc import Iterator
from typing import Any

from keras_lm.errors import UserError
from keras_lm.privacy.recognisers import Recogniser, Span

KINDS_OF = {
    "CREDIT_CARD": "bank_card",
    "IP_ADDRESS": "ip",
    "MAC_ADDRESS": "mac",
    "PERSON": "name",
    "PHONE_NUMBER": "phone",
}
"""Presidio's kinds by ours; others are called as presidio calls them, in small letters."""

NOT_ASKED = frozenset({"DATE_TIME", "EMAIL_ADDRESS", "LOCATION", "NRP", "ORGANIZATION", "URL"})
"""What presidio finds and this leaves: it tells of the world more than of a person; e-mail is ours (presidio asks the network for a list
of domains)."""


def check_installed() -> None:
    """Refuses what would fail later.

    Raises:
        UserError: presidio-analyzer is not installed.
    """
    if importlib.util.find_spec("presidio_analyzer") is None:
        raise UserError("presidio needs presidio-analyzer: pip install 'keras_lm[privacy]' (or pip install presidio-analyzer)")


def presidio_recogniser(least_score: float = 0.5) -> Recogniser:
    """Presidio's analyzer with the spaCy models that are installed.

    Args:
        least_score: Of presidio's own estimate of how sure it is, from 0 to 1; words such as «social security» near a number raise it.

    Raises:
        UserError: presidio-analyzer is not installed.

    Example: `Desensitizer(recogniser=presidio_recogniser())("My SSN is 078-05-1126.")`
    """
    check_installed()
    analyzer, languages = _analyzer()
    entities = {language: sorted(set(analyzer.get_supported_entities(language)) - NOT_ASKED) for language in languages}

    def find(text: str) -> Iterator[Span]:
        for language in languages:
            for result in analyzer.analyze(text, language, entities=entities[language], score_threshold=least_score):
                written = text[result.start : result.end]
                if result.end - result.start > 1:
                    kind = KINDS_OF.get(result.entity_type, result.entity_type.lower())
                    key = "".join(re.findall(r"\w", written)).lower()
                    yield Span(result.start, result.end, kind, key)

    return find


@functools.cache
def _analyzer() -> tuple[Any, tuple[str, ...]]:
    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    installed = sorted(spacy.util.get_installed_models())
    models = {language: [name for name in installed if name.startswith(f"{language}_")] for language in ("en", "zh")}
    pipelines = {language: spacy.load(names[0]) for language, names in models.items() if names}
    if "en" not in pipelines:
        pipelines["en"] = _without_a_model(spacy)

    class Engine(SpacyNlpEngine):
        def load(self) -> None:
            self.nlp = pipelines

    engine, languages = Engine(), tuple(pipelines)
    registry = RecognizerRegistry(supported_languages=list(languages))
    registry.load_predefined_recognizers(languages=list(languages))
    for language in languages:
        if models[language]:
            engine.load()
            registry.add_nlp_recognizer(engine)
            break
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=list(languages)), languages


def _without_a_model(spacy: Any) -> Any:
    """A pipeline that splits words, and takes each as its own lemma: by these presidio knows the words around a number."""
    if not spacy.language.Language.has_factory("keras_lm_lemmas"):

        @spacy.language.Language.component("keras_lm_lemmas")
        def lemmas(doc: Any) -> Any:
            for token in doc:
                token.lemma_ = token.lower_
            return doc

    pipeline = spacy.blank("en")
    pipeline.add_pipe("keras_lm_lemmas")
    pipeline.max_length = 1 << 31  # there is no parser or model whose memory this would guard
    return pipeline
