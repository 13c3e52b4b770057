"""
The API against its own description: made-up questions and bodies, whatever their sense.

Most of them are about what there is in the installation, or they would hardly get past 404; and
each operation must have done at least once what was asked.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method
from sqlalchemy import update

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.monitoring.app import create_app
from prometheus.orchestration.alerts import AlertKind, Cause, Raise, Severity
from prometheus.orchestration.backfill import Reprocess
from prometheus.persistence import alerts, backfills, logs, pauses
from prometheus.persistence.engine import create_engine, writing
from prometheus.persistence.tables import dag_runs
from prometheus.settings import load_settings
from tests.eodhd.server import TOKEN, Imitation
from tests.integration.monitoring.conftest import Web, served
from tests.integration.monitoring.proxy import PREFIX
from tests.integration.monitoring.test_holidays import NOW, STORM
from tests.integration.monitoring.test_markets import say
from tests.integration.persistence.world import World, job
from tools.openapi import document

NOT_PROMISED = [
    # What may be a foreign site's is refused (403) before it is routed.
    unsupported_method,
    # Of what the description can not say, such as either `until` or `for`, it is told (422).
    positive_data_acceptance,
]
api, api_below = (schemathesis.openapi.from_dict(json.loads(document())) for _ in range(2))
# What is answered to methods that there are not is not held against the description: see above.
api.config.phases.coverage.unexpected_methods = set()
# Every boundary of every parameter is the same one below a path.
api_below.config.phases.coverage.enabled = False


NEVER = {
    "GET /readyz": "there is no Redis here",
    "POST /api/v1/session": "there are no users here, and so nobody has a password",
}
"""Operations that can not succeed here, and why."""
WHY = {"reason": "because", "actor": "ada"}
SAID = {**WHY, "target": "XNYS", "session": "2025-12-10", "kind": "closed", "source": "a notice"}
RANGE = {**WHY, "market": "US_EQ", "first": "2025-11-03", "last": "2025-11-04"}
DECIDED = {**WHY, "target": "XNYS", "confirm": [str(STORM)]}
BODIES: Mapping[str, Mapping[str, Any]] = {
    "/api/v1/runs": {"market": "US_EQ", "date": "2025-11-03"},
    "/api/v1/pause": {**WHY, "market": "EU_EQ"},
    "/api/v1/resume": {"market": "ASIA_EQ"},
    "/api/v1/overrides": SAID,
    "/api/v1/overrides/preview": {**SAID, "session": "2025-12-11"},
    "/api/v1/backfills": RANGE,
    "/api/v1/backfills/preview": RANGE,
    "/api/v1/holidays/sync": {"target": "XNYS"},
    "/api/v1/holidays/decide": DECIDED,
    "/api/v1/holidays/decide/preview": DECIDED,
    "/api/v1/session": {"name": "ada", "password": "correct horse battery"},
}
"""What can be asked of the installation; of all other paths ``WHY`` is enough, and fits."""


@dataclass
class Filled:
    """The app, and what there is in its installation."""

    web: Web
    world: World
    days: Iterator[date]
    """Sessions without a run."""
    done: Counter[str] = field(default_factory=Counter)
    """Operation -> how often it has done what was asked."""
    there: dict[str, Any] = field(default_factory=dict)
    """Name of a parameter -> what it can be of what there is."""

    def put(self) -> None:
        """Make anew what other operations may have cancelled, released, acknowledged or stopped."""
        world, worker, day = self.world, "w@h", next(self.days)
        dag = world.run(
            *(job("failed", max_retries=0), job("below", "failed"), job("waits"), job("held")),
            day=day,
        )
        self.web.get("/api/v1/pauses")  # whoever looks goes by the overrides that there are by now
        with writing(world.engine) as connection:
            connection.execute(
                update(dag_runs)
                .where(dag_runs.c.dag_id == dag.dag_id)
                .values(calendar_version=TradingCalendar("US_EQ").version)
            )
        incarnation = world.worker(name=worker)
        world.fail_for_good(dag, "failed", incarnation)
        execution_id = world.ids(dag)["failed"]
        now = world.now()
        cause = Cause(
            key=f"job_failed {dag.dag_id}",
            kind=AlertKind.JOB_FAILED,
            severity=Severity.ERROR,
            summary="a job failed",
            since=now,
            markets=("US_EQ",),
            pipeline="test",
            dag_id=dag.dag_id,
            subjects=("failed",),
        )
        daily = self.web.app.state.installation.pipelines[0]["daily"]
        with writing(world.engine) as connection:
            logs.append(connection, execution_id, 1, "it failed\n")
            pauses.hold(connection, dag.dag_id, "held", reason="r", actor="ada")
            if not any(each.market_id == "ASIA_EQ" for each in pauses.read_pauses(connection)):
                pauses.pause(connection, market_id="ASIA_EQ", reason="r", actor="ada")
            alerts.apply_changes(connection, [Raise(cause)], now, lambda *_: ())
            ((alert, _),) = alerts.list_alerts(connection, alerts.AlertFilter(), limit=1)
            backfill, _ = backfills.start_backfill(
                connection, daily, "US_EQ", day, day, reprocess=Reprocess.NONE, max_active_runs=1,
                reason="r", actor="ada",
            )  # fmt: skip
        self.there.update(
            dag_id=dag.dag_id, run=dag.dag_id, job="failed", execution_id=execution_id,
            market="US_EQ", market_id="US_EQ", pipeline="test", target="XNYS", worker=worker,
            actor="ada", action="hold", alert=alert.alert_id, backfill=backfill, override=1,
        )  # fmt: skip

    def fit(self, case: schemathesis.Case[Any]) -> None:
        """
        Let some of what is asked be there.

        It goes by the case alone, so that the same one is the same again.
        """
        if case.method == "DELETE":  # which has no body that would say so
            case.headers["Content-Type"] = "application/json"
        told = json.dumps((case.path_parameters, case.query, case.body), default=lambda _: None)
        how = zlib.crc32(told.encode()) % 6
        if how == 0:
            return
        jobs = {"skip": "waits", "hold": "waits", "release": "held", "cancel": "waits"}
        there = {**self.there, "job": jobs.get(case.path.rpartition("/")[2], "failed")}
        for name in case.path_parameters or {}:
            case.path_parameters[name] = there[name]
        for name in set(case.query or {}) & set(there):
            case.query[name] = there[name]
        if how == 2:  # a key that was given to another request would keep it from being done
            case.headers.pop("Idempotency-Key", None)
        if case.method == "POST" and how < 3:
            body = BODIES.get(case.path, WHY)
            made_up = case.body if how == 1 and isinstance(case.body, dict) else {}
            case.body = {**made_up, **body}


@pytest.fixture(scope="module")
def installation(
    _sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    """The app on a database in which something has run, that acts for everybody."""
    with Imitation(now=NOW) as feed:
        feed.maintenance = False
        feed.extra_closures["US", STORM] = "Storm"
        folder = tmp_path_factory.mktemp("schema")
        variables = {"PROMETHEUS__EODHD__TOKEN": TOKEN, "PROMETHEUS__EODHD__URL": feed.url}
        variables["PROMETHEUS__CHANNELS__DESK"] = "json://127.0.0.1:1/"  # where nobody listens
        with _serving(_sqlite_template, folder, **variables) as web:
            days = TradingCalendar("US_EQ").trading_days(date(2025, 1, 2), date(2025, 10, 31))
            web.post("/api/v1/holidays/sync", {"target": "XNYS"})
            yield Filled(web, World(web.app.state.installation.engine), iter(days))


@pytest.fixture
def filled(installation: Filled) -> Iterator[Filled]:
    """What there is, anew for each operation, which must do what is asked at least once."""
    installation.done.clear()
    installation.put()
    yield installation
    assert [name for name, times in installation.done.items() if not times] == []


@pytest.fixture(scope="module")
def below(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same one below a path of a proxy, that passes it on; its URL."""
    folder = tmp_path_factory.mktemp("below")
    with _serving(_sqlite_template, folder, PROMETHEUS__WEB__ROOT_PATH=PREFIX) as web:
        yield f"{web.url}{PREFIX}"


@contextlib.contextmanager
def _serving(template: Path, folder: Path, **variables: str) -> Iterator[Web]:
    url = f"sqlite:///{shutil.copyfile(template, folder / 'prometheus.db')}"
    engine = create_engine(url)
    world = World(engine)
    dag = world.run(job("a", max_retries=0), job("b", "a"))
    world.fail_for_good(dag, "a", world.worker())
    say(world, 1, "flood")
    engine.dispose()
    found = {"PROMETHEUS__DATABASE__URL": url, "PROMETHEUS__WEB__ACTIONS": "true"}
    with served(create_app(load_settings({**found, **variables}, folder))) as web:
        yield web


@api.parametrize()
@settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_it_answers_as_it_says(case: schemathesis.Case[Any], filled: Filled) -> None:
    """No 500, and nothing but what the description has: states, media types, headers, bodies."""
    filled.fit(case)
    answer = _validate(case, filled.web.url)
    if case.operation.label not in NEVER:
        filled.done[case.operation.label] += answer.status_code < HTTPStatus.MULTIPLE_CHOICES


@api_below.parametrize()
@settings(max_examples=1, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_it_answers_as_it_says_below_a_path(case: schemathesis.Case[Any], below: str) -> None:
    """What is made up is tried above; here each route is met, and answers as its own."""
    answer = _validate(case, below)
    if not case.path_parameters:
        assert "There is nothing at" not in answer.text


def _validate(case: schemathesis.Case[Any], url: str) -> schemathesis.Response:
    # There is no Redis here, and it says so.
    unready = [not_a_server_error] if case.path == "/readyz" else []
    return case.call_and_validate(base_url=url, excluded_checks=[*NOT_PROMISED, *unready])
