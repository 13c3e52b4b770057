"""Sessions of real dates, run again by a real scheduler and worker as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunCommand, rows

PIPELINE = """
from prometheus import JobContext, MarketState, Pipeline

real = Pipeline("real", markets={markets!r})

@real.job(required_state=MarketState.SESSION)
def trades(ctx: JobContext) -> None: ...

@real.job(required_state=MarketState.POST_CLOSE)
def closes(ctx: JobContext) -> None: ...

@real.sensor(
    start="close+20m", expected="close+30m", give_up="close+1h", otherwise="continue_stale"
)
def ready(ctx: JobContext) -> bool:
    return False

@real.job(after=[ready])
def goes_on(ctx: JobContext) -> bool:
    return ctx.stale
"""

Starts = dict[str, tuple[str, str]]
"""Market and session -> when the jobs of SESSION and POST_CLOSE began, UTC."""

REAL: dict[str, tuple[str, str, Starts]] = {
    "New York does not trade on 2025-01-09": (
        "2025-01-08",
        "2025-01-10",
        {
            "XNYS 2025-01-08": ("14:30", "21:00"),
            "XNYS 2025-01-10": ("14:30", "21:00"),
        },
    ),
    "Hong Kong opens after a black rain": (
        "2021-06-28",
        "2021-06-28",
        {"XHKG 2021-06-28": ("05:30", "08:00")},
    ),
    "Istanbul is closed by an earthquake": (
        "2023-02-07",
        "2023-02-09",
        {"XIST 2023-02-07": ("07:00", "15:00")},
    ),
    "India trades on a Saturday": (
        "2024-03-02",
        "2024-03-02",
        {"XBOM 2024-03-02": ("03:45", "07:00")},
    ),
    "New York closes early after Thanksgiving": (
        "2025-11-27",
        "2025-11-28",
        {"XNYS 2025-11-28": ("14:30", "18:00")},
    ),
    "London and Paris close at different hours on Christmas Eve": (
        "2025-12-24",
        "2025-12-24",
        {"XLON 2025-12-24": ("08:00", "12:30"), "XPAR 2025-12-24": ("08:00", "13:05")},
    ),
    "New York puts its clocks forward": (
        "2026-03-06",
        "2026-03-09",
        {
            "XNYS 2026-03-06": ("14:30", "21:00"),
            "XNYS 2026-03-09": ("13:30", "20:00"),
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_jobs_and_sensors_start_by_the_session_as_it_was(
    run_command: RunCommand, home: Path, name: str
) -> None:
    first, last, expected = REAL[name]
    markets = sorted({each.partition(" ")[0] for each in expected})
    (home / "real.py").write_text(PIPELINE.format(markets=markets))
    env = {
        "PROMETHEUS__PIPELINES__MODULES": "real.py",
        "PROMETHEUS__MARKETS__ENABLED": ",".join(markets),
    }
    folder = home / "replay"
    ended = run_command("replay", "--from", first, "--to", last, "--folder", folder, env=env)
    assert ended.status == 0, ended.err + ended.out
    started = {
        (f"{market} {session}", job): (str(at)[:10], str(at)[11:16])
        for market, session, job, at in rows(
            folder, "SELECT market_id, as_of_date, job_id, started_market_at FROM job_executions"
        )
    }
    assert {each for each, _ in started} == set(expected)
    for each, (opens, closes) in expected.items():
        day = each.partition(" ")[2]
        assert started[each, "trades"] == (day, opens)
        assert started[each, "closes"] == (day, closes)
        hour, minute = map(int, closes.split(":"))
        asked = f"{hour + (minute + 20) // 60:02}:{(minute + 20) % 60:02}"
        assert started[each, "ready"] == started[each, "goes_on"] == (day, asked)
    results = rows(folder, "SELECT job_id, result FROM job_executions WHERE result IS NOT NULL")
    assert {job: json.loads(result) for job, result in results if job == "goes_on"} == {
        "goes_on": True
    }
