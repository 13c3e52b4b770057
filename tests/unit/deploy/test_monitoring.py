"""What ``deploy/`` asks the monitoring system for: only what there is, and in what words."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
import yaml

from prometheus.monitoring.metrics import GAUGES, KEPT_COUNTS, KEPT_TIMES
from prometheus.monitoring.tally import COUNTS, TIMES
from tests.deployments import DEPLOY, parse

RULES = DEPLOY / "prometheus" / "alerts.yml"
LABELS: dict[str, set[str]] = {
    "build_info": set(),
    **{gauge.name: set(gauge.labels) for gauge in GAUGES},
    **{count.name: set(count.labels) for count in (*COUNTS, *KEPT_COUNTS)},
    **{f"{time.name}_bucket": {*time.labels, "le"} for time in (*TIMES, *KEPT_TIMES)},
    **{f"{time.name}_{end}": set(time.labels) for time in KEPT_TIMES for end in ("sum", "count")},
}
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "markets.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel.get("targets", ())]
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}


@pytest.mark.parametrize(
    "query",
    [
        *QUERIES,
        *(rule["expr"] for rule in ALERTS),
        *(each["definition"] for each in VARIABLES.values() if "definition" in each),
    ],
)
def test_every_name_and_label_is_one(query: str) -> None:
    found = re.findall(r"prometheus_markets_(\w+)(?:\{(.*?)\})?", query)
    assert found or "up{" in query
    for name, selected in found:
        assert name in LABELS
        assert set(re.findall(r"(\w+)[=!]", selected)) <= {*LABELS[name], "job"}


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}
        for command in re.findall(r"`prometheus ([^`]+)`", rule["annotations"]["description"]):
            parse(shlex.split(re.sub(r"\{\{.+?\}\}", "US_EQ", command)))


def test_every_alert_is_tried_before_and_after_it_fires() -> None:
    """By promtool, where there is one: tests/acceptance/test_monitoring.py."""
    tests = yaml.safe_load((RULES.parent / "alerts_test.yml").read_text())["tests"]
    fires, is_silent = set(), set()
    for asked in (each for test in tests for each in test["promql_expr_test"]):
        samples = asked.get("exp_samples", [])
        fires |= set(re.findall(r'alertname="(\w+)"', str(samples)))
        for rule in ALERTS:
            selected = re.findall(r'alertname(?:=~?)"(.+?)"', asked["expr"])
            if rule["alert"] not in str(samples) and any(
                re.fullmatch(each, rule["alert"]) for each in selected
            ):
                is_silent.add(rule["alert"])
    names = {rule["alert"] for rule in ALERTS}
    assert fires == names
    assert is_silent == names


def test_every_panel_asks_the_chosen_source_about_the_chosen_installation() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    for panel in PANELS:
        assert (panel["type"] == "row") != bool(panel.get("targets"))
        for target in panel.get("targets", ()):
            assert (
                target["datasource"]
                == panel["datasource"]
                == {
                    "type": "prometheus",
                    "uid": "${datasource}",
                }
            )
            selectors = re.findall(r"prometheus_markets_\w+\{(.*?)\}", target["expr"])
            assert all('job="$job"' in each for each in selectors)
            assert len(selectors) == target["expr"].count("prometheus_markets_")
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used <= {*VARIABLES, "__rate_interval", "__range"}


def test_no_panel_covers_another() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    covered: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert all(x < 24 for x, _ in cells)
        assert not cells & covered
        covered |= cells
