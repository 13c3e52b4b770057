"""The tables of ``docs/performance.md`` and ``docs/scaling.md``, written from what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import limits
from benchmarks.day import BIGGEST, BIGGEST_JOBS, BIGGEST_RUNS, DAY_KEPT, LOST, MEMORY, RACE
from benchmarks.figures import Figure, Row, Rows, over_limits, ratio
from benchmarks.flows import BARE, COMMITS, FLOOD, GAP, NINE, SQLITE
from benchmarks.idle import ALL, CHILD, WORKER
from benchmarks.results import ALONE, Circumstances, Part, Results, Run
from benchmarks.scale import KEPT, TRANSACTIONS, WAL
from benchmarks.state import ORACLE
from benchmarks.ticks import burst_of, tick_beside

_DOCS = Path(__file__).parent.parent / "docs"
FILE = _DOCS / "performance.md"
SCALING = _DOCS / "scaling.md"
_COMMANDS = {
    "full": "`make bench`",
    "quick": "`make bench-quick`",
    "scaling": "`make bench-scaling`",
}
TITLES = {
    "flows": "Graphs of jobs",
    "ticks": "The scheduler",
    "states": "State look-ups",
    "validate": "Examining a DAG",
    "startup": "Beginning",
    "idle": "Nothing to do",
    "pages": "Pages and lists beside a million executions",
    "scale": "What a job costs each part",
    "day": "A day of 100 markets with 500 jobs each",
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
        said = _marked(self.said, run["parts"][self.part])
        return _told(said, value, met=self.at_least <= value <= self.at_most)


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


def write_all(results: Results) -> None:
    """Put what is stored into all documents."""
    for file, put in ((FILE, write), (SCALING, write_scaling)):
        file.write_text(put(file.read_text(encoding="utf-8"), results), encoding="utf-8")


def write(text: str, results: Results) -> str:
    """
    Put what is stored into the document of how fast it is.

    Args:
        text: The document as it is; what stands between the marks of a name is replaced.
    """
    full = results["full"]
    parts = {
        "targets": _targets(full),
        "machine": _machine(full, whole=True),
        "took": "\n".join(_took(results)),
        "figures": _figures(full),
    }
    return _put(text, parts)


def write_scaling(text: str, results: Results) -> str:
    """Put what is stored into the document of what limits it, as `write` does."""
    run = results["scaling"]
    rows = run["parts"]["scale"]["rows"] | run["parts"]["day"]["rows"]
    parts = {
        "machine": _machine(run, whole=False),
        "costs": "\n".join(_costs(rows)),
        "schedulers": "\n".join(_schedulers(rows)),
        "sizes": "\n".join(_sizes(rows)),
        "figures": _figures(run),
    }
    return _put(text, parts)


def _costs(rows: Rows) -> Iterator[str]:
    yield "| | ms of a core, least to most | jobs a second that fill a core |"
    yield "|---|---|---|"
    for told, least, most, carried in limits.costs(rows):
        yield f"| {told} | {_number(least)} to {_number(most)} | {_number(carried)} |"


def _schedulers(rows: Rows) -> Iterator[str]:
    yield "| a tick beside 100 open runs of 500 jobs | ms of a core | % of a core, every 3 s |"
    yield "|---|---|---|"
    for told, cost, percent in limits.schedulers(rows):
        yield f"| {told} | {_number(cost)} | {_number(percent)} |"


def _sizes(rows: Rows) -> Iterator[str]:
    yield "| | median (least to most) |"
    yield "|---|---|"
    for name in (BIGGEST, BIGGEST_RUNS, BIGGEST_JOBS, RACE, LOST, MEMORY, TRANSACTIONS, WAL, KEPT,
                 DAY_KEPT):  # fmt: skip
        row = rows[name]
        unit = f", {row['unit']}" if row["unit"] else ""
        yield f"| {name}{unit} | {_spread(row['ours'])} |"
        for told, figure in row["references"].items():
            yield f"| … {told} | {_spread(figure)} |"


def _put(text: str, parts: Mapping[str, str]) -> str:
    for name, written in parts.items():
        start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"the document has no marks of {name}")
        text = before + start + written + end + after
    return text


def _targets(run: Run) -> str:
    lines = ["| meant is | measured | |", "|---|---|---|"]
    lines += (target.told(run) for target in TARGETS)
    seconds = run["seconds"]
    lines.append(_told("`make bench`: at most 600 s", seconds, met=seconds <= 600))
    pages = run["parts"]["pages"]
    over = over_limits(pages["rows"])
    limits = "[pages and lists](pages.md#how-quick-they-are) over their limits: none"
    lines.append(_told(_marked(limits, pages), len(over), met=not over))
    return "\n".join(lines)


def _marked(said: str, part: Part) -> str:
    return f"{said} (another run)" if "apart" in part else said


def _told(said: str, value: float, *, met: bool) -> str:
    return f"| {said} | {_number(value)} | {'met' if met else '**not met**'} |"


def _machine(run: Run, *, whole: bool) -> str:
    """
    Say where and when parts were measured, first those of the whole run.

    Args:
        whole: Something is told of the run as a whole, even if all parts are of others by now.
    """
    apart: dict[str, list[str]] = {}
    for name, part in run["parts"].items():
        if "apart" in part:
            apart.setdefault(_circumstances(part["apart"]), []).append(f"*{TITLES[name]}*")
    told = [f"{', '.join(titles)}: of another run, {each}" for each, titles in apart.items()]
    if whole or sum(map(len, apart.values())) < len(run["parts"]):
        told.insert(0, f"Measured {_circumstances(run)}")
    return "\n\n".join(told)


def _circumstances(told: Circumstances) -> str:
    named = ", ".join(f"{name} {value}" for name, value in told["machine"].items())
    provisional = ""
    if told["share"] < ALONE:
        provisional = (
            f" **Others were at work meanwhile, {told['share']:.0%} of the cores were to be had:"
            " these figures are provisional, those of processor time less so.**"
        )
    return f"on {told['date']}: {named}.{provisional}"


def _took(results: Results) -> Iterator[str]:
    """Tell what parts took in each form, and where that was."""
    runs = {_COMMANDS[form]: results[form] for form in _COMMANDS if form in results}

    def line(told: str, tell: Callable[[Run], str]) -> str:
        return f"| {' | '.join((told, *map(tell, runs.values())))} |"

    def seconds(run: Run, name: str) -> str:
        part = run["parts"].get(name)
        return _marked(f"{part['seconds']:.0f}", part) if part else ""

    yield f"| seconds | {' | '.join(runs)} |"
    yield "|---" * (len(runs) + 1) + "|"
    for name, title in TITLES.items():
        yield line(title, partial(seconds, name=name))
    yield line("all of it, in one run", lambda run: f"{run['seconds']:.0f}")
    yield line("on", lambda run: f"{run['date']}, {run['machine']['processor']}")


def _figures(run: Run) -> str:
    return "\n\n".join(_section(name, run["parts"][name]) for name in run["parts"])


def _section(name: str, part: Part) -> str:
    above = (f"Of another run, {_circumstances(part['apart'])}", "") if "apart" in part else ()
    return "\n".join((f"### {TITLES[name]}", "", *above, *_table(part["rows"])))


def _table(rows: Rows) -> Iterator[str]:
    yield "| | median (least to most) | rare | beside | median (least to most) | rare | times |"
    yield "|---|---|---|---|---|---|---|"
    for what, row in rows.items():
        unit = f", {row['unit']}" if row["unit"] else ""
        ours = f"| **{what}**{unit} | {_cells(row['ours'])}"
        if not row["references"]:
            yield f"{ours} | | | | |"
        for reference, figure in row["references"].items():
            yield f"{ours} | {reference} | {_cells(figure)} | {ratio(row, reference):.2f} |"
            ours = "| | |"


def _cells(figure: Figure) -> str:
    rare = figure.get("p99", figure.get("p95"))
    return f"{_spread(figure)} | {'' if rare is None else _number(rare)}"


def _spread(figure: Figure) -> str:
    spread = f"{_number(figure['least'])} to {_number(figure['most'])}"
    return f"{_number(figure['median'])} ({spread})"


def _number(value: float) -> str:
    """Write three digits that count."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"
