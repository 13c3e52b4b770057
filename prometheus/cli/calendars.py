"""``prometheus calendar``: the sessions of markets and exchanges, and how far they are known."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prometheus.cli import comparing, overrides, syncing
from prometheus.cli.options import AsJson, Market, read_instant
from prometheus.core.days import Day, DayKind, date_there, describe_day

if TYPE_CHECKING:
    from rich.text import Text

    from prometheus.core.trading_calendar import TradingCalendar

application = typer.Typer(no_args_is_help=True, help="Look at sessions, holidays and horizons.")
application.add_typer(overrides.application, name="override")

Markets = Annotated[
    list[str] | None,
    typer.Argument(metavar="MARKET", help="Markets or exchanges (MICs); all markets by default."),
]

_ONE_DAY = timedelta(days=1)
_MOST_MONTHS_A_ROW = 3
_MONTH_WIDTH = 30
"""Columns of a month and of the gap after it."""


_OVERRIDDEN = "!"
_MARKS = {DayKind.SPECIAL: "*", DayKind.PARTIAL: "~", DayKind.HOLIDAY: "x", DayKind.UNKNOWN: "?"}
"""What follows a date in the table of a year: colours alone would say nothing in a file."""

_STYLES = {
    DayKind.SESSION: "",
    DayKind.SPECIAL: "bold yellow",
    DayKind.PARTIAL: "cyan",
    DayKind.HOLIDAY: "bold magenta",
    DayKind.WEEKEND: "dim",
    DayKind.UNKNOWN: "dim",
}


@application.callback()
def _group() -> None:
    """Look at sessions, holidays and horizons."""
    from prometheus.cli.recorded import know_markets

    know_markets()


@application.command("show")
def show(
    market: Market,
    year: Annotated[
        int | None,
        typer.Argument(
            metavar="YEAR",
            min=1900,
            max=9998,
            help="By default the one that it is where the market is.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a year of a market: its closed days, early closes and special sessions, named."""
    from prometheus.cli import output, recorded
    from prometheus.core.trading_calendar import TradingCalendar
    from prometheus.errors import HorizonError

    recorded.follow_overrides()
    calendar = TradingCalendar(market)
    year = year or date_there(calendar, datetime.now(UTC)).year
    first, last = date(year, 1, 1), date(year, 12, 31)
    if last < calendar.first or first > calendar.horizon:
        raise HorizonError(
            market, first if first > calendar.horizon else last, calendar.first, calendar.horizon
        )
    days = [
        describe_day(calendar, first + offset * _ONE_DAY)
        for offset in range((last - first).days + 1)
    ]
    if as_json:
        output.print_json(
            {
                "market": calendar.market_id,
                "year": year,
                "known": {"first": calendar.first, "last": calendar.horizon},
                "source": calendar.horizon_source,
                "days": [_document(day) for day in days],
            }
        )
    else:
        _print_year(calendar, year, days)


@application.command("next")
def following(
    names: Markets = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            parser=read_instant,
            metavar="INSTANT",
            help="After an instant such as 2012-11-23T17:30Z; now by default.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Show what comes next: the next session to open, closed day and session of special hours.

    Ends with 1 if a market's calendar has no answer for that time, or ends before the next session.
    """
    from prometheus.cli import output, recorded
    from prometheus.cli.markets import why_not
    from prometheus.core.markets import markets
    from prometheus.core.trading_calendar import TradingCalendar
    from prometheus.errors import HorizonError, UnknownMarketError, UnreadableError

    recorded.follow_overrides()
    instant = at or datetime.now(UTC)
    answers: dict[str, dict[str, Day | None] | HorizonError | UnreadableError] = {}
    calendars = {}
    for name in names or [market.market_id for market in markets()]:
        try:
            calendars[name] = TradingCalendar(name)
            answers[name] = find_next(calendars[name], instant)
        except UnknownMarketError:
            raise
        except (HorizonError, UnreadableError) as error:  # one market's, not another's
            answers[name] = error
    if as_json:
        output.print_json(
            [
                {"market": name, "at": instant}
                | (
                    {key: day and _document(day) for key, day in answer.items()}
                    if isinstance(answer, dict)
                    else {"error": str(answer)}
                )
                for name, answer in answers.items()
            ]
        )
    else:
        console = output.console()
        console.print(f"after {instant:%A %Y-%m-%d %H:%M:%S} UTC", style="bold")
        console.print()
        table = output.table("Market", "Next session", "Next closed day", "Next special hours")
        for name, answer in answers.items():
            if isinstance(answer, dict):
                days = answer.values()
                table.add_row(name, *("\n".join(_lines(calendars[name], day)) for day in days))
            else:
                table.add_row(name, "not known", why_not(answer), "")
            table.add_section()
        console.print(table)
    if not all(isinstance(answer, dict) and answer["session"] for answer in answers.values()):
        raise typer.Exit(1)


@application.command("at")
def at(
    instant: Annotated[
        datetime,
        typer.Argument(
            parser=read_instant,
            metavar="INSTANT",
            help='Such as 2012-11-23T17:30Z or "2012-11-23 12:30 America/New_York".',
            show_default=False,
        ),
    ],
    names: Markets = None,
    as_json: AsJson = False,
) -> None:
    """
    Show what every market is doing at an instant.

    Ends with 1 if a market's calendar has no answer for that time.
    """
    from prometheus.cli import markets

    markets.show(names, instant, as_json=as_json)


@application.command("horizon")
def horizon(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MARKET",
            help="Markets or exchanges (MICs); by default all exchanges and all markets with hours "
            "of their own.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Show how far the sessions of each exchange are known, and on what grounds.

    The nearest end comes first. One within 90 days is a warning, within 30 an alert; one that is
    past is an error.
    """
    from rich.text import Text

    from prometheus.cli import output
    from prometheus.core.exchanges import exchange_mics
    from prometheus.core.horizons import HorizonLevel, horizon_level
    from prometheus.core.markets import markets
    from prometheus.core.trading_calendar import TradingCalendar
    from prometheus.errors import UnreadableError

    today = datetime.now(UTC).date()
    rows: list[dict[str, Any]] = []
    own_hours = [m.market_id for m in markets() if m.members == (m.market_id,)]
    for name in names or (*exchange_mics(), *own_hours):
        try:
            calendar = TradingCalendar(name)
        except UnreadableError as error:  # one exchange's, not another's
            rows.append(
                {
                    "exchange": name,
                    "last": None,
                    "days": None,
                    "level": HorizonLevel.ERROR,
                    "source": str(error),
                }
            )
            continue
        rows.append(
            {
                "exchange": name,
                "last": calendar.horizon,
                "days": (calendar.horizon - today).days,
                "level": horizon_level(calendar.horizon, today),
                "source": calendar.horizon_source,
            }
        )
    rows.sort(key=lambda row: (row["last"] or date.min, row["exchange"]))
    if as_json:
        output.print_json(rows)
        return
    styles = {
        HorizonLevel.OK: "green",
        HorizonLevel.WARNING: "yellow",
        HorizonLevel.ALERT: "red",
        HorizonLevel.ERROR: "bold red",
    }
    table = output.table("Exchange", "Known to", "Days", "", "On what grounds", right=("Days",))
    for row in rows:
        table.add_row(
            row["exchange"],
            str(row["last"] or "?"),
            str("" if row["days"] is None else row["days"]),
            Text(row["level"], styles[row["level"]]),
            row["source"],
        )
    output.console().print(table)


application.command("diff")(comparing.diff)
application.command("sync")(syncing.sync)


# --- what is found ----------------------------------------------------------------------------


def find_next(calendar: TradingCalendar, instant: datetime) -> dict[str, Day | None]:
    """
    Find the next session to open, the next closed day and the next session of special hours.

    All begin after the instant: a session when it opens, a closed day at midnight where the market
    is, of several members at the first of them.

    Returns:
        ``session``, ``closed`` and ``special`` -> the day; ``None`` where the calendar ends first.

    Raises:
        HorizonError: The instant is outside the calendar.
    """
    day = date_there(calendar, instant)
    calendar.is_trading_day(day)
    session = calendar.sessions_around(instant, before=0, after=1)
    found: dict[str, Day | None] = {
        "session": describe_day(calendar, session[0].date) if session else None,
        "closed": None,
        "special": None,
    }
    while day <= calendar.horizon and not (found["closed"] and found["special"]):
        described = describe_day(calendar, day)
        begins = described.session.open if described.session else calendar.midnight(day)
        if described.kind is DayKind.HOLIDAY and begins > instant:
            found["closed"] = found["closed"] or described
        elif described.kind is DayKind.SPECIAL and begins > instant:
            found["special"] = found["special"] or described
        day += _ONE_DAY
    return found


# --- what is printed --------------------------------------------------------------------------


def _document(day: Day) -> dict[str, Any]:
    session = day.session
    return {
        "date": day.date,
        "kind": day.kind,
        "reason": day.reason,
        "closed_members": day.closed_members,
        "overrides": list(day.overrides),
        "session": session
        and {
            "open": session.open,
            "close": session.close,
            "breaks": [list(pause) for pause in session.breaks],
            "early_close": session.early_close,
            "late_open": session.late_open,
        },
    }


def _words(calendar: TradingCalendar, day: Day) -> str:
    """Say of a day what is special about it."""
    from prometheus.cli import recorded, sessions

    overrides = recorded.by_overrides(day.overrides)
    if day.session is None:
        # The mark of an override does not say what it does.
        reason = f"closed: {day.reason}" if overrides else day.reason
        return "; ".join(filter(None, [reason, overrides]))
    said = [sessions.special(day.session) or ""]
    if day.kind is DayKind.SPECIAL:
        local = (
            sessions.local_times(calendar.exchanges, at)
            for at in (day.session.open, day.session.close)
        )
        said.append(" to ".join(", ".join(each) for each in local))
    names = sessions.cities(calendar.exchanges)
    said += [f"{names[mic]} closed ({reason})" for mic, reason in day.closed_members.items()]
    return "; ".join(filter(None, [*said, overrides]))


def _lines(calendar: TradingCalendar, day: Day | None) -> list[str]:
    """Describe a day in a table's cell."""
    from prometheus.cli import sessions

    if day is None:
        return [f"none to {calendar.horizon}"]
    lines = [f"{day.date:%a} {day.date}"]
    if day.session is not None:
        lines[0] += f"  {sessions.hours(day.session)}"
        if day.kind is not DayKind.SPECIAL:
            lines += sessions.local_times(calendar.exchanges, day.session.open)
    return [*lines, *filter(None, [_words(calendar, day)])]


def _print_year(calendar: TradingCalendar, year: int, days: list[Day]) -> None:
    from rich.table import Table
    from rich.text import Text

    from prometheus.cli import output

    console = output.console()
    sessions = sum(day.session is not None for day in days)
    console.print(f"{calendar.market_id} {year}", style="bold")
    console.print(f"  {', '.join(calendar.members)}: {output.count(sessions, 'session')}")
    console.print(f"  known to {calendar.horizon}, {calendar.horizon_source}")
    console.print()
    across = max(1, min(_MOST_MONTHS_A_ROW, console.width // _MONTH_WIDTH))
    grid = Table.grid(padding=(0, 4, 0, 0))
    months = [_month(year, month, days) for month in range(1, 13)]
    for row in range(0, 12, across):
        grid.add_row(*months[row : row + across])
        grid.add_row()
    console.print(grid)
    shown = {day.kind for day in days if not day.overrides}
    meaning = {
        DayKind.HOLIDAY: "closed",
        DayKind.SPECIAL: "special hours",
        DayKind.PARTIAL: "some exchanges closed",
        DayKind.UNKNOWN: "not known",
    }
    legend = [f"{_MARKS[kind]} {text}" for kind, text in meaning.items() if kind in shown]
    if any(day.overrides for day in days):
        legend.append(f"{_OVERRIDDEN} changed by an override")
    if legend:
        console.print("   ".join(legend))
        console.print()
    table = output.table("", "", "")
    table.show_header = False
    for day in days:
        if day.overrides or day.kind in (DayKind.HOLIDAY, DayKind.SPECIAL, DayKind.PARTIAL):
            table.add_row(
                Text(_mark(day), _STYLES[day.kind]),
                f"{day.date:%a} {day.date}",
                _words(calendar, day),
            )
    console.print(table)


def _month(year: int, month: int, days: list[Day]) -> Text:
    """Lay out one month, Monday first, each date with its mark."""
    from rich.text import Text

    text = Text(f"{date(year, month, 1):%B}\n")
    text.append("Mo  Tu  We  Th  Fr  Sa  Su", style="dim")
    for day in (day for day in days if day.date.month == month):
        weekday = day.date.weekday()
        if weekday == 0 or day.date.day == 1:
            text.append("\n" + "    " * weekday)
        text.append(f"{day.date.day:2}{_mark(day)}", style=_STYLES[day.kind])
        text.append(" " if weekday < 6 else "")
    return text


def _mark(day: Day) -> str:
    """Return what follows a date in the table of a year."""
    return _OVERRIDDEN if day.overrides else _MARKS.get(day.kind, " ")
