"""Overrides read with a driver alone are those that the product reads."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import pytest
from sqlalchemy import Engine

from prometheus.core.exchanges import LocalTime
from prometheus.core.overrides import Override, OverrideKind
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.overrides import read_overrides, record
from prometheus.persistence.stored import read_stored


def test_driver_alone_reads_what_was_recorded(engine: Engine, database_url: str) -> None:
    said = Override(
        override_id=1,
        exchange="XTKS",
        session=date(2026, 11, 20),
        kind=OverrideKind.CHANGED_HOURS,
        open=LocalTime(time(17), -1),
        close=LocalTime(time(13, 0, 30)),
        breaks=((LocalTime(time(11, 30)), LocalTime(time(12, 30))),),
        zone="Asia/Tokyo",
        reason="ein Sturm, 嵐",
        source="jpx.co.jp",
        announced_at=datetime(2026, 11, 19, 12, 0, 0, 250, tzinfo=UTC),
        author="ann",
    )
    back = Override(
        override_id=2,
        exchange="XTKS",
        session=said.session,
        kind=OverrideKind.WITHDRAWN,
        reason="over",
        source="",
        announced_at=said.announced_at,
        author="bob",
        withdraws=1,
    )
    with writing(engine) as connection:
        record(connection, said)
        record(connection, back)
    with reading(engine) as connection:
        known = read_overrides(connection)
    found = read_stored(database_url).rows
    assert found == known.rows
    assert [(each.open, each.close, each.breaks) for each in found] == [
        (said.open, said.close, said.breaks),
        (None, None, None),
    ]
    assert found[0].announced_at == said.announced_at


@pytest.mark.parametrize("driver", ["", "+driver"])
def test_database_without_our_tables_has_none(empty_database_url: str, driver: str) -> None:
    scheme, _, rest = empty_database_url.partition("://")
    assert read_stored(f"{scheme}{driver}://{rest}").rows == ()
