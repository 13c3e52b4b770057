"""The Celery application, made from the settings."""

from prometheus.bootstrap import make_runtime
from prometheus.errors import PrometheusError
from prometheus.settings import load_settings

try:
    runtime = make_runtime(load_settings())
except PrometheusError as error:
    # Celery would print a traceback over what the message says.
    raise SystemExit(f"prometheus: {error}") from None

app = runtime.app

# Their receivers and steps connect themselves when they are imported.
import workers.signals  # noqa: E402, F401  needs `runtime`
