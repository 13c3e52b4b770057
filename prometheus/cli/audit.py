"""``prometheus audit``: who did what."""

from __future__ import annotations

from typing import Annotated

import typer

from prometheus.cli.options import AsJson, Folder


def audit(
    target: Annotated[
        str | None,
        typer.Argument(
            help="Only what was done to this run, market, pipeline, user or token.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", help="Only what was done by this one.", show_default=False),
    ] = None,
    action: Annotated[
        str | None,
        typer.Option("--action", help="Only this, such as retry or pause.", show_default=False),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many entries at most.")
    ] = 50,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """List what operators did, and what the scheduler did for their overrides, the last first."""
    from prometheus.actors import tell_details
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.masking import safe_text, safe_value
    from prometheus.persistence.engine import reading
    from prometheus.persistence.listings import AuditFilter, list_audit

    which = AuditFilter(actor=by, action=action, target=target)
    with opened(find_place(folder)) as engine, reading(engine) as connection:
        rows = list_audit(connection, which, limit=limit)
    entries = [
        {
            "entry": row.audit_id,
            "at": row.at,
            "actor": safe_text(row.actor),
            "action": row.action,
            "target": row.target,
            "details": safe_value(row.details),
        }
        for row in rows
    ]
    if as_json:
        output.print_json(entries)
        return
    if not entries:
        print("Nothing of it was done.")
        return
    table = output.table("AT", "BY", "ACTION", "TARGET", "WHY", "DETAILS")
    for each in entries:
        at = output.utc_seconds(each["at"])
        told = tell_details(each["details"])
        table.add_row(at, each["actor"], each["action"], each["target"], *told)
    output.console().print(table)
