"""Which installation a command is about: its folder, its database, the stack at work on it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from prometheus.configuration import DATABASE_NAME
from prometheus.errors import DatabaseError
from prometheus.masking import safe_url
from prometheus.settings import Settings, load_settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

STACK_FILE = "stack.json"
"""In the data folder: what the stack at work there says of itself; nothing secret."""
HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class RunningStack:
    """The embedded stack that is at work on a folder."""

    pid: int
    database_url: str
    """Without its password."""
    broker_url: str
    """Without its password."""


@dataclass(frozen=True, slots=True)
class Place:
    """One installation."""

    settings: Settings
    folder: Path
    stack: RunningStack | None
    """The embedded stack at work here, if there is one."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Settings that came from the command or the folder -> from where."""

    @property
    def url(self) -> str:
        """The database's URL, with its password."""
        return self.settings.database.url.get_secret_value()

    @property
    def shown_url(self) -> str:
        """The database's URL for people."""
        return safe_url(self.url)

    @property
    def is_local(self) -> bool:
        """Whether the database is a SQLite file."""
        return self.url.startswith("sqlite")


def settings_for(
    folder: Path | None, environ: Mapping[str, str] | None = None, *, holding: bool = False
) -> Settings:
    """
    Read the settings, with another data folder if one is given.

    Args:
        holding: As of `load_settings`.

    Raises:
        SettingsError: With every fault.
    """
    variables = dict(os.environ if environ is None else environ)
    if folder is not None:
        variables["PROMETHEUS__DATA__FOLDER"] = str(folder.absolute())
    return load_settings(variables, holding=holding)


def find_place(folder: Path | None, *, holding: bool = False) -> Place:
    """
    Find the installation of a folder, by default of the settings.

    A folder that is named explicitly brings its own database and broker, whatever is configured:
    those that its stack works or worked with, otherwise the SQLite file in it.

    Args:
        holding: As of `load_settings`.

    Raises:
        SettingsError: The settings can not be used.
        DatabaseError: The folder's database needs a password that is nowhere to be had.
    """
    settings = settings_for(folder, holding=holding)
    home = settings.data.folder
    written = read_stack_file(home)
    stack = written if written is not None and written.pid == _holder(home) else None
    origins = {}
    if folder is not None:
        origins["data.folder"] = "--folder"
        url = _url_of_folder(home, written, settings)
        if url != settings.database.url.get_secret_value():
            origins["database.url"] = str(home / STACK_FILE if written else home)
            settings = with_url(settings, url)
    elif written is not None and written.database_url != safe_url(settings.database.url):
        stack = None  # it works on another database than the one that is configured
    if stack is not None and HIDDEN not in stack.broker_url:
        broker = settings.broker.model_copy(update={"url": SecretStr(stack.broker_url)})
        settings = settings.model_copy(update={"broker": broker})
        origins["broker.url"] = str(home / STACK_FILE)
    return Place(settings, home, stack, origins)


def with_url(settings: Settings, url: str) -> Settings:
    """Return the settings with another database."""
    database = settings.database.model_copy(update={"url": SecretStr(url)})
    return settings.model_copy(update={"database": database})


def _url_of_folder(home: Path, written: RunningStack | None, settings: Settings) -> str:
    configured = settings.database.url.get_secret_value()
    if written is None:
        return f"sqlite:///{home / DATABASE_NAME}"
    if written.database_url == safe_url(configured):
        return configured
    if HIDDEN in written.database_url:
        raise DatabaseError(
            f"The stack in {home} works with {written.database_url}, whose password is not kept "
            f"there. Set PROMETHEUS__DATABASE__URL to this database."
        )
    return written.database_url


def read_stack_file(home: Path) -> RunningStack | None:
    """Read what the last stack of a folder said of itself; ``None`` if it is not there."""
    try:
        document: dict[str, Any] = json.loads((home / STACK_FILE).read_text(encoding="utf-8"))
        return RunningStack(
            int(document["pid"]), str(document["database_url"]), str(document["broker_url"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holder(home: Path) -> int | None:
    from prometheus.cli.stack import holder

    with contextlib.suppress(OSError):
        # A folder of somebody else's can not be asked.
        return holder(home)
    return None


@contextmanager
def opened(place: Place, *, checked: bool = True) -> Iterator[Engine]:
    """
    Connect to an installation's database, and go by the overrides that it keeps.

    Args:
        checked: Refuse a database whose tables are not those of this release.

    Raises:
        DatabaseUrlError: The URL can not be used.
        DatabaseError: The database does not answer, or refuses us.
        DatabaseRevisionError: Its tables are those of another release.
    """
    from sqlalchemy.exc import DBAPIError

    from prometheus.persistence import migrate
    from prometheus.persistence.clock import read_now
    from prometheus.persistence.engine import check_exists, create_engine, reading, what_ails
    from prometheus.persistence.overrides import refresh

    engine = create_engine(place.url)
    try:
        check_exists(engine)
        try:
            if checked:
                migrate.check(engine)
                with reading(engine) as connection:
                    refresh(connection, read_now(connection))
            yield engine
        except DBAPIError as error:
            raise DatabaseError(f"The database {place.shown_url} {what_ails(error)}") from None
    finally:
        engine.dispose()
