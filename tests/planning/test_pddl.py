"""PDDL against unified-planning's own reader."""

import re

import pytest

from keras_lm.errors import UserError
from keras_lm.planning import read_domain, read_problem
from keras_lm.planning.rules import find_plan

DOMAIN = """; a lift
(define (domain lift)
  (:requirements :strips :typing :negative-preconditions :equality :action-costs)
  (:types floor thing - object
          person - thing)
  (:predicates (above ?high ?low - floor) (at ?what - thing ?where - floor)
               (lift-at ?where - floor) (inside ?what - thing))
  (:functions (total-cost) - number)
  (:action move
    :parameters (?from ?to - floor)
    :precondition (and (lift-at ?from) (not (= ?from ?to)))
    :effect (and (not (lift-at ?from)) (lift-at ?to) (increase (total-cost) 2)))
  (:action board
    :parameters (?who - thing ?where - floor)
    :precondition (and (at ?who ?where) (lift-at ?where))
    :effect (and (inside ?who) (not (at ?who ?where)) (increase (total-cost) 1)))
  (:action leave
    :parameters (?who - thing ?where - floor)
    :precondition (and (inside ?who) (lift-at ?where))
    :effect (and (at ?who ?where) (not (inside ?who)) (increase (total-cost) 1))))
"""
PROBLEM = """(define (problem two-go-up)
  (:domain lift)
  (:objects f1 f2 f3 - floor ann - person box - thing)
  (:init (above f2 f1) (above f3 f2) (lift-at f2) (at ann f1) (at box f3) (= (total-cost) 0))
  (:goal (and (at ann f3) (at box f1)))
  (:metric minimize (total-cost)))
"""


@pytest.fixture
def written(tmp_path):
    def write(domain=DOMAIN, problem=PROBLEM):
        paths = tmp_path / "domain.pddl", tmp_path / "problem.pddl"
        for path, text in zip(paths, (domain, problem), strict=True):
            path.write_text(text, encoding="utf-8")
        return paths

    return write


def test_the_cheapest_plan_costs_what_it_does_for_another_reader(written):
    shortcuts = pytest.importorskip("unified_planning.shortcuts")
    from unified_planning.io import PDDLReader

    domain, problem = written()
    ours = find_plan(read_problem(problem, domain))
    theirs = PDDLReader().parse_problem(str(domain), str(problem))
    shortcuts.get_environment().credits_stream = None
    with shortcuts.OneshotPlanner(name="fast-downward-opt") as planner:
        found = planner.solve(theirs).plan
    costs = {"move": 2, "board": 1, "leave": 1}
    assert ours.cost == sum(costs[step.action.name] for step in found.actions) == 10
    assert ours.optimal


def test_types_variables_and_costs_are_as_written(written):
    domain = read_domain(written()[0])
    assert domain.types == {"floor": "object", "thing": "object", "person": "thing"}
    assert domain.actions["move"].parameters == {"?from": "floor", "?to": "floor"}
    assert (domain.actions["move"].cost, domain.actions["board"].cost) == (2, 1)


def test_derived_predicates_are_rules(written):
    rule = "(:derived (higher ?a ?b - floor) (exists (?c - floor) (and (above ?a ?c) (above ?c ?b))))\n  (:action move"
    text = DOMAIN.replace("(:action move", rule).replace("(inside ?what - thing))", "(inside ?what - thing) (higher ?a ?b - floor))")
    problem = read_problem(written(domain=text)[1], written(domain=text)[0])
    from keras_lm.planning import Atom, closure

    assert Atom("higher", ("f3", "f1")) in closure(problem).facts


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("(inside ?who) (lift-at ?where))\n", "(insid ?who) (lift-at ?where))\n", 19, "unknown predicate 'insid': did you mean 'inside'"),
        ("(and (at ?who ?where) (lift-at ?where))", "(and (at ?who) (lift-at ?where))", 15, "at is said of 2, not of 1"),
        ("(and (at ?who ?where) (lift-at ?where))", "(and (at ?where ?who))", 15, "?where is a floor, but at is said of a thing"),
        ("(and (at ?who ?where) (lift-at ?where))", "(or (at ?who ?where))", 15, "or is not understood here"),
        (":parameters (?from ?to - floor)", ":parameters (?from ?to - flor)", 9, "unknown type 'flor': did you mean 'floor'"),
        (":parameters (?from ?to - floor)", ":parameters (from to - floor)", 10, "a variable begins with ?"),
        ("(not (inside ?who)) (increase (total-cost) 1))))", "(not (inside ?who))", 20, "this ( is never closed"),
        ("(define (domain lift)", "(define (problem lift)", 2, "this is no domain"),
        ("  (:functions (total-cost) - number)", "  (:durative-action x)", 8, ":durative-action is not understood"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(written, old, new, line, message):
    assert old in DOMAIN
    with pytest.raises(UserError, match=rf"domain.pddl, line {line}: .*{re.escape(message)}"):
        read_domain(written(domain=DOMAIN.replace(old, new))[0])


def test_a_problem_of_another_domain_is_refused(written):
    domain, problem = written(problem=PROBLEM.replace("(:domain lift)", "(:domain crane)"))
    with pytest.raises(UserError, match=r"problem.pddl, line 2: this is a problem of crane, not of lift"):
        read_problem(problem, domain)
    with pytest.raises(UserError, match="needs the file of its domain"):
        read_problem(problem)
