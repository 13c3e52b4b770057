"""``prometheus config``: what is set and from where, and the page that lists all settings."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.conftest import RunCommand
from tests.servers import REPOSITORY

SECRET = "correct-horse"


def test_settings_are_shown_with_their_origin_and_without_secrets(
    run_command: RunCommand, home: Path
) -> None:
    (home / "password").write_text(f"me:{SECRET}\n")
    (home / "prometheus.toml").write_text("seed = 7\n")
    env = {"PROMETHEUS__FLOWER__BASIC_AUTH_FILE": "password", "PROMETHEUS__FLOWER__PORT": "5556"}
    shown = run_command("config", "show", "--json", env=env)
    found = {each["name"]: (each["value"], each["origin"]) for each in shown.document}
    assert found["flower.basic_auth"] == ("***", "PROMETHEUS__FLOWER__BASIC_AUTH_FILE=password")
    assert found["flower.port"] == ("5556", "PROMETHEUS__FLOWER__PORT")
    assert found["seed"] == ("7", f"{home / 'prometheus.toml'}:1 seed")
    assert found["scheduler.lease"] == ("10s", "default")
    told = run_command("config", "show", "--origin", env=env)
    assert "PROMETHEUS__FLOWER__BASIC_AUTH_FILE=password" in told.out
    assert "default" not in run_command("config", "show", env=env).out
    assert SECRET not in shown.out + told.out


def test_the_page_of_settings_is_what_the_command_prints(run_command: RunCommand) -> None:
    """If this fails: prometheus config reference > docs/settings.md"""
    printed = run_command("config", "reference", env={"PROMETHEUS__SEED": "7"})
    assert printed.out == (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
