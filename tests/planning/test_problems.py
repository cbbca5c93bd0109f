"""Problems that are made up: their plans against Fast Downward, what is held out, and the lines they are written as."""

import dataclasses
import itertools

import pytest

from keras_lm.errors import UserError
from keras_lm.planning import Literal, read_problem
from keras_lm.planning.problems import fingerprint, made_up
from keras_lm.planning.rules import find_plan, is_valid
from keras_lm.planning.texts import plan_text, problem_text, read_plan


@pytest.mark.parametrize("domain", ["blocks", "deliveries"])
def test_plans_are_valid_and_none_is_cheaper(domain):
    for solved in made_up(domain, {2: 1, 3: 1}, 6, seed=3):
        assert is_valid(solved.problem, solved.steps)
        assert solved.problem.cost(solved.steps) == find_plan(solved.problem).cost


def test_same_seed_same_problems_and_no_other():
    texts = [[problem_text(one.problem) for one in made_up("blocks", {4: 1}, 20, seed=seed)] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_what_is_held_out_is_not_learnt_from_under_other_names():
    learnt, held = (
        {fingerprint(one.problem) for one in made_up("blocks", {3: 1, 4: 1}, 400, held_out=held_out)} for held_out in (False, True)
    )
    assert held and not learnt & held


def test_fingerprints_tell_problems_and_not_names():
    """Over all problems of three blocks, against trying all names."""
    from keras_lm.planning.problems import WORLDS, _space

    space = _space("blocks", 3)
    problems = []
    for start, final in itertools.product(range(len(space.edges)), repeat=2):
        goal = tuple(Literal(fact) for fact in sorted(space.facts(final)) if fact.predicate in WORLDS["blocks"].wanted)
        problems.append(dataclasses.replace(space.problem, facts=space.facts(start), goal=goal))

    def smallest(problem):
        names = list(problem.objects)
        forms = []
        for order in itertools.permutations(names):
            new = dict(zip(names, order, strict=True))
            forms.append((sorted(fact.where(new) for fact in problem.facts), sorted(one.where(new) for one in problem.goal)))
        return str(min(forms))

    pairs = {(smallest(problem), fingerprint(problem)) for problem in problems}
    assert len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs})


def test_sizes_without_names_and_unknown_domains_are_refused():
    with pytest.raises(UserError, match="unknown domain 'block'"):
        next(made_up("block", {3: 1}, 1))
    with pytest.raises(UserError, match="at least 1"):
        next(made_up("blocks", {0: 1}, 1))


def test_a_plan_is_read_as_it_was_written():
    for solved in made_up("deliveries", {2: 1}, 5):
        assert read_plan(solved.problem, plan_text(solved.steps)) == list(solved.steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lift a;", "step 1, 'lift a', is no action of blocks"),
        ("pickup a;stack a;", "step 2, 'stack a': stack takes 2 objects"),
        ("pickup z;", "step 1, 'pickup z': there is no z"),
        ("pickup a;sta", "step 2 is cut off: 'sta'"),
        (";", "step 1, '', is no action"),
    ],
)
def test_what_is_no_step_is_named(text, message):
    with pytest.raises(UserError, match=message):
        read_plan(read_problem("blocks"), text)


def test_goals_that_deny_have_no_form():
    blocks = read_problem("blocks")
    with pytest.raises(UserError, match="is part of the goal"):
        problem_text(dataclasses.replace(blocks, goal=tuple(Literal(one.atom, False) for one in blocks.goal)))
