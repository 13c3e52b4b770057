"""The fixtures themselves: what other tests rely on without saying so."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import psutil
import psycopg
import pytest
import redis
import sqlalchemy as sa
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.conftest import StartProcess
from tests.servers import Gate, PostgresServer, RedisServer, tail, wait_until


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


@pytest.fixture
def gate(redis_server: RedisServer) -> Iterator[Gate]:
    """A gate before the shared Redis."""
    with Gate(redis_server.socket) as gate:
        yield gate


def _client(gate: Gate, timeout: float = 20) -> redis.Redis:
    return redis.Redis(port=gate.port, socket_timeout=timeout, retry=Retry(NoBackoff(), 0))


def test_an_open_gate_passes_everything(gate: Gate) -> None:
    with _client(gate) as client:
        client.set("big", "x" * 1_000_000)
        assert client.get("big") == b"x" * 1_000_000


def test_a_cut_ends_connections_and_lets_new_ones_pass(gate: Gate) -> None:
    with _client(gate) as client:
        connection = client.connection_pool.get_connection()
        gate.cut()
        with pytest.raises(redis.ConnectionError):
            connection.read_response()
        assert client.ping()


def test_a_shut_gate_refuses_connections_until_it_opens(gate: Gate) -> None:
    with _client(gate) as client:
        client.ping()
        gate.shut()
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                client.ping()
        gate.open()
        assert client.ping()


def test_what_a_hanging_gate_held_back_flows_on(gate: Gate, redis_server: RedisServer) -> None:
    with _client(gate) as client, redis_server.client() as direct:
        client.delete("count")
        connection = client.connection_pool.get_connection()
        gate.hang()
        connection.send_command("INCR", "count")
        with _client(gate, timeout=0.2) as other, pytest.raises(redis.TimeoutError):
            other.ping()
        assert direct.get("count") is None
        gate.open()
        assert connection.read_response() == 1


def test_a_mute_gate_loses_the_answers_alone(gate: Gate, redis_server: RedisServer) -> None:
    with _client(gate, timeout=0.2) as client, redis_server.client() as direct:
        client.delete("count")
        gate.mute()
        with pytest.raises(redis.TimeoutError):
            client.incr("count")
        wait_until(lambda: direct.get("count") == b"1", message="the command arrived")


def test_a_slow_gate_delays_both_ways(gate: Gate) -> None:
    with _client(gate) as client:
        client.ping()
        gate.slow(0.1)
        began = time.monotonic()
        client.ping()
        assert time.monotonic() - began >= 0.2


def test_a_gate_leads_to_postgresql(postgres_server: PostgresServer) -> None:
    with Gate(postgres_server.socket) as gate:
        engine = sa.create_engine(postgres_server.url_at(gate.port), pool_pre_ping=True)
        with engine.begin() as connection:
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
        gate.shut()
        with pytest.raises(sa.exc.OperationalError):
            engine.connect()
        gate.open()
        with engine.begin() as connection:
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
        engine.dispose()


def test_postgresql_starts_when_the_last_backend_of_the_old_one_has_gone() -> None:
    """A backend that is just being started when its server is killed outlives it for a moment."""
    with PostgresServer() as server, server.connect() as connection:
        backend = psutil.Process(connection.info.backend_pid)
        backend.suspend()  # else it would notice
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.running, timeout=60)
        refused = "pre-existing shared memory block"

        def end_it() -> None:
            wait_until(lambda: refused in tail(server.log), timeout=60)
            backend.kill()

        ender = threading.Thread(target=end_it)
        ender.start()
        server.start()
        ender.join()
        with server.connect() as again:
            assert again.execute("SELECT 1").fetchone() == (1,)
