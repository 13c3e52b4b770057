"""``prometheus markets``: the state of every market."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prometheus.cli.options import AsJson, read_instant

if TYPE_CHECKING:
    from rich.console import RenderableType

    from prometheus.core.market_state import MarketStatus
    from prometheus.errors import HorizonError, UnreadableError


def markets(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MARKET", help="Markets or exchanges (MICs); all markets by default."
        ),
    ] = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            parser=read_instant,
            metavar="INSTANT",
            help="An instant such as 2012-11-23T17:30Z; now by default.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Show what every market is doing: its state, its exchanges, its session, what comes next.

    Ends with 1 if a market's calendar has no answer for that time.
    """
    from prometheus.cli.recorded import know_markets

    know_markets()
    show(names, at or datetime.now(UTC), as_json=as_json)


def show(names: list[str] | None, instant: datetime, *, as_json: bool) -> None:
    """Print what markets are doing at an instant, all markets where none are named."""
    from prometheus.cli import output, recorded
    from prometheus.core.market_state import MarketStatus, describe_market
    from prometheus.core.markets import get_market
    from prometheus.core.markets import markets as known_markets
    from prometheus.errors import HorizonError, UnreadableError

    recorded.follow_overrides()
    chosen = [get_market(name) for name in names] if names else list(known_markets())
    answers: dict[str, MarketStatus | HorizonError | UnreadableError] = {}
    for market in chosen:
        try:
            answers[market.market_id] = describe_market(market, instant)
        except (HorizonError, UnreadableError) as error:  # one market's, not another's
            answers[market.market_id] = error
    if as_json:
        output.print_json(
            [
                document(answer)
                if isinstance(answer, MarketStatus)
                else {"market": market_id, "at": instant, "error": str(answer)}
                for market_id, answer in answers.items()
            ]
        )
    else:
        console = output.console()
        console.print(f"{instant:%A %Y-%m-%d %H:%M:%S} UTC", style="bold")
        console.print()
        console.print(_table(answers))
    if not all(isinstance(answer, MarketStatus) for answer in answers.values()):
        raise typer.Exit(1)


def document(status: MarketStatus) -> dict[str, Any]:
    """Describe a market for machines."""
    following = status.next_transition
    return {
        "market": status.market_id,
        "at": status.at,
        "state": status.state,
        "since": status.since,
        "reason": status.reason,
        "in_break": status.in_break,
        "session_date": status.session_date,
        "next_session_date": status.next_session_date,
        "overrides": _overrides(status),
        "members": {
            mic: {"state": state, "closed": status.closed_members.get(mic)}
            for mic, state in status.members.items()
        },
        "next_transition": following and {"at": following.at, "state": following.state},
    }


def _table(answers: dict[str, Any]) -> RenderableType:
    from prometheus.cli import output
    from prometheus.core.market_state import MarketStatus

    table = output.table("Market", "State", "Session", "Exchanges", "Next")
    for market_id, answer in answers.items():
        if isinstance(answer, MarketStatus):
            table.add_row(
                market_id,
                output.coloured(answer.state),
                session_words(answer),
                "\n".join(_members(answer)),
                "\n".join(next_words(answer)),
            )
        else:
            table.add_row(market_id, "not known", why_not(answer), "", "")
        table.add_section()
    return table


def why_not(error: HorizonError | UnreadableError) -> str:
    """Say in a table's cell why a calendar has no answer; of a time it does not reach, in short."""
    from prometheus.errors import HorizonError

    return error.known if isinstance(error, HorizonError) else str(error)


def _overrides(status: MarketStatus) -> list[int]:
    """Return the ids of the overrides of the session a market is in, or of its local dates."""
    from prometheus.cli.recorded import overrides_on
    from prometheus.core.trading_calendar import TradingCalendar

    calendar = TradingCalendar(status.market_id)
    today = {status.at.astimezone(zone).date() for zone in calendar.zones.values()}
    return overrides_on(calendar, [status.session_date] if status.session_date else sorted(today))


def session_words(status: MarketStatus) -> str:
    """Write the session a market is in, or why it has none."""
    from prometheus.cli import recorded, sessions
    from prometheus.core.trading_calendar import TradingCalendar

    overrides = recorded.by_overrides(_overrides(status))
    if status.session_date is None:
        following = status.next_session_date
        text = "\n".join(filter(None, [status.reason or "between sessions", overrides]))
        return f"{text}\nnext session {following}" if following else text
    session = TradingCalendar(status.market_id).session(status.session_date)
    lines = [f"{status.session_date}  {sessions.hours(session)}"]
    if status.in_break:
        lines.append("in the lunch break")
    remark = sessions.special(session)
    return "\n".join(filter(None, [*lines, remark, overrides]))


def next_words(status: MarketStatus) -> list[str]:
    """Write the next transition: what and in how long, then when in UTC and at the exchanges."""
    from prometheus.cli import output, sessions
    from prometheus.core.trading_calendar import TradingCalendar

    calendar = TradingCalendar(status.market_id)
    if status.next_transition is None:  # near its end, or a market that never closes
        return [f"none by {calendar.horizon}", "where its calendar ends"]
    at, state = status.next_transition
    local = ", ".join(sessions.local_times(calendar.exchanges, at))
    return [f"{state} in {output.in_words(at - status.at)}", f"{output.utc(at)}", local]


def _members(status: MarketStatus) -> list[str]:
    from prometheus.core.exchanges import load_exchange

    lines = []
    for mic, state in status.members.items():
        closed = status.closed_members.get(mic)
        local = status.at.astimezone(load_exchange(mic).zone)
        lines.append(f"{mic} {local:%a %H:%M} {state}" + (f" ({closed})" if closed else ""))
    return lines
