"""The time in which a job may start: it follows the run's own session."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prometheus.core.market_state import MarketState
from prometheus.core.trading_calendar import Phases
from prometheus.orchestration.dag import JobMetadata, WindowRule

if TYPE_CHECKING:
    from prometheus.orchestration.pipeline import JobDefinition

UNKNOWN_NEXT_SESSION = timedelta(hours=24)
"""How long a window stays open when the calendar does not know the next session."""


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open interval of market time in which a job may start."""

    opens_at: datetime
    closes_at: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.opens_at <= instant < self.closes_at


@dataclass(frozen=True, slots=True)
class SessionBounds:
    """What the windows of one session's jobs are made of."""

    phases: Phases
    next_phases: Phases | None
    """Of the market's next session; ``None`` where the calendar does not know it."""
    overnight_ends_at: datetime | None = None
    """End of the OVERNIGHT after it: PRE_OPEN, or the first midnight of a day without session."""

    def window(self, job: JobMetadata | JobDefinition) -> Window:
        """
        Return the window of a job of this session's run.

        An empty window (``opens_at >= closes_at``) means that the phase does not occur on this
        session, or is over when the job may start; the job then expires.
        """
        state = job.required_state
        opens_at = _opening(self.phases, job) if job.start else _phase_start(self.phases, state)
        if job.window is WindowRule.STATE and state is not None:
            return Window(opens_at, self._phase_end(state))
        if self.next_phases is None:
            return Window(opens_at, opens_at + UNKNOWN_NEXT_SESSION)
        next_pre_open = self.next_phases.pre_open_at
        if next_pre_open <= self.phases.close_at:
            # Sessions follow each other without a gap: the same phase of the next one ends it.
            return Window(opens_at, _opening(self.next_phases, job))
        return Window(opens_at, next_pre_open)

    def gives_up_at(self, job: JobMetadata) -> datetime | None:
        """Return when a sensor of this session's run gives up; ``None`` for any other job."""
        if job.sensor is None:
            return None
        return job.sensor.gives_up_at(self.phases, self.window(job).opens_at)

    def _phase_end(self, state: MarketState) -> datetime:
        following = self.next_phases.pre_open_at if self.next_phases else None
        match state:
            case MarketState.PRE_OPEN:
                return self.phases.open_at
            case MarketState.SESSION:
                return self.phases.close_at
            case MarketState.POST_CLOSE:
                end = self.phases.post_close_ends_at
                return min(end, following) if following else end
            case _:
                unknown = self.phases.post_close_ends_at + UNKNOWN_NEXT_SESSION
                return self.overnight_ends_at or following or unknown


def run_opens_at(phases: Phases, jobs: Iterable[JobMetadata | JobDefinition]) -> datetime:
    """Return when a session's run of these jobs opens: at PRE_OPEN, or with its first job."""
    starts = [_opening(phases, job) for job in jobs if job.start is not None]
    return min(phases.pre_open_at, *starts) if starts else phases.pre_open_at


def _opening(phases: Phases, job: JobMetadata | JobDefinition) -> datetime:
    begins_at = _phase_start(phases, job.required_state)
    if job.start is None:
        return begins_at
    # Nothing holds one without a phase: it may start before PRE_OPEN.
    starts_at = job.start.of(phases)
    return starts_at if job.required_state is None else max(starts_at, begins_at)


def _phase_start(phases: Phases, state: MarketState | None) -> datetime:
    match state:
        case None | MarketState.PRE_OPEN:
            return phases.pre_open_at
        case MarketState.SESSION:
            return phases.open_at
        case MarketState.POST_CLOSE:
            return phases.close_at
        case MarketState.OVERNIGHT:
            return phases.post_close_ends_at
        case MarketState.HOLIDAY:
            raise ValueError("HOLIDAY has no session; a pipeline that asks for it is refused")
