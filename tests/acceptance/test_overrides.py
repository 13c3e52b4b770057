"""``prometheus calendar override``: what is recorded by one command is seen by the next."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.acceptance.conftest import RunCommand, rows

CLOSED = ("XNYS", "2027-01-05", "closed", "--reason", "a storm", "--source", "nyse.com")


def test_override_that_one_command_records_is_shown_by_another(
    run_command: RunCommand, home: Path, sqlite_url: str
) -> None:
    data = home / ".prometheus"
    data.mkdir()
    shutil.copyfile(sqlite_url.removeprefix("sqlite:///"), data / "prometheus.db")
    added = run_command("calendar", "override", "add", *CLOSED, "--yes", "--as", "ada")
    assert "Recorded as override 1" in added.out, added
    assert rows(data, "SELECT actor, action, target FROM audit") == [("ada", "override", "XNYS")]
    shown = run_command("calendar", "show", "XNYS", "2027")
    assert "a storm; override 1" in shown.out, shown
    run_command("calendar", "override", "add", "XNSY", "5.1.2027", "clsoed").refused(
        "5 faults; nothing was changed", "Did you mean 'XNYS'?"
    )
