"""``prometheus replay --prepare`` and ``--follow``: schedulers and workers of their own do it."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import RunCommand, StartCommand
from tests.servers import wait_until

ONE_DAY = ("--from", "2012-11-23", "--to", "2012-11-23", "--market", "US_EQ")


@pytest.fixture
def variables(postgresql_url: str, redis_url: str) -> dict[str, str]:
    """The settings of all processes."""
    return {
        "PROMETHEUS__DATABASE__URL": postgresql_url,
        "PROMETHEUS__BROKER__URL": redis_url,
        "PROMETHEUS__WORKERS__CONCURRENCY": "1",
    }


def test_those_who_are_started_after_it_was_prepared_do_it(
    run_command: RunCommand, start_command: StartCommand, variables: dict[str, str]
) -> None:
    refused = run_command("replay", *ONE_DAY, "--follow", env=variables)
    refused.refused("is not prepared for this replay", "replay --prepare")
    prepared = run_command("replay", *ONE_DAY, "--prepare", "--json", env=variables)
    assert (prepared.status, prepared.document["prepared"]) == (0, True), prepared
    again = run_command("replay", *ONE_DAY, "--prepare", env=variables)
    assert (again.status, "is prepared already for" in again.out) == (0, True), again
    other = run_command("replay", *ONE_DAY, "--follow", "--market", "EU_EQ", env=variables)
    other.refused("is not prepared for this replay")

    start_command("beat", env=variables)
    start_command("worker", "US_EQ", env=variables)
    followed = run_command("replay", *ONE_DAY, "--follow", "--json", env=variables, timeout=240)
    assert followed.status == 0, followed
    assert [run["jobs"] for run in followed.document["runs"]] == [{"SUCCESS": 9}]
    assert followed.document["checked"]["ok"] is True

    # As after a restart of everything: what was done stays, and can be followed to its end again.
    assert run_command("replay", *ONE_DAY, "--prepare", env=variables).status == 0
    shown = run_command("replay", *ONE_DAY, "--follow", env=variables)
    assert (shown.status, "each succeeded exactly once" in shown.out) == (0, True), shown
    assert "--folder" not in shown.out


def test_a_live_database_is_not_prepared(
    run_command: RunCommand, start_command: StartCommand, variables: dict[str, str]
) -> None:
    assert run_command("db", "upgrade", env=variables).status == 0
    start_command("beat", env=variables)
    wait_until(
        lambda: run_command("health", "beat", env=variables).status == 0,
        timeout=90,
        message="a scheduler leads",
    )
    refused = run_command("replay", *ONE_DAY, "--prepare", env=variables)
    # Whichever comes first: its lead, or a run that it has made.
    assert "A replay needs a database without runs" in refused.refused()


@pytest.mark.parametrize(
    "options",
    [("--prepare", "--follow"), ("--prepare", "--folder", "x"), ("--follow", "--folder", "x")],
)
def test_what_does_not_go_together_is_wrong_usage(
    run_command: RunCommand, options: tuple[str, ...]
) -> None:
    run_command("replay", *ONE_DAY, *options).refused("--prepare and --follow", status=2)
