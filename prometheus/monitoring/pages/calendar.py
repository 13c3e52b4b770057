"""The page of a market's year: every date by what it is, and the special ones by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from prometheus.core.days import Day, DayKind, date_there, describe_day
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.masking import safe_text
from prometheus.monitoring.api.models import Name
from prometheus.monitoring.installation import Here
from prometheus.monitoring.pages import actions
from prometheus.monitoring.pages.pulse import STANDING, Version
from prometheus.monitoring.pages.rendering import show
from prometheus.monitoring.pages.standing import standing_of
from prometheus.monitoring.pages.svg import element
from prometheus.persistence.changes import HOLIDAYS
from prometheus.persistence.holidays import differing_holidays

router = APIRouter(include_in_schema=False)

_FIRST_YEAR, _LAST_YEAR = 1900, 9998
_CELL, _LEFT, _TOP = 17, 34, 18
_INSET = 2
"""Of what is drawn in a cell, from its sides."""
KINDS: Mapping[DayKind, str] = {
    DayKind.SESSION: "session",
    DayKind.SPECIAL: "special hours",
    DayKind.PARTIAL: "some exchanges closed",
    DayKind.HOLIDAY: "closed",
    DayKind.WEEKEND: "weekend",
    DayKind.UNKNOWN: "not known",
}
"""What a date is, in words."""
_NOTEWORTHY = frozenset({DayKind.SPECIAL, DayKind.PARTIAL, DayKind.HOLIDAY})


@router.get("/calendar")
def calendar_page(
    request: Request,
    here: Here,
    version: Version,
    market: Name | None = None,
    year: Annotated[int | None, Query(ge=_FIRST_YEAR, le=_LAST_YEAR)] = None,
) -> HTMLResponse:
    """Show a year of a market, by default the one that it is there."""
    with here.look() as look:
        standing = standing_of(look, here)
        listed = list(here.markets(look.now))
        market = market or next(iter(listed), "US_EQ")
        found = TradingCalendar(market)
        today = date_there(found, look.now.market_at)
        year = year or today.year
        first, last = date(year, 1, 1), date(year, 12, 31)
        waiting = differing_holidays(look.connection, found.members, first, last)
    days = [
        describe_day(found, first + timedelta(days=offset))
        for offset in range((last - first).days + 1)
    ]
    values = {
        "version": version,
        "shows": [STANDING, HOLIDAYS],
        "standing": standing,
        "calendar": found,
        "add": actions.of_calendar(found),
        "withdraw": actions.of_override,
        "waiting": waiting,
        "decide": actions.of_proposal,
        "year": year,
        "markets": [(name, _link(name, year), name == found.market_id) for name in listed],
        "years": [
            (words, _link(found.market_id, each))
            for each, words in ((year - 1, f"← {year - 1}"), (year + 1, f"{year + 1} →"))
            if _FIRST_YEAR <= each <= _LAST_YEAR
        ],
        "picture": draw_year(days, today),
        "sessions": sum(day.session is not None for day in days),
        "days": [
            (day, KINDS[day.kind], found.overrides_on(day.date))
            for day in days
            if day.overrides or day.kind in _NOTEWORTHY
        ],
        "zone": found.zone.key,
        "kinds": KINDS,
    }
    return show(request, "calendar.html", values)


def _link(market_id: str, year: int) -> str:
    return "?" + urlencode({"market": market_id, "year": year})


def draw_year(days: Sequence[Day], today: date) -> Markup:
    """Draw a year, a column a week, Monday on top."""
    first = days[0].date
    offset = first.weekday()
    weeks = (offset + len(days) + 6) // 7
    parts = []
    for number, name in enumerate(("Mon", "Wed", "Fri")):
        parts.append(_text(name, 0, _TOP + 2 * number * _CELL + _CELL - 5))
    for month in range(1, 13):
        week = (offset + (date(first.year, month, 1) - first).days) // 7
        parts.append(_text(f"{date(first.year, month, 1):%b}", _LEFT + week * _CELL, _TOP - 5))
    for number, day in enumerate(days, start=offset):
        parts.append(_draw_day(day, number // 7, number % 7, is_today=day.date == today))
    return element(
        "svg",
        *parts,
        class_="year",
        role="img",
        aria_label=f"The dates of {first.year}",
        viewBox=f"0 0 {_LEFT + weeks * _CELL} {_TOP + 7 * _CELL}",
    )


def _text(text: str, x: float, y: float) -> Markup:
    return element("text", text, x=x, y=y)


def _draw_day(day: Day, week: int, weekday: int, *, is_today: bool) -> Markup:
    x, y = _LEFT + week * _CELL, _TOP + weekday * _CELL
    side = _CELL - _INSET
    told = f"{day.date:%a} {day.date}: {KINDS[day.kind]}"
    told += f" ({safe_text(day.reason)})" if day.reason and day.kind is not DayKind.WEEKEND else ""
    told += ", by an override" if day.overrides else ""
    classes = (
        f"day {day.kind}{' overridden' if day.overrides else ''}{' today' if is_today else ''}"
    )
    parts = [element("rect", class_=classes, x=x, y=y, width=side, height=side, rx=2)]
    if day.kind is DayKind.HOLIDAY:
        parts.append(element("rect", fill="url(#hatch)", x=x, y=y, width=side, height=side))
    elif day.kind is DayKind.WEEKEND:
        middle = y + side / 2
        parts.append(
            element("line", class_="rest", x1=x + 4, x2=x + side - 4, y1=middle, y2=middle)
        )
    elif day.kind is DayKind.UNKNOWN:
        parts.append(element("circle", class_="rest", cx=x + side / 2, cy=y + side / 2, r=2))
    elif day.kind in _NOTEWORTHY:  # half, and not the same, so that they differ without colours
        corner = f"{x + side},{y + side}" if day.kind is DayKind.SPECIAL else f"{x},{y}"
        points = f"{x},{y + side} {corner} {x + side},{y}"
        parts.append(element("polygon", class_=f"half {day.kind}", points=points))
    if day.overrides:
        parts.append(element("circle", class_="override", cx=x + side / 2, cy=y + side / 2, r=3))
    return element("g", element("title", told), *parts, data_date=str(day.date))
