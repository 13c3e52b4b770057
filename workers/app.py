"""The Celery application, made from the settings."""

import logging

from prometheus.bootstrap import make_runtime
from prometheus.core.markets import get_market
from prometheus.errors import PrometheusError
from prometheus.settings import load_settings

log = logging.getLogger(__name__)

try:
    runtime = make_runtime(load_settings(holding=True))
except PrometheusError as error:
    # Celery would print a traceback over what the message says.
    raise SystemExit(f"prometheus: {error}") from None

app = runtime.app


def say_what_will_not_run() -> None:
    """Log which markets are held and pipelines left out here, and which have no market."""
    for market_id in runtime.settings.markets.enabled:
        for fault in get_market(market_id).faults:
            log.error("market_held", extra={"market": market_id, "fault": fault})
    for fault in runtime.faults:
        log.error("pipeline_left_out", extra={"fault": fault})
    for pipeline in runtime.pipelines.values():
        if not set(pipeline.markets) & set(runtime.settings.markets.enabled):
            facts = {"pipeline": pipeline.name, "markets": ", ".join(pipeline.markets)}
            log.warning("no_market_enabled", extra=facts)


# Their receivers and steps connect themselves when they are imported.
import workers.signals  # noqa: E402, F401  needs `runtime`
