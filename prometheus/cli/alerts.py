"""``prometheus alerts``: what is wrong, who sees to it, and whether the channels work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prometheus.cli.options import Actor, AsJson, Folder, Reason

if TYPE_CHECKING:
    from sqlalchemy import Row

application = typer.Typer(help="What is wrong, and who is told.", invoke_without_command=True)

_All = Annotated[bool, typer.Option("--all", "-a", help="Also those that are over.")]
_Limit = Annotated[
    int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many alerts at most.")
]


@application.callback()
def alerts(
    context: typer.Context,
    everything: _All = False,
    limit: _Limit = 50,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """List what is wrong, the last one first; see `list`, `ack` and `test`."""
    if context.invoked_subcommand is None:
        list_alerts(everything, limit, folder, as_json)


@application.command("list")
def list_alerts(
    everything: _All = False, limit: _Limit = 50, folder: Folder = None, as_json: AsJson = False
) -> None:
    """List what is wrong, the last one first."""
    from rich.text import Text

    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence import alerts
    from prometheus.persistence.engine import reading

    which = alerts.AlertFilter(is_open=None if everything else True)
    with opened(find_place(folder)) as engine, reading(engine) as connection:
        rows = alerts.list_alerts(connection, which, limit=limit)
        deliveries = alerts.read_deliveries(connection, [row.alert_id for row in rows])
    if as_json:
        output.print_json([_document(row, deliveries[row.alert_id]) for row in rows])
        return
    if not rows:
        print("There are no alerts." if everything else "No alert is open.")
        return
    table = output.table("ALERT", "SEVERITY", "SINCE", "WHAT", "STATE", right=("ALERT",))
    for row in rows:
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
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Send a message by each channel, and say what came back.

    Ends with 1 if a channel did not accept it.
    """
    from prometheus.cli import output
    from prometheus.cli.places import find_place
    from prometheus.errors import PrometheusError, nearest

    channels = find_place(folder).settings.channels
    if channel is not None and channel not in channels:
        raise PrometheusError(f"There is no channel {channel!r}.{nearest(channel, channels)}")
    if not channels:
        raise PrometheusError(
            "There are no channels. Name one under [channels] in prometheus.toml, or by "
            "PROMETHEUS__CHANNELS__NAME: a URL such as mailto://user:password@host."
        )
    from prometheus.channels import send

    text = "This is a test of `prometheus alerts test`. Nothing is wrong."
    errors = {
        name: send(url, "Test: alerts arrive here", text)
        for name, url in channels.items()
        if channel in (None, name)
    }
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


def _state(row: Row[Any]) -> str:
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


def _document(row: Row[Any], deliveries: list[Row[Any]]) -> dict[str, Any]:
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
