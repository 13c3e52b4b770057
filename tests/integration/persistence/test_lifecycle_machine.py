"""
The life of executions, walked at random through the functions that write it.

After each step the rows are compared with those before it: whatever was asked, in whatever order,
only changes of the lifecycle table happened, a finished row is as it was, and the answer that was
given is what became of the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Row

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.decisions import Start
from prometheus.orchestration.lifecycle import (
    ALLOWED,
    BLOCKING,
    FINAL,
    RUN_ALLOWED,
    JobStatus,
    RunStatus,
    run_status,
)
from prometheus.orchestration.windows import Window
from prometheus.persistence import executions, leases, operators
from prometheus.persistence.engine import writing
from prometheus.persistence.executions import FailedForGood, NotOurs, Refused, Retried, Started
from tests.integration.persistence.world import BOOM, HOUR, LOST, World, dag_of, job

S = JobStatus
JOBS = (job("a", max_retries=1), job("b", "a"), job("c", "b", max_retries=0), job("d"))
numbers = st.integers(0, 1000)
"""Picks an execution, by its place among all of the run."""


class Walk(RuleBasedStateMachine):
    """One run of four jobs, two workers and an operator."""

    world: World
    days: Iterator[date]
    """Sessions that have no run yet: on other days an operator is refused."""

    @initialize()
    def begin(self) -> None:
        self.dag = dag_of(*JOBS, day=next(self.days))
        assert self.world.create(self.dag)
        self.workers = [self.world.worker(), self.world.worker()]
        self.gone = self.world.worker()
        with writing(self.world.engine) as connection:
            leases.end_worker(connection, self.gone)
        self.before = self.rows()
        self.run_before = RunStatus.OPEN
        self.expected: dict[str, JobStatus] = {}

    def rows(self) -> dict[str, Row[Any]]:
        return {row.execution_id: row for row in self.world.rows(self.dag.dag_id)}

    def pick(self, number: int) -> Row[Any]:
        rows = list(self.before.values())
        return rows[number % len(rows)]

    def latest(self) -> dict[str, Row[Any]]:
        return {row.job_id: row for row in self.before.values()}

    @rule(picked=st.lists(numbers, min_size=1, max_size=4), open_window=st.booleans())
    def claim(self, picked: list[int], open_window: bool) -> None:
        now = self.world.now()
        window = Window(now - HOUR, now + HOUR) if open_window else Window(now - HOUR, now)
        rows = {row.execution_id: row for row in map(self.pick, picked)}
        followed = self.world.run_row(self.dag).calendar_version
        claimed = self.world.claim(
            Start(row.dag_id, self.dag.jobs[row.job_id], row.execution_id, window, False, followed)
            for row in rows.values()
        )
        self.expected = dict.fromkeys((each.execution_id for each in claimed), S.QUEUED)
        could = {name for name, row in rows.items() if row.status == S.PENDING}
        is_open = self.run_before is RunStatus.OPEN
        assert set(self.expected) == (could if open_window and is_open else set())

    @rule(picked=numbers)
    def publish(self, picked: int) -> None:
        with writing(self.world.engine) as connection:
            executions.mark_published(connection, [self.pick(picked).execution_id])

    @rule(picked=numbers, who=st.integers(0, 2))
    def start(self, picked: int, who: int) -> None:
        row = self.pick(picked)
        outcome = self.world.start(row.execution_id, [*self.workers, self.gone][who])
        match outcome:
            case Started():
                assert row.status == S.QUEUED
                assert who < 2
                self.expected = {row.execution_id: S.RUNNING}
            case Refused():
                assert row.status != S.QUEUED or who == 2 or self.run_before is not RunStatus.OPEN

    @rule(picked=numbers, who=st.integers(0, 1))
    def succeed(self, picked: int, who: int) -> None:
        row = self.pick(picked)
        told = self.world.succeed(row.execution_id, self.workers[who], {"n": picked})
        assert (told is not None) == (
            row.status == S.RUNNING and row.incarnation == self.workers[who]
        )
        if told is not None:
            self.expected = {row.execution_id: S.SUCCESS}

    @rule(picked=numbers, who=st.sampled_from([0, 1, None]), lost=st.booleans())
    def fail(self, picked: int, who: int | None, lost: bool) -> None:
        row = self.pick(picked)
        incarnation = None if who is None else self.workers[who]
        outcome = self.world.fail(
            row.execution_id,
            LOST if lost else BOOM,
            draw=lambda _: 0,
            max_lost=1,
            incarnation=incarnation,
        )
        runs = row.status == S.RUNNING and incarnation in (None, row.incarnation)
        assert isinstance(outcome, NotOurs) != runs
        match outcome:
            case Retried():
                self.expected = {row.execution_id: S.FAILED, outcome.successor_id: S.QUEUED}
            case FailedForGood():
                spent = row.lost >= 1 if lost else row.retries >= self.retries_of(row)
                assert spent
                self.expected = {row.execution_id: S.FAILED}

    def retries_of(self, row: Row[Any]) -> int:
        return self.dag.jobs[row.job_id].max_retries

    @rule(
        picked=st.lists(numbers, min_size=1, max_size=4),
        status=st.sampled_from([S.SKIPPED, S.EXPIRED, S.CANCELLED]),
    )
    def end_waiting(self, picked: list[int], status: JobStatus) -> None:
        rows = {row.execution_id: row for row in map(self.pick, picked)}
        ended = self.world.end_waiting(dict.fromkeys(rows, "because"), status)
        could = {n for n, row in rows.items() if row.status in (S.PENDING, S.QUEUED)}
        if status is S.SKIPPED:
            latest, skipped = self.latest(), set[str]()
            for name in self.dag.topological_order():
                row = latest[name]
                if row.execution_id in could and any(
                    latest[up].status in BLOCKING or latest[up].execution_id in skipped
                    for up in self.dag.jobs[name].dependencies
                ):
                    skipped.add(row.execution_id)
            could = skipped
        assert set(ended) == could
        self.expected = dict.fromkeys(ended, status)

    @rule(name=st.sampled_from([None, "a", "b", "c", "d"]))
    def cancel(self, name: str | None) -> None:
        unfinished = {
            row.execution_id
            for row in self.before.values()
            if row.status not in FINAL and name in (None, row.job_id)
        }
        try:
            with writing(self.world.engine) as connection:
                ended = operators.cancel(
                    connection, self.dag.dag_id, name, actor="op", grace=timedelta(0)
                )
        except operators.OperatorError:
            assert not unfinished
        else:
            assert {each.execution_id for each in ended} == unfinished
            self.expected = dict.fromkeys(unfinished, S.CANCELLED)

    @rule(name=st.sampled_from([None, "a", "b", "c", "d"]), downstream=st.booleans())
    def retry(self, name: str | None, downstream: bool) -> None:
        try:
            with writing(self.world.engine) as connection:
                again = operators.retry(
                    connection, self.dag.dag_id, name, downstream=downstream, actor="op"
                )
        except operators.OperatorError:
            return
        assert name is None or name in again
        latest = self.latest()
        assert all(latest[each].status in FINAL for each in again)
        rows = self.world.latest(self.dag)
        assert {each for each in rows if rows[each] != latest[each]} == set(again)
        self.expected = {rows[each].execution_id: S.PENDING for each in again}

    @rule()
    def rerun(self) -> None:
        try:
            with writing(self.world.engine) as connection:
                operators.rerun(connection, self.dag.dag_id, actor="op")
        except operators.OperatorError:
            assert self.run_before is RunStatus.OPEN
        else:
            rows = self.world.latest(self.dag)
            self.expected = {row.execution_id: S.PENDING for row in rows.values()}

    @rule()
    def close(self) -> None:
        closed = self.world.close(self.dag)
        statuses = [JobStatus(row.status) for row in self.latest().values()]
        should = run_status(statuses)
        was_open = self.run_before is RunStatus.OPEN
        assert closed is (should if was_open and should is not RunStatus.OPEN else None)

    @invariant()
    def only_allowed_changes_happened(self) -> None:
        if not hasattr(self, "dag"):
            return
        after = self.rows()
        attempts: dict[str, list[int]] = {}
        for execution_id, row in after.items():
            attempts.setdefault(row.job_id, []).append(row.attempt_number)
            before = self.before.get(execution_id)
            if before is None:
                assert self.expected.get(execution_id) == row.status
            elif row.status != before.status:
                assert row.status in ALLOWED[JobStatus(before.status)]
                assert self.expected.get(execution_id) == row.status
            elif before.status in FINAL:
                assert row == before
            assert (row.completed_at is not None) == (row.status in FINAL)
        assert set(after) >= set(self.before)
        assert set(self.expected) <= set(after)
        for numbers_ in attempts.values():
            assert numbers_ == list(range(1, len(numbers_) + 1))
        # Whatever is not the latest attempt of its job has finished.
        latest = {row.job_id: row.execution_id for row in after.values()}
        assert all(
            row.status in FINAL for row in after.values() if row.execution_id not in latest.values()
        )
        status = self.world.run_status(self.dag)
        if status is not self.run_before:
            assert status in RUN_ALLOWED[self.run_before]
        if status is not RunStatus.OPEN:
            assert status is run_status(
                JobStatus(after[execution_id].status) for execution_id in latest.values()
            )
        self.before, self.run_before, self.expected = after, status, {}


@pytest.mark.promise("P5")
def test_whatever_is_asked_only_the_lifecycles_changes_happen(world: World) -> None:
    class Here(Walk):
        pass

    Here.world = world
    Here.days = iter(TradingCalendar("US_EQ").trading_days(date(2000, 1, 3), date(2025, 12, 1)))
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
