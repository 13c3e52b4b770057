"""Jobs as a picture of who waits for whom."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from prometheus.monitoring.pages.graphs import Node, draw_graph, lay_layers
from prometheus.orchestration.lifecycle import JobStatus


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Jobs that wait for some of those before them."""
    upstream: dict[str, list[str]] = {}
    for number in range(draw(st.integers(0, 25))):
        known = list(upstream)
        others = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
        upstream[f"job_{number}"] = others
    return upstream


def node(job_id: str, *upstream: str, status: JobStatus = JobStatus.PENDING) -> Node:
    return Node(job_id, status, f"{job_id}: {status}", f"?job={job_id}", upstream)


def boxes(picture: ET.Element) -> dict[str, tuple[float, float, float, float]]:
    """Link -> where its job stands."""
    found = {}
    for link in picture.iter("a"):
        box = link.find("rect")
        assert box is not None
        x, y, width, height = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        found[link.attrib["href"].removeprefix("?job=")] = (x, y, x + width, y + height)
    return found


@given(graphs())
def test_every_job_stands_once_and_behind_what_it_waits_for(upstream: dict[str, list[str]]) -> None:
    layers = lay_layers(upstream)
    layer_of = {job_id: number for number, layer in enumerate(layers) for job_id in layer}
    assert sorted(job_id for layer in layers for job_id in layer) == sorted(upstream)
    for job_id, others in upstream.items():
        assert layer_of[job_id] == max((layer_of[each] + 1 for each in others), default=0)


@given(graphs())
def test_no_job_stands_on_another_or_outside(upstream: dict[str, list[str]]) -> None:
    picture = ET.fromstring(draw_graph([node(job, *others) for job, others in upstream.items()]))
    found = list(boxes(picture).values())
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    for at, (left, top, right, bottom) in enumerate(found):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        for other in found[at + 1 :]:
            assert right < other[0] or other[2] < left or bottom < other[1] or other[3] < top


def test_lines_that_need_not_cross_do_not() -> None:
    layers = lay_layers({"a": [], "b": [], "c": [], "x": ["c"], "y": ["b"], "z": ["a"]})
    assert layers == [["a", "b", "c"], ["z", "y", "x"]]


def test_states_have_a_sign_and_a_class() -> None:
    for status in JobStatus:
        (link,) = ET.fromstring(draw_graph([node("a", status=status)])).iter("a")
        assert link.attrib["class"] == f"node {status.lower()}"
        assert link.attrib["aria-label"] == f"a: {status}"
    signs = {
        "".join(ET.fromstring(draw_graph([node("a", status=each)])).itertext())[-3:]
        for each in JobStatus
    }
    assert len(signs) == len(JobStatus)


def test_names_stay_names_however_long() -> None:
    name = "</text><script>alert(1)</script>" * 9
    picture = ET.fromstring(draw_graph([node(name)]))
    assert not list(picture.iter("script"))
    (title,) = picture.iter("title")
    assert title.text == f"{name}: PENDING"
    (text,) = picture.iter("text")
    assert len(text.text or "") <= 30
    ((left, _, right, _),) = boxes(picture).values()
    assert right - left < 250
