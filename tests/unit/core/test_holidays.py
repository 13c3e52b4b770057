"""What a feed says of holidays, held against the calendar in force."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import pytest

from prometheus.core.drafts import read_draft
from prometheus.core.holidays import (
    Difference,
    Holiday,
    HolidayKind,
    find_differences,
    override_for,
)
from prometheus.core.overrides import Overrides, put_in_force
from prometheus.core.trading_calendar import TradingCalendar

THANKSGIVING, DAY_AFTER = date(2012, 11, 22), date(2012, 11, 23)
TUESDAY = date(2012, 11, 27)
FIRST, LAST = date(2012, 11, 1), date(2012, 11, 30)


def differences(
    *holidays: Holiday, first: date = FIRST, last: date = LAST, mic: str = "XNYS"
) -> list[tuple[date, str, str]]:
    found = find_differences(mic, holidays, first, last)
    return [(each.day, each.proposed, each.in_force) for each in found]


def closed(day: date, name: str = "Holiday") -> Holiday:
    return Holiday(day, name, HolidayKind.CLOSED)


def early(day: date, close: time | None = None) -> Holiday:
    return Holiday(day, "Half day", HolidayKind.EARLY_CLOSE, close)


def test_a_feed_that_says_what_the_calendar_says_proposes_nothing() -> None:
    assert differences(closed(THANKSGIVING), early(DAY_AFTER, time(13))) == []


def test_a_closure_that_the_calendar_does_not_know_is_a_proposal() -> None:
    [found] = find_differences(
        "XNYS", [closed(THANKSGIVING), closed(date(2012, 11, 27), "Storm")], FIRST, LAST
    )
    assert found == Difference("XNYS", date(2012, 11, 27), "closed", "open", "Storm")


def test_a_closure_that_the_feed_does_not_list_is_a_proposal_to_open() -> None:
    assert differences() == [(THANKSGIVING, "open", "closed")]


def test_a_day_of_the_banks_closes_nothing() -> None:
    veterans = Holiday(date(2012, 11, 12), "Veterans Day", HolidayKind.BANK)
    weekend = Holiday(date(2012, 11, 11), "Veterans Day", HolidayKind.BANK)
    assert differences(closed(THANKSGIVING), veterans, weekend) == []
    banks = Holiday(THANKSGIVING, "Thanksgiving", HolidayKind.BANK)
    assert differences(banks) == [(THANKSGIVING, "open", "closed")]


def test_an_early_close_is_compared_by_its_local_time() -> None:
    given = closed(THANKSGIVING)
    assert differences(given, early(DAY_AFTER, time(13, 15))) == [
        (DAY_AFTER, "early close 13:15", "early close 13:00")
    ]
    assert differences(given, early(date(2012, 11, 27), time(13))) == [
        (date(2012, 11, 27), "early close 13:00", "open")
    ]
    assert differences(early(THANKSGIVING, time(13))) == [
        (THANKSGIVING, "early close 13:00", "closed")
    ]


def test_an_early_close_without_a_time_is_only_an_early_close() -> None:
    given = closed(THANKSGIVING)
    assert differences(given, early(DAY_AFTER)) == []
    assert differences(given, early(date(2012, 11, 27))) == [
        (date(2012, 11, 27), "early close", "open")
    ]


def test_a_half_day_that_the_feed_leaves_out_says_nothing() -> None:
    """Half days to come are missing in replies that were captured."""
    assert TradingCalendar("XNYS").session(DAY_AFTER).early_close
    assert differences(closed(THANKSGIVING)) == []


def test_two_words_of_a_feed_about_one_day_are_both_shown() -> None:
    assert differences(closed(THANKSGIVING), early(THANKSGIVING, time(13))) == [
        (THANKSGIVING, "early close 13:00", "closed")
    ]


def test_a_type_that_is_not_known_is_always_shown() -> None:
    odd = Holiday(date(2012, 11, 27), "?", HolidayKind.UNKNOWN)
    assert differences(closed(THANKSGIVING), odd) == [(date(2012, 11, 27), "unknown", "open")]


def test_weekends_and_days_out_of_range_are_no_matter() -> None:
    assert differences(closed(THANKSGIVING), closed(date(2012, 11, 24))) == []
    assert differences(closed(date(2012, 12, 27)), last=date(2012, 11, 21)) == []


def test_what_lies_beyond_the_calendar_is_shown_as_not_known() -> None:
    horizon = TradingCalendar("XNYS").horizon
    late = horizon.replace(year=horizon.year + 1)
    assert differences(closed(late), first=late, last=late) == [(late, "closed", "not known")]
    assert differences(first=late, last=late) == []


@pytest.mark.parametrize(
    ("holiday", "kind", "close"),
    [
        (closed(TUESDAY), "closed", None),
        (early(TUESDAY, time(13)), "early_close", "13:00"),
        (early(DAY_AFTER, time(12)), "changed_hours", "12:00"),
        (Holiday(DAY_AFTER, "none", HolidayKind.OPEN), "changed_hours", "16:00"),
        (Holiday(THANKSGIVING, "none", HolidayKind.OPEN), "special_session", None),
        (early(THANKSGIVING, time(13)), "special_session", "13:00"),
    ],
)
def test_what_is_confirmed_becomes_an_override_after_which_nothing_differs(
    holiday: Holiday, kind: str, close: str | None
) -> None:
    draft = override_for("XNYS", holiday, Overrides(), source="feed", reason="so", author="ana")
    assert draft is not None
    assert (draft.kind, draft.close, draft.source) == (kind, close, "feed, confirmed: so")
    now = datetime(2012, 11, 1, tzinfo=UTC)
    put_in_force(Overrides().plus(read_draft(draft, Overrides(), now=now)))
    try:
        assert differences(holiday, first=holiday.day, last=holiday.day) == []
    finally:
        put_in_force(Overrides())


def test_what_is_so_already_or_is_past_the_horizon_becomes_no_override() -> None:
    for holiday in (closed(THANKSGIVING), early(DAY_AFTER, time(13)), closed(date(2199, 1, 1))):
        words = {"source": "feed", "reason": "so", "author": "ana"}
        assert override_for("XNYS", holiday, Overrides(), **words) is None
