"""A run's jobs as a picture of who waits for whom, from left to right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from prometheus.monitoring.pages.svg import element
from prometheus.monitoring.pages.words import DEADLINE, MARKS
from prometheus.orchestration.lifecycle import JobStatus

_HEIGHT, _BETWEEN_ROWS, _BETWEEN_LAYERS, _MARGIN = 30, 12, 46, 6
_LETTER = 7.9
_LONGEST = 28
"""Letters of a name that are shown; its title has the rest."""
_SWEEPS = 4
"""How often the order in the layers is mended; more changes little."""


@dataclass(frozen=True, slots=True)
class Node:
    """A job as it is drawn."""

    job_id: str
    status: JobStatus
    told: str
    """All that there is to say of it in a line."""
    link: str
    upstream: Sequence[str]
    is_late: bool = False
    """Whether it missed its deadline."""


def lay_layers(upstream: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """
    Put jobs into layers, each behind all that it waits for, in an order with few crossings.

    Args:
        upstream: Job -> the jobs that it waits for; upstream before downstream.
    """
    layer_of: dict[str, int] = {}
    downstream: dict[str, list[str]] = {job_id: [] for job_id in upstream}
    for job_id, others in upstream.items():
        layer_of[job_id] = 1 + max((layer_of[other] for other in others), default=-1)
        for other in others:
            downstream[other].append(job_id)
    layers: list[list[str]] = [[] for _ in range(1 + max(layer_of.values(), default=-1))]
    for job_id, number in layer_of.items():
        layers[number].append(job_id)
    for sweep in range(_SWEEPS):
        onward = sweep % 2 == 0
        place = {job_id: at for layer in layers for at, job_id in enumerate(layer)}
        for layer in layers if onward else reversed(layers):
            neighbours = upstream if onward else downstream
            middles = {job_id: _middle(job_id, neighbours[job_id], place) for job_id in layer}
            layer.sort(key=middles.__getitem__)
            place.update({job_id: at for at, job_id in enumerate(layer)})
    return layers


def _middle(job_id: str, neighbours: Sequence[str], place: Mapping[str, int]) -> float:
    """Return where a job's neighbours are; one without any stays where it is."""
    if not neighbours:
        return place[job_id]
    return sum(place[each] for each in neighbours) / len(neighbours)


def draw_graph(nodes: Sequence[Node], chosen: str | None = None) -> Markup:
    """
    Draw the jobs of a run.

    Args:
        nodes: Upstream before downstream.
        chosen: The job that the page is about.
    """
    layers = lay_layers({node.job_id: node.upstream for node in nodes})
    letters = min(max((len(node.job_id) for node in nodes), default=0), _LONGEST) + 2
    letters += 2 * any(node.is_late for node in nodes)
    width = _LETTER * letters + 12
    tallest = max(map(len, layers), default=0)
    step = _HEIGHT + _BETWEEN_ROWS
    height = tallest * step - _BETWEEN_ROWS + 2 * _MARGIN
    corner = {
        job_id: (
            _MARGIN + number * (width + _BETWEEN_LAYERS),
            _MARGIN + (tallest - len(layer)) * step / 2 + row * step,
        )
        for number, layer in enumerate(layers)
        for row, job_id in enumerate(layer)
    }
    whole = len(layers) * (width + _BETWEEN_LAYERS) - _BETWEEN_LAYERS + 2 * _MARGIN
    return element(
        "svg",
        *(
            _draw_edge(corner[other], corner[node.job_id], width)
            for node in nodes
            for other in node.upstream
        ),
        *(_draw_node(node, corner[node.job_id], width, node.job_id == chosen) for node in nodes),
        class_="graph",
        width=whole,
        height=height,
        viewBox=f"0 0 {whole:.0f} {height:.0f}",
        role="group",
        aria_label=f"{len(nodes)} jobs",
    )


def _draw_edge(
    upstream: tuple[float, float], downstream: tuple[float, float], width: float
) -> Markup:
    x, y = upstream[0] + width, upstream[1] + _HEIGHT / 2
    to_x, to_y = downstream[0], downstream[1] + _HEIGHT / 2
    bend = _BETWEEN_LAYERS / 2
    curve = f"{x + bend:.0f} {y:.0f} {to_x - bend:.0f} {to_y:.0f} {to_x:.0f} {to_y:.0f}"
    return element("path", class_="edge", d=f"M{x:.0f} {y:.0f}C{curve}")


def _draw_node(node: Node, corner: tuple[float, float], width: float, chosen: bool) -> Markup:
    x, y = corner
    name = node.job_id
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 1]}…"
    kind = node.status.lower()
    box = element("rect", class_="box", x=x, y=y, width=width, height=_HEIGHT, rx=5)
    late = f" {DEADLINE}" if node.is_late else ""
    words = element("text", f"{MARKS[node.status]} {name}{late}", x=x + 8, y=y + 19.5)
    return element(
        "a",
        element("title", node.told),
        box,
        words,
        class_=f"node {kind}{' chosen' if chosen else ''}",
        href=node.link,
        aria_label=node.told,
    )
