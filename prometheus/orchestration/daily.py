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


def standard_pipeline(*, patient: bool = False) -> Pipeline:
    """
    Make the standard pipeline.

    Args:
        patient: With a sensor before ``ingest_prices``, which waits until the source has the
            session's prices: polled from 20 minutes after the close; late 30 minutes after it in
            the US and 3 hours elsewhere, and given up after 6 and 8.
    """
    pipeline = Pipeline("daily", markets=["US_EQ", "EU_EQ", "ASIA_EQ"])
    if patient:
        pipeline.add_sensor(
            f"{_JOBS}.readiness:prices_ready",
            required_state=MarketState.POST_CLOSE,
            start="close+20m",
            expected={"US_EQ": "close+30m", "EU_EQ": "close+3h", "ASIA_EQ": "close+3h"},
            give_up={"US_EQ": "close+6h", "EU_EQ": "close+8h", "ASIA_EQ": "close+8h"},
            priority=JobPriority.CRITICAL,
            max_retries=5,
        )
    pipeline.add(
        f"{_JOBS}.prices:ingest_prices",
        after=["prices_ready"] if patient else [],
        required_state=MarketState.POST_CLOSE,
        priority=JobPriority.CRITICAL,
        max_retries=5,
    )
    pipeline.add(f"{_JOBS}.factors:ingest_factors", required_state=MarketState.POST_CLOSE)
    pipeline.add(
        f"{_JOBS}.returns:compute_returns", after=["ingest_prices"], priority=JobPriority.CRITICAL
    )
    pipeline.add(
        f"{_JOBS}.volatility:compute_volatility",
        after=["ingest_prices"],
        priority=JobPriority.CRITICAL,
    )
    pipeline.add(
        f"{_JOBS}.windows:build_numeric_windows",
        after=["compute_returns", "compute_volatility"],
        priority=JobPriority.CRITICAL,
        timeout=timedelta(hours=2),
    )
    pipeline.add(
        f"{_JOBS}.profiles:update_profiles",
        after=["build_numeric_windows"],
        required_state=MarketState.POST_CLOSE,
    )
    pipeline.add(
        f"{_JOBS}.signals:run_signals",
        after=["build_numeric_windows", "update_profiles"],
        priority=JobPriority.CRITICAL,
    )
    pipeline.add(
        f"{_JOBS}.universes:run_universes",
        after=["run_signals"],
        priority=JobPriority.CRITICAL,
        after_previous=True,
    )
    pipeline.add(
        f"{_JOBS}.books:run_books",
        after=["run_universes"],
        priority=JobPriority.CRITICAL,
        after_previous=True,
    )
    return pipeline


daily = standard_pipeline()
