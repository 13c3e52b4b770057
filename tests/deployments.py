"""What ``deploy/`` ships, read for tests: documents of Kubernetes, commands, settings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
import yaml

from prometheus.cli.application import make_application
from prometheus.settings import Settings, load_settings
from tests.servers import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
KEDA = DEPLOY / "kubernetes" / "keda"
SYSTEMD = DEPLOY / "systemd"

SECRETS = {
    "database-url": "postgresql://me:secret@database/prometheus",
    "broker-url": "redis://:secret@broker:6379/0",
    "flower-basic-auth": "me:secret",
    "web-password": "correct horse battery staple",
}
"""A secret's file -> what may be in it."""

Document = dict[str, Any]


def documents(folder: Path) -> list[Document]:
    """Read every resource that a folder's kustomization names; not those of other folders."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    files = [folder / name for name in kustomization["resources"] if name.endswith(".yaml")]
    return [each for file in files for each in yaml.safe_load_all(file.read_text())]


def find(folder: Path, kind: str, name: str) -> Document:
    """Return the one document of a kind and name."""
    (found,) = (
        each
        for each in documents(folder)
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def pods() -> dict[str, Document]:
    """Give what a Deployment or Job starts: its name -> the ``spec`` of its pods."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in documents(BASE)
        if each["kind"] in ("Deployment", "Job")
    }


def containers(pod: Document) -> list[Document]:
    """Give all containers of a pod, those that run first and end included."""
    return [*pod.get("initContainers", ()), *pod["containers"]]


def commands(node: object) -> Iterator[list[str]]:
    """Find every command line of ours below a node: the words after ``prometheus``."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("command", "args"):
                yield from _ours(value)
            else:
                yield from commands(value)
    elif isinstance(node, list):
        for value in node:
            yield from commands(value)


def _ours(command: Sequence[str]) -> Iterator[list[str]]:
    if command[:2] == ["sh", "-c"]:
        for part in re.split(r"[;|&!]+", command[2]):
            yield from _ours(shlex.split(part))
    elif command and Path(command[0]).name == "prometheus":
        yield list(command[1:])


def parse(words: Sequence[str]) -> None:
    """Parse a command line of ours as the shipped command does, without running it; or fail."""
    command: Any = typer.main.get_command(make_application())
    context, rest = None, list(words)
    while hasattr(command, "get_command"):
        context = command.context_class(command, parent=context)
        name = rest.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"{name} of {words} is no command"
    command.make_context(command.name, rest, parent=context)


def settings(variables: Mapping[str, str], mounted: Mapping[str, Path], tmp_path: Path) -> Settings:
    """
    Read the settings of a process as it will.

    Args:
        variables: Its environment.
        mounted: A file that it finds -> what is there in this test.
        tmp_path: Its folder.

    Raises:
        SettingsError: With every unknown name, and every file that is not there.
    """
    here = {key: str(mounted.get(value, value)) for key, value in variables.items()}
    return load_settings(here, tmp_path)
