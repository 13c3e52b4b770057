"""On which of its markets' sessions a pipeline runs: ``"every"``, ``"3rd of month"``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import ClassVar

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import HorizonError

_EVERY = "every"
_FORM = re.compile(r"(first|last|([1-9]\d?)(st|nd|rd|th)) of (week|month)")
_LAST = -1


class ShortSessions(StrEnum):
    """What a pipeline does on a session that opens late or closes early."""

    RUN = "run"
    """It runs as on every other."""
    SKIP = "skip"
    """It has no run."""


@dataclass(frozen=True, slots=True)
class SessionRule:
    """
    Which sessions of a market's calendar a pipeline runs on.

    Weeks begin on Monday. Sessions are counted, not days: the first of a week that begins with a
    holiday is Tuesday's, and a week of four sessions has no 5th. Short sessions are counted too;
    where they are skipped, one that is chosen is not made up for by another.
    """

    number: int = 0
    """Which of its period: 1 is the first, -1 the last; 0 where there is no period."""
    period: str | None = None
    """``week`` or ``month``; ``None`` for every session."""
    short_sessions: ShortSessions = ShortSessions.RUN

    FORMS: ClassVar[str] = (
        "'every', or 'first', '2nd', '3rd' (and so on) or 'last' with 'of week' or 'of month', "
        "such as 'last of month'"
    )

    @classmethod
    def parse(cls, text: str, short_sessions: ShortSessions = ShortSessions.RUN) -> SessionRule:
        """
        Read a rule as `__str__` writes it.

        Raises:
            ValueError: ``text`` is anything else.
        """
        if text == _EVERY:
            return cls(short_sessions=short_sessions)
        match = _FORM.fullmatch(text)
        number = int(match[2] or {"first": 1, "last": _LAST}[match[1]]) if match else 0
        if match is None or (match[2] and match[3] != _suffix(number)):
            raise ValueError(f"it must be {cls.FORMS}")
        return cls(number, match[4], short_sessions)

    def __str__(self) -> str:
        if self.period is None:
            return _EVERY
        names = {1: "first", _LAST: "last"}
        return f"{names.get(self.number, f'{self.number}{_suffix(self.number)}')} of {self.period}"

    @property
    def words(self) -> str:
        """The rule as a phrase: ``the last session of each month, short ones left out``."""
        which = str(self).replace(" of", " session of each") if self.period else "session"
        short = ", short ones left out" if self.short_sessions is ShortSessions.SKIP else ""
        return f"{'the' if self.period else 'every'} {which}{short}"

    def includes(self, calendar: TradingCalendar, day: date) -> bool:
        """
        Say whether the pipeline runs on the session that carries a date.

        Raises:
            NoSessionError: No session carries it.
            HorizonError: That depends on sessions which the calendar does not know: what is the
                last session of a period is known once a later one is, or the whole period.
        """
        if self.short_sessions is ShortSessions.SKIP:
            session = calendar.session(day)
            if session.early_close or session.late_open:
                return False
        if self.period is None:
            return True
        if self.number != _LAST:
            return len(calendar.trading_days(self._start(day), day)) == self.number
        try:
            return self._start(calendar.next_trading_day(day)) != self._start(day)
        except HorizonError:
            if self._start(calendar.horizon + timedelta(days=1)) == self._start(day):
                raise
            return True

    def previous(self, calendar: TradingCalendar, day: date) -> date:
        """
        Find the last session before a date on which the pipeline runs.

        Raises:
            HorizonError: The calendar knows none.
        """
        day = calendar.previous_trading_day(day)
        while not self.includes(calendar, day):
            day = calendar.previous_trading_day(day)
        return day

    def sessions(self, calendar: TradingCalendar, start: date, end: date) -> list[date]:
        """
        List the sessions from ``start`` to ``end``, both included, on which the pipeline runs.

        Raises:
            HorizonError: As `includes`, or either bound is outside the calendar.
        """
        return [day for day in calendar.trading_days(start, end) if self.includes(calendar, day)]

    def occurs(self, calendar: TradingCalendar) -> bool:
        """Say whether any period that the calendar knows has so many sessions."""
        if self.number <= 1:
            return True
        count, begun = 0, None
        for day in calendar.trading_days(calendar.first, calendar.horizon):
            start = self._start(day)
            count, begun = (count + 1 if start == begun else 1), start
            if count == self.number:
                return True
        return False

    def _start(self, day: date) -> date:
        """Return the first day of a day's period."""
        if self.period == "month":
            return day.replace(day=1)
        return day - timedelta(days=day.weekday())


EVERY = SessionRule()


def _suffix(number: int) -> str:
    if number in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
