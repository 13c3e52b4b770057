"""``prometheus calendar diff``: where two markets or exchanges do not trade alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prometheus.cli.options import AsJson, read_date

if TYPE_CHECKING:
    from prometheus.core.sessions import Session
    from prometheus.core.trading_calendar import TradingCalendar

_ONE_DAY = timedelta(days=1)

Name = Annotated[
    str, typer.Argument(metavar="MARKET", help="A market or exchange.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class Hours:
    """When a session trades: in UTC, and on the clocks of its exchanges."""

    utc: str
    """``"14:30-21:00"``; ``"-1d"`` and ``"+1d"`` mark the days around the session's date."""
    local: tuple[str, ...]
    """One for each zone: ``"09:30-16:00 New York"``."""


@dataclass(frozen=True, slots=True)
class Span:
    """Sessions in a row, common to both, with the same hours; special ones between are left out."""

    first: date
    last: date
    sessions: int
    hours: tuple[Hours, Hours]


@dataclass(frozen=True, slots=True)
class Special:
    """A session that is common to both, of special hours at one of them at least."""

    date: date
    hours: tuple[Hours, Hours]
    reasons: tuple[str | None, str | None]


@dataclass(slots=True)
class Comparison:
    """All that differs between two calendars from one date to another."""

    first: date
    last: date
    sessions: tuple[int, int] = (0, 0)
    common: int = 0
    only: tuple[dict[date, str], dict[date, str]] = field(default_factory=lambda: ({}, {}))
    """Of each: the dates on which the other has no session, and why it has none."""
    spans: list[Span] = field(default_factory=list)
    """Of ordinary hours, those that differ; by date."""
    special: list[Special] = field(default_factory=list)
    """Those whose hours differ; by date."""


def diff(
    left: Name,
    right: Name,
    year: Annotated[
        int | None,
        typer.Argument(metavar="[YEAR]", min=1900, max=9998, help="This year by default."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="DATE", help="Instead of a year: the first date."),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="DATE", help="And the last one, included.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Show where two markets or exchanges differ: sessions that only one has, and their hours.

    Hours differ where the two do not trade at the same instants, whatever their clocks show.
    """
    from prometheus.cli.recorded import follow_overrides
    from prometheus.core.trading_calendar import TradingCalendar
    from prometheus.errors import HorizonError

    if (start is None) is not (end is None):
        raise typer.BadParameter("--from and --to belong together")
    if start is not None and end is not None:
        if year is not None:
            raise typer.BadParameter("give a YEAR, or --from and --to")
        first, last = read_date(start), read_date(end)
        if last < first:
            raise typer.BadParameter(f"--to {last} is before --from {first}")
    else:
        year = year or datetime.now(UTC).year
        first, last = date(year, 1, 1), date(year, 12, 31)
    follow_overrides()
    calendars = TradingCalendar(left), TradingCalendar(right)
    for calendar in calendars:
        if last < calendar.first or first > calendar.horizon:
            asked = first if first > calendar.horizon else last
            raise HorizonError(calendar.market_id, asked, calendar.first, calendar.horizon)
    found = compare(*calendars, first, last)
    if as_json:
        _print_document(calendars, found)
    else:
        _print(calendars, found)


def compare(left: TradingCalendar, right: TradingCalendar, first: date, last: date) -> Comparison:
    """Compare two calendars from one date to another, as far as both are known."""
    from prometheus.cli.recorded import with_overrides
    from prometheus.core.exchanges import WEEKEND

    found = Comparison(max(first, left.first, right.first), min(last, left.horizon, right.horizon))
    counts = [0, 0]
    ordinary: list[Span] = []
    day = found.first
    while day <= found.last:
        trades = left.is_trading_day(day), right.is_trading_day(day)
        counts = [number + traded for number, traded in zip(counts, trades, strict=True)]
        if trades == (True, False):
            found.only[0][day] = with_overrides(right.reason(day) or WEEKEND, right, day)
        elif trades == (False, True):
            found.only[1][day] = with_overrides(left.reason(day) or WEEKEND, left, day)
        elif trades == (True, True):
            found.common += 1
            sessions = left.session(day), right.session(day)
            hours = _hours(left, sessions[0]), _hours(right, sessions[1])
            if any(each.early_close or each.late_open for each in sessions):
                if hours[0].utc != hours[1].utc:
                    reasons = _reason(left, sessions[0]), _reason(right, sessions[1])
                    found.special.append(Special(day, hours, reasons))
            elif ordinary and ordinary[-1].hours == hours:
                before = ordinary[-1]
                ordinary[-1] = Span(before.first, day, before.sessions + 1, hours)
            else:
                ordinary.append(Span(day, day, 1, hours))
        day += _ONE_DAY
    found.sessions = counts[0], counts[1]
    found.spans = [span for span in ordinary if span.hours[0].utc != span.hours[1].utc]
    return found


def _reason(calendar: TradingCalendar, session: Session) -> str | None:
    from prometheus.cli.recorded import with_overrides

    return session.reason and with_overrides(session.reason, calendar, session.date)


def _hours(calendar: TradingCalendar, session: Session) -> Hours:
    from prometheus.cli.sessions import clocks

    pauses = "".join(f", break {_span(*pause, session.date)}" for pause in session.breaks)
    return Hours(
        _span(session.open, session.close, session.date) + pauses,
        tuple(
            _span(session.open.astimezone(zone), session.close.astimezone(zone), session.date)
            + f" {city}"
            for zone, city in clocks(calendar.exchanges).items()
        ),
    )


def _span(start: datetime, end: datetime, of: date) -> str:
    return f"{_clock(start, of)}-{_clock(end, of)}"


def _clock(at: datetime, of: date) -> str:
    days = (at.date() - of).days
    return f"{at:%H:%M}" + (f"{days:+}d" if days else "")


def _print_document(calendars: tuple[TradingCalendar, TradingCalendar], found: Comparison) -> None:
    from prometheus.cli import output

    names = [calendar.market_id for calendar in calendars]
    keys = ("left", "right")

    def sides(hours: tuple[Hours, Hours]) -> dict[str, Any]:
        return {
            key: {"utc": each.utc, "local": list(each.local)}
            for key, each in zip(keys, hours, strict=True)
        }

    output.print_json(
        {
            **dict(zip(keys, names, strict=True)),
            "first": found.first,
            "last": found.last,
            "sessions": dict(zip(keys, found.sessions, strict=True)) | {"both": found.common},
            "only": {
                key: [{"date": day, "why_not": why} for day, why in days.items()]
                for key, days in zip(keys, found.only, strict=True)
            },
            "hours": [
                {"first": span.first, "last": span.last, "sessions": span.sessions}
                | sides(span.hours)
                for span in found.spans
            ],
            "special_hours": [
                {"date": each.date, "reasons": dict(zip(keys, each.reasons, strict=True))}
                | sides(each.hours)
                for each in found.special
            ],
        }
    )


def _print(calendars: tuple[TradingCalendar, TradingCalendar], found: Comparison) -> None:
    from prometheus.cli import output

    console = output.console()
    names = calendars[0].market_id, calendars[1].market_id
    console.print(f"{names[0]} and {names[1]}, {found.first} to {found.last}", style="bold")
    counts = ", ".join(
        f"{name} {output.count(number, 'session')}"
        for name, number in zip(names, found.sessions, strict=True)
    )
    console.print(f"  {counts}, {found.common} on the same dates")
    for name, other, days in zip(names, reversed(names), found.only, strict=True):
        if days:
            console.print()
            console.print(f"Only {name} trades", style="bold")
            table = output.table("", "")
            table.show_header = False
            for day, why in days.items():
                table.add_row(f"{day:%a} {day}", f"{other} closed: {why}")
            console.print(table)
    if found.spans:
        console.print()
        console.print("Ordinary hours that differ", style="bold")
        table = output.table("From", "To", "Sessions", *names, right=("Sessions",))
        for span in found.spans:
            table.add_row(
                str(span.first), str(span.last), str(span.sessions), *map(_words, span.hours)
            )
        console.print(table)
    if found.special:
        console.print()
        console.print("Special hours that differ", style="bold")
        table = output.table("Date", *names, "Why")
        for each in found.special:
            reasons = dict.fromkeys(filter(None, each.reasons))
            table.add_row(
                f"{each.date:%a} {each.date}", *map(_words, each.hours), "; ".join(reasons)
            )
        console.print(table)
    if not (any(found.only) or found.spans or found.special):
        console.print("  They trade at the same instants.")


def _words(hours: Hours) -> str:
    return "\n".join((f"{hours.utc} UTC", *hours.local))
