"""What every page says of the moment that it shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from prometheus.dispatch.crew import judge_leader
from prometheus.monitoring.installation import Installation, Look
from prometheus.orchestration.pauses import Pause


@dataclass(frozen=True, slots=True)
class Standing:
    """When a page was true, and whether anything still moves what it shows."""

    market_at: datetime
    replay: bool
    speed: float
    """Market seconds in a second of wall time; 0 when market time only leaps."""
    scheduled: bool
    """Whether a scheduler leads and completes its ticks."""
    scheduler: str
    """How that shows."""
    pauses: tuple[Pause, ...]
    """What operators keep from starting."""


def standing_of(look: Look, here: Installation) -> Standing:
    """Say it of a look."""
    scheduled, scheduler = judge_leader(look.leader, here.settings.scheduler.lease)
    clock = look.now.clock
    return Standing(
        market_at=look.now.market_at,
        replay=not clock.is_live,
        speed=clock.speed,
        scheduled=scheduled,
        scheduler=scheduler,
        pauses=look.pauses,
    )
