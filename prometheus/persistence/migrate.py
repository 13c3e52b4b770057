"""Bring a database to this release's tables, and say when it is not there."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, text
from sqlalchemy import inspect as look_into

from prometheus.errors import PrometheusError
from prometheus.persistence.engine import create_engine, reading, shown_url

# Every process looks which revision its database has, and Alembic would be a tenth of what it takes
# to start; so only what changes tables imports it.
if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

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


def _folder() -> Path:
    return _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "migrations"


def _config(engine: Engine | None = None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    config.attributes["engine"] = engine
    return config


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def revisions() -> tuple[str, ...]:
    """Return those that this release knows, the earliest first: the numbers of its scripts."""
    names = (path.name for path in (_folder() / "versions").glob("[0-9]*_*.py"))
    return tuple(sorted(name.partition("_")[0] for name in names))


def head() -> str:
    """Return the revision of this release."""
    return revisions()[-1]


def current(engine: Engine) -> str | None:
    """Return the database's revision; ``None`` without tables."""
    with reading(engine) as connection:
        if not look_into(connection).has_table("alembic_version"):
            return None
        found = connection.execute(text("SELECT version_num FROM alembic_version"))
        return found.scalar_one_or_none()


def check(engine: Engine) -> None:
    """
    Refuse a database whose tables are not those of this release.

    Raises:
        DatabaseRevisionError: It is older, newer or empty.
    """
    found, wanted = current(engine), head()
    if found != wanted:
        raise DatabaseRevisionError(
            shown_url(engine.url),
            found,
            wanted,
            newer=found is not None and found not in revisions(),
        )


def upgrade(url: str, revision: str = "head") -> None:
    """Bring a database to a revision, this release's by default; nothing is lost."""
    from alembic import command

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
    from alembic import command

    engine = create_engine(url)
    try:
        command.downgrade(_config(engine), revision)
    finally:
        engine.dispose()
