"""
``python -m workers beat`` and ``worker``: two of Celery's commands, with their own options.

``celery -A workers`` has them as well, with options of all commands before them (as ``--broker``),
and beside others that cost each of its processes time and memory to import: a shell to type them
in, and Flower. A worker has no ``--detach`` here: Celery would start it as one of no app.
"""

import os

import click
from celery.bin.base import CLIContext
from celery.bin.beat import beat
from celery.bin.worker import worker

from workers import app

worker.params = [each for each in worker.params if each.name != "detach"]


@click.group(commands={"beat": beat, "worker": worker})
@click.pass_context
def main(context: click.Context) -> None:
    """Run one of Celery's processes."""
    context.obj = CLIContext(app=app, no_color=bool(os.environ.get("NO_COLOR")), workdir=None)


if __name__ == "__main__":
    # The variables of its options are named as Celery names them.
    main(prog_name="workers", auto_envvar_prefix="CELERY")
