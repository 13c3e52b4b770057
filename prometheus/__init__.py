"""Prometheus: daily pipelines that follow the sessions of every market, on Celery."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus.core.market_state import MarketState
    from prometheus.dispatch.context import JobContext
    from prometheus.orchestration.dag import JobPriority as Priority
    from prometheus.orchestration.pipeline import Pipeline

__all__ = ["JobContext", "MarketState", "Pipeline", "Priority"]

_HOMES = {
    "JobContext": "prometheus.dispatch.context",
    "MarketState": "prometheus.core.market_state",
    "Pipeline": "prometheus.orchestration.pipeline",
    "Priority": "prometheus.orchestration.dag",
}


def __getattr__(name: str) -> object:
    """Import what users need when they ask for it: the calendars alone must stay light."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'prometheus' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    return getattr(module, "JobPriority" if name == "Priority" else name)
