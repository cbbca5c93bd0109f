"""Inference and plans against searches that follow everything, and against unified-planning's validator."""

import collections
import dataclasses
import itertools
import random

import pytest

from keras_lm.planning import Atom, Domain, Literal, Predicate, Problem, Rule, Step, applicable, closure, read_problem
from keras_lm.planning.rules import NoPlan, find_plan, goal_holds, is_valid
from keras_lm.planning.words import explain, lines


def facts(*texts):
    return [Atom(name, tuple(rest.rstrip(")").split(", ")) if rest else ()) for name, _, rest in (text.partition("(") for text in texts)]


def wanting(problem, *texts):
    return dataclasses.replace(problem, goal=tuple(map(Literal, facts(*texts))))


def without(problem, *texts):
    return dataclasses.replace(problem, facts=problem.facts - set(facts(*texts)))


def brute_cost(problem):
    """The least cost, by following every course of action in the order of cost."""
    best, waiting = {}, [(0, problem.facts)]
    while waiting:
        cost, state = waiting.pop(waiting.index(min(waiting, key=lambda pair: pair[0])))
        if state in best:
            continue
        best[state] = cost
        if goal_holds(problem, state):
            return cost
        for step in applicable(problem, closure(problem, state).facts):
            waiting.append((cost + problem.domain.actions[step.action].cost, problem.after(state, step)))
    return None


def random_blocks(count, seed):
    rng, problem = random.Random(seed), read_problem("blocks")
    names = [f"block{number}" for number in range(count)]

    def towers():
        shuffled = rng.sample(names, count)
        cuts = sorted(rng.sample(range(1, count), rng.randrange(count)))
        return [shuffled[first:end] for first, end in itertools.pairwise([0, *cuts, count])]

    def on(stack):
        return [Atom("on", pair) for pair in itertools.pairwise(stack)]

    start = towers()
    known = [Atom("hand-empty"), *(Atom("clear", (stack[0],)) for stack in start), *(Atom("on-table", (stack[-1],)) for stack in start)]
    goal = [Literal(atom) for stack in towers() for atom in on(stack)] or [Literal(Atom("hand-empty"))]
    known += [atom for stack in start for atom in on(stack)]
    return dataclasses.replace(problem, objects=dict.fromkeys(names, "block"), facts=frozenset(known), goal=tuple(goal))


@pytest.mark.parametrize("seed", range(4))
def test_plans_are_as_cheap_as_any_and_valid(seed):
    problem = random_blocks(3, seed)
    plan = find_plan(problem)
    assert plan.cost == brute_cost(problem)
    assert is_valid(problem, plan.steps)
    state = problem.facts
    for step in plan.steps:
        assert step in applicable(problem, closure(problem, state).facts)
        state = problem.after(state, step)
    assert goal_holds(problem, state)


@pytest.mark.parametrize("name", ["blocks", "deliveries", "trip"])
def test_packaged_problems_are_solved_and_no_step_can_be_left_out(name):
    problem = read_problem(name)
    plan = find_plan(problem)
    assert find_plan(problem, optimal=False).cost >= plan.cost
    assert all(not is_valid(problem, plan.steps[:place] + plan.steps[place + 1 :]) for place in range(len(plan.steps)))
    for language in ("en", "zh"):
        assert len(lines(explain(problem, plan.steps, language), language)) > 2 * len(plan.steps)


def test_what_is_applicable_is_what_the_validator_lets_be_done():
    problem = read_problem("trip")
    now = set(applicable(problem, closure(problem).facts))
    for name, action in problem.domain.actions.items():
        for objects in itertools.product(*(problem.of_type[kind] for kind in action.parameters.values())):
            step, values = Step(name, objects), dict(zip(action.parameters, objects, strict=True))
            alone = dataclasses.replace(problem, goal=tuple(one.where(values) for one in action.effects))
            assert is_valid(alone, [step]) == (step in now), step


def test_steps_that_are_none_make_no_plan():
    problem = read_problem("blocks")
    assert not is_valid(problem, [Step("fly", ("a",))])
    assert not is_valid(problem, [Step("pick-up", ("a", "b"))])
    assert not is_valid(read_problem("trip"), [Step("走到", ("家", "家", "家"))])


def test_closure_is_the_least_set_that_the_rules_ask_for():
    link, reach, lonely = (Predicate({"a": "object", "b": "object"}) for _ in range(3))
    three = dict.fromkeys("xyz", "object")
    rules = {
        "step": Rule(three, (Literal(Atom("link", ("x", "y"))),), Atom("reach", ("x", "y"))),
        "further": Rule(three, (Literal(Atom("reach", ("x", "y"))), Literal(Atom("link", ("y", "z")))), Atom("reach", ("x", "z"))),
        "no-way": Rule({"x": "object", "y": "object"}, (Literal(Atom("reach", ("x", "y")), False),), Atom("apart", ("x", "y"))),
    }
    domain = Domain("graph", {}, {"link": link, "reach": reach, "apart": lonely}, rules, {})
    rng = random.Random(0)
    for _ in range(5):
        names = [str(number) for number in range(6)]
        edges = {pair for pair in itertools.product(names, names) if rng.random() < 0.2}
        found = closure(Problem(domain, dict.fromkeys(names, "object"), frozenset(Atom("link", pair) for pair in edges), ())).facts
        reached = set()
        for begin in names:
            waiting = collections.deque(end for start, end in edges if start == begin)
            while waiting:
                place = waiting.popleft()
                if (begin, place) not in reached:
                    reached.add((begin, place))
                    waiting.extend(end for start, end in edges if start == place)
        assert {one.arguments for one in found if one.predicate == "reach"} == reached
        assert {one.arguments for one in found if one.predicate == "apart"} == set(itertools.product(names, names)) - reached


def test_a_goal_that_holds_needs_no_plan():
    assert find_plan(wanting(read_problem("blocks"), "on(c, a)")).steps == ()


def test_goals_that_cannot_be_reached_are_said_to_be_so_with_what_is_unmet():
    blocks = read_problem("blocks")
    contradictory = dataclasses.replace(blocks, goal=(Literal(Atom("on", ("a", "b"))), Literal(Atom("on", ("a", "b")), False)))
    with pytest.raises(NoPlan, match=r"the goal contradicts itself: on\(a, b\) and not on\(a, b\)"):
        find_plan(contradictory)
    with pytest.raises(NoPlan, match=r"on\(a, b\) and on\(c, b\) cannot be reached together") as found:
        find_plan(wanting(blocks, "on(a, b)", "on-table(d)", "on(c, b)"))
    assert {str(one) for one in found.value.unmet} == {"on(a, b)", "on(c, b)"}
    with pytest.raises(NoPlan, match=r"nothing brings about 放在\(身份证, 家\)$") as found:
        find_plan(without(read_problem("trip"), "放在(身份证, 家)"))
    assert str(found.value.unmet[0]) == "住下(小林, 旅馆)"
    with pytest.raises(NoPlan, match=r"nothing brings about at\(plane, "):
        find_plan(without(read_problem("deliveries"), "at(plane, south-airport)"))


def test_a_search_ends_when_its_time_is_up():
    with pytest.raises(NoPlan, match="no plan within the time limit, and none ruled out") as found:
        find_plan(random_blocks(30, 0), time_limit=1.0)
    assert not found.value.unmet


def test_actions_may_ask_that_what_rules_decide_is_not_so():
    blocks = read_problem("blocks")
    block = {"upper": "block", "lower": "block"}
    rules = {"covered": Rule(block, (Literal(Atom("on", ("upper", "lower"))),), Atom("covered", ("lower",)))}
    predicates = {**blocks.domain.predicates, "covered": Predicate({"block": "block"})}
    pick_up = blocks.domain.actions["pick-up"]
    changed = dataclasses.replace(pick_up, conditions=(*pick_up.conditions, Literal(Atom("covered", ("block",)), False)))
    domain = dataclasses.replace(blocks.domain, predicates=predicates, rules=rules, actions={**blocks.domain.actions, "pick-up": changed})
    problem = dataclasses.replace(blocks, domain=domain)
    assert is_valid(problem, find_plan(problem, optimal=False).steps)
    assert find_plan(problem).cost == find_plan(blocks).cost == brute_cost(problem)
    with pytest.raises(NoPlan, match=r"on\(a, b\) and on\(c, b\) cannot be reached together"):
        find_plan(wanting(problem, "on(a, b)", "on(c, b)"), optimal=False)


def test_what_an_action_adds_stays_even_if_it_removes_it_too():
    problem = read_problem("deliveries")
    stays = Step("drive", ("north-truck", "depot", "depot"))
    assert problem.after(problem.facts, stays) == problem.facts
