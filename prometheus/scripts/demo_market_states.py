"""Show every market: its state, its exchanges, its session, and when the state next changes.

python -m prometheus.scripts.demo_market_states
python -m prometheus.scripts.demo_market_states 2012-11-23T04:30Z
python -m prometheus.scripts.demo_market_states --json

It is what ``prometheus markets`` shows.
"""

from __future__ import annotations

import typer

from prometheus.cli.markets import markets
from prometheus.cli.options import AsJson, Instant


def main(at: Instant = None, as_json: AsJson = False) -> None:
    """Show every market's state and when it next changes."""
    markets(at=at, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
