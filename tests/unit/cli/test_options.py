"""How the values of options are read."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
import typer

from prometheus.cli.options import read_date, read_instant
from prometheus.cli.replay import read_speed


def test_a_date_is_iso() -> None:
    assert read_date("2012-11-21") == date(2012, 11, 21)
    with pytest.raises(typer.BadParameter, match="is not a date such as 2012-11-21"):
        read_date("21.11.2012")


@pytest.mark.parametrize("text", ["2012-11-23T17:30Z", "2012-11-23T12:30-05:00"])
def test_an_instant_keeps_its_offset(text: str) -> None:
    assert read_instant(text) == datetime(2012, 11, 23, 17, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "proposed"),
    [("2012-11-23T17:30", "2012-11-23T17:30Z"), ("2012-11-23", "2012-11-23T00:00Z")],
)
def test_an_instant_without_offset_is_refused_with_a_proposal(text: str, proposed: str) -> None:
    with pytest.raises(typer.BadParameter, match="any of 24 hours") as caught:
        read_instant(text)
    assert f"Write {proposed} for UTC." in str(caught.value)
    assert read_instant(proposed).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-12-24 12:45 Europe/Paris", datetime(2026, 12, 24, 11, 45, tzinfo=UTC)),
        ("2026-07-24T12:45:30 Europe/Paris", datetime(2026, 7, 24, 10, 45, 30, tzinfo=UTC)),
        ("2026-12-24 12:45 UTC", datetime(2026, 12, 24, 12, 45, tzinfo=UTC)),
        ("2026-12-24 12:45Z", datetime(2026, 12, 24, 12, 45, tzinfo=UTC)),
        ("2026-12-24 America/New_York", datetime(2026, 12, 24, 5, tzinfo=UTC)),
    ],
)
def test_an_instant_may_name_its_zone(text: str, expected: datetime) -> None:
    assert read_instant(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-12-24 12:45 Europe/Pariss", "is not a time zone. Did you mean 'Europe/Paris'?"),
        ("2026-12-24 12:45 Europe", "is not a time zone"),
        ("2026-12-24 12:45Z Europe/Paris", "both an offset and a zone"),
        ("2026-03-29 02:30 Europe/Paris", "does not exist: clocks are set forward over it"),
        (
            "2026-10-25 02:30 Europe/Paris",
            "Write 2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00.",
        ),
    ],
)
def test_a_local_time_that_is_not_one_instant_is_refused(text: str, message: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        read_instant(text)
    assert message in str(caught.value)


def test_an_instant_before_all_dates_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="outside the years"):
        read_instant("0001-01-01T00:00+14:00")


@pytest.mark.parametrize(("text", "speed"), [("jump", 0.0), ("60", 60.0), ("0.5x", 0.5)])
def test_speeds(text: str, speed: float) -> None:
    assert read_speed(text) == speed


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "", "x", "fast"])
def test_what_is_no_speed(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="neither jump nor a number above 0"):
        read_speed(text)
