"""The trading days and sessions of a market or an exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from prometheus.core.exchanges import WEEKEND, Exchange, load_exchange, snapshot_version
from prometheus.core.instants import as_day, as_utc
from prometheus.core.markets import Market, get_market
from prometheus.core.overrides import Override, Overrides, in_force, stamped
from prometheus.core.sessions import Session
from prometheus.core.states import MarketStateConfig
from prometheus.errors import DeclarationError, HorizonError, NoSessionError

_ONE_DAY = timedelta(days=1)

_REACH = timedelta(days=2)
"""How far a session's instants can be from midnight UTC of its date: zones and overnight opens."""


@dataclass(frozen=True, slots=True)
class Phases:
    """The instants at which a session's phases begin and end, aware UTC."""

    session_date: date
    pre_open_at: datetime
    open_at: datetime
    close_at: datetime
    """The last close, of a market with several members."""
    post_close_ends_at: datetime
    """The close plus the whole buffer, even where the next PRE_OPEN cuts POST_CLOSE short."""


class TradingCalendar:
    """
    When a market trades, between its first and its last known date.

    Of a market of several exchanges, a date has a session if any member's session carries it, and
    that session runs from the first open to the last close. Every date in and out is a session's
    label, every instant is aware UTC.

    Args:
        market: A market's name, a MIC, or a `Market`.
        config: Buffers for `phases`; the market's own by default.
        exchanges: MIC -> its sessions; those of the snapshot by default.
        overrides: What is laid over them; by default what is in force in this process now.

    Raises:
        UnknownMarketError: no market or exchange has this name.
        UnreadableError: the market is held, or the sessions of one of its exchanges are damaged.
    """

    def __init__(
        self,
        market: str | Market,
        config: MarketStateConfig | None = None,
        *,
        exchanges: Callable[[str], Exchange] = load_exchange,
        overrides: Overrides | None = None,
    ) -> None:
        self._market = get_market(market)
        if self._market.faults:
            raise DeclarationError(self.market_id, self._market.faults)
        self.config = config or self._market.config
        self.overrides = in_force() if overrides is None else overrides
        """What was laid over the exchanges' sessions."""
        self._exchanges = tuple(
            self.overrides.over(exchanges(mic), self._market) for mic in self._market.members
        )
        self.first: date = max(exchange.first for exchange in self._exchanges)
        """First date for which every member's sessions are known."""
        shortest = min(self._exchanges, key=lambda exchange: exchange.last)
        self.horizon: date = shortest.last
        """Last date for which every member's sessions are known."""
        self.horizon_source: str = shortest.horizon_source
        """On what grounds the sessions are known as far as the horizon."""

    def __repr__(self) -> str:
        return f"TradingCalendar({self.market_id!r}, {self.first} to {self.horizon})"

    @property
    def market_id(self) -> str:
        """The market's name, or the MIC."""
        return self._market.market_id

    @property
    def members(self) -> tuple[str, ...]:
        """MICs of the market's exchanges."""
        return self._market.members

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The market's exchanges, as they are seen through it."""
        return self._exchanges

    @property
    def version(self) -> str:
        """
        The calendar version a run records: that of the sessions snapshot.

        With the market's own, where it is declared in TOML: then other hours or buffers there make
        another calendar. Where overrides touch the market, with the id of the last of them: those
        up to it are what it was made with.
        """
        own = self._market.version
        version = f"{snapshot_version()}+{own}" if own else snapshot_version()
        return stamped(version, self.overrides.stamp(self._market))

    def member(self, mic: str) -> TradingCalendar:
        """The calendar of one of the market's exchanges, as it is seen through it."""
        (exchange,) = (each for each in self._exchanges if each.mic == mic)
        alone = Market(mic, (mic,), self.config)
        return TradingCalendar(alone, exchanges=lambda _: exchange, overrides=Overrides())

    def _known(self, argument: str, day: date) -> date:
        as_day(argument, day)
        if not self.first <= day <= self.horizon:
            raise HorizonError(self.market_id, day, self.first, self.horizon)
        return day

    def _is_session(self, day: date) -> bool:
        return any(exchange.is_session(day) for exchange in self._exchanges)

    def is_trading_day(self, day: date) -> bool:
        """
        Say whether a session carries this date.

        Raises:
            HorizonError: the date is not between `first` and `horizon`.
        """
        return self._is_session(self._known("day", day))

    def next_trading_day(self, day: date) -> date:
        """
        Find the first trading day strictly after a date.

        Raises:
            HorizonError: the date is outside the calendar, or no session is known after it.
        """
        self._known("day", day)
        while True:
            day += _ONE_DAY
            if self._is_session(self._known("day", day)):
                return day

    def previous_trading_day(self, day: date) -> date:
        """
        Find the last trading day strictly before a date.

        Raises:
            HorizonError: the date is outside the calendar, or no session is known before it.
        """
        self._known("day", day)
        while True:
            day -= _ONE_DAY
            if self._is_session(self._known("day", day)):
                return day

    def trading_days(self, start: date, end: date) -> list[date]:
        """
        List the trading days from ``start`` to ``end``, both included, in order.

        Returns:
            Dates; empty when there are none or ``end`` is before ``start``.

        Raises:
            HorizonError: either bound is outside the calendar.
        """
        self._known("start", start)
        self._known("end", end)
        return [day for day in self._days(start, end) if self._is_session(day)]

    @staticmethod
    def _days(start: date, end: date) -> Iterator[date]:
        day = start
        while day <= end:
            yield day
            day += _ONE_DAY

    def session(self, day: date) -> Session:
        """
        The session that carries a date: of a market, the union of its members'.

        ``breaks`` are the pauses in which no member trades; ``early_close`` and ``late_open``
        compare with the ordinary hours of the members that trade that day.

        Raises:
            NoSessionError: no session carries the date; names the nearest that do.
            HorizonError: the date is outside the calendar.
        """
        self._known("day", day)
        if not self._is_session(day):
            reason = self.reason(day) or WEEKEND
            if overrides := self.overrides_on(day):
                reason += f", override {overrides[-1].override_id}"
            raise NoSessionError(
                self.market_id,
                day,
                reason,
                self._nearest(day, -_ONE_DAY),
                self._nearest(day, _ONE_DAY),
            )
        return _session(self._exchanges, day)

    def _nearest(self, day: date, step: timedelta) -> date | None:
        day += step
        while self.first <= day <= self.horizon:
            if self._is_session(day):
                return day
            day += step
        return None

    def phases(self, day: date) -> Phases:
        """
        The phases of the session that carries a date, by this calendar's buffers.

        Raises:
            NoSessionError, HorizonError: as `session`.
        """
        self.session(day)  # says why there is none
        return _phases(self._exchanges, self.config, day)

    def reason(self, day: date) -> str | None:
        """
        Say why a date has no session.

        Returns:
            ``"weekend"``, or the name of the holiday or closure; where members are closed for
            different reasons, each with its MIC: ``"XTKS: Culture Day; XHKG: ..."``. ``None`` for
            a date that has a session, even if a member is closed: see `closed_members`.

        Raises:
            HorizonError: the date is outside the calendar.
        """
        self._known("day", day)
        if self._is_session(day):
            return None
        return join_reasons(self.closed_members(day))

    def closed_members(self, day: date) -> dict[str, str]:
        """
        Say which members have no session on a date, and why.

        Returns:
            MIC -> ``"weekend"`` or the closure's name, in the order of `members`; empty when all
            of them trade.

        Raises:
            HorizonError: the date is outside the calendar.
        """
        self._known("day", day)
        closed = {}
        for exchange in self._exchanges:
            reason = exchange.reason(day)
            if reason is not None:
                closed[exchange.mic] = reason
        return closed

    def overrides_on(self, day: date) -> tuple[Override, ...]:
        """List the overrides of a date's session that hold, oldest first."""
        return self.overrides.on(self._market, day)

    @property
    def zones(self) -> Mapping[str, ZoneInfo]:
        """MIC -> the member's zone, in the order of `members`."""
        return {exchange.mic: exchange.zone for exchange in self._exchanges}

    @property
    def zone(self) -> ZoneInfo:
        """Whose clocks its times are shown by: the first member's."""
        return self._exchanges[0].zone

    def in_week(self, day: date) -> bool:
        """
        Say whether a date is a day of any member's trading week.

        Raises:
            HorizonError: the date is outside the calendar.
        """
        self._known("day", day)
        return any(exchange.in_week(day) for exchange in self._exchanges)

    def midnight(self, day: date) -> datetime:
        """Find the first instant of a local date, aware UTC: where the first member's begins."""
        return min(exchange.midnight(day) for exchange in self._exchanges)

    def holidays(self, year: int) -> dict[date, str]:
        """
        Name the days of a year on which the market would trade but does not.

        Weekends are not among them, nor days on which at least one member trades. Of a year that
        the calendar knows in part, that part.

        Returns:
            Date -> name, in order.

        Raises:
            HorizonError: the calendar knows nothing of the year.
        """
        start, end = date(year, 1, 1), date(year, 12, 31)
        if end < self.first or start > self.horizon:
            raise HorizonError(self.market_id, start, self.first, self.horizon)
        found = {}
        for day in self._days(max(start, self.first), min(end, self.horizon)):
            reason = self.reason(day)
            if reason is not None and reason != WEEKEND:
                found[day] = reason
        return found

    def sessions_between(self, start: datetime, end: datetime) -> tuple[Session, ...]:
        """
        List the sessions that trade at some time in ``[start, end)``, in order of date.

        Only known sessions: nothing outside `first` and `horizon` is invented or complained about.

        Raises:
            NaiveDatetimeError: a bound has no zone.
        """
        start, end = as_utc("start", start), as_utc("end", end)
        if end <= start:
            return ()
        days = self._days(
            max(self.first, self._reach(start, -_REACH)),
            min(self.horizon, self._reach(end, _REACH)),
        )
        sessions = (_session(self._exchanges, day) for day in days if self._is_session(day))
        return tuple(s for s in sessions if s.open < end and start < s.close)

    def sessions_around(
        self, now: datetime, before: int = 3, after: int = 1
    ) -> tuple[Session, ...]:
        """
        List the last sessions to have opened by an instant, and the next ones to open.

        Fewer come where the calendar begins or ends; this never raises for being near its bounds.

        Args:
            now: An instant.
            before: How many sessions with ``open <= now``.
            after: How many sessions with ``open > now``.

        Returns:
            Sessions in order of date.

        Raises:
            NaiveDatetimeError: ``now`` has no zone.
        """
        now = as_utc("now", now)
        past: list[Session] = []
        future: list[Session] = []
        day = min(self._reach(now, _REACH), self.horizon)
        while day >= self.first and len(past) < before:
            if self._is_session(day):
                session = _session(self._exchanges, day)
                if session.open <= now:
                    past.append(session)
            day -= _ONE_DAY
        day = max(self._reach(now, -_REACH), self.first)
        while day <= self.horizon and len(future) < after:
            if self._is_session(day):
                session = _session(self._exchanges, day)
                if session.open > now:
                    future.append(session)
            day += _ONE_DAY
        return (*reversed(past), *future)

    @staticmethod
    def _reach(instant: datetime, span: timedelta) -> date:
        try:
            return (instant + span).date()
        except OverflowError:
            return instant.date()


def join_reasons(reasons: dict[str, str]) -> str | None:
    """Make one reason of several: itself if all agree, otherwise each with its MIC."""
    distinct = set(reasons.values())
    if len(distinct) <= 1:
        return next(iter(distinct), None)
    return "; ".join(f"{mic}: {reason}" for mic, reason in reasons.items())


@lru_cache(maxsize=512)
def _session(exchanges: tuple[Exchange, ...], day: date) -> Session:
    """Unite the sessions of the members that have one on this date; at least one must."""
    trading = [exchange for exchange in exchanges if exchange.is_session(day)]
    sessions = [exchange.session(day) for exchange in trading]
    if len(sessions) == 1:
        # Also of a market whose other members are closed: its ordinary hours are this one's.
        return sessions[0]
    opens = min(session.open for session in sessions)
    closes = max(session.close for session in sessions)
    usual = [exchange.ordinary_bounds(day) for exchange in trading]
    special = {
        exchange.mic: session.reason
        for exchange, session in zip(trading, sessions, strict=True)
        if session.reason is not None
    }
    agree = len(special) == len(sessions) and len(set(special.values())) == 1
    return Session(
        date=day,
        open=opens,
        close=closes,
        breaks=_pauses(sessions),
        early_close=closes < max(close for _, close in usual),
        late_open=opens > min(open_ for open_, _ in usual),
        reason=(
            next(iter(special.values()))
            if agree
            else "; ".join(f"{mic}: {reason}" for mic, reason in special.items()) or None
        ),
    )


@lru_cache(maxsize=512)
def _phases(exchanges: tuple[Exchange, ...], config: MarketStateConfig, day: date) -> Phases:
    """Lay the members' buffers round the session of this date; at least one member must trade."""
    session = _session(exchanges, day)
    trading = [
        (exchange.zone, *exchange.bounds(day)) for exchange in exchanges if exchange.is_session(day)
    ]
    return Phases(
        session_date=day,
        pre_open_at=min(config.pre_open_at(day, opens, zone) for zone, opens, _ in trading),
        open_at=session.open,
        close_at=session.close,
        post_close_ends_at=max(
            config.post_close_ends_at(day, closes, zone) for zone, _, closes in trading
        ),
    )


def _pauses(sessions: list[Session]) -> tuple[tuple[datetime, datetime], ...]:
    """Find the gaps in the united trading of several sessions."""
    trading: list[tuple[datetime, datetime]] = []
    for session in sessions:
        start = session.open
        for pause_start, pause_end in session.breaks:
            trading.append((start, pause_start))
            start = pause_end
        trading.append((start, session.close))
    trading.sort()
    pauses = []
    reached = trading[0][1]
    for start, end in trading[1:]:
        if start > reached:
            pauses.append((reached, start))
        reached = max(reached, end)
    return tuple(pauses)
