"""Compare the shipped sessions with exchange_calendars, apart from how they were built.

    python -m tools.check_sessions            every session since 2000, 10 million random minutes

Run it in the environment of ``build_sessions.py``. It reads the snapshot as Prometheus does and
exchange_calendars itself, and shares no code with the build:

1. Every session from 2000 to each exchange's horizon must have the same existence, open, close and
   breaks. Where it has not, an entry of ``corrections.toml`` must name that date; each such entry
   is listed with how many sessions it changes and its source.
2. At random minutes `get_market_state` must answer what the sessions of exchange_calendars say,
   but for those differences.

Ends with 1 for a difference that nothing explains.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prometheus.core.exchanges import exchange_mics, load_exchange
from prometheus.core.market_state import MarketState, get_market_state

SINCE = date(2000, 1, 1)
THEIR_NAMES = {"24x7": "24/7", "24x5": "24/5"}
PRE_OPEN, POST_CLOSE = 60 * 60, 120 * 60
ORDER = (
    MarketState.HOLIDAY,
    MarketState.OVERNIGHT,
    MarketState.POST_CLOSE,
    MarketState.PRE_OPEN,
    MarketState.SESSION,
)
MOST_SHOWN = 20

Seconds = NDArray[np.int64]


@dataclass(frozen=True)
class Known:
    """The instants of one session, in seconds of the epoch."""

    open: int
    close: int
    breaks: tuple[tuple[int, int], ...]


def theirs(mic: str) -> dict[date, Known]:
    """Read the sessions of exchange_calendars."""
    import exchange_calendars
    import pandas as pd

    exchange = load_exchange(mic)
    calendar = exchange_calendars.get_calendar(
        THEIR_NAMES.get(mic, mic), start=str(max(SINCE, exchange.first)), end=str(exchange.last)
    )
    found = {}
    for row in calendar.schedule.itertuples():
        breaks: tuple[tuple[int, int], ...] = ()
        if not pd.isna(row.break_start):
            breaks = ((int(row.break_start.timestamp()), int(row.break_end.timestamp())),)
        found[row.Index.date()] = Known(
            int(row.open.timestamp()), int(row.close.timestamp()), breaks
        )
    return found


def ours(mic: str) -> dict[date, Known]:
    """Read the sessions of the snapshot."""
    exchange = load_exchange(mic)
    day, found = max(SINCE, exchange.first), {}
    while day <= exchange.last:
        if exchange.is_session(day):
            session = exchange.session(day)
            found[day] = Known(
                int(session.open.timestamp()),
                int(session.close.timestamp()),
                tuple((int(a.timestamp()), int(b.timestamp())) for a, b in session.breaks),
            )
        day += timedelta(days=1)
    return found


def explanation(corrections: Mapping[str, Any], mic: str, day: date) -> str | None:
    """Find the entry that says this date is to be different; its reason and source."""
    for entry in corrections["day"]:
        if entry["mic"] == mic and day in entry["dates"]:
            return f"{entry['reason']} [{entry['source']}]"
    for entry in corrections["hours"]:
        if entry["mic"] == mic and (
            entry.get("from", date.min) <= day <= entry.get("until", date.max)
        ):
            return f"{entry['reason']} [{entry['source']}]"
    return None


def states(mic: str, sessions: Mapping[date, Known], at: Seconds) -> NDArray[np.int8]:
    """Say what the sessions make of each instant, as an index into `ORDER`."""
    exchange = load_exchange(mic)
    first, last = max(SINCE, exchange.first), exchange.last
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    midnights = np.array([int(exchange.midnight(day).timestamp()) for day in days])
    traded = np.array([day in sessions for day in days])
    found = traded[np.searchsorted(midnights, at, "right") - 1].astype(np.int8)

    opens = np.array([known.open for known in sessions.values()])
    closes = np.array([known.close for known in sessions.values()])
    assert (np.diff(opens) > 0).all()
    assert (np.diff(closes) > 0).all()
    ended = np.searchsorted(closes, at, "right") - 1
    found[(ended >= 0) & (at < closes[np.maximum(ended, 0)] + POST_CLOSE)] = 2
    begun = np.searchsorted(opens, at, "right") - 1
    following = np.minimum(begun + 1, len(opens) - 1)
    found[(begun + 1 < len(opens)) & (at >= opens[following] - PRE_OPEN)] = 3
    found[(begun >= 0) & (at < closes[np.maximum(begun, 0)])] = 4
    return found


def probe(mic: str, sessions: Mapping[date, Known], at: Seconds) -> list[str]:
    """Ask for the state at each instant, and say where it is not what the sessions say."""
    expected = states(mic, sessions, at)
    code = {state: index for index, state in enumerate(ORDER)}
    instants = [datetime.fromtimestamp(second, UTC) for second in at.tolist()]
    found = np.fromiter(
        (code[get_market_state(mic, instant)] for instant in instants), np.int8, len(instants)
    )
    return [
        f"{mic} {instants[index]}: {ORDER[found[index]]}, expected {ORDER[expected[index]]}"
        for index in np.flatnonzero(found != expected)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare the snapshot with exchange_calendars.")
    parser.add_argument("--probes", type=int, default=10_000_000, help="random minutes in all")
    parser.add_argument("--seed", type=int, default=1, help="of the random minutes")
    options = parser.parse_args(arguments)
    text = (files("prometheus.core") / "data" / "corrections.toml").read_text(encoding="utf-8")
    corrections = tomllib.loads(text)
    mics = exchange_mics()
    random = np.random.default_rng(options.seed)
    share = -(-options.probes // len(mics))
    faults: list[str] = []
    compared = probes = 0
    started = time.perf_counter()
    for mic in mics:
        exchange, mine, sessions = load_exchange(mic), ours(mic), theirs(mic)
        compared += len(mine.keys() | sessions.keys())
        explained: Counter[str] = Counter()
        for day in sorted(mine.keys() | sessions.keys()):
            if mine.get(day) == sessions.get(day):
                continue
            reason = explanation(corrections, mic, day)
            if reason is None:
                faults.append(f"{mic} {day}: {mine.get(day)}, theirs {sessions.get(day)}")
                continue
            explained[reason] += 1
            if day in mine:
                sessions[day] = mine[day]
            else:
                del sessions[day]
        for reason, count in explained.items():
            print(f"{mic}: {count} {'session' if count == 1 else 'sessions'}: {reason}")
        # Two days from either end: what lies beyond may reach in there.
        first, last = max(SINCE, exchange.first), exchange.last
        bounds = (exchange.midnight(first + timedelta(2)), exchange.midnight(last - timedelta(2)))
        low, high = (int(at.timestamp()) // 60 for at in bounds)
        at = random.integers(low, high, share) * 60
        faults += probe(mic, dict(sorted(sessions.items())), at)
        probes += share
    for fault in faults[:MOST_SHOWN]:
        print(f"fault: {fault}", file=sys.stderr)
    print(
        f"{len(mics)} exchanges, {compared:,} sessions, {probes:,} random minutes: "
        f"{len(faults)} unexplained differences, {time.perf_counter() - started:.0f} s"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
