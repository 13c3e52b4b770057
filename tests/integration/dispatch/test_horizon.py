"""A calendar that is about to end is said aloud while there is time."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import Engine

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.scheduler import Pace, Scheduler
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import clock
from prometheus.persistence.engine import writing
from tests.integration.dispatch.schedulers import RecordingBroker, make_scheduler
from tests.integration.dispatch.trial import chain, joined

HORIZON = TradingCalendar("US_EQ").horizon
NO_SESSION = SessionRange(date(2012, 11, 21), date(2012, 11, 21))


@pytest.mark.promise("P7")
def test_calendar_that_ends_is_said_once_a_day(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """However often runs are planned, and for however many pipelines."""
    scheduler = _scheduler(engine)

    for days_left in (92, 91, 90, 89, -1):
        _set_market_time(engine, HORIZON - timedelta(days=days_left))
        for _ in range(3):
            scheduler.tick()

    said = [vars(each) for each in caplog.records if each.message == "calendar_ends"]
    assert [(each["market"], each["days"], each["last"]) for each in said] == [
        ("US_EQ", 90, HORIZON),
        ("US_EQ", 89, HORIZON),
        ("US_EQ", -1, HORIZON),
    ]
    assert {each["levelname"] for each in said} == {"WARNING"}


def _scheduler(engine: Engine) -> Scheduler:
    """Make one that plans the runs of two pipelines at every tick, and finds none to make."""
    return make_scheduler(
        engine,
        RecordingBroker(),
        pipelines={each.name: each for each in (chain, joined)},
        markets=["US_EQ"],
        pace=Pace(plan_every=timedelta(0)),
        create_runs=True,
    )


def _set_market_time(engine: Engine, day: date) -> None:
    at = datetime.combine(day, time(12), UTC)
    with writing(engine) as connection:
        clock.start_replay(connection, market_at=at, speed=1, only=NO_SESSION, markets=["US_EQ"])
