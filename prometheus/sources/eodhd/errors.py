"""
What goes wrong between Prometheus and eodhd.com, one class for what a caller handles differently.

No message repeats what the server wrote: it echoes the question, token included, in some replies.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from prometheus.core.durations import format_duration
from prometheus.sources.errors import SourceConfigurationError, SourceError

SOURCE = "eodhd"


class EodhdError(SourceError):
    """
    The base of all of them.

    Attributes:
        question: What was asked, without the token: ``"eod/AAPL.US"``.
    """

    def __init__(self, question: str, message: str) -> None:
        self.question = question
        super().__init__(SOURCE, f"eodhd {question}: {message}")


class UnreachableError(EodhdError):
    """No answer, or only that the server is out of order, however often it was asked."""


class UnreadableReplyError(EodhdError):
    """An answer came that is not what was asked for; nothing of it was used."""


class TooManyRequestsError(EodhdError):
    """
    The server wants us to wait, for longer or more often than a job should.

    Attributes:
        retry_after: How long the next wait would have been, in full seconds.
    """

    def __init__(self, question: str, why: str, retry_after: timedelta) -> None:
        self.retry_after = timedelta(seconds=math.ceil(retry_after.total_seconds()))
        super().__init__(
            question,
            f"{why}; it wants to be left alone for {format_duration(self.retry_after)}. Lower "
            f"[eodhd] requests_per_minute if several processes use the token.",
        )


class QuotaSpentError(EodhdError):
    """
    The day's calls are used up; the client that was told so asks nothing before `until`.

    Attributes:
        until: Midnight GMT, when the count begins anew.
    """

    def __init__(self, question: str, until: datetime) -> None:
        self.until = self.not_before = until
        super().__init__(
            question,
            f"the daily quota of this token is spent (402). The count begins anew at "
            f"{until:%Y-%m-%d %H:%M} GMT; until then choose another source, or a larger plan.",
        )


class AccessRefusedError(EodhdError):
    """The token is wrong, or its plan does not include what was asked for."""

    retryable = False

    def __init__(self, question: str, status: int, *, of_plan: bool) -> None:
        self.status = status
        self.of_plan = of_plan
        super().__init__(
            question,
            f"the plan of this token does not include it ({status}). Choose another source for "
            f"this market, or a larger plan."
            if of_plan
            else f"the token was refused ({status}). Check [eodhd] token, or the file that "
            f"PROMETHEUS__EODHD__TOKEN_FILE names; and whether the plan includes the question.",
        )


class NotFoundError(EodhdError):
    """The server knows no such exchange or symbol."""

    retryable = False

    def __init__(self, question: str) -> None:
        super().__init__(
            question,
            "no such exchange or symbol (404). Check [eodhd] symbols and codes: AAPL on US, VOD on "
            "LSE, and so on.",
        )


class BadQuestionError(EodhdError):
    """The server does not take the question; asking again does not help."""

    retryable = False

    def __init__(self, question: str, status: int) -> None:
        self.status = status
        super().__init__(
            question,
            f"the server does not take this question ({status}). Check [eodhd] url, symbols and "
            f"codes; if they are right, its interface has changed.",
        )


class NoSuchExchangeError(SourceConfigurationError):
    """None of a market's exchanges has prices at eodhd.com."""

    def __init__(self, market_id: str, exchanges: dict[str, str]) -> None:
        self.market_id = market_id
        self.exchanges = exchanges
        named = ", ".join(f"{mic} ({code})" for mic, code in exchanges.items())
        super().__init__(
            f"{market_id}: eodhd has no such exchange as {named} in its list, so it has no prices "
            f"of this market. Choose another source in [sources], or name the exchange in [eodhd] "
            f"codes, which is asked whatever the list says."
        )
