"""Whether a leader may have anything to do, in one statement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from prometheus.persistence.clock import READ_NOW, Now, now_of
from prometheus.persistence.executions import NEWS
from prometheus.persistence.leases import LAPSED, ORPHANS, any_given_up

_GLANCE = READ_NOW.add_columns(
    *NEWS.selected_columns,
    LAPSED.exists().label("lapsed"),
    ORPHANS.exists().label("orphaned"),
    any_given_up.label("given_up"),
)


@dataclass(frozen=True, slots=True)
class Glance:
    """What is seen of everything that a tick looks after, but for the open runs themselves."""

    now: Now
    due: datetime | None
    """The first wall time from then on at which an execution without a message is due."""
    quiet: bool
    """Whether nothing has changed, is late or lost, and nobody has been given up lately."""


def glance(
    connection: Connection,
    at: datetime,
    *,
    due_by: datetime,
    over_limit_since: datetime,
    given_up_since: datetime,
) -> Glance:
    """
    Say whether there may be anything to do.

    Args:
        at: Wall time, of a moment ago.
        due_by: As `executions.unpublished` takes it.
        over_limit_since: An execution whose hard limit was earlier is given up.
        given_up_since: Whoever was given up later is named in the mark.
    """
    asked = {"now": at, "due_by": due_by, "limit": over_limit_since, "since": given_up_since}
    row = connection.execute(_GLANCE, asked).one()
    now = now_of(row)
    busy = (
        now.standing_pauses
        or now.open_backfills
        or row.late
        or row.unsent
        or row.noted
        or row.lapsed
        or row.orphaned
        or row.given_up
    )
    return Glance(now, row.due, not busy)
