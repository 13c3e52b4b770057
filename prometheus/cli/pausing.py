"""``prometheus pause``, ``resume``, ``hold`` and ``release``: what operators keep from starting."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from prometheus.cli.options import (
    Actor,
    AsJson,
    Folder,
    MaybeReason,
    Reason,
    RunId,
    TheJob,
    read_duration,
    read_instant,
)
from prometheus.masking import safe_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection

_Market: TypeAlias = Annotated[
    str | None, typer.Option("--market", help="Of this market.", show_default=False)
]
_Pipeline: TypeAlias = Annotated[
    str | None, typer.Option("--pipeline", help="Of this pipeline.", show_default=False)
]
_Until: TypeAlias = Annotated[
    datetime | None,
    typer.Option(
        "--until",
        parser=read_instant,
        metavar="INSTANT",
        help="When it ends by itself, such as 2012-11-23T17:30Z. Default: when you end it.",
        show_default=False,
    ),
]
_For: TypeAlias = Annotated[
    timedelta | None,
    typer.Option(
        "--for",
        parser=read_duration,
        metavar="DURATION",
        help="For how long, such as 2h, instead of --until.",
        show_default=False,
    ),
]


def pause(
    reason: Reason,
    market: _Market = None,
    pipeline: _Pipeline = None,
    until: _Until = None,
    lasting: _For = None,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Let no job of a market, of a pipeline, or of a pipeline in a market, start.

    What runs goes on. Runs are made, windows pass and time-outs run as ever: a job whose own is
    over meanwhile is EXPIRED. What else waits starts when the pause ends.
    """
    from prometheus.cli.operate import actor_name
    from prometheus.persistence import pauses

    target = _target(market, pipeline)
    _start(
        lambda connection, end: pauses.pause(
            connection, **target, reason=reason, until=end, actor=actor_name(actor)
        ),
        until,
        lasting,
        folder,
        as_json,
    )


def resume(
    market: _Market = None,
    pipeline: _Pipeline = None,
    reason: MaybeReason = None,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """End the pause of a market, of a pipeline, or of a pipeline in a market."""
    from prometheus.cli.operate import actor_name
    from prometheus.persistence import pauses

    target = _target(market, pipeline)
    _end(
        lambda connection: pauses.resume(
            connection, **target, actor=actor_name(actor), reason=reason
        ),
        folder,
        as_json,
    )


def hold(
    dag_id: RunId,
    job: TheJob,
    reason: Reason,
    until: _Until = None,
    lasting: _For = None,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Keep one job of a run from starting, and so what depends on it.

    Its window passes as ever: if it closes meanwhile, the job is EXPIRED.
    """
    from prometheus.cli.operate import actor_name
    from prometheus.persistence import pauses

    _start(
        lambda connection, end: pauses.hold(
            connection, dag_id, job, reason=reason, until=end, actor=actor_name(actor)
        ),
        until,
        lasting,
        folder,
        as_json,
    )


def release(
    dag_id: RunId,
    job: TheJob,
    reason: MaybeReason = None,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Let a job that is held start when its time comes."""
    from prometheus.cli.operate import actor_name
    from prometheus.persistence import pauses

    _end(
        lambda connection: pauses.release(
            connection, dag_id, job, actor=actor_name(actor), reason=reason
        ),
        folder,
        as_json,
    )


def _target(market: str | None, pipeline: str | None) -> dict[str, str | None]:
    from prometheus.cli.recorded import know_markets
    from prometheus.core.markets import get_market

    if market is None and pipeline is None:
        raise typer.BadParameter("name a --market, a --pipeline, or both")
    know_markets()
    return {"market_id": market and get_market(market).market_id, "pipeline": pipeline}


def _start(
    write: Callable[[Connection, datetime | None], int],
    until: datetime | None,
    lasting: timedelta | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.engine import writing
    from prometheus.persistence.leases import wall_time
    from prometheus.persistence.pauses import read_pauses

    if until is not None and lasting is not None:
        raise typer.BadParameter("give either --until or --for")
    with opened(find_place(folder)) as engine, writing(engine) as connection:
        end = until if lasting is None else wall_time(connection) + lasting
        number = write(connection, end)
        made = next(each for each in read_pauses(connection) if each.pause_id == number)
    if as_json:
        output.print_json({"pause": number, "since": made.since, "until": made.until})
    else:
        print(f"Paused: {safe_text(str(made))}.")


def _end(write: Callable[[Connection], Any], folder: Path | None, as_json: bool) -> None:
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.dispatch.crew import read_crew
    from prometheus.persistence.engine import writing

    with opened(find_place(folder)) as engine, writing(engine) as connection:
        ended = write(connection)
        crew = read_crew(connection, whole=True)
    if as_json:
        output.print_json({"pause": ended.pause_id, "scheduler": crew.scheduled})
        return
    print(f"No longer paused: {safe_text(str(ended))}.")
    for each in crew.pauses:
        print(f"Paused still: {safe_text(str(each))}.")
