"""A market over a day and a half, as a picture: what it is doing, and the runs of its sessions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from markupsafe import Markup

from prometheus.core.market_state import MarketState, describe_market, iter_states
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.masking import safe_text
from prometheus.monitoring.pages.svg import element
from prometheus.monitoring.pages.words import MARKS, clock_time
from prometheus.orchestration.lifecycle import RunStatus

WIDTH = 1080
"""Of a picture, in its own units; the browser fits it to the page."""
BACK, AHEAD = timedelta(hours=12), timedelta(hours=24)
"""How much of the time around now a lane shows."""
_TICK = timedelta(hours=3)
_AXIS, _BAND, _ROW = 18, 26, 22
"""Heights of the hours, of the states, and of each row of runs."""
_SHORTEST_BAR = 6
_LETTER = 6.6
"""About the width of a letter, to see whether a word fits."""

_NAMES = {
    MarketState.HOLIDAY: "holiday",
    MarketState.OVERNIGHT: "overnight",
    MarketState.PRE_OPEN: "pre",
    MarketState.SESSION: "session",
    MarketState.POST_CLOSE: "post",
    None: "not known",
}
_HEIGHTS = {
    MarketState.OVERNIGHT: 6,
    MarketState.PRE_OPEN: 16,
    MarketState.POST_CLOSE: 16,
}
"""Of states that are not drawn in full height, so that they differ without their colours."""


@dataclass(frozen=True, slots=True)
class Band:
    """A time in which a market's state is the same; half-open."""

    state: MarketState | None
    """``None`` where the calendar does not reach."""
    start: datetime
    end: datetime
    reason: str | None = None
    """In HOLIDAY, why."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A run, from when its first job started, or it opened, to its end or now; market time."""

    dag_id: str
    status: RunStatus
    start: datetime
    end: datetime
    progress: str
    """Such as ``"7 of 9 jobs succeeded"``."""
    link: str


@dataclass(frozen=True, slots=True)
class Lane:
    """What is drawn of a market."""

    market_id: str
    zone: str
    """Whose clocks are the exchange's."""
    bands: Sequence[Band]
    breaks: Sequence[tuple[datetime, datetime]]
    bars: Sequence[Bar]


def lay_bands(market_id: str, start: datetime, end: datetime) -> list[Band]:
    """
    List a market's states from one instant to another, days off by their names.

    Raises:
        HorizonError: The state at ``start`` is not known.
    """
    calendar = TradingCalendar(market_id)
    # The last date that is known ends where the first member's does.
    known_to = min(exchange.midnight(exchange.last + _DAY) for exchange in calendar.exchanges)
    until = min(end, known_to)
    changes = []
    for change in iter_states(calendar, start):
        if change.at >= until:
            break
        changes.append(change)
    ends = [*(change.at for change in changes[1:]), until]
    bands: list[Band] = []
    for change, ended in zip(changes, ends, strict=True):
        band = Band(change.state, change.at, ended)
        bands += _named(calendar, band) if change.state is MarketState.HOLIDAY else [band]
    if until < end:
        bands.append(Band(None, until, end))
    return bands


_DAY = timedelta(days=1)


def _named(calendar: TradingCalendar, band: Band) -> list[Band]:
    """Divide days off where their reason changes: a weekend, then Christmas Day."""
    midnights = {
        exchange.midnight(band.start.astimezone(exchange.zone).date() + days * _DAY)
        for exchange in calendar.exchanges
        for days in range((band.end - band.start).days + 2)
    }
    starts = [band.start, *sorted(at for at in midnights if band.start < at < band.end)]
    found: list[Band] = []
    for start, end in zip(starts, [*starts[1:], band.end], strict=True):
        reason = describe_market(calendar.market_id, start).reason
        if found and found[-1].reason == reason:
            found[-1] = replace(found[-1], end=end)
        else:
            found.append(Band(band.state, start, end, reason))
    return found


def draw_lane(lane: Lane, now: datetime) -> Markup:
    """Draw a market around an instant of market time."""
    scale = Scale(now - BACK, now + AHEAD)
    rows = stack([_place(bar, scale) for bar in lane.bars])
    height = _AXIS + _BAND + 4 + _ROW * len(rows) + 4
    x = scale.x(now)
    return element(
        "svg",
        *_hours(scale, lane.zone, height),
        *(_draw_band(band, scale) for band in lane.bands),
        *(_draw_break(start, end, scale) for start, end in lane.breaks),
        *(_draw_bar(placed, number) for number, row in enumerate(rows) for placed in row),
        element("line", class_="now", x1=x, x2=x, y1=0, y2=height),
        class_="lane",
        viewBox=f"0 0 {WIDTH} {height}",
        role="group",
        aria_label=f"{lane.market_id} from 12 hours ago to 24 hours from now",
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """A time across a picture."""

    begin: datetime
    end: datetime
    left: float = 0
    """Where it begins; it ends at `WIDTH`."""

    def x(self, at: datetime) -> float:
        """Return where an instant stands; one outside stands at the edge."""
        share = (at - self.begin) / (self.end - self.begin)
        return self.left + (WIDTH - self.left) * min(max(share, 0), 1)


def _hours(scale: Scale, zone: str, height: float) -> Iterable[Markup]:
    at = scale.begin.replace(hour=0, minute=0, second=0, microsecond=0)
    while at < scale.end:
        x = scale.x(at)
        if 0 < x < WIDTH - 30:
            yield element("line", class_="tick", x1=x, x2=x, y1=4, y2=height)
            yield element(
                "text",
                clock_time(at),
                class_="hour",
                x=x + 3,
                y=12,
                data_at=at.isoformat(),
                data_zone=zone,
                data_form="time",
            )
        at += _TICK


def _draw_band(band: Band, scale: Scale) -> Markup:
    left, right = scale.x(band.start), scale.x(band.end)
    why = safe_text(band.reason) if band.reason else None
    name = why or _NAMES[band.state]
    full = band.state.value if band.state else "not known"
    reason = f" ({why})" if why else ""
    title = f"{full}{reason}, {_from_to(band.start, band.end)}"
    kind = (band.state or "unknown").lower().replace("_", "-")
    height = _HEIGHTS.get(band.state, _BAND) if band.state else _BAND
    box = {
        "x": left,
        "y": _AXIS + _BAND - height,
        "width": max(right - left, 0),
        "height": height,
    }
    parts = [element("title", title), element("rect", class_=f"band {kind}", **box)]
    if band.state in (MarketState.HOLIDAY, None):
        parts.append(element("rect", fill="url(#hatch)", **box))
    letters = int((right - left - 8) / _LETTER)
    if letters >= min(len(name), 5):
        text = name if len(name) <= letters else f"{name[: letters - 1]}…"
        y = _AXIS + (14 if band.state is MarketState.OVERNIGHT else 19)
        parts.append(element("text", text, class_=f"name {kind}", x=left + 4, y=y))
    return element("g", *parts)


def _draw_break(start: datetime, end: datetime, scale: Scale) -> Markup:
    left, right = scale.x(start), scale.x(end)
    box = {"x": left, "y": _AXIS, "width": right - left, "height": _BAND / 2}
    title = element("title", f"break, {_from_to(start, end)}")
    return element("g", title, element("rect", class_="break", **box))


@dataclass(frozen=True, slots=True)
class Placed:
    """A bar, and where it and its words stand."""

    bar: Bar
    left: float
    right: float
    words: str
    words_left: float
    inside: bool
    """Whether the words stand in the bar."""

    @property
    def span(self) -> tuple[float, float]:
        """From where to where the row is taken."""
        width = _LETTER * len(self.words)
        return min(self.left, self.words_left), max(self.right, self.words_left + width)


def _place(bar: Bar, scale: Scale) -> Placed:
    """Find a place for a bar's words: in it, or else on the side of it that has room."""
    left = min(scale.x(bar.start), WIDTH - _SHORTEST_BAR)
    right = max(scale.x(bar.end), left + _SHORTEST_BAR)
    words = f"{MARKS[bar.status]} {bar.dag_id}"
    width = _LETTER * len(words) + 8
    inside = width <= right - left
    if inside or right + width <= WIDTH:
        return Placed(bar, left, right, words, (left if inside else right) + 4, inside)
    return Placed(bar, left, right, words, max(left - width + 4, 0), inside)


def stack(placed: Iterable[Placed]) -> list[list[Placed]]:
    """Put bars into rows, so that neither they nor their words stand on others."""
    rows: list[list[Placed]] = []
    for each in sorted(placed, key=lambda each: (each.span, each.bar.dag_id)):
        for row in rows:
            if row[-1].span[1] + 4 <= each.span[0]:
                row.append(each)
                break
        else:
            rows.append([each])
    return rows


def _draw_bar(placed: Placed, row: int) -> Markup:
    bar = placed.bar
    top = _AXIS + _BAND + 4 + _ROW * row
    told = f"{bar.dag_id}: {bar.status}, {bar.progress}, {_from_to(bar.start, bar.end)}"
    kind = bar.status.lower()
    return element(
        "a",
        element("title", told),
        element(
            "rect",
            class_=f"bar {kind}",
            x=placed.left,
            y=top,
            width=placed.right - placed.left,
            height=_ROW - 4,
            rx=3,
        ),
        element(
            "text",
            placed.words,
            class_=f"run {kind if placed.inside else 'beside'}",
            x=placed.words_left,
            y=top + 13,
        ),
        href=bar.link,
        aria_label=told,
    )


def _from_to(start: datetime, end: datetime) -> str:
    return f"{clock_time(start)} to {clock_time(end)} UTC"
