"""The ``prometheus`` command, one module a group of commands."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and end the process with its status."""
    # Imports leave no garbage, and to look for it takes a third of a short command's time: during
    # them, and as Python ends. Most commands enable it once they are imported; what they leave open
    # would not be closed at the end, so they close it by themselves.
    gc.disable()
    try:
        # Here, not above: importing one module of this package must not load all commands.
        from prometheus.cli.application import run_command

        status = run_command()
    except KeyboardInterrupt:
        status = 130
    gc.freeze()
    sys.exit(status)
