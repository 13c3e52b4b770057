"""The tables of ``docs/performance.md``, which are written from what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, Row, Rows, over_limits, ratio
from benchmarks.flows import BARE, COMMITS, FLOOD, GAP, NINE, SQLITE
from benchmarks.idle import ALL, CHILD, WORKER
from benchmarks.results import ALONE, Results, Run
from benchmarks.state import ORACLE
from benchmarks.ticks import burst_of, tick_beside

FILE = Path(__file__).parent.parent / "docs" / "performance.md"
TITLES = {
    "flows": "Graphs of jobs",
    "ticks": "The scheduler",
    "states": "State look-ups",
    "validate": "Examining a DAG",
    "startup": "Beginning",
    "idle": "Nothing to do",
    "pages": "Pages and lists beside a million executions",
}


@dataclass(frozen=True)
class Target:
    """What is promised of a row."""

    said: str
    part: str
    row: str
    take: Callable[[Row], float]
    at_most: float
    at_least: float = 0

    def told(self, run: Run) -> str:
        """Tell the value, and whether that is within the bounds."""
        row = run["parts"].get(self.part, {"rows": {}})["rows"].get(self.row)
        try:
            value = self.take(row) if row else None
        except KeyError:  # a reference that was not installed
            value = None
        if value is None:
            return f"| {self.said} | – | not measured |"
        return _told(self.said, value, met=self.at_least <= value <= self.at_most)


def _times(reference: str, key: str = "median") -> Callable[[Row], float]:
    return lambda row: ratio(row, reference, key)


def _median(row: Row) -> float:
    return row["ours"]["median"]


ANY = float("inf")
TARGETS = (
    Target(f"{GAP}: at most 1.5 × Celery with three commits", "flows", GAP, _times(COMMITS), 1.5),
    Target("its p99: at most 3 × that of Celery with three commits", "flows", GAP,
           _times(COMMITS, "p99"), 3),
    Target("the same on SQLite: at most 2 × Celery with three SQLite commits", "flows",
           f"{GAP}, SQLite", _times(SQLITE), 2),
    Target("the references are quick: Celery's own gap is 1 to 4 ms", "flows", GAP,
           lambda row: row["references"][BARE]["median"], 4, 1),
    Target(f"{NINE}, from claim to last end: at most 2 × Celery with three commits", "flows", NINE,
           _times(COMMITS), 2),
    Target(f"{FLOOD}, all rows written: at least 0.7 × Celery with three commits", "flows", FLOOD,
           _times(COMMITS), ANY, 0.7),
    Target("claiming and publishing them: at least 3,000 jobs a second", "ticks", burst_of(5_000),
           _median, ANY, 3_000),
    Target("a burst of 1,000 claimed and published: at most 500 ms", "ticks", burst_of(1_000),
           lambda row: 1_000_000 / _median(row), 500),
    Target("a tick with nothing to do beside 10,000 pending jobs: at most 2 ms", "ticks",
           tick_beside(10_000), _median, 2),
    Target("beside 100,000: at most 1.3 × of that", "ticks", tick_beside(100_000),
           _times(tick_beside(10_000)), 1.3),
    Target("`get_market_state` at random instants of UTC: at most 800 ns", "states",
           "state of XNYS", _median, 800),
    Target("at least 5 × faster than exchange_calendars", "states", "state of XNYS",
           lambda row: 1 / ratio(row, ORACLE), ANY, 5),
    Target("building the three default markets: at most 30 ms", "startup",
           "three default markets", _median, 30),
    Target("`import prometheus`: at most 120 ms", "startup", "import prometheus", _median, 120),
    Target("memory of beat: at most 70 MB", "idle", "memory of beat", _median, 70),
    Target("of a worker: at most 70 MB", "idle", f"memory of {WORKER}", _median, 70),
    Target("of each of its children: at most 25 MB", "idle", f"memory of {CHILD}",
           lambda row: row["ours"]["most"], 25),
    Target("of the whole embedded stack: at most 300 MB", "idle", f"memory of {ALL}", _median, 300),
    Target("all of it idle: under 2 % of a core", "idle", f"processor time of {ALL}", _median, 2),
)  # fmt: skip


def write(text: str, results: Results) -> str:
    """
    Put what is stored into the document.

    Args:
        text: The document as it is; what stands between the marks of a name is replaced.
    """
    full = results["full"]
    parts = {
        "targets": _targets(full),
        "machine": _machine(full),
        "took": _took(results),
        "figures": "\n\n".join(_section(name, full) for name in full["parts"]),
    }
    for name, written in parts.items():
        start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{FILE.name} has no marks of {name}")
        text = before + start + written + end + after
    return text


def _targets(run: Run) -> str:
    lines = ["| meant is | measured | |", "|---|---|---|"]
    lines += (target.told(run) for target in TARGETS)
    seconds = sum(part["seconds"] for part in run["parts"].values())
    lines.append(_told("`make bench`: at most 600 s", seconds, met=seconds <= 600))
    over = over_limits(run["parts"]["pages"]["rows"])
    limits = "[pages and lists](pages.md#how-quick-they-are) over their limits: none"
    lines.append(_told(limits, len(over), met=not over))
    return "\n".join(lines)


def _told(said: str, value: float, *, met: bool) -> str:
    return f"| {said} | {_number(value)} | {'met' if met else '**not met**'} |"


def _machine(run: Run) -> str:
    named = ", ".join(f"{name} {value}" for name, value in run["machine"].items())
    told = f"Measured on {run['date']}: {named}."
    if run["share"] < ALONE:
        told += " **Others were at work meanwhile: all of these figures are provisional.**"
    return told


def _took(results: Results) -> str:
    lines = ["| | `make bench`, s | `make bench-quick`, s |", "|---|---|---|"]
    forms = [results[form]["parts"] for form in ("full", "quick") if form in results]
    for name in forms[0]:
        cells = (f"{form[name]['seconds']:.0f}" if name in form else "" for form in forms)
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _section(name: str, run: Run) -> str:
    return "\n".join((f"### {TITLES[name]}", "", *_table(run["parts"][name]["rows"])))


def _table(rows: Rows) -> Iterator[str]:
    yield "| | median (least to most) | rare | beside | median (least to most) | rare | times |"
    yield "|---|---|---|---|---|---|---|"
    for what, row in rows.items():
        ours = f"| **{what}**, {row['unit']} | {_cells(row['ours'])}"
        for reference, figure in row["references"].items():
            yield f"{ours} | {reference} | {_cells(figure)} | {ratio(row, reference):.2f} |"
            ours = "| | |"


def _cells(figure: Figure) -> str:
    spread = f"{_number(figure['least'])} to {_number(figure['most'])}"
    rare = figure.get("p99", figure.get("p95"))
    return f"{_number(figure['median'])} ({spread}) | {'' if rare is None else _number(rare)}"


def _number(value: float) -> str:
    """Write three digits that count."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"
