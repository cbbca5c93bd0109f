"""Pictures of planning: what is so as a graph, and a plan as a way through all states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_lm.planning.domain import Atom, Literal, Problem, Step
from keras_lm.planning.space import Space
from keras_lm.planning.words import LANGUAGES, say_step


def state_graph(facts: Iterable[Atom], axis: Axes | None = None, *, title: str = "") -> Figure:
    """Objects as nodes, with what is said of each alone beneath its name, and an arrow for what is said of two.

    Args:
        facts: What is so; those of more than two objects are left out.
        axis: Where to draw; default a figure of its own.
        title: Above it.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> figure = state_graph(read_problem("blocks").facts)
    >>> len(figure.axes)
    1
    """
    import networkx

    figure, axis = _canvas(axis)
    graph = networkx.MultiDiGraph()
    alone: dict[str, list[str]] = {}
    for fact in sorted(facts):
        for name in fact.arguments:
            graph.add_node(name)
        if len(fact.arguments) == 1:
            alone.setdefault(fact.arguments[0], []).append(fact.predicate)
        elif len(fact.arguments) == 2:
            graph.add_edge(*fact.arguments, label=fact.predicate)
    places = _in_layers(graph)
    labels = {name: "\n".join([name, *(f"({said})" for said in alone.get(name, ()))]) for name in graph}
    networkx.draw_networkx(graph, places, ax=axis, labels=labels, node_color="#cfe2f3", node_size=2600, font_size=8)
    between: dict[tuple[str, str], str] = {}
    for source, target, label in graph.edges(data="label"):
        between[source, target] = f"{between[source, target]}, {label}" if (source, target) in between else label
    networkx.draw_networkx_edge_labels(graph, places, between, ax=axis, font_size=7, rotate=False)
    axis.set_title(title)
    axis.margins(0.2)
    axis.axis("off")
    return figure


def _in_layers(graph) -> dict[str, tuple[float, float]]:
    """What belongs together side by side, arrows pointing down; where they go round in circles, as springs would have it."""
    import networkx

    if not networkx.is_directed_acyclic_graph(graph):
        return networkx.kamada_kawai_layout(graph)
    places: dict[str, tuple[float, float]] = {}
    left = 0.0
    for part in sorted(networkx.weakly_connected_components(graph), key=min):
        layers = list(networkx.topological_generations(graph.subgraph(part).reverse()))
        width = max(map(len, layers))
        for height, layer in enumerate(layers):
            for number, name in enumerate(sorted(layer)):
                places[name] = left + (number + 0.5) * width / len(layer), float(height)
        left += width
    return places


def plan_graph(space: Space, plans: dict[str, Sequence[Step]], goal: Sequence[Literal] = (), axis: Axes | None = None) -> Figure:
    """All states of a problem, joined by the steps between them, and plans as ways through them.

    Args:
        space: Of the problem, whose beginning is where the plans begin.
        plans: Each by what the legend calls it.
        goal: States in which it holds are marked.
        axis: Where to draw; default a figure of its own.

    Raises:
        ValueError: a plan with a step that cannot be made.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> blocks = read_problem("blocks")
    >>> space = Space(blocks)
    >>> figure = plan_graph(space, {"cheapest": space.plan(blocks.goal)}, blocks.goal)
    """
    import networkx

    figure, axis = _canvas(axis)
    graph = networkx.Graph((state, target) for state, edges in enumerate(space.edges) for _, target in edges)
    places = networkx.kamada_kawai_layout(graph) if len(graph) <= 400 else networkx.spring_layout(graph, seed=0)
    networkx.draw_networkx_edges(graph, places, ax=axis, edge_color="#cccccc", width=0.7)
    reached = set(space.satisfying(goal)) if goal else set()
    colors = ["#2a7f3f" if state in reached else "#999999" for state in graph]
    networkx.draw_networkx_nodes(graph, places, ax=axis, node_size=[45 if state in reached else 10 for state in graph], node_color=colors)
    axis.scatter(*places[0], marker="s", s=60, color="black", label="beginning", zorder=3)
    if reached:
        axis.scatter(*places[next(iter(reached))], s=45, color="#2a7f3f", label="goal", zorder=3)
    for number, (name, steps) in enumerate(plans.items()):
        way = _way(space, steps)
        shift = 0.006 * number  # beside each other where plans go the same way
        x, y = ([places[state][axis_number] + shift for state in way] for axis_number in (0, 1))
        axis.plot(x, y, color=f"C{number}", linewidth=2, label=f"{name}: {len(steps)} steps", zorder=2)
    axis.legend(fontsize=8)
    axis.axis("off")
    return figure


def _way(space: Space, steps: Sequence[Step]) -> list[int]:
    """The states that a plan goes through."""
    way = [0]
    for step in steps:
        target = next((target for number, target in space.edges[way[-1]] if space.steps[number] == step), None)
        if target is None:
            raise ValueError(f"{step} cannot be made after {len(way) - 1} steps")
        way.append(target)
    return way


def plan_strip(problem: Problem, steps: Sequence[Step], language: str = "en") -> Figure:
    """What is so before each step of a plan and after the last, side by side.

    Args:
        problem: Where the plan begins.
        steps: A few.
        language: Of the titles, `en` (default) or `zh`.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> figure = plan_strip(read_problem("blocks"), [Step("unstack", ("c", "a"))])
    >>> [axis.get_title() for axis in figure.axes]
    ['beginning', 'take c off a']
    """
    facts = problem.facts
    figure = Figure(figsize=(3.2 * (len(steps) + 1), 2.8), layout="constrained")
    axes = figure.subplots(1, len(steps) + 1, squeeze=False)[0]
    moving = {effect.atom.predicate for action in problem.domain.actions.values() for effect in action.effects}
    for number, axis in enumerate(axes):
        title = say_step(problem, steps[number - 1], language) if number else LANGUAGES[language]["beginning"]
        state_graph([fact for fact in facts if fact.predicate in moving], axis, title=title)
        if number < len(steps):
            facts = problem.after(facts, steps[number])
    low, high = (choose(axis.get_ylim()[place] for axis in axes) for place, choose in enumerate((min, max)))
    for axis in axes:
        axis.set_ylim(low, high)
    return figure


def _canvas(axis: Axes | None) -> tuple[Figure, Axes]:
    if axis is not None:
        return axis.figure, axis
    figure = Figure(figsize=(6, 5), layout="constrained")
    return figure, figure.subplots()
