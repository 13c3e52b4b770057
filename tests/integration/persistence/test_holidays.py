"""What feeds say of holidays: proposed, decided by people, never flipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, time
from typing import Any

import pytest
from sqlalchemy import Engine, select, text

from prometheus.core.holidays import Holiday, HolidayKind, HolidayState
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.holidays import (
    DecisionError,
    StoredHoliday,
    decide_holidays,
    last_said,
    propose_holidays,
)
from prometheus.persistence.runs import note_horizon
from prometheus.persistence.tables import audit, market_holidays
from tests.servers import wait_until

FIRST, LAST = date(2025, 1, 1), date(2025, 12, 31)
MOURNING = Holiday(date(2025, 1, 9), "Day of Mourning", HolidayKind.CLOSED)
SHORT = Holiday(date(2025, 7, 3), "Independence Day", HolidayKind.EARLY_CLOSE, time(13))
VAGUE = Holiday(date(2025, 11, 28), "Thanksgiving", HolidayKind.EARLY_CLOSE)
STRANGE = Holiday(date(2025, 12, 1), "A day", HolidayKind.UNKNOWN)
MOURNING_HALF = Holiday(date(2025, 1, 9), "Day of Mourning", HolidayKind.EARLY_CLOSE, time(12))


def propose(
    engine: Engine, *holidays: Holiday, exchange: str = "XNYS", source: str = "feed"
) -> list[StoredHoliday]:
    with writing(engine) as connection:
        return propose_holidays(connection, exchange, source, FIRST, LAST, holidays)


def decide(engine: Engine, state: HolidayState, *days: date, exchange: str = "XNYS") -> None:
    with writing(engine) as connection:
        decide_holidays(connection, exchange, days, state, actor="ana", reason="circular 1")


def stored(engine: Engine) -> list[tuple[str, str, str]]:
    table = market_holidays
    with reading(engine) as connection:
        rows = connection.execute(select(table).order_by(table.c.date, table.c.holiday_id))
        return [(row.date.isoformat(), row.kind, row.state) for row in rows]


def test_a_feeds_last_word_is_what_is_proposed(engine: Engine) -> None:
    first = propose(engine, MOURNING, SHORT)
    again = propose(engine, MOURNING_HALF)
    assert stored(engine) == [("2025-01-09", "early_close", "proposed")]
    assert [each.holiday for each in first] == [MOURNING, SHORT]
    assert [each.holiday for each in again] == [MOURNING_HALF]
    assert again[0].fetched_at > first[0].fetched_at


def test_feeds_of_other_exchanges_and_years_are_left_alone(engine: Engine) -> None:
    propose(engine, MOURNING)
    propose(engine, MOURNING_HALF, exchange="XNAS")
    before = Holiday(date(2024, 12, 25), "Christmas", HolidayKind.CLOSED)
    assert [each.holiday for each in propose(engine, before, MOURNING)] == [MOURNING]
    assert stored(engine) == [
        ("2025-01-09", "closed", "proposed"),
        ("2025-01-09", "early_close", "proposed"),
    ]


def test_what_was_confirmed_stays_in_force_whatever_the_feed_says_later(engine: Engine) -> None:
    propose(engine, MOURNING, SHORT)
    decide(engine, HolidayState.CONFIRMED, MOURNING.day)
    assert [each.state for each in propose(engine, MOURNING, SHORT)] == ["confirmed", "proposed"]
    propose(engine, MOURNING_HALF)
    assert stored(engine) == [
        ("2025-01-09", "closed", "confirmed"),
        ("2025-01-09", "early_close", "proposed"),
    ]
    decide(engine, HolidayState.CONFIRMED, MOURNING.day)
    assert [state for *_, state in stored(engine)] == ["confirmed", "confirmed"]


def test_what_was_rejected_is_not_proposed_again(engine: Engine) -> None:
    propose(engine, MOURNING)
    decide(engine, HolidayState.REJECTED, MOURNING.day)
    renamed = Holiday(MOURNING.day, "Another name", HolidayKind.CLOSED)
    assert [each.state for each in propose(engine, renamed)] == ["rejected"]
    assert stored(engine) == [("2025-01-09", "closed", "rejected")]


def test_a_decision_is_made_whole_or_not_at_all(engine: Engine) -> None:
    propose(engine, MOURNING, VAGUE, STRANGE)
    days = [MOURNING.day, VAGUE.day, STRANGE.day, date(2025, 3, 3)]
    with pytest.raises(DecisionError, match="Nothing was decided") as caught:
        decide(engine, HolidayState.CONFIRMED, *days)
    only_rejected = "so it can only be rejected"
    assert caught.value.faults == (
        "of 2025-03-03 nothing is proposed",
        f"of 2025-11-28 the feed does not say enough (early close), {only_rejected}",
        f"of 2025-12-01 the feed does not say enough (unknown), {only_rejected}",
    )
    assert {state for *_, state in stored(engine)} == {"proposed"}
    decide(engine, HolidayState.REJECTED, *days[:3])
    assert {state for *_, state in stored(engine)} == {"rejected"}


def test_a_decision_names_its_author_and_is_audited(engine: Engine) -> None:
    propose(engine, SHORT)
    decide(engine, HolidayState.CONFIRMED, SHORT.day)
    with reading(engine) as connection:
        row: Any = connection.execute(select(market_holidays)).one()
        entry: Any = connection.execute(select(audit)).one()
    assert (row.decided_by, row.reason) == ("ana", "circular 1")
    assert row.decided_at >= row.fetched_at
    assert (entry.actor, entry.action, entry.target) == (
        "ana",
        "holiday confirmed",
        "XNYS 2025-07-03",
    )
    assert entry.details == {
        "says": "early close 13:00",
        "name": "Independence Day",
        "source": "feed",
        "reason": "circular 1",
        "before": "proposed",
        "after": "confirmed",
    }


def test_what_was_rejected_by_mistake_is_confirmed_by_a_row_of_its_own(engine: Engine) -> None:
    propose(engine, MOURNING, VAGUE)
    decide(engine, HolidayState.REJECTED, MOURNING.day, VAGUE.day)
    with pytest.raises(DecisionError, match="'closed' was rejected by ana already"):
        decide(engine, HolidayState.REJECTED, MOURNING.day)
    with pytest.raises(DecisionError, match="does not say enough"):
        decide(engine, HolidayState.CONFIRMED, VAGUE.day)
    decide(engine, HolidayState.CONFIRMED, MOURNING.day)
    assert stored(engine)[:2] == [
        ("2025-01-09", "closed", "rejected"),
        ("2025-01-09", "closed", "confirmed"),
    ]
    with pytest.raises(DecisionError, match="'closed' was confirmed by ana already"):
        decide(engine, HolidayState.CONFIRMED, MOURNING.day)
    assert [each.state for each in propose(engine, MOURNING)] == ["confirmed"]
    with reading(engine) as connection:
        entries: Any = connection.execute(select(audit).order_by(audit.c.audit_id)).all()
    assert [(each.action, each.details.get("earlier")) for each in entries] == [
        ("holiday rejected", None),
        ("holiday rejected", None),
        ("holiday confirmed", "rejected by ana"),
    ]


def test_what_one_feed_proposes_is_meant_before_what_was_decided_of_another(
    engine: Engine,
) -> None:
    propose(engine, MOURNING_HALF)
    propose(engine, MOURNING, source="other")
    decide(engine, HolidayState.REJECTED, MOURNING.day)
    assert [state for *_, state in stored(engine)] == ["proposed", "rejected"]
    decide(engine, HolidayState.REJECTED, MOURNING.day)
    assert [state for *_, state in stored(engine)] == ["rejected", "rejected"]
    propose(engine, MOURNING)
    with reading(engine) as connection:
        said = last_said(connection, ["XNYS"], [MOURNING.day])[MOURNING.day]["XNYS"]
    assert (said.source, said.holiday, said.earlier) == ("feed", MOURNING, None)


def test_a_confirmed_day_past_the_horizon_is_not_proposed_again_and_can_be_rejected(
    engine: Engine,
) -> None:
    far = Holiday(date(2090, 1, 3), "A day", HolidayKind.CLOSED)

    def propose_far() -> list[StoredHoliday]:
        with writing(engine) as connection:
            years = date(2090, 1, 1), date(2090, 12, 31)
            return propose_holidays(connection, "XNYS", "feed", *years, [far])

    propose_far()
    decide(engine, HolidayState.CONFIRMED, far.day)
    assert [each.state for each in propose_far()] == ["confirmed"]
    decide(engine, HolidayState.REJECTED, far.day)
    assert [state for *_, state in stored(engine)] == ["confirmed", "rejected"]


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Engine]:
    """A database in which somebody has to wait: SQLite lets one write at a time anyway."""
    engine = create_engine(postgresql_url)
    yield engine
    engine.dispose()


def confirm_while(engine: Engine, another: Callable[[], object]) -> Future[object]:
    """Confirm what is said of the day of mourning, and before that is done begin another thing."""
    waiting = text("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")

    def is_waiting() -> bool:
        with reading(engine) as connection:
            return connection.execute(waiting).first() is not None

    with ThreadPoolExecutor(1) as pool, writing(engine) as connection:
        words = {"actor": "bob", "reason": "notice"}
        decide_holidays(connection, "XNYS", [MOURNING.day], HolidayState.CONFIRMED, **words)
        future = pool.submit(another)
        wait_until(is_waiting, timeout=60, message="the other one waits")
    return future


def test_two_who_decide_anew_at_once_are_not_both_heard(postgresql: Engine) -> None:
    propose(postgresql, MOURNING)
    decide(postgresql, HolidayState.REJECTED, MOURNING.day)
    other = confirm_while(
        postgresql, lambda: decide(postgresql, HolidayState.CONFIRMED, MOURNING.day)
    )
    with pytest.raises(DecisionError, match="was confirmed by bob already"):
        other.result()
    assert [state for *_, state in stored(postgresql)] == ["rejected", "confirmed"]


def test_a_feed_does_not_propose_what_is_being_decided(postgresql: Engine) -> None:
    propose(postgresql, MOURNING)
    confirm_while(postgresql, lambda: propose(postgresql, MOURNING)).result()
    assert [state for *_, state in stored(postgresql)] == ["confirmed"]


def test_the_end_of_a_calendar_is_noted_once_a_day_and_level(engine: Engine) -> None:
    day, following = date(2026, 12, 1), date(2026, 12, 2)
    with writing(engine) as connection:
        said = [
            note_horizon(connection, market, level, on)
            for market, level, on in (
                ("US_EQ", "warning", day),
                ("US_EQ", "warning", day),
                ("EU_EQ", "warning", day),
                ("US_EQ", "alert", day),
                ("US_EQ", "alert", following),
                ("US_EQ", "alert", following),
            )
        ]
    assert said == [True, False, True, True, True, False]
