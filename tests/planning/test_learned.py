"""What a model may write of a plan, against the steps that can be made, and the plans of models that know nothing."""

import dataclasses
import random

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.generation.automata import UNREACHABLE
from keras_lm.generation.text import TextGenerator
from keras_lm.models import gru_lm
from keras_lm.planning import Literal, Step, applicable, closure, read_problem
from keras_lm.planning.learned import LearnedPlanner, Steps, fault
from keras_lm.planning.problems import made_up
from keras_lm.planning.rules import goal_holds
from keras_lm.planning.texts import plan_text, problem_text, step_text
from keras_lm.tokenizers import ByteTokenizer, WordPieceTokenizer


def edges_from(constraint, state):
    span = slice(constraint.starts[state], constraint.starts[state + 1])
    return zip(constraint.tokens[span].tolist(), constraint.targets[span].tolist(), strict=True)


def spelled(constraint, pieces, state, text=b""):
    """Everything that can be written from a state up to the next one in which a text may end."""
    for token, target in edges_from(constraint, state):
        written = text + pieces[token]
        if constraint.distance[target]:
            yield from spelled(constraint, pieces, target, written)
        else:
            yield written, target


@pytest.fixture(scope="module")
def wordpieces():
    lines = [problem_text(one.problem) + plan_text(one.steps) for one in made_up("blocks", {3: 1, 4: 1}, 200)]
    return WordPieceTokenizer.fit(lines, 60)


@pytest.mark.parametrize("name", ["blocks", "trip"])
@pytest.mark.parametrize("tokens", ["bytes", "wordpieces"])
def test_exactly_the_steps_that_can_be_made_can_be_spelled(name, tokens, wordpieces):
    problem = read_problem(name)
    pieces = (ByteTokenizer() if tokens == "bytes" else wordpieces).pieces()
    if name == "trip" and tokens == "wordpieces":
        with pytest.raises(UserError, match="can write no step of trip"):
            Steps(problem).compile(pieces)
        return
    constraint = Steps(problem).compile(pieces)
    draw = random.Random(1)
    for _ in range(5):
        facts, state = problem.facts, 0
        for _ in range(12):
            able = {step_text(step).encode(): step for step in applicable(problem, closure(problem, facts).facts)}
            found = dict(spelled(constraint, pieces, state))
            assert found.keys() == able.keys()
            text = draw.choice(sorted(found))
            facts, state = problem.after(facts, able[text]), found[text]


def test_to_the_goal_and_no_further(wordpieces):
    problem = read_problem("blocks")
    constraint = Steps(problem, to_goal=True).compile(wordpieces.pieces())
    ends = np.flatnonzero(constraint.accepting)
    assert len(ends) and not any(len(list(edges_from(constraint, state))) for state in ends)
    assert not constraint.accepting[0]
    assert (constraint.distance < UNREACHABLE).all()  # which tells ways to an end of a step, not to the goal: those are for the model


def test_a_model_that_knows_nothing_makes_steps_that_can_be_made(wordpieces):
    tf.keras.utils.set_random_seed(3)
    model = gru_lm(wordpieces.vocabulary_size, embedding_dim=16, hidden_dim=16)
    planner = LearnedPlanner(TextGenerator(model, wordpieces), num_beams=3)
    problems = [one.problem for one in made_up("blocks", {3: 1, 4: 1}, 6, seed=2)]
    for attempt in planner.plan(problems, "constrained", max_new_tokens=60):
        assert not attempt.fault or attempt.fault.startswith(f"after {len(attempt.steps)} steps")
    assert any(attempt.steps for attempt in planner.plan(problems, "constrained", max_new_tokens=60))
    reached = planner.plan(problems, "beam", max_new_tokens=200)
    for problem, attempt in zip(problems, reached, strict=True):
        assert "cannot be done" not in attempt.fault
        if not attempt.fault:
            facts = problem.facts
            for step in attempt.steps:
                assert not goal_holds(problem, facts)
                facts = problem.after(facts, step)
    assert any(not attempt.fault for attempt in reached)


def test_each_problem_has_its_own_rules(wordpieces):
    """Side by side or alone, the plans are the same."""
    tf.keras.utils.set_random_seed(4)
    planner = LearnedPlanner(TextGenerator(gru_lm(wordpieces.vocabulary_size, embedding_dim=16, hidden_dim=16), wordpieces))
    problems = [one.problem for one in made_up("blocks", {3: 1, 4: 1}, 3, seed=5)]
    together = planner.plan(problems, "constrained", max_new_tokens=40)
    assert together == [planner.plan([problem], "constrained", max_new_tokens=40)[0] for problem in problems]


def test_a_goal_that_holds_already_needs_no_step(wordpieces):
    problem = read_problem("blocks")
    held = dataclasses.replace(problem, goal=(Literal(next(fact for fact in sorted(problem.facts) if fact.predicate == "on")),))
    planner = LearnedPlanner(TextGenerator(gru_lm(wordpieces.vocabulary_size, embedding_dim=8, hidden_dim=8), wordpieces))
    (attempt,) = planner.plan([held], "beam", max_new_tokens=20)
    assert not attempt.fault and not attempt.steps


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "after 0 steps on(a, b) is not so"),
        ([Step("pick-up", ("b",)), Step("pick-up", ("d",))], "step 2, pick-up(d), cannot be done: hand-empty is not so"),
    ],
)
def test_faults_are_named(steps, message):
    assert fault(read_problem("blocks"), steps) == message


def test_an_object_of_another_type_is_a_fault():
    steps = [Step("fly", ("south-truck", "south-airport", "north-airport"))]
    assert fault(read_problem("deliveries"), steps) == f"step 1, {steps[0]}, cannot be done: south-truck is no aeroplane"


def test_unknown_ways_are_refused(wordpieces):
    planner = LearnedPlanner(TextGenerator(gru_lm(wordpieces.vocabulary_size, embedding_dim=8, hidden_dim=8), wordpieces))
    with pytest.raises(UserError, match="unknown way 'best'"):
        planner.plan([read_problem("blocks")], "best")
