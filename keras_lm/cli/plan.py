"""`keras_lm-plan`: given what is known and what is wanted, what to do, by rules."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from keras_lm.cli import options
from keras_lm.errors import UserError
from keras_lm.planning.domain import Literal, Problem
from keras_lm.planning.inference import closure
from keras_lm.planning.reading import PACKAGED, read_problem
from keras_lm.planning.rules import Plan, find_plan
from keras_lm.planning.texts import WAYS
from keras_lm.planning.words import LANGUAGES, explain, lines, say, say_step
from keras_lm.training.run import Run

_EPILOG = f"""examples:
  keras_lm-plan trip --language zh --explain
  keras_lm-plan deliveries --any
  keras_lm-plan my-problem.yaml
  keras_lm-plan problem.pddl --domain domain.pddl --json
  keras_lm-plan deliveries --known                 what is known, and what follows from it
  keras_lm-plan blocks --learned runs/plans-blocks what a model that has learnt from solved problems would do

Problems that come with the package: {", ".join(PACKAGED)}. docs/planning.md says how to write others."""


def parser() -> options.Parser:
    result = options.Parser(prog="keras_lm-plan", description="Find a sound course of action from what is known to a goal.", epilog=_EPILOG)
    result.add_argument("problem", metavar="PROBLEM", help="a file of a problem (.yaml or .pddl), or one of the package's by name")
    result.add_argument("--domain", metavar="FILE", help="the file of its domain, where the problem names none, as in PDDL")
    result.add_argument("--any", action="store_true", help="the first plan that is found, not the cheapest")
    result.add_argument("--time-limit", type=_seconds, default=60.0, metavar="SECONDS", help="for the search (default: 60)")
    result.add_argument("--learned", metavar="RUN", help="let the model of a run write the plan (keras_lm-problems makes what it learns)")
    result.add_argument(
        "--way",
        choices=WAYS,
        default="beam",
        help="how it writes: free, constrained to what can be done, or by beam search to the goal (default: beam)",
    )
    result.add_argument("--language", choices=LANGUAGES, default="en", help="of the words (default: en)")
    result.add_argument("--explain", action="store_true", help="say for each step why it can be made")
    result.add_argument("--known", action="store_true", help="print what is known at the beginning, and what follows, in place of a plan")
    result.add_argument("--json", action="store_true", help="print one line of JSON")
    return result


def plan(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    problem = read_problem(given.problem, given.domain)
    if given.known:
        return _known(problem, given)
    found = _learned(problem, given) if given.learned else find_plan(problem, optimal=not given.any, time_limit=given.time_limit)
    explained = explain(problem, found.steps, given.language)
    if given.json:
        steps = [
            {"action": one.step.action, "arguments": one.step.arguments, "text": one.text, "because": dict(one.because)}
            for one in explained
        ]
        print(
            json.dumps(
                {"steps": steps, "cost": found.cost, "optimal": found.optimal, "seconds": round(found.seconds, 3)}, ensure_ascii=False
            )
        )
        return 0
    if not found.steps:
        print("the goal holds already: there is nothing to do", file=sys.stderr)
    elif given.explain:
        print(*lines(explained, given.language), sep="\n")
    else:
        print(*(f"{number}. {say_step(problem, step, given.language)}" for number, step in enumerate(found.steps, 1)), sep="\n")
    kind = "no plan is cheaper" if found.optimal else "others may be cheaper"
    print(f"{len(found.steps)} steps, cost {found.cost} ({kind}), found in {found.seconds:.2f} s", file=sys.stderr)
    return 0


def _learned(problem: Problem, given: argparse.Namespace) -> Plan:
    run = Run.open(given.learned)
    options.keep_compilations()
    options.start_tensorflow()
    with options.Spinner("loading, compiling and planning"):
        from keras_lm.planning.learned import LearnedPlanner

        start = time.perf_counter()
        (attempt,) = LearnedPlanner(run.make_generator()).plan([problem], given.way)
    if attempt.fault:
        written = ", ".join(map(str, attempt.steps)) or "nothing that is a step"
        raise UserError(f"the model's plan leads to no goal: {attempt.fault} (it wrote: {written})")
    return Plan(attempt.steps, problem.cost(attempt.steps), False, time.perf_counter() - start)


def _known(problem: Problem, given: argparse.Namespace) -> int:
    whole = closure(problem)
    for fact in sorted(whole.facts, key=lambda one: (one in whole.reasons, one)):
        text = say(problem, Literal(fact), given.language)
        rule = whole.reasons[fact].rule if fact in whole.reasons else None
        if given.json:
            print(json.dumps({"fact": str(fact), "text": text, "rule": rule}, ensure_ascii=False))
        else:
            print(text if rule is None else f"{text}\t{LANGUAGES[given.language]['rule'].format(rule)}")
    return 0


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds over 0, got {text!r}")
    return value


def main() -> None:
    sys.exit(options.run(lambda: plan(None), "keras_lm-plan"))
