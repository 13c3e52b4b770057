"""A calendar that is about to end is said aloud while there is time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import Engine

from prometheus.core.market_state import MarketState
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.context import JobContext
from prometheus.dispatch.scheduler import Pace, Scheduler
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import clock
from prometheus.persistence.engine import writing
from tests.integration.dispatch.schedulers import RecordingBroker, make_scheduler
from tests.integration.dispatch.trial import chain, joined

HORIZON = TradingCalendar("US_EQ").horizon
NO_SESSION = SessionRange(date(2012, 11, 21), date(2012, 11, 21))


@pytest.mark.promise("P7")
def test_calendar_that_ends_is_said_once_a_day_and_ever_louder(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """However often runs are planned, for however many pipelines, and by whichever scheduler."""
    for days_left in (92, 91, 90, 89, 31, 30, 0, -1, -40):
        _set_market_time(engine, HORIZON - timedelta(days=days_left))
        for _ in range(2):
            scheduler = _scheduler(engine)  # as after a restart
            for _ in range(2):
                scheduler.tick()

    said = [vars(each) for each in caplog.records if each.levelname in ("WARNING", "ERROR")]
    assert [(each["message"], each["levelname"], each["level"], each["days"]) for each in said] == [
        ("calendar_ends", "WARNING", "warning", 90),
        ("calendar_ends", "WARNING", "warning", 89),
        ("calendar_ends", "WARNING", "warning", 31),
        ("calendar_ends", "ERROR", "alert", 30),
        ("calendar_ends", "ERROR", "alert", 0),
        ("calendar_ends", "ERROR", "error", -1),
        ("calendar_ends", "ERROR", "error", -40),
    ]
    assert {(each["market"], each["last"], each["source"]) for each in said} == {
        ("US_EQ", HORIZON, TradingCalendar("US_EQ").horizon_source)
    }


@pytest.mark.promise("P6")
def test_market_whose_calendar_has_ended_or_broken_keeps_no_other_from_working(
    engine: Engine, break_sessions: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Shanghai's has ended, and the file of Paris breaks under a run that is open."""
    everywhere = Pipeline("everywhere", markets=["EU_EQ", "US_EQ", "XSHG"])
    everywhere.job(name="first")(_nothing)
    everywhere.job(name="after_the_close", required_state=MarketState.POST_CLOSE)(_nothing)
    broker = RecordingBroker()
    scheduler = make_scheduler(
        engine,
        broker,
        pipelines={"everywhere": everywhere},
        markets=["EU_EQ", "US_EQ", "XSHG"],
        pace=Pace(plan_every=timedelta(0)),
        create_runs=True,
    )
    session = date(2027, 6, 1)
    _set_market_time(engine, session, time(8), only=SessionRange(session, session))
    scheduler.tick()
    break_sessions("XPAR")
    _set_market_time(engine, session, time(21), only=SessionRange(session, session))
    scheduler.tick()

    assert [(each.queue, each.job_type) for each in broker.published] == [
        ("EU_EQ", "first"),
        ("US_EQ", "after_the_close"),
        ("US_EQ", "first"),
    ]
    errors = [vars(each) for each in caplog.records if each.levelname == "ERROR"]
    assert [(each["message"], each["market"]) for each in errors] == [
        ("calendar_ends", "XSHG"),
        ("market_not_planned", "EU_EQ"),
        ("market_held", "EU_EQ"),
    ]


def _nothing(ctx: JobContext) -> None: ...


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


def _set_market_time(
    engine: Engine, day: date, at: time = time(12), only: SessionRange = NO_SESSION
) -> None:
    instant = datetime.combine(day, at, UTC)
    markets = ["EU_EQ", "US_EQ", "XSHG"] if only is not NO_SESSION else ["US_EQ"]
    with writing(engine) as connection:
        clock.start_replay(connection, market_at=instant, speed=1, only=only, markets=markets)
