"""What is accepted as an instant or a date."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from prometheus.core.instants import as_day, as_utc, find_zone
from prometheus.errors import NaiveDatetimeError


class Nowhere(tzinfo):
    """A zone that does not know its offset, which makes a datetime naive all the same."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None


def test_any_zone_becomes_utc() -> None:
    tokyo = datetime(2026, 11, 23, 9, 0, tzinfo=ZoneInfo("Asia/Tokyo"))
    assert as_utc("now", tokyo) == datetime(2026, 11, 23, 0, 0, tzinfo=UTC)
    assert as_utc("now", tokyo).tzinfo is UTC


@pytest.mark.parametrize("zone", [None, Nowhere()])
def test_an_instant_without_an_offset_is_refused(zone: tzinfo | None) -> None:
    with pytest.raises(NaiveDatetimeError, match=r"datetime\.now\(timezone\.utc\)") as caught:
        as_utc("at", datetime(2026, 11, 23, tzinfo=zone))
    assert caught.value.argument == "at"


def test_the_ends_of_time_are_no_overflow() -> None:
    eastern = timezone(timedelta(hours=9))
    assert as_utc("now", datetime.min.replace(tzinfo=eastern)).year == 1
    assert as_utc("now", datetime.max.replace(tzinfo=timezone(-timedelta(hours=9)))).year == 9999


@pytest.mark.parametrize("value", [date(2026, 11, 23), "2026-11-23", None, 0])
def test_what_is_no_datetime_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="pass an aware datetime"):
        as_utc("now", value)


@pytest.mark.parametrize("value", [datetime(2026, 11, 23, tzinfo=UTC), "2026-11-23", None])
def test_what_is_no_plain_date_is_refused(value: Any) -> None:
    """A datetime is a date to Python, but its session date depends on the exchange's zone."""
    with pytest.raises(TypeError, match=r"datetime\.date"):
        as_day("day", value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Europe/Pariss", "Did you mean 'Europe/Paris'?"),
        ("Paris", "Did you mean 'Europe/Paris'?"),
        ("new york", "Did you mean 'America/New_York'?"),
        ("America/NewYork", "Did you mean 'America/New_York'?"),
        ("Tokio", "Did you mean 'Asia/Tokyo'?"),
        ("Mars/Olympus", "Write one such as Europe/Paris."),
        ("", "Write one such as Europe/Paris."),
    ],
)
def test_zone_that_is_none_is_refused_with_the_nearest(name: str, meant: str) -> None:
    """Also by the city alone, as people say it."""
    with pytest.raises(ValueError, match="is not a time zone") as caught:
        find_zone(name)
    assert str(caught.value) == f"{name!r} is not a time zone. {meant}"
