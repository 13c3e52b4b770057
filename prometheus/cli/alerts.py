"""``prometheus alerts``: what is wrong, who sees to it, and whether the channels work."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from prometheus.cli.options import Actor, AsJson, Folder, Reason
from prometheus.orchestration.alerts import AlertKind

application = typer.Typer(help="What is wrong, and who is told.", invoke_without_command=True)

_All = Annotated[bool, typer.Option("--all", "-a", help="Also those that are over.")]
_Limit = Annotated[
    int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many alerts at most.")
]
_Kind = Annotated[
    AlertKind | None,
    typer.Option("--kind", metavar="KIND", help="Only these, such as job_failed."),
]
_Market = Annotated[
    str | None, typer.Option("--market", metavar="MARKET", help="Only those about it.")
]
_Pipeline = Annotated[
    str | None, typer.Option("--pipeline", metavar="NAME", help="Only those about it.")
]
_Run = Annotated[str | None, typer.Option("--run", metavar="DAG_ID", help="Only those about it.")]


@application.callback()
def alerts(
    context: typer.Context,
    everything: _All = False,
    kind: _Kind = None,
    market: _Market = None,
    pipeline: _Pipeline = None,
    run: _Run = None,
    limit: _Limit = 50,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """List what is wrong, the last one first; see `list`, `ack` and `test`."""
    if context.invoked_subcommand is None:
        list_alerts(everything, kind, market, pipeline, run, limit, folder, as_json)


@application.command("list")
def list_alerts(
    everything: _All = False,
    kind: _Kind = None,
    market: _Market = None,
    pipeline: _Pipeline = None,
    run: _Run = None,
    limit: _Limit = 50,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """List what is wrong, the last one first."""
    from rich.text import Text

    from prometheus.cli import output
    from prometheus.cli.listed import check_names
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence import alerts
    from prometheus.persistence.engine import reading

    place = find_place(folder)
    which = alerts.AlertFilter(
        is_open=None if everything else True,
        kind=kind,
        market_id=market,
        pipeline=pipeline,
        dag_id=run,
    )
    with opened(place) as engine, reading(engine) as connection:
        rows = alerts.list_alerts(connection, which, limit=limit)
        if not rows:
            check_names(connection, place, market, pipeline)
    if as_json:
        output.print_json([_document(row, deliveries) for row, deliveries in rows])
        return
    if not rows:
        filtered = any(each is not None for each in (kind, market, pipeline, run))
        said = "There are no such alerts." if filtered else "There are no alerts."
        print(said if everything else f"No {'such ' if filtered else ''}alert is open.")
        return
    table = output.table("ALERT", "SEVERITY", "SINCE", "WHAT", "STATE", right=("ALERT",))
    for row, _ in rows:
        table.add_row(
            str(row.alert_id),
            row.severity,
            output.utc(row.since),
            Text(output.shortened(_safe(row.summary))),
            _state(row),
        )
    output.console().print(table)


@application.command("ack")
def acknowledge(
    alert: Annotated[
        int, typer.Argument(metavar="ALERT", min=1, max=2**31 - 1, help="Its number.")
    ],
    reason: Reason,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Let nothing more be told of an alert, because you see to it; it is open until it is over."""
    from prometheus.cli import output
    from prometheus.cli.operate import actor_name
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence import alerts
    from prometheus.persistence.engine import writing

    with opened(find_place(folder)) as engine, writing(engine) as connection:
        row = alerts.acknowledge(connection, alert, actor=actor_name(actor), reason=reason)
        deliveries = alerts.read_deliveries(connection, [alert])
    if as_json:
        output.print_json(_document(row, deliveries[alert]))
    else:
        print(f"Nothing more is told of alert {alert}: {_safe(row.summary)}.")


@application.command("test")
def send_test(
    channel: Annotated[
        str | None,
        typer.Argument(
            metavar="CHANNEL", help="One channel; all of them by default.", show_default=False
        ),
    ] = None,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Send a message by each channel, and say what came back; audited where there is a database.

    Ends with 1 if a channel did not accept it.
    """
    from prometheus.channels import send_tests
    from prometheus.cli import output
    from prometheus.cli.operate import actor_name
    from prometheus.cli.places import find_place, opened
    from prometheus.errors import PrometheusError
    from prometheus.persistence.alerts import record_test
    from prometheus.persistence.engine import writing

    place = find_place(folder)
    errors = send_tests(place.settings.channels, channel)
    # Channels can be tried before there is a database, and while it is away.
    try:
        with opened(place) as engine, writing(engine) as connection:
            record_test(connection, errors, actor=actor_name(actor))
    except PrometheusError as why:
        print(f"Not audited: {why}", file=sys.stderr)
    if as_json:
        answers = [{"channel": name, "error": error} for name, error in errors.items()]
        output.print_json(answers)
    else:
        for name, error in errors.items():
            print(f"{name}: {'accepted' if error is None else f'NOT accepted: {error}'}")
    if any(errors.values()):
        raise typer.Exit(1)


def _safe(text: str) -> str:
    from prometheus.masking import safe_text

    return safe_text(text)


def _state(row: Any) -> str:
    from prometheus.cli import output

    if row.resolved_at is not None:
        state = f"over since {output.utc(row.resolved_at)}"
    elif row.acknowledged_at is not None:
        state = f"acknowledged by {_safe(row.acknowledged_by)}: {_safe(row.reason)}"
    else:
        state = "open"
    if row.times > 1:
        state += f", {row.times} times"
    return state + (", NOT DELIVERED" if row.undelivered else "")


def _document(row: Any, deliveries: list[Any]) -> dict[str, Any]:
    from prometheus.masking import safe_value

    document = {
        "alert": row.alert_id,
        "key": row.key,
        "kind": row.kind,
        "severity": row.severity,
        "summary": row.summary,
        "details": row.details,
        "markets": row.markets,
        "pipeline": row.pipeline,
        "dag_id": row.dag_id,
        "priority": row.priority,
        "subjects": row.subjects,
        "since": row.since,
        "raised_at": row.raised_at,
        "times": row.times,
        "resolved_at": row.resolved_at,
        "told": row.told,
        "told_at": row.told_at,
        "acknowledged_at": row.acknowledged_at,
        "acknowledged_by": row.acknowledged_by,
        "reason": row.reason,
        "deliveries": [
            {
                "channel": each.channel,
                "event": each.event,
                "state": each.state,
                "tries": each.tries,
                "error": each.error,
                "created_at": each.created_at,
                "ended_at": each.ended_at,
            }
            for each in deliveries
        ],
    }
    found: dict[str, Any] = safe_value(document)
    return found
