"""``prometheus prune``: old runs, alerts, backfills and keys of requests go."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from prometheus.cli.options import Actor, AsJson, Folder, MaybeReason, read_duration

if TYPE_CHECKING:
    from prometheus.persistence.pruning import Removed


def prune(
    older_than: Annotated[
        timedelta,
        typer.Option(
            "--older-than",
            parser=read_duration,
            metavar="DURATION",
            help="What ended before, and runs of a session before: 400d; at least 30d.",
            show_default=False,
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    reason: MaybeReason = None,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Remove finished runs that are old, with all their attempts, and old alerts, backfills, keys of
    requests and records of workers that have ended; the audit of operators stays.

    Schedulers and workers may go on meanwhile. No open run is touched, and no session whose run is
    removed is run again by itself.
    """
    from sqlalchemy.exc import IntegrityError

    from prometheus.cli import output
    from prometheus.cli.operate import actor_name
    from prometheus.cli.places import find_place, opened
    from prometheus.errors import DatabaseError
    from prometheus.persistence import pruning
    from prometheus.persistence.engine import first_line, reading

    place = find_place(folder)
    with opened(place) as engine:
        with reading(engine) as connection:
            cutoff = pruning.find_cutoff(connection, older_than)
        removed = pruning.Removed(0, 0)
        if dry_run:
            removed = pruning.count_old(engine, cutoff)
        else:
            try:
                going = pruning.prune(engine, cutoff, actor=actor_name(actor), reason=reason)
                for each in going:
                    removed += each
            except IntegrityError as error:
                runs = [output.count(removed.runs, "run")] if removed.runs else []
                gone = ", ".join(_others(removed) + runs) or "nothing"
                raise DatabaseError(
                    f"A row of another table refers to what was to be removed: "
                    f"{first_line(error)}. Remove that first, or let its foreign key say ON DELETE "
                    f"CASCADE. Removed before: {gone}."
                ) from None
    if as_json:
        output.print_json(
            {
                "database": place.shown_url,
                "dry_run": dry_run,
                "sessions_before": cutoff.session,
                **removed.document(),
            }
        )
        return
    what = f"{output.count(removed.runs, 'run')} with {output.count(removed.executions, 'attempt')}"
    verb = "would be removed" if dry_run else "removed"
    span = f", sessions {removed.first_session} to {removed.last_session}" if removed.runs else ""
    print(f"{place.shown_url}: {what} {verb}{span}.")
    if others := _others(removed):
        print(f"Besides: {', '.join(others)}.")


def _others(removed: Removed) -> list[str]:
    """Write how much went besides runs, of what did."""
    others = (
        (removed.request_keys, "key of a request", "keys of requests"),
        (removed.alerts, "alert", "alerts"),
        (removed.backfills, "backfill", "backfills"),
        (removed.workers, "record of a worker", "records of workers"),
    )
    return [f"{count} {one if count == 1 else many}" for count, one, many in others if count]
