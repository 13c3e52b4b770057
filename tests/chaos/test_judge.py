"""Made-up histories: each judgement finds its defect, and leaves what is healthy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, ClassVar

import pytest

from tests.chaos import judge
from tests.chaos.beats import Rounds, judge_rounds
from tests.chaos.bodies import (
    Body,
    Effect,
    Excuse,
    overlaps,
    written_again,
    written_late,
    written_twice,
)
from tests.chaos.chaos import refilled_since
from tests.chaos.enemy import Event, Fault
from tests.chaos.expiries import Expiries, Why
from tests.chaos.judge import Attempt, Incarnation, Lead, Life
from tests.chaos.rescues import Since, limits, rescues
from tests.chaos.rows import ready_at
from tests.chaos.soak import Slope, Soak, judge_soak

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


def led(fault: Fault, at: float, until: float | None = None) -> Event:
    return Event(fault, at, at if until is None else until, node="beat_1", pid=7, led=True)


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
            (LOST, [event(Fault.WORKER_STOP, 105, 120)]),
            ("handed back: worker stopped", [event(Fault.WORKER_STOP, 105, 120)]),
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
            ("its process ended: signal 9", [event(Fault.CHILD_KILL_EARLY, 100)]),
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
        [
            event(Fault.WORKER_KILL, 150),
            event(Fault.WORKER_STOP, 190, 201),
            event(Fault.POSTGRES_KILL, 99, 101, pid=None),
        ],
    )
    def test_leaves_one_that_was_hit_or_may_have_registered_twice(self, cause: Event) -> None:
        lives = Incarnation(pid=9, began_at=100, ended_at=None)
        one = Incarnation(pid=7, began_at=100, ended_at=200)
        assert not list(judge.given_up_without_cause([lives, one], [cause], LEASE))


def waiting(
    began: float | None, *, ended: float = 1000, sent: int = 1, status: str = "SUCCESS"
) -> Attempt:
    return Attempt(
        execution_id="one",
        status=status,
        ready_at=100,
        started_at=began,
        ended_at=ended,
        sent=sent,
        pid=7,
    )


class TestForgotten:
    @pytest.mark.parametrize(
        "one",
        [
            waiting(180),
            waiting(260, sent=2),
            waiting(None, ended=180, status="EXPIRED"),
            waiting(None, ended=180, status="EXPIRED", sent=0),
        ],
    )
    def test_names_what_waited_though_it_was_ready(self, one: Attempt) -> None:
        assert len(list(judge.forgotten([one], []))) == 1

    @pytest.mark.parametrize(
        ("one", "away"),
        [
            (waiting(170), []),
            (waiting(240, sent=2), []),
            (waiting(180), [event(Fault.POSTGRES_FAST, 120, 121, pid=None)]),
            (waiting(None, ended=140, status="EXPIRED"), []),
            (waiting(None, ended=900, status="SKIPPED"), []),
        ],
    )
    def test_leaves_what_was_lost_or_had_no_time(self, one: Attempt, away: list[Event]) -> None:
        assert not list(judge.forgotten([one], judge.postgres_away(away)))

    def test_outages_that_overlap_count_once(self) -> None:
        away = [(110.0, 150.0), (120.0, 130.0), (140.0, 160.0)]
        assert judge.waits([waiting(200)], away) == {"one": 50}

    @pytest.mark.parametrize(
        ("before", "seconds"),
        [
            ({"ready_at": 90}, 5),
            ({"ready_at": 150, "priority": 1}, 5),
            ({"ready_at": 150}, 100),
            ({"ready_at": 90, "priority": 3}, 100),
            ({"ready_at": 90, "queue": "EU_EQ"}, 100),
        ],
    )
    def test_whatever_was_rightly_before_it_is_waited_for(
        self, before: Mapping[str, Any], seconds: float
    ) -> None:
        values = {"execution_id": "other", "status": "SUCCESS", "started_at": 195.0, **before}
        found = judge.waits([waiting(200), Attempt(**values)], [])
        assert found["one"] == seconds


def orphan(rescued: float) -> Attempt:
    return Attempt(
        execution_id="one",
        status="FAILED",
        message=LOST,
        started_at=90,
        lease_ends_at=130,
        ended_at=rescued,
    )


class TestRescues:
    """
    A worker's lease is 30 s and was last renewed at 100, a leader's 10 s.

    So 45 s are allowed, 30 from a leader's end, and 55 from when a scheduler came to the database.
    """

    BEATS = (
        Life(name="a", pid=1, began_at=0),
        Life(name="b", pid=2, began_at=0),
        Life(name="b", pid=3, began_at=150),
        Life(name="c", pid=4, began_at=110),
    )
    LEADS = (Lead(50, 1),)
    PASSED = (Lead(50, 1), Lead(151, 2))

    def judged(
        self, rescued: float, *events: Event, leads: Sequence[Lead] = LEADS
    ) -> tuple[Since, bool]:
        """Return the class, and whether it was in time."""
        (found,) = rescues(
            [orphan(rescued)], leads, self.BEATS, events, worker_lease=LEASE, leader_lease=10
        )
        assert found.whole == rescued - 100
        return found.since, found.seconds <= limits(LEASE, 10)[found.since]

    @pytest.mark.parametrize(
        ("leads", "events"),
        [
            (LEADS, []),
            (LEADS, [event(Fault.WORKER_KILL, 101), event(Fault.DATABASE_HANG, 101, 170)]),
            (LEADS, [event(Fault.BEAT_SKEW, 135, 150, pid=1)]),
            (LEADS, [event(Fault.BEAT_KILL, 120, 123, pid=2)]),
            (LEADS, [event(Fault.POSTGRES_KILL, 40, 60, pid=None)]),
            (PASSED, [event(Fault.BROKER_HANG, 60, 80, pid=1)]),
            ((Lead(50, 1), Lead(112, 4), Lead(120, 2)), []),
        ],
    )
    def test_what_delays_no_rescue_is_no_excuse(
        self, leads: Sequence[Lead], events: list[Event]
    ) -> None:
        assert self.judged(145, *events, leads=leads) == (Since.SEEN, True)
        assert self.judged(145.1, *events, leads=leads) == (Since.SEEN, False)

    @pytest.mark.parametrize(
        ("since", "until", "reason"),
        [
            (Since.POSTGRES, 195, event(Fault.POSTGRES_OUTAGE, 105, 140, pid=None)),
            (Since.LEADER_BACK, 195, event(Fault.BEAT_FREEZE, 135, 140, pid=1)),
            (Since.LEADER_BACK, 195, event(Fault.DATABASE_MUTE, 135, 140, pid=1)),
            (Since.REDIS, 169.5, event(Fault.REDIS_KILL, 135, 137, pid=None)),
            (Since.REDIS, 160.5, event(Fault.REDIS_FLUSH, 128, 128, pid=None)),
            (Since.REDIS, 222.5, event(Fault.BROKER_HANG, 125, 190, pid=1)),
        ],
    )
    def test_each_class_has_its_limit(self, since: Since, until: float, reason: Event) -> None:
        assert self.judged(until, reason) == (since, True)
        assert self.judged(until + 0.1, reason) == (since, False)

    @pytest.mark.parametrize(
        ("until", "lost"),
        [
            (177.5, event(Fault.BEAT_KILL, 140, 143, pid=1)),
            (177.5, event(Fault.BEAT_FREEZE_LONG, 140, 156, pid=1)),
            (188.5, event(Fault.DATABASE_SLOW, 140, 156, pid=1)),
        ],
    )
    def test_standby_that_has_the_database_does_not_wait_for_a_lease(
        self, until: float, lost: Event
    ) -> None:
        assert self.judged(until, lost, leads=self.PASSED) == (Since.LEADER_GONE, True)
        assert self.judged(until + 1, lost, leads=self.PASSED) == (Since.LEADER_GONE, False)

    def test_leader_that_has_just_been_started_waits_for_a_lease(self) -> None:
        killed = event(Fault.BEAT_KILL, 140, 143, pid=1)
        leads = (Lead(50, 1), Lead(153, 3))
        assert self.judged(205, killed, leads=leads) == (Since.LEADER_BEGAN, True)
        assert self.judged(206, killed, leads=leads) == (Since.LEADER_BEGAN, False)

    def test_nothing_excuses_what_was_overdue_before_it(self) -> None:
        later = event(Fault.POSTGRES_KILL, 146, 148, pid=None)
        assert self.judged(150, later) == (Since.SEEN, False)
        first = event(Fault.POSTGRES_KILL, 135, 138, pid=None)
        assert self.judged(200, first, later) == (Since.POSTGRES, True)
        assert self.judged(204, first, later) == (Since.POSTGRES, False)

    def test_only_attempts_of_lost_workers_are_rescues(self) -> None:
        others = [attempt("its process ended: it"), attempt("", status="SUCCESS")]
        assert not list(
            rescues(others, self.LEADS, self.BEATS, [], worker_lease=LEASE, leader_lease=10)
        )


class TestTakeOvers:
    """The leader's lease is 10 s, and 15 s are allowed."""

    def test_measures_from_the_leaders_end_or_the_databases_return(self) -> None:
        events = [
            led(Fault.BEAT_KILL, 100, 103),
            led(Fault.BEAT_FREEZE_LONG, 200, 216),
            event(Fault.POSTGRES_KILL, 201, 204, pid=None),
            led(Fault.DATABASE_HANG, 300, 317),
        ]
        assert judge.take_overs(events, [90, 109, 213, 314], 10) == ([9, 14], [9], [])

    def test_what_does_not_end_a_lead_is_left_alone(self) -> None:
        events = [
            event(Fault.BEAT_KILL, 100, 103),
            led(Fault.BEAT_FREEZE, 200, 203),
            led(Fault.BROKER_HANG, 300, 317),
        ]
        assert judge.take_overs(events, [], 10) == ([], [], [])

    @pytest.mark.parametrize("fault", [Fault.BEAT_FREEZE_LONG, Fault.DATABASE_HANG])
    @pytest.mark.parametrize("changes", [[], [90, 117]])
    def test_names_leaders_that_stood_for_long_and_nobody_replaced(
        self, fault: Fault, changes: list[float]
    ) -> None:
        stood = led(fault, 100, 116)
        assert judge.take_overs([stood], changes, 10) == ([], [], [f"beat_1: {fault}"])
        early = event(Fault.POSTGRES_KILL, 90, 100.5, pid=None)
        assert judge.take_overs([stood, early], changes, 10)[2] == [f"beat_1: {fault}"]

    def test_leader_may_come_back_before_a_standby_could_take_over(self) -> None:
        for away in ((90, 102), (114, 120), (101, 103)):
            events = [led(Fault.BEAT_FREEZE_LONG, 100, 116)]
            events.append(event(Fault.POSTGRES_OUTAGE, *away, pid=None))
            assert judge.take_overs(events, [90, 117], 10) == ([], [], [])

    def test_names_a_killed_leader_without_successor(self) -> None:
        assert judge.take_overs([led(Fault.BEAT_KILL, 100)], [90], 10) == (
            [],
            [],
            ["beat_1: beat killed"],
        )

    def test_under_a_short_lease_the_return_may_be_noticed_after_it(self) -> None:
        away = event(Fault.POSTGRES_OUTAGE, 95, 101, pid=None)
        assert judge.take_overs([led(Fault.BEAT_FREEZE_LONG, 100, 116), away], [], 4)[2] == []
        longer = led(Fault.BEAT_FREEZE_LONG, 100, 117)
        assert len(judge.take_overs([longer, away], [], 4)[2]) == 1


class TestReplacements:
    """The leader's lease is 10 s, and 25 s are allowed."""

    def test_measures_from_the_loss_or_the_servers_return(self) -> None:
        events = [
            led(Fault.BROKER_LEADER, 100, 117),
            led(Fault.BROKER_LEADER, 200, 225),
            event(Fault.REDIS_KILL, 203, 209, pid=None),
            event(Fault.POSTGRES_KILL, 230, 240, pid=None),
        ]
        assert judge.replacements(events, [90, 116, 224, 300], 10) == ([16, 15], [])

    def test_names_a_leader_that_nobody_replaced(self) -> None:
        lost = led(Fault.BROKER_LEADER, 100, 126)
        for changes in ([], [90, 127]):
            assert judge.replacements([lost], changes, 10) == (
                [],
                [f"beat_1: {Fault.BROKER_LEADER}"],
            )

    @pytest.mark.parametrize(
        "events",
        [
            [led(Fault.BROKER_LEADER, 100, 125)],
            [led(Fault.BROKER_LEADER, 100, 126), event(Fault.REDIS_KILL, 110, 115, pid=None)],
            [led(Fault.BROKER_LEADER, 100, 126), event(Fault.POSTGRES_FAST, 98, 102, pid=None)],
            [replace(led(Fault.BROKER_LEADER, 100, 126), led=False)],
            [led(Fault.BROKER_HANG, 100, 126)],
        ],
    )
    def test_leaves_one_that_had_no_time_to_be_replaced(self, events: list[Event]) -> None:
        assert judge.replacements(events, [], 10) == ([], [])


def test_time_without_a_server_does_not_count_to_a_stop() -> None:
    told = event(Fault.WORKER_STOP, 100, 130)
    away = event(Fault.POSTGRES_FAST, 110, 120, pid=None)
    assert judge.stops([away, told, event(Fault.WORKER_KILL, 100, 105)]) == [20]


class TestDeaf:
    WORKER = Life(name="worker_1", pid=7, began_at=0, queues=frozenset({"US_EQ"}))

    def starts(self, seconds: range, *, pid: int, queue: str = "US_EQ") -> list[Attempt]:
        return [
            Attempt(execution_id=f"{at}", status="SUCCESS", pid=pid, queue=queue, started_at=at)
            for at in seconds
        ]

    def judged(self, attempts: list[Attempt], *events: Event) -> int:
        return len(list(judge.deaf([self.WORKER], attempts, events)))

    def test_names_one_that_takes_nothing_after_redis_came_back(self) -> None:
        attempts = [*self.starts(range(1, 100), pid=7), *self.starts(range(100, 200), pid=8)]
        gone = event(Fault.REDIS_KILL, 100, 105, pid=None)
        assert self.judged(attempts, gone) == 1

    def test_another_outage_does_not_make_it_hear(self) -> None:
        attempts = [*self.starts(range(1, 100), pid=7), *self.starts(range(100, 250), pid=8)]
        gone = event(Fault.REDIS_KILL, 100, 105, pid=None)
        again = event(Fault.POSTGRES_FAST, 150, 152, pid=None)
        assert self.judged(attempts, gone, again) == 1

    @pytest.mark.parametrize(
        ("others", "causes"),
        [
            (range(100, 160), []),
            (range(100, 300, 8), []),
            (range(100, 200), [event(Fault.BROKER_HANG, 100, 160)]),
            (range(100, 200), [event(Fault.WORKER_KILL, 140)]),
        ],
    )
    def test_leaves_one_that_is_hit_or_has_nothing_to_take(
        self, others: range, causes: list[Event]
    ) -> None:
        attempts = [*self.starts(range(1, 100), pid=7), *self.starts(others, pid=8)]
        assert not self.judged(attempts, *causes)

    def test_leaves_one_that_was_followed_by_another(self) -> None:
        attempts = [*self.starts(range(1, 100), pid=7), *self.starts(range(100, 200), pid=8)]
        next_one = Life(name="worker_1", pid=8, began_at=140)
        assert not list(judge.deaf([self.WORKER, next_one], attempts, []))

    def test_leaves_one_whose_queues_are_empty(self) -> None:
        attempts = [
            *self.starts(range(1, 100), pid=7),
            *self.starts(range(100, 300), pid=8, queue="EU_EQ"),
        ]
        assert not self.judged(attempts)


def body(number: int, began: float, last: float, **values: Any) -> Body:
    facts = {"job": ("run", "one"), "worker": 6 + number, **values}
    return Body(
        execution_id=f"attempt {number}", number=number, began_at=began, last_at=last, **facts
    )


class TestOverlaps:
    """Of a first attempt on pid 7 and a second on pid 8, which begins at 140."""

    def judged(self, last: float, *events: Event, lease: float = LEASE) -> Excuse | None:
        excused, others = overlaps([body(2, 140, 150), body(1, 100, last)], events, lease)
        assert len(others) + sum(excused.values()) == 1
        return next(iter(excused), None)

    def test_names_two_that_ran_at_the_same_time(self) -> None:
        _, others = overlaps([body(1, 100, 143), body(2, 140, 150)], [], LEASE)
        assert others == ["('run', 'one'): attempt 1 on pid 7 for 3.0 s beside attempt 2"]

    @pytest.mark.parametrize(
        "second",
        [body(2, 140.5, 150), body(2, 90, 99), body(2, 120, 150, job=("run", "two"))],
    )
    def test_others_may(self, second: Body) -> None:
        assert overlaps([body(1, 100, 140), second], [], LEASE) == ({}, [])

    def test_frozen_worker_may_go_on_for_a_moment_when_it_wakes(self) -> None:
        fault = Fault.WORKER_FREEZE_LONG
        assert self.judged(155, event(fault, 101, 145)) is Excuse.WOKE
        assert self.judged(156, event(fault, 101, 145)) is None
        assert self.judged(155, event(fault, 101, 145, pid=8)) is None
        assert self.judged(155, event(fault, 141, 145)) is None
        assert self.judged(155, event(Fault.WORKER_FREEZE, 101, 145)) is None

    def test_main_process_alone_may_stand_still_under_a_short_lease(self) -> None:
        frozen = event(Fault.WORKER_MAIN_FREEZE, 130, 160)
        assert self.judged(143.75, frozen, lease=9) is Excuse.MAIN_FROZEN
        assert self.judged(144, frozen, lease=9) is None
        assert self.judged(141, frozen, lease=10) is None

    def test_what_ends_jobs_at_once_excuses_nothing(self) -> None:
        cut_off = event(Fault.DATABASE_HANG, 105, 145)
        assert self.judged(141, cut_off, replace(led(Fault.BROKER_HANG, 104, 120), pid=9)) is None
        for fault in (Fault.WORKER_KILL, Fault.CHILD_KILL, Fault.BROKER_HANG, Fault.WORKER_SKEW):
            assert self.judged(141, event(fault, 105, 145)) is None


class TestEffects:
    def effect(self, number: int = 1, block: str = "last", committed: float = 110) -> Effect:
        return Effect(
            execution_id=f"attempt {number}",
            job=("run", "one"),
            block=block,
            committed_at=committed,
            ended_at=140,
        )

    def test_what_a_later_attempt_writes_again_is_counted(self) -> None:
        assert written_again([self.effect(1, "first"), self.effect(1), self.effect(2)]) == 1
        assert written_again([self.effect(1, "first"), self.effect(2)]) == 0

    def test_what_an_attempt_writes_twice_is_named(self) -> None:
        assert not list(written_twice([self.effect(1, "first"), self.effect(1), self.effect(2)]))
        assert len(list(written_twice([self.effect(), self.effect()]))) == 1

    def test_what_was_committed_by_an_attempt_that_was_given_up_is_named(self) -> None:
        assert not list(written_late([self.effect(committed=140)]))
        assert list(written_late([self.effect(committed=140.001)])) == ["attempt 1, block last"]
        assert len(list(written_late([replace(self.effect(), ended_at=None)]))) == 1


class TestExpiries:
    """A window from 100 to 150, of a job whose queue the worker with pid 7 takes from."""

    QUEUES: ClassVar = {7: frozenset({"US_EQ"}), 8: frozenset({"EU_EQ"})}

    def one(self, job: str = "one", **values: Any) -> Attempt:
        facts = {
            "execution_id": job,
            "job": ("run", job),
            "status": "EXPIRED",
            "queue": "US_EQ",
            "opens_at": 100,
            "closes_at": 150,
            "ended_at": 151,
            "ready_at": 100,
        }
        return Attempt(**{**facts, **values})

    def why(self, *attempts: Attempt, events: Sequence[Event] = ()) -> Why | str:
        return Expiries(attempts, events, self.QUEUES).explain(attempts[0])

    @pytest.mark.parametrize(
        ("why", "event"),
        [
            (Why.POSTGRES, event(Fault.POSTGRES_OUTAGE, 105, 120, pid=None)),
            (Why.REDIS, event(Fault.REDIS_DROP, 105, 105, pid=None)),
            (Why.LEADER, led(Fault.BEAT_FREEZE_LONG, 105, 135)),
            (Why.WORKER, event(Fault.WORKER_KILL, 105, 106)),
        ],
    )
    def test_fault_that_covers_the_waiting_explains_it(self, why: Why, event: Event) -> None:
        assert self.why(self.one(), events=[event]) is why
        late = self.why(self.one(), events=[replace(event, at=140, until=141)])
        assert late == "one: one waited for too long"

    @pytest.mark.parametrize(
        "event",
        [
            event(Fault.WORKER_KILL, 105, 106, pid=8),
            event(Fault.WORKER_SKEW, 105, 140),
            event(Fault.REDIS_DOUBLE, 105, 106, pid=None),
            event(Fault.BEAT_KILL, 105, 140, pid=9),
        ],
    )
    def test_what_delays_nothing_explains_nothing(self, event: Event) -> None:
        assert not isinstance(self.why(self.one(), events=[event]), Why)

    def test_faults_may_explain_it_together(self) -> None:
        events = [led(Fault.BEAT_KILL, 105, 107), event(Fault.WORKER_KILL, 122, 123)]
        assert self.why(self.one(), events=events) is Why.TOGETHER

    def test_window_may_be_short_or_the_queue_long(self) -> None:
        assert self.why(self.one(ready_at=143, opens_at=143)) is Why.SHORT
        before = self.one("other", status="SUCCESS", started_at=145.0, ready_at=90)
        assert self.why(self.one(), before) is Why.QUEUE
        away = event(Fault.POSTGRES_OUTAGE, 105, 120, pid=None)
        assert self.why(self.one(), before, events=[away]) is Why.POSTGRES

    def test_attempts_before_it_may_have_taken_the_time(self) -> None:
        failed = self.one(status="FAILED", started_at=101.0, ended_at=146)
        again = self.one(number=2, ready_at=147)
        assert self.why(again, failed) is Why.RETRIES
        late = replace(failed, started_at=140.0)
        assert self.why(again, late) == "one: one waited for too long"

    def test_the_way_to_it_is_followed_back(self) -> None:
        waits = self.one(ready_at=None, waits_for=(("run", "first"), ("run", "done")))
        done = self.one("done", status="SUCCESS", started_at=101.0, ended_at=102)
        first = self.one("first", status="SUCCESS", ready_at=139, opens_at=139, started_at=140.0)
        assert self.why(waits, done, first) is Why.WORK
        failed = replace(first, status="FAILED", ended_at=141)
        assert self.why(waits, done, failed) is Why.WORK
        late = replace(first, ready_at=100, opens_at=100)
        assert self.why(waits, done, late) == "one: first waited for too long"
        lost = event(Fault.REDIS_FLUSH, 104, 104, pid=None)
        assert self.why(waits, done, late, events=[lost]) is Why.REDIS

    def test_what_it_waits_for_must_not_run_for_longer_than_a_job_does(self) -> None:
        waits = self.one(ready_at=None, waits_for=(("run", "first"),))
        first = self.one("first", status="SUCCESS", started_at=101.0, ended_at=151)
        assert self.why(waits, first) == "one: first ran for too long"
        frozen = event(Fault.WORKER_FREEZE_LONG, 105, 130)
        assert self.why(waits, first, events=[frozen]) is Why.WORKER

    def test_run_must_have_been_made_in_time(self) -> None:
        made_late = self.one(ready_at=145)
        assert self.why(made_late) == "one: one got its run too late"
        away = event(Fault.POSTGRES_KILL, 104, 120, pid=None)
        assert self.why(made_late, events=[away]) is Why.POSTGRES

    def test_all_are_counted_or_named(self) -> None:
        attempts = [
            self.one("two", ready_at=145, opens_at=145),
            self.one(),
            self.one("three", status="SKIPPED"),
        ]
        reasons, without = Expiries(attempts, [], self.QUEUES).judge()
        assert reasons == {Why.SHORT: 1}
        assert without == ["one: one waited for too long"]


class TestReadyAt:
    """A Friday's run, made when the wall's clock showed 1,000 and New York's 6 o'clock."""

    CLOCK = (datetime(2026, 3, 6, 11, tzinfo=UTC), 1000.0, 60.0)
    ENDS: ClassVar = {
        ("run", "first"): ("SUCCESS", 1300.0),
        ("run", "broken"): ("FAILED", 1300.0),
        ("us_eq_pipeline_2026-03-05", "second"): ("EXPIRED", 1400.0),
    }

    def ready(self, *, forced: bool = True, **job: Any) -> float | None:
        run = {
            "pipeline": "pipeline",
            "market_id": "US_EQ",
            "session": date(2026, 3, 6),
            "forced": forced,
            "created_at": 1100.0,
            "jobs": {"second": {"dependencies": [], **job}},
        }
        return ready_at(run, "run", "second", self.ENDS, self.CLOCK)

    def test_first_job_is_ready_when_its_run_is_made(self) -> None:
        assert self.ready() == 1100

    def test_upstream_jobs_must_have_succeeded(self) -> None:
        assert self.ready(dependencies=["first"]) == 1300
        assert self.ready(dependencies=["first", "broken"]) is None

    def test_previous_session_must_have_ended(self) -> None:
        assert self.ready(after_previous=True) == 1400

    def test_window_must_be_open_unless_it_does_not_count(self) -> None:
        """The session opens at 14:30 UTC, three and a half hours later: 210 seconds."""
        assert self.ready(forced=False, required_state="SESSION", window="session") == 1210
        assert self.ready(required_state="SESSION", window="session") == 1100


def test_committed_effects_must_be_there_and_no_others() -> None:
    assert judge.lost_effects(["one", "two"], {"one", "three"}) == ["two"]
    assert not judge.lost_effects(["one"], {"one"})


def test_kills_of_idle_workers_are_told_from_others() -> None:
    runs = [attempt("", began=100, ended=140, status="SUCCESS")]
    kills = [
        event(Fault.WORKER_KILL, 90),
        event(Fault.WORKER_KILL, 120),
        event(Fault.WORKER_KILL, 120, pid=8),
    ]
    assert judge.at_work(kills, runs) == 1


def test_a_refill_is_measured_from_its_loss_or_from_what_broke_it_again() -> None:
    loss = event(Fault.REDIS_FLUSH, 100, 100, pid=None)
    loss.lost = frozenset({"one", "two"})
    earlier = event(Fault.POSTGRES_KILL, 90, 95, pid=None)
    doubled = event(Fault.REDIS_DOUBLE, 300, 300, pid=None)
    others = event(Fault.REDIS_DROP, 310, 310, pid=None)
    others.lost = frozenset({"three"})
    lasting = Event(Fault.REDIS_KILL, 320)
    assert refilled_since(loss, [earlier, loss, doubled, others, lasting]) == 100

    away = event(Fault.POSTGRES_KILL, 200, 205, pid=None)
    assert refilled_since(loss, [loss, away, doubled]) == 205
    again = event(Fault.REDIS_DROP, 400, 401, pid=None)
    again.lost = frozenset({"two", "four"})
    assert refilled_since(loss, [loss, away, again]) == 401


def test_what_was_measured_too_rarely_is_named() -> None:
    needs = {"rescues": (0, 1), "take-overs": (2, 2)}
    assert list(judge.too_few(needs)) == ["rescues: 0, at least 1 are needed"]


@pytest.mark.parametrize(
    ("frozen", "take_overs", "violations"),
    [
        ({"anywhere": 2, "before claim": 1}, [2.5, 3.0, 7.9], 0),
        ({"anywhere": 2}, [2.5, 3.0], 1),
        ({"anywhere": 3}, [2.5, 3.0, 8.5], 1),
    ],
)
def test_rounds_of_beats_are_all_done_and_none_takes_long(
    frozen: dict[str, int], take_overs: list[float], violations: int
) -> None:
    rounds = Rounds(frozen=frozen, take_overs=take_overs)
    assert len(list(judge_rounds(3, rounds))) == violations


def soak(**values: Any) -> Soak:
    ticks = {"first third": (400, 10.0, 30.0), "last third": (400, 11.0, 35.0)}
    healthy = {
        "slopes": {
            "beat_1, MB": Slope(90, 91, 0.04, 0.01),
            "connections to Redis": Slope(28, 29, 0.1, 0.01),
        },
        "ticks": ticks,
        "backlog": [20, 30, 25],
        "ended_in_time": 35_900,
        "connections": {"beat_1, connections to PostgreSQL": 1, "connections to Redis": 31},
    }
    return Soak(**{**healthy, **values})


class TestSoak:
    def test_even_one_has_nothing(self) -> None:
        assert not list(judge_soak(soak(), 30, 20))

    @pytest.mark.parametrize(
        "values",
        [
            {"slopes": {"beat_1, MB": Slope(90, 93, 0.11, 0.5)}},
            {"slopes": {"connections to Redis": Slope(15, 20, 0.3, 0.01)}},
            {"connections": {"worker_1, connections to PostgreSQL": 9}},
            {"ticks": {"first third": (400, 10.0, 30.0), "last third": (400, 11.0, 65.0)}},
            {"ticks": {"first third": (400, 10.0, 30.0), "last third": (400, 21.0, 35.0)}},
            {"ended_in_time": 30_000},
            {"backlog": [20, 700, 25, 20, 20, 20]},
            {"backlog": [20, 60, 100, 140, 180, 220]},
        ],
    )
    def test_names_what_grows_or_falls_behind(self, values: dict[str, Any]) -> None:
        assert len(list(judge_soak(soak(**values), 30, 20))) == 1


class TestComplaints:
    @pytest.mark.parametrize(
        "line",
        [
            "2026-11-26T05:30:39.152Z ERROR workers.scheduler tick_failed",
            "2026-11-26T05:30:39.152Z ERROR workers.heartbeat heartbeat_failed",
            "2026-11-26T05:30:39.152Z ERROR prometheus.dispatch.scheduler market_held market=US_EQ",
            "2026-11-26T05:30:39.152Z ERROR prometheus.dispatch.tasks not_advanced dag=one",
            "2026-11-26T05:30:39.152Z CRITICAL celery.worker Unrecoverable error: KeyError",
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
            "6Z CRITICAL celery.worker Unrecoverable error: ValueError('file descriptor is None')",
        ],
    )
    def test_what_faults_bring_is_not(self, line: str) -> None:
        assert not list(judge.complaints([line + "\n"]))
