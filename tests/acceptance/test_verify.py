"""``prometheus verify``: what the history checker says of an installation."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunCommand

DAY = ("--from", "2012-11-23", "--to", "2012-11-23")


def edit(folder: Path, statement: str) -> None:
    """Change the database of a data folder past the product."""
    with closing(sqlite3.connect(folder / "prometheus.db")) as connection:
        assert connection.execute(statement).rowcount == 1
        connection.commit()


def test_a_replay_is_found_sound_until_a_row_is_changed(
    run_command: RunCommand, home: Path
) -> None:
    folder = home / "replay"
    assert run_command("replay", *DAY, "--market", "US_EQ", "--folder", folder).status == 0
    ended = run_command("verify", "--folder", folder, "--finished")
    assert ended.status == 0, ended.err
    assert "checked: 1 run, 9 jobs, each succeeded exactly once" in ended.out
    document = run_command("verify", "--folder", folder, "--json").document
    assert document["ok"] is True
    assert document["counts"]["windows"] == 9
    # The other markets' sessions have no run here.
    missing = run_command("verify", "--folder", folder, *DAY, "--json")
    assert missing.status == 1
    assert {each["rule"] for each in missing.document["violations"]} == {"run-missing"}

    edit(
        folder,
        "UPDATE job_executions SET started_market_at = '2012-11-23 17:59:59.000000' "
        "WHERE job_id = 'ingest_prices'",
    )
    ended = run_command("verify", "--folder", folder)
    assert ended.status == 1
    assert "checked: 1 run, 9 jobs; 1 violation" in ended.out
    assert (
        "us_eq_daily_2012-11-23 ingest_prices: started at 2012-11-23 17:59:59.000 UTC, outside its "
        "window 2012-11-23 18:00:00 to 2012-11-26 13:30:00 UTC (outside-window)"
    ) in ended.out
    assert "Traceback" not in ended.err
    (found,) = run_command("verify", "--folder", folder, "--json").document["violations"]
    assert found["rule"] == "outside-window"


def test_a_database_without_runs_is_sound(run_command: RunCommand) -> None:
    run_command("verify").refused("There is no database")
    assert run_command("db", "upgrade").status == 0
    ended = run_command("verify")
    assert ended.status == 0
    assert "checked: 0 runs, 0 jobs" in ended.out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--from", "2012-11-23"), "give both --from and --to"),
        (("--from", "2012-11-23", "--to", "2012-11-21"), "is before --from"),
    ],
)
def test_wrong_usage(run_command: RunCommand, arguments: tuple[str, ...], text: str) -> None:
    run_command("verify", *arguments).refused(text, status=2)
