"""The two clocks, and instants as the two databases keep them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import StatementError

from prometheus.orchestration.planning import SessionRange
from prometheus.persistence import clock
from prometheus.persistence.clock import Now
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.metadata import database_now
from prometheus.persistence.tables import pipelines
from tests.integration.persistence.world import World, at_once
from tests.servers import wait_until

BEGIN = datetime(1971, 1, 1, tzinfo=UTC)
PAST = datetime(2012, 11, 21, 13, 0, tzinfo=UTC)
ONLY = SessionRange(date(2012, 11, 21), date(2012, 11, 23))


def read(world: World) -> Now:
    with reading(world.engine) as connection:
        return clock.read_now(connection)


def replay(world: World, *, speed: float) -> None:
    with writing(world.engine) as connection:
        clock.start_replay(
            connection, market_at=PAST, speed=speed, only=ONLY, markets=["US_EQ", "EU_EQ"]
        )


def jump(world: World, to: datetime, *, seen: datetime) -> bool:
    with writing(world.engine) as connection:
        return clock.jump_to(connection, to, seen=seen)


class TestLive:
    def test_market_time_is_wall_time_and_nothing_is_bound(self, world: World) -> None:
        now = read(world)
        assert now.market_at == now.wall_at
        assert now.clock.is_live
        assert now.only is None
        assert now.markets is None
        assert not now.jumps

    def test_wall_time_is_the_time_of_the_world_in_utc(self, world: World) -> None:
        before = datetime.now(UTC) - timedelta(milliseconds=5)
        now = read(world)
        assert before <= now.wall_at <= datetime.now(UTC) + timedelta(milliseconds=5)
        assert now.wall_at.tzinfo is UTC

    def test_wall_time_passes_within_a_transaction(self, world: World) -> None:
        with reading(world.engine) as connection:
            first = clock.read_now(connection).wall_at
            wait_until(lambda: clock.read_now(connection).wall_at > first, message="time passes")

    def test_live_clock_does_not_jump(self, world: World) -> None:
        assert not jump(world, PAST, seen=read(world).market_at)
        assert read(world).clock.is_live


class TestReplay:
    def test_market_time_runs_from_its_anchor_at_its_speed(self, world: World) -> None:
        before = world.now()
        replay(world, speed=3600.0)
        now = read(world)
        assert now.only == ONLY
        assert now.markets == frozenset({"US_EQ", "EU_EQ"})
        assert PAST <= now.market_at <= PAST + (now.wall_at - before) * 3600
        later = read(world)
        assert later.market_at - now.market_at == (later.wall_at - now.wall_at) * 3600

    def test_standing_clock_stands_until_it_jumps(self, world: World) -> None:
        replay(world, speed=0)
        assert read(world).jumps
        assert read(world).market_at == read(world).market_at == PAST
        to = PAST + timedelta(minutes=30, microseconds=1)
        assert jump(world, to, seen=PAST)
        assert read(world).market_at == to

    def test_clock_jumps_only_from_where_it_was_seen(self, world: World) -> None:
        replay(world, speed=0)
        first, second = PAST + timedelta(hours=1), PAST + timedelta(hours=2)
        assert jump(world, first, seen=PAST)
        assert not jump(world, second, seen=PAST)
        assert read(world).market_at == first

    def test_of_many_who_move_the_clock_at_once_one_does(self, world: World) -> None:
        replay(world, speed=0)
        seen = PAST
        for _ in range(5):
            targets = [seen + timedelta(minutes=number) for number in range(1, 7)]
            moved = at_once([partial(jump, world, to, seen=seen) for to in targets])
            assert moved.count(True) == 1
            seen = targets[moved.index(True)]
            assert read(world).market_at == seen

    def test_running_replay_does_not_jump(self, world: World) -> None:
        replay(world, speed=60)
        assert not jump(world, PAST + timedelta(days=1), seen=PAST)


zones = st.one_of(
    st.sampled_from([UTC, ZoneInfo("America/New_York"), ZoneInfo("Asia/Tokyo")]),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
instants = st.builds(
    lambda microseconds, zone: (BEGIN + timedelta(microseconds=microseconds)).astimezone(zone),
    st.integers(0, 230 * 365 * 86_400 * 1_000_000),
    zones,
)


class TestInstants:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
    @given(st.lists(instants, min_size=1, max_size=8, unique=True))
    def test_instants_keep_their_microseconds_and_their_order(
        self, world: World, given_: list[datetime]
    ) -> None:
        utc = {f"p{number}": value.astimezone(UTC) for number, value in enumerate(given_)}
        with writing(world.engine) as connection:
            connection.execute(delete(pipelines))
            connection.execute(
                insert(pipelines),
                [
                    {"name": f"p{number}", "market_id": "M", "first_seen_at": value}
                    for number, value in enumerate(given_)
                ],
            )
        column = pipelines.c.first_seen_at
        with reading(world.engine) as connection:
            rows = connection.execute(select(pipelines).order_by(column)).all()
            assert {row.name: row.first_seen_at for row in rows} == utc
            assert [row.first_seen_at for row in rows] == sorted(utc.values())
            assert all(row.first_seen_at.tzinfo is UTC for row in rows)
            for value in given_:
                earlier = connection.execute(select(pipelines.c.name).where(column < value))
                assert set(earlier.scalars()) == {n for n, other in utc.items() if other < value}

    def test_naive_instants_are_refused(self, world: World) -> None:
        with (
            pytest.raises(StatementError, match="naive datetime 2012-11-21T13:00:00"),
            writing(world.engine) as connection,
        ):
            connection.execute(
                insert(pipelines).values(
                    name="p", market_id="M", first_seen_at=PAST.replace(tzinfo=None)
                )
            )
        with (
            pytest.raises(StatementError, match="naive datetime"),
            reading(world.engine) as connection,
        ):
            connection.execute(
                select(pipelines).where(pipelines.c.first_seen_at < PAST.replace(tzinfo=None))
            )

    @pytest.mark.parametrize("offset", [timedelta(hours=-1), timedelta(hours=1)])
    def test_database_compares_its_own_time_with_stored_instants(
        self, world: World, offset: timedelta
    ) -> None:
        tokyo = (datetime.now(UTC) + offset).astimezone(ZoneInfo("Asia/Tokyo"))
        with writing(world.engine) as connection:
            connection.execute(
                insert(pipelines).values(name="p", market_id="M", first_seen_at=tokyo)
            )
            past = connection.execute(
                select(pipelines.c.first_seen_at <= database_now())
            ).scalar_one()
        assert bool(past) is (offset < timedelta(0))

    @pytest.mark.parametrize("digits", [0, 1, 100_000, 999_000, 999_999])
    def test_database_compares_instants_a_millisecond_from_its_own_time(
        self, world: World, digits: int
    ) -> None:
        """As texts on SQLite: every instant must be written with as many digits."""
        with writing(world.engine) as connection:
            now = connection.execute(select(database_now())).scalar_one()
            before = (now - timedelta(seconds=1)).replace(microsecond=digits)
            after = (now + timedelta(seconds=30)).replace(microsecond=digits)
            for name, value in (("before", before), ("after", after)):
                connection.execute(
                    insert(pipelines).values(name=name, market_id="M", first_seen_at=value)
                )
            found = connection.execute(
                select(pipelines.c.name).where(pipelines.c.first_seen_at <= database_now())
            ).scalars()
            assert list(found) == ["before"]

    def test_instant_that_the_database_wrote_equals_the_same_one_written_by_us(
        self, world: World
    ) -> None:
        column = pipelines.c.first_seen_at
        with writing(world.engine) as connection:
            connection.execute(
                insert(pipelines).values(name="p", market_id="M", first_seen_at=database_now())
            )
            written = connection.execute(select(column)).scalar_one()
            assert connection.execute(select(column).where(column == written)).first() is not None

    def test_time_zone_of_a_postgresql_session_changes_no_instant(
        self, postgresql_url: str
    ) -> None:
        world = World(create_engine(postgresql_url))
        with world.engine.begin() as connection:
            connection.exec_driver_sql("SET TIME ZONE 'America/St_Johns'")
            connection.execute(
                insert(pipelines).values(name="p", market_id="M", first_seen_at=PAST)
            )
            now = connection.execute(select(database_now())).scalar_one()
            assert abs(now - datetime.now(UTC)) < timedelta(seconds=5)
            stored = connection.execute(select(pipelines.c.first_seen_at)).scalar_one()
            assert stored == PAST
            assert stored.tzinfo is UTC
        with world.engine.begin() as connection:
            connection.exec_driver_sql("SET TIME ZONE 'Asia/Kolkata'")
            found = connection.execute(
                select(pipelines.c.name).where(
                    pipelines.c.first_seen_at == PAST, pipelines.c.first_seen_at <= database_now()
                )
            ).scalars()
            assert list(found) == ["p"]
        world.engine.dispose()
