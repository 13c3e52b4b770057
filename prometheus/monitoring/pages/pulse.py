"""What has changed, read once a second for all pages that are open, and not while none is."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import StreamingResponse

from prometheus.monitoring.installation import Installation
from prometheus.monitoring.pages.standing import standing_of
from prometheus.persistence.changes import minute_of, read_changes

log = logging.getLogger(__name__)

router = APIRouter(include_in_schema=False)

STANDING = "standing"
"""What every page shows: the moment, who leads, what is paused, and calendars with overrides."""
EVERY_SECONDS = 1.0
_SAY_SOMETHING_SECONDS = 15.0
"""A stream that says nothing for long is ended by whatever stands between."""
_LASTS_SECONDS = 60.0
"""A page asks again for its stream; so it is soon found who may not any more."""
_MOST_WATCHERS = 200


class Pulse:
    """One reader, in a task of its own, and all who wait for what it reads."""

    def __init__(self, read: Callable[[], str]) -> None:
        self.version = "{}"
        """
        What was read last, as JSON: scope -> what is another text when that has changed. Whoever
        looks at the database after that sees at least that.
        """
        self._read = read
        self.watchers = 0
        """How many pages are open."""
        self._reader: asyncio.Task[None] | None = None
        self._next: asyncio.Future[str] | None = None
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether nobody else may watch."""
        return self.watchers >= _MOST_WATCHERS

    def enter(self) -> bool:
        """Take a place to `watch` from, if there is one."""
        if self.watchers >= _MOST_WATCHERS:
            return False
        self.watchers += 1
        return True

    async def watch(self) -> AsyncGenerator[str | None, None]:
        """Yield what was read, each time; ``None`` where nothing could be for a while."""
        if self._reader is None:
            self._next = asyncio.get_running_loop().create_future()
            self._reader = asyncio.create_task(self._go_on())
        try:
            while not self._closed:
                following = self._next
                assert following is not None  # noqa: S101  there is a reader
                await asyncio.wait([following], timeout=_SAY_SOMETHING_SECONDS)
                if not self._closed:
                    yield following.result() if following.done() else None
        finally:
            self.watchers -= 1
            if not self.watchers and self._reader is not None:
                self._reader.cancel()
                self._reader = None

    async def _go_on(self) -> None:
        failed = False
        while True:
            try:
                self.version = await asyncio.to_thread(self._read)
            except Exception as error:  # noqa: BLE001  pages say that what they show is old
                if not failed:
                    log.warning("pulse_failed", extra={"error": str(error)})
                failed = True
            else:
                failed = False
                self._tell()
            await asyncio.sleep(EVERY_SECONDS)

    def _tell(self) -> None:
        told, self._next = self._next, asyncio.get_running_loop().create_future()
        if told is not None and not told.done():
            told.set_result(self.version)

    def close(self) -> None:
        """Let go of everybody, for the server is to end."""
        self._closed = True
        if self.watchers:
            self._tell()


def pulse_of(here: Installation) -> Pulse:
    """Make the pulse of an installation."""

    def read() -> str:
        with here.look() as look:
            standing = standing_of(look, here)
            now = look.now
            moment = (
                standing.scheduled,
                # What markets do changes on whole minutes; in a replay whenever time leaps.
                minute_of(standing.market_at),
                minute_of(now.wall_at),  # further back `read_changes` does not tell everything
                now.latest_override,
                [each.pause_id for each in standing.pauses],
            )
            found = {STANDING: repr(moment), **read_changes(look.connection, now.wall_at)}
        told = {scope: _digest(text) for scope, text in found.items()}
        return json.dumps(told, sort_keys=True)

    return Pulse(read)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _pulse(request: Request) -> Pulse:
    found: Pulse = request.app.state.pulse
    return found


async def _version(request: Request) -> str:
    return _pulse(request).version


Version = Annotated[str, Depends(_version)]
"""What was known to have changed before a page began to read; the page has it, and more."""


@router.get("/events")
async def events(request: Request) -> StreamingResponse:
    """Tell a page once a second what version of everything there is, for as long as it is open."""
    pulse = _pulse(request)
    if pulse.is_full:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "Too many pages are open.")
    return StreamingResponse(
        _lines(pulse),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},  # proxies would keep it until it is longer
    )


async def _lines(pulse: Pulse) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    if not pulse.enter():  # it became full since this was asked
        return
    until = time.monotonic() + _LASTS_SECONDS
    async with contextlib.aclosing(pulse.watch()) as versions:
        async for version in versions:
            yield f"event: seen\ndata: {version}\n\n" if version else ": nothing was read\n\n"
            if time.monotonic() > until:
                return
