"""Planning: what is known and what is wanted in, a sound course of action out, by rules (article A0 §2.3, §3.4)."""

from keras_lm.planning.domain import Action, Atom, Domain, Literal, Predicate, Problem, Rule, Step
from keras_lm.planning.inference import applicable, closure
from keras_lm.planning.reading import read_domain, read_problem

__all__ = [
    "Action",
    "Atom",
    "Domain",
    "Literal",
    "Predicate",
    "Problem",
    "Rule",
    "Step",
    "applicable",
    "closure",
    "read_domain",
    "read_problem",
]
