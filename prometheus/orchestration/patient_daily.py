"""
The standard pipeline ``daily``, whose prices wait until their source has them.

Named in the settings instead of `prometheus.orchestration.daily`, it adds the sensor
``prices_ready`` before ``ingest_prices``. For a bundled or synthetic source it is ready at once.
"""

from __future__ import annotations

from prometheus.orchestration.daily import standard_pipeline

daily = standard_pipeline(patient=True)
