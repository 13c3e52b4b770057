"""When somebody is told, and who: from value to value."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.orchestration.alerts import (
    AlertKind,
    Cause,
    Kept,
    Raise,
    Resolve,
    RouteError,
    Severity,
    Told,
    Update,
    decide,
    read_route,
)

START = datetime(2026, 11, 28, 4, tzinfo=UTC)
QUIET = timedelta(minutes=15)
FIRST = ("a",)


def cause(subjects: tuple[str, ...] = FIRST) -> Cause:
    return Cause(
        key="k",
        kind=AlertKind.RUN_LATE,
        severity=Severity.WARNING,
        summary="late",
        since=START,
        markets=("US_EQ",),
        subjects=subjects,
    )


class Recipient:
    """Applies what is decided, as the rows have it, and hears what is told."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self.heard: list[tuple[datetime, Told]] = []

    def look(self, causes: list[Cause], now: datetime) -> None:
        for change in decide(causes, self.kept, now, QUIET):
            match change:
                case Raise(found):
                    self._keep(_new(found, len(self.kept), now), now, Told.RAISED, tell=True)
                case Update(alert, found, tell):
                    again = replace(alert, subjects=found.subjects, resolved_at=None)
                    self._keep(again, now, Told.RAISED, tell=tell)
                case Resolve(alert, tell):
                    over = replace(alert, resolved_at=alert.resolved_at or now)
                    self._keep(over, now, Told.RESOLVED, tell=tell)
        assert decide(causes, self.kept, now, QUIET) == ()

    def _keep(self, alert: Kept, now: datetime, event: Told, *, tell: bool) -> None:
        if tell:
            self.heard.append((now, event))
            told = tuple({*alert.told_subjects, *alert.subjects})
            alert = replace(alert, told=event, told_at=now, told_subjects=told)
        self.kept = [each for each in self.kept if each.alert_id != alert.alert_id] + [alert]


def _new(found: Cause, number: int, now: datetime) -> Kept:
    return Kept(
        alert_id=number,
        key=found.key,
        kind=found.kind,
        summary=found.summary,
        severity=found.severity,
        details=found.details,
        markets=found.markets,
        dag_id=None,
        subjects=found.subjects,
        raised_at=now,
        resolved_at=None,
        acknowledged=False,
        told=None,
        told_at=None,
        told_subjects=(),
    )


@given(st.lists(st.sampled_from([(), ("a",), ("a", "b")]), min_size=1, max_size=60))
def test_however_it_flaps_nobody_is_flooded_and_all_end_with_the_truth(
    seen: list[tuple[str, ...]],
) -> None:
    """To decide again changes nothing; `Recipient.look` checks it at each step."""
    recipient = Recipient()
    now = START
    for subjects in seen:
        now += timedelta(minutes=1)
        recipient.look([cause(subjects)] if subjects else [], now)
    pairs = pairwise(at for at, _ in recipient.heard)
    assert all(later - before >= QUIET for before, later in pairs)
    wrong = [cause(seen[-1])] if seen[-1] else []
    for _ in range(3):
        now += QUIET
        recipient.look(wrong, now)
    if recipient.heard:
        assert recipient.heard[-1][1] is (Told.RAISED if wrong else Told.RESOLVED)
    else:
        assert not any(seen)


def test_what_could_not_be_seen_is_not_over() -> None:
    recipient = Recipient()
    recipient.look([cause()], START)
    later = START + timedelta(hours=1)
    late = AlertKind.RUN_LATE
    for unseen in ({(late, None)}, {(late, "US_EQ")}):
        assert decide([], recipient.kept, later, QUIET, unseen=unseen) == ()
    for unseen in (set(), {(late, "EU_EQ")}, {(AlertKind.JOB_FAILED, "US_EQ")}):
        assert len(decide([], recipient.kept, later, QUIET, unseen=unseen)) == 1


FACTS = {
    "kind": ["job_failed"],
    "severity": ["error"],
    "market": ["US_EQ"],
    "pipeline": ["daily"],
    "priority": ["CRITICAL"],
}
OF_ALL = {**FACTS, "kind": ["scheduler_silent"], "market": [], "pipeline": [], "priority": []}


@pytest.mark.parametrize(
    ("route", "takes", "takes_silence"),
    [
        ("market=US_EQ,EU_EQ priority=critical; kind=scheduler_silent", True, True),
        ("market=US_EQ priority=STANDARD", False, False),
        ("severity=error,critical", True, True),
        ("market=EU_EQ;;", False, False),
    ],
)
def test_a_route_takes_what_satisfies_one_of_its_clauses(
    route: str, takes: bool, takes_silence: bool
) -> None:
    found = read_route(route)
    assert (found.takes(FACTS), found.takes(OF_ALL)) == (takes, takes_silence)


def test_all_that_is_wrong_with_a_route_is_told_at_once() -> None:
    text = "markt=US_EQ kind=scheduler_slent market=US_EE pipeline priority=1 priority=2"
    with pytest.raises(RouteError) as caught:
        read_route(text)
    for words in (
        "'markt' is none of",
        "Did you mean 'market'?",
        "Did you mean 'scheduler_silent'?",
        "Did you mean 'US_EQ'?",
        "'pipeline' is no condition",
        "there is no priority '1'",
        "priority is named twice",
    ):
        assert words in str(caught.value)
    with pytest.raises(RouteError):
        read_route(" ; ")
