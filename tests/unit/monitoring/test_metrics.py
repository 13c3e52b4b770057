"""docs/metrics.md names the metrics that there are, and no others."""

from __future__ import annotations

import re

from prometheus.monitoring.metrics import CELERY_GAUGES, GAUGES, KEPT_COUNTS, KEPT_TIMES
from prometheus.monitoring.tally import COUNTS, TIMES
from tests.servers import REPOSITORY

PAGE = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_the_page_has_every_name_with_its_labels_and_meaning() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (gauge|info|counter|histogram) \| (.*?) ?\| (.+) \|$", PAGE, re.MULTILINE
    )
    info, *others = rows
    assert info[:2] == ("build_info", "info")
    assert others == [
        (name, kind, ", ".join(f"`{label}`" for label in labels), text)
        for name, kind, labels, text in (
            *((each.name, "gauge", each.labels, each.text) for each in GAUGES),
            *((each.name, "counter", each.labels, each.text) for each in KEPT_COUNTS),
            *((each.name, "histogram", each.labels, each.text) for each in KEPT_TIMES),
            *((each.name, "counter", each.labels, each.text) for each in COUNTS),
            *((each.name, "histogram", each.labels, each.text) for each in TIMES),
            *((f"celery_{each.name}", "gauge", each.labels, each.text) for each in CELERY_GAUGES),
        )
    ]


def test_the_page_has_every_value_of_a_label_that_is_counted() -> None:
    for count in (*COUNTS, *KEPT_COUNTS):
        for value in count.label[1] if count.label else ():
            assert f"`{value}`" in PAGE


def test_every_name_in_its_examples_is_one() -> None:
    (examples,) = re.findall(r"```promql\n(.+?)```", PAGE, re.DOTALL)
    used = set(re.findall(r"prometheus_markets_(\w+)", examples))
    assert used
    assert used <= {
        *(gauge.name for gauge in GAUGES),
        *(count.name for count in COUNTS),
        *(f"{time.name}_bucket" for time in TIMES),
        *(f"{time.name}_{end}" for time in KEPT_TIMES for end in ("sum", "count")),
    }
