"""Measure what the shipped sessions cost: their size, and a process's time and memory for them.

    python -m tools.measure_sessions

Reading is measured in processes of their own, from an interpreter that has imported nothing of
Prometheus to one that answers for this year and the next. All times are processor time, so that
others at work on the machine matter less, and medians.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from statistics import median

THREE = ("US_EQ", "EU_EQ", "ASIA_EQ")
TIMES = 5
"""Of each measurement, for the median."""
LOOK_UPS = 50_000


@dataclass(frozen=True)
class Load:
    """What it takes a new process to answer for some markets."""

    seconds: float
    """From the start of the import to the last table."""
    rss: int
    """Bytes of memory then."""
    bare_rss: int
    """Bytes of memory before the import."""


@dataclass(frozen=True)
class Tables:
    """The tables of instants and states of some markets in a range of years."""

    count: int
    """One for each market and year."""
    instants: int
    bytes: int
    """In memory."""


def resident() -> int:
    """Return the bytes of memory that this process has."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS in /proc/self/status")


def answer(names: Sequence[str]) -> Load:
    """Import Prometheus here and now, and make the tables of this year and the next."""
    bare, began = resident(), time.process_time()
    from prometheus.core.market_state import get_market_state

    now = datetime.now(UTC)
    for name in names:
        get_market_state(name, now)
        # The year after is where a process that runs over New Year looks next; some end before.
        if known_at(name, following := now.replace(year=now.year + 1, day=1)):
            get_market_state(name, following)
    return Load(time.process_time() - began, resident(), bare)


def known_at(name: str, at: datetime) -> bool:
    """Say whether a market's calendar reaches a day beyond an instant."""
    from prometheus.core.trading_calendar import TradingCalendar

    return at.date() + timedelta(days=1) < TradingCalendar(name).horizon


def measure_load(names: Sequence[str], times: int = TIMES) -> Load:
    """Measure in new processes what it takes one to answer for these markets."""
    code = (
        "import dataclasses, json, sys; from tools.measure_sessions import answer; "
        "print(json.dumps(dataclasses.asdict(answer(json.load(sys.stdin)))))"
    )
    found = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(list(names)),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found.append(Load(**json.loads(done.stdout)))
    return sorted(found, key=lambda load: load.seconds)[times // 2]


def measure_tables(names: Sequence[str], first: int, last: int) -> Tables:
    """Make the tables of these markets from one year to another, as far as each is known."""
    from prometheus.core.market_state import _year_table
    from prometheus.core.trading_calendar import TradingCalendar

    count = instants = size = 0
    for name in names:
        calendar = TradingCalendar(name)
        start, end = max(first, calendar.first.year), min(last, calendar.horizon.year)
        for year in range(start, end + 1):
            starts, states = _year_table(calendar.exchanges, calendar.config, year)
            count += 1
            instants += len(starts)
            size += sys.getsizeof(starts) + sys.getsizeof(states) + sum(map(sys.getsizeof, starts))
    return Tables(count, instants, size)


def measure_look_ups(count: int = LOOK_UPS, times: int = TIMES) -> dict[str, float]:
    """Measure look-ups at random instants of 2015 to 2026: what is asked -> nanoseconds a call."""
    from prometheus.core.market_state import get_market_state, get_next_state_transition

    draw = random.Random(1)
    first, last = datetime(2015, 1, 2, tzinfo=UTC), datetime(2026, 12, 30, tzinfo=UTC)
    span = int((last - first).total_seconds())
    instants = [first + timedelta(seconds=draw.randrange(span)) for _ in range(count)]
    asked: dict[str, Callable[[datetime], object]] = {
        "state of XNYS": lambda at: get_market_state("XNYS", at),
        "state of ASIA_EQ": lambda at: get_market_state("ASIA_EQ", at),
        "next transition of XNYS": lambda at: get_next_state_transition("XNYS", at),
    }
    found = {}
    for name, look_up in asked.items():
        taken = []
        for _ in range(times + 1):
            began = time.process_time_ns()
            for at in instants:
                look_up(at)
            taken.append((time.process_time_ns() - began) / count)
        found[name] = median(taken[1:])  # the first one made the tables
    return found


def main() -> int:
    from prometheus.core.exchanges import exchange_mics, load_exchange
    from prometheus.core.markets import markets

    everything = [*(market.market_id for market in markets()), *exchange_mics()]
    contents = [
        path.read_bytes() for path in (files("prometheus.core") / "data" / "sessions").iterdir()
    ]
    size, packed = sum(map(len, contents)), sum(len(zlib.compress(each)) for each in contents)
    print(f"snapshot: {len(exchange_mics())} exchanges, {size:,} bytes, {packed:,} in a wheel")

    year = datetime.now(UTC).year
    horizon = max(load_exchange(mic).last.year for mic in exchange_mics())
    for name, markets_of, first, last in (
        (f"tables of {', '.join(THREE)}, {year}", THREE, year, year),
        (f"tables of all {len(everything)} markets and exchanges, {year}", everything, year, year),
        ("tables of all exchanges, 2000 to horizon", exchange_mics(), 2000, horizon),
    ):
        found = measure_tables(markets_of, first, last)
        print(f"{name}: {found.instants:,} instants, {found.bytes:,} bytes")

    for name, asked in (
        (", ".join(THREE), THREE),
        (f"all {len(everything)} markets and exchanges", everything),
    ):
        load = measure_load(asked)
        print(
            f"a new process answers for {name}: {load.seconds * 1000:.0f} ms of processor time, "
            f"{load.rss / 2**20:.1f} MiB resident ({load.bare_rss / 2**20:.1f} before)"
        )
    for name, nanoseconds in measure_look_ups().items():
        print(f"{name}: {nanoseconds:,.0f} ns a look-up")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
