"""The watcher: looks every few seconds what is wrong, keeps it as rows, and has it told."""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from prometheus.configuration import SettingsError
from prometheus.errors import nearest
from prometheus.monitoring.alerts.causes import Seen, read_causes
from prometheus.monitoring.alerts.messages import composer
from prometheus.monitoring.alerts.sending import Sender
from prometheus.monitoring.installation import WATCHING, Installation
from prometheus.orchestration.alerts import AlertKind, Cause, Kept, Route, decide, read_route
from prometheus.persistence import alerts, leases
from prometheus.persistence.engine import check_exists, first_line, writing

log = logging.getLogger(__name__)

_LEASE_FOR = timedelta(seconds=30)
_LONGEST_PAUSE = timedelta(minutes=1)
_PING_SECONDS = 10.0


class Watcher:
    """
    Watches an installation, in a thread of its own; of several of them one does.

    Whatever goes wrong is logged, and it goes on. No connection is held while something is sent.
    """

    def __init__(
        self, here: Installation, *, sender: Sender | None = None, every: timedelta | None = None
    ) -> None:
        """
        Args:
            sender: Sends what is due; by default to the channels of the settings.
            every: Pause between two looks; by default that of the settings.

        Raises:
            SettingsError: A route names a pipeline that there is not.
        """
        settings = here.settings
        routes = read_routes(here)
        self._here = here
        # Two may be in one process.
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4()}"
        self._compose = composer(routes, settings.web.url)
        self._sender = sender or Sender(here.engine, settings.channels)
        self._every = every or settings.alerts.look_every
        self._looked_at: datetime | None = None
        self._first_seen: dict[str, datetime] = {}
        """Causes of which nobody is told yet: key -> wall time of the look that found it."""
        self._faults: frozenset[str] = frozenset()
        """Kinds whose faults were logged at the last look."""
        self._pinged_at: datetime | None = None
        self._pinging: threading.Thread | None = None
        self._leads = False
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    # --- its thread -----------------------------------------------------------------------------

    def start(self) -> None:
        """Watch from now on."""
        self._thread = threading.Thread(target=self._go_on, name="alerts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, and let another process watch at once; not waiting for what is being sent."""
        self._ends.set()
        if self._thread is not None:
            self._thread.join(2)
        if self._leads and not (self._thread and self._thread.is_alive()):
            try:
                with writing(self._here.engine) as connection:
                    leases.resign(connection, WATCHING, self._owner)
            except Exception as error:  # noqa: BLE001  then another one waits for its lease to end
                log.info("alerts_not_handed_over", extra={"error": str(error)})

    def _go_on(self) -> None:
        pause, failed = self._every, False
        while not self._ends.is_set():
            try:
                self.look()
            except Exception as error:  # the web app goes on without
                if not failed:
                    log.warning("alerts_not_watched", extra={"error": first_line(error)})
                log.debug("alerts_not_watched", exc_info=True)
                failed, pause = True, min(2 * pause, _LONGEST_PAUSE)
            else:
                if failed:
                    log.warning("alerts_watched_again")
                failed, pause = False, self._every
            self._ends.wait(pause.total_seconds())

    # --- one look -------------------------------------------------------------------------------

    def look(self, at: datetime | None = None) -> bool:
        """
        Look what is wrong, write it down, and begin to send what is due.

        Args:
            at: Wall and market time; the database's own if not given.

        Returns:
            Whether this one watches: otherwise another does, or there is nothing to watch.
        """
        check_exists(self._here.engine)
        looked_at = self._looked_at
        with writing(self._here.engine) as connection:
            before: dict[str, Any] | None = leases.leader(connection, WATCHING)
            found = before["ticked_at"] if before is not None else None
            self._here.first_looked_at(found)
            leadership = self._lead(connection, looked_at)
            changed = leadership.leads != self._leads
            if changed:
                # Whoever watched before has told all until then. Noted again at once, for whoever
                # comes next may do so before this look is through.
                looked_at = found
                leadership = self._lead(connection, looked_at)
        if changed:
            self._leads, self._looked_at = leadership.leads, looked_at
            self._first_seen.clear()
        if not self._leads:
            return False
        with self._here.look() as look:
            if not look.now.clock.is_live:
                return False  # nothing of a replay is late or missed for anybody
            if at is not None:
                look = replace(look, now=replace(look.now, wall_at=at, market_at=at))
            now = look.now.wall_at
            quiet = self._here.settings.alerts.quiet
            kept = alerts.read_kept(look.connection, now, quiet)
            seen = read_causes(look, self._here, kept, self._looked_at)
        self._say(seen)
        causes = self._settled(seen.causes, kept, now)
        changes = decide(causes, kept, now, quiet, unseen=seen.unseen, forgotten=seen.forgotten)
        if changes:
            with writing(self._here.engine) as connection:
                epoch = leadership.epoch
                if not leases.keep_lead(connection, WATCHING, self._owner, epoch, lease=_LEASE_FOR):
                    return False  # it took too long, and another may have written the same
                alerts.apply_changes(connection, changes, now, self._compose)
        self._looked_at = now
        self._sender.begin(at)
        # One market whose calendar can not be read is told as such: the ping is of the scheduler.
        unknown = (AlertKind.SCHEDULER_SILENT, None) in seen.unseen
        if not unknown and all(each.kind is not AlertKind.SCHEDULER_SILENT for each in seen.causes):
            self._ping(now)
        return True

    def _lead(self, connection: Connection, looked_at: datetime | None) -> leases.Leadership:
        return leases.lead(connection, WATCHING, self._owner, lease=_LEASE_FOR, ticked_at=looked_at)

    def wait_for_sending(self, timeout: float = 60) -> None:
        """Wait until nothing is being sent."""
        self._sender.wait(timeout)
        if self._pinging is not None:
            self._pinging.join(timeout)

    def _say(self, seen: Seen) -> None:
        """Log what nobody foresaw, once for as long as it goes on."""
        for kinds in seen.faults.keys() - self._faults:
            facts = {"kinds": kinds}
            log.error("alerts_not_seen", extra=facts, exc_info=seen.faults[kinds])
        self._faults = frozenset(seen.faults)

    def _settled(self, causes: Iterable[Cause], kept: Iterable[Kept], now: datetime) -> list[Cause]:
        """Leave out what may pass by itself, and has not been seen for long enough."""
        open_ones = {each.key for each in kept if each.is_open}
        before, self._first_seen = self._first_seen, {}
        settled = []
        for cause in causes:
            first = self._first_seen[cause.key] = before.get(cause.key, now)
            if cause.key in open_ones or now - first >= cause.after:
                settled.append(cause)
        return settled

    # --- the dead-man's ping --------------------------------------------------------------------

    def _ping(self, now: datetime) -> None:
        """Say elsewhere that a scheduler is at work: where that is not heard, somebody is told."""
        settings = self._here.settings.alerts
        url = settings.ping_url.get_secret_value()
        if not url or (self._pinged_at and now - self._pinged_at < settings.ping_every):
            return
        if self._pinging is not None and self._pinging.is_alive():
            return
        self._pinged_at = now
        self._pinging = threading.Thread(target=_get, args=(url,), name="ping", daemon=True)
        self._pinging.start()


def _get(url: str) -> None:
    import httpx  # of 5 MB, with its own command line

    try:
        httpx.get(url, timeout=_PING_SECONDS).raise_for_status()
    except httpx.HTTPStatusError as error:
        log.warning("ping_failed", extra={"error": f"status {error.response.status_code}"})
    except Exception as error:  # noqa: BLE001  its words may have the URL in them
        log.warning("ping_failed", extra={"error": type(error).__name__})


def read_routes(here: Installation) -> dict[str, Route]:
    """
    Return which alerts each channel gets.

    Raises:
        SettingsError: One names a pipeline that there is not. Where a pipeline has faults, and so
            is not known, any name will do.
    """
    settings = here.settings
    given = {name: read_route(text) for name, text in settings.routes.items()}
    pipelines, broken = here.pipelines
    faults = [
        f"{settings.origin(f'routes.{name}')}: there is no pipeline {each!r}."
        f"{nearest(each, pipelines)}"
        for name, route in given.items()
        for each in sorted(route.pipelines - pipelines.keys())
    ]
    if faults and not broken:
        raise SettingsError(faults)
    return {name: given.get(name, Route()) for name in settings.channels}
