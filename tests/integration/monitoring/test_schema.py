"""The API against its own description: made-up questions and bodies, whatever their sense."""

from __future__ import annotations

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
from tests.integration.monitoring.test_markets import say
from tests.integration.persistence.world import World, job
from tools.openapi import document

NOT_PROMISED = [
    # What may be a foreign site's is refused (403) before it is routed.
    unsupported_method,
    # Of what the description can not say, such as either `until` or `for`, it is told (422).
    positive_data_acceptance,
]
api = schemathesis.openapi.from_dict(json.loads(document()))


@pytest.fixture(scope="module")
def filled(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The app on a database with a run, that acts for everybody."""
    folder = tmp_path_factory.mktemp("schema")
    url = f"sqlite:///{shutil.copyfile(_sqlite_template, folder / 'prometheus.db')}"
    engine = create_engine(url)
    world = World(engine)
    dag = world.run(job("a", max_retries=0), job("b", "a"))
    world.fail_for_good(dag, "a", world.worker())
    say(world, 1, "flood")
    engine.dispose()
    found = {"PROMETHEUS__DATABASE__URL": url, "PROMETHEUS__WEB__ACTIONS": "true"}
    with served(create_app(load_settings(found, folder))) as web:
        yield web


@api.parametrize()
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_it_answers_as_it_says(case: schemathesis.Case[Any], filled: Web) -> None:
    """No 500, and nothing but what the description has: states, media types, headers, bodies."""
    # There is no Redis here, and it says so.
    unready = [not_a_server_error] if case.path == "/readyz" else []
    case.call_and_validate(base_url=filled.url, excluded_checks=[*NOT_PROMISED, *unready])
