"""The API against its own description: made-up questions and bodies, whatever their sense."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method

from prometheus.monitoring.app import create_app
from prometheus.persistence.engine import create_engine
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import Web, served
from tests.integration.monitoring.proxy import PREFIX
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
# Every boundary of every parameter is the same one below a path.
api_below.config.phases.coverage.enabled = False


@pytest.fixture(scope="module")
def filled(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The app on a database with a run, that acts for everybody."""
    with _serving(_sqlite_template, tmp_path_factory.mktemp("schema")) as web:
        yield web


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
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_it_answers_as_it_says(case: schemathesis.Case[Any], filled: Web) -> None:
    """No 500, and nothing but what the description has: states, media types, headers, bodies."""
    _validate(case, filled.url)


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
