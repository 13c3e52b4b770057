"""``prometheus alerts`` as a process."""

from __future__ import annotations

from pathlib import Path

from prometheus.monitoring.alerts.watching import Watcher
from prometheus.monitoring.installation import Installation
from prometheus.persistence.engine import create_engine
from prometheus.settings import load_settings
from tests.acceptance.conftest import RunCommand
from tests.integration.monitoring.recipients import receiving
from tests.integration.persistence.world import World, job
from tests.servers import free_port

TOKEN = "T0kenOfTheChannel"


def test_what_is_wrong_is_listed_and_acknowledged(
    run_command: RunCommand, sqlite_url: str, home: Path
) -> None:
    env = {"PROMETHEUS__DATABASE__URL": sqlite_url}
    assert run_command("alerts", env=env).out.strip() == "No alert is open."
    engine = create_engine(sqlite_url)
    world = World(engine)
    dag = world.run(job("a", max_retries=0))
    world.fail_for_good(dag, "a", world.worker())
    here = Installation(load_settings(env, home))
    watcher = Watcher(here)
    assert watcher.look()
    watcher.close()
    here.close()
    engine.dispose()

    shown = run_command("alerts", env=env).out
    assert f"{dag.dag_id}: a failed for good" in shown
    (listed,) = run_command("alerts", "list", "--json", env=env).document
    assert (listed["alert"], listed["kind"], listed["subjects"]) == (1, "job_failed", ["a"])
    ack = ("alerts", "ack", "1", "--reason", "vendor called", "--as", "ada")
    assert run_command(*ack, env=env).status == 0
    assert "acknowledged by ada: vendor called" in run_command("alerts", env=env).out
    run_command(*ack, env=env).refused("was acknowledged by ada already")
    run_command("alerts", "ack", "7", "--reason", "x", env=env).refused("There is no alert 7")


def test_channels_are_tried_one_by_one(run_command: RunCommand, home: Path) -> None:
    run_command("alerts", "test").refused("There are no channels")
    with receiving() as recipients:
        works = f"json://127.0.0.1:{recipients.web_port}/{TOKEN}"
        env = {
            "PROMETHEUS__CHANNELS__DESK": works,
            "PROMETHEUS__CHANNELS__NOBODY": f"json://127.0.0.1:{free_port()}/{TOKEN}",
        }
        both = run_command("alerts", "test", env=env)
        assert both.status == 1
        assert "desk: accepted" in both.out
        assert "nobody: NOT accepted: " in both.out
        (answer,) = run_command("alerts", "test", "desk", "--json", env=env).document
        assert answer == {"channel": "desk", "error": None}
        assert recipients.titles == ["Test: alerts arrive here"] * 2
        unknown = run_command("alerts", "test", "dexk", env=env).refused("Did you mean 'desk'?")
        shown = run_command("config", "show", env=env).out
    assert "desk=json://***" in shown
    assert TOKEN not in both.out + both.err + unknown + shown
