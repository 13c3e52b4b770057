"""The units of ``deploy/systemd``."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest

from prometheus.core.durations import parse_duration
from prometheus.settings import Settings
from tests.acceptance.conftest import COMMAND
from tests.deployments import DEPLOY, SECRETS, SYSTEMD, parse, settings

UNITS = sorted(each.name for each in SYSTEMD.glob("*.service"))
RESTARTED = [name for name in UNITS if name != "prometheus-migrate.service"]
PROGRAM = "/opt/prometheus-markets/bin/prometheus"
ETC = "/etc/prometheus-markets"
_OLDEST = 250
"""Of systemd: the first that has %d, the folder of a unit's credentials."""

Unit = dict[tuple[str, str], list[str]]
"""Section and key -> all its values."""


def read(name: str) -> Unit:
    """Read a unit; it fails on a line that is no assignment."""
    unit: Unit = defaultdict(list)
    section = ""
    for line in (SYSTEMD / name).read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif line and not line.startswith("#"):
            key, sign, value = line.partition("=")
            assert sign, line
            unit[section, key].append(value)
    return unit


def only(unit: Unit, key: str) -> str:
    (value,) = unit["Service", key]
    return value


def command(name: str) -> list[str]:
    """Return the words after ``prometheus`` of the one command that a unit runs."""
    program, *words = only(read(name), "ExecStart").split()
    assert program == PROGRAM
    return [word.replace("%i", "US_EQ") for word in words]


def of_unit(name: str, tmp_path: Path) -> Settings:
    """Read the settings of a unit's process, from its file and its credentials."""
    unit = read(name)
    assert only(unit, "EnvironmentFile") == f"{ETC}/settings.env"
    assignments = [
        line
        for line in (SYSTEMD / "settings.env").read_text().splitlines()
        if not line.startswith("#")
    ]
    assignments += unit["Service", "Environment"]
    variables = dict(each.split("=", 1) for each in assignments)
    mounted = {}
    for credential in unit["Service", "LoadCredential"]:
        key, file = credential.split(":")
        assert file == f"{ETC}/secrets/{key}"
        mounted[f"%d/{key}"] = tmp_path / key
        (tmp_path / key).write_text(f"{SECRETS[key]}\n")
    return settings(variables, mounted, tmp_path)


def test_every_role_has_a_unit() -> None:
    assert {tuple(command(name)) for name in UNITS} == {
        ("db", "upgrade"),
        ("beat",),
        ("worker", "US_EQ"),
        ("web",),
        ("flower",),
    }
    for name in UNITS:
        parse(command(name))


@pytest.mark.parametrize("name", UNITS)
def test_settings_and_credentials_are_there(name: str, tmp_path: Path) -> None:
    found = of_unit(name, tmp_path)
    assert found.database.url.get_secret_value() == SECRETS["database-url"]
    if name in RESTARTED:
        assert found.broker.url.get_secret_value() == SECRETS["broker-url"]
    assert "US_EQ" in found.markets.enabled


@pytest.mark.parametrize("name", RESTARTED)
def test_it_is_started_again_however_often_it_ends(name: str) -> None:
    unit = read(name)
    assert only(unit, "Restart") == "always"
    assert only(unit, "RestartSec") == "5s"
    assert unit["Unit", "StartLimitIntervalSec"] == ["0"]


def test_worker_may_end_its_jobs_and_leaves_nothing_behind(tmp_path: Path) -> None:
    unit = read("prometheus-worker@.service")
    soft_stop = of_unit("prometheus-worker@.service", tmp_path).workers.soft_stop
    assert soft_stop is not None
    patience = parse_duration(only(unit, "TimeoutStopSec").removesuffix("in"))
    assert patience >= soft_stop + timedelta(minutes=1)
    assert only(unit, "KillMode") == "mixed"
    assert ("Service", "KillSignal") not in unit  # SIGTERM
    assert only(unit, "OOMPolicy") == "continue"


@pytest.mark.parametrize("name", UNITS)
def test_units_may_do_little(name: str) -> None:
    assert restrictions(name) == restrictions(UNITS[0])
    assert restrictions(name) >= {
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "CapabilityBoundingSet=",
        "User=prometheus-markets",
        "StateDirectory=prometheus-markets",
    }


def restrictions(name: str) -> set[str]:
    """Return what a unit says of what it may do."""
    own = {"Type", "ExecStart", "RemainAfterExit", "Restart", "RestartSec", "TimeoutStopSec"}
    own |= {"ExecStop", "KillMode", "OOMPolicy", "LoadCredential", "Environment"}
    return {
        f"{key}={value}"
        for (section, key), values in read(name).items()
        if section == "Service" and key not in own
        for value in values
    }


def test_readme_names_every_unit() -> None:
    _, _, text = (DEPLOY / "README.md").read_text().partition("\n## systemd\n")
    assert all(name.removesuffix(".service") in text for name in UNITS)


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    """With our command in the place of the one that is not installed here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    version = subprocess.run(
        ["systemd-analyze", "--version"], capture_output=True, text=True, check=True
    ).stdout
    if int(version.split()[1].partition(".")[0]) < _OLDEST:
        pytest.skip(f"older than systemd {_OLDEST}")
    for name in UNITS:
        text = (SYSTEMD / name).read_text()
        (tmp_path / name).write_text(text.replace(PROGRAM, COMMAND[0]))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / name for name in UNITS)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = [line for line in done.stderr.splitlines() if "prometheus" in line]
    assert (done.returncode, found) == (0, [])
