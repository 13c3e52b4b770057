"""Print every measurement, each beside what it is compared with in the same run."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.commands import measure_commands
from benchmarks.figures import Figure
from benchmarks.flows import REFERENCES, measure_flows
from benchmarks.idle import measure_idle
from benchmarks.pages import BIG, MOST_STATEMENTS, measure_pages, over_limits
from benchmarks.state import measure_states, measure_validate
from benchmarks.ticks import measure_ticks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--only", action="append", choices=list(_PARTS), help="may be repeated")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    if not options.json:
        print(f"{platform.machine()}, Python {platform.python_version()}; medians")
    for name in options.only or _PARTS:
        key, measure, tell = _PARTS[name]
        figures[key] = measure()
        if not options.json:
            print()
            tell(figures[key])
    if options.json:
        print(json.dumps(figures, indent=2))
    if "pages" in figures and (over := over_limits(figures["pages"])):
        sys.exit(f"over what is promised of pages and lists: {', '.join(over)}")


def _tell_states(states: dict[str, float | None]) -> None:
    print("get_market_state, aware UTC at random instants of 2015-2026")
    for market in ("XNYS", "US_EQ", "ASIA_EQ"):
        print(f"  {market:<12} {states[market + '_ns']:8.0f} ns a call")
    if states["ratio"] is None:
        print("  exchange_calendars: not installed; `make sessions` makes its environment")
    else:
        print(
            f"  exchange_calendars is_open_on_minute {states['exchange_calendars_ns']:.0f} ns: "
            f"{states['ratio']:.1f} times as long"
        )


def _tell_validate(validate: dict[int, float]) -> None:
    print("DAG.validate")
    for size, microseconds in validate.items():
        print(f"  {size:>6} jobs {microseconds:10.0f} µs  {microseconds / size:6.2f} µs a job")


def _tell_commands(commands: dict[str, dict[str, float]]) -> None:
    print("commands, each a process of its own")
    for command, took in commands.items():
        print(
            f"  {command:<44} {took['wall_ms']:6.0f} ms, {took['cpu_ms']:.0f} ms of processor time"
        )


def _tell_flows(flows: dict[str, dict[str, Figure]]) -> None:
    print("graphs of jobs, each worker of two processes, on PostgreSQL (or SQLite) and Redis")
    for workload, subjects in flows.items():
        print(f"  {workload}")
        for name, figure in subjects.items():
            reference = subjects.get(REFERENCES.get(name, ""))
            ratio = f"  {figure['median'] / reference['median']:.2f} times" if reference else ""
            if reference and "p99" in figure:
                ratio += f", p99 {figure['p99'] / reference['p99']:.2f} times"
            print(f"    {name:<28}{_line(figure)}{ratio}")
    print("  Times: what Celery takes with three commits a job in the same database.")


def _tell_ticks(ticks: dict[str, Figure]) -> None:
    print("tick of the scheduler, PostgreSQL and Redis, ms")
    for what, figure in ticks.items():
        print(f"  {what:<20}{_line(figure)}")


def _line(figure: Figure) -> str:
    spread = f"{figure['median']:9.2f}  ({figure['least']:.2f} to {figure['most']:.2f})"
    return spread + (f"  p99 {figure['p99']:.2f}" if "p99" in figure else "")


def _tell_idle(kinds: dict[str, dict[str, float]]) -> None:
    print("`prometheus up` with nothing to do: share of memory (PSS), time of one core")
    for name, kind in kinds.items():
        print(
            f"  {kind['count']:2.0f} {name:<16}{kind['pss_mb']:7.1f} MB"
            f"{kind['core_percent']:7.2f} %"
        )


def _tell_pages(found: dict[str, Any]) -> None:
    rows = ", ".join(f"{count:,} {table}" for table, count in found["rows"].items())
    print(f"pages and lists, PostgreSQL with {rows} (filled in {found['filled_seconds']:.0f} s)")
    print(f"  {'':<34}{'p50':>8}{'p95':>8}{'max':>8} ms  queries")
    for name, page in found["pages"].items():
        times = "".join(f"{page[key]:8.1f}" for key in ("p50_ms", "p95_ms", "max_ms"))
        slow = f"  slower than {page['limit_ms']:.0f} ms" if not page["quick"] else ""
        many = f"  more than {MOST_STATEMENTS} queries" if not page["few"] else ""
        other = "  no page or list" if page["limit_ms"] is None else ""
        print(f"  {name:<34}{times}{page['statements']:>10}{slow}{many}{other}")
    print(
        "  Among the queries is the one by which every request asks who makes it.\n"
        f"  The first request is among the times. A run of {BIG:,} jobs may take a second."
    )


_PARTS: dict[str, tuple[str, Callable[[], Any], Callable[[Any], None]]] = {
    "states": ("states", measure_states, _tell_states),
    "validate": ("validate_us", measure_validate, _tell_validate),
    "commands": ("commands", measure_commands, _tell_commands),
    "flows": ("flows", measure_flows, _tell_flows),
    "ticks": ("ticks_ms", measure_ticks, _tell_ticks),
    "idle": ("idle", measure_idle, _tell_idle),
    "pages": ("pages", measure_pages, _tell_pages),
}
"""Name -> key in the document, what measures it, and what prints that."""


if __name__ == "__main__":
    main()
