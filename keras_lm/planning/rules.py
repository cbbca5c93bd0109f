"""Plans by rules: Fast Downward finds them, by way of unified-planning (extra `planning`), whose validator checks them.

Rules over what no action changes are followed beforehand (`closure`). A predicate that rules decide over what does change is replaced,
where an action or the goal asks for it, by what its rules go by, so that a planner without rules sees the same problem.

References:
    Article A0 §3.4. Helmert 2006, «The Fast Downward Planning System»; Helmert and Domshlak 2009, «Landmarks, Critical Paths and
    Abstractions» (LM-cut, for the cheapest plans); Richter and Westphal 2010, «LAMA» (for any plan).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence

from keras_lm.errors import UserError
from keras_lm.planning.domain import EQUAL, TOP, Atom, Literal, Problem, Step
from keras_lm.planning.inference import FactIndex, closure, matches


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sound course of action.

    Attributes:
        steps: In their order; none where the goal holds at the beginning.
        cost: Of all together.
        optimal: Whether no other is cheaper.
        seconds: It took to find.
    """

    steps: tuple[Step, ...]
    cost: int
    optimal: bool
    seconds: float


class NoPlan(UserError):
    """There is no plan, or none was found; the message says why.

    Attributes:
        unmet: The conditions that cannot be met, or not together; empty where the time was up.
    """

    def __init__(self, message: str, unmet: Sequence[Literal] = ()):
        super().__init__(message)
        self.unmet = tuple(unmet)


def find_plan(problem: Problem, *, optimal: bool = True, time_limit: float = 60.0) -> Plan:
    """A plan for a problem.

    Args:
        problem: With a goal.
        optimal: Whether it has to be the cheapest (default), or the first one that is found.
        time_limit: Seconds, for finding a plan and for finding out why there is none.

    Raises:
        NoPlan: there is none, with the conditions that are in the way, or the time was up.
        UserError: the extra is not installed.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> plan = find_plan(read_problem("blocks"))
    >>> plan.cost, [str(step) for step in plan.steps][:3]
    (6, ['unstack(c, a)', 'stack(c, d)', 'pick-up(b)'])
    """
    start = time.perf_counter()
    deadline = start + time_limit
    _library()
    _refuse_contradiction(problem)
    if goal_holds(problem, problem.facts):
        return Plan((), 0, True, time.perf_counter() - start)
    _refuse_unreachable(problem)
    steps = _search(problem, optimal, deadline)
    if steps is None:
        raise _conflict(problem, deadline)
    plan = Plan(tuple(steps), problem.cost(steps), optimal, time.perf_counter() - start)
    if not is_valid(problem, plan.steps):
        raise RuntimeError(f"the planner's plan does not stand up: {', '.join(map(str, plan.steps))}")
    return plan


def goal_holds(problem: Problem, facts: Iterable[Atom]) -> bool:
    """Whether the goal holds in a state, given without what follows from it."""
    whole = closure(problem, facts).facts
    return all(one.holds(whole) for one in problem.goal)


def is_valid(problem: Problem, steps: Sequence[Step]) -> bool:
    """Whether a plan leads to the goal, as unified-planning's validator sees it, which knows nothing of ours.

    Args:
        problem: Of which it is.
        steps: Any; unknown actions or objects, or ones of a wrong type, make the plan one that is not valid.
    """
    planning = _library()
    task = _Task(problem)
    for step in steps:
        action = problem.domain.actions.get(step.action)
        if action is None or len(action.parameters) != len(step.arguments):
            return False
        for kind, name in zip(action.parameters.values(), step.arguments, strict=True):
            if name not in problem.of_type[kind]:
                return False
    with planning.PlanValidator(problem_kind=task.problem.kind) as validator:
        return bool(validator.validate(task.problem, task.plan(steps)))


def _refuse_contradiction(problem: Problem) -> None:
    for one in problem.goal:
        if Literal(one.atom, not one.positive) in problem.goal:
            raise NoPlan(f"the goal contradicts itself: {one.atom} and not {one.atom}", [one, Literal(one.atom, not one.positive)])


def _refuse_unreachable(problem: Problem) -> None:
    """Refuses a goal that could not be reached even if no action ever undid anything."""
    reached = _reachable(problem)
    for one in problem.goal:
        if one.positive and not one.holds(reached):
            chain = _missing(problem, one, reached)
            needs = "".join(f"{higher} needs {lower}, " for higher, lower in itertools.pairwise(chain))
            raise NoPlan(f"{one} cannot be reached: {needs}{'and ' if needs else ''}nothing brings about {chain[-1]}", chain)


def _reachable(problem: Problem, more: Iterable[Atom] = ()) -> FactIndex:
    """All that can be so at some time, with `more` facts, if nothing is ever undone and nothing has to be undone."""
    domain, known = problem.domain, FactIndex(closure(problem, problem.facts.union(more)).facts)
    grown = True
    while grown:
        grown = False
        parts = [(one.parameters, one.conditions, (Literal(one.conclusion),)) for one in domain.rules.values()]
        parts += [(one.parameters, one.conditions, one.effects) for one in domain.actions.values()]
        for parameters, conditions, effects in parts:
            asked = [one for one in conditions if one.positive or one.atom.predicate == EQUAL or one.atom.predicate in domain.static]
            for values in list(matches(problem, parameters, asked, known)):
                for effect in effects:
                    if effect.positive and known.add(effect.where(values).atom):
                        grown = True
    return known


def _missing(problem: Problem, wanted: Literal, reached: FactIndex) -> list[Literal]:
    """From what is wanted, by what it needs, down to a fact that nothing brings about and with which the goal could be reached."""
    import networkx

    needs = networkx.DiGraph()
    waiting = [wanted]
    needs.add_node(wanted)
    while waiting:
        one = waiting.pop(0)
        for lacking in _ways(problem, one.atom, reached):
            for other in lacking:
                if other not in needs and other.atom.predicate != EQUAL:
                    waiting.append(other)
                if other.atom.predicate != EQUAL:
                    needs.add_edge(one, other)
    circles = networkx.condensation(needs)  # facts that need each other, or one that needs others only
    roots = [fact for circle in circles if not circles.out_degree(circle) for fact in circles.nodes[circle]["members"] if fact != wanted]
    roots.sort(key=lambda fact: (fact.atom.predicate in problem.domain.static, networkx.shortest_path_length(needs, wanted, fact), fact))
    enough = (fact for fact in roots if wanted.holds(_reachable(problem, [fact.atom])))
    root = next(enough, roots[0] if roots else wanted)
    return networkx.shortest_path(needs, wanted, root)


def _ways(problem: Problem, wanted: Atom, reached: FactIndex) -> Iterable[list[Literal]]:
    """For actions and rules on objects that would bring a fact about: those of their conditions that are out of reach."""
    sources = [(one.parameters, one.conditions, one.conclusion) for one in problem.domain.rules.values()]
    for action in problem.domain.actions.values():
        sources += [(action.parameters, action.conditions, one.atom) for one in action.effects if one.positive]
    for parameters, conditions, said in sources:
        if said.predicate != wanted.predicate:
            continue
        given = {own: value for own, value in zip(said.arguments, wanted.arguments, strict=True) if own in parameters}
        if said.where(given) != wanted or any(value not in problem.of_type[parameters[own]] for own, value in given.items()):
            continue
        choices = {own: [given[own]] if own in given else problem.of_type[kind] for own, kind in parameters.items()}
        for values in _few(choices):
            lacking = [one for one in (one.where(values) for one in conditions) if one.positive and not one.holds(reached)]
            if lacking:
                yield lacking


def _few(choices: Mapping[str, Sequence[str]], most: int = 2000) -> Iterable[dict[str, str]]:
    """Combinations, but no more than `most`: enough for a message."""
    for objects in itertools.islice(itertools.product(*choices.values()), most):
        yield dict(zip(choices, objects, strict=True))


def _conflict(problem: Problem, deadline: float) -> NoPlan:
    """Why there is no plan though each part of the goal might be reached: the fewest parts that cannot hold together."""
    kept = list(problem.goal)
    for one in problem.goal:
        fewer = [other for other in kept if other != one]
        if fewer and _search(dataclasses.replace(problem, goal=tuple(fewer)), True, deadline) is None:
            kept = fewer
    parts = " and ".join(map(str, kept))
    return NoPlan(f"{parts} cannot be reached" + (" together" if len(kept) > 1 else "") + ": every course of action was followed", kept)


def _search(problem: Problem, optimal: bool, deadline: float) -> list[Step] | None:
    """Steps to the goal; `None` where there are none."""
    planning = _library()
    left = deadline - time.perf_counter()
    if left <= 0:
        raise NoPlan(_TIME_UP)
    if goal_holds(problem, problem.facts):
        return []
    task = _Task(problem)
    cheapest = "astar(blind())" if task.denies else "astar(lmcut())"
    options = {"fast_downward_search_time_limit": f"{max(int(left), 1)}s"}
    options |= {"fast_downward_search_config": cheapest} if optimal else {"fast_downward_alias": "lama-first"}
    with planning.OneshotPlanner(name="fast-downward", params=options) as planner:
        result = planner.solve(task.problem, timeout=left + 5)
    if result.plan is not None:
        return task.steps(result.plan)
    if result.status.name in ("UNSOLVABLE_PROVEN", "UNSOLVABLE_INCOMPLETELY"):  # A* has then followed all there is
        return None if optimal or result.status.name == "UNSOLVABLE_PROVEN" else _search(problem, True, deadline)
    if result.status.name in ("TIMEOUT", "MEMOUT"):
        raise NoPlan(_TIME_UP)
    raise UserError(f"the planner does not take this problem: {result.status.name.lower().replace('_', ' ')}")


_TIME_UP = "no plan within the time limit, and none ruled out: allow more time, or any plan in place of the cheapest"


@functools.cache
def _library():
    try:
        from unified_planning import shortcuts
    except ImportError:
        raise UserError('planning needs unified-planning and Fast Downward: pip install "keras_lm[planning]"') from None
    shortcuts.get_environment().credits_stream = None
    return shortcuts


class _Task:
    """A problem as unified-planning has it, under names of plain letters.

    Attributes:
        problem: Theirs.
        denies: Whether what rules decide over what changes is asked not to be so, which LM-cut does not take.
    """

    def __init__(self, problem: Problem):
        self.source, self.denies, self._variables = problem, False, 0
        library, domain = _library(), problem.domain
        self._library = library
        self.problem = library.Problem("task")
        self._types = {TOP: library.UserType("top")}
        for name in domain.types:
            self._type(name)
        self._objects = {name: library.Object(f"object-{number}", self._types[kind]) for number, (name, kind) in _numbered(problem.objects)}
        self.problem.add_objects(self._objects.values())
        self._fluents = {}
        for number, (name, predicate) in _numbered(domain.predicates):
            if name in domain.derived and name not in domain.static:
                continue
            own = {f"of-{place}": self._types[kind] for place, kind in enumerate(predicate.types)}
            self._fluents[name] = library.Fluent(f"predicate-{number}", library.BoolType(), **own)
            self.problem.add_fluent(self._fluents[name], default_initial_value=False)
        for fact in closure(problem).facts:
            if fact.predicate in self._fluents:
                self.problem.set_initial_value(self._atom(fact, {}), True)
        self._actions, costs = {}, {}
        for number, (name, action) in _numbered(domain.actions):
            places = {own: f"of-{place}" for place, own in enumerate(action.parameters)}
            made = library.InstantaneousAction(
                f"action-{number}", **{places[own]: self._types[kind] for own, kind in action.parameters.items()}
            )
            values = {own: made.parameter(place) for own, place in places.items()}
            for condition in action.conditions:
                made.add_precondition(self._condition(condition, values))
            for effect in sorted(action.effects, key=lambda one: one.positive):  # what is added stays, even if it is removed as well
                self._effect(made, effect, values, action.effects)
            self.problem.add_action(made)
            self._actions[name], costs[made] = made, library.Int(action.cost)
        for one in problem.goal:
            self.problem.add_goal(self._condition(one, {}))
        self.problem.add_quality_metric(library.MinimizeActionCosts(costs))

    def plan(self, steps: Sequence[Step]):
        """Ours as theirs."""
        from unified_planning.plans import ActionInstance, SequentialPlan

        objects = {name: self._library.ObjectExp(made) for name, made in self._objects.items()}
        return SequentialPlan([ActionInstance(self._actions[one.action], tuple(objects[name] for name in one.arguments)) for one in steps])

    def steps(self, plan) -> list[Step]:
        """Theirs as ours."""
        actions = {made.name: name for name, made in self._actions.items()}
        objects = {made.name: name for name, made in self._objects.items()}
        return [
            Step(actions[one.action.name], tuple(objects[value.object().name] for value in one.actual_parameters)) for one in plan.actions
        ]

    def _type(self, name: str):
        if name not in self._types:
            parent = self._type(self.source.domain.types[name])
            self._types[name] = self._library.UserType(f"type-{len(self._types)}", parent)
        return self._types[name]

    def _atom(self, atom: Atom, values: Mapping[str, object]):
        arguments = [values[name] if name in values else self._objects[name] for name in atom.arguments]
        if atom.predicate == EQUAL:
            return self._library.Equals(*arguments)
        return self._fluents[atom.predicate](*arguments)

    def _condition(self, literal: Literal, values: Mapping[str, object]):
        domain, library = self.source.domain, self._library
        name = literal.atom.predicate
        if name == EQUAL or name in self._fluents:
            found = self._atom(literal.atom, values)
            return found if literal.positive else library.Not(found)
        if not literal.positive:
            self.denies = True
        ways = []
        for rule in domain.rules.values():
            if rule.conclusion.predicate == name:
                ways.append(self._way(rule, literal.atom, values))
        either = library.Or(*ways)
        return either if literal.positive else library.Not(either)

    def _way(self, rule, wanted: Atom, values: Mapping[str, object]):
        """That a rule concludes `wanted`: there are objects for its other variables so that its conditions hold."""
        library = self._library
        own: dict[str, object] = {}
        same = []
        for name, argument in zip(rule.conclusion.arguments, wanted.arguments, strict=True):
            given = values[argument] if argument in values else library.ObjectExp(self._objects[argument])
            if name not in rule.parameters:
                same.append(library.Equals(self._objects[name], given))
            elif name in own:
                same.append(library.Equals(own[name], given))
            else:
                own[name] = given
        free = []
        for name, kind in rule.parameters.items():
            if name not in own:
                self._variables += 1
                own[name] = library.Variable(f"some-{self._variables}", self._types[kind])
                free.append(own[name])
        body = library.And(*same, *(self._condition(one, own) for one in rule.conditions))
        return library.Exists(body, *free) if free else body

    def _effect(self, made, effect: Literal, values: Mapping[str, object], effects: Sequence[Literal]) -> None:
        """What is both added and removed where two parameters are the same object is added."""
        library = self._library
        rivals = [one for one in effects if one.positive and one.atom.predicate == effect.atom.predicate] if not effect.positive else []
        condition = library.TRUE()
        for rival in rivals:
            pairs = zip(effect.atom.arguments, rival.atom.arguments, strict=True)
            same = [(one, other) for one, other in pairs if one != other]
            if not same:
                return
            equal = [
                library.Equals(values.get(one, self._objects.get(one)), values.get(other, self._objects.get(other))) for one, other in same
            ]
            condition = library.And(condition, library.Not(library.And(*equal)))
        made.add_effect(self._atom(effect.atom, values), effect.positive, condition)


def _numbered(mapping: Mapping) -> Iterable[tuple[int, tuple]]:
    return enumerate(mapping.items())
