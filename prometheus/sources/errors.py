"""What goes wrong between Prometheus and a feed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from prometheus.errors import PrometheusError, nearest


class SourceError(PrometheusError):
    """
    A feed did not deliver what was asked for; a later attempt may succeed.

    Attributes:
        source: Name of the feed.
    """

    def __init__(self, source: str, message: str) -> None:
        self.source = source
        super().__init__(message)


class TooFewRowsError(SourceError):
    """
    An exchange's session has clearly fewer bars than the sessions before it.

    Attributes:
        mic: The exchange.
        session_date: Its session.
        rows: Bars that came.
        needed: Bars that would have been enough.
    """

    def __init__(self, source: str, mic: str, session_date: date, rows: int, needed: int) -> None:
        self.mic = mic
        self.session_date = session_date
        self.rows = rows
        self.needed = needed
        bars = "1 bar" if rows == 1 else f"{rows} bars"
        super().__init__(
            source,
            f"{source} has {bars} of {mic} for {session_date.isoformat()}; at least {needed} were "
            f"wanted (95 % of the median of the five sessions before). The day is probably not "
            f"complete yet: the job tries again; if the bars never come, look at the feed.",
        )


class SourceConfigurationError(PrometheusError):
    """A source was configured that can not serve a market; trying again does not help."""

    retryable = False


class UnknownSourceError(SourceConfigurationError):
    """No source has this name."""

    def __init__(self, market_id: str, name: str, known: Iterable[str]) -> None:
        self.market_id = market_id
        self.name = name
        super().__init__(
            f"{market_id}: no price source is called {name!r}.{nearest(name, known)} "
            f"Set [sources] {market_id} in prometheus.toml."
        )
