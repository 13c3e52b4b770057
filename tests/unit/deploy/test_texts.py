"""What all files of ``deploy/`` have in common."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml

from prometheus.settings import defaults
from tests.deployments import DEPLOY, parse
from tests.servers import REPOSITORY

FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_every_setting_that_is_named_is_one(file: Path) -> None:
    known = {each.variable for each in defaults()}
    named = re.findall(r"PROMETHEUS__\w+", file.read_text())
    # Of a setting that has keys, such as channels, the name of one may follow.
    assert {
        each.rpartition("__")[0] if each.rpartition("__")[0] in known else each
        for each in (each.removesuffix("_FILE") for each in named)
    } <= known


def test_every_command_of_the_readme_is_one_of_ours() -> None:
    text = (DEPLOY / "README.md").read_text()
    found = re.findall(r"`(?:Run: )?prometheus ([^`]+)`", text)
    assert "db upgrade" in found
    for command in found:
        parse(shlex.split(command))


def test_what_loads_pipelines_is_given_those_of_ones_own() -> None:
    """Flower does not."""
    text = (DEPLOY / "README.md").read_text()
    (example,) = re.findall(r"```yaml\n(  x-ours: .+?)```", text, re.DOTALL)
    given = yaml.safe_load(textwrap.dedent(example))["services"]
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
    assert set(given) == {
        name
        for name, each in services.items()
        if each.get("command", [""])[1:2] in (["beat"], ["worker"], ["web"])
        and "profiles" not in each
    }


def test_every_link_leads_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", (DEPLOY / "README.md").read_text()):
        path, _, heading = link.partition("#")
        file = (DEPLOY / path).resolve()
        assert file.is_relative_to(REPOSITORY)
        assert file.exists()
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert heading in {each.lower().replace(" ", "-") for each in headings}
