"""What the tables themselves refuse, beside the functions that write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from prometheus.orchestration.lifecycle import FINAL, JobStatus, RunStatus
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.tables import dag_runs, job_executions, market_clock
from tests.integration.persistence.world import World, dag_of, job

S = JobStatus
STARTED = {S.RUNNING, S.SUCCESS, S.FAILED}


def stamps(world: World, status: JobStatus) -> dict[str, Any]:
    """The stamps that an execution in this state has."""
    now = world.now()
    found: dict[str, Any] = {"status": status}
    if status is not S.PENDING:
        found["scheduled_at"] = now
    if status in STARTED:
        found["started_at"] = now
    if status in FINAL:
        found["completed_at"] = now
    return found


@pytest.mark.parametrize("status", list(JobStatus))
def test_execution_with_the_stamps_of_its_state_is_accepted(
    world: World, status: JobStatus
) -> None:
    world.run()
    world.insert(**stamps(world, status), attempt_number=2)


@pytest.mark.parametrize("status", list(JobStatus))
def test_execution_is_completed_exactly_when_its_state_is_final(
    world: World, status: JobStatus
) -> None:
    world.run()
    values = stamps(world, status)
    values["completed_at"] = None if status in FINAL else world.now()
    with pytest.raises(IntegrityError, match="ck_job_executions_completed"):
        world.insert(**values, attempt_number=2)


@pytest.mark.parametrize("status", sorted(STARTED))
def test_execution_that_ran_has_a_start(world: World, status: JobStatus) -> None:
    world.run()
    values = stamps(world, status) | {"started_at": None}
    with pytest.raises(IntegrityError, match="ck_job_executions_started"):
        world.insert(**values, attempt_number=2)


def test_queued_execution_has_a_time_to_start(world: World) -> None:
    world.run()
    values = stamps(world, S.QUEUED) | {"scheduled_at": None}
    with pytest.raises(IntegrityError, match="ck_job_executions_scheduled"):
        world.insert(**values, attempt_number=2)


@pytest.mark.parametrize("status", ["", "DONE", "pending"])
def test_unknown_states_are_refused(world: World, status: str) -> None:
    dag = world.run()
    with pytest.raises(IntegrityError, match="ck_job_executions_status"):
        world.change(world.ids(dag)["a"], status=status, scheduled_at=world.now())
    with (
        pytest.raises(IntegrityError, match="ck_dag_runs_status"),
        writing(world.engine) as connection,
    ):
        connection.execute(update(dag_runs).values(status=status, completed_at=world.now()))


def test_attempts_are_counted_from_one(world: World) -> None:
    dag = world.run()
    with pytest.raises(IntegrityError, match="ck_job_executions_attempt_number"):
        world.change(world.ids(dag)["a"], attempt_number=0)


@pytest.mark.parametrize("status", list(RunStatus))
def test_run_is_completed_exactly_when_it_is_not_open(world: World, status: RunStatus) -> None:
    dag = world.run()
    now = world.now()
    right = None if status is RunStatus.OPEN else now
    wrong = now if status is RunStatus.OPEN else None
    with writing(world.engine) as connection:
        connection.execute(update(dag_runs).values(status=status, completed_at=right))
    assert world.run_status(dag) is status
    with (
        pytest.raises(IntegrityError, match="ck_dag_runs_completed"),
        writing(world.engine) as connection,
    ):
        connection.execute(update(dag_runs).values(status=status, completed_at=wrong))


def test_attempt_number_is_unique_within_its_job(world: World) -> None:
    world.run()
    world.insert(attempt_number=2)
    with pytest.raises(IntegrityError, match=r"(?i)unique"):
        world.insert(attempt_number=2)
    with pytest.raises(IntegrityError, match=r"(?i)unique"):
        world.insert(attempt_number=1)


@pytest.mark.promise("P1")
def test_session_has_one_run_of_a_pipeline(world: World) -> None:
    dag = world.run()
    row = world.run_row(dag)._asdict() | {"dag_id": "another_name"}
    with (
        pytest.raises(IntegrityError, match=r"(?i)unique"),
        writing(world.engine) as connection,
    ):
        connection.execute(insert(dag_runs).values(**row))


def test_execution_belongs_to_a_run_and_goes_with_it(world: World) -> None:
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        world.insert()
    dag = world.run(job("a"), job("b"))
    with writing(world.engine) as connection:
        connection.execute(dag_runs.delete().where(dag_runs.c.dag_id == dag.dag_id))
    assert world.rows() == []


def test_market_clock_has_one_row(world: World) -> None:
    with reading(world.engine) as connection:
        assert connection.execute(select(func.count()).select_from(market_clock)).scalar() == 1
    with (
        pytest.raises(IntegrityError, match="ck_market_clock_single"),
        writing(world.engine) as connection,
    ):
        connection.execute(insert(market_clock).values(id=2, speed=1.0))


def test_market_clock_has_both_anchors_or_none(world: World) -> None:
    with (
        pytest.raises(IntegrityError, match="ck_market_clock_anchors"),
        writing(world.engine) as connection,
    ):
        connection.execute(update(market_clock).values(anchor_market_at=world.now()))


def test_new_rows_are_stamped_by_the_database(world: World) -> None:
    before = world.now()
    dag = world.run()
    after = world.now()
    row = world.rows(dag.dag_id)[0]
    for stamp in (row.created_at, row.updated_at, world.run_row(dag).created_at):
        assert before <= stamp <= after + timedelta(milliseconds=1)


def test_json_comes_back_as_it_went_in(world: World) -> None:
    value = {"text": "é → ∞", "list": [1, 2.5, None, True], "nested": {"a": {}}}
    dag = world.run()
    world.change(world.ids(dag)["a"], result=value, error_details=None)
    row = world.row(world.ids(dag)["a"])
    assert row.result == value
    assert row.error_details is None
    with reading(world.engine) as connection:
        nulls = connection.execute(
            text("SELECT count(*) FROM job_executions WHERE error_details IS NULL")
        ).scalar()
    assert nulls == 1


def test_stored_run_is_what_the_dag_says(world: World) -> None:
    dag = dag_of(job("a", max_retries=7), job("b", "a"))
    assert world.create(dag)
    row = world.run_row(dag)
    assert row.definition == dag.definition()
    assert row.parameters == {"answer": 42}
    assert row.status == "OPEN"
    columns = {column.name for column in job_executions.columns}
    # The specification's own list.
    assert columns >= {
        "execution_id",
        "job_id",
        "job_type",
        "dag_id",
        "market_id",
        "as_of_date",
        "status",
        "attempt_number",
        "started_at",
        "completed_at",
        "scheduled_at",
        "queue",
        "priority",
        "worker",
        "error_message",
        "error_details",
        "created_at",
        "updated_at",
    }
