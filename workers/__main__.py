"""
``python -m workers beat`` and ``worker``: two of Celery's commands, with all their options.

``celery -A workers`` has them as well, among others that cost each of its processes time and memory
to import: a shell to type them in, and Flower.
"""

import sys

import click
from celery.bin.base import CLIContext
from celery.bin.beat import beat
from celery.bin.worker import worker

from workers import app


@click.group(commands={"beat": beat, "worker": worker})
@click.pass_context
def main(context: click.Context) -> None:
    """Run one of Celery's processes."""
    context.obj = CLIContext(app=app, no_color=False, workdir=None)


if __name__ == "__main__":
    # The variables of its options are named as Celery names them.
    sys.exit(main(prog_name="workers", auto_envvar_prefix="CELERY"))
