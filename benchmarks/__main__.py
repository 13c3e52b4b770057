"""
Print every measurement, each beside what it is compared with in the same run.

    python -m benchmarks                    the hot paths (docs/performance.md tells of each)
    python -m benchmarks --quick            some of them in a minute
    python -m benchmarks --scaling          what larger installations rest on (docs/scaling.md)
    python -m benchmarks --compare          end with 1 where a ratio is worse than the stored one
    python -m benchmarks --store            keep it: benchmarks/results.json and both documents
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

from benchmarks import document, results
from benchmarks.day import measure_day
from benchmarks.document import TITLES
from benchmarks.figures import Figure, Rows, over_limits, ratio
from benchmarks.flows import measure_flows
from benchmarks.idle import measure_idle
from benchmarks.pages import measure_pages
from benchmarks.results import (
    ALONE,
    WORSE,
    Changes,
    Part,
    compare,
    share_of_cores,
    worse_twice,
)
from benchmarks.scale import measure_scale
from benchmarks.startup import measure_startup
from benchmarks.state import measure_states, measure_validate
from benchmarks.ticks import measure_ticks

FORMS: dict[str, dict[str, Callable[[], Rows]]] = {
    "full": {
        "flows": partial(measure_flows, quick=False),
        "ticks": partial(measure_ticks, quick=False),
        "states": partial(measure_states, quick=False),
        "validate": measure_validate,
        "startup": measure_startup,
        "idle": measure_idle,
        "pages": measure_pages,
    },
    "quick": {
        "flows": partial(measure_flows, quick=True),
        "ticks": partial(measure_ticks, quick=True),
        "states": partial(measure_states, quick=True),
    },
    "scaling": {
        "scale": measure_scale,
        "day": measure_day,
    },
}
"""Form -> part -> what measures it."""


def main() -> None:
    """Measure, print, compare and store."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    forms = parser.add_mutually_exclusive_group()
    for form, told in (
        ("quick", "some of it, in a minute"),
        ("scaling", "what a job costs each part, and a day of 100 markets"),
    ):
        forms.add_argument(
            f"--{form}", action="store_const", dest="form", const=form, default="full", help=told
        )
    parser.add_argument("--only", action="append", choices=list(TITLES), help="may be repeated")
    parser.add_argument("--compare", action="store_true", help="with the stored run of this form")
    parser.add_argument("--store", action="store_true", help="keep this run of this form")
    options = parser.parse_args()
    form = options.form
    measures = FORMS[form]
    if options.only:
        if strange := [name for name in options.only if name not in measures]:
            has = "; ".join(f"{form}: {', '.join(parts)}" for form, parts in FORMS.items())
            parser.error(f"this form has no {', '.join(strange)}, but {has}")
        measures = {name: measures[name] for name in measures if name in options.only}
    stored = results.load()
    if options.store and options.only and form not in stored:
        parser.error("--store keeps single parts beside those of a whole run, and none is stored")
    if options.compare and form not in stored:
        parser.error(f"no {form} run is stored; --store keeps one")
    before = stored[form]["parts"] if options.compare else {}

    share = share_of_cores() if options.store else 0
    parts: dict[str, Part] = {}
    failures: list[str] = []
    for name, measure in measures.items():
        began = time.monotonic()
        rows = measure()
        parts[name] = {"seconds": time.monotonic() - began, "rows": rows}
        known: Rows = before[name]["rows"] if name in before else {}
        print(f"\n{TITLES[name]} ({parts[name]['seconds']:.0f} s)")
        _tell(rows, compare(known, rows))
        failures += [f"over what is promised: {what}" for what in over_limits(rows)]
        failures += _worse(known, rows, measure)
    if options.store:
        share = min(share, share_of_cores())
        kept = results.run_of(parts, share)
        if options.only:
            kept = results.with_parts(stored[form], kept)
        results.store(stored | {form: kept})
        document.write_all(results.load())
    if failures:
        sys.exit("\n" + "\n".join(failures))


def _worse(stored: Rows, first: Rows, measure: Callable[[], Rows]) -> list[str]:
    shares: list[float] = []

    def again() -> Rows:
        print(f"  Worse than {WORSE} times what is stored: measured once more.", flush=True)
        shares.append(share_of_cores())
        second = measure()
        shares.append(share_of_cores())
        return second

    changes = worse_twice(stored, first, again)
    if changes and min(shares) < ALONE:
        print(
            f"  And worse again; but others are at work, {min(shares):.0%} of the cores were to be"
            " had: NOT JUDGED."
        )
        return []
    return [
        f"{what} is {change['now']:.2f} times {reference}, and was {change['stored']:.2f}"
        for (what, reference), change in changes.items()
    ]


def _tell(rows: Rows, changes: Changes) -> None:
    for what, row in rows.items():
        print(f"  {what:<38}{_line(row['ours'])}  {row['unit']}")
        for reference in row["references"]:
            line = _line(row["references"][reference])
            times = f"{ratio(row, reference):.2f} times"
            change = changes.get((what, reference))
            if change:
                times += f", {change['stored']:.2f} stored: {change['worse']:.2f} times as bad"
            print(f"    {reference:<36}{line}  {times}", flush=True)


def _line(figure: Figure) -> str:
    spread = f"{figure['median']:10.2f}  ({figure['least']:.2f} to {figure['most']:.2f})"
    rare = (f"{key} {figure[key]:.0f}" for key in ("p95", "p99", "statements") if key in figure)
    return "  ".join((f"{spread:<34}", *rare))


if __name__ == "__main__":
    main()
