"""Problems and plans as lines of text, which a language model learns, and back.

What is known, what is wanted and the plan: `clear c;hand…;on c a;|on a b;→unstack c a;put…;`. Each item ends with a semicolon; names are
written without hyphens, so that a word is one token to most tokenizers.

References:
    Article A0 §3.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from keras_lm.errors import UserError
from keras_lm.planning.domain import Atom, Problem, Step

GOAL, PLAN, END = "|", "→", ";"
"""What stands before the goal, before the plan, and behind each fact and each step."""
WAYS = ("free", "constrained", "beam")
"""How a model writes a plan (`keras_lm.planning.learned`)."""


def problem_text(problem: Problem) -> str:
    """What is known and what is wanted, up to the sign behind which the plan begins.

    Raises:
        UserError: a goal that denies something, for which there is no form; two names that are the same but for punctuation.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> problem_text(read_problem("blocks"))
    'clear b;clear c;clear d;handempty;on c a;ontable a;ontable b;ontable d;|on a b;on b c;on c d;→'
    """
    denied = [one for one in problem.goal if not one.positive]
    if denied:
        raise UserError(f"{denied[0]} is part of the goal: plans can be learnt for goals that say what is so, not what is not")
    _words(problem)
    return f"{_written(sorted(problem.facts))}{GOAL}{_written(sorted(one.atom for one in problem.goal))}{PLAN}"


def step_text(step: Step) -> str:
    """A step of a plan.

    Example:

    >>> step_text(Step("pick-up", ("a",)))
    'pickup a;'
    """
    return _written([Atom(*step)])


def plan_text(steps: Iterable[Step]) -> str:
    """The steps behind each other."""
    return "".join(map(step_text, steps))


def read_plan(problem: Problem, text: str) -> list[Step]:
    """The steps that a text says.

    Args:
        problem: Whose actions and objects they are of.
        text: As `plan_text` writes it.

    Raises:
        UserError: a step that is none; the message says which.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> [str(step) for step in read_plan(read_problem("blocks"), "unstack c a;putdown c;")]
    ['unstack(c, a)', 'put-down(c)']
    """
    names = _words(problem)
    actions = {_word(name): name for name in problem.domain.actions}
    *parts, rest = text.split(END)
    if rest.strip():
        raise UserError(f"step {len(parts) + 1} is cut off: {rest.strip()!r}")
    steps = []
    for number, part in enumerate(parts, 1):
        said, *objects = part.split() or [""]
        if said not in actions:
            raise UserError(f"step {number}, {part!r}, is no action of {problem.domain.name}")
        wanted = problem.domain.actions[actions[said]].parameters
        unknown = [one for one in objects if one not in names]
        if unknown or len(objects) != len(wanted):
            wrong = f"there is no {unknown[0]}" if unknown else f"{said} takes {len(wanted)} objects"
            raise UserError(f"step {number}, {part!r}: {wrong}")
        steps.append(Step(actions[said], tuple(names[one] for one in objects)))
    return steps


def _written(atoms: Sequence[Atom]) -> str:
    return "".join(" ".join(map(_word, [atom.predicate, *atom.arguments])) + END for atom in atoms)


def _words(problem: Problem) -> dict[str, str]:
    """Objects by how they are written."""
    for names in (problem.domain.predicates, problem.domain.actions, problem.objects):
        known: dict[str, str] = {}
        for name in names:
            if not _word(name) or known.setdefault(_word(name), name) != name:
                alike = f"{name} and {known.get(_word(name), 'nothing')} are written alike"
                raise UserError(f"{alike}: give them names that differ in letters and digits")
    return known


def _word(name: str) -> str:
    return re.sub(r"[\W_]", "", name)
