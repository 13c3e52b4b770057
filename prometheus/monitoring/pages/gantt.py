"""Runs by their jobs over time, as a picture: what they waited for, and what took long."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from markupsafe import Markup

from prometheus.core.states import MarketState
from prometheus.masking import safe_text
from prometheus.monitoring.pages.lanes import WIDTH, Band, Scale
from prometheus.monitoring.pages.svg import element
from prometheus.monitoring.pages.words import DEADLINE, MARKS, how_long
from prometheus.orchestration.lifecycle import JobStatus

_LEFT = 200
"""Of the names."""
_AXIS, _BAND, _ROW = 18, 14, 20
BAND_HEIGHTS: Mapping[str, int] = {
    MarketState.HOLIDAY: _BAND,
    MarketState.OVERNIGHT: 3,
    MarketState.PRE_OPEN: 6,
    MarketState.SESSION: _BAND,
    MarketState.POST_CLOSE: 10,
    "": 6,
}
"""Of each state, `""` is one that is not known: they differ without their colours. Those in
`HATCHED` are hatched besides."""
HATCHED = frozenset({MarketState.HOLIDAY, ""})
_SHORTEST = 3
_LONGEST_NAME = 28
_DAY = timedelta(days=1)
_GAP = timedelta(days=2)
"""Without anything done for so long, there is a picture before and one behind."""
_TOLD_FROM = timedelta(seconds=0.5)
_MOST_TICKS = 9
_TICKS = tuple(
    timedelta(seconds=seconds)
    for seconds in (
        *(1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200),
        *(days * 86400 for days in (1, 2, 7, 30, 90, 365)),
    )
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt of a job, by wall time."""

    number: int
    status: JobStatus
    waits_from: datetime
    """Its run's making, or the end of the attempt before."""
    scheduled_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    """``None``: it goes on."""


@dataclass(frozen=True, slots=True)
class Row:
    """A job with its attempts."""

    name: str
    link: str
    attempts: Sequence[Attempt]


def stretches_of(rows: Sequence[Row], now: datetime) -> list[list[Row]]:
    """
    Part the rows where nothing was done for longer than `_GAP`: a session that was run again years
    later would be drawn over all of them. Each part has the rows that have attempts in it.
    """
    times = {id(each): _times(each, now) for row in rows for each in row.attempts}
    begins: list[datetime] = []
    ended = now
    for begin, end in sorted((min(of), max(of)) for of in times.values()):
        if not begins or begin - ended > _GAP:
            begins.append(begin)
            ended = end
        ended = max(ended, end)
    parts: list[list[Row]] = [[] for _ in begins]
    for row in rows:
        of_part: dict[int, list[Attempt]] = {}
        for each in row.attempts:
            part = bisect_right(begins, min(times[id(each)])) - 1
            of_part.setdefault(part, []).append(each)
        for part, attempts in of_part.items():
            parts[part].append(replace(row, attempts=attempts))
    return parts or [[]]


def _times(attempt: Attempt, now: datetime) -> list[datetime]:
    """Return when something was done, or is to be."""
    known = (attempt.scheduled_at, attempt.started_at, attempt.ended_at)
    found = [at for at in known if at is not None]
    if attempt.ended_at is not None:
        return found
    # A first one is awaited since its run was made; another may come years after the one before.
    return [*found, now] if attempt.number > 1 else [attempt.waits_from, *found, now]


def span_of(rows: Iterable[Row], now: datetime) -> tuple[datetime, datetime]:
    """Return from when to when something was done, with some room; what goes on does so to now."""
    times = [at for row in rows for each in row.attempts for at in _times(each, now)]
    begin, end = min(times, default=now), max(times, default=now)
    room = max((end - begin) / 40, timedelta(seconds=1))
    return begin - room, end + room


def draw_gantt(
    rows: Sequence[Row],
    bands: Sequence[Band],
    now: datetime,
    zone: str = "UTC",
    *,
    deadline_at: datetime | None = None,
) -> Markup:
    """
    Draw jobs, a row each.

    Args:
        bands: States of the market meanwhile; empty where its time is not the wall's.
        now: Wall time.
        zone: Whose clocks are the exchange's.
        deadline_at: Of the run, in wall time; drawn if it is in the time that the jobs take up.
    """
    begin, end = span_of(rows, now)
    scale = Scale(begin, end, _LEFT)
    height = _AXIS + _BAND + 4 + _ROW * len(rows) + 4
    parts = [*_ticks(scale, height, zone), *(_draw_band(band, scale) for band in bands)]
    for number, row in enumerate(rows):
        parts.append(_draw_row(row, _AXIS + _BAND + 4 + _ROW * number, scale, now))
    x = scale.x(now)
    if begin <= now <= end:
        parts.append(element("line", class_="now", x1=x, x2=x, y1=_AXIS, y2=height))
    if deadline_at is not None and begin <= deadline_at <= end:
        parts.append(_draw_deadline(deadline_at, scale, height))
    return element(
        "svg",
        *parts,
        class_="gantt",
        viewBox=f"0 0 {WIDTH} {height}",
        role="group",
        aria_label="Jobs over time",
    )


def _ticks(scale: Scale, height: float, zone: str) -> Iterable[Markup]:
    length = scale.end - scale.begin
    step = next((each for each in _TICKS if length / each <= _MOST_TICKS), _TICKS[-1])
    form = "time" if step >= timedelta(minutes=1) else "clock"
    midnight = scale.begin.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    at = midnight + ((scale.begin - midnight) // step + 1) * step
    while at < scale.end:
        x = scale.x(at)
        # Of another day than the one before, the date too.
        shown = "day" if length > _DAY or (at - midnight) % _DAY < step else form
        yield element("line", class_="tick", x1=x, x2=x, y1=4, y2=height)
        if x < WIDTH - 72:
            yield element(
                "text",
                f"{at.astimezone(UTC):{_FORMATS[shown]}}",
                class_="hour",
                x=x + 3,
                y=12,
                data_at=at.isoformat(),
                data_zone=zone,
                data_form=shown,
            )
        at += step


_FORMATS = {"clock": "%H:%M:%S", "time": "%H:%M", "day": "%m-%d %H:%M"}
"""As the page writes them, too, in the times that are asked for."""


def _draw_band(band: Band, scale: Scale) -> Markup:
    left, right = scale.x(band.start), scale.x(band.end)
    kind = (band.state or "unknown").lower().replace("_", "-")
    reason = f" ({safe_text(band.reason)})" if band.reason else ""
    title = element("title", f"{band.state or 'not known'}{reason}")
    state = band.state or ""
    height = BAND_HEIGHTS[state]
    box = {"x": left, "y": _AXIS + _BAND - height, "width": max(right - left, 0), "height": height}
    parts = [title, element("rect", class_=f"band {kind}", **box)]
    if state in HATCHED:
        parts.append(element("rect", fill="url(#hatch)", **box))
    return element("g", *parts)


def _draw_row(row: Row, top: float, scale: Scale, now: datetime) -> Markup:
    name = row.name if len(row.name) <= _LONGEST_NAME else f"{row.name[: _LONGEST_NAME - 1]}…"
    told = "; ".join(tell_attempt(each, now) for each in row.attempts)
    parts: list[Markup] = [
        element("title", f"{row.name}: {told}"),
        element("text", name, class_="name", x=2, y=top + 14),
    ]
    middle = top + _ROW / 2
    for each in row.attempts:
        ended = each.ended_at or now
        until = each.scheduled_at or ended
        due = scale.x(until)
        waits = scale.x(min(each.waits_from, until))
        parts.append(element("line", class_="waits", x1=waits, x2=due, y1=middle, y2=middle))
        begun = scale.x(each.started_at or ended)
        if begun > due:
            parts.append(
                element("rect", class_="queues", x=due, y=middle - 2, width=begun - due, height=4)
            )
        if each.started_at is None:
            if each.ended_at is not None:
                parts.append(_mark(each.status, begun, top))
            continue
        width = max(scale.x(ended) - begun, _SHORTEST)
        kind = f"bar {'open' if each.ended_at is None else each.status.lower()}"
        box = {"x": begun, "y": top + 3, "width": width, "height": _ROW - 6, "rx": 2}
        parts.append(element("rect", class_=kind, **box))
        parts.append(_mark(each.status, begun + width + 2, top))
    return element("a", *parts, href=row.link, aria_label=f"{row.name}: {told}")


def _draw_deadline(at: datetime, scale: Scale, height: float) -> Markup:
    x = scale.x(at)
    title = element("title", f"deadline, {at:%Y-%m-%d %H:%M:%S} UTC")
    line = element("line", class_="deadline", x1=x, x2=x, y1=_AXIS, y2=height)
    flag = element("text", DEADLINE, class_="mark", x=min(x + 3, WIDTH - 12), y=height - 4)
    return element("g", title, line, flag)


def _mark(status: JobStatus, x: float, top: float) -> Markup:
    return element("text", MARKS[status], class_="mark", x=min(x, WIDTH - 12), y=top + 14)


def tell_attempt(attempt: Attempt, now: datetime) -> str:
    """Say in words what the picture shows of an attempt."""
    ended = attempt.ended_at or now
    due = attempt.scheduled_at or ended
    begun = attempt.started_at or ended
    if attempt.ended_at is None and due > now:
        return f"attempt {attempt.number} {attempt.status}, waits until {due:%H:%M:%S} UTC"
    spans = {
        "waited": due - attempt.waits_from,
        "in its queue": begun - due,
        "ran": ended - begun if attempt.started_at is not None else timedelta(0),
    }
    told = [f"{name} {how_long(each)}" for name, each in spans.items() if each >= _TOLD_FROM]
    return ", ".join([f"attempt {attempt.number} {attempt.status}", *told])
