"""Which runs a tick makes: those that are due, also when the database refuses them at first."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, event, select, update
from sqlalchemy.exc import OperationalError

from prometheus.dispatch.scheduler import Pace
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import clock
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.metadata import database_now
from prometheus.persistence.tables import dag_runs, market_clock
from prometheus.verification import Expectation, check
from tests.integration.dispatch.schedulers import (
    RecordingBroker,
    make_attempts,
    make_scheduler,
    register_worker,
)
from tests.integration.dispatch.trial import chain

SESSION = date(2012, 11, 21)


class Lost(Exception):  # noqa: N818  what a driver would raise
    """A transaction that lost against another one."""

    sqlstate = "40001"


def test_market_whose_planning_lost_against_others_is_planned_at_the_next_tick(
    engine: Engine,
) -> None:
    """And not only when runs are looked for again, which may be after its first window."""
    with writing(engine) as connection:
        clock.start_replay(
            connection,
            market_at=datetime(2012, 11, 21, 15, tzinfo=UTC),
            speed=1,
            only=SessionRange(SESSION, SESSION),
            markets=["US_EQ"],
        )
    scheduler = make_scheduler(
        engine,
        RecordingBroker(),
        pipelines={chain.name: chain},
        markets=["US_EQ"],
        create_runs=True,
    )
    refused: list[str] = []

    def refuse_once(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO dag_runs") and not refused:
            refused.append(statement)
            raise OperationalError("could not serialize access", None, Lost())

    event.listen(engine, "before_cursor_execute", refuse_once)
    scheduler.tick()
    assert refused
    assert _runs(engine) == []
    scheduler.tick()
    assert _runs(engine) == ["us_eq_chain_2012-11-21"]


def test_pipeline_of_some_sessions_runs_on_those_alone_and_waits_for_its_own_one_before(
    engine: Engine,
) -> None:
    """The last of the month, 45 minutes after the close."""
    monthly = Pipeline("monthly", markets=["US_EQ"], sessions="last of month")
    monthly.add("jobs:report", start="close+45m", after_previous=True)
    with writing(engine) as connection:
        clock.start_replay(
            connection,
            market_at=datetime(2012, 11, 30, 21, 44, 30, tzinfo=UTC),
            speed=1,
            only=SessionRange(date(2012, 11, 26), date(2012, 12, 31)),
            markets=["US_EQ"],
        )
    broker, attempts, worker = RecordingBroker(), make_attempts(engine), register_worker(engine)
    scheduler = make_scheduler(
        engine,
        broker,
        pipelines={monthly.name: monthly},
        markets=["US_EQ"],
        create_runs=True,
        pace=Pace(plan_every=timedelta(0)),
    )

    def tick_at(market_at: datetime) -> list[str]:
        with writing(engine) as connection:
            connection.execute(
                update(market_clock).values(
                    anchor_market_at=market_at, anchor_wall_at=database_now()
                )
            )
        broker.published.clear()
        scheduler.tick()
        return [each.execution_id for each in broker.published]

    assert tick_at(datetime(2012, 11, 30, 21, 44, 30, tzinfo=UTC)) == []
    assert _runs(engine) == ["us_eq_monthly_2012-11-30"]
    (first,) = tick_at(datetime(2012, 11, 30, 21, 45, 30, tzinfo=UTC))
    attempts.start(first, worker="test", incarnation=worker)
    assert tick_at(datetime(2012, 12, 31, 21, 46, tzinfo=UTC)) == []
    assert _runs(engine) == ["us_eq_monthly_2012-11-30", "us_eq_monthly_2012-12-31"]
    attempts.succeed(first, incarnation=worker, result=None)
    (second,) = tick_at(datetime(2012, 12, 31, 21, 47, tzinfo=UTC))
    attempts.start(second, worker="test", incarnation=worker)
    attempts.succeed(second, incarnation=worker, result=None)
    tick_at(datetime(2012, 12, 31, 21, 48, tzinfo=UTC))
    with reading(engine) as connection:
        report = check(
            connection,
            expect=Expectation(
                {"monthly": ["US_EQ"]},
                date(2012, 11, 1),
                date(2012, 12, 31),
                {"monthly": ("last of month", "run")},
            ),
        )
    assert report.violations == ()


def test_sessions_that_a_pipeline_did_not_run_on_are_none_that_it_missed(engine: Engine) -> None:
    """It ran on the last of each month, and is made to run on all from 27 November on."""
    with writing(engine) as connection:
        clock.start_replay(
            connection,
            market_at=datetime(2012, 10, 31, 15, tzinfo=UTC),
            speed=1,
            only=SessionRange(date(2012, 10, 1), date(2012, 12, 31)),
            markets=["US_EQ"],
        )
    for sessions, market_at in (
        ("last of month", datetime(2012, 10, 31, 15, tzinfo=UTC)),
        ("every", datetime(2012, 11, 27, 15, tzinfo=UTC)),
        ("every", datetime(2012, 11, 29, 15, tzinfo=UTC)),
    ):
        pipeline = Pipeline("reports", markets=["US_EQ"], sessions=sessions, catch_up="all")
        pipeline.add("jobs:report")
        with writing(engine) as connection:
            connection.execute(
                update(market_clock).values(
                    anchor_market_at=market_at, anchor_wall_at=database_now()
                )
            )
        make_scheduler(
            engine,
            RecordingBroker(),
            pipelines={pipeline.name: pipeline},
            markets=["US_EQ"],
            create_runs=True,
        ).tick()
    days = ("10-31", "11-27", "11-28", "11-29")  # the 28th was missed, and is caught up
    assert _runs(engine) == [f"us_eq_reports_2012-{day}" for day in days]


def _runs(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        query = select(dag_runs.c.dag_id).order_by(dag_runs.c.dag_id)
        return list(connection.execute(query).scalars())
