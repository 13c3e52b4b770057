"""What comes with every job is executed as SQLAlchemy would, but for the detour."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    Connection,
    Engine,
    Integer,
    Select,
    String,
    bindparam,
    event,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError

from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence.compiled import LONGEST_LIST, fetch
from prometheus.persistence.engine import create_engine, each_alone, is_unavailable, writing
from prometheus.persistence.metadata import UtcDateTime
from prometheus.persistence.tables import worker_incarnations
from tests.servers import wait_until

AT = datetime(2026, 3, 8, 7, tzinfo=UTC)
ASKED = select(
    literal(JobStatus.RUNNING, String).label("status"),
    (bindparam("number", type_=Integer) + 1).label("more"),
    bindparam("kept", type_=JSON).label("kept"),
    (bindparam("at", type_=UtcDateTime) < literal(AT, UtcDateTime)).label("earlier"),
    literal_column("'50 % of it'", String).label("text"),
    literal("b").in_(bindparam("names", type_=String, expanding=True)).label("named"),
)
PID = select(func.pg_backend_pid(type_=Integer).label("pid"))
NAP = select(func.pg_sleep(bindparam("seconds"), type_=String).label("slept"))
ASLEEP = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND wait_event = 'PgSleep'")
NEW_WORKER = (
    insert(worker_incarnations)
    .values(
        incarnation=bindparam("by"),
        worker="w@h",
        host="h",
        pid=1,
        queues=bindparam("queues"),
        expires_at=AT,
    )
    .returning(worker_incarnations.c.incarnation)
)


class Struck(BaseException):
    """What a signal raises, wherever the process is."""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Engine]:
    engine = create_engine(postgresql_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("kept", [None, [1.5, "%s"], {"a": None}], ids=str)
@pytest.mark.parametrize("names", [[], ["a"], ["a", "b"], ["b"] * (LONGEST_LIST + 1)], ids=len)
def test_rows_are_those_that_sqlalchemy_returns(
    engine: Engine, names: list[str], kept: Any
) -> None:
    asked = {"number": 6, "kept": kept, "at": AT - timedelta(hours=1), "names": names}
    with each_alone(engine) as connection:
        [told] = connection.execute(ASKED, asked).all()
        [row] = fetch(connection, ASKED, asked)
    assert tuple(row) == tuple(told)
    assert (row.status, row.more, row.kept, row.text) == ("RUNNING", 7, kept, "50 % of it")
    assert (bool(row.earlier), bool(row.named)) == (True, "b" in names)


def test_postgresql_is_asked_without_a_detour(
    postgresql: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def detour(*_: object) -> None:
        raise AssertionError("SQLAlchemy was asked")

    with each_alone(postgresql) as connection, monkeypatch.context() as patch:
        patch.setattr(Connection, "execute", detour)
        assert fetch(connection, PID, {})


@pytest.mark.parametrize(
    "statement",
    [
        select(literal("a").in_(["a", "b"]).label("named")),
        select(literal(AT, UtcDateTime).in_(bindparam("at", type_=UtcDateTime, expanding=True))),
        select(bindparam("at", type_=UtcDateTime).label("at")),
    ],
    ids=["list in the text", "list to convert", "result to convert"],
)
def test_what_it_would_get_wrong_is_refused(postgresql: Engine, statement: Select[Any]) -> None:
    with each_alone(postgresql) as connection, pytest.raises(TypeError):
        fetch(connection, statement, {"at": [AT]})


def test_who_listens_is_told_of_the_statement(engine: Engine) -> None:
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    with each_alone(engine) as connection:
        assert fetch(connection, NEW_WORKER, {"by": "a", "queues": []})
    event.remove(engine, "before_cursor_execute", note)
    assert any("worker_incarnations" in statement for statement in seen)


def test_in_a_transaction_it_is_part_of_that(engine: Engine) -> None:
    with pytest.raises(Struck), writing(engine) as connection:
        assert fetch(connection, NEW_WORKER, {"by": "a", "queues": []})
        raise Struck
    with each_alone(engine) as connection:
        assert fetch(connection, NEW_WORKER, {"by": "a", "queues": []})


def test_a_refused_statement_is_sqlalchemys_error_and_tells_no_values(engine: Engine) -> None:
    told = {"by": "a", "queues": ["secret"]}
    with each_alone(engine) as connection:
        fetch(connection, NEW_WORKER, told)
        with pytest.raises(IntegrityError) as caught:
            fetch(connection, NEW_WORKER, told)
        assert not is_unavailable(caught.value)
        assert "secret" not in str(caught.value)
        assert "INSERT INTO worker_incarnations" in str(caught.value)
        assert fetch(connection, NEW_WORKER, told | {"by": "b"})


def test_a_lost_connection_is_told_as_such_and_another_is_made(postgresql: Engine) -> None:
    with each_alone(postgresql) as connection:
        [first] = fetch(connection, PID, {})
        with postgresql.connect() as other:
            other.execute(select(func.pg_terminate_backend(first.pid, 10_000)))
        with pytest.raises(DBAPIError) as caught:
            fetch(connection, PID, {})
        with pytest.raises(PendingRollbackError):  # nothing is written that would be rolled back
            fetch(connection, PID, {})
    assert caught.value.connection_invalidated
    assert is_unavailable(caught.value)
    with each_alone(postgresql) as connection:
        [second] = fetch(connection, PID, {})
    assert second.pid != first.pid


def test_a_connection_is_not_used_again_that_was_left_in_the_midst_of_an_answer(
    postgresql: Engine,
) -> None:
    def strike(*_: object) -> None:
        raise Struck

    def is_asleep(pid: int) -> bool:
        with postgresql.connect() as other:
            return bool(other.execute(ASLEEP, {"pid": pid}).scalar_one())

    def strike_in_its_sleep(pid: int) -> None:
        wait_until(lambda: is_asleep(pid), timeout=60, message="it sleeps")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, strike)
    try:
        with each_alone(postgresql) as connection:
            [first] = fetch(connection, PID, {})
            thread = threading.Thread(target=strike_in_its_sleep, args=[first.pid])
            thread.start()
            with pytest.raises(Struck):
                fetch(connection, NAP, {"seconds": 600})
            thread.join()
            assert connection.invalidated
    finally:
        signal.signal(signal.SIGUSR1, before)
    with each_alone(postgresql) as connection:
        [second] = fetch(connection, PID, {})
    assert second.pid != first.pid
