"""The table of allowed changes, and the state of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.orchestration.lifecycle import (
    ALLOWED,
    BLOCKING,
    FINAL,
    LIVE,
    RUN_ALLOWED,
    JobStatus,
    RunStatus,
    allowed_from,
    run_status,
)

S = JobStatus

CHANGES = {
    (S.PENDING, S.QUEUED),
    (S.PENDING, S.SKIPPED),
    (S.PENDING, S.CANCELLED),
    (S.PENDING, S.EXPIRED),
    (S.QUEUED, S.RUNNING),
    (S.QUEUED, S.SKIPPED),
    (S.RUNNING, S.SKIPPED),  # a sensor that gave up
    (S.QUEUED, S.CANCELLED),
    (S.QUEUED, S.EXPIRED),
    (S.RUNNING, S.SUCCESS),
    (S.RUNNING, S.FAILED),
    (S.RUNNING, S.CANCELLED),
}
"""The design's own list."""


@pytest.mark.parametrize("before", list(JobStatus))
@pytest.mark.parametrize("after", list(JobStatus))
def test_table_allows_what_the_design_lists_and_nothing_else(
    before: JobStatus, after: JobStatus
) -> None:
    assert (after in ALLOWED[before]) == ((before, after) in CHANGES)
    assert (before in allowed_from(after)) == ((before, after) in CHANGES)


@pytest.mark.promise("P5")
def test_finished_row_never_changes() -> None:
    assert {S.SUCCESS, S.FAILED, S.SKIPPED, S.CANCELLED, S.EXPIRED} == FINAL
    assert all(not ALLOWED[status] for status in FINAL)


def test_live_and_blocking_states() -> None:
    assert {S.QUEUED, S.RUNNING} == LIVE
    assert FINAL - {S.SUCCESS} == BLOCKING


def test_every_state_can_be_reached_from_pending() -> None:
    reached = {S.PENDING}
    while more := {after for before in reached for after in ALLOWED[before]} - reached:
        reached |= more
    assert reached == set(JobStatus)


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([S.SUCCESS, S.PENDING], RunStatus.OPEN),
        ([S.FAILED, S.RUNNING], RunStatus.OPEN),
        ([S.QUEUED], RunStatus.OPEN),
        ([S.SUCCESS, S.SUCCESS], RunStatus.SUCCESS),
        ([S.SUCCESS, S.SKIPPED], RunStatus.SUCCESS),
        ([S.SUCCESS, S.FAILED, S.SKIPPED], RunStatus.FAILED),
        ([S.SUCCESS, S.EXPIRED], RunStatus.FAILED),
        ([S.CANCELLED, S.FAILED], RunStatus.FAILED),
        ([S.CANCELLED, S.SKIPPED, S.SUCCESS], RunStatus.CANCELLED),
    ],
)
def test_run_status_follows_its_jobs(jobs: list[JobStatus], expected: RunStatus) -> None:
    assert run_status(jobs) is expected


@given(st.lists(st.sampled_from(list(JobStatus)), min_size=1))
def test_run_is_open_exactly_while_a_job_is_unfinished(jobs: list[JobStatus]) -> None:
    assert (run_status(jobs) is RunStatus.OPEN) == any(job not in FINAL for job in jobs)


@given(st.lists(st.sampled_from(list(JobStatus)), min_size=1))
def test_order_of_jobs_never_changes_a_runs_status(jobs: list[JobStatus]) -> None:
    assert run_status(sorted(jobs)) is run_status(jobs)


def test_only_an_operator_opens_a_finished_run_again_and_an_open_one_ends_in_any_state() -> None:
    assert RUN_ALLOWED[RunStatus.OPEN] == set(RunStatus) - {RunStatus.OPEN}
    for status in RUN_ALLOWED[RunStatus.OPEN]:
        assert RUN_ALLOWED[status] == {RunStatus.OPEN}
