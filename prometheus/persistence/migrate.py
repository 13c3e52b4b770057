"""Bring a database to this release's tables, and say when it is not there."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from prometheus.errors import PrometheusError
from prometheus.persistence.engine import create_engine, reading, shown_url

_INSTALLED = Path(__file__).parent / "migrations"
"""Where the wheel keeps the scripts; in a checkout they are in ``migrations/`` at the top."""


class DatabaseRevisionError(PrometheusError):
    """The database's tables are not those of this release."""

    def __init__(
        self, shown_url: str, found: str | None, wanted: str, *, newer: bool = False
    ) -> None:
        self.found = found
        self.wanted = wanted
        state = f"at revision {found}" if found else "without Prometheus' tables"
        remedy = "Run: prometheus db upgrade"
        if newer:
            state += ", which this release does not know: a newer one made it"
            remedy = "Install that release."
        super().__init__(
            f"The database {shown_url} is {state}, and this release needs revision {wanted}. "
            f"{remedy}"
        )


@dataclass(frozen=True, slots=True)
class StepBack:
    """One revision that is taken back."""

    revision: str
    title: str
    """What it had brought."""
    words: str
    """What becomes of that."""
    below: str | None
    """The revision it leads to; ``None`` without tables."""


class UnknownRevisionError(PrometheusError):
    """No release had tables of this revision."""

    def __init__(self, revision: str, known: Sequence[str]) -> None:
        self.revision = revision
        super().__init__(f"There is no revision {revision}; there are {', '.join(known)}.")


def _config(engine: Engine | None = None) -> Config:
    checkout = Path(__file__).parents[2] / "migrations"
    config = Config()
    scripts = str(_INSTALLED if _INSTALLED.is_dir() else checkout)
    config.set_main_option("script_location", scripts.replace("%", "%%"))
    config.attributes["engine"] = engine
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def head() -> str:
    """Return the revision of this release."""
    return str(_scripts().get_current_head())


def current(engine: Engine) -> str | None:
    """Return the database's revision; ``None`` without tables."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def check(engine: Engine) -> None:
    """
    Refuse a database whose tables are not those of this release.

    Raises:
        DatabaseRevisionError: It is older, newer or empty.
    """
    found, wanted = current(engine), head()
    if found != wanted:
        known = {script.revision for script in _scripts().walk_revisions()}
        raise DatabaseRevisionError(
            shown_url(engine.url),
            found,
            wanted,
            newer=found is not None and found not in known,
        )


def upgrade(url: str, revision: str = "head") -> None:
    """Bring a database to a revision, this release's by default; nothing is lost."""
    engine = create_engine(url)
    try:
        command.upgrade(_config(engine), revision)
    finally:
        engine.dispose()


def steps_back(engine: Engine, revision: str) -> list[StepBack]:
    """
    Say what it takes to bring a database back to an earlier revision, the latest step first.

    Args:
        revision: Of some release, or ``base``, from before the first tables.

    Raises:
        DatabaseRevisionError: The database is newer than this release, which can not take it back.
        UnknownRevisionError: There is no such revision.
    """
    scripts = list(_scripts().walk_revisions())
    known = [*(each.revision for each in scripts), "base"]
    found = current(engine) or "base"
    if found not in known:
        raise DatabaseRevisionError(shown_url(engine.url), found, head(), newer=True)
    if revision not in known:
        raise UnknownRevisionError(revision, known)
    return [
        StepBack(each.revision, each.doc, inspect.getdoc(each.module.downgrade) or "", below)
        for each, below in zip_longest(scripts, known[1:-1])
        if known.index(found) <= known.index(each.revision) < known.index(revision)
    ]


def downgrade(url: str, revision: str) -> None:
    """Take a database back to a revision; ``base`` drops every table with its rows."""
    engine = create_engine(url)
    try:
        command.downgrade(_config(engine), revision)
    finally:
        engine.dispose()
