"""The states of a problem, against steps made one by one, and the cheapest ways through them, against Fast Downward."""

import random

import pytest

from keras_lm.errors import UserError
from keras_lm.planning import Atom, Literal, applicable, closure, read_problem
from keras_lm.planning.rules import find_plan, goal_holds, is_valid
from keras_lm.planning.space import Space

PACKAGED = ("blocks", "deliveries", "trip")


@pytest.mark.parametrize("name", PACKAGED)
def test_edges_are_the_steps_that_can_be_made(name):
    problem = read_problem(name)
    space = Space(problem)
    assert space.facts(0) == problem.facts
    for state in random.Random(0).sample(range(len(space.edges)), 20):
        facts = space.facts(state)
        made = [space.steps[step] for step, _ in space.edges[state]]
        assert made == applicable(problem, closure(problem, facts).facts)
        for step, target in space.edges[state]:
            assert space.facts(target) == problem.after(facts, space.steps[step])


@pytest.mark.parametrize("name", PACKAGED)
def test_no_plan_is_cheaper(name):
    problem = read_problem(name)
    steps = Space(problem).plan(problem.goal)
    assert is_valid(problem, steps)
    assert problem.cost(steps) == find_plan(problem).cost


def test_from_any_state_the_way_leads_to_the_goal():
    problem = read_problem("trip")
    space = Space(problem)
    distances = space.distances(problem.goal)
    for start in range(len(space.edges)):
        steps, facts = space.along(distances, start), space.facts(start)
        assert (steps is None) == (distances[start] == float("inf"))
        for step in steps or []:
            facts = problem.after(facts, step)
        assert steps is None or goal_holds(problem, facts)


def test_a_goal_out_of_reach_has_no_plan():
    problem = read_problem("blocks")
    space = Space(problem)
    assert space.plan([Literal(Atom("on", ("a", "b"))), Literal(Atom("on", ("b", "a")))]) is None
    assert space.plan([Literal(Atom("=", ("a", "b")))]) is None
    assert space.plan([Literal(Atom("on", ("c", "a")))]) == []


def test_what_costs_nothing_is_not_done_over_and_over(tmp_path):
    path = tmp_path / "problem.yaml"
    domain = tmp_path / "lamps.yaml"
    domain.write_text(
        "name: lamps\ntypes: {lamp: object}\npredicates: {on: {parameters: {lamp: lamp}}}\n"
        "actions:\n"
        "  switch-on: {parameters: {lamp: lamp}, if: not on(lamp), effects: on(lamp), cost: 0}\n"
        "  switch-off: {parameters: {lamp: lamp}, if: on(lamp), effects: not on(lamp), cost: 0}\n"
    )
    path.write_text(f"domain: {domain.name}\nobjects: {{lamp: [a, b]}}\nfacts: on(a)\ngoal: on(b), not on(a)\n")
    problem = read_problem(path)
    assert sorted(map(str, Space(problem).plan(problem.goal))) == ["switch-off(a)", "switch-on(b)"]


def test_too_many_states_are_refused():
    with pytest.raises(UserError, match="more than 100 states"):
        Space(read_problem("blocks"), most=100)
