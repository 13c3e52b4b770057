"""An override as a person writes it: read whole, or refused with all that is wrong with it."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from unicodedata import category
from zoneinfo import ZoneInfo

from prometheus.core.exchanges import Break, LocalTime, exchange_mics
from prometheus.core.instants import find_zone, parse_instant
from prometheus.core.markets import Market, get_market, markets
from prometheus.core.overrides import Override, OverrideKind, Overrides
from prometheus.core.sessions import Session
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import (
    OverrideError,
    PrometheusError,
    UnknownMarketError,
    UnknownOverrideError,
    nearest,
)

TAKES: dict[OverrideKind, frozenset[str]] = {
    OverrideKind.CLOSED: frozenset(),
    OverrideKind.EARLY_CLOSE: frozenset({"close"}),
    OverrideKind.LATE_OPEN: frozenset({"open"}),
    OverrideKind.SPECIAL_SESSION: frozenset({"open", "close", "breaks"}),
    OverrideKind.CHANGED_HOURS: frozenset({"open", "close", "breaks"}),
}
"""Which times a kind may be given."""
LONGEST_TEXT, LONGEST_NAME = 1000, 200
"""Characters of what is said of an override, and of a person's name."""
_A_DAY = timedelta(days=1)
_BREAK = re.compile(r"(\d\d:\d\d)-(\d\d:\d\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An override in words."""

    target: str
    """MIC or market."""
    session: str
    """The session's date."""
    kind: str
    open: str | None = None
    close: str | None = None
    breaks: str | None = None
    """``11:30-12:30``, several with blanks between; ``none`` for a session without."""
    zone: str | None = None
    """Whose clocks the times are of."""
    reason: str
    source: str
    announced_at: str | None = None
    """Now if it is not said."""
    author: str


class _Reading:
    """What could be read, and what could not."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.faults: list[str] = []

    def market(self) -> Market | None:
        try:
            return get_market(self.draft.target)
        except UnknownMarketError as error:
            self.faults.append(str(error))
            return None

    def day(self) -> date | None:
        try:
            return date.fromisoformat(self.draft.session)
        except ValueError:
            self.faults.append(f"{self.draft.session!r} is not a date such as 2025-01-09")
            return None

    def kind(self) -> OverrideKind | None:
        if self.draft.kind in TAKES:
            return OverrideKind(self.draft.kind)
        known = nearest(self.draft.kind, map(str, TAKES))
        self.faults.append(f"{self.draft.kind!r} is no kind of override.{known}")
        return None

    def time(self, name: str, text: str | None) -> LocalTime | None:
        if text is None:
            return None
        try:
            found = LocalTime.parse(text)
        except ValueError:
            found = None
        if found is None or abs(found.days) > 1:
            self.faults.append(f"--{name} {text!r} is not a local time such as 13:00 or 17:00-1d")
        return found

    def breaks(self) -> tuple[Break, ...] | None:
        text = self.draft.breaks
        if text is None:
            return None
        found: list[Break] = []
        for pause in [] if text == "none" else text.split():
            pair = _BREAK.fullmatch(pause)
            try:
                start, end = map(LocalTime.parse, pair.groups() if pair else ())
            except ValueError:
                self.faults.append(
                    f"--breaks {text!r}: {pause!r} is not a break such as 11:30-12:30; "
                    f"'none' takes them away"
                )
                return None
            found.append((start, end))
        return tuple(found)

    def zone(self) -> str | None:
        name = self.draft.zone
        if name is None:
            return None
        try:
            return find_zone(name).key
        except ValueError as error:
            self.faults.append(f"--zone {error}")
            return None

    def announced_at(self, now: datetime) -> datetime:
        text = self.draft.announced_at
        if text is None:
            return now
        try:
            instant = parse_instant(text)
        except ValueError as error:
            self.faults.append(f"--announced-at {error}")
            return now
        if instant > now:
            self.faults.append(
                f"--announced-at {text!r} has not come yet; it is {now:%Y-%m-%dT%H:%M}Z now"
            )
        return instant

    def said(self, name: str, text: str) -> str:
        if not text.strip():
            why = "why the session differs" if name == "reason" else "who says so, such as an URL"
            self.faults.append(f"--{name} is empty: say {why}")
        self.faults += text_faults(name, text)
        return text.strip()


def text_faults(option: str, text: str, longest: int = LONGEST_TEXT) -> list[str]:
    """
    List what keeps a text from being stored and shown as it is.

    Args:
        option: What it is called where it is said, without the dashes.
        longest: Characters that it may have.
    """
    faults = []
    if len(text.strip()) > longest:
        faults.append(f"--{option} has {len(text.strip())} characters; at most {longest} are kept")
    odd = [each for each in text.strip() if category(each) in ("Cc", "Cs") and each not in "\n\t"]
    if odd:
        faults.append(f"--{option} has a character that can not be shown: {odd[0]!r}")
    return faults


def read_draft(draft: Draft, overrides: Overrides, *, now: datetime) -> Override:
    """
    Read an override and hold it against the calendar it would change.

    Args:
        draft: What was written.
        overrides: What has been recorded so far.
        now: Market time: nothing is announced later.

    Raises:
        OverrideError: With every fault that could be found.
    """
    reading = _Reading(draft)
    market, day, kind = reading.market(), reading.day(), reading.kind()
    opens, closes = reading.time("open", draft.open), reading.time("close", draft.close)
    breaks, zone = reading.breaks(), reading.zone()
    reason, source = reading.said("reason", draft.reason), reading.said("source", draft.source)
    announced_at = reading.announced_at(now)
    faults = reading.faults + text_faults("as", draft.author, LONGEST_NAME)
    if kind is not None:
        given = {
            name
            for name, text in (
                ("open", draft.open),
                ("close", draft.close),
                ("breaks", draft.breaks),
            )
            if text is not None
        }
        faults += _times_of_kind(kind, given)
        if draft.zone is not None and not given:
            faults.append("--zone says whose clocks times are of, and none is given")
    if market is not None and draft.zone is None and (opens or closes or breaks):
        zones = {exchange.zone.key for exchange in TradingCalendar(market).exchanges}
        if len(zones) > 1:
            faults.append(
                f"The exchanges of {market.market_id} go by different clocks: say with --zone "
                f"which ones are meant, one of {', '.join(sorted(zones))}"
            )
    if market is not None and day is not None and kind is not None:
        is_exchange = draft.target in exchange_mics() and draft.target not in {
            each.market_id for each in markets()
        }
        override = Override(
            override_id=overrides.latest + 1,
            exchange=market.market_id if is_exchange else None,
            market=None if is_exchange else market.market_id,
            session=day,
            kind=kind,
            open=opens,
            close=closes,
            breaks=breaks,
            zone=zone,
            reason=reason,
            source=source,
            announced_at=announced_at,
            author=draft.author,
        )
        readable = not faults
        faults += _against_calendar(override, market, overrides, readable=readable)
        if not faults:
            return override
    raise OverrideError(f"override of {draft.target} on {draft.session}", faults)


def _times_of_kind(kind: OverrideKind, given: set[str]) -> list[str]:
    takes = TAKES[kind]
    faults = [f"{kind} takes no --{name}" for name in sorted(given - takes)]
    if kind in (OverrideKind.EARLY_CLOSE, OverrideKind.LATE_OPEN):
        faults += [f"{kind} needs --{name}" for name in sorted(takes - given)]
    elif kind is OverrideKind.CHANGED_HOURS and not given:
        faults.append(f"{kind} needs --open, --close or --breaks")
    return faults


def _against_calendar(
    override: Override, market: Market, overrides: Overrides, *, readable: bool
) -> list[str]:
    """List what is wrong with an override of this market; what its times do only if ``readable``"""
    day, kind, name = override.session, override.kind, market.market_id
    before = TradingCalendar(market, overrides=overrides)
    if not before.first <= day <= before.horizon:
        known = f"{before.first} to {before.horizon}"
        return [f"{day} is outside the dates for which the sessions of {name} are known ({known})"]
    if not before.is_trading_day(day) and kind is OverrideKind.CLOSED:
        why = f"{name} is closed on {day} already: {before.reason(day)}"
        return [f"{why}; {_nearest_sessions(before, day)}"]
    if not before.is_trading_day(day) and kind is not OverrideKind.SPECIAL_SESSION:
        why = f"{name} has no session on {day} ({before.reason(day)}) that could change"
        return [f"{why}; {_nearest_sessions(before, day)}, or add a special_session"]
    if kind is OverrideKind.SPECIAL_SESSION and not before.closed_members(day):
        return [f"{name} has a session on {day} already: record changed_hours"]
    if not readable:
        return []
    return _against_sessions(override, market, before, overrides.plus(override))


def _nearest_sessions(calendar: TradingCalendar, day: date) -> str:
    """Name the sessions before and after a date, as far as they are known."""
    found = []
    for find in (calendar.previous_trading_day, calendar.next_trading_day):
        with suppress(PrometheusError):
            found.append(find(day).isoformat())
    return f"the nearest sessions are {' and '.join(found)}" if found else "it has no others"


def _against_sessions(
    override: Override, market: Market, before: TradingCalendar, overrides: Overrides
) -> list[str]:
    day, kind = override.session, override.kind
    faults: list[str] = []
    for exchange in before.exchanges:
        if exchange.is_session(day) == (kind is OverrideKind.SPECIAL_SESSION):
            continue  # it says nothing of this one
        zone = ZoneInfo(override.zone) if override.zone else exchange.zone
        new_open = override.open and override.open.on(day, zone)
        new_close = override.close and override.close.on(day, zone)
        opens, closes = exchange.bounds(day)
        if kind is OverrideKind.EARLY_CLOSE and new_close and before.is_trading_day(day):
            session = before.session(day)
            if new_close >= session.close:
                faults.append(
                    f"--close is {new_close:%H:%M} UTC, not earlier than the close of {day}, "
                    f"{session.close:%H:%M} UTC: record changed_hours"
                )
            elif new_close <= session.open:
                faults.append(
                    f"--close is {new_close:%H:%M} UTC, before the open of {day}, "
                    f"{session.open:%H:%M} UTC: record closed"
                )
        elif kind is OverrideKind.LATE_OPEN and new_open and before.is_trading_day(day):
            session = before.session(day)
            if new_open <= session.open:
                faults.append(
                    f"--open is {new_open:%H:%M} UTC, not later than the open of {day}, "
                    f"{session.open:%H:%M} UTC: record changed_hours"
                )
            elif new_open >= session.close:
                faults.append(
                    f"--open is {new_open:%H:%M} UTC, after the close of {day}, "
                    f"{session.close:%H:%M} UTC: record closed"
                )
        elif kind in (OverrideKind.SPECIAL_SESSION, OverrideKind.CHANGED_HOURS):
            start, end = new_open or opens, new_close or closes
            if end <= start:
                faults.append(
                    f"{exchange.mic} would close at {end:%H:%M} UTC, not after its open at "
                    f"{start:%H:%M} UTC"
                )
            elif end - start > _A_DAY:
                faults.append(f"{exchange.mic} would be open for longer than a day")
            faults += _break_faults(override, start, end, zone)
    if faults:
        return list(dict.fromkeys(faults))
    after = TradingCalendar(market, overrides=overrides)
    if _sessions(before, day) == _sessions(after, day):
        return [f"It would change nothing on {day}"]
    return _overlaps(after, day)


def _break_faults(override: Override, start: datetime, end: datetime, zone: ZoneInfo) -> list[str]:
    faults = []
    reached = start
    for pause in override.breaks or ():
        begins, ends = (at.on(override.session, zone) for at in pause)
        if not reached < begins < ends < end:
            faults.append(
                f"the break {pause[0].at:%H:%M}-{pause[1].at:%H:%M} is not inside the session, "
                f"or not after the one before"
            )
        reached = ends
    return faults


def _sessions(calendar: TradingCalendar, day: date) -> list[Session | None]:
    return [
        replace(exchange.session(day), reason=None) if exchange.is_session(day) else None
        for exchange in calendar.exchanges
    ]


def _overlaps(calendar: TradingCalendar, day: date) -> list[str]:
    """Find the sessions of the same exchange that a session would reach into."""
    faults = []
    for exchange in calendar.exchanges:
        if not exchange.is_session(day):
            continue
        alone = calendar.member(exchange.mic)
        opens, closes = exchange.bounds(day)
        for find in (alone.previous_trading_day, alone.next_trading_day):
            try:
                other = find(day)
            except PrometheusError:
                continue
            other_opens, other_closes = exchange.bounds(other)
            if opens < other_closes and other_opens < closes:
                faults.append(
                    f"{exchange.mic} would trade into its session of {other}, which is open "
                    f"{other_opens:%Y-%m-%d %H:%M} to {other_closes:%Y-%m-%d %H:%M} UTC"
                )
    return faults


def read_withdrawal(
    text: str, overrides: Overrides, *, reason: str, source: str, author: str, now: datetime
) -> Override:
    """
    Read which override is to be withdrawn, and why.

    Raises:
        OverrideError: With every fault that could be found.
    """
    faults = []
    known = {each.override_id: each for each in overrides.rows}
    found = known.get(int(text)) if text.isdecimal() else None
    if found is None:
        ids = [str(each.override_id) for each in overrides.standing()]
        faults.append(f"There is no override {text!r}.{nearest(text, ids)}")
    elif found.withdraws is not None:
        faults.append(
            f"{text} is the withdrawal of override {found.withdraws}: to bring that back, add it "
            f"again"
        )
    else:
        faults += [
            f"Override {text} was withdrawn already, by {each.override_id}"
            for each in overrides.rows
            if each.withdraws == found.override_id
        ]
    if not reason.strip():
        faults.append("--reason is empty: say why it does not hold any more")
    faults += text_faults("reason", reason) + text_faults("source", source)
    faults += text_faults("as", author, LONGEST_NAME)
    if faults or found is None:
        kind = OverrideError if found is not None else UnknownOverrideError
        raise kind(f"withdrawal of {text}", faults)
    return Override(
        override_id=overrides.latest + 1,
        exchange=found.exchange,
        market=found.market,
        session=found.session,
        kind=OverrideKind.WITHDRAWN,
        reason=reason.strip(),
        source=source.strip(),
        announced_at=now,
        author=author,
        withdraws=found.override_id,
    )
