"""Bring a database to this release's tables, and say when it is not there."""

from __future__ import annotations

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


def downgrade(url: str, revision: str) -> None:
    """Take a database back to a revision; ``base`` drops every table with its rows."""
    engine = create_engine(url)
    try:
        command.downgrade(_config(engine), revision)
    finally:
        engine.dispose()
