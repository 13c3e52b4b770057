"""What ``prometheus web`` becomes: ``python -m prometheus.monitoring``."""

from __future__ import annotations

import gc


def main() -> None:
    """Serve what the settings say, until SIGTERM or Ctrl-C."""
    # What is imported stays: to look for garbage in it would take a tenth of the time.
    gc.disable()
    from prometheus import log_lines
    from prometheus.errors import PrometheusError
    from prometheus.monitoring.serving import serve
    from prometheus.settings import load_settings

    gc.freeze()
    gc.enable()
    try:
        settings = load_settings()
        log_lines.configure()
        serve(settings)
    except PrometheusError as error:
        raise SystemExit(f"prometheus: {error}") from None


if __name__ == "__main__":
    main()
