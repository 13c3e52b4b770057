"""``prometheus audit`` as a process."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.conftest import RunCommand


def test_it_lists_who_did_what(run_command: RunCommand, home: Path) -> None:
    run_command("audit").refused("There is no database")
    run_command("db", "upgrade")
    assert run_command("audit").out.strip() == "Nothing of it was done."
    for market, actor in (("US_EQ", "ada"), ("EU_EQ", "bob")):
        paused = run_command("pause", "--market", market, "--reason", "halted", "--as", actor)
        assert paused.status == 0, paused
    listed = run_command("audit", "--json").document
    assert [(each["actor"], each["action"], each["target"]) for each in listed] == [
        ("bob", "pause", "EU_EQ"),
        ("ada", "pause", "US_EQ"),
    ]
    assert listed[0]["details"]["reason"] == "halted"
    shown = run_command("audit", "US_EQ").out
    assert "ada" in shown
    assert "bob" not in shown
    assert len(run_command("audit", "-n", "1", "--json").document) == 1
    assert run_command("audit", "--by", "eve", "--json").document == []
