"""Jobs and messages that are poison: each is given up in the end, and the queue flows on."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import signal
import uuid
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from sqlalchemy import select, update

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.attempt_log import FIRST, LAST
from prometheus.persistence import logs, refusals
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.tables import job_executions
from prometheus.verification import check
from tests.integration.dispatch.conftest import Installation
from tests.integration.dispatch.schedulers import register_worker
from tests.servers import wait_until

POISON = Path(__file__).parent / "poison.py"
SESSIONS = TradingCalendar("US_EQ").trading_days(date(2026, 8, 3), date(2026, 11, 20))


@pytest.fixture
def poisoned(installation: Installation) -> Installation:
    """A beat that looks for lost messages often; each test starts the one worker."""
    installation.pipelines = POISON
    installation.settings["PROMETHEUS__SCHEDULER__RECONCILE_EVERY"] = "2s"
    installation.beat()
    return installation


def healthy_job_succeeds(installation: Installation, session: date = SESSIONS[0]) -> int:
    """Run a job on the queue that the poison came from; return the pid of its process."""
    dag_id = installation.make_run("healthy", session=session)
    installation.wait_for_run(dag_id, "SUCCESS", timeout=90)
    (attempt,) = installation.attempts(dag_id)
    return int(attempt.result)


# --- messages

HEADERS = {
    "lang": "py",
    "task": "healthy.works",
    "id": "no-such-execution",
    "retries": 0,
    "timelimit": [None, None],
    "root_id": "no-such-execution",
    "parent_id": None,
    "argsrepr": "",
    "kwargsrepr": "",
    "origin": "elsewhere",
    "ignore_result": True,
}
BODY = b'[["no-such-execution"], {}, {}]'


def message(
    headers: object = HEADERS, body: bytes = BODY, kind: str = "application/json", **properties: Any
) -> dict[str, Any]:
    """Make a message as Kombu writes them into a list of Redis."""
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8" if kind == "application/json" else "binary",
        "content-type": kind,
        "headers": headers,
        "properties": {
            "correlation_id": "x",
            "reply_to": "y",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "US_EQ", "routing_key": "US_EQ"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
            **properties,
        },
    }


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in HEADERS.items() if name not in names}


NOT_MESSAGES: dict[str, bytes | object] = {
    "not JSON": b"garbage",
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "nested too deeply": b"[" * 100_000,
    "a list": [1, 2],
    "null": None,
    "a number": 7,
    "no parts": {},
    "no properties": {"body": "", "headers": {}},
    "headers in a list": message([1]),
    "unknown encoding": message(body_encoding="rot13"),
    "no tag": message(delivery_tag=None),
    "tag that is no text": message(delivery_tag="\ud800"),
    "no address": message(delivery_info={}),
    "address is a number": message(delivery_info=5),
}
BROKEN: dict[str, object] = {
    "no headers": message(None),
    "no id": message(without("id")),
    "no task": message(without("task")),
    "neither": message(without("id", "task")),
    "id is a number": message({**HEADERS, "id": 5}),
    "id is a list": message({**HEADERS, "id": [5]}),
    "task is a list": message({**HEADERS, "task": ["healthy.works"]}),
    "task is null": message({**HEADERS, "task": None}),
    "limits in words": message({**HEADERS, "timelimit": "yesterday"}),
    "limits are texts": message({**HEADERS, "timelimit": ["1", "2"]}),
    "retries in words": message({**HEADERS, "retries": "many"}),
    "eta in words": message({**HEADERS, "eta": "yesterday"}),
    "expiry in words": message({**HEADERS, "expires": "yesterday"}),
    "unknown compression": message({**HEADERS, "compression": "application/strange"}),
    "body is a number": message(body=b"5"),
    "body is not JSON": message(body=b"{{{"),
    "body is not base64": {**message(), "body": "%%%"},
    "pickle": message(body=pickle.dumps([["x"], {}, {}]), kind="application/x-python-serialize"),
    "unknown kind": message(body=b"x", kind="application/strange"),
    "old protocol": message({}, json.dumps({"task": "healthy.works", "args": [1]}).encode()),
}
STRANGERS: dict[str, object] = {
    "execution that does not exist": message(),
    "wrong arguments": message(body=b'[[], {"a": 1}, {}]'),
    "enormous": message(body=json.dumps([["x" * 50_000_000], {}, {}]).encode()),
    "callbacks that are none": message(body=b'[["x"], {}, {"chain": 5, "callbacks": 7}]'),
    "task that does not exist": message({**HEADERS, "task": "nothing.here"}),
}


def push(installation: Installation, *messages: bytes | object) -> None:
    """Put messages into the market's list, as somebody else might."""
    with redis.Redis.from_url(installation.redis_url) as client:
        for each in messages:
            client.lpush("US_EQ", each if isinstance(each, bytes) else json.dumps(each))


def nothing_waits(installation: Installation) -> bool:
    with redis.Redis.from_url(installation.redis_url) as client:
        return not client.exists("US_EQ", "unacked")


@pytest.mark.promise("P6")
def test_broken_messages_are_dropped_and_end_no_worker(poisoned: Installation) -> None:
    """All at once, and thrice: five lost connections within a second end a worker."""
    worker = poisoned.worker(concurrency=1)
    child = healthy_job_succeeds(poisoned)

    for _ in range(3):
        push(poisoned, *NOT_MESSAGES.values(), *BROKEN.values(), *STRANGERS.values())

    assert healthy_job_succeeds(poisoned, SESSIONS[1]) == child
    wait_until(lambda: nothing_waits(poisoned), timeout=60, message="all messages are taken")
    assert worker.running
    log = worker.output()
    assert log.count("message_unreadable") == 3 * len(NOT_MESSAGES)
    assert log.count("message_refused") > len(BROKEN)
    assert "Refusing to deserialize untrusted content of type pickle" in log
    assert "Connection to broker lost" not in log
    assert len(log) < 5_000_000, "no message is written whole"


@pytest.mark.slow
def test_messages_that_wait_among_broken_ones_are_found(poisoned: Installation) -> None:
    """Without a worker they stay: the reconciler must read past them and not send them again."""
    dag_id = poisoned.make_run("healthy")
    wait_until(
        lambda: [row.publish_count for row in poisoned.attempts(dag_id)] == [1],
        timeout=60,
        message="the message is sent",
    )
    push(poisoned, *NOT_MESSAGES.values(), *BROKEN.values())
    wait_until(
        lambda: poisoned.logged("message_unreadable"),
        timeout=120,
        message="the reconciler has read them",
    )
    assert not poisoned.logged("tick_failed")
    assert [row.publish_count for row in poisoned.attempts(dag_id)] == [1]

    poisoned.worker(concurrency=1)
    poisoned.wait_for_run(dag_id, "SUCCESS")


# --- jobs


def errors(installation: Installation, dag_id: str) -> dict[str, list[str]]:
    """Return the messages of each job's attempts, without why none follows."""
    found: dict[str, list[str]] = {}
    for row in installation.attempts(dag_id):
        text = str(row.error_message).partition(" (not tried again: ")[0]
        found.setdefault(row.job_id, []).append(text)
    return found


@pytest.mark.slow
@pytest.mark.promise("P4")
def test_job_that_ends_its_process_fails_by_its_budget(poisoned: Installation) -> None:
    worker = poisoned.worker(concurrency=1)
    dag_id = poisoned.make_run("dies")
    poisoned.wait_for_run(dag_id, "FAILED", timeout=240)

    assert all(states == ["FAILED"] * 2 for states in poisoned.statuses(dag_id).values())
    told = errors(poisoned, dag_id)
    for job_id, how in {
        "reads_address_zero": "signal 11 (SIGSEGV)",
        "aborts": "signal 6 (SIGABRT)",
        "exits_at_once": "exitcode 7",
    }.items():
        assert all(
            text.startswith(f"its process ended: Worker exited prematurely: {how}")
            for text in told[job_id]
        ), told[job_id]
    assert all(row.lost == 0 for row in poisoned.attempts(dag_id)), "no worker was lost"
    healthy_job_succeeds(poisoned)
    assert worker.running


def test_whatever_a_job_raises_fails_its_attempt_with_a_short_message(
    poisoned: Installation,
) -> None:
    worker = poisoned.worker(concurrency=1)
    child = healthy_job_succeeds(poisoned)
    dag_id = poisoned.make_run("raises")
    poisoned.wait_for_run(dag_id, "FAILED", timeout=240)

    assert all(states == ["FAILED"] * 2 for states in poisoned.statuses(dag_id).values())
    told = errors(poisoned, dag_id)
    exit_error = "JobExitError: the job raised {}; a job ends by returning, or by an error"
    assert told == {
        "exits": [exit_error.format("SystemExit (3)")] * 2,
        "forks": ["RuntimeError: its copy ended with 0"] * 2,
        "interrupts": [exit_error.format("KeyboardInterrupt ()")] * 2,
        "ends_a_generator": [exit_error.format("GeneratorExit (no more)")] * 2,
        "ignores": [exit_error.format("Ignore ()")] * 2,
        "rejects": [exit_error.format("Reject (('not mine', True))")] * 2,
        "can_not_be_pickled": ["NotPicklableError: holds a lock"] * 2,
        "can_not_be_printed": ["SilentError: its message can not be read: ValueError"] * 2,
        "says_too_much": told["says_too_much"],
        "returns_too_much": told["returns_too_much"],
        "returns_itself": told["returns_itself"],
        "recurses": ["RecursionError: maximum recursion depth exceeded"] * 2,
    }
    assert told["says_too_much"][0].endswith("... (20000000 characters)")
    assert "at most 65536 are kept" in told["returns_too_much"][0]
    assert "is not JSON (Circular reference" in told["returns_itself"][0]
    for row in poisoned.attempts(dag_id):
        assert len(row.error_message) < 3_000
        assert len(row.error_details["traceback"]) <= 20_000
    assert healthy_job_succeeds(poisoned, SESSIONS[1]) == child, "the same process goes on"
    assert len(worker.output()) < 2_000_000


@pytest.mark.slow
def test_output_of_a_job_is_bounded(poisoned: Installation) -> None:
    worker = poisoned.worker(concurrency=1)
    dag_id = poisoned.make_run("prints")
    poisoned.wait_for_run(dag_id, "SUCCESS", timeout=300)
    healthy_job_succeeds(poisoned)

    log = worker.output()
    assert len(log) < 4_000_000, "about a megabyte an attempt, of three gigabytes"
    for job_id, stream, dropped in [
        ("prints_lines", "stdout", 999_000_000),
        ("prints_one_line", "stderr", 999_000_000),
    ]:
        assert f"output_dropped stream={stream} kept=1000000 dropped={dropped}" in log, job_id
    assert log.count("output_dropped stream=stderr") == 2, "what is logged counts as well"


def test_last_words_of_a_job_that_talks_much_are_kept_though_it_is_killed(
    poisoned: Installation,
) -> None:
    """Also those behind the megabyte that the worker's own log has of it."""
    poisoned.worker(concurrency=1)
    dag_id = poisoned.make_run("talks")

    def text() -> str:
        with reading(poisoned.engine) as connection:
            found = logs.read(connection, dag_id, after={})
        return "".join(part.text for each in found for part in each.parts)

    last_words = " ERROR prometheus.job.talks.talks_until_it_is_killed last words\n"
    wait_until(lambda: text().endswith(last_words), timeout=120, message="they are kept")
    (row,) = poisoned.attempts(dag_id)
    assert row.status == "RUNNING"
    os.kill(row.pid, signal.SIGKILL)
    poisoned.wait_for_run(dag_id, "FAILED", timeout=120)

    kept = text()
    assert kept.startswith("line      0\n")
    assert kept.endswith(last_words)
    told = re.search(r"\.\.\. (\d+) characters are left out \.\.\.\n", kept)
    assert told is not None
    assert len(kept[: told.start()]) == FIRST
    assert len(kept[told.end() :]) == LAST
    written = 200_000 * len("line      0\n") + len(kept.splitlines()[-1]) + 1
    assert int(told[1]) == written - FIRST - LAST


@pytest.mark.slow
def test_job_that_eats_memory_fails_and_its_process_goes(poisoned: Installation) -> None:
    poisoned.settings["PROMETHEUS__WORKERS__MEMORY_LIMIT"] = "300MB"
    worker = poisoned.worker(concurrency=1)
    child = healthy_job_succeeds(poisoned)
    dag_id = poisoned.make_run("eats")
    poisoned.wait_for_run(dag_id, "FAILED", timeout=240)

    assert all(states == ["FAILED"] * 2 for states in poisoned.statuses(dag_id).values())
    reason = "out of memory: a job's process may use 300MB (workers.memory_limit)."
    for texts in errors(poisoned, dag_id).values():
        assert texts == [f"JobMemoryError: {reason}"] * 2
    assert healthy_job_succeeds(poisoned, SESSIONS[1]) != child, "it is replaced"
    assert worker.running


def test_what_a_job_leaves_behind_harms_no_later_one(
    poisoned: Installation, tmp_path: Path
) -> None:
    worker = poisoned.worker(concurrency=1)
    dag_id = poisoned.make_run("leaves", parameters={"folder": str(tmp_path)})
    poisoned.wait_for_run(dag_id, "FAILED", timeout=240)
    # In a run of its own, so that it comes after all of them.
    healthy_job_succeeds(poisoned)
    late = poisoned.make_run("leaves", parameters={"folder": str(tmp_path)}, session=SESSIONS[1])
    poisoned.wait_for_run(late, "FAILED", timeout=240)

    for run in (dag_id, late):
        told = errors(poisoned, run)
        assert told["too_slow"] == ["timed out after 3 s"], "the soft limit strikes"
        assert told["changes_signals"] == ["RuntimeError: changed them"]
        assert poisoned.statuses(run)["leaves_transactions_open"] == ["SUCCESS"]
    assert (tmp_path / "pid").read_text() == str(healthy_job_succeeds(poisoned, SESSIONS[2]))
    assert len(worker.output()) < 40_000_000


@pytest.mark.slow
def test_job_that_ignores_every_signal_is_killed_with_what_it_started(
    poisoned: Installation, tmp_path: Path
) -> None:
    poisoned.worker(concurrency=1)
    dag_id = poisoned.make_run("stubborn", parameters={"folder": str(tmp_path)})
    poisoned.wait_for_run(dag_id, "FAILED", timeout=240)

    texts = errors(poisoned, dag_id)["ignores_every_signal"]
    assert texts == ["did not end within 30 s of its time limit, 1 s: killed"] * 2
    healthy_job_succeeds(poisoned)
    started = [int((tmp_path / f"child-{number}").read_text()) for number in (1, 2)]
    wait_until(
        lambda: not any(map(psutil.pid_exists, started)),
        timeout=30,
        message="what it started is gone",
    )


# --- jobs that a worker does not have

OLD_RELEASE = """
from pathlib import Path
from prometheus import Pipeline

def tell(ctx, message):
    with Path(ctx.parameters["told"]).open("a") as told:
        told.write(f"{ctx.job_id} {message}\\n")

growing = Pipeline("growing", markets=["US_EQ"], on_failure=tell)

@growing.job()
def old(ctx): ...
"""
NEW_RELEASE = (
    OLD_RELEASE
    + """
@growing.job()
def new(ctx): ...

@growing.job(after=[new])
def after_new(ctx): ...
"""
)


def releases(installation: Installation, folder: Path) -> tuple[Path, Path]:
    old, new = folder / "old.py", folder / "new.py"
    old.write_text(OLD_RELEASE)
    new.write_text(NEW_RELEASE)
    installation.settings["PROMETHEUS__SCHEDULER__RECONCILE_EVERY"] = "2s"
    installation.pipelines = old
    installation.beat()
    installation.worker(concurrency=1)
    installation.pipelines = new
    return old, new


def ring(installation: Installation, execution_id: str) -> None:
    """Send a message again, as the reconciler would do half a minute later."""
    refused = count_refusals(installation, execution_id)
    push(installation, message({**HEADERS, "task": "growing.new", "id": execution_id}))
    wait_until(
        lambda: count_refusals(installation, execution_id) > refused,
        timeout=60,
        message="the message is refused",
    )


def count_refusals(installation: Installation, execution_id: str) -> int:
    with reading(installation.engine) as connection:
        details = connection.execute(
            select(job_executions.c.error_details).where(
                job_executions.c.execution_id == execution_id
            )
        ).scalar_one()
    return sum(details["refused_by"].values()) if details else 0


@pytest.mark.promise("P7")
def test_job_that_no_worker_knows_is_given_up(installation: Installation, tmp_path: Path) -> None:
    releases(installation, tmp_path)
    told = tmp_path / "told"
    dag_id = installation.make_run("growing", parameters={"told": str(told)})
    (row,) = installation.attempts(dag_id, "new")
    wait_until(
        lambda: count_refusals(installation, row.execution_id) == 1,
        timeout=60,
        message="it is refused",
    )
    for _ in range(3):
        ring(installation, row.execution_id)
    assert installation.statuses(dag_id)["new"] == ["QUEUED"], "another worker may come"

    ring(installation, row.execution_id)

    installation.wait_for_run(dag_id, "FAILED")
    assert installation.statuses(dag_id) == {
        "old": ["SUCCESS"],
        "new": ["EXPIRED"],
        "after_new": ["SKIPPED"],
    }
    reason = "no worker of US_EQ knows the job growing.new: 5 messages for it were refused."
    (row,) = installation.attempts(dag_id, "new")
    assert row.error_message.startswith(reason)
    wait_until(told.exists, timeout=60, message="on_failure is called")
    wait_until(lambda: reason in told.read_text(), timeout=10, message="with the reason")
    with reading(installation.engine) as connection:
        assert check(connection).violations == ()


@pytest.mark.slow
def test_job_that_only_a_newer_worker_knows_waits_for_it(
    installation: Installation, tmp_path: Path
) -> None:
    """The old worker alone refuses more than enough messages while a new one is there."""
    releases(installation, tmp_path)
    dag_id = installation.make_run("growing")
    (row,) = installation.attempts(dag_id, "new")
    wait_until(
        lambda: count_refusals(installation, row.execution_id) == 1,
        timeout=60,
        message="it is refused",
    )
    # One that may know it, and that takes no message for the time being.
    register_worker(installation.engine)
    for _ in range(5):
        ring(installation, row.execution_id)
    assert installation.statuses(dag_id)["new"] == ["QUEUED"]

    installation.processes[1].end()
    installation.worker(concurrency=1)

    installation.wait_for_run(dag_id, "SUCCESS", timeout=120)


def test_refusals_are_bounded_even_while_another_worker_may_know(
    any_installation: Installation,
) -> None:
    installation = any_installation
    installation.pipelines = POISON
    dag_id = installation.make_run("healthy")
    refusing, _ = (register_worker(installation.engine) for _ in range(2))
    (row,) = installation.attempts(dag_id)

    def refuse() -> str | None:
        with writing(installation.engine) as connection:
            return refusals.refuse(
                connection, row.execution_id, task="healthy.works", incarnation=refusing
            )

    assert refuse() is None
    assert count_refusals(installation, row.execution_id) == 0, "it is not in the queue"
    with writing(installation.engine) as connection:
        connection.execute(
            update(job_executions).values(status="QUEUED", scheduled_at=datetime.now(UTC))
        )
    assert [refuse() for _ in range(19)] == [None] * 19
    assert "20 messages for it were refused" in str(refuse())
    assert installation.statuses(dag_id) == {"works": ["EXPIRED"]}
    assert refuse() is None
