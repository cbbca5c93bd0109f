"""Plans by a language model that has learnt from solved problems, let loose or held to the rules.

A model of `keras_lm.models` goes on with `problem_text` and so writes a plan. Three ways: `free`, as it likes; `constrained`, where every
step can be made in the state that the steps before it lead to, for the sampler knows those states and follows them (`Steps`); and
`beam`, which keeps several such plans in hand and ends where the goal is reached. What may be done the rules say, what leads to the goal
the model alone.

References:
    Article A0 §2.3 and §3.4. Willard and Louf 2023, «Efficient Guided Generation for Large Language Models».
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from keras_lm.errors import UserError, unknown_name
from keras_lm.generation import constraints
from keras_lm.generation.automata import Constraint
from keras_lm.generation.constraints import TokenEdges
from keras_lm.generation.text import TextGenerator
from keras_lm.planning.domain import Literal, Problem, Step
from keras_lm.planning.inference import closure
from keras_lm.planning.problems import familiar_names, renamed
from keras_lm.planning.space import Space
from keras_lm.planning.texts import WAYS, problem_text, read_plan, step_text


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A plan that a model wrote.

    Attributes:
        steps: Of it, as far as they can be read.
        fault: Why it is none, in one line; empty if it leads to the goal.
        num_tokens: It took, the one that ends it included.
    """

    steps: tuple[Step, ...]
    fault: str
    num_tokens: int


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """The texts of steps that can be made one after the other: what a plan may be, for `allow`.

    Args:
        problem: Whose beginning, objects and rules.
        to_goal: Whether a text ends where the goal is reached, there and nowhere else; by default it may end behind any step.

    Raises:
        UserError: from `compile`: a problem of too many states, or a tokenizer that can write none of the steps.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> constraint = Steps(read_problem("blocks")).compile(ByteTokenizer().pieces())
    >>> [chr(token - 4) for token in constraint.tokens[: constraint.starts[1]]]  # pick up, or unstack
    ['p', 'u']
    """

    problem: Problem
    to_goal: bool = False

    def compile(self, pieces: Sequence[bytes], special: Collection[int] = range(constraints.NUM_SPECIAL)) -> Constraint:
        """The automaton over the tokens of one tokenizer; as `keras_lm.generation.automata.Regex.compile`."""
        space = Space(self.problem)
        goal = np.zeros(len(space.edges), bool)
        if self.to_goal:
            goal[space.satisfying(self.problem.goal)] = True
        constraint = Constraint.of(_edges(space, goal, pieces, special))
        if not self.to_goal:
            return constraint
        accepting = np.zeros_like(constraint.accepting)
        accepting[: len(goal)] = goal
        # The distances remain those to the end of a step. Those to the goal would have the sampler look for the way, in place of the model.
        return dataclasses.replace(constraint, accepting=accepting)


def _edges(space: Space, final: np.ndarray, pieces: Sequence[bytes], special: Collection[int]) -> TokenEdges:
    """Each step spelled in all ways that the tokens allow, from each state in which it can be made, but those of `final`. The first states
    are those of the space, and they accept."""
    tokens: dict[bytes, list[int]] = {}
    for number, piece in enumerate(pieces):
        if piece and number not in special:
            tokens.setdefault(piece, []).append(number)
    spelled = [_spelled(step_text(step).encode(), tokens) for step in space.steps]
    if not any(map(len, spelled)):
        raise UserError(f"this tokenizer can write no step of {space.problem.domain.name}")
    prefixes: dict[bytes, int] = {b"": 0}
    paths = []  # of each step: prefix, token, prefix, as far as they are shared by steps; -1 where it ends
    for step, found in zip(space.steps, spelled, strict=True):
        text = step_text(step).encode()
        name = lambda place, text=text: prefixes.setdefault(text[:place], len(prefixes)) if place < len(text) else -1
        paths.append(np.array([(name(start), token, name(end)) for start, token, end in found], np.int64).reshape(-1, 3))
    made = [(state, step, target) for state, edges in enumerate(space.edges) if not final[state] for step, target in edges]
    states, steps, ends = np.array(made, np.int64).reshape(-1, 3).T
    sizes = np.array(list(map(len, paths)), np.int64)
    which = np.repeat(np.arange(len(steps)), sizes[steps])  # of each edge the step in `made` that it helps to spell
    place = np.arange(len(which)) - np.repeat(np.cumsum(sizes[steps]) - sizes[steps], sizes[steps])
    start, token, end = np.concatenate(paths)[np.repeat((np.cumsum(sizes) - sizes)[steps], sizes[steps]) + place].T
    inside = states[which] * len(prefixes)
    sources, targets = inside + start, np.where(end < 0, ends[which] * len(prefixes), inside + end)
    _, kept = np.unique(sources * len(pieces) + token, return_index=True)  # steps that begin alike share their first edges
    roots = np.arange(len(space.edges)) * len(prefixes)
    order = np.concatenate([roots, np.setdiff1d(sources[kept], roots)])
    sort = np.argsort(order)
    sources, targets = (sort[np.searchsorted(order, ids[kept], sorter=sort)] for ids in (sources, targets))
    sort = np.argsort(sources * len(pieces) + token[kept])
    accepting = np.arange(len(order)) < len(roots)
    return TokenEdges(sources[sort], token[kept][sort], targets[sort], accepting)


def _spelled(text: bytes, tokens: Mapping[bytes, Sequence[int]]) -> list[tuple[int, int, int]]:
    """The edges, from place to place in a text, of all ways to write it with tokens; none if there is no way."""
    reached = {0}
    found = []
    for start in range(len(text)):
        if start in reached:
            for end in range(start + 1, len(text) + 1):
                for token in tokens.get(text[start:end], ()):
                    found.append((start, token, end))
                    reached.add(end)
    useful = {len(text)}
    for start, _, end in reversed(found):
        if end in useful:
            useful.add(start)
    return [edge for edge in found if edge[2] in useful]


class LearnedPlanner:
    """Writes plans with a language model. Objects whose names it cannot have met are given names that it has.

    Args:
        generator: Of a model that has learnt lines of `problem_text` and `plan_text`.
        num_beams: Plans in hand in the way `beam`.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> from keras_lm.planning import read_problem
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> planner = LearnedPlanner(TextGenerator(gru_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer()))
    >>> (attempt,) = planner.plan([read_problem("blocks")], "constrained", max_new_tokens=40)
    >>> "cannot be done" in attempt.fault
    False
    """

    def __init__(self, generator: TextGenerator, *, num_beams: int = 8):
        self.generator = generator
        self.num_beams = num_beams

    def plan(self, problems: Sequence[Problem], way: str = "beam", *, max_new_tokens: int = 256) -> list[Attempt]:
        """A plan for each problem, the most probable that is found.

        Args:
            problems: Side by side in one batch.
            way: One of `WAYS`.
            max_new_tokens: Of each plan.

        Raises:
            UserError: an unknown way, a goal that denies something, or, but for the way `free`, a problem of too many states.
        """
        names = [familiar_names(problem) for problem in problems]
        told = [renamed(problem, new) for problem, new in zip(problems, names, strict=True)]
        prompts = [problem_text(problem) for problem in told]
        if way == "free":
            written = self.generator.generate(prompts, temperature=0.0, max_new_tokens=max_new_tokens)
        elif way == "constrained":
            rules = [Steps(problem) for problem in told]
            written = self.generator.generate(prompts, temperature=0.0, max_new_tokens=max_new_tokens, allow=rules)
        elif way == "beam":
            rules = [Steps(problem, to_goal=True) for problem in told]
            length = {"max_new_tokens": max_new_tokens, "length_penalty": 0.0}
            written = [texts[0] for texts in self.generator.beam_search(prompts, num_beams=self.num_beams, allow=rules, **length)]
        else:
            raise unknown_name("way", way, WAYS)
        found = []
        for problem, new, asked, text in zip(problems, names, told, written, strict=True):
            try:
                steps = read_plan(asked, text.text)
            except UserError as error:
                found.append(Attempt((), str(error), text.num_tokens))
                continue
            own = {name: old for old, name in new.items()}
            steps = tuple(Step(step.action, tuple(own[name] for name in step.arguments)) for step in steps)
            found.append(Attempt(steps, fault(problem, steps), text.num_tokens))
        return found


def fault(problem: Problem, steps: Sequence[Step]) -> str:
    """Why a plan is none, in one line: the first step that cannot be made and what it lacks, or what of the goal is not reached.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> fault(read_problem("blocks"), [Step("pick-up", ("a",))])
    'step 1, pick-up(a), cannot be done: clear(a) is not so'
    """
    facts = problem.facts
    for number, step in enumerate(steps, 1):
        action = problem.domain.actions[step.action]
        values = dict(zip(action.parameters, step.arguments, strict=True))
        for kind, name in zip(action.parameters.values(), step.arguments, strict=True):
            if name not in problem.of_type[kind]:
                return f"step {number}, {step}, cannot be done: {name} is no {kind}"
        if lacking := _unmet([one.where(values) for one in action.conditions], problem, facts):
            return f"step {number}, {step}, cannot be done: {lacking} is not so"
        facts = problem.after(facts, step)
    lacking = _unmet(problem.goal, problem, facts)
    return f"after {len(steps)} steps {lacking} is not so" if lacking else ""


def _unmet(conditions: Sequence[Literal], problem: Problem, facts: frozenset) -> Literal | None:
    whole = closure(problem, facts).facts
    return next((one for one in conditions if not one.holds(whole)), None)
