"""The command line as a whole: its commands, and what their errors become."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from typing import Annotated

import typer

from prometheus.cli import (
    calendars,
    dag,
    databases,
    doctor,
    markets,
    operate,
    replay,
    run,
    status,
    up,
    verify,
)
from prometheus.errors import PrometheusError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the signal's number."""

application = typer.Typer(
    name="prometheus",
    help="Market-aware scheduler on Celery: pipelines that follow the sessions of every exchange.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_RUN = "Run"
_LOOK = "Look"
_OPERATE = "Operate"
_MAINTAIN = "Maintain"

application.command("replay", rich_help_panel=_RUN)(replay.replay)
application.command("up", rich_help_panel=_RUN)(up.up)
application.command("run", rich_help_panel=_RUN)(run.run)
application.command("status", rich_help_panel=_LOOK)(status.status)
application.command("markets", rich_help_panel=_LOOK)(markets.markets)
application.add_typer(calendars.application, name="calendar", rich_help_panel=_LOOK)
application.add_typer(dag.application, name="dag", rich_help_panel=_LOOK)
application.command("retry", rich_help_panel=_OPERATE)(operate.retry)
application.command("cancel", rich_help_panel=_OPERATE)(operate.cancel)
application.add_typer(databases.application, name="db", rich_help_panel=_MAINTAIN)
application.command("verify", rich_help_panel=_MAINTAIN)(verify.verify)
application.command("doctor", rich_help_panel=_MAINTAIN)(doctor.doctor)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"prometheus {version('prometheus-markets')}")
        except PackageNotFoundError:
            print("prometheus, run from a source tree without being installed")
        raise typer.Exit


@application.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the release and end."
        ),
    ] = False,
) -> None:
    """Market-aware scheduler on Celery: pipelines that follow the sessions of every exchange."""


def run_command() -> int:
    """
    Run the command that the process was started with.

    Returns:
        0; 1 for an error of ours, in one message on standard error; 2 for wrong usage; 130 after
        Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that can not show a sign shows another one; it does not end the command.
            stream.reconfigure(errors="replace")
    try:
        application(prog_name="prometheus")
    except SystemExit as end:
        return _status(end)
    except PrometheusError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone, as `head` does.
        _close_output()
        return 1
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:
            _close_output()
            print("prometheus: no space is left for the output", file=sys.stderr)
            return 1
        if error.filename is None:
            raise
        return _refused(f"{error.filename}: {error.strerror}")
    return 0


def _refused(message: str) -> int:
    """Say why there is no answer: to people, and in JSON to who asked for that."""
    print(f"prometheus: {message}", file=sys.stderr)
    if "--json" in sys.argv:
        try:
            print(json.dumps({"error": message}), flush=True)
        except OSError:
            _close_output()
    return 1


def _close_output() -> None:
    """Let nothing more be written, so that Python does not complain at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _status(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1
