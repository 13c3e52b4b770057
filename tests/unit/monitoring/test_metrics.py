"""docs/metrics.md names the metrics that there are, and no others."""

from __future__ import annotations

import re

from prometheus.monitoring.metrics import GAUGES
from tests.servers import REPOSITORY

PAGE = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_the_page_has_every_name_with_its_labels_and_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (gauge|info) \| (.*?) ?\| (.+) \|$", PAGE, re.MULTILINE)
    info, *gauges = rows
    assert info[:2] == ("build_info", "info")
    assert gauges == [
        (gauge.name, "gauge", ", ".join(f"`{name}`" for name in gauge.labels), gauge.text)
        for gauge in GAUGES
    ]


def test_every_name_in_its_examples_is_one() -> None:
    (examples,) = re.findall(r"```promql\n(.+?)```", PAGE, re.DOTALL)
    used = set(re.findall(r"prometheus_markets_(\w+)", examples))
    assert used
    assert used <= {gauge.name for gauge in GAUGES}
