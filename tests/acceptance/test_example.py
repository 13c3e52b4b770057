"""The example of a user's own pipeline, through the real stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import RunCommand
from tests.servers import REPOSITORY

MODULES = {"PROMETHEUS__PIPELINES__MODULES": str(REPOSITORY / "examples" / "my_daily.py")}


def test_the_example_runs_on_real_prices(run_command: RunCommand, home: Path) -> None:
    folder = home / "replay"
    range_ = ("--from", "2012-11-21", "--to", "2012-11-21", "--market", "US_EQ")
    ended = run_command("replay", *range_, "--folder", folder, env=MODULES)
    assert ended.status == 0, ended.err
    status = run_command("status", "us_eq_my_daily_2012-11-21", "--folder", folder, "--json")
    prices, returns = (job["attempts"][-1]["result"] for job in status.document["jobs"])
    assert set(prices) == set(returns) == {"AAPL", "FB", "GOOG", "IBM", "MSFT"}
    # Apple closed at 560.91 on the 20th and at 561.70 on the 21st; adjusted prices are rounded.
    assert returns["AAPL"] == pytest.approx(561.70 / 560.91 - 1, abs=1e-4)


def test_the_example_can_be_looked_at(run_command: RunCommand) -> None:
    shown = run_command("dag", "show", "eu_eq_my_daily_2012-11-23", env=MODULES)
    assert shown.status == 0, shown.err
    assert "compute_returns" in shown.out
