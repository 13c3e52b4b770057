"""What several replies and questions are made of."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
)

from prometheus.core.market_state import MarketState, Transition
from prometheus.core.sessions import Session
from prometheus.orchestration.windows import Window
from prometheus.persistence.clock import Now

_DATE = re.compile(r"\d{4}-\d\d-\d\d")


class Model(BaseModel):
    """A part of a reply, or the parameters of a question: any others are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def in_utc(value: datetime) -> datetime:
    """
    Write an aware instant in UTC.

    Raises:
        ValueError: It is in a year without dates there.
    """
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years that have dates") from None


def _as_instant(value: object) -> object:
    # A number would be taken for seconds of the epoch, and a date for its midnight.
    if isinstance(value, str) and not re.match(rf"{_DATE.pattern}[Tt ]", value):
        raise ValueError("must be an instant such as 2012-11-23T17:30:00Z")
    return value


def _as_date(value: object) -> object:
    if isinstance(value, str) and not _DATE.fullmatch(value):
        raise ValueError("must be a date such as 2012-11-23")
    return value


Instant = Annotated[AwareDatetime, BeforeValidator(_as_instant), AfterValidator(in_utc)]
"""An aware instant, written in UTC with a Z."""
IsoDate = Annotated[date, BeforeValidator(_as_date)]
"""A date as ISO 8601 writes it."""
Name = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
"""Of a market, run, job or worker, in a question."""


class Reply(Model):
    """A reply that is true at an instant."""

    wall_at: Instant
    """Wall time of the look, by the database's clock."""
    market_at: Instant
    """Market time of the look; another only in a replay."""


def times(now: Now) -> dict[str, datetime]:
    """Return what every `Reply` begins with."""
    return {"wall_at": now.wall_at, "market_at": now.market_at}


class Change(Model):
    """The next change of a market's state."""

    at: Instant
    state: MarketState

    @classmethod
    def of(cls, transition: Transition | None) -> Self | None:
        """Make one of what the calendar says, if it does."""
        return None if transition is None else cls(at=transition.at, state=transition.state)


class Interval(Model):
    """A time in which a job may start, or a market pauses; half-open."""

    opens_at: Instant
    closes_at: Instant

    @classmethod
    def of(cls, window: Window) -> Self:
        """Make one of a window."""
        return cls(opens_at=window.opens_at, closes_at=window.closes_at)


class Pause(Model):
    """A break; half-open."""

    start_at: Instant
    end_at: Instant


class SessionHours(Model):
    """A session; half-open."""

    open_at: Instant
    close_at: Instant
    breaks: list[Pause]
    early_close: bool
    late_open: bool
    reason: str | None
    """Why its hours are special."""

    @classmethod
    def of(cls, session: Session) -> Self:
        """Make one of what the calendar says."""
        return cls(
            open_at=session.open,
            close_at=session.close,
            breaks=[Pause(start_at=start, end_at=end) for start, end in session.breaks],
            early_close=session.early_close,
            late_open=session.late_open,
            reason=session.reason,
        )


class RecordedOverride(Model):
    """What somebody says of one session."""

    id: int
    exchange: str | None
    """MIC of the exchange it is about; or ``market``."""
    market: str | None
    session: date
    kind: str
    open: str | None
    """Local time, such as ``09:30`` or ``17:00-1d``."""
    close: str | None
    breaks: str | None
    """``11:30-12:30``; empty takes them away, ``null`` leaves them."""
    zone: str | None
    """Whose clocks the times are of; ``null``: the exchange's."""
    reason: str
    source: str
    announced_at: Instant
    """Market time."""
    author: str
    recorded_at: Instant | None
    withdraws: int | None
    """Id of the override that it takes back."""
    fault: str | None
    """Why it does not hold, if what it says can not be read here."""
    in_force: bool
