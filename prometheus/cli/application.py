"""The command line as a whole: its commands, and what their errors become."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from prometheus.errors import PrometheusError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the signal's number."""

_RUN = "Run"
_LOOK = "Look"
_OPERATE = "Operate"
_MAINTAIN = "Maintain"

_COMMANDS = {
    "replay": ("replay", "replay", _RUN),
    "up": ("up", "up", _RUN),
    "run": ("run", "run", _RUN),
    "beat": ("processes", "beat", _RUN),
    "worker": ("processes", "worker", _RUN),
    "web": ("processes", "web", _RUN),
    "flower": ("processes", "flower", _RUN),
    "status": ("status", "status", _LOOK),
    "runs": ("listed", "runs", _LOOK),
    "executions": ("listed", "executions", _LOOK),
    "why": ("why", "why", _LOOK),
    "markets": ("markets", "markets", _LOOK),
    "calendar": ("calendars", "application", _LOOK),
    "dag": ("dag", "application", _LOOK),
    "logs": ("logs", "logs", _LOOK),
    "alerts": ("alerts", "application", _LOOK),
    "audit": ("audit", "audit", _LOOK),
    "backfill": ("backfill", "application", _OPERATE),
    "retry": ("operate", "retry", _OPERATE),
    "cancel": ("operate", "cancel", _OPERATE),
    "skip": ("operate", "skip", _OPERATE),
    "force-success": ("operate", "force_success", _OPERATE),
    "hold": ("pausing", "hold", _OPERATE),
    "release": ("pausing", "release", _OPERATE),
    "pause": ("pausing", "pause", _OPERATE),
    "resume": ("pausing", "resume", _OPERATE),
    "config": ("config", "application", _MAINTAIN),
    "user": ("users", "users", _MAINTAIN),
    "token": ("users", "tokens", _MAINTAIN),
    "db": ("databases", "application", _MAINTAIN),
    "prune": ("prune", "prune", _MAINTAIN),
    "verify": ("verify", "verify", _MAINTAIN),
    "doctor": ("doctor", "doctor", _MAINTAIN),
    "health": ("health", "application", _MAINTAIN),
}
"""Command or group of commands -> its module in this package, its name there, its panel."""

_BRIEF = frozenset({"calendar", "markets"})
"""Commands that end before there is garbage worth collecting; `main` has switched that off."""


def make_application(arguments: Sequence[str] = ()) -> typer.Typer:
    """
    Put the command line together.

    Args:
        arguments: What the process was started with. If that begins with a command, the others are
            left out: importing and laying out all of them takes longer than many a command.
    """
    made = typer.Typer(
        name="prometheus",
        help="Market-aware scheduler on Celery: pipelines that follow the sessions of every "
        "exchange.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_options)
    named = arguments[0] if arguments else ""
    for name in [named] if named in _COMMANDS else _COMMANDS:
        module, attribute, panel = _COMMANDS[name]
        command = getattr(import_module(f"prometheus.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            made.add_typer(command, name=name, rich_help_panel=panel)
        else:
            made.command(name, rich_help_panel=panel)(command)
    return made


def _show_version(asked: bool) -> None:
    if asked:
        from prometheus.release import release

        found = release()
        print(f"prometheus {found}" if found else "prometheus, run from an uninstalled source tree")
        raise typer.Exit


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
        application = make_application(sys.argv[1:])
        if not _BRIEF.intersection(sys.argv[1:2]):
            gc.freeze()
            gc.enable()
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
