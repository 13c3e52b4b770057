"""What goes wrong inside the equity jobs."""

from __future__ import annotations

from datetime import date

from prometheus.errors import PrometheusError


class MissingInputError(PrometheusError):
    """A job finds nothing where the job before it should have written."""

    def __init__(self, table: str, market_id: str, session_date: date, writer: str) -> None:
        self.table = table
        self.market_id = market_id
        self.session_date = session_date
        self.writer = writer
        super().__init__(
            f"{table} has no rows of {market_id} for {session_date.isoformat()}. "
            f"Run {writer} for this session first."
        )


class ParameterError(PrometheusError):
    """A parameter of the run has a value that the equity jobs can not use."""

    def __init__(self, name: str, value: object, wanted: str) -> None:
        self.name = name
        self.value = value
        super().__init__(
            f"parameter {name!r} is {value!r}; {wanted} was wanted. Correct it in the pipeline's "
            f"parameters."
        )
