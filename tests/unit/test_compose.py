"""The shipped compose file: it can be read, and asks nothing of the product that is not there."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from prometheus.passwords import hash_password
from prometheus.settings import load_settings
from tests.deployments import parse
from tests.servers import REPOSITORY

_PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
IMAGE = f"prometheus-markets:{_PROJECT['version']}"
OURS = "prometheus"
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STEPS = ("secrets", "migrate", "first-user", "replay-prepare", "replay-first-user", "replay")
"""They end by themselves."""
PROCESSES = sorted(set(SERVICES) - set(STEPS))


def _is_ours(service: dict[str, Any]) -> bool:
    return bool(service["image"] == IMAGE)


def _commands() -> Iterator[tuple[str, list[str]]]:
    for name, service in SERVICES.items():
        if _is_ours(service):
            yield name, service["command"]
            test = service.get("healthcheck", {}).get("test", ["CMD"])
            yield f"{name}, its health", test[1:]


COMMANDS = [
    pytest.param(command, id=name) for name, command in _commands() if command[:1] == [OURS]
]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_option_and_file_exists(command: list[str], tmp_path: Path) -> None:
    folder = f"{_secrets(tmp_path)}/"
    parse([re.sub(r"^/secrets/", folder, word) for word in command[1:]])


def test_the_commands_are_found() -> None:
    """One each of ours but the one that makes passwords, and the health of all who stay."""
    ours = [name for name, service in SERVICES.items() if _is_ours(service)]
    staying = [name for name in PROCESSES if name in ours and not name.endswith(("web", "flower"))]
    assert len(COMMANDS) == len(ours) - 1 + len(staying)


@pytest.mark.parametrize("name", [name for name, each in SERVICES.items() if _is_ours(each)])
def test_its_settings_are_settings(name: str, tmp_path: Path) -> None:
    given = {}
    for variable, value in SERVICES[name].get("environment", {}).items():
        if variable.endswith("_FILE"):
            value = _secrets(tmp_path) / Path(value).relative_to("/secrets")
            assert value.is_file(), value
        given[variable] = str(value)
    load_settings(given)


def _secrets(folder: Path) -> Path:
    made = folder / "secrets"
    if not made.exists():
        made.mkdir()
        subprocess.run(
            [REPOSITORY / "docker" / "make-secrets", made], check=True, capture_output=True
        )
    return made


def test_passwords_are_made_once_and_no_two_are_the_same(tmp_path: Path) -> None:
    folder = _secrets(tmp_path)
    made = {path.name: path.read_text() for path in folder.iterdir()}
    again = subprocess.run(
        [REPOSITORY / "docker" / "make-secrets", folder], check=True, capture_output=True, text=True
    )
    assert {path.name: path.read_text() for path in folder.iterdir()} == made
    passwords = {text for name, text in made.items() if name.endswith("-password")}
    assert len(passwords) == 4
    assert all(re.fullmatch(r"[0-9a-f]{48}\n", each) for each in passwords)
    assert not any(each.strip() in again.stdout + again.stderr for each in passwords)
    # What was lost in between is written anew from what is there.
    (folder / "broker-url").unlink()
    subprocess.run(
        [REPOSITORY / "docker" / "make-secrets", folder], check=True, capture_output=True
    )
    assert (folder / "broker-url").read_text() == made["broker-url"]


def test_password_that_postgresql_has_is_not_made_anew(tmp_path: Path) -> None:
    folder = _secrets(tmp_path)
    made = {path.name: path.read_text() for path in folder.iterdir()}
    (folder / "postgres-password").write_text("")  # as after a disk was full
    done = subprocess.run(
        [REPOSITORY / "docker" / "make-secrets", folder],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"Write the password in {folder}/database-url into it." in done.stderr
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        **made,
        "postgres-password": "",
    }


@pytest.mark.parametrize("prefix", ["", "replay-"])
def test_each_market_has_a_worker_and_there_are_two_beats(prefix: str) -> None:
    roles = [
        service["command"][1:]
        for name, service in SERVICES.items()
        if _is_ours(service) and name.startswith("replay-") == bool(prefix)
    ]
    served = sorted(role[1] for role in roles if role[:1] == ["worker"])
    assert served == sorted(load_settings({}).markets.enabled)
    assert roles.count(["beat"]) == 2
    assert roles.count(["web"]) == roles.count(["flower"]) == 1


@pytest.mark.parametrize("prefix", ["", "replay-"])
def test_pages_are_shown_to_the_first_user(prefix: str, tmp_path: Path) -> None:
    """Whose password there is, and who is in the very database that is shown."""
    web, first = SERVICES[f"{prefix}web"], SERVICES[f"{prefix}first-user"]
    waits_for = web["depends_on"][f"{prefix}first-user"]
    assert waits_for == {"condition": "service_completed_successfully"}
    assert first["environment"].items() < web["environment"].items()
    file = first["command"][first["command"].index("--password-file") + 1]
    hash_password((_secrets(tmp_path) / Path(file).name).read_text().strip())
    settings = ("PROMETHEUS__WORKERS__CONCURRENCY",)
    worker = SERVICES[f"{prefix}us-eq"]["environment"]
    assert [web["environment"][each] for each in settings] == [worker[each] for each in settings]
    assert web["ports"][0].endswith(f":{load_settings({}).web.port}")


def test_nothing_listens_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_what_every_container_has(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service
    assert ("restart" in service, "healthcheck" in service, "stop_grace_period" in service) == (
        (name in PROCESSES,) * 3
    )
    assert ("replay" in service.get("profiles", ())) == name.startswith("replay")
    if _is_ours(service):
        assert service["cap_drop"] == ["ALL"]
        assert ("build" in service) == (name == "secrets")


@pytest.mark.parametrize("name", SERVICES)
def test_one_init_is_the_first_process_of_each_container(name: str) -> None:
    """That of the image, if it is ours; else the engine's."""
    assert 'ENTRYPOINT ["tini", "--"]' in (REPOSITORY / "Dockerfile").read_text()
    service = SERVICES[name]
    assert "entrypoint" not in service
    assert service.get("init", False) != _is_ours(service)


@pytest.mark.parametrize("name", SERVICES)
def test_who_waits_waits_for_what_comes(name: str) -> None:
    for other, wish in SERVICES[name].get("depends_on", {}).items():
        profiles = set(SERVICES[other].get("profiles", ()))
        assert profiles <= set(SERVICES[name].get("profiles", ()))
        match wish["condition"]:
            case "service_completed_successfully":
                assert other in STEPS
            case "service_healthy":
                assert "healthcheck" in SERVICES[other]
            case condition:
                assert condition == "service_started"


@pytest.mark.parametrize("name", [name for name in PROCESSES if _is_ours(SERVICES[name])])
def test_servers_are_stopped_after_those_who_need_them(name: str) -> None:
    """docker-compose 1.29 goes by who runs, and past a step that has ended in between."""
    assert {"postgres", "redis"} <= set(SERVICES[name]["depends_on"])


def test_a_worker_is_killed_only_after_it_handed_its_jobs_back() -> None:
    for service in SERVICES.values():
        if service.get("command", [])[:2] == [OURS, "worker"]:
            settings = {
                key: value
                for key, value in service["environment"].items()
                if not key.endswith("_FILE")
            }
            soft_stop = load_settings(settings).workers.soft_stop
            assert soft_stop is not None
            grace = re.fullmatch(r"(\d+)m", service["stop_grace_period"])
            assert grace is not None
            assert int(grace[1]) * 60 >= soft_stop.total_seconds() + 60
            assert "stop_signal" not in service  # SIGTERM


def test_volumes_and_files_are_there() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ())]
    for source in {mount.split(":")[0] for mount in mounts}:
        if source.startswith("."):
            assert (REPOSITORY / source).is_file()
        else:
            assert source in COMPOSE["volumes"]
    writers = [name for name, each in SERVICES.items() if "secrets:/secrets" in each["volumes"]]
    assert writers == ["secrets"]
