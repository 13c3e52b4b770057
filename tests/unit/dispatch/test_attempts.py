"""What is kept of an error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from prometheus.dispatch.attempts import MAX_MESSAGE, MAX_TRACEBACK, failure_of
from prometheus.errors import PrometheusError


def test_message_says_what_and_why() -> None:
    assert failure_of(ValueError("no bars")).message == "ValueError: no bars"
    assert failure_of(ValueError()).message == "ValueError: no message"


def test_a_killed_job_is_told_its_own_limit() -> None:
    assert failure_of(TimeLimitExceeded(35)).message == (
        "did not end within 30 s of its time limit, 5 s: killed"
    )
    limit = timedelta(seconds=5)
    soft = failure_of(SoftTimeLimitExceeded(), limit=limit)
    assert soft.message == "timed out after 5 s"


def test_huge_message_is_cut_and_its_size_told() -> None:
    failure = failure_of(ValueError("x" * 3_000_000), trace="y" * 3_000_000)
    assert failure.message.endswith("x... (3000000 characters)")
    assert len(failure.message) < MAX_MESSAGE + 50
    assert len(failure.details["traceback"]) == MAX_TRACEBACK


def test_cut_message_keeps_no_half_of_a_url_with_a_password() -> None:
    error = ValueError("x" * (MAX_MESSAGE - 20) + " postgresql://app:hunter2@database/name")
    assert "hunter" not in failure_of(error).message


def test_what_no_database_takes_is_escaped() -> None:
    assert failure_of(ValueError("a\x00b\ud800c")).message == "ValueError: a\\x00b\\ud800c"


def test_passwords_of_urls_are_not_kept() -> None:
    error = ConnectionError(
        "no route to postgresql+psycopg://app:hunter2@db/x, redis://:hunter2@r?ssl_password=hunter2&db=1"
    )
    failure = failure_of(error, trace=f"ConnectionError: {error}")
    assert "hunter2" not in f"{failure}"
    assert (
        "postgresql+psycopg://app:***@db/x, redis://:***@r?ssl_password=***&db=1" in failure.message
    )


class NoTokenError(PrometheusError):
    retryable = False


@pytest.mark.parametrize(
    ("not_before", "kept"),
    [
        (None, None),
        (datetime(2026, 11, 24, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)),
        (datetime(2026, 11, 24), None),  # noqa: DTZ001
    ],
)
def test_error_says_whether_and_when_trying_again_helps(
    not_before: datetime | None, kept: datetime | None
) -> None:
    error = NoTokenError()
    error.not_before = not_before
    failure = failure_of(error)
    assert (failure.final, failure.not_before) == (True, kept)
    assert not failure_of(PrometheusError()).final


def test_only_our_own_kind_of_error_is_asked_whether_trying_again_helps() -> None:
    """Another library may use the same word for something else."""
    error = ValueError()
    error.retryable = False  # type: ignore[attr-defined]
    assert not failure_of(error).final
