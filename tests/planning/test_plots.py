"""Pictures of plans: that they show what they are given."""

import pytest

from keras_lm.planning import Step, read_problem
from keras_lm.planning.plots import plan_graph, state_graph
from keras_lm.planning.space import Space


def test_a_state_shows_every_object_and_what_is_said_of_it():
    texts = {text.get_text() for text in state_graph(read_problem("blocks").facts).axes[0].texts}
    assert {"a\n(on-table)", "c\n(clear)", "on"} <= texts


def test_a_plan_goes_from_the_beginning_to_the_goal():
    problem = read_problem("blocks")
    space = Space(problem)
    axis = plan_graph(space, {"cheapest": space.plan(problem.goal)}, problem.goal).axes[0]
    (line,) = axis.lines
    ends = {collection.get_label(): collection.get_offsets()[0].tolist() for collection in axis.collections}
    way = line.get_xydata().tolist()
    assert len(way) == 7 and way[0] == ends["beginning"] and way[-1] == ends["goal"]


def test_a_step_that_cannot_be_made_is_named():
    with pytest.raises(ValueError, match=r"pick-up\(a\) cannot be made after 0 steps"):
        plan_graph(Space(read_problem("blocks")), {"wrong": [Step("pick-up", ("a",))]})
