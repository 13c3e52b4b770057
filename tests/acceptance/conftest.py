"""The shipped command as a process; ``run_command`` waits for its end, ``start_command`` not."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.conftest import StartProcess
from tests.servers import REPOSITORY, Process, free_port

_INSTALLED = Path(sys.executable).parent / "prometheus"
COMMAND: tuple[str, ...] = (
    (str(_INSTALLED),) if _INSTALLED.exists() else (sys.executable, "-m", "prometheus.cli")
)
"""The installed command; in an environment without it, the same from the source tree."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed with --json."""
        return json.loads(self.out)

    def refused(self, *texts: str, status: int = 1) -> str:
        """Check that it ended with one clear message, and return that."""
        assert self.status == status, self
        assert "Traceback" not in self.err, self.err
        assert not self.out.strip() or status == 1, self.out
        for text in texts:
            assert text in self.err, f"{text!r} is not in:\n{self.err}"
        return self.err


class RunCommand(Protocol):
    """The type of the fixture ``run_command``."""

    def __call__(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 120
    ) -> Ended: ...


class StartCommand(Protocol):
    """The type of the fixture ``start_command``."""

    def __call__(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Process: ...


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of a command: wide output, this source tree, and a port of its own."""
    port = str(free_port())
    ours = {"COLUMNS": "200", "PYTHONPATH": str(REPOSITORY), "PROMETHEUS__WEB__PORT": port}
    return {**ours, **(extra or {})}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder that commands run in; the default data folder is below it."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def run_command(home: Path) -> RunCommand:
    """A function that runs ``prometheus`` with arguments to its end."""

    def run(
        *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 120
    ) -> Ended:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=home,
            env={**os.environ, **environment(env)},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def start_command(start_process: StartProcess, home: Path) -> StartCommand:
    """A function that starts ``prometheus`` with arguments and returns its `Process`."""

    def start(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Process:
        return start_process(
            *COMMAND, *arguments, env=environment(env), cwd=home, name="prometheus"
        )

    return start


@pytest.fixture
def live(start_command: StartCommand, home: Path) -> Iterator[Path]:
    """A data folder on which ``prometheus up`` is at work, without runs of its own making."""
    folder = home / "live"
    process = start_command(
        "up", "--folder", folder, env={"PROMETHEUS__SCHEDULER__CREATE_RUNS": "false"}
    )
    process.wait_for("running", timeout=60)
    yield folder
    process.end()


def rows(folder: Path, query: str, parameters: Sequence[object] = ()) -> list[Any]:
    """Ask the SQLite database of a data folder."""
    path = folder / "prometheus.db"
    assert path.exists(), f"there is no {path}"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(query, parameters).fetchall()
