"""Markets that a user's prometheus.toml declares, through the shipped command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import RunCommand, rows

TOML = """
[markets]
enabled = ["CRYPTO", "NIGHT"]

[markets.NIGHT]
zone = "America/New_York"
pre_open = "18:00-1d"
hours = { days = "Mon-Fri", open = "20:00-1d", close = "04:00" }
holidays = { market = "XNYS" }

[markets.LATER]
zone = "UTC"
hours = { from = 2029-12-03, days = "Mon-Fri", open = "09:00", close = "17:00" }

[pipelines]
modules = ["mine.py"]
"""

PIPELINE = """
from prometheus import JobContext, MarketState, Pipeline

mine = Pipeline("mine", markets=["CRYPTO", "NIGHT", "LATER"])


@mine.job(required_state=MarketState.SESSION)
def watch(ctx: JobContext) -> str:
    return f"{ctx.session.open.isoformat()} {ctx.session.close.isoformat()}"


@mine.job(required_state=MarketState.POST_CLOSE, after=[watch])
def settle(ctx: JobContext) -> str:
    return str(ctx.session_date)
"""


@pytest.fixture
def home(home: Path) -> Path:
    (home / "prometheus.toml").write_text(TOML)
    (home / "mine.py").write_text(PIPELINE)
    return home


def test_commands_know_the_markets_of_the_file(run_command: RunCommand) -> None:
    (night,) = run_command("markets", "NIGHT", "--at", "2026-11-24T03:00Z", "--json").document
    assert (night["state"], night["session_date"]) == ("SESSION", "2026-11-24")
    shown = run_command("calendar", "show", "NIGHT", "2026")
    assert "by its own hours in prometheus.toml" in shown.out
    assert "Thanksgiving Day" in shown.out
    every = run_command("calendar", "at", "2026-11-24 12:45 Europe/Paris", "--json").document
    assert [each["market"] for each in every][-3:] == ["CRYPTO", "NIGHT", "LATER"]
    plan = run_command("dag", "show", "night_mine_2026-11-24", "--json")
    assert plan.status == 0, plan.err
    first = run_command("dag", "show", "--market", "LATER", "--pipeline", "mine", "--json")
    assert first.document["session"]["date"] == "2029-12-03", "of a market that has not begun"


def test_a_file_with_faults_is_refused_whole(run_command: RunCommand, home: Path) -> None:
    wrong = TOML.replace("New_York", "New_Yrok").replace("04:00", "noon").replace("XNYS", "XNYX")
    wrong = wrong.replace("mine.py", "").replace("[pipelines]", "[pipelnes]")
    (home / "prometheus.toml").write_text(wrong + "[workers]\nconcurrency = 0\n")
    for command in (
        ("calendar", "show", "US_EQ", "2026"),
        ("calendar", "horizon"),
        ("markets",),
        ("status",),
        ("beat",),
        ("worker", "CRYPTO"),
    ):
        run_command(*command).refused(
            "settings: 5 faults.",
            "prometheus.toml:15 [pipelnes]: no such section. Did you mean 'pipelines'?",
            "prometheus.toml:18 [workers] concurrency: input should be greater than or equal to 1",
            "prometheus.toml:6 [markets.NIGHT] zone: no zone is called 'America/New_Yrok'. Did "
            "you mean 'America/New_York'?",
            "prometheus.toml:8 [markets.NIGHT] hours 1 close: 'noon' is no local time",
            "prometheus.toml:9 [markets.NIGHT] holidays: holidays has no market 'XNYX'.",
        )


def test_a_replay_over_markets_without_an_exchange(run_command: RunCommand, home: Path) -> None:
    folder = home / "replay"
    ended = run_command("replay", "--from", "2026-07-04", "--to", "2026-07-06", "--folder", folder)
    assert ended.status == 0, ended.err
    runs = rows(folder, "SELECT dag_id, status FROM dag_runs ORDER BY dag_id")
    assert runs == [
        ("crypto_mine_2026-07-04", "SUCCESS"),
        ("crypto_mine_2026-07-05", "SUCCESS"),
        ("crypto_mine_2026-07-06", "SUCCESS"),
        ("night_mine_2026-07-06", "SUCCESS"),
    ]
    assert "checked: 4 runs, 8 jobs, each succeeded exactly once" in ended.out
    starts = dict(
        rows(
            folder,
            "SELECT dag_id, started_market_at FROM job_executions WHERE job_id = 'settle'",
        )
    )
    # A day of UTC ends with its last moment; the night's session at four in New York.
    assert starts["crypto_mine_2026-07-04"] >= "2026-07-05 00:00:00"
    assert starts["night_mine_2026-07-06"] >= "2026-07-06 08:00:00"
    queues = rows(folder, "SELECT DISTINCT market_id, queue FROM job_executions ORDER BY queue")
    assert queues == [("CRYPTO", "CRYPTO"), ("NIGHT", "NIGHT")]
