"""
The container engine: one that answers already, or Debian's, unpacked and started in a folder.

The second is for machines without one. Nothing is installed there: the packages are unpacked below
the folder, the engine keeps everything in it, leaves the machine's packet filter and routing alone,
and is ended by its pid.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import tail, wait_until

_PACKAGES = ("docker.io", "docker-compose", "debootstrap", "iptables")
LOG = "dockerd.log"
_ENDS_WITHIN = 420.0
"""Seconds; the engine waits as long as any container may take to stop."""


class EngineError(Exception):
    """There is no engine, and none can be started."""


class Engine:
    """How to talk to an engine."""

    def __init__(
        self, docker: Sequence[str], compose: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.command = tuple(docker)
        self.compose_command = tuple(compose)
        self.environment = dict(environment)
        self.is_own = False
        """Whether it was started for the test."""
        self.debootstrap: tuple[str, ...] = ("debootstrap",)

    @property
    def build_options(self) -> tuple[str, ...]:
        """What a build needs to reach pip's index and Debian's packages."""
        return ("--network", "host") if self.is_own else ()

    def docker(
        self, *arguments: str, env: Mapping[str, str] | None = None, check: bool = True
    ) -> str:
        """Run a docker command, and return what it printed on standard output."""
        return self._run([*self.command, *arguments], env or {}, None, check)

    def stream(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a docker command whose output is too much to keep."""
        return subprocess.Popen(
            [*self.command, *arguments],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
        )

    def documents(self, *arguments: str) -> list[Any]:
        """Run a docker command that prints JSON: one document, or one a line."""
        text = self.docker(*arguments)
        if text.startswith("["):
            found: list[Any] = json.loads(text)
            return found
        return [json.loads(line) for line in text.splitlines() if line.strip()]

    def compose(
        self, *arguments: str, cwd: Path, env: Mapping[str, str], check: bool = True
    ) -> str:
        """Run a compose command in a folder with the file."""
        return self._run([*self.compose_command, *arguments], env, cwd, check)

    def bootstrap_debian(self, folder: Path) -> None:
        """Make the files of a small Debian, of the release that this machine is."""
        release = _os_release()["VERSION_CODENAME"]
        self._run(
            [*self.debootstrap, "--variant=minbase", "--include=ca-certificates", release,
             str(folder)],
            {}, None, True,
        )  # fmt: skip

    def _run(
        self, command: list[str], env: Mapping[str, str], cwd: Path | None, check: bool
    ) -> str:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **self.environment, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if check and done.returncode != 0:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
            raise EngineError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
        return done.stdout


@contextmanager
def find_engine(folder: Path) -> Iterator[Engine]:
    """
    Give an engine, started for the block where none answers.

    Args:
        folder: Where an engine of the test's own keeps everything.

    Raises:
        EngineError: None answers, and none can be started here.
    """
    if _answers(["docker"]):
        yield Engine(["docker"], _find_compose(), {})
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise EngineError(
            "No container engine answers `docker info`, and one can be started only by root on "
            "Debian or Ubuntu."
        )
    root = folder / "root"
    if not (root / ".done").exists():
        _unpack(folder, root)
    engine = _of_packages(folder, root)
    # The first shares files between containers. The second copies all of them for each, and works
    # everywhere.
    process = _start(engine, folder, root, "overlay2") or _start(engine, folder, root, "vfs")
    if process is None:
        raise EngineError(f"dockerd ended:\n{tail(folder / LOG, 15)}")
    try:
        yield engine
    finally:
        process.terminate()
        try:
            process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(docker: list[str], environment: Mapping[str, str] | None = None) -> bool:
    if shutil.which(docker[0], path=(environment or os.environ).get("PATH")) is None:
        return False
    asked = subprocess.run(
        [*docker, "info"],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return asked.returncode == 0 and b"Server Version" in asked.stdout


def _find_compose() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and (
            subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
        ):
            return command
    raise EngineError("There is an engine, and neither `docker compose` nor `docker-compose`.")


def _unpack(folder: Path, root: Path) -> None:
    """Download the packages with what they need and is not there, and unpack them in a folder."""
    archives = folder / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    fetch = ["apt-get", "--quiet", "--yes", "--no-install-recommends", "--download-only",
             "-o", f"Dir::Cache::archives={archives}", "install", *_PACKAGES]  # fmt: skip
    if subprocess.run(fetch, capture_output=True, check=False).returncode != 0:
        subprocess.run(["apt-get", "--quiet", "update"], capture_output=True, check=True)
        done = subprocess.run(fetch, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EngineError(f"{' '.join(fetch)} ended with {done.returncode}:\n{done.stderr}")
    root.mkdir(exist_ok=True)
    for package in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg", "--extract", package, root], check=True)
    for name in ("iptables", "ip6tables"):  # what the package's installation would do
        link = root / "usr/sbin" / name
        link.unlink(missing_ok=True)
        link.symlink_to("xtables-nft-multi")
    (root / ".done").touch()


def _of_packages(folder: Path, root: Path) -> Engine:
    libraries = root / "usr/lib" / f"{os.uname().machine}-linux-gnu"
    environment = {
        "PATH": os.pathsep.join([f"{root}/usr/sbin", f"{root}/usr/bin", os.environ["PATH"]]),
        "LD_LIBRARY_PATH": str(libraries),
        "XTABLES_LIBDIR": f"{libraries}/xtables",
        "DOCKER_HOST": f"unix://{folder}/docker.sock",
        # What all versions of the engine can.
        "DOCKER_BUILDKIT": "0",
        "DEBOOTSTRAP_DIR": f"{root}/usr/share/debootstrap",
        "PYTHONPATH": f"{root}/usr/lib/python3/dist-packages",
    }
    engine = Engine(
        [f"{root}/usr/bin/docker"],
        ["/usr/bin/python3", f"{root}/usr/bin/docker-compose"],
        environment,
    )
    engine.is_own = True
    engine.debootstrap = (f"{root}/usr/sbin/debootstrap",)
    return engine


def _start(
    engine: Engine, folder: Path, root: Path, storage: str
) -> subprocess.Popen[bytes] | None:
    """Start the engine; return ``None`` if it ends at once."""
    with (folder / LOG).open("wb") as output:
        process = subprocess.Popen(
            [
                f"{root}/usr/sbin/dockerd",
                *("--host", f"unix://{folder}/docker.sock"),
                *("--pidfile", str(folder / "docker.pid")),
                *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
                *("--storage-driver", storage, "--bridge", "none"),
                # Containers talk to each other, and to nobody else.
                *("--iptables=false", "--ip6tables=false", "--ip-forward=false"),
                # Less than nothing would need a right that root may lack in a virtual machine.
                *("--oom-score-adjust", "0"),
            ],
            env={**os.environ, **engine.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or _answers([*engine.command], engine.environment),
            timeout=120,
            interval=0.5,
            message="the engine answers",
        )
    except BaseException:
        process.terminate()
        raise
    return process if process.poll() is None else None


def _os_release() -> dict[str, str]:
    text = Path("/etc/os-release").read_text(encoding="utf-8")
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key: value.strip('"') for key, _, value in pairs}
