"""
Deadlines, at instants taken from the exchanges' published hours.

New York closed at 13:00 (18:00 UTC) on 2025-11-28, the day after Thanksgiving, and was closed on
2025-12-25; its clocks changed on 2025-11-02. Tokyo is nine hours before UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

import pytest

from prometheus.core.exchanges import LocalTime
from prometheus.core.overrides import Override, OverrideKind, Overrides
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.orchestration.dag import DAG, JobMetadata
from prometheus.orchestration.deadlines import Deadline
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import session_bounds


def deadline(told: str, market: str, day: str, overrides: Overrides | None = None) -> str | None:
    calendar = TradingCalendar(market, overrides=overrides)
    at = Deadline.parse(told).of(calendar, session_bounds(calendar, date.fromisoformat(day)))
    if at is None:
        return None
    assert at.tzinfo is UTC
    return f"{at:%Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("told", "market", "day", "at"),
    [
        ("close+4h", "US_EQ", "2025-11-26", "2025-11-27 01:00"),
        ("close+4h", "US_EQ", "2025-11-28", "2025-11-28 22:00"),  # an early close
        ("open-15m", "US_EQ", "2025-10-31", "2025-10-31 13:15"),
        ("open-15m", "US_EQ", "2025-11-03", "2025-11-03 14:15"),  # clocks have changed
        ("next_open-30m", "US_EQ", "2025-11-26", "2025-11-28 14:00"),  # over Thanksgiving
        ("next_open-30m", "US_EQ", "2025-12-24", "2025-12-26 14:00"),
        ("next_close", "US_EQ", "2025-11-26", "2025-11-28 18:00"),  # an early one
        ("22:30", "US_EQ", "2025-11-26", "2025-11-27 03:30"),
        ("06:00+1d", "US_EQ", "2025-10-31", "2025-11-01 10:00"),
        ("06:00+3d", "US_EQ", "2025-10-31", "2025-11-03 11:00"),  # six o'clock there, as ever
        ("06:00+1d Europe/London", "US_EQ", "2025-11-26", "2025-11-27 06:00"),
        ("18:00 Asia/Tokyo", "ASIA_EQ", "2025-11-26", "2025-11-26 09:00"),
        ("close+1h", "ASIA_EQ", "2025-11-26", "2025-11-26 09:00"),  # Hong Kong's, which is last
    ],
)
def test_deadline_follows_the_session(told: str, market: str, day: str, at: str) -> None:
    assert deadline(told, market, day) == at
    assert str(Deadline.parse(told)) == told


def test_overrides_move_it() -> None:
    def said(kind: OverrideKind, day: str, **times: str) -> Overrides:
        return Overrides(
            (
                Override(
                    override_id=1,
                    exchange="XNYS",
                    market=None,
                    session=date.fromisoformat(day),
                    kind=kind,
                    open=None,
                    close=LocalTime.parse(times["close"]) if "close" in times else None,
                    breaks=None,
                    zone=None,
                    reason="storm",
                    source="it",
                    announced_at=datetime(2026, 1, 1, tzinfo=UTC),
                    author="ann",
                    recorded_at=None,
                    withdraws=None,
                ),
            )
        )

    early = said(OverrideKind.EARLY_CLOSE, "2026-03-04", close="12:00")
    assert deadline("close+1h", "XNYS", "2026-03-04") == "2026-03-04 22:00"
    assert deadline("close+1h", "XNYS", "2026-03-04", early) == "2026-03-04 18:00"
    closed = said(OverrideKind.CLOSED, "2026-03-05")
    assert deadline("next_open-30m", "XNYS", "2026-03-04") == "2026-03-05 14:00"
    assert deadline("next_open-30m", "XNYS", "2026-03-04", closed) == "2026-03-06 14:00"


def test_what_the_calendar_does_not_know_yet_has_no_deadline() -> None:
    last = TradingCalendar("US_EQ")
    day = last.previous_trading_day(last.horizon).isoformat()
    final = last.trading_days(date.fromisoformat(day), last.horizon)[-1].isoformat()
    assert deadline("next_open", "US_EQ", final) is None
    assert deadline("close", "US_EQ", final) is not None


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ("noon", "it must be told by a session or a clock, such as 'close+4h'"),
        ("next_", "it must be told by a session or a clock"),
        ("close+soon", "soon"),
        ("close+30h", "it must be at most 1d from its session's close"),
        ("25:00", "'25:00' is not a local time such as 22:30 or 06:00+1d"),
        ("9", "'9' is not a local time such as 22:30"),
        ("09:30 Europe/Lndon", "Did you mean 'Europe/London'?"),
    ],
)
def test_what_it_is_not_is_told(told: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wanted)):
        Deadline.parse(told)


def test_faults_of_a_pipeline_are_told_at_once() -> None:
    pipeline = Pipeline("late", markets=["US_EQ", "EU_EQ"], deadline="18:00")
    pipeline.add("jobs:a", deadline="whenever")
    pipeline.add("jobs:b", required_state="POST_CLOSE", deadline="close-1h")
    pipeline.add("jobs:c", deadline=7)  # type: ignore[arg-type]
    pipeline.add("jobs:d", deadline="next_open-30m")
    said = [fault.partition(": ")[2] for fault in pipeline.faults()]
    assert said[0].startswith("deadline is 'whenever'; it must be told by a session or a clock")
    assert said[1].startswith("deadline is 7; it must be text, such as 'close+4h'")
    assert said[2] == (
        "deadline is '18:00'; EU_EQ has the clocks of Europe/Paris and Europe/London; say which, "
        "such as '18:00 Europe/Paris'"
    )
    before = "job 'b': deadline is 'close-1h'; that is before it may start on every session of"
    assert said[3:] == [f"{before} US_EQ", f"{before} EU_EQ"]


def test_it_is_stored_with_the_run_and_only_where_there_is_one() -> None:
    pipeline = Pipeline("late", markets=["US_EQ"], deadline="close+4h")
    pipeline.add("jobs:a", deadline="06:00+1d Europe/London")
    pipeline.add("jobs:b")
    assert not pipeline.faults()
    definition = pipeline.dag("US_EQ", date(2025, 11, 26)).definition()
    assert definition["deadline"] == "close+4h"
    first, second = (JobMetadata.from_json(each) for each in definition["jobs"])
    assert first.deadline == Deadline.parse("06:00+1d Europe/London")
    assert second.deadline is None
    assert "deadline" not in second.to_json()
    without = DAG("x", [second], pipeline="p", market_id="US_EQ", as_of_date=date(2025, 11, 26))
    assert "deadline" not in without.definition()
    assert not without.has_deadlines
