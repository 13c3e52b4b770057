"""What `prune` removes, and that no scheduler makes it again."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, insert, select, update

from prometheus.dispatch.scheduler import Scheduler
from prometheus.orchestration.lifecycle import JobStatus, RunStatus
from prometheus.orchestration.planning import LOOKS_BACK, SessionRange
from prometheus.persistence import clock, pruning, runs
from prometheus.persistence.audits import record_audit
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.metadata import database_now
from prometheus.persistence.pruning import (
    OTHERS,
    Cutoff,
    Removed,
    TooYoungError,
    count_old,
    find_cutoff,
    forget_some,
    prune,
)
from prometheus.persistence.tables import (
    alerts,
    audit,
    backfills,
    dag_runs,
    job_executions,
    pipelines,
    request_keys,
    worker_incarnations,
)
from tests.integration.dispatch.schedulers import RecordingBroker, make_scheduler
from tests.integration.dispatch.trial import chain

NOW = datetime(2012, 11, 21, 15, tzinfo=UTC)
AGE = timedelta(days=60)
OLD = [date(2012, 9, day) for day in (17, 18, 19, 20, 21)]
KEPT = [date(2012, 9, day) for day in (24, 25)]
"""Sessions around the cutoff, which is 22 September."""


def scheduler(engine: Engine) -> Scheduler:
    return make_scheduler(
        engine,
        RecordingBroker(),
        pipelines={chain.name: chain},
        markets=["US_EQ"],
        create_runs=True,
    )


@pytest.fixture
def ended(engine: Engine) -> Scheduler:
    """A scheduler that has made all runs; all but the last one ended long ago."""
    with writing(engine) as connection:
        only = SessionRange(OLD[0], KEPT[-1])
        clock.start_replay(connection, market_at=NOW, speed=1, only=only, markets=["US_EQ"])
        runs.first_seen(connection, chain.name, "US_EQ", chain.sessions.words, NOW - 2 * AGE)
    made = scheduler(engine)
    made.tick()
    assert sessions(engine) == [*OLD, *KEPT]
    end(engine, *OLD, *KEPT[:1])
    return made


def end(engine: Engine, *days: date, ago: timedelta = 2 * AGE) -> None:
    """Write that the runs of some sessions ended some time ago."""
    with writing(engine) as connection:
        now = connection.execute(select(database_now())).scalar_one()
        connection.execute(
            update(dag_runs)
            .where(dag_runs.c.as_of_date.in_(days))
            .values(status=RunStatus.FAILED, completed_at=now - ago)
        )


def sessions(engine: Engine) -> list[date]:
    with reading(engine) as connection:
        return list(
            connection.execute(select(dag_runs.c.as_of_date).order_by("as_of_date")).scalars()
        )


def cutoff(engine: Engine) -> Cutoff:
    with reading(engine) as connection:
        return find_cutoff(connection, AGE)


def removed(engine: Engine) -> Removed:
    return sum(prune(engine, cutoff(engine), actor="bob", reason="disk"), Removed(0, 0))


def test_what_is_old_goes_whole_and_is_counted_before(engine: Engine, ended: Scheduler) -> None:
    with writing(engine) as connection:
        record_audit(connection, "me", "run", "us_eq_chain_2012-09-17", {}, before=None, after=None)
    expected = Removed(5, 5 * len(chain.jobs), OLD[0], OLD[-1])
    assert count_old(engine, cutoff(engine)) == expected
    assert sessions(engine) == [*OLD, *KEPT]
    assert removed(engine) == expected
    assert sessions(engine) == KEPT
    with reading(engine) as connection:
        left = connection.execute(select(func.count()).select_from(job_executions)).scalar_one()
        assert left == 2 * len(chain.jobs)
        kept, entry = connection.execute(select(audit).order_by(audit.c.audit_id)).all()
    assert kept.actor == "me"
    assert (entry.actor, entry.action, entry.target) == (
        "bob", "prune", "sessions before 2012-09-22",
    )  # fmt: skip
    assert (entry.details["reason"], entry.details["after"]) == ("disk", None)
    assert entry.details["before"] == {**expected.document(), "alerts": 0}
    assert removed(engine) == Removed(0, 0)


def test_the_oldest_sessions_go_first(
    engine: Engine, ended: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, each step would first go through all that stays of the pipelines before it."""
    with writing(engine) as connection:
        last = select(dag_runs).where(dag_runs.c.as_of_date == OLD[-1])
        row = dict(connection.execute(last).mappings().one())
        connection.execute(insert(dag_runs), {**row, "dag_id": "a", "pipeline": "a"})
    monkeypatch.setattr(pruning, "_RUNS_AT_ONCE", 1)
    steps = prune(engine, cutoff(engine), actor="bob")
    assert [each.first_session for each in steps] == [*OLD, OLD[-1]]


def test_what_else_is_old_goes_in_small_steps_and_is_told(engine: Engine, ended: Scheduler) -> None:
    with writing(engine) as connection:
        now = connection.execute(select(database_now())).scalar_one()
        old = {"request_hash": "", "answer": "", "created_at": now - 2 * AGE}
        keys = [{"key": str(number), **old} for number in range(1_001)]
        connection.execute(insert(request_keys), keys)
    expected = count_old(engine, cutoff(engine))
    assert (expected.runs, expected.request_keys) == (5, 1_001)
    steps = list(prune(engine, cutoff(engine), actor="bob"))
    assert [each.request_keys for each in steps] == [1_000, 1, 0]
    assert sum(steps, Removed(0, 0)) == expected
    with reading(engine) as connection:
        details = connection.execute(select(audit.c.details)).scalar_one()
    assert details["before"] == expected.document()


def make_others(engine: Engine, **count: int) -> None:
    """Write some keys of requests, alerts, backfills and workers that were over long ago."""
    with writing(engine) as connection:
        then = connection.execute(select(database_now())).scalar_one() - 2 * AGE
        key = {"request_hash": "", "answer": "", "created_at": then}
        alert = {
            "kind": "job_failed", "severity": "warning", "markets": [], "summary": "",
            "details": [], "subjects": [], "told_subjects": [], "since": then, "raised_at": then,
            "times": 1, "resolved_at": then,
        }  # fmt: skip
        backfill = {
            "pipeline": "p", "market_id": "US_EQ", "first_session": OLD[0], "last_session": OLD[0],
            "reprocess": "none", "max_active_runs": 1, "reason": "", "author": "", "ended_at": then,
        }  # fmt: skip
        worker = {
            "worker": "w@h", "host": "h", "pid": 1, "queues": [], "expires_at": then,
            "ended_at": then,
        }  # fmt: skip
        for table, name, row in (
            (request_keys, "key", key),
            (alerts, "key", alert),
            (backfills, None, backfill),
            (worker_incarnations, "incarnation", worker),
        ):
            many = count.get(table.name, 0)
            named = [row | ({name: str(at)} if name else {}) for at in range(many)]
            if named:
                connection.execute(insert(table), named)


def test_alerts_and_backfills_go_in_small_steps_too(engine: Engine, ended: Scheduler) -> None:
    make_others(engine, alerts=401, backfills=3)
    expected = count_old(engine, cutoff(engine))
    assert (expected.alerts, expected.backfills) == (401, 2)  # the last keeps its number
    steps = list(prune(engine, cutoff(engine), actor="bob"))
    assert [each.alerts for each in steps] == [200, 200, 1, 0, 0, 0]
    assert [each.backfills for each in steps] == [0, 0, 0, 1, 1, 0]
    assert sum(steps, Removed(0, 0)) == expected
    with reading(engine) as connection:
        assert connection.execute(select(backfills.c.backfill_id)).scalars().all() == [3]
        details = connection.execute(select(audit.c.details)).scalar_one()
    assert details["before"] == expected.document()


def test_beside_another_one_it_goes_on_with_what_that_leaves(postgresql_url: str) -> None:
    """The other one's rows are neither waited for nor taken for the last."""
    engine = create_engine(postgresql_url)
    make_others(engine, request_keys=1_001, alerts=201, backfills=3, worker_incarnations=1_001)
    with writing(engine) as other:
        went = {kind: forget_some(other, kind, cutoff(engine).completed_at) for kind in OTHERS}
        assert went == {"request_keys": 1_000, "alerts": 200, "backfills": 1, "workers": 1_000}
        assert removed(engine) == Removed(0, 0, request_keys=1, alerts=1, backfills=1, workers=1)
    engine.dispose()


def test_a_worker_that_went_lately_or_whose_attempt_is_not_ended_yet_stays(
    engine: Engine, ended: Scheduler
) -> None:
    make_others(engine, worker_incarnations=3)
    with writing(engine) as connection:
        known = worker_incarnations.c
        of = update(worker_incarnations)
        connection.execute(of.where(known.incarnation == "1").values(ended_at=database_now()))
        one = select(func.min(job_executions.c.execution_id)).scalar_subquery()
        connection.execute(
            update(job_executions)
            .where(job_executions.c.execution_id == one)
            .values(
                status=JobStatus.RUNNING,
                incarnation="2",
                scheduled_at=NOW,
                started_at=NOW,
                completed_at=None,
            )
        )
    assert removed(engine).workers == 1
    with reading(engine) as connection:
        assert sorted(connection.execute(select(known.incarnation)).scalars()) == ["1", "2"]


def test_an_open_run_stays_and_so_does_one_that_ended_lately(
    engine: Engine, ended: Scheduler
) -> None:
    end(engine, OLD[2], ago=timedelta(days=1))
    with writing(engine) as connection:
        connection.execute(
            update(dag_runs)
            .where(dag_runs.c.as_of_date == OLD[1])
            .values(status=RunStatus.OPEN, completed_at=None)
        )
    assert removed(engine).runs == 3
    assert sessions(engine) == [OLD[1], OLD[2], *KEPT]


def test_no_scheduler_makes_again_what_has_gone(engine: Engine, ended: Scheduler) -> None:
    """Neither one that starts anew, nor one that looks at all sessions again for an override."""
    removed(engine)
    scheduler(engine).tick()
    assert sessions(engine) == KEPT
    ended._planned_until.clear()
    ended._plan_at = None
    ended.tick()
    assert sessions(engine) == KEPT


def test_sessions_are_forgotten_before_the_first_run_goes(engine: Engine, ended: Scheduler) -> None:
    """One that is interrupted has promised too much rather than too little."""
    going = prune(engine, cutoff(engine), actor="bob")
    with writing(engine) as connection:
        connection.execute(update(pipelines).values(first_seen_at=NOW - 2 * AGE))
    next(going)
    with reading(engine) as connection:
        seen_at = runs.seen_since(connection, chain.name, "US_EQ")
    assert seen_at == datetime(2012, 9, 22, tzinfo=UTC) + LOOKS_BACK


def test_a_pipeline_none_of_whose_runs_goes_is_as_before(engine: Engine, ended: Scheduler) -> None:
    with writing(engine) as connection:
        runs.first_seen(connection, "other", "US_EQ", "every session", NOW - 2 * AGE)
    removed(engine)
    with reading(engine) as connection:
        assert runs.seen_since(connection, "other", "US_EQ") == NOW - 2 * AGE


def test_what_somebody_holds_is_left_for_the_next_time(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    with writing(engine) as connection:
        only = SessionRange(OLD[0], KEPT[-1])
        clock.start_replay(connection, market_at=NOW, speed=1, only=only, markets=["US_EQ"])
        runs.first_seen(connection, chain.name, "US_EQ", chain.sessions.words, NOW - 2 * AGE)
    scheduler(engine).tick()
    end(engine, *OLD)
    with writing(engine) as connection:
        runs.lock_runs(connection, ["us_eq_chain_2012-09-18"])
        assert removed(engine).runs == 4
    assert removed(engine).runs == 1
    engine.dispose()


def test_what_is_young_is_not_removed(engine: Engine) -> None:
    with reading(engine) as connection, pytest.raises(TooYoungError, match="29 are asked for"):
        find_cutoff(connection, timedelta(days=29))
