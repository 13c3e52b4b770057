"""What the web app is about: one installation, and looks at its database and changes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Connection

from prometheus.configured import sound_pipelines
from prometheus.dispatch.crew import Crew, Leader, crew_of, leader_of
from prometheus.dispatch.names import LEADERSHIP
from prometheus.masking import safe_url
from prometheus.orchestration.pauses import Pause
from prometheus.persistence import migrate
from prometheus.persistence.clock import Now
from prometheus.persistence.engine import check_exists, create_engine, reading, writing
from prometheus.persistence.leases import workers_and_standbys
from prometheus.persistence.looks import read_look
from prometheus.persistence.overrides import refresh
from prometheus.settings import Settings

WATCHING = "alerts"
"""The lease of the web process that looks for what is wrong."""


@dataclass(frozen=True, slots=True)
class Look:
    """One state of the database, which nobody else changes while it is looked at."""

    connection: Connection
    now: Now
    leader: Leader | None
    """The scheduler that leads, or the last one that did."""
    pauses: tuple[Pause, ...]
    """What operators keep from starting."""
    open_alerts: int

    def crew(self) -> Crew:
        """Read who is at work."""
        workers, standing_by = workers_and_standbys(self.connection)
        return crew_of(self.now.wall_at, self.leader, workers, standing_by, self.pauses)


class Installation:
    """An installation by its settings; nothing is connected until somebody looks."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        url = settings.database.url.get_secret_value()
        self.engine = create_engine(url, keeps_plans=False)  # lists are asked for by any value
        self.shown_url = safe_url(settings.database.url)
        self.pipelines = sound_pipelines(settings)
        """Those without faults, and the faults of the others."""
        self._following = threading.Lock()
        self._followed_at = datetime.min.replace(tzinfo=UTC)
        """Wall time of the look whose overrides this process goes by."""
        self._beginning = threading.Lock()
        self._looked_at: tuple[datetime | None] | None = None
        """See `first_looked_at`; ``None`` until somebody has asked."""

    @contextmanager
    def look(self) -> Iterator[Look]:
        """
        Look at the database, and let calendars go by the overrides that it has.

        Raises:
            DatabaseError: There is none.
        """
        with self.reading() as connection:
            yield self._look(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """
        Read one state of the database; who asks what time it is together with the rest calls
        `follow` then.

        Raises:
            DatabaseError: There is none.
        """
        check_exists(self.engine)
        with reading(self.engine) as connection:
            yield connection

    @contextmanager
    def act(self) -> Iterator[Look]:
        """
        Look at the database, and change it; all of it or, when something raises, nothing.

        Raises:
            DatabaseError: There is none.
            DatabaseRevisionError: Its tables are those of another release.
        """
        check_exists(self.engine)
        migrate.check(self.engine)
        with writing(self.engine) as connection:
            yield self._look(connection)

    def _look(self, connection: Connection) -> Look:
        now, lease, pauses, open_alerts = read_look(connection, LEADERSHIP)
        self.follow(connection, now)
        leader = leader_of(lease, now.wall_at) if lease is not None else None
        return Look(connection, now, leader, pauses, open_alerts)

    def follow(self, connection: Connection, now: Now) -> None:
        """Let calendars go by the overrides that the database has."""
        with self._following:
            # A look that began earlier does not undo what a later one has seen.
            if now.wall_at >= self._followed_at and refresh(connection, now):
                self._followed_at = now.wall_at

    def first_looked_at(self, found: datetime | None) -> datetime | None:
        """
        Return when, in wall time, a look at what is wrong was completed before this process looked.

        Args:
            found: When one was completed last, as whoever asks has read it, and not written yet;
                ``None``: never. What the first one says is kept.
        """
        with self._beginning:
            if self._looked_at is None:
                self._looked_at = (found,)
            return self._looked_at[0]

    def markets(self, now: Now) -> list[str]:
        """Name the markets that are served; in a replay, of those only its own."""
        listed = now.markets or self.settings.markets.enabled
        return [name for name in self.settings.markets.enabled if name in listed]

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


async def _of_app(request: Request) -> Installation:
    found: Installation = request.app.state.installation
    return found


Here = Annotated[Installation, Depends(_of_app)]
"""The installation, as an argument of whatever answers a request."""
