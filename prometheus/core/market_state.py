"""The state of a market at an instant, and when it next changes.

States come from a table of transition instants, made once per market and year of UTC and searched
by bisection. Making it converts local hours with the rules of their zone; looking up compares
integers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from prometheus.core.exchanges import Exchange, when_calendars_change
from prometheus.core.instants import as_utc
from prometheus.core.markets import Market, get_market
from prometheus.core.overrides import in_force
from prometheus.core.states import MarketState, MarketStateConfig
from prometheus.core.trading_calendar import TradingCalendar, join_reasons
from prometheus.errors import HorizonError, UnreadableError

__all__ = [
    "MarketState",
    "MarketStateConfig",
    "MarketStates",
    "MarketStatus",
    "Transition",
    "describe_market",
    "get_all_market_states",
    "get_market_state",
    "get_next_state_transition",
    "iter_states",
]

_ONE_DAY = timedelta(days=1)

_ORDER = (
    MarketState.HOLIDAY,
    MarketState.OVERNIGHT,
    MarketState.POST_CLOSE,
    MarketState.PRE_OPEN,
    MarketState.SESSION,
)
"""From weakest to strongest: where states overlap, of phases or of members, the last one holds."""

_USUAL = ("US_EQ", "EU_EQ", "ASIA_EQ")

_OVERNIGHT, _POST_CLOSE, _PRE_OPEN, _SESSION = range(1, 5)


class Transition(NamedTuple):
    """The next change of a market's state."""

    at: datetime
    """First instant at which the state is another one, aware UTC."""
    state: MarketState
    """The state from then on."""


@dataclass(frozen=True, slots=True)
class MarketStatus:
    """Everything there is to say about a market at an instant."""

    market_id: str
    at: datetime
    """The instant that was asked about, in UTC."""
    state: MarketState
    since: datetime | None
    """First instant of the state; ``None`` where that is before the year before, as of a market
    that never closes, or where the calendar begins."""
    session_date: date | None
    """The session whose PRE_OPEN, SESSION or POST_CLOSE it is; ``None`` in the other states."""
    next_session_date: date | None
    """The first session to open after ``at``; ``None`` where the calendar ends before it."""
    members: Mapping[str, MarketState]
    """MIC -> its own state, in the order of the market's members."""
    closed_members: Mapping[str, str]
    """MIC -> why that member has no session on its local date."""
    in_break: bool
    """Whether it is SESSION and every member in SESSION is in its lunch break."""
    reason: str | None
    """In HOLIDAY, why: ``"weekend"`` or the holiday's name; otherwise ``None``."""
    next_transition: Transition | None
    """``None`` where the calendar ends before the state changes."""

    @property
    def partial(self) -> bool:
        """Whether some members, but not all, have a session on their local date."""
        return 0 < len(self.closed_members) < len(self.members)


class MarketStates(dict[str, MarketState]):
    """
    Market id -> its state at one instant, of the markets that have an answer.

    Asking for one that has none raises the error that is its answer, so that it is never taken for
    a state, and is nobody else's trouble.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unknown: dict[str, HorizonError | UnreadableError] = {}
        """Market id -> why its state is not known."""

    def __missing__(self, market_id: str) -> MarketState:
        raise self.unknown.get(market_id) or KeyError(market_id)


Table = tuple[list[float], list[MarketState | None]]
"""
Instants in seconds of the epoch, and the state from each on; the last state is ``None``.

The seconds are whole but floats, as `datetime.timestamp` is: comparing like with like makes the
bisection three times as fast. A float keeps microseconds apart until the year 2242.
"""

_tables: dict[tuple[str | Market, MarketStateConfig | None, int], Table] = {}
"""What `get_market_state` was asked for, as it was asked -> the table of that year."""
when_calendars_change(_tables.clear)


def get_market_state(
    market: str | Market, now: datetime, config: MarketStateConfig | None = None
) -> MarketState:
    """
    Find the state of a market at an instant.

    Of a market of several exchanges, the highest of its members' states in the order SESSION,
    PRE_OPEN, POST_CLOSE, OVERNIGHT, HOLIDAY.

    Args:
        market: A market's name, a MIC, or a `Market`.
        now: An aware datetime in any zone; UTC is fastest.
        config: Buffers of all members; the market's own by default.

    Raises:
        NaiveDatetimeError: ``now`` has no zone.
        UnknownMarketError: no market or exchange has this name.
        HorizonError: the sessions of the market are not known at ``now``.
    """
    if type(now) is not datetime or now.tzinfo is not UTC:
        now = as_utc("now", now)
    try:
        starts, states = _tables[market, config, now.year]
    except KeyError:
        starts, states = _remember(market, config, now.year)
    # Before the first instant the index is -1, which is the None at the end of the table.
    state = states[bisect_right(starts, now.timestamp()) - 1]
    if state is None:
        raise _beyond(get_market(market), now)
    return state


def get_next_state_transition(
    market: str | Market, now: datetime, config: MarketStateConfig | None = None
) -> Transition:
    """
    Find the first instant after ``now`` at which `get_market_state` answers differently.

    Args:
        market: A market's name, a MIC, or a `Market`.
        now: An aware datetime in any zone.
        config: Buffers of all members; the market's own by default.

    Returns:
        The instant, aware UTC, and the state it brings.

    Raises:
        NaiveDatetimeError, UnknownMarketError: as `get_market_state`.
        HorizonError: ``now``, or the transition, is past the last date that is known.
    """
    now = as_utc("now", now)
    current = get_market_state(market, now, config)
    year = now.year
    seconds = now.timestamp()
    while True:
        starts, states = _tables.get((market, config, year)) or _remember(market, config, year)
        for index in range(bisect_right(starts, seconds), len(starts)):
            state = states[index]
            if state is not None and state is not current:
                return Transition(_instant(starts[index]), state)
        end = _instant(starts[-1])
        if end.year == year:
            raise _beyond(get_market(market), end)
        # The year ended in the state it had: go on in the next one, with its first instant.
        year, seconds = end.year, starts[-1] - 1


def iter_states(calendar: TradingCalendar, start: datetime) -> Iterator[Transition]:
    """
    Go through the states of a calendar, whether or not it is the one in force.

    Yields:
        ``start`` with the state then, and each change after it; ends where nothing more is known.

    Raises:
        HorizonError: The state at ``start`` is not known.
    """
    current = None
    seconds, year = start.timestamp(), start.year
    while True:
        starts, states = _year_table(calendar.exchanges, calendar.config, year)
        index = max(bisect_right(starts, seconds) - 1, -1)
        for at, state in zip(starts[max(index, 0) :], states[max(index, 0) :], strict=True):
            if current is None:
                if index < 0 or state is None:
                    raise HorizonError(calendar.market_id, start, calendar.first, calendar.horizon)
                current = state
                yield Transition(start, state)
            elif state is not None and state is not current:
                current = state
                yield Transition(_instant(at), state)
        end = _instant(starts[-1])
        if end.year == year:
            return
        year, seconds = end.year, starts[-1]


def get_all_market_states(
    now: datetime, names: Iterable[str | Market] | None = None
) -> MarketStates:
    """
    Find the states of several markets at one instant.

    A market whose sessions are not known then, or not readable, takes nothing from the others: it
    is left out, and named in `MarketStates.unknown`.

    Args:
        now: An aware datetime in any zone.
        names: Markets; US_EQ, EU_EQ and ASIA_EQ by default.

    Returns:
        Market id -> state, in the order of ``names``.

    Raises:
        NaiveDatetimeError, UnknownMarketError: as `get_market_state`.
    """
    now = as_utc("now", now)
    states = MarketStates()
    for market in [get_market(name) for name in (_USUAL if names is None else names)]:
        try:
            states[market.market_id] = get_market_state(market, now)
        except (HorizonError, UnreadableError) as error:
            states.unknown[market.market_id] = error
    return states


def describe_market(
    market: str | Market, now: datetime, config: MarketStateConfig | None = None
) -> MarketStatus:
    """
    Say everything about a market at an instant: its state, session, members and next transition.

    Args:
        market: A market's name, a MIC, or a `Market`.
        now: An aware datetime in any zone.
        config: Buffers of all members; the market's own by default.

    Raises:
        NaiveDatetimeError, UnknownMarketError, HorizonError: as `get_market_state`.
    """
    now = as_utc("now", now)
    chosen = get_market(market)
    config = config or chosen.config
    state = get_market_state(chosen, now, config)

    members: dict[str, MarketState] = {}
    closed: dict[str, str] = {}
    calendar = TradingCalendar(chosen, config)
    for exchange in calendar.exchanges:
        members[exchange.mic] = next(iter_states(calendar.member(exchange.mic), now)).state
        reason = exchange.reason(now.astimezone(exchange.zone).date())
        if reason is not None:
            closed[exchange.mic] = reason

    session_dates = set()
    breaks = []
    for mic in (mic for mic, of_member in members.items() if of_member is state):
        found = _phase(calendar.member(mic), state, now)
        if found is not None:
            session_date, in_break = found
            session_dates.add(session_date)
            breaks.append(in_break)
    session_date_of_market = None
    if session_dates:
        pick = min if state is MarketState.PRE_OPEN else max
        session_date_of_market = pick(session_dates)

    upcoming = calendar.sessions_around(now, before=0, after=1)
    try:
        next_transition = get_next_state_transition(chosen, now, config)
    except HorizonError:
        next_transition = None
    return MarketStatus(
        market_id=chosen.market_id,
        at=now,
        state=state,
        since=_since(chosen, now, config),
        session_date=session_date_of_market,
        next_session_date=upcoming[0].date if upcoming else None,
        members=members,
        closed_members=closed,
        in_break=bool(breaks) and all(breaks),
        reason=join_reasons(closed) if state is MarketState.HOLIDAY else None,
        next_transition=next_transition,
    )


def _since(market: Market, now: datetime, config: MarketStateConfig) -> datetime | None:
    """Find the first instant of the state that a market is in, where it is known."""
    starts, states = _table(market, config, now.year)
    index = bisect_right(starts, now.timestamp()) - 1
    if index > 0:
        return _instant(starts[index])
    before, earlier = _table(market, config, now.year - 1)
    if len(before) == 1:
        return None  # the calendar begins
    if earlier[-2] is not states[0]:
        return _instant(starts[0])
    return _instant(before[-2]) if len(before) > 2 else None


def _table(market: Market, config: MarketStateConfig, year: int) -> Table:
    return _tables.get((market, config, year)) or _remember(market, config, year)


def _phase(
    calendar: TradingCalendar, state: MarketState, now: datetime
) -> tuple[date, bool] | None:
    """Find the session an exchange's state belongs to, and whether that session is in a break."""
    if state is MarketState.PRE_OPEN:
        sessions = calendar.sessions_around(now, before=0, after=1)
    elif state in (MarketState.SESSION, MarketState.POST_CLOSE):
        sessions = calendar.sessions_around(now, before=1, after=0)
    else:
        return None
    session = sessions[0]
    in_break = state is MarketState.SESSION and any(
        start <= now < end for start, end in session.breaks
    )
    return session.date, in_break


# --- tables -----------------------------------------------------------------------------------


def _remember(market: str | Market, config: MarketStateConfig | None, year: int) -> Table:
    overrides = in_force()
    calendar = TradingCalendar(market, config, overrides=overrides)
    table = _year_table(calendar.exchanges, calendar.config, year)
    if len(table[0]) > 1:
        _tables[market, config, year] = table
        if in_force() is not overrides:  # others came into force meanwhile
            _tables.pop((market, config, year), None)
    return table


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _beyond(market: Market, asked: datetime) -> HorizonError:
    calendar = TradingCalendar(market)
    return HorizonError(market.market_id, asked, calendar.first, calendar.horizon)


@lru_cache(maxsize=4096)
def _year_table(exchanges: tuple[Exchange, ...], config: MarketStateConfig, year: int) -> Table:
    """
    Lay out the states of one year of UTC.

    Every member's phases are laid over each other, and where several apply the strongest holds.
    That is at once the state of a market of several members, and the rule that PRE_OPEN cuts the
    POST_CLOSE of the session before.

    Returns:
        The first instant is that of the year, or the first one known; the last one, whose state
        is ``None``, is the end of the year, or of what is known. Of a year of which nothing is
        known there is only that one.
    """
    begin = max(_year_start(year), max(_known_from(e, config) for e in exchanges))
    end = min(_year_start(year + 1), min(_known_until(e, config) for e in exchanges))
    if begin >= end:
        return [float(begin)], [None]

    # Phases that began before the year or end after it reach this many days further.
    margin = timedelta(days=3) + config.reach
    # (instant, level, +1 where the level begins to apply or -1 where it ends)
    events: list[tuple[int, int, int]] = []
    for exchange in exchanges:
        day = max(exchange.first, date(year, 1, 1) - margin)
        last = min(exchange.last, date(year, 12, 31) + margin)
        had_session = False
        while day <= last:
            has_session = exchange.is_session(day)
            if has_session != had_session:
                midnight = int(exchange.midnight(day).timestamp())
                events.append((midnight, _OVERNIGHT, 1 if has_session else -1))
                had_session = has_session
            if has_session:
                opens_at, closes_at = exchange.bounds(day)
                opens, closes = int(opens_at.timestamp()), int(closes_at.timestamp())
                begins_at = config.pre_open_at(day, opens_at, exchange.zone)
                ends_at = config.post_close_ends_at(day, closes_at, exchange.zone)
                events += (
                    (int(begins_at.timestamp()), _PRE_OPEN, 1),
                    (opens, _PRE_OPEN, -1),
                    (opens, _SESSION, 1),
                    (closes, _SESSION, -1),
                    (closes, _POST_CLOSE, 1),
                    (int(ends_at.timestamp()), _POST_CLOSE, -1),
                )
            day += _ONE_DAY
    events.sort()

    starts = [float(begin)]
    states: list[MarketState | None] = []
    applying = [1, 0, 0, 0, 0]  # HOLIDAY always applies
    current = MarketState.HOLIDAY
    index = 0
    while index < len(events) and events[index][0] < end:
        at = events[index][0]
        while index < len(events) and events[index][0] == at:
            applying[events[index][1]] += events[index][2]
            index += 1
        level = _SESSION
        while not applying[level]:
            level -= 1
        state = _ORDER[level]
        if state is not current:
            if at > begin:
                starts.append(float(at))
                states.append(current)
            current = state
    starts.append(float(end))
    states += (current, None)
    return starts, states


def _year_start(year: int) -> int:
    if year > 9999:
        return int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) + 86_400
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp())


def _known_from(exchange: Exchange, config: MarketStateConfig) -> int:
    """
    The first instant whose state is known, in seconds.

    The day before the first date may have a session, whose POST_CLOSE would reach into it.
    """
    midnight = int(exchange.midnight(exchange.first).timestamp())
    day = exchange.first - _ONE_DAY
    close = exchange.ordinary_bounds(day)[1]
    return max(midnight, int(config.post_close_ends_at(day, close, exchange.zone).timestamp()))


def _known_until(exchange: Exchange, config: MarketStateConfig) -> int:
    """
    The end of the instants whose state is known, in seconds.

    The day after the last date may have a session, whose PRE_OPEN would begin before it does.
    """
    midnight = int(exchange.midnight(exchange.last + _ONE_DAY).timestamp())
    day = exchange.last + _ONE_DAY
    opens = exchange.ordinary_bounds(day)[0]
    return min(midnight, int(config.pre_open_at(day, opens, exchange.zone).timestamp()))
