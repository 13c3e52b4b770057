"""``prometheus backfill``: the runs of a range of sessions, made or run again."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from prometheus.cli.options import Actor, AsJson, Folder, Market, Reason, read_date
from prometheus.masking import safe_text
from prometheus.orchestration.backfill import MOST_ACTIVE_RUNS, Reprocess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus.orchestration.backfill import BackfillSession
    from prometheus.persistence.backfills import Backfill

application = typer.Typer(
    no_args_is_help=True, help="Make the runs of a range of sessions, or run them again."
)

_Number: TypeAlias = Annotated[
    int,
    typer.Argument(
        metavar="BACKFILL", min=1, max=2**31 - 1, help="Its number.", show_default=False
    ),
]


@application.command("start")
def start(
    market: Market,
    first: Annotated[
        date,
        typer.Option(
            "--from", parser=read_date, metavar="DATE", help="First date.", show_default=False
        ),
    ],
    last: Annotated[
        date,
        typer.Option(
            "--to", parser=read_date, metavar="DATE", help="Last date, included.",
            show_default=False,
        ),
    ],
    reason: Reason,
    pipeline: Annotated[str, typer.Option(help="The pipeline.")] = "daily",
    reprocess: Annotated[
        Reprocess,
        typer.Option(help="Which runs that are there already are run again, every job of them."),
    ] = Reprocess.NONE,
    max_active_runs: Annotated[
        int,
        typer.Option(
            min=1, max=MOST_ACTIVE_RUNS, help="How many of its runs may be open at a time."
        ),
    ] = 1,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start it without asking.")] = False,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """
    Run a pipeline for a range of sessions: shows first what that does, and asks.

    The scheduler makes the runs, the oldest first, and so many at a time. Windows do not count.
    Their jobs wait at the broker until there are no others. With --json and without --yes nothing
    is started, only shown.
    """
    from prometheus.cli import output
    from prometheus.cli.operate import actor_name
    from prometheus.cli.places import find_place, opened
    from prometheus.configured import runnable_pipeline
    from prometheus.core.markets import get_market
    from prometheus.dispatch.crew import read_crew
    from prometheus.persistence import backfills
    from prometheus.persistence.clock import read_now
    from prometheus.persistence.engine import reading, writing
    from prometheus.persistence.operators import OperatorError
    from prometheus.persistence.overrides import refresh

    place = find_place(folder)
    with opened(place) as engine:
        market_id = get_market(market).market_id
        found = runnable_pipeline(place.settings, pipeline, market_id)
        with reading(engine) as connection:
            planned = backfills.plan(connection, found, market_id, first, last, reprocess=reprocess)
        if not as_json:
            _show_plan(planned)
        number: int | None = None
        if not (yes or as_json) and (why := backfills.nothing_to_do(planned, reprocess)):
            raise OperatorError(why)
        if yes or (not as_json and typer.confirm("Start it?")):
            with writing(engine) as connection:
                refresh(connection, read_now(connection))  # overrides that came meanwhile
                number, planned = backfills.start_backfill(
                    connection,
                    found,
                    market_id,
                    first,
                    last,
                    reprocess=reprocess,
                    max_active_runs=max_active_runs,
                    reason=reason,
                    actor=actor_name(actor),
                    seen=None if yes else backfills.digest(planned),
                )
                crew = read_crew(connection)
    if as_json:
        document: dict[str, Any] = {
            "backfill": number,
            "counts": backfills.count_effects(planned),
            "sessions": [asdict(each) for each in planned],
        }
        output.print_json(document)
    elif number is None:
        print("Nothing was started.")
        raise typer.Exit(1)
    else:
        print(f"Started as backfill {number}. How far it is: prometheus backfill show {number}")
        if not crew.scheduled:
            print("No scheduler is running on this database: it begins when one does.")


@application.command("list")
def show_all(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that ended.")] = False,
    market: Annotated[
        str | None, typer.Option("--market", metavar="MARKET", help="Only those of it.")
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", metavar="NAME", help="Only those of it.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")
    ] = 50,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """List backfills, the latest first."""
    from prometheus.cli import output
    from prometheus.cli.listed import check_names
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.backfills import list_backfills
    from prometheus.persistence.engine import reading

    place = find_place(folder)
    with opened(place) as engine, reading(engine) as connection:
        found = list_backfills(
            connection,
            is_open=None if everything else True,
            market_id=market,
            pipeline=pipeline,
            limit=limit,
        )
        if not found:
            check_names(connection, place, market, pipeline)
    if as_json:
        output.print_json([_document(each) for each in found])
        return
    if not found:
        such = "" if market is None and pipeline is None else "such "
        print(f"There are no {such}backfills." if everything else f"No {such}backfill is open.")
        return
    table = output.table("BACKFILL", "OF", "SESSIONS", "STATE", "BY", "WHY", right=("BACKFILL",))
    for each in found:
        table.add_row(
            str(each.backfill_id),
            f"{each.pipeline} in {each.market_id}",
            f"{each.first} to {each.last}",
            _state(each),
            each.author,
            output.shortened(safe_text(each.reason)),
        )
    output.console().print(table)


@application.command("show")
def show(backfill: _Number, folder: Folder = None, as_json: AsJson = False) -> None:
    """Tell how far a backfill is, and what became of each of its sessions."""
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.backfills import read_backfill
    from prometheus.persistence.engine import reading

    with opened(find_place(folder)) as engine, reading(engine) as connection:
        found, rows = read_backfill(connection, backfill)
    if as_json:
        keys = ("as_of_date", "dag_id", "again", "begun_at", "status", "refused")
        sessions = [{key: getattr(row, key) for key in keys} for row in rows]
        for each in sessions:
            each["session_date"] = each.pop("as_of_date")
        output.print_json({"backfill": _document(found), "sessions": sessions})
        return
    print(
        f"Backfill {backfill} of {found.pipeline} in {found.market_id}, {found.first} to "
        f"{found.last}, by {found.author}: {safe_text(found.reason)}. {_state(found)}."
    )
    table = output.table("RUN", "WHAT", "STATE")
    for row in rows:
        waits = "waits" if found.ended_at is None else "was not begun"
        state = row.refused or row.status or (waits if row.begun_at is None else "removed")
        table.add_row(row.dag_id, "run again" if row.again else "new", output.shortened(state))
    output.console().print(table)


@application.command("stop")
def stop(
    backfill: _Number,
    reason: Reason,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Let a backfill make no further run; those that are open go on."""
    from prometheus.cli import output
    from prometheus.cli.operate import actor_name
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.backfills import stop_backfill
    from prometheus.persistence.engine import writing

    with opened(find_place(folder)) as engine, writing(engine) as connection:
        found = stop_backfill(connection, backfill, reason=reason, actor=actor_name(actor))
    if as_json:
        output.print_json(_document(found))
        return
    print(f"Backfill {backfill} makes no further run; {found.waiting} were left.")
    if found.active:
        print(f"{found.active} of its runs are open and go on: prometheus cancel ends one.")


def _show_plan(planned: Sequence[BackfillSession]) -> None:
    from prometheus.cli import output
    from prometheus.persistence.backfills import count_effects

    table = output.table("RUN", "WHAT", "WHY")
    for each in planned:
        table.add_row(each.dag_id, each.effect, each.why)
    output.console().print(table)
    counts = count_effects(planned)
    print(", ".join(f"{count} {effect}" for effect, count in counts.items()) + ".")


def _state(backfill: Backfill) -> str:
    told = [
        f"{count} {name}"
        for name, count in (
            ("waiting" if backfill.ended_at is None else "not begun", backfill.waiting),
            ("open", backfill.active),
            ("succeeded", backfill.succeeded),
            ("failed", backfill.failed),
            ("refused", backfill.refused),
            ("removed", backfill.removed),
        )
        if count
    ]
    ended = "" if backfill.ended_at is None else "ended: "
    if backfill.stopped_by is not None:
        ended = f"stopped by {backfill.stopped_by}: "
    return ended + ", ".join(told)


def _document(backfill: Backfill) -> dict[str, Any]:
    document = asdict(backfill)
    names = {"backfill": document.pop("backfill_id"), "market": document.pop("market_id")}
    return {**names, **document}
