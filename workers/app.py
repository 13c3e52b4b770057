"""The Celery application, made from the settings."""

import logging

from prometheus.bootstrap import make_runtime
from prometheus.errors import PrometheusError
from prometheus.settings import load_settings

log = logging.getLogger(__name__)

try:
    runtime = make_runtime(load_settings())
except PrometheusError as error:
    # Celery would print a traceback over what the message says.
    raise SystemExit(f"prometheus: {error}") from None

app = runtime.app


def say_faults() -> None:
    """Log what is wrong with the pipelines that this process leaves out."""
    for fault in runtime.faults:
        log.error("pipeline_left_out", extra={"fault": fault})


# Their receivers and steps connect themselves when they are imported.
import workers.signals  # noqa: E402, F401  needs `runtime`
