"""What happens to the runs of a market when the database refuses them at first."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Engine, event, select
from sqlalchemy.exc import OperationalError

from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import clock
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.tables import dag_runs
from tests.integration.dispatch.schedulers import RecordingBroker, make_scheduler
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


def _runs(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return list(connection.execute(select(dag_runs.c.dag_id)).scalars())
