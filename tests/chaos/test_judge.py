"""Made-up histories: each judgement finds its defect, and leaves what is healthy alone."""

from __future__ import annotations

import pytest

from tests.chaos import judge
from tests.chaos.enemy import Event, Fault
from tests.chaos.judge import Attempt, Incarnation

LEASE = 30.0
LOST = "worker lost: host vm, pid 7, last seen now"


def attempt(
    message: str, *, began: float = 100, ended: float = 140, pid: int = 7, status: str = "FAILED"
) -> Attempt:
    return Attempt(
        execution_id="one",
        status=status,
        message=message,
        pid=pid,
        started_at=began,
        ended_at=ended,
    )


def event(fault: Fault, at: float, until: float | None = None, *, pid: int | None = 7) -> Event:
    return Event(fault, at, at if until is None else until, pid=pid)


class TestFailedWithoutCause:
    @pytest.mark.parametrize(
        ("message", "events"),
        [
            (LOST, []),
            (LOST, [event(Fault.WORKER_KILL, 105, pid=8)]),
            (LOST, [event(Fault.WORKER_KILL, 141)]),
            (LOST, [event(Fault.WORKER_FREEZE, 40, 60)]),
            (LOST, [event(Fault.WORKER_SKEW, 105, 120)]),
            (LOST, [event(Fault.BROKER_HANG, 105, 120)]),
            (LOST, [event(Fault.POSTGRES_OUTAGE, 105, 138, pid=None)]),
            ("worker cut off: it", [event(Fault.POSTGRES_OUTAGE, 105, 138, pid=None)]),
            (
                "ended without a report: it",
                [event(Fault.POSTGRES_KILL, 135, 136, pid=None)],
            ),
            ("its process ended: it", [event(Fault.REDIS_KILL, 105, 106, pid=None)]),
            ("OperationalError: gone", [event(Fault.REDIS_KILL, 105, 106, pid=None)]),
        ],
    )
    def test_names_what_nothing_was_done_to(self, message: str, events: list[Event]) -> None:
        assert list(judge.failed_without_cause([attempt(message)], events, LEASE)) == [
            f"one on pid 7: {message}"
        ]

    @pytest.mark.parametrize(
        ("message", "events"),
        [
            ("StumbledError: attempt 1 stumbled", []),
            (LOST, [event(Fault.WORKER_KILL, 105)]),
            (LOST, [event(Fault.WORKER_FREEZE_LONG, 60, 95)]),
            (LOST, [Event(Fault.DATABASE_HANG, 105, None, pid=7)]),
            ("its process ended: signal 9", [event(Fault.CHILD_KILL, 105)]),
            ("OperationalError: gone", [event(Fault.POSTGRES_FAST, 105, 106, pid=None)]),
            (
                "worker cut off: it",
                [
                    event(Fault.POSTGRES_OUTAGE, 105, 138, pid=None),
                    event(Fault.BROKER_HANG, 104, 138),
                ],
            ),
            ("ended without a report: it", [event(Fault.POSTGRES_KILL, 100, 103, pid=None)]),
        ],
    )
    def test_excuses_what_a_fault_explains(self, message: str, events: list[Event]) -> None:
        assert not list(judge.failed_without_cause([attempt(message)], events, LEASE))

    def test_looks_at_failures_alone(self) -> None:
        healthy = attempt("", status="SUCCESS")
        assert not list(judge.failed_without_cause([healthy], [], LEASE))


class TestGivenUpWithoutCause:
    def test_names_a_worker_that_nobody_touched(self) -> None:
        others = [
            event(Fault.WORKER_KILL, 150, pid=8),
            event(Fault.POSTGRES_FAST, 150, 151, pid=None),
        ]
        one = Incarnation(pid=7, began_at=100, ended_at=200)
        assert len(list(judge.given_up_without_cause([one], others, LEASE))) == 1

    @pytest.mark.parametrize(
        "cause",
        [event(Fault.WORKER_KILL, 150), event(Fault.POSTGRES_KILL, 99, 101, pid=None)],
    )
    def test_leaves_one_that_was_hit_or_may_have_registered_twice(self, cause: Event) -> None:
        lives = Incarnation(pid=9, began_at=100, ended_at=None)
        one = Incarnation(pid=7, began_at=100, ended_at=200)
        assert not list(judge.given_up_without_cause([lives, one], [cause], LEASE))


class TestComplaints:
    @pytest.mark.parametrize(
        "line",
        [
            "2026-11-26T05:30:39.152Z ERROR workers.scheduler tick_failed",
            "2026-11-26T05:30:39.152Z ERROR workers.heartbeat heartbeat_failed",
            "2026-11-26T05:30:39.152Z ERROR prometheus.dispatch.scheduler market_held market=US_EQ",
            "2026-11-26T05:30:39.152Z ERROR prometheus.dispatch.tasks not_advanced dag=one",
            "2026-11-26T05:30:39.152Z CRITICAL celery.worker.worker Unrecoverable error: KeyError",
        ],
    )
    def test_errors_of_the_product_are_given(self, line: str) -> None:
        assert list(judge.complaints([line + "\n"])) == [line]

    @pytest.mark.parametrize(
        "line",
        [
            "2026-11-26T05:30:39.152Z ERROR prometheus.dispatch.attempts job_failed execution=one",
            "2026-11-26T05:33:32.348Z ERROR workers.heartbeat lease_lost incarnation=one",
            "2026-11-26T05:30:39.152Z WARNING prometheus.dispatch.tasks not_advanced dag=one",
            "2026-11-26T05:30:39.152Z ERROR celery.worker.consumer.consumer consumer: Cannot",
            "Traceback (most recent call last):",
        ],
    )
    def test_what_faults_bring_is_not(self, line: str) -> None:
        assert not list(judge.complaints([line + "\n"]))
