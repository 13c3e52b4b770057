"""Every error Prometheus raises on purpose.

One class for each thing a caller handles differently. Each keeps its facts as attributes, and its
message says what came, what was wanted and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from datetime import date, datetime

_MOST_NAMES = 12
"""How many known names a message lists when none is close."""


class PrometheusError(Exception):
    """
    The base of all errors of this package, and of a job's own where they use what follows.

    A job that fails is tried again, as its retries allow. One that raises an error of this kind
    may say more:

    Attributes:
        retryable: ``False`` where trying again does not help: the job fails for good at once.
        not_before: Where trying again helps only from an instant on (aware, of the wall clock):
            the next attempt waits until then, and costs one retry like any other. If that is too
            late for the job's window or its run, the job fails for good. In a replay it is
            passed over: there no instant of the wall clock means anything.
    """

    retryable: bool = True
    not_before: datetime | None = None


def nearest(name: str, known: Iterable[str]) -> str:
    """
    Say which known name was probably meant.

    Returns:
        ``" Did you mean 'x'?"`` when one name is close, otherwise ``" Known: a, b."``
    """
    names = sorted(known)
    folded = {candidate.casefold(): candidate for candidate in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {folded[close[0]]!r}?"
    if len(names) > _MOST_NAMES:
        names = [*names[:_MOST_NAMES], f"and {len(names) - _MOST_NAMES} more"]
    return f" Known: {', '.join(names)}." if names else ""


class UnknownMarketError(PrometheusError):
    """No market or exchange has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        super().__init__(f"No market or exchange is called {name!r}.{nearest(name, known)}")


class UnreadableError(PrometheusError):
    """The sessions of one market cannot be read; those of others can."""


class DeclarationError(UnreadableError):
    """A market's declaration has faults, so nothing is known of its sessions."""

    def __init__(self, market_id: str, faults: Sequence[str]) -> None:
        self.market_id = market_id
        self.faults = tuple(faults)
        lines = "".join(f"\n  - {fault}" for fault in faults)
        super().__init__(
            f"The market {market_id} is held until its declaration is mended and this process is "
            f"started again; other markets are not affected.{lines}"
        )


class SnapshotError(UnreadableError):
    """The sessions of one exchange cannot be read from what was installed."""

    def __init__(self, mic: str, error: Exception) -> None:
        self.mic = mic
        super().__init__(
            f"The sessions of {mic} cannot be read from the installed snapshot "
            f"({type(error).__name__}: {error}). Install prometheus again; other exchanges are "
            f"not affected."
        )


class NaiveDatetimeError(PrometheusError):
    """An instant came without a time zone."""

    def __init__(self, argument: str, value: datetime) -> None:
        self.argument = argument
        self.value = value
        super().__init__(
            f"{argument} is {value.isoformat()}, which has no time zone, so it could be any of 24 "
            f"hours. Pass an aware datetime, for example datetime.now(timezone.utc)."
        )


class HorizonError(PrometheusError):
    """A question about a time for which an exchange's sessions are not known."""

    def __init__(self, calendar: str, asked: date | datetime, first: date, last: date) -> None:
        self.calendar = calendar
        self.asked = asked
        self.first = first
        self.last = last
        # An instant can be unknown on the first or the last date itself: dates are local.
        day = asked.date() if isinstance(asked, datetime) else asked
        if day <= first:
            side, remedy = "before the first", "Ask within these dates."
            self.known = f"known from {first.isoformat()}"
        else:
            side = "after the last"
            self.known = f"known to {last.isoformat()}"
            remedy = (
                "Ask within these dates, or install a release of prometheus with a newer "
                "sessions snapshot."
            )
        super().__init__(
            f"{asked.isoformat()} is {side} date for which the sessions of {calendar} are known "
            f"({first.isoformat()} to {last.isoformat()}). {remedy}"
        )


class NoSessionError(PrometheusError):
    """A market has no session on the date that was asked for."""

    def __init__(
        self, calendar: str, day: date, reason: str, before: date | None, after: date | None
    ) -> None:
        self.calendar = calendar
        self.day = day
        self.reason = reason
        self.before = before
        self.after = after
        # At either end of the calendar there is a session on one side only.
        around = [each.isoformat() for each in (before, after) if each is not None]
        nearest_sessions = {
            0: "",
            1: " The nearest session is {}.",
            2: " The nearest sessions are {}.",
        }
        super().__init__(
            f"{calendar} has no session on {day.isoformat()} ({reason})."
            + nearest_sessions[len(around)].format(" and ".join(around))
        )


class PipelineError(PrometheusError):
    """A pipeline or DAG cannot be used; ``faults`` lists everything that is wrong with it."""

    def __init__(self, name: str, faults: Sequence[str]) -> None:
        self.name = name
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(f"{name}: {count}.{lines}")


class OverrideError(PrometheusError):
    """An override cannot be recorded; ``faults`` lists everything that is wrong with it."""

    def __init__(self, what: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(f"{what}: {count}; nothing was changed.{lines}")


class OverridesChangedError(OverrideError):
    """Others were recorded since somebody saw what this one would change."""


class UnknownOverrideError(OverrideError):
    """There is no override of that number."""


class DatabaseError(PrometheusError):
    """The database can not be used; nothing was changed."""
