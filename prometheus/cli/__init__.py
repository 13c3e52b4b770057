"""The ``prometheus`` command, one module a group of commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end the process with its status."""
    try:
        # Here, not above: importing one module of this package must not load all commands.
        from prometheus.cli.application import run_command

        status = run_command()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
