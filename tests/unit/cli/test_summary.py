"""What is told at the end of runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from io import StringIO

import pytest
from rich.console import Console

from prometheus.cli.summary import Summary, print_summary
from prometheus.core.drafts import Draft, read_draft
from prometheus.core.overrides import Overrides, put_in_force
from prometheus.orchestration.lifecycle import RunStatus
from prometheus.persistence.progress import RunSummary

FRIDAY = date(2026, 11, 27)


@pytest.fixture
def closed() -> Iterator[None]:
    """An override that came when the run was there."""
    words = {"reason": "fire alarm", "source": "the exchange", "author": "ann"}
    draft = Draft(target="US_EQ", session=str(FRIDAY), kind="closed", **words)
    now = datetime(2026, 11, 27, 14, tzinfo=UTC)
    put_in_force(Overrides().plus(read_draft(draft, Overrides(), now=now)))
    yield
    put_in_force(Overrides())


@pytest.mark.usefixtures("closed")
def test_run_whose_session_was_closed_meanwhile_is_summed_up_all_the_same() -> None:
    run = RunSummary(
        dag_id="us_eq_daily_2026-11-27",
        pipeline="daily",
        market_id="US_EQ",
        session_date=FRIDAY,
        status=RunStatus.CANCELLED,
        trigger="schedule",
        jobs={"CANCELLED": 9},
        attempts=0,
        lasted=None,
        first_start_market_at=None,
        errors=(),
    )
    summary = Summary(runs=[run], sources={}, book=None)
    (document,) = summary.document()["runs"]
    assert document["session"] == {
        "open": None,
        "close": None,
        "early_close": False,
        "reason": "fire alarm",
    }
    out = StringIO()
    print_summary(Console(file=out, width=160), summary)
    (line,) = (line for line in out.getvalue().splitlines() if line.startswith(run.dag_id))
    assert line.split()[1:3] == ["closed", "CANCELLED"]
    assert "  US_EQ 2026-11-27: closed, fire alarm" in out.getvalue()
