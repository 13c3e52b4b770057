"""Connections: who may write, who waits for whom, and URLs that can not be used."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, func, insert, make_url, select, text, update
from sqlalchemy.exc import DBAPIError

from prometheus.persistence import migrate
from prometheus.persistence.engine import (
    DatabaseUrlError,
    _resting,
    create_engine,
    each_alone,
    is_unavailable,
    let_rest,
    reading,
    shown_url,
    writing,
)
from prometheus.persistence.tables import market_clock, pipelines
from tests.integration.persistence.world import World, at_once
from tests.servers import PostgresServer, wait_until


def add(engine: Engine, name: str, world: World) -> None:
    with writing(engine) as connection:
        connection.execute(
            insert(pipelines).values(name=name, market_id="M", first_seen_at=world.now())
        )


def count(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(pipelines)).scalar_one())


def end_connection_of(engine: Engine, server: PostgresServer) -> None:
    """End, from outside, the connection that an engine keeps once it was used."""
    with reading(engine) as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with server.connect() as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


class TestTransactions:
    def test_block_that_ends_is_committed_and_one_that_raises_is_not(self, world: World) -> None:
        add(world.engine, "kept", world)
        with (
            pytest.raises(KeyError),
            writing(world.engine) as connection,
        ):
            connection.execute(
                insert(pipelines).values(name="lost", market_id="M", first_seen_at=world.now())
            )
            raise KeyError
        assert count(world.engine) == 1

    def test_error_names_its_statement_and_keeps_its_parameters_to_itself(
        self, world: World
    ) -> None:
        """What a job stores, or is told, is nobody's business who reads the log."""
        statement = text("SELECT * FROM nothing WHERE name = :name")
        with pytest.raises(DBAPIError) as raised, reading(world.engine) as connection:
            connection.execute(statement, {"name": "battery-staple"})
        assert "SELECT * FROM nothing" in str(raised.value)
        assert "battery-staple" not in str(raised.value)

    def test_reading_can_change_nothing(self, world: World) -> None:
        with (
            pytest.raises(DBAPIError, match=r"(?i)read-?only"),
            reading(world.engine) as connection,
        ):
            connection.execute(update(market_clock).values(speed=2.0))
        with reading(world.engine) as connection:
            assert connection.execute(select(market_clock.c.speed)).scalar_one() == 1.0

    def test_connection_that_has_read_can_write_again(self, database_url: str) -> None:
        engine = create_engine(database_url, pool_size=1)
        world = World(engine)
        for number in range(3):
            assert count(engine) == number
            add(engine, f"p{number}", world)
        engine.dispose()

    def test_reader_sees_one_state_of_the_database(self, world: World) -> None:
        with reading(world.engine) as connection:
            statement = select(func.count()).select_from(pipelines)
            assert connection.execute(statement).scalar_one() == 0
            add(world.engine, "new", world)
            assert connection.execute(statement).scalar_one() == 0
        assert count(world.engine) == 1

    def test_reader_does_not_wait_for_a_writer(self, world: World) -> None:
        with writing(world.engine) as connection:
            connection.execute(
                insert(pipelines).values(name="new", market_id="M", first_seen_at=world.now())
            )
            assert count(world.engine) == 0
        assert count(world.engine) == 1

    def test_writers_that_read_first_wait_for_each_other_and_lose_nothing(
        self, world: World
    ) -> None:
        """Reading, then writing fails at once on SQLite unless the transaction begins IMMEDIATE."""

        def increase() -> None:
            for _ in range(10):
                with writing(world.engine) as connection:
                    seen = connection.execute(
                        select(market_clock.c.speed).with_for_update()
                    ).scalar_one()
                    connection.execute(update(market_clock).values(speed=seen + 1))

        at_once([increase] * 6)
        with reading(world.engine) as connection:
            assert connection.execute(select(market_clock.c.speed)).scalar_one() == 61.0

    def test_many_may_connect_for_the_first_time_at_once(self, empty_database_url: str) -> None:
        def connect() -> int:
            engine = create_engine(empty_database_url)
            with writing(engine) as connection:
                answer = int(connection.exec_driver_sql("SELECT 1").scalar_one())
            engine.dispose()
            return answer

        assert at_once([connect] * 8) == [1] * 8


class TestEachAlone:
    def test_statement_is_committed_before_the_next(self, postgresql_url: str) -> None:
        engine = create_engine(postgresql_url)
        world = World(engine)
        with pytest.raises(KeyError), each_alone(engine) as connection:
            connection.execute(
                insert(pipelines).values(name="kept", market_id="M", first_seen_at=world.now())
            )
            assert count(engine) == 1
            raise KeyError
        assert count(engine) == 1
        engine.dispose()

    def test_connection_takes_part_in_transactions_again(self, database_url: str) -> None:
        engine = create_engine(database_url, pool_size=1)
        world = World(engine)
        for number in range(3):
            with each_alone(engine) as connection:
                connection.execute(update(market_clock).values(speed=number))
            with pytest.raises(KeyError), writing(engine) as connection:
                connection.execute(update(market_clock).values(speed=7.0))
                raise KeyError
            with reading(engine) as connection:
                assert connection.execute(select(market_clock.c.speed)).scalar_one() == number
            add(engine, f"p{number}", world)
        engine.dispose()

    def test_nothing_is_asked_of_postgresql_but_the_statement(
        self, postgresql_url: str, postgres_server: PostgresServer
    ) -> None:
        engine = create_engine(postgresql_url, pool_size=1)
        with each_alone(engine) as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with postgres_server.connect() as other:
            last = other.execute(
                "SELECT state, query FROM pg_stat_activity WHERE pid = %s", (pid,)
            ).fetchone()
        assert last == ("idle", "SELECT pg_backend_pid()")
        engine.dispose()


@pytest.fixture
def resting(postgresql_url: str) -> Iterator[Engine]:
    """An engine whose connection rests, and that has room for only one."""
    engine = create_engine(postgresql_url, pool_size=1)
    engine.pool._max_overflow = 0  # type: ignore[attr-defined]
    let_rest(engine)
    yield engine
    with reading(engine):  # takes what rests
        pass
    engine.dispose()
    del _resting[engine]


def backend(engine: Engine) -> int:
    """Return PostgreSQL's number of the connection that `each_alone` uses."""
    with each_alone(engine) as connection:
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


class TestResting:
    def test_connection_is_kept_for_the_next_block_and_for_whoever_begins_a_transaction(
        self, resting: Engine
    ) -> None:
        pid = backend(resting)
        assert resting.pool.checkedout() == 1  # type: ignore[attr-defined]
        assert backend(resting) == pid
        with writing(resting) as connection:
            connection.execute(update(market_clock).values(speed=2.0))
        assert resting.pool.checkedout() == 0  # type: ignore[attr-defined]
        with reading(resting) as connection:
            assert connection.execute(select(market_clock.c.speed)).scalar_one() == 2.0
        assert backend(resting) == pid
        with pytest.raises(KeyError), writing(resting) as connection:
            connection.execute(update(market_clock).values(speed=7.0))
            raise KeyError
        assert backend(resting) == pid

    def test_statement_is_committed_before_the_next(self, resting: Engine) -> None:
        other = create_engine(resting.url.render_as_string(hide_password=False))
        for number in range(3):
            with each_alone(resting) as connection:
                connection.execute(update(market_clock).values(speed=number))
                with reading(other) as reader:
                    assert reader.execute(select(market_clock.c.speed)).scalar_one() == number
        other.dispose()

    def test_block_that_raises_leaves_none(self, resting: Engine) -> None:
        pid = backend(resting)
        with pytest.raises(DBAPIError), each_alone(resting) as connection:
            connection.exec_driver_sql("SELECT 1 / 0")
        assert resting.pool.checkedout() == 0  # type: ignore[attr-defined]
        assert backend(resting) == pid

    def test_one_that_was_lost_in_a_block_that_goes_on_is_not_kept(
        self, resting: Engine, postgres_server: PostgresServer
    ) -> None:
        with each_alone(resting) as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with postgres_server.connect() as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            with pytest.raises(DBAPIError):
                connection.exec_driver_sql("SELECT 1")
        assert resting.pool.checkedout() == 0  # type: ignore[attr-defined]
        assert backend(resting) != pid

    def test_sqlite_keeps_none(self, sqlite_url: str) -> None:
        engine = create_engine(sqlite_url)
        let_rest(engine)
        with each_alone(engine) as connection:
            connection.exec_driver_sql("SELECT 1")
        assert _resting.pop(engine) == []
        engine.dispose()

    def test_two_at_once_have_one_each(self, postgresql_url: str) -> None:
        engine = create_engine(postgresql_url)
        let_rest(engine)
        with each_alone(engine) as outer:
            pid = outer.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            assert backend(engine) != pid
            assert outer.exec_driver_sql("SELECT 1").scalar_one() == 1
        assert engine.pool.checkedout() == 1  # type: ignore[attr-defined]
        with writing(engine):
            pass
        engine.dispose()
        del _resting[engine]

    @pytest.mark.parametrize("first", [each_alone, writing, reading])
    def test_one_that_was_lost_as_it_rested_for_long_is_replaced_unseen(
        self,
        resting: Engine,
        postgres_server: PostgresServer,
        monkeypatch: pytest.MonkeyPatch,
        first: Callable[[Engine], AbstractContextManager[Connection]],
    ) -> None:
        pid = backend(resting)
        with postgres_server.connect() as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        monkeypatch.setattr("prometheus.persistence.engine._IDLE_SECONDS", 0)
        with first(resting) as connection:
            assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() != pid

    def test_one_that_was_lost_a_moment_ago_costs_an_outage_of_a_single_try(
        self, resting: Engine, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("prometheus.persistence.engine._IDLE_SECONDS", 60)
        pid = backend(resting)
        with postgres_server.connect() as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        with pytest.raises(DBAPIError) as raised:
            backend(resting)
        assert is_unavailable(raised.value)
        assert backend(resting) != pid

    def test_forked_process_finds_none(self, resting: Engine) -> None:
        pid = backend(resting)
        child = os.fork()
        if child == 0:
            os._exit(resting.pool.checkedout())  # type: ignore[attr-defined]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert backend(resting) == pid


class TestSqlite:
    def test_write_transactions_begin_immediate_and_read_transactions_do_not(
        self, sqlite_url: str
    ) -> None:
        engine = create_engine(sqlite_url)
        path = engine.url.database
        assert path is not None
        with sqlite3.connect(path, timeout=0) as other:
            with reading(engine):
                other.execute("BEGIN IMMEDIATE")
                other.rollback()
            with (
                writing(engine),
                pytest.raises(sqlite3.OperationalError, match="database is locked"),
            ):
                other.execute("BEGIN IMMEDIATE")
        other.close()
        engine.dispose()

    def test_connections_keep_our_conventions(self, sqlite_url: str) -> None:
        engine = create_engine(sqlite_url)
        with reading(engine) as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
            }
        assert pragmas == {
            "journal_mode": "wal",
            "foreign_keys": 1,
            "synchronous": 1,
            "busy_timeout": 20_000,
        }
        engine.dispose()


class TestPostgresql:
    def test_plain_url_uses_the_driver_that_is_installed(self, postgresql_url: str) -> None:
        plain = postgresql_url.replace("postgresql+psycopg://", "postgresql://")
        engine = create_engine(plain)
        assert engine.driver == "psycopg"
        with reading(engine) as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
            level = connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        assert level == "repeatable read"
        with writing(engine) as connection:
            level = connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
            name = connection.exec_driver_sql("SHOW application_name").scalar_one()
        assert level == "read committed"
        assert name == "prometheus"
        engine.dispose()

    def test_database_that_was_made_without_an_encoding_works(
        self, postgres_server: PostgresServer
    ) -> None:
        with postgres_server.connect() as connection:
            connection.execute(
                "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
            )
        url = postgres_server.url("ascii")
        migrate.upgrade(url)
        engine = create_engine(url)
        migrate.check(engine)
        add(engine, "prix_d’été", World(engine))
        with reading(engine) as connection:
            assert connection.execute(select(pipelines.c.name)).scalar_one() == "prix_d’été"
        engine.dispose()
        postgres_server.drop_database("ascii")

    @pytest.mark.parametrize(("keeps_plans", "kept"), [(True, 1), (False, 0)])
    def test_plans_are_kept_or_not(self, postgresql_url: str, keeps_plans: bool, kept: int) -> None:
        engine = create_engine(postgresql_url, keeps_plans=keeps_plans)
        with reading(engine) as connection:
            for value in range(10):
                connection.execute(text("SELECT :value + 0"), {"value": value})
            plans = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%+ 0'"
            assert connection.exec_driver_sql(plans.replace("%", "%%")).scalar_one() == kept
        engine.dispose()

    def test_connection_that_was_lost_while_it_was_idle_is_replaced_unseen(
        self,
        postgresql_url: str,
        postgres_server: PostgresServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("prometheus.persistence.engine._IDLE_SECONDS", 0)
        engine = create_engine(postgresql_url)
        end_connection_of(engine, postgres_server)
        with reading(engine) as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
        engine.dispose()

    def test_connection_that_was_in_use_a_moment_ago_is_not_asked_whether_it_is_there(
        self,
        postgresql_url: str,
        postgres_server: PostgresServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One that is lost in such a moment costs an outage of a single try."""
        monkeypatch.setattr("prometheus.persistence.engine._IDLE_SECONDS", 60)
        engine = create_engine(postgresql_url)
        end_connection_of(engine, postgres_server)
        with pytest.raises(DBAPIError) as raised, reading(engine) as connection:
            connection.exec_driver_sql("SELECT 1")
        assert is_unavailable(raised.value)
        with reading(engine) as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
        engine.dispose()

    def test_server_that_vanishes_without_a_word_is_noticed_within_seconds(
        self, postgresql_url: str
    ) -> None:
        """As the driver itself has them; each pool's every connection comes with the same."""
        engine = create_engine(postgresql_url)
        with reading(engine) as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, psycopg.Connection)
            used = raw.info.get_parameters()
        engine.dispose()
        limits = ("connect_timeout", "tcp_user_timeout")
        keepalives = ("keepalives_idle", "keepalives_interval", "keepalives_count")
        assert {name: used.get(name) for name in (*limits, *keepalives)} == {
            "connect_timeout": "10",
            "tcp_user_timeout": "10000",  # the only one in milliseconds
            "keepalives_idle": "5",
            "keepalives_interval": "3",
            "keepalives_count": "3",
        }
        assert "keepalives" not in used, "they are on unless somebody turns them off"


class TestUnavailable:
    def test_full_or_read_only_database_is(self, sqlite_url: str) -> None:
        engine = create_engine(sqlite_url)
        with reading(engine) as connection:
            used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        for limit, said in (
            (f"max_page_count = {used + 1}", "full"),
            ("query_only = 1", "readonly"),
        ):
            with pytest.raises(DBAPIError, match=said) as raised, writing(engine) as connection:
                connection.exec_driver_sql(f"PRAGMA {limit}")
                connection.exec_driver_sql("CREATE TABLE filler AS SELECT randomblob(100000) AS b")
            assert is_unavailable(raised.value)
        engine.dispose()

    def test_locked_sqlite_is(self, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("prometheus.persistence.engine.BUSY_TIMEOUT_SECONDS", 0.0)
        engine = create_engine(sqlite_url)
        with (
            writing(engine),
            pytest.raises(DBAPIError, match="locked") as raised,
            writing(engine) as second,
        ):
            second.exec_driver_sql("SELECT 1")
        engine.dispose()
        assert is_unavailable(raised.value)

    def test_file_that_can_not_be_opened_is(self, tmp_path: Path) -> None:
        engine = create_engine(f"sqlite:///{tmp_path / 'nowhere' / 'p.db'}")
        with pytest.raises(DBAPIError) as raised, reading(engine):
            pass
        assert is_unavailable(raised.value)

    @pytest.mark.parametrize(
        ("state", "passes"),
        [
            ("08006", True),
            ("25006", True),
            ("25P03", True),
            ("40001", True),
            ("40P01", True),
            ("53100", True),
            ("53300", True),
            ("55P03", True),
            ("57014", True),
            ("57P01", True),
            ("57P03", True),
            ("58030", True),
            ("22012", False),
            ("23505", False),
            ("25P02", False),
            ("42P01", False),
        ],
    )
    def test_postgresql_says_it_by_its_codes(
        self, postgresql_url: str, state: str, passes: bool
    ) -> None:
        engine = create_engine(postgresql_url)
        statement = f"DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = '{state}'; END $$"
        with pytest.raises(DBAPIError) as raised, writing(engine) as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()
        assert is_unavailable(raised.value) is passes

    def test_server_that_refuses_closes_or_ends_connections_is(
        self, spare_postgres: PostgresServer
    ) -> None:
        engine = create_engine(spare_postgres.url())
        with pytest.raises(DBAPIError) as ended, writing(engine) as connection:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(DBAPIError) as closed, writing(engine) as connection:
            connection.exec_driver_sql("SELECT 1")
            spare_postgres.kill()
            connection.exec_driver_sql("SELECT 1")
        with pytest.raises(DBAPIError) as refused, reading(engine):
            pass
        engine.dispose()
        assert all(is_unavailable(each.value) for each in (ended, closed, refused))

    def test_statement_at_fault_is_not(self, world: World) -> None:
        with pytest.raises(DBAPIError) as raised, reading(world.engine) as connection:
            connection.exec_driver_sql("SELECT * FROM nothing")
        assert not is_unavailable(raised.value)
        assert not is_unavailable(OSError("no such file"))


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("mysql://u:secret@h/db", "mysql is not supported"),
            ("mysql://h/db?user=u&password=secret", "mysql is not supported"),
            ("sqlite://?password=secret", "several processes share it, so it must be a file"),
            ("sqlite://", "several processes share it, so it must be a file"),
            ("sqlite:///:memory:", "several processes share it, so it must be a file"),
            ("not a url", "it is not a URL"),
            ("postgresql:/u:secret@h/db", "it is not a URL"),
            ("", "it is not a URL"),
        ],
    )
    def test_url_that_can_not_be_used_is_refused_without_its_password(
        self, url: str, said: str
    ) -> None:
        with pytest.raises(DatabaseUrlError) as raised:
            create_engine(url)
        assert said in str(raised.value)
        assert "secret" not in str(raised.value)
        assert "PROMETHEUS__DATABASE__URL" in str(raised.value)

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("postgresql://u:secret@h:5432/db", "postgresql://u:***@h:5432/db"),
            ("postgresql://h/db?user=u&password=secret", "postgresql://h/db"),
            ("postgresql://u@/db?host=/run&sslpassword=secret", "postgresql://u@/db"),
            ("sqlite:////data/prometheus.db", "sqlite:////data/prometheus.db"),
        ],
    )
    def test_url_is_shown_without_its_password_wherever_that_stands(
        self, url: str, shown: str
    ) -> None:
        assert shown_url(make_url(url)) == shown

    def test_nothing_is_connected_before_it_is_used(self, tmp_path: Path) -> None:
        create_engine(f"sqlite:///{tmp_path / 'later.db'}").dispose()
        create_engine("postgresql://nobody@127.0.0.1:1/nothing").dispose()
        assert list(tmp_path.iterdir()) == []


def test_connection_that_was_read_from_does_not_override_a_server_that_takes_no_writes(
    spare_postgres: PostgresServer,
) -> None:
    engine = create_engine(spare_postgres.url(spare_postgres.create_database()))
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE things (number integer)"))
    with reading(engine) as connection:
        connection.execute(text("SELECT * FROM things"))
    with spare_postgres.connect() as administrator:
        administrator.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        administrator.execute("SELECT pg_reload_conf()")

    def refusal() -> DBAPIError | None:
        try:
            with writing(engine) as connection:
                connection.execute(text("INSERT INTO things VALUES (1)"))
        except DBAPIError as error:
            return error
        return None

    error = wait_until(refusal, timeout=30, message="a write is refused")
    assert error is not None
    assert is_unavailable(error)
    engine.dispose()


@pytest.mark.promise("P4")
def test_who_stands_still_between_two_rows_of_many_holds_up_nobody(postgresql_url: str) -> None:
    """In a pipeline, which psycopg would use here, PostgreSQL has no time-out for that."""
    engine, go = create_engine(postgresql_url), threading.Event()

    def rows() -> Iterator[tuple[int]]:
        yield from ((number,) for number in range(2_000))  # more than is kept before it is sent
        go.wait(120)
        yield (2_000,)

    def write() -> None:
        with engine.begin() as connection:
            cursor: Any = connection.connection.cursor()
            cursor.executemany("INSERT INTO things VALUES (%s)", rows())

    def other_writes() -> bool:
        try:
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO things VALUES (0)"))
        except DBAPIError:  # it waited for the lock in vain
            return False
        return True

    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (number integer PRIMARY KEY)"))
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            with reading(engine) as connection:
                states = text("SELECT count(*) FROM pg_locks WHERE mode = 'RowExclusiveLock'")
                wait_until(lambda: connection.execute(states).scalar_one(), timeout=30)
            wait_until(other_writes, timeout=30, message="the locks are free")
        finally:
            go.set()
        with pytest.raises((psycopg.OperationalError, DBAPIError)):
            writer.result(60)
    engine.dispose()
