"""
The standard pipeline ``daily``: nine jobs from prices to books, for each equity market.

The functions are named, not imported, so that the scheduler never loads numpy.
"""

from __future__ import annotations

from datetime import timedelta

from prometheus.core.market_state import MarketState
from prometheus.orchestration.dag import JobPriority
from prometheus.orchestration.pipeline import Pipeline

_JOBS = "prometheus.pipelines.equities"

daily = Pipeline("daily", markets=["US_EQ", "EU_EQ", "ASIA_EQ"])

daily.add(
    f"{_JOBS}.prices:ingest_prices",
    required_state=MarketState.POST_CLOSE,
    priority=JobPriority.CRITICAL,
    max_retries=5,
)
daily.add(f"{_JOBS}.factors:ingest_factors", required_state=MarketState.POST_CLOSE)
daily.add(
    f"{_JOBS}.returns:compute_returns", after=["ingest_prices"], priority=JobPriority.CRITICAL
)
daily.add(
    f"{_JOBS}.volatility:compute_volatility", after=["ingest_prices"], priority=JobPriority.CRITICAL
)
daily.add(
    f"{_JOBS}.windows:build_numeric_windows",
    after=["compute_returns", "compute_volatility"],
    priority=JobPriority.CRITICAL,
    timeout=timedelta(hours=2),
)
daily.add(
    f"{_JOBS}.profiles:update_profiles",
    after=["build_numeric_windows"],
    required_state=MarketState.POST_CLOSE,
)
daily.add(
    f"{_JOBS}.signals:run_signals",
    after=["build_numeric_windows", "update_profiles"],
    priority=JobPriority.CRITICAL,
)
daily.add(
    f"{_JOBS}.universes:run_universes",
    after=["run_signals"],
    priority=JobPriority.CRITICAL,
    after_previous=True,
)
daily.add(
    f"{_JOBS}.books:run_books",
    after=["run_universes"],
    priority=JobPriority.CRITICAL,
    after_previous=True,
)
