"""``prometheus up``: everything on one machine, live."""

from __future__ import annotations

from prometheus.cli.options import AsJson, Folder


def up(folder: Folder = None, as_json: AsJson = False) -> None:
    """
    Run everything here, live, until Ctrl-C: Redis, the scheduler and a worker.

    A process that dies is started again. The rows are in a SQLite file in the data folder, unless
    a database is configured. With --json, every change is a JSON document on a line of its own.
    """
    from prometheus.cli.living import live_here

    live_here(folder, as_json=as_json)
