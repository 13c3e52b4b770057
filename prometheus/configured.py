"""The pipelines of the settings."""

from __future__ import annotations

from pathlib import Path

from prometheus.orchestration.pipeline import Pipeline
from prometheus.pipelines.loading import find_pipelines, load_pipelines
from prometheus.settings import Settings


def configured_pipelines(settings: Settings) -> dict[str, Pipeline]:
    """
    Load the pipelines of the settings.

    Raises:
        PipelineError: With every fault of every one of them.
    """
    return load_pipelines(
        settings.pipelines.modules,
        visibility_timeout=settings.broker.visibility_timeout,
        folder=Path.cwd(),
        feed=settings.eodhd.feed(),
    )


def sound_pipelines(settings: Settings) -> tuple[dict[str, Pipeline], list[str]]:
    """Load the pipelines of the settings; return those without faults, and the others' faults."""
    return find_pipelines(
        settings.pipelines.modules,
        visibility_timeout=settings.broker.visibility_timeout,
        folder=Path.cwd(),
        feed=settings.eodhd.feed(),
    )
