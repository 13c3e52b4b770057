"""The fixtures themselves: what other tests rely on without saying so."""

from __future__ import annotations

import os
import signal
import sys
import textwrap

import psycopg
import pytest
import redis
import sqlalchemy as sa

from tests.conftest import StartProcess
from tests.servers import PostgresServer, RedisServer, wait_until


def test_wait_until_returns_the_first_true_answer() -> None:
    answers = iter([0, "", "yes", "later"])
    assert wait_until(lambda: next(answers)) == "yes"


def test_wait_until_fails_with_its_message() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: the moon is full"):
        wait_until(lambda: False, timeout=0.01, message="the moon is full")


def test_databases_of_two_tests_share_nothing(postgres_server: PostgresServer) -> None:
    first, second = (postgres_server.create_database() for _ in range(2))
    with postgres_server.connect(first) as connection:
        connection.execute("CREATE TABLE only_here (id int)")
    with (
        postgres_server.connect(second) as connection,
        pytest.raises(psycopg.errors.UndefinedTable),
    ):
        connection.execute("SELECT * FROM only_here")
    for name in (first, second):
        postgres_server.drop_database(name)


def test_empty_database_accepts_tables(empty_database_url: str) -> None:
    engine = sa.create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id integer)"))
        assert connection.execute(sa.text("SELECT count(*) FROM t")).scalar_one() == 0
    engine.dispose()


def test_redis_keeps_its_data_over_a_crash(spare_redis: RedisServer) -> None:
    with spare_redis.client() as client:
        client.config_set("appendfsync", "always")
        client.set("key", "value")
    spare_redis.kill()
    with spare_redis.client() as client, pytest.raises(redis.ConnectionError):
        client.ping()
    spare_redis.start()
    with spare_redis.client() as client:
        assert client.get("key") == b"value"


def test_postgres_keeps_its_data_over_a_crash(spare_postgres: PostgresServer) -> None:
    with spare_postgres.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS one")
    spare_postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        spare_postgres.connect()
    spare_postgres.start()
    with spare_postgres.connect() as connection:
        assert connection.execute("SELECT one FROM t").fetchone() == (1,)


def test_redis_is_flushed_between_tests(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    assert client.dbsize() == 0
    client.set("left", "over")
    client.close()


test_redis_is_flushed_between_tests_again = test_redis_is_flushed_between_tests


def test_ending_a_process_ends_what_it_started(start_process: StartProcess) -> None:
    """Also a grandchild in a session of its own, whose parent is already gone."""
    grandchild = "import time; print('grandchild', flush=True); time.sleep(600)"
    child = textwrap.dedent(
        f"""
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", {grandchild!r}], start_new_session=True)
        time.sleep(600)
        """
    )
    middle = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    process = start_process(
        sys.executable, "-c", f"import subprocess, sys, time; exec({middle!r}); time.sleep(600)"
    )
    process.wait_for("grandchild")
    family = process.family()
    assert len(family) == 3
    process.end()
    assert not any(member.is_running() for member in family)


def test_a_process_that_ignores_sigterm_is_killed(start_process: StartProcess) -> None:
    process = start_process(
        "python",
        "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); time.sleep(600)",
    )
    process.wait_for("deaf")
    process.end(timeout=0.2)
    assert process.returncode == -signal.SIGKILL


def test_settings_of_the_developer_do_not_reach_tests() -> None:
    assert not [name for name in os.environ if name.startswith("PROMETHEUS_")]
