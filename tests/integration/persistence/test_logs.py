"""Lines of attempts, kept in parts."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError

from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence import leases, logs
from prometheus.persistence.changes import of_log, read_changes
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.tables import attempt_logs, dag_runs
from tests.integration.persistence.world import BOOM, World, job


def keep(world: World, execution_id: str, *texts: str) -> None:
    for part, text in enumerate(texts, 1):
        with writing(world.engine) as connection:
            logs.append(connection, execution_id, part, text)


def test_parts_are_read_in_order_and_once(world: World) -> None:
    dag = world.run(job("a"), job("b"))
    worker = world.worker()
    first, second = (world.running(dag, each, worker) for each in "ab")
    keep(world, first, "one\n", "two\n")
    keep(world, second, "other\n")
    with reading(world.engine) as connection:
        found = logs.read(connection, dag.dag_id, after={})
        assert [(each.job_id, [part.text for part in each.parts]) for each in found] == [
            ("a", ["one\n", "two\n"]),
            ("b", ["other\n"]),
        ]
        assert [part.part for part in found[0].parts] == [1, 2]
        (only,) = logs.read(connection, dag.dag_id, "a", after={first: 1})
        assert [part.text for part in only.parts] == ["two\n"]
        assert logs.read(connection, dag.dag_id, after={}, ended={first, second}) == []


def test_the_end_is_one_part_that_is_renewed_and_that_is_a_change(world: World) -> None:
    dag = world.run(job("a"))
    execution = world.running(dag, "a", world.worker())
    keep(world, execution, "head\n")
    seen = set()
    for text in ("one\n", "two\n", "three\n"):
        with writing(world.engine) as connection:
            logs.replace_end(connection, execution, text)
        with reading(world.engine) as connection:
            now = leases.wall_time(connection)
            seen.add(read_changes(connection, now)[of_log(dag.dag_id)])
            found = logs.read_attempt(connection, execution, after=0)
            new = logs.read_attempt(connection, execution, after=found.parts[-1].part - 1)
        assert [(each.text, each.is_end) for each in found.parts] == [
            ("head\n", False),
            (text, True),
        ]
        assert [each.text for each in new.parts] == [text]
    assert len(seen) == 3


def test_who_follows_reads_only_what_goes_on_and_what_has_ended_since(world: World) -> None:
    dag = world.run(job("a"), job("b"), job("c"))
    worker = world.worker()
    names = {name: world.running(dag, name, worker) for name in "abc"}
    for name in "ab":
        world.succeed(names[name], worker)
    since = world.row(names["b"]).completed_at
    world.change(names["a"], completed_at=since - timedelta(seconds=1))
    with reading(world.engine) as connection:
        found = logs.read(connection, dag.dag_id, after={}, since=since)
    assert [each.job_id for each in found] == ["b", "c"]


def test_lines_whose_keeping_was_not_answered_are_not_kept_twice(world: World) -> None:
    execution = world.running(world.run(job("a")), "a", world.worker())
    keep(world, execution, "one\n", "two\n")
    with writing(world.engine) as connection:
        logs.append(connection, execution, 2, "two\n")
        logs.append(connection, execution, 3, "two\n")
    with reading(world.engine) as connection:
        found = logs.read_attempt(connection, execution, after=0)
    assert [each.text for each in found.parts] == ["one\n", "two\n", "two\n"]


def test_attempts_come_with_their_ends(world: World) -> None:
    dag = world.run(job("a", max_retries=1))
    execution = world.running(dag, "a", world.worker())
    keep(world, execution, "about to fail\n")
    world.fail(execution, BOOM)
    with reading(world.engine) as connection:
        (failed,) = logs.read(connection, dag.dag_id, after={})
        assert (failed.status, failed.error) == (JobStatus.FAILED, "ValueError: boom")
        assert failed.completed_at is not None
        assert logs.read(connection, dag.dag_id, "a", 2, after={}) == []  # it has not started


def test_lines_go_with_their_attempt(world: World) -> None:
    dag = world.run(job("a"))
    execution = world.running(dag, "a", world.worker())
    keep(world, execution, "one\n")
    with writing(world.engine) as connection:
        connection.execute(delete(dag_runs).where(dag_runs.c.dag_id == dag.dag_id))
    with reading(world.engine) as connection:
        assert connection.execute(select(func.count()).select_from(attempt_logs)).scalar() == 0
    with pytest.raises(IntegrityError):
        keep(world, execution, "too late\n")
