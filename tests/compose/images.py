"""The images: ours is built from a copy of the checkout; those it needs are pulled, or made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import yaml

from tests.compose.engine import Engine, EngineError
from tests.servers import REPOSITORY

_COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
OURS: str = _COMPOSE["services"]["migrate"]["image"]
STANDS_IN = "prometheus.stands-in"
"""The label of an image that was made because it can not be pulled."""
_DEBIAN = "prometheus-test-debian"
_STANDINS = Path(__file__).parent / "standins"


def copy_checkout(target: Path) -> None:
    """Copy what a clone would have: all files that are, or may be, under version control."""
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def needed_images(checkout: Path) -> list[str]:
    """List the images that are not ours, of the compose file and the Dockerfile."""
    services = yaml.safe_load((checkout / "docker-compose.yml").read_text())["services"]
    found = {service["image"] for service in services.values()} - {OURS}
    found |= set(re.findall(r"^FROM (\S+)", (checkout / "Dockerfile").read_text(), re.MULTILINE))
    return sorted(found)


def provide(engine: Engine, names: list[str], folder: Path) -> dict[str, bool]:
    """
    See to it that images are there.

    Returns:
        Name -> whether it only stands in for the official one.
    """
    return {name: _provide(engine, name, folder) for name in names}


def _provide(engine: Engine, name: str, folder: Path) -> bool:
    if not _is_there(engine, name):
        try:
            engine.docker("pull", "--quiet", name)
        except EngineError:
            _make(engine, name, folder)
    elif _stands_in(engine, name):
        _make(engine, name, folder)  # the recipe may have changed; what has not is cached
    return _stands_in(engine, name)


def _stands_in(engine: Engine, name: str) -> bool:
    labels = engine.documents("image", "inspect", name)[0]["Config"]["Labels"] or {}
    return STANDS_IN in labels


def _is_there(engine: Engine, name: str) -> bool:
    return bool(engine.docker("image", "ls", "--quiet", name).strip())


def _make(engine: Engine, name: str, folder: Path) -> None:
    """Make a stand-in from Debian's packages."""
    recipe = _STANDINS / name.partition(":")[0]
    if not recipe.is_dir():
        raise EngineError(f"{name} can not be pulled, and nothing stands in for it.")
    if not _is_there(engine, _DEBIAN):
        _make_debian(engine, folder)
    context = folder / "context"
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(recipe, context)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", context)
    label = f"{STANDS_IN}={name}"
    engine.docker("build", *engine.build_options, "--label", label, "--tag", name, str(context))


def _make_debian(engine: Engine, folder: Path) -> None:
    files, archive = folder / "debian", folder / "debian.tar"
    shutil.rmtree(files, ignore_errors=True)
    engine.bootstrap_debian(files)
    subprocess.run(["tar", "--create", "--file", archive, "--directory", files, "."], check=True)
    engine.docker("import", str(archive), _DEBIAN)
    shutil.rmtree(files)
    archive.unlink()


def build(engine: Engine, checkout: Path, extra_index: str) -> None:
    """
    Build our image as `docker compose build` does.

    Args:
        extra_index: One more index for pip, whose address must stay out of the image.
    """
    usual = os.environ.get("PIP_EXTRA_INDEX_URL", "")
    env = {"PIP_EXTRA_INDEX_URL": f"{usual} {extra_index}".strip()}
    engine.docker(
        "build",
        *engine.build_options,
        # Without values: those of the environment, which no process list shows.
        *(("--build-arg", "PIP_INDEX_URL") if "PIP_INDEX_URL" in os.environ else ()),
        *("--build-arg", "PIP_EXTRA_INDEX_URL", "--tag", OURS, str(checkout)),
        env=env,
    )
