"""Compare the shipped sessions with exchange_calendars, apart from how they were built.

    python -m tools.check_sessions            every session since 2000, 10 million random minutes
    python -m tools.check_sessions XIDX XSES  those of some exchanges

Run it in the environment of ``build_sessions.py``. It reads the snapshot as Prometheus does and
exchange_calendars itself, and shares no code with the build:

1. Every session from 2000 to each exchange's horizon must have the existence, open, close and
   breaks it has there, after the entries of ``corrections.toml``, which are applied here anew; each
   entry that changes sessions is listed with how many and its source.
2. At random minutes `get_market_state` must answer what those sessions say.

Ends with 1 for a difference that the entries do not make.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from prometheus.core.exchanges import LocalTime, exchange_mics, load_exchange
from prometheus.core.market_state import MarketState, get_market_state
from tools.progress import Progress

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
    from exchange_calendars.calendar_utils import _default_calendar_factories

    exchange = load_exchange(mic)
    name = exchange_calendars.resolve_alias(THEIR_NAMES.get(mic, mic))
    factory = _default_calendar_factories[name]
    earliest, latest = factory.bound_min(), factory.bound_max()
    # From its own beginning, not ours; and a year further than ours, where it goes so far: the last
    # session it has may have odd hours (XKRX).
    start = SINCE if earliest is None else max(SINCE, earliest.date())
    end = exchange.last + timedelta(days=365)
    end = end if latest is None else min(end, latest.date())
    calendar = exchange_calendars.get_calendar(name, start=str(start), end=str(end))
    found = {}
    for row in calendar.schedule.loc[: str(exchange.last)].itertuples():
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


def corrected(
    corrections: Mapping[str, Any], mic: str, zone: ZoneInfo, sessions: Mapping[date, Known]
) -> tuple[dict[date, Known], dict[date, str]]:
    """
    Apply the entries for an exchange to sessions that know nothing of them.

    Returns:
        The sessions as they are to be, and the reason and source of each date that changed.
    """
    found, why = dict(sessions), {}

    def put(day: date, session: Known | None, entry: Mapping[str, Any]) -> None:
        if found.get(day) == session:
            return
        why[day] = f"{entry['reason']} [{entry['source']}]"
        if session is None:
            del found[day]
        else:
            found[day] = session

    for entry in corrections["hours"]:
        if entry["mic"] != mic:
            continue
        first, last = entry.get("from", date.min), entry.get("until", date.max)
        for day, session in list(found.items()):
            was = instants(entry["was"], day, zone)
            if (
                first <= day <= last
                and entry.get("days", "1111111")[day.weekday()] == "1"
                and all(getattr(session, name) == value for name, value in was.items())
            ):
                put(day, changed(session, instants(entry, day, zone)), entry)
    for entry in corrections["day"]:
        if entry["mic"] != mic:
            continue
        for day in entry["dates"]:
            if entry.get("closed"):
                put(day, None, entry)
            elif day in found:
                put(day, changed(found[day], instants(entry, day, zone)), entry)
            elif day > min(found):  # a session that is added has the hours of the one before
                before = max(each for each in found if each < day)
                put(
                    day,
                    changed(moved(found[before], before, day, zone), instants(entry, day, zone)),
                    entry,
                )
    return dict(sorted(found.items())), why


def instants(fields: Mapping[str, Any], day: date, zone: ZoneInfo) -> dict[str, Any]:
    """Read the times an entry has, as instants of the session of a date."""

    def at(text: str) -> int:
        return int(LocalTime.parse(text).on(day, zone).timestamp())

    found: dict[str, Any] = {name: at(fields[name]) for name in ("open", "close") if name in fields}
    if "breaks" in fields:
        pauses = (pause.split("-") for pause in fields["breaks"].split())
        found["breaks"] = tuple((at(start), at(end)) for start, end in pauses)
    return found


def changed(session: Known, values: Mapping[str, Any]) -> Known:
    """Change a session; a break that is not wholly inside it is none."""
    made = replace(session, **values)
    inside = (pause for pause in made.breaks if made.open < pause[0] and pause[1] < made.close)
    return replace(made, breaks=tuple(inside))


def moved(session: Known, day: date, to: date, zone: ZoneInfo) -> Known:
    """Give another date the local hours of a session."""

    def at(second: int) -> int:
        local = datetime.fromtimestamp(second, zone) + (to - day)
        return int(local.timestamp())

    breaks = tuple((at(start), at(end)) for start, end in session.breaks)
    return Known(at(session.open), at(session.close), breaks)


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
    parser.add_argument("mics", nargs="*", metavar="MIC", help="exchanges; all by default")
    parser.add_argument("--probes", type=int, default=10_000_000, help="random minutes in all")
    parser.add_argument("--seed", type=int, default=1, help="of the random minutes")
    options = parser.parse_args(arguments)
    text = (files("prometheus.core") / "data" / "corrections.toml").read_text(encoding="utf-8")
    corrections = tomllib.loads(text)
    mics = options.mics or exchange_mics()
    random = np.random.default_rng(options.seed)
    share = -(-options.probes // len(mics))
    faults: list[str] = []
    compared = probes = 0
    progress = Progress(len(mics))
    for done, mic in enumerate(mics):
        progress.say(done, mic)
        exchange, mine = load_exchange(mic), ours(mic)
        sessions, why = corrected(corrections, mic, exchange.zone, theirs(mic))
        days = sorted(mine.keys() | sessions.keys())
        compared += len(days)
        faults += [
            f"{mic} {day}: {mine.get(day)}, expected {sessions.get(day)}"
            for day in days
            if mine.get(day) != sessions.get(day)
        ]
        for reason, count in Counter(why.values()).items():
            print(f"{mic}: {count} {'session' if count == 1 else 'sessions'}: {reason}")
        # Two days from either end: what lies beyond may reach in there.
        first, last = max(SINCE, exchange.first), exchange.last
        bounds = (exchange.midnight(first + timedelta(2)), exchange.midnight(last - timedelta(2)))
        low, high = (int(at.timestamp()) // 60 for at in bounds)
        at = random.integers(low, high, share) * 60
        faults += probe(mic, sessions, at)
        probes += share
    for fault in faults[:MOST_SHOWN]:
        print(f"fault: {fault}", file=sys.stderr)
    print(
        f"{len(mics)} exchanges, {compared:,} sessions, {probes:,} random minutes: "
        f"{len(faults)} unexplained differences, {progress.seconds:.0f} s"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
