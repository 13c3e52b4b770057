"""``prometheus calendar override``: shown, recorded, taken back."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.conftest import RunCommand, rows

OVERRIDE = ("calendar", "override")
CLOSED = ("XNYS", "2027-01-05", "closed", "--reason", "a storm", "--source", "nyse.com")


def test_override_is_shown_before_it_is_recorded_and_goes_as_it_came(
    run_command: RunCommand, tmp_path: Path
) -> None:
    folder = ("--folder", tmp_path)
    assert run_command("db", "upgrade", *folder).status == 0
    # Without --yes, --json only shows.
    shown = run_command(*OVERRIDE, "add", *CLOSED, "--json", *folder).document
    assert shown["recorded"] is False
    assert [each["state"] for each in shown["states"]["XNYS"]["after"]] == ["HOLIDAY"]
    # The other exchange of the market is open.
    assert shown["states"]["US_EQ"]["before"] == shown["states"]["US_EQ"]["after"]
    assert rows(tmp_path, "SELECT count(*) FROM calendar_overrides") == [(0,)]

    added = run_command(*OVERRIDE, "add", *CLOSED, "--yes", "--as", "ada", *folder)
    assert "Recorded as override 1" in added.out, added
    (listed,) = run_command(*OVERRIDE, "list", "--json", *folder).document
    assert (listed["exchange"], listed["author"], listed["in_force"]) == ("XNYS", "ada", True)
    run_command(*OVERRIDE, "add", *CLOSED, "--yes", *folder).refused("closed on 2027-01-05 already")

    gone = run_command(*OVERRIDE, "withdraw", "1", "--reason", "it passed", "--yes", *folder)
    assert "Recorded as override 2" in gone.out, gone
    assert "No overrides." in run_command(*OVERRIDE, "list", *folder).out
    assert rows(tmp_path, "SELECT action, target FROM audit ORDER BY audit_id") == [
        ("override", "XNYS"),
        ("override", "XNYS"),
    ]


def test_override_with_many_faults_is_refused_with_all_of_them(
    run_command: RunCommand, tmp_path: Path
) -> None:
    folder = ("--folder", tmp_path)
    assert run_command("db", "upgrade", *folder).status == 0
    times = ("--open", "9", "--close", "25:00", "--breaks", "noon", "--zone", "Mars")
    wrong = ("add", "XNSY", "5.1.2027", "clsoed", *times, "--announced-at", "2026-01-01")
    said = run_command(*OVERRIDE, *wrong, "--yes", *folder).refused(
        "10 faults; nothing was changed", "Did you mean 'XNYS'?"
    )
    assert said.count("\n  - ") == 10
