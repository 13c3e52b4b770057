"""``prometheus calendar override``: say of a session that it differs, and take it back."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prometheus.cli.options import Actor, AsJson, Folder, read_instant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection

    from prometheus.cli.places import Place
    from prometheus.core.overrides import Override, Overrides
    from prometheus.persistence.previews import Change

application = typer.Typer(
    no_args_is_help=True, help="Correct single sessions: closed, other hours, or an extra one."
)

Reason = Annotated[str, typer.Option("--reason", help="Why.", show_default=False)]
Source = Annotated[
    str, typer.Option("--source", help="Who says so, such as an URL.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Record it without asking.")]


@application.callback()
def _group() -> None:
    """Correct single sessions: closed, other hours, or an extra one."""


@application.command("add")
def add(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="An exchange (MIC), for every market that has it, or a market.",
            show_default=False,
        ),
    ],
    session: Annotated[
        str,
        typer.Argument(metavar="DATE", help="The session, such as 2025-01-09.", show_default=False),
    ],
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="closed, early_close, late_open, special_session or changed_hours.",
            show_default=False,
        ),
    ],
    opens: Annotated[
        str | None, typer.Option("--open", metavar="TIME", help="Local, such as 10:30.")
    ] = None,
    closes: Annotated[
        str | None, typer.Option("--close", metavar="TIME", help="Local, such as 13:00.")
    ] = None,
    breaks: Annotated[
        str | None,
        typer.Option("--breaks", metavar="TIMES", help="Such as 11:30-12:30, or 'none'."),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(
            "--zone", metavar="ZONE", help="Whose clocks; by default those of the exchange."
        ),
    ] = None,
    reason: Reason = "",
    source: Source = "",
    announced_at: Annotated[
        str | None,
        typer.Option(
            "--announced-at",
            metavar="INSTANT",
            help='When it was announced, such as "2024-12-30 15:00Z" or "2024-12-30 10:00 '
            'America/New_York"; now by default.',
        ),
    ] = None,
    yes: Yes = False,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Record that a session differs: shows first what changes, and asks.

    Schedulers and workers go by it from their next tick or job on. With --json and without --yes
    nothing is recorded, only shown.
    """
    from prometheus.cli.operate import actor_name
    from prometheus.core.drafts import Draft, read_draft

    draft = Draft(
        target=target,
        session=session,
        kind=kind,
        open=opens,
        close=closes,
        breaks=breaks,
        zone=zone,
        reason=reason,
        source=source,
        announced_at=announced_at,
        author=actor_name(actor),
    )
    _record(lambda known, now: read_draft(draft, known, now=now), folder, yes=yes, as_json=as_json)


@application.command("withdraw")
def withdraw(
    override: Annotated[
        str,
        typer.Argument(metavar="ID", help="As `list` shows it.", show_default=False),
    ],
    reason: Reason = "",
    source: Source = "",
    yes: Yes = False,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Take an override back: shows first what changes, and asks.

    Nothing is deleted; runs that were cancelled because of it go on.
    """
    from prometheus.cli.operate import actor_name
    from prometheus.core.drafts import read_withdrawal

    author = actor_name(actor)

    def read(known: Overrides, now: datetime) -> Override:
        return read_withdrawal(
            override, known, reason=reason, source=source, author=author, now=now
        )

    _record(read, folder, yes=yes, as_json=as_json)


@application.command("list")
def show(
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that were withdrawn, and the withdrawals.")
    ] = False,
    at: Annotated[
        datetime | None,
        typer.Option(
            parser=read_instant, metavar="INSTANT", help="As it was believed to be at an instant."
        ),
    ] = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Show the overrides in force, now or as they were at an instant."""
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.engine import reading
    from prometheus.persistence.overrides import read_overrides

    with opened(find_place(folder)) as engine, reading(engine) as connection:
        overrides = read_overrides(connection)
    if at is not None:
        overrides = overrides.believed_at(at)
    standing = overrides.standing()
    told = (*standing, *overrides.unreadable())
    rows = [each for each in overrides.rows if everything or each in told]
    if as_json:
        output.print_json([{**_document(each), "in_force": each in standing} for each in rows])
        return
    if not rows:
        print("No overrides.")
        return
    table = output.table("Id", "Of", "Session", "What", "Reason", "Source", "Announced", "Recorded")
    for each in rows:
        what = _what(each) if each in told or each.withdraws else f"{_what(each)} (withdrawn)"
        table.add_row(
            str(each.override_id),
            each.target,
            str(each.session),
            what,
            each.reason,
            each.source,
            output.utc(each.announced_at),
            _recorded(each),
        )
    output.console().print(table)


# --- recording ----------------------------------------------------------------------------------


def _record(
    read: Callable[[Overrides, datetime], Override],
    folder: Any,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Show what an override would change, ask, and record it as what it was shown as."""
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.clock import read_now
    from prometheus.persistence.engine import reading, writing
    from prometheus.persistence.overrides import read_overrides, record_as_seen

    place = find_place(folder)
    with opened(place) as engine:
        with reading(engine) as connection:
            known = read_overrides(connection)
            override = read(known, read_now(connection).market_at)
            (change,) = foresee(connection, place, [override], known)
        if not as_json:
            show_change(change)
        recorded = yes or (not as_json and typer.confirm("Record it?"))
        if recorded:
            with writing(engine) as connection:
                what = f"override of {override.target} on {override.session}"
                override = record_as_seen(
                    connection, read, None if yes else known.latest, what=what
                )
    if as_json:
        output.print_json(
            {
                "override": _document(override),
                "recorded": recorded,
                **change.document(),
            }
        )
    elif recorded:
        print(f"Recorded as override {override.override_id}. In force with the next tick.")
    else:
        print("Nothing was recorded.")
        raise typer.Exit(1)


def foresee(
    connection: Connection, place: Place, overrides: Iterable[Override], known: Overrides
) -> list[Change]:
    """Work out what overrides would change in an installation; see `changes_of`."""
    from prometheus.configured import scheduled_pipelines
    from prometheus.persistence.previews import changes_of

    return changes_of(
        connection,
        overrides,
        known,
        pipelines=scheduled_pipelines(place.settings),
        markets=place.settings.markets.enabled,
    )


# --- what is printed ----------------------------------------------------------------------------


def _what(override: Override) -> str:
    from prometheus.persistence.overrides import written_breaks

    if override.withdraws is not None:
        return f"withdraws {override.withdraws}"
    if override.fault is not None:
        return f"does not hold: {override.fault}"
    said = [str(override.kind)]
    said += [f"open {override.open}"] if override.open else []
    said += [f"close {override.close}"] if override.close else []
    if override.breaks is not None:
        said.append(f"breaks {written_breaks(override.breaks) or 'none'}")
    said += [override.zone] if override.zone else []
    return ", ".join(said)


def _recorded(override: Override) -> str:
    """Say by whom an override was recorded, and when."""
    from prometheus.cli import output

    at = override.recorded_at
    return f"by {override.author}" + (f", {output.utc(at)}" if at else "")


def _document(override: Override) -> dict[str, Any]:
    from prometheus.persistence.overrides import written_breaks

    return {
        "id": override.override_id,
        "exchange": override.exchange,
        "market": override.market,
        "session": override.session,
        "kind": override.kind,
        "open": override.open and str(override.open),
        "close": override.close and str(override.close),
        "breaks": written_breaks(override.breaks),
        "zone": override.zone,
        "reason": override.reason,
        "source": override.source,
        "announced_at": override.announced_at,
        "author": override.author,
        "recorded_at": override.recorded_at,
        "withdraws": override.withdraws,
        "fault": override.fault,
    }


def show_change(change: Change) -> None:
    """Print what an override would change."""
    from prometheus.cli import output
    from prometheus.persistence.previews import EFFECTS

    override, runs = change.override, change.runs
    console = output.console()
    console.print(f"{override.target} {override.session}: {_what(override)}", style="bold")
    console.print(f"  {override.reason}")
    console.print()
    for name, (before, after) in change.states.items():
        if before == after:
            others = change.others.get(name, [])
            why = (
                f": {', '.join(others)} {'stay' if others[1:] else 'stays'} open" if others else "."
            )
            console.print(f"{name} does not change{why}")
            console.print()
            continue
        table = output.table(name, "as it is", "as it would be")
        starts = sorted({at for intervals in (before, after) for at, _, _ in intervals})
        for at in starts:
            was, becomes = (_state_at(each, at) for each in (before, after))
            if was != becomes:
                table.add_row(f"{at:%a %H:%M} UTC", was, becomes)
        console.print(table)
        console.print()
    if change.is_over:
        console.print("That session is over: runs that have finished stay as they are.")
    if not runs:
        console.print("No run changes.")
    for run in runs:
        status = f", then {run.status}" if run.status is not None else ""
        console.print(f"{run.dag_id}: {EFFECTS[run.effect]}{status}")
        for job in run.jobs:
            line = _job_line(job)
            if line:
                console.print(f"  {line}")
    console.print()


def _state_at(intervals: Any, at: datetime) -> str:
    (state,) = (state for start, end, state in intervals if start <= at < end)
    return str(state)


def _job_line(job: Any) -> str | None:
    from prometheus.cli import output

    said = []
    if job.before != job.after:
        said.append(f"{job.before} -> {job.after}")
    if job.window_after and job.window_before != job.window_after and job.after in _WAITING:
        now, was = (
            each and f"{output.utc(each.opens_at)} to {output.utc(each.closes_at)}"
            for each in (job.window_after, job.window_before)
        )
        said.append(f"window {now}" + (f" instead of {was}" if was else ""))
    if job.gives_up_after and job.gives_up_before != job.gives_up_after and job.after in _WAITING:
        was = job.gives_up_before and output.utc(job.gives_up_before)
        text = f"gives up at {output.utc(job.gives_up_after)}"
        said.append(text + (f" instead of {was}" if was else ""))
    return f"{job.job_id}: {', '.join(said)}" if said else None


_WAITING = ("PENDING", "QUEUED", "RUNNING")
