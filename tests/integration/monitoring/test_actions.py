"""What operators do by the API: what the commands do, audited alike, and never twice."""

from __future__ import annotations

import contextlib
import json
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from sqlalchemy import func, select, update
from typer.testing import CliRunner

from prometheus.actors import login
from prometheus.cli.application import make_application
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.names import LEADERSHIP
from prometheus.monitoring.app import create_app
from prometheus.persistence import leases, pauses, pruning
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.tables import audit, request_keys
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import SECRET, Web, check_problem, served
from tests.integration.monitoring.recipients import receiving
from tests.integration.persistence.world import HOUR, World, at_once, job
from tests.servers import PLAIN, Process, free_port, wait_until

WHY = {"reason": "done  by\nhand", "actor": "ada"}


def audited(world: World) -> list[tuple[str, str, str, dict[str, Any]]]:
    with reading(world.engine) as connection:
        rows = connection.execute(select(audit).order_by(audit.c.audit_id))
        return [(row.actor, row.action, row.target, row.details) for row in rows]


def count_keys(world: World) -> int:
    with reading(world.engine) as connection:
        return connection.execute(select(func.count()).select_from(request_keys)).scalar_one()


def test_channels_are_tried_and_it_is_audited(sqlite_url: str, tmp_path: Path) -> None:
    with receiving() as recipients:
        variables = {
            "PROMETHEUS__DATABASE__URL": sqlite_url,
            "PROMETHEUS__WEB__ACTIONS": "true",
            "PROMETHEUS__CHANNELS__DESK": f"json://127.0.0.1:{recipients.web_port}/{SECRET}",
            "PROMETHEUS__CHANNELS__NOBODY": f"json://127.0.0.1:{free_port()}/{SECRET}",
        }
        app = create_app(load_settings(variables, tmp_path))
        with served(app) as web:
            path = "/api/v1/alerts/test"
            both = web.post(path, {"actor": "ada"})["channels"]
            assert [each["channel"] for each in both] == ["desk", "nobody"]
            assert both[0]["error"] is None
            assert both[1]["error"]
            for _ in range(2):
                assert web.send(path, b'{"channel": "desk"}', key="once").status_code == 200
            assert recipients.titles == ["Test: alerts arrive here"] * 2
            assert "Did you mean 'desk'?" in web.problem_of_post(path, {"channel": "dexk"}, 404)
            first = web.get("/api/v1/audit", actor="ada")["items"]
    assert [(each["action"], each["target"]) for each in first] == [("alert_test", "channels")]
    assert first[0]["details"]["channels"] == ["desk", "nobody"]
    assert list(first[0]["details"]["errors"]) == ["nobody"]


def test_without_channels_nothing_is_tried(web: Web, world: World) -> None:
    assert "There are no channels" in web.problem_of_post("/api/v1/alerts/test", {}, 409)
    assert world.audited() == []


class TestActing:
    def test_a_job_that_failed_is_tried_again(self, web: Web, world: World) -> None:
        dag = world.run(job("a", max_retries=0), job("b", "a"))
        world.fail_for_good(dag, "a", world.worker())
        done = web.post(f"/api/v1/runs/{dag.dag_id}/jobs/a/retry", {"reason": "new  prices"})
        assert (done["dag_id"], done["jobs"]) == (dag.dag_id, ["a"])
        assert done["ignored_windows"]["a"]["closes_at"] == "2025-12-03T13:30:00Z"
        assert (done["scheduler"], done["actor"]) == (False, f"web ({login()})")
        assert world.statuses(dag) == {"a": "PENDING", "b": "PENDING"}
        details = {
            "job": "a",
            "new_attempts": ["a"],
            "reason": "new prices",
            "before": {"run": "OPEN", "jobs": {"a": "FAILED"}},
            "after": {"run": "OPEN", "jobs": {"a": "PENDING"}},
        }
        assert audited(world) == [(f"web ({login()})", "retry", dag.dag_id, details)]

    def test_a_job_is_run_again_with_its_downstream(self, web: Web, world: World) -> None:
        dag = world.run(job("a"), job("b", "a"))
        world.finish(dag, world.worker(), "a", "b")
        world.close(dag)
        path = f"/api/v1/runs/{dag.dag_id}/jobs/a/retry"
        assert web.post(path, {"downstream": True, "actor": "ada"})["jobs"] == ["a", "b"]
        assert world.audited() == [("ada", "retry", dag.dag_id)]

    def test_a_run_is_tried_again(self, web: Web, world: World) -> None:
        dag = world.run(job("a", max_retries=0), job("b"))
        worker = world.worker()
        world.finish(dag, worker, "b")
        world.fail_for_good(dag, "a", worker)
        assert web.post(f"/api/v1/runs/{dag.dag_id}/retry", {})["jobs"] == ["a"]

    def test_what_runs_is_asked_to_end_and_what_waits_is_ended(
        self, web: Web, world: World
    ) -> None:
        dag = world.run(job("a"), job("b", "a"))
        world.running(dag, "a", world.worker())
        with writing(world.engine) as connection:
            leases.lead(connection, LEADERSHIP, "there:7:x", lease=HOUR)
        done = web.post(f"/api/v1/runs/{dag.dag_id}/cancel", {"grace": "10m", "actor": "ada"})
        assert done["scheduler"] is True
        by_job = {each["job"]: each for each in done["jobs"]}
        assert (by_job["a"]["was_running"], by_job["b"]["cancel_at"]) == (True, None)
        asked = world.latest(dag)["a"]
        assert asked.cancel_at - asked.cancel_asked_at == timedelta(minutes=10)
        assert world.statuses(dag) == {"a": "RUNNING", "b": "CANCELLED"}
        killed = web.post(f"/api/v1/runs/{dag.dag_id}/jobs/a/cancel", {"grace": "0s"})
        assert killed["jobs"][0]["cancel_at"] is None
        assert world.statuses(dag)["a"] == "CANCELLED"
        assert [action for _, action, _ in world.audited()] == ["cancel", "cancel"]

    def test_a_job_is_skipped(self, web: Web, world: World) -> None:
        dag = world.run(job("a"))
        done = web.post(f"/api/v1/runs/{dag.dag_id}/jobs/a/skip", WHY)
        assert (done["job"], done["actor"]) == ("a", "ada")
        assert world.latest(dag)["a"].error_message == "skipped by ada: done by hand"
        assert audited(world)[0][3] == {
            "jobs": ["a"],
            "reason": "done by hand",
            "before": {"run": "OPEN", "jobs": {"a": "PENDING"}},
            "after": {"run": "SUCCESS", "jobs": {"a": "SKIPPED"}},
        }

    def test_a_job_counts_as_succeeded(self, web: Web, world: World) -> None:
        dag = world.run(job("a", max_retries=0), job("b", "a"))
        world.fail_for_good(dag, "a", world.worker())
        world.end_waiting({world.ids(dag)["b"]: "a failed"}, world.latest(dag)["b"].status)
        path = f"/api/v1/runs/{dag.dag_id}/jobs/a/force-success"
        done = web.post(path, WHY)
        assert done["job"] == "a"
        assert world.statuses(dag)["a"] == "SUCCESS"
        assert world.audited() == [("ada", "force_success", dag.dag_id)]

    def test_a_job_is_held_and_released(self, web: Web, world: World) -> None:
        dag = world.run(job("a"))
        path = f"/api/v1/runs/{dag.dag_id}/jobs/a"
        held = web.post(f"{path}/hold", {**WHY, "for": "1h30m"})["pause"]
        assert (held["dag_id"], held["job"], held["reason"]) == (dag.dag_id, "a", "done by hand")
        with reading(world.engine) as connection:
            (standing,) = pauses.read_pauses(connection)
        assert standing.until is not None
        # The database's clock goes on between the two stamps.
        assert timedelta(0) <= timedelta(minutes=90) - (standing.until - standing.since) < HOUR
        assert web.get("/api/v1/pauses")["items"] == [held]
        ended = web.post(f"{path}/release", {"reason": "it came"})
        assert (ended["pause"], ended["others"]) == (held, [])
        assert web.get("/api/v1/pauses")["items"] == []
        (_, action, _, hold), (_, other, _, release) = audited(world)
        assert (action, hold["reason"], hold["before"]) == ("hold", "done by hand", None)
        assert (other, release["reason"], release["after"]) == ("release", "it came", None)
        assert release["before"] == hold["after"]
        assert hold["after"].items() >= {"author": "ada", "reason": "done by hand"}.items()

    def test_a_market_and_a_pipeline_are_paused_and_resumed(self, web: Web, world: World) -> None:
        until = "2125-12-02T21:00:00Z"
        market = web.post("/api/v1/pause", {**WHY, "market": "US_EQ", "until": until})["pause"]
        assert (market["market"], market["until"]) == ("US_EQ", until)
        with writing(world.engine) as connection:
            connection.exec_driver_sql(
                "INSERT INTO pipelines (name, market_id, first_seen_at, sessions)"
                " VALUES ('daily', 'EU_EQ', '2025-12-02 00:00:00+00', 'every session')"
                if world.is_postgresql
                else "INSERT INTO pipelines (name, market_id, first_seen_at, sessions)"
                " VALUES ('daily', 'EU_EQ', '2025-12-02 00:00:00.000000', 'every session')"
            )
        both = web.post("/api/v1/pause", {**WHY, "pipeline": "daily"})
        assert both["others"] == [market]
        ended = web.post("/api/v1/resume", {"market": "US_EQ", "actor": "ada"})
        assert ended["others"] == [both["pause"]]
        assert world.audited() == [
            ("ada", "pause", "US_EQ"),
            ("ada", "pause", "daily"),
            ("ada", "resume", "US_EQ"),
        ]

    def test_what_is_told_has_no_secrets(self, web: Web, world: World) -> None:
        done = web.post("/api/v1/pause", {"market": "US_EQ", "reason": f"it is {SECRET}"})
        assert done["pause"]["reason"] == "it is ***"


class TestRuns:
    """What ``prometheus run`` does without waiting."""

    ASKED: ClassVar = {"market": "US_EQ", "date": "2012-11-21", "actor": "ada"}

    def test_a_run_is_made_once_and_run_again_when_it_has_ended(
        self, web: Web, world: World
    ) -> None:
        again = {**self.ASKED, "rerun": True, "reason": "vendor"}
        assert "make one instead" in web.problem_of_post("/api/v1/runs", again, 404)
        made = web.post("/api/v1/runs", self.ASKED)
        assert (made["dag_id"], made["scheduler"]) == ("us_eq_daily_2012-11-21", False)
        run = web.get(f"/api/v1/runs/{made['dag_id']}")["run"]
        assert (run["status"], run["trigger"], run["forced"]) == ("OPEN", "operator", True)
        for body, words in ((self.ASKED, "exists already, and is not"), (again, "not finished")):
            assert words in web.problem_of_post("/api/v1/runs", body, 409)
        web.post(f"/api/v1/runs/{made['dag_id']}/cancel", {"actor": "ada"})
        why = web.problem_of_post("/api/v1/runs", self.ASKED, 409)
        assert "and is CANCELLED. To run all of it again, ask for a rerun." in why
        assert web.post("/api/v1/runs", again)["dag_id"] == made["dag_id"]
        assert {row.attempt_number for row in world.rows() if row.status == "PENDING"} == {2}
        run_entry, cancel_entry, rerun_entry = audited(world)
        assert run_entry[:3] == ("ada", "run", made["dag_id"])
        assert (run_entry[3]["before"], run_entry[3]["after"]["run"]) == (None, "OPEN")
        assert (cancel_entry[1], cancel_entry[3]["after"]["run"]) == ("cancel", "CANCELLED")
        assert (rerun_entry[1], rerun_entry[3]["reason"]) == ("rerun", "vendor")
        assert rerun_entry[3]["before"] == cancel_entry[3]["after"]
        assert rerun_entry[3]["after"] == run_entry[3]["after"]

    def test_one_key_makes_one_run(self, web: Web, world: World) -> None:
        body = json.dumps(self.ASKED).encode()
        answers = at_once([lambda: web.send("/api/v1/runs", body, key="k")] * 4)
        assert {(each.status_code, each.content) for each in answers} == {(200, answers[0].content)}
        assert len(world.audited()) == 1

    def test_what_can_not_be_run(self, web: Web, world: World) -> None:
        for changed, status, words in (
            ({"market": "US_QE"}, 404, "Did you mean 'US_EQ'?"),
            ({"pipeline": "dialy"}, 404, "There is no pipeline 'dialy'. Did you mean 'daily'?"),
            ({"market": "CRYPTO"}, 404, "does not follow CRYPTO, only"),
            ({"date": "2012-11-22"}, 404, "The nearest sessions are 2012-11-21 and 2012-11-23."),
            ({"date": "1912-11-22"}, 422, "is before the first date"),
            ({"date": "22.11.2012"}, 422, "body.date: must be a date"),
            ({"date": str(last_session())}, 409, "has not begun"),
        ):
            body = {**self.ASKED, **changed}
            assert words in web.problem_of_post("/api/v1/runs", body, status)
        assert (world.audited(), world.rows()) == ([], [])


def last_session() -> date:
    return TradingCalendar("US_EQ").previous_trading_day(TradingCalendar("US_EQ").horizon)


class TestOverrides:
    """What ``prometheus calendar override`` does."""

    DAY: ClassVar = last_session().isoformat()
    DRAFT: ClassVar = {
        "target": "US_EQ",
        "session": DAY,
        "kind": "closed",
        "reason": "a storm",
        "source": "nyse.com",
    }

    def test_it_is_foreseen_recorded_and_taken_back(self, web: Web, world: World) -> None:
        dag = world.run(job("a"), day=date.fromisoformat(self.DAY))
        foreseen = web.post("/api/v1/overrides/preview", self.DRAFT)
        states = foreseen["states"]["US_EQ"]
        assert "SESSION" in {each["state"] for each in states["before"]}
        assert {each["state"] for each in states["after"]} == {"HOLIDAY"}
        (run,) = (each for each in foreseen["runs"] if each["dag_id"] == dag.dag_id)
        assert (run["effect"], run["told"], run["status"]) == (
            "cancelled", "is cancelled", "CANCELLED",
        )  # fmt: skip
        assert (run["jobs"][0]["before"], run["jobs"][0]["after"]) == ("PENDING", "CANCELLED")
        assert (foreseen["latest"], foreseen["override"]["recorded_at"]) == (0, None)
        assert web.get("/api/v1/overrides")["items"] == []
        recorded = web.post("/api/v1/overrides", {**self.DRAFT, "latest": 0, "actor": "ada"})
        made = recorded["override"]
        assert (made["id"], made["market"], made["author"]) == (1, "US_EQ", "ada")
        assert made["in_force"] is True
        assert web.get("/api/v1/overrides")["items"] == [made]
        path = "/api/v1/overrides/1/withdraw"
        back = web.post(f"{path}/preview", {"reason": "it holds"})
        assert back["latest"] == 1
        assert back["states"]["US_EQ"] == {
            **states, "before": states["after"], "after": states["before"],
        }  # fmt: skip
        assert states["zone"] == "America/New_York"
        ended = web.post(path, {"reason": "it holds", "latest": 1, "actor": "bob"})["override"]
        assert (ended["withdraws"], ended["in_force"]) == (1, False)
        assert web.get("/api/v1/overrides")["items"] == []
        assert world.audited() == [("ada", "override", "US_EQ"), ("bob", "override", "US_EQ")]

    def test_it_foresees_what_the_command_does(
        self, web: Web, world: World, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.run(job("a"), day=date.fromisoformat(self.DAY))
        draft = {**self.DRAFT, "kind": "early_close", "close": "12:00"}
        foreseen = web.post("/api/v1/overrides/preview", draft)
        monkeypatch.setenv("PROMETHEUS__DATABASE__URL", database_url)
        command = ["calendar", "override", "add", "US_EQ", self.DAY, "early_close", "--json"]
        options = ["--close", "12:00", "--reason", "a storm", "--source", "nyse.com"]
        shown = CliRunner().invoke(make_application(), [*command, *options]).stdout
        told = json.loads(shown)
        assert told["runs"]
        for name in ("states", "runs", "is_over"):
            assert instants(foreseen[name]) == instants(told[name])

    def test_one_that_came_meanwhile_is_looked_at_first(self, web: Web, world: World) -> None:
        web.post("/api/v1/overrides", {**self.DRAFT, "target": "XLON", "actor": "bob"})
        why = web.problem_of_post("/api/v1/overrides", {**self.DRAFT, "latest": 0}, 409)
        assert "bob has recorded override 1 meanwhile: look again" in why
        why = web.problem_of_post("/api/v1/overrides", {**self.DRAFT, "latest": 7}, 409)
        assert "7 is not the last override" in why
        why = web.problem_of_post(
            "/api/v1/overrides/1/withdraw", {"reason": "no", "latest": 0}, 409
        )
        assert "look again" in why
        assert len(world.audited()) == 1

    def test_all_that_is_wrong_is_told_at_once(self, web: Web, world: World) -> None:
        wrong = {**self.DRAFT, "kind": "erly_close", "close": "5 pm", "reason": " "}
        for path in ("/api/v1/overrides", "/api/v1/overrides/preview"):
            answer = web.send(path, json.dumps(wrong).encode())
            assert "Did you mean 'early_close'?" in check_problem(answer, 422)
            told = [each["what"] for each in answer.json()["errors"]]
            assert "reason is empty: say why the session differs" in told
            assert "close '5 pm' is not a local time such as 13:00 or 17:00-1d" in told
        for path in ("withdraw", "withdraw/preview"):
            why = web.problem_of_post(f"/api/v1/overrides/7/{path}", {"reason": "no"}, 404)
            assert "There is no override '7'" in why
        assert world.audited() == []


def instants(document: Any) -> Any:
    """Return a document with its instants in one way of writing."""
    if isinstance(document, dict):
        return {name: instants(value) for name, value in document.items()}
    if isinstance(document, list):
        return [instants(each) for each in document]
    if isinstance(document, str) and document[10:11] == "T":
        return datetime.fromisoformat(document)
    return document


class TestRefusing:
    def refused(self, web: Web, world: World, path: str, body: Any, status: int) -> str:
        before = audited(world)
        why = web.problem_of_post(path, body, status)
        assert audited(world) == before
        return why

    def test_what_is_not_there(self, web: Web, world: World) -> None:
        dag = world.run(job("ingest_prices"))
        for action in ("retry", "cancel"):
            path = f"/api/v1/runs/us_eq_tset_2025-12-02/{action}"
            assert "Did you mean" in self.refused(web, world, path, {}, 404)
        for action in ("retry", "cancel", "skip", "force-success", "hold", "release"):
            path = f"/api/v1/runs/{dag.dag_id}/jobs/ingest_price/{action}"
            body = {"reason": "r"} if action in ("skip", "force-success", "hold") else {}
            assert self.refused(web, world, path, body, 404) == (
                f"{dag.dag_id} has no job 'ingest_price'. Did you mean 'ingest_prices'?"
            )
        body = {"market": "US_QE", "reason": "r"}
        assert "Did you mean 'US_EQ'?" in self.refused(web, world, "/api/v1/pause", body, 404)
        body = {"pipeline": "dialy", "reason": "r"}
        assert "no pipeline 'dialy'" in self.refused(web, world, "/api/v1/pause", body, 404)

    def test_what_its_state_forbids(self, web: Web, world: World) -> None:
        """In the words of the commands."""
        dag = world.run(job("a"))
        world.finish(dag, world.worker(), "a")
        jobs = f"/api/v1/runs/{dag.dag_id}/jobs/a"
        reason = {"reason": "r"}
        for path, body, words in (
            (f"/api/v1/runs/{dag.dag_id}/retry", {}, "has no job that failed, expired"),
            (f"{jobs}/cancel", {}, "has finished already; there is nothing to cancel"),
            (f"{jobs}/skip", reason, "only a job that has not started can be skipped"),
            (f"{jobs}/force-success", reason, "has succeeded already"),
            (f"{jobs}/hold", reason, "only what has not started can be held"),
            (f"{jobs}/release", {}, "is not paused"),
            ("/api/v1/resume", {"market": "US_EQ"}, "US_EQ is not paused"),
        ):
            assert words in self.refused(web, world, path, body, 409)

    @pytest.mark.parametrize(
        ("action", "body", "words"),
        [
            ("retry", {"downstram": True}, ["body.downstram: extra inputs are not permitted"]),
            ("retry", {"downstream": "x"}, ["body.downstream: input should be a valid boolean"]),
            ("retry", [], ["body: "]),
            ("retry", {"\ud800": 1}, ["body: input should be a valid string"]),
            ("retry", {"actor": "a\0", "x": 1}, ["body.actor: string should", "body.x: extra"]),
            ("retry", {"actor": "\ud800"}, ["body.actor: input should be a valid string"]),
            ("cancel", {"grace": 30, "x": 1}, ["body.grace: must be a dur", "body.x: extra"]),
            ("cancel", {"grace": "soon"}, ["body.grace: 'soon' is not a duration"]),
            ("cancel", {"grace": "9" * 99 + "d"}, ["body.grace: ", " is longer than "]),
            ("cancel", {"grace": "3651d"}, ["body.grace: is longer than 3650 days"]),
            ("skip", {}, ["body.reason: field required"]),
            ("skip", {"reason": " \n"}, ["body.reason: write a reason of at most 500"]),
            ("skip", {"reason": "x" * 501}, ["body.reason: write a reason of at most 500"]),
            ("skip", {"reason": "a\0b"}, ["body.reason: write a reason of at most 500"]),
            (
                "skip",
                {"reason": "a\x1b]52;c;b\x07"},
                ["body.reason: write a reason of at most 500"],
            ),
            ("skip", {"reason": "r", "actor": "a\x9b2J"}, ["body.actor: string should match"]),
            ("hold", {"reason": "r", "lasting": "1h"}, ["body.lasting: extra inputs"]),
            ("hold", {"reason": "r", "until": "2025-12-02"}, ["body.until: must be an instant"]),
            ("hold", {"reason": "r", "until": "2025-12-02T21:00:00Z"}, ["has passed already"]),
            (
                "hold",
                {"reason": "r", "until": "2125-12-02T21:00:00Z", "for": "1h"},
                ["give either until or for"],
            ),
        ],
    )
    def test_what_can_not_be_meant(
        self, web: Web, world: World, action: str, body: Any, words: list[str]
    ) -> None:
        dag = world.run(job("a"))
        path = f"/api/v1/runs/{dag.dag_id}/jobs/a/{action}"
        why = self.refused(web, world, path, body, 422)
        assert all(each in why for each in words), why

    def test_a_pause_of_nothing(self, web: Web, world: World) -> None:
        why = self.refused(web, world, "/api/v1/pause", {"reason": "r"}, 422)
        assert "name a market, a pipeline, or both" in why

    def test_what_is_no_json(self, web: Web, world: World) -> None:
        for content in (b"", b"{", b"\xff", b"[" * 60_000):
            answer = web.send("/api/v1/resume", content)
            assert answer.status_code in (400, 422), answer.text
            assert answer.json()["detail"]


class TestKeys:
    def test_a_request_that_comes_again_is_answered_as_before(self, web: Web, world: World) -> None:
        dag = world.run(job("a", max_retries=0))
        world.fail_for_good(dag, "a", world.worker())
        path = f"/api/v1/runs/{dag.dag_id}/jobs/a/retry"
        first = web.send(path, b'{"actor": "ada"}', key="one")
        # By then it would be refused: the new attempt has not ended.
        again = web.send(path, b' {"actor" :"ada"}', key="one")
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.content == first.content
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert world.audited() == [("ada", "retry", dag.dag_id)]
        assert web.send(path, b'{"actor": "ada"}', key="two").status_code == 409

    @pytest.mark.parametrize("other", ["body", "path"])
    def test_a_key_is_of_one_request(self, web: Web, world: World, other: str) -> None:
        dag = world.run(job("a"), job("b"))
        runs = f"/api/v1/runs/{dag.dag_id}/jobs"
        assert web.send(f"{runs}/a/cancel", b"{}", key="one").status_code == 200
        path, body = (
            (f"{runs}/a/cancel", {"grace": "1s"}) if other == "body" else (f"{runs}/b/cancel", {})
        )
        answer = web.send(path, json.dumps(body).encode(), key="one")
        assert answer.status_code == 422
        assert "given to another request before" in answer.json()["detail"]
        assert world.statuses(dag)["b"] == "PENDING"
        assert len(world.audited()) == 1

    def test_a_request_that_did_nothing_leaves_its_key(self, web: Web, world: World) -> None:
        dag = world.run(job("a", max_retries=0))
        path = f"/api/v1/runs/{dag.dag_id}/jobs/a/retry"
        assert web.send(path, b"{}", key="one").status_code == 409
        assert count_keys(world) == 0
        world.fail_for_good(dag, "a", world.worker())
        assert web.send(path, b"{}", key="one").status_code == 200
        assert count_keys(world) == 1

    @pytest.mark.promise("P5")
    def test_two_that_come_at_once_act_once(self, web: Web, world: World) -> None:
        """All but one of the same key only say so, and in the same words."""

        def send() -> bytes:
            answer = web.send("/api/v1/pause", b'{"market": "US_EQ", "reason": "r"}', key="k")
            assert answer.status_code == 200, answer.text
            return answer.content

        assert len(set(at_once([send] * 6))) == 1
        assert len(world.audited()) == 1

    def test_of_two_pauses_of_one_market_at_once_one_is_refused(
        self, web: Web, world: World
    ) -> None:
        def send() -> int:
            return web.send("/api/v1/pause", b'{"market": "US_EQ", "reason": "r"}').status_code

        assert sorted(at_once([send] * 6)) == [200, 409, 409, 409, 409, 409]
        assert len(world.audited()) == 1

    @pytest.mark.parametrize("key", ["", "x" * 201, "a b", "\x7f"])
    def test_what_can_be_no_key(self, web: Web, world: World, key: str) -> None:
        answer = web.send("/api/v1/pause", b'{"market": "US_EQ", "reason": "r"}', key=key)
        assert answer.status_code == 422
        assert "header.Idempotency-Key" in answer.json()["detail"]
        assert world.audited() == []


_MORTAL = """
import os, sys
from pathlib import Path
import uvicorn
from sqlalchemy import event
from prometheus.monitoring.app import create_app
from prometheus.settings import load_settings

url, port, when = sys.argv[1:]
variables = {"PROMETHEUS__DATABASE__URL": url, "PROMETHEUS__WEB__ACTIONS": "true"}
app = create_app(load_settings(variables, Path.cwd()))
engine = app.state.installation.engine
acted = []

@event.listens_for(engine, "before_cursor_execute")
def note(_connection, _cursor, statement, *_):
    if statement.startswith("INSERT INTO audit"):
        acted.append(statement)

def die(*_):
    if acted:
        os._exit(7)

# "commit" is said just before it is done; a connection is given back just after.
event.listen(engine, {"before": "commit", "after": "checkin"}[when], die)
uvicorn.run(app, host="127.0.0.1", port=int(port), log_config=None)
"""
"""A web process that dies around the commit of the first action."""


@pytest.mark.promise("P5")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_dies_at_the_commit_leaves_nothing_half_done(
    web: Web, world: World, database_url: str, tmp_path: Path, when: str
) -> None:
    """The client, which was not answered, sends the same again: it is done once."""
    port = free_port()
    path, body = "/api/v1/pause", b'{"market": "US_EQ", "reason": "r", "actor": "ada"}'
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    process = Process(
        ["python", "-c", _MORTAL, database_url, str(port), when], log=tmp_path / "log"
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/healthz", timeout=60, verify=PLAIN).status_code == 200
        return not process.running

    try:
        wait_until(answers, timeout=120, interval=0.2, message=process.output)
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{url}{path}", content=body, headers=headers, timeout=60)
        assert process.wait(60) == 7, process.output()
    finally:
        process.end()
    assert len(world.audited()) == (1 if when == "after" else 0)
    again = web.send(path, body, key="k")
    assert again.status_code == 200, again.text
    assert ("idempotency-replayed" in again.headers) == (when == "after")
    assert again.json()["pause"]["market"] == "US_EQ"
    assert world.audited() == [("ada", "pause", "US_EQ")]


def test_old_keys_are_pruned(web: Web, world: World) -> None:
    for key in ("old", "new"):
        body = {"market": "US_EQ" if key == "old" else "EU_EQ", "reason": "r"}
        assert web.send("/api/v1/pause", json.dumps(body).encode(), key=key).status_code == 200
    age = timedelta(days=40)
    with writing(world.engine) as connection:
        connection.execute(
            update(request_keys)
            .where(request_keys.c.key == "old")
            .values(created_at=leases.wall_time(connection) - age - HOUR)
        )
        cutoff = pruning.find_cutoff(connection, age)
    gone = list(pruning.prune(world.engine, cutoff, actor="ada"))
    assert gone == [pruning.Removed(0, 0, request_keys=1)]
    with reading(world.engine) as connection:
        assert list(connection.execute(select(request_keys.c.key)).scalars()) == ["new"]


def test_a_database_of_another_release_is_left_alone(web: Web, world: World) -> None:
    with writing(world.engine) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    why = web.problem_of_post("/api/v1/pause", {"market": "US_EQ", "reason": "r"}, 503)
    assert "Install that release" in why
    assert world.audited() == []


class TestBackfills:
    DRAFT: ClassVar = {
        "market": "US_EQ",
        "first": "2012-11-19",
        "last": "2012-11-23",
        "max_active_runs": 2,
        "reason": "new prices",
    }

    def test_it_is_foreseen_started_looked_at_and_stopped(self, web: Web, world: World) -> None:
        made = web.post("/api/v1/runs", {"market": "US_EQ", "date": "2012-11-20"})["dag_id"]
        foreseen = web.post("/api/v1/backfills/preview", self.DRAFT)
        assert foreseen["counts"] == {"new": 3, "kept": 1}
        kept = foreseen["sessions"][1]
        assert (kept["dag_id"], kept["effect"], kept["why"]) == (
            made, "kept", "its run is not finished",
        )  # fmt: skip
        assert web.get("/api/v1/backfills")["items"] == []
        asked = {**self.DRAFT, "plan": foreseen["plan"], "actor": "ada"}
        started = web.post("/api/v1/backfills", asked)
        backfill = started["backfill"]
        assert (backfill["backfill"], backfill["author"], backfill["waiting"]) == (1, "ada", 3)
        assert started["counts"] == foreseen["counts"]
        assert web.get("/api/v1/backfills", state="open")["items"] == [backfill]
        assert web.get("/api/v1/backfills", market="EU_EQ")["items"] == []
        report = web.get("/api/v1/backfills/1/sessions")
        assert report["backfill"] == backfill
        assert [each["session_date"] for each in report["sessions"]] == [
            "2012-11-19", "2012-11-21", "2012-11-23",
        ]  # fmt: skip
        stopped = web.post("/api/v1/backfills/1/stop", {"reason": "enough", "actor": "bob"})
        assert stopped["backfill"]["stopped_by"] == "bob"
        assert web.get("/api/v1/backfills", state="open")["items"] == []
        assert [each[:2] for each in world.audited()][1:] == [
            ("ada", "backfill"), ("bob", "backfill_stop"),
        ]  # fmt: skip
        why = web.problem_of_post("/api/v1/backfills/1/stop", {"reason": "enough"}, 409)
        assert "has ended already" in why

    def test_a_market_that_nobody_works_for_is_refused(
        self, world: World, variables: dict[str, str], database_url: str, tmp_path: Path
    ) -> None:
        given = {"PROMETHEUS__DATABASE__URL": database_url, "PROMETHEUS__WEB__ACTIONS": "true"}
        given |= {**variables, "PROMETHEUS__MARKETS__ENABLED": "EU_EQ"}
        with served(create_app(load_settings(given, tmp_path))) as web:
            asked = {"market": "US_EQ", "date": "2012-11-20"}
            why = web.problem_of_post("/api/v1/runs", asked, 409)
            assert "a run of it would wait for ever. markets.enabled has EU_EQ." in why
            web.problem_of_post("/api/v1/backfills", self.DRAFT, 409)
        assert world.audited() == []

    def test_a_list_of_several_pages_has_each_once(self, web: Web, world: World) -> None:
        for day in ("2012-11-19", "2012-11-20", "2012-11-21"):
            web.post("/api/v1/backfills", {**self.DRAFT, "first": day, "last": day})
        first = web.get("/api/v1/backfills", limit=2)
        second = web.get("/api/v1/backfills", limit=2, cursor=first["next"])
        numbers = [each["backfill"] for page in (first, second) for each in page["items"]]
        assert (numbers, second["next"]) == ([3, 2, 1], None)

    def test_what_can_not_be_is_refused_and_nothing_is_done(self, web: Web, world: World) -> None:
        def refused(status: int, **other: Any) -> str:
            return web.problem_of_post("/api/v1/backfills", {**self.DRAFT, **other}, status)

        assert "is after the last" in refused(422, last="2012-11-18")
        assert "is before the first date" in refused(422, first="1900-01-01")
        assert "a backfill may have" in refused(422, first="1990-01-01", last="2026-11-01")
        assert "There is no pipeline" in refused(404, pipeline="dayly")
        refused(404, market="US_EX")
        refused(422, max_active_runs=0)
        refused(422, reprocess="some")
        assert "something else than it was shown" in refused(409, plan="0123456789abcdef")
        web.problem_of_post("/api/v1/backfills/7/stop", {"reason": "no"}, 404)
        assert world.audited() == []

    def test_the_command_says_the_same(
        self, web: Web, world: World, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        foreseen = web.post("/api/v1/backfills/preview", self.DRAFT)
        monkeypatch.setenv("PROMETHEUS__DATABASE__URL", database_url)

        def run(*command: str, told: str | None = None) -> str:
            done = CliRunner().invoke(make_application(), ["backfill", *command], input=told)
            assert done.exit_code == 0, done.output
            return done.stdout

        start = ("start", "US_EQ", "--from", "2012-11-19", "--to", "2012-11-23", "--reason", "why")
        shown = json.loads(run(*start, "--json"))
        assert (shown["backfill"], shown["counts"]) == (None, foreseen["counts"])
        assert shown["sessions"] == foreseen["sessions"]
        assert "No backfill is open." in run("list")
        refused = CliRunner().invoke(make_application(), ["backfill", *start], input="n\n")
        assert (refused.exit_code, "Nothing was started." in refused.stdout) == (1, True)
        assert "Started as backfill 1" in run(*start, "--as", "ada", told="y\n")
        assert "4 waiting" in run("list")
        document = json.loads(run("show", "1", "--json"))
        report = web.get("/api/v1/backfills/1/sessions")
        assert instants(document["backfill"]) == instants(report["backfill"])
        assert instants(document["sessions"]) == instants(report["sessions"])
        assert "us_eq_daily_2012-11-19" in run("show", "1")
        assert "4 were left" in run("stop", "1", "--reason", "enough")
        assert "stopped by" in run("list", "--all")
