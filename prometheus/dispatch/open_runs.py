"""What the leader knows of the open runs from one tick to the next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from prometheus.core.overrides import Overrides, in_force
from prometheus.orchestration.dag import DAG
from prometheus.orchestration.decisions import RunState
from prometheus.orchestration.lifecycle import LIVE, RunStatus
from prometheus.orchestration.pauses import Pause
from prometheus.persistence import runs
from prometheus.persistence.clock import Now

READ_AT_ONCE = 500
"""Runs that one statement names."""
READ_ALL_EVERY = timedelta(seconds=60)
"""How often all are read anew, so that nothing that was not noticed stays so. Wall time."""


@dataclass(slots=True, kw_only=True)
class Sums:
    """What is so of one open run, or of all together."""

    live: bool
    """Whether anything is queued or running."""
    restless: bool = True
    """Whether it is looked at in the next tick, whatever happens until then."""
    next_at: datetime | None = None
    """Market time at which time alone next changes a decision."""
    next_wall_at: datetime | None = None
    """Wall time at which it does."""

    def is_due(self, now: Now) -> bool:
        """Say whether a decision may be another than at the last look, by what is known of it."""
        return (
            self.restless
            or (self.next_at is not None and now.market_at >= self.next_at)
            or (self.next_wall_at is not None and now.wall_at >= self.next_wall_at)
        )


@dataclass(slots=True, kw_only=True)
class _Kept(Sums):
    """One open run."""

    state: RunState
    follows: str | None
    """The run of the session before, which a job of it may have to wait for."""


class OpenRuns:
    """
    The open runs of some markets, read once, and again when they have changed.

    What has changed is told by `prometheus.persistence.run_changes`, which whoever leads takes. So
    this holds only while nobody else has led.
    """

    def __init__(self, markets: Collection[str], previous_run: Callable[[DAG], str | None]) -> None:
        """
        Args:
            markets: Those whose runs are kept.
            previous_run: As `runs.read_open_runs` wants it.
        """
        self._markets = markets
        self._previous_run = previous_run
        self._kept: dict[str, _Kept] = {}
        self._epoch: int | None = None
        self._changed: set[str] = set()
        self._read_all_at: datetime | None = None
        self._in_force: Overrides | None = None
        self._paused: tuple[Pause, ...] = ()
        self._looked_at: tuple[datetime, datetime] | None = None
        self._sums: Sums | None = None

    def forget(self) -> None:
        """Read all anew the next time."""
        self._epoch = None

    def note(self, changed: Iterable[str]) -> None:
        """Read these the next time, and those that may wait for one of them."""
        self._changed |= {*changed}

    def read(self, connection: Connection, now: Now, epoch: int | None) -> None:
        """
        Read what has changed.

        Args:
            connection: Of a transaction that began after the changes were taken.
            epoch: In which this process leads; ``None``: it does not, and reads all of them.
        """
        if self._has_to_read_all(now, epoch):
            found = runs.read_open_runs(connection, self._previous_run)
            self._kept = {}
            self._sums = None
            self._in_force = in_force()
            self._read_all_at = now.wall_at + READ_ALL_EVERY
        else:
            changed = self._changed
            follow = {name for name, kept in self._kept.items() if kept.follows in changed}
            names = sorted(changed | follow)
            found = tuple(self._read_some(connection, names))
            for name in names:
                self._kept.pop(name, None)
        for state in found:
            if state.status is RunStatus.OPEN and state.dag.market_id in self._markets:
                self._kept[state.dag.dag_id] = self._keep(state)
        if found or self._changed:
            self._sums = None
        self._epoch = epoch
        self._changed.clear()

    def is_read(self, now: Now, epoch: int | None) -> bool:
        """Say whether `read` has nothing to read, if nothing was noted that nobody has taken."""
        return not self._changed and not self._has_to_read_all(now, epoch)

    def _has_to_read_all(self, now: Now, epoch: int | None) -> bool:
        at = self._read_all_at
        return (
            epoch is None
            or epoch != self._epoch
            or in_force() is not self._in_force
            or at is None
            or not at - READ_ALL_EVERY <= now.wall_at < at
        )

    def _read_some(self, connection: Connection, names: list[str]) -> Iterator[RunState]:
        for begin in range(0, len(names), READ_AT_ONCE):
            some = names[begin : begin + READ_AT_ONCE]
            yield from runs.read_runs(connection, some, self._previous_run)

    def _keep(self, state: RunState) -> _Kept:
        return _Kept(
            state=state,
            follows=self._previous_run(state.dag) if state.dag.after_previous else None,
            live=any(job.status in LIVE for job in state.jobs.values()),
        )

    def take_due(self, now: Now, paused: tuple[Pause, ...]) -> list[RunState]:
        """
        Return the runs of which a decision may be another than at the last look.

        They stay due until they are `settle`d.
        """
        looked_at = self._looked_at
        everything = (
            paused != self._paused
            or looked_at is None
            or now.market_at < looked_at[0]
            or now.wall_at < looked_at[1]
        )
        self._looked_at = now.market_at, now.wall_at
        self._paused = paused
        if not everything and not self.sums().is_due(now):
            return []
        self._sums = None
        due = []
        for kept in self._kept.values():
            if everything or kept.is_due(now):
                kept.restless, kept.next_at, kept.next_wall_at = True, None, None
                due.append(kept.state)
        return due

    def settle(
        self,
        dag_id: str,
        *,
        restless: bool,
        next_at: datetime | None,
        next_wall_at: datetime | None,
    ) -> None:
        """
        Note what was found about a run that was due.

        Args:
            restless: Whether there was anything to do about it: it is due until there is not.
            next_at: Market time at which it is due by itself.
            next_wall_at: Wall time at which it is.
        """
        kept = self._kept[dag_id]
        kept.restless, kept.next_at, kept.next_wall_at = restless, next_at, next_wall_at
        self._sums = None

    def sums(self) -> Sums:
        """Say what is so of all of them together."""
        if self._sums is None:
            kept = self._kept.values()
            self._sums = Sums(
                restless=any(each.restless for each in kept),
                live=any(each.live for each in kept),
                next_at=min((each.next_at for each in kept if each.next_at), default=None),
                next_wall_at=min(
                    (each.next_wall_at for each in kept if each.next_wall_at), default=None
                ),
            )
        return self._sums
