"""The log of an attempt: all of it, and what has come since the last look."""

from __future__ import annotations

import pytest

from prometheus.persistence import logs
from prometheus.persistence.engine import writing
from tests.integration.monitoring.conftest import SECRET, Web
from tests.integration.persistence.world import BOOM, World, job


def write(world: World, execution_id: str, *texts: str) -> None:
    for part, text in enumerate(texts, 1):
        with writing(world.engine) as connection:
            logs.append(connection, execution_id, part, text)


def test_a_log_goes_on_where_the_last_look_ended(web: Web, world: World) -> None:
    dag = world.run(job("a"), job("b"))
    worker = world.worker()
    execution_id, other = (world.running(dag, name, worker) for name in "ab")
    path = f"/api/v1/executions/{execution_id}/log"
    first = web.get(path)
    assert (first["items"], first["next"], first["ended"]) == ([], 0, False)
    write(world, execution_id, "one\n", "two\nthree\n")
    write(world, other, "of another\n")
    found = web.get(path)
    assert [(each["part"], each["text"]) for each in found["items"]] == [
        (1, "one\n"),
        (2, "two\nthree\n"),
    ]
    assert (found["dag_id"], found["job"], found["attempt"]) == (dag.dag_id, "a", 1)
    assert web.get(path, after=1)["items"] == found["items"][1:]
    assert len(web.statements) <= 4
    world.fail(execution_id, type(BOOM)("ValueError: boom", {"traceback": "Traceback: boom\n"}))
    last = web.get(path, after=found["next"])
    assert (last["items"], last["next"], last["ended"]) == ([], 2, True)
    assert (last["error"], last["traceback"]) == ("ValueError: boom", "Traceback: boom\n")


def test_the_newest_of_a_long_log_takes_the_place_of_what_was(web: Web, world: World) -> None:
    execution_id = world.running(world.run(), "a", world.worker())
    path = f"/api/v1/executions/{execution_id}/log"
    write(world, execution_id, "head\n")
    known = 0
    for end in ("one\n", "one\ntwo\n"):
        with writing(world.engine) as connection:
            logs.replace_end(connection, execution_id, end)
        found = web.get(path)
        assert [(each["text"], each["end"]) for each in found["items"]] == [
            ("head\n", False),
            (end, True),
        ]
        assert web.get(path, after=max(known, 1))["items"] == found["items"][1:]
        assert found["next"] > known
        known = found["next"]
    assert web.get(path, after=known)["items"] == []


def test_a_log_is_told_without_secrets(web: Web, world: World) -> None:
    """Also one that was written before its secret was one."""
    execution_id = world.running(world.run(), "a", world.worker())
    write(world, execution_id, f"I am {SECRET}\n")
    world.fail(execution_id, type(BOOM)(f"E: {SECRET}", {"traceback": f"at {SECRET}\n"}))
    found = web.get(f"/api/v1/executions/{execution_id}/log")
    assert found["items"][0]["text"] == "I am ***\n"
    assert (found["error"], found["traceback"]) == ("E: ***", "at ***\n")


def test_an_execution_that_is_not(web: Web) -> None:
    path = "/api/v1/executions/nothing/log"
    assert web.problem(path, 404) == "There is no execution 'nothing'."


@pytest.mark.parametrize("after", [-1, "x", 2**31])
def test_a_part_that_can_not_be(web: Web, after: object) -> None:
    assert "query.after" in web.problem("/api/v1/executions/nothing/log", 422, after=after)
