"""Build the snapshot of exchange sessions that Prometheus ships.

    python tools/build_sessions.py            write prometheus/core/data/sessions/
    python tools/build_sessions.py --check    fail if what is committed is not what would be built

Run it in an environment of its own, with ``exchange_calendars``, ``holidays``, ``tzdata`` and
``pandas<3.1``: newer pandas silently drops weekend sessions of some exchanges and breaks others.

What it does, for each exchange (MIC):

1. takes the sessions of exchange_calendars, as local times;
2. applies ``prometheus/core/data/corrections.toml``, each entry dated and sourced;
3. compares the weekdays with the financial calendar of ``holidays``, from the year that one
   starts; a disagreement that no entry explains fails the build;
4. takes names of closed and short days from the corrections, then ``holidays``, then
   exchange_calendars;
5. writes one JSON file: ordinary hours by effective date, and every exception to them.

The same versions and the same corrections give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tomllib
import zoneinfo
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY / "prometheus" / "core" / "data"
FORMAT = 1
FIRST = date(1990, 1, 1)
MICS = ("XNYS", "XNAS", "XLON", "XPAR", "XTKS", "XHKG")

FINANCIAL = {
    "XNYS": ("XNYS", 1990),
    "XNAS": ("XNAS", 1990),
    "XLON": ("XLON", 2000),
    "XPAR": ("XPAR", 2019),
    "XTKS": ("XJPX", 1990),
    "XHKG": ("XHKG", 2014),
}
"""MIC -> the financial calendar of ``holidays`` and the first year for which it knows anything."""

COUNTRIES = {
    "XLON": ("GB", "ENG"),
    "XHKG": ("HK", None),
    "XPAR": ("FR", None),
    "XTKS": ("JP", None),
}
"""MIC -> country and subdivision whose holidays name closures that nobody else names."""


class BuildError(Exception):
    """The snapshot must not be built from this input."""


@dataclass(frozen=True)
class Hours:
    """Local hours of one session; a time may carry a day offset, such as ``17:00-1d``."""

    open: str
    close: str
    breaks: tuple[str, ...] = ()
    """``"12:00-13:00"``, in order."""


@dataclass
class Schedule:
    """Everything known of one exchange, on its way from the library to the file."""

    mic: str
    zone: str
    first: date
    last: date
    horizon_source: str
    sessions: dict[date, Hours]
    boundaries: set[date]
    """Dates on which ordinary hours may change."""
    weekmasks: list[tuple[date, str]]
    reasons: dict[date, str] = field(default_factory=dict)
    """Names from the corrections, which win over all others."""


# --- the library ------------------------------------------------------------------------------


def clock(instant: Any, session: date, zone: str) -> str:
    """Write a UTC timestamp as a local time of day relative to the session's date."""
    local = instant.tz_convert(zone).to_pydatetime()
    days = (local.date() - session).days
    text = str(local.strftime("%H:%M:%S" if local.second else "%H:%M"))
    return text if days == 0 else f"{text}{days:+d}d"


def take_schedule(mic: str, last: date, horizon_source: str) -> tuple[Schedule, Any]:
    """Read one calendar of exchange_calendars, as early as it goes but not before 1990."""
    import exchange_calendars
    import pandas as pd

    bound = type(exchange_calendars.get_calendar(mic)).bound_min()
    first = FIRST if bound is None else max(FIRST, bound.date())
    calendar = exchange_calendars.get_calendar(mic, start=str(first), end=str(last))
    zone = str(calendar.tz)

    sessions: dict[date, Hours] = {}
    for row in calendar.schedule.itertuples():
        day = row.Index.date()
        breaks: tuple[str, ...] = ()
        if not pd.isna(row.break_start):
            breaks = (f"{clock(row.break_start, day, zone)}-{clock(row.break_end, day, zone)}",)
        sessions[day] = Hours(clock(row.open, day, zone), clock(row.close, day, zone), breaks)

    boundaries = {first}
    for times in (
        calendar.open_times,
        calendar.close_times,
        calendar.break_start_times or (),
        calendar.break_end_times or (),
    ):
        boundaries |= {since.date() for since, _ in times if since is not None}

    weekmasks = {first: str(calendar.weekmask)}
    for start, end, mask in getattr(calendar, "special_weekmasks", None) or ():
        # Short ones are single special sessions; those become exceptions.
        begins = first if start is None else max(first, start.date())
        ends = last if end is None else min(last, end.date())
        if ends - begins > timedelta(days=60):
            weekmasks[begins] = mask
            if ends < last:
                weekmasks.setdefault(ends + timedelta(days=1), str(calendar.weekmask))
    schedule = Schedule(
        mic=mic,
        zone=zone,
        first=first,
        last=last,
        horizon_source=horizon_source,
        sessions=sessions,
        boundaries={day for day in boundaries if first <= day <= last},
        weekmasks=sorted(weekmasks.items()),
    )
    return schedule, calendar


# --- corrections ------------------------------------------------------------------------------


def apply_corrections(schedule: Schedule, corrections: Mapping[str, Any]) -> list[str]:
    """
    Apply the entries for this exchange to its sessions.

    Returns:
        A sentence for each entry that changed nothing, which the library has caught up with.

    Raises:
        BuildError: an entry is without reason or source, or names a date it cannot apply to.
    """
    idle = []
    for kind in ("hours", "day"):
        for entry in corrections.get(kind, ()):
            if entry["mic"] != schedule.mic:
                continue
            if not entry.get("reason") or not entry.get("source") or not entry.get("checked"):
                raise BuildError(
                    f"{schedule.mic}: a correction has no reason, source or date: {entry}"
                )
            before = dict(schedule.sessions)
            if kind == "hours":
                correct_hours(schedule, entry)
            else:
                correct_days(schedule, entry)
            if schedule.sessions == before:
                idle.append(f"{schedule.mic}: changes nothing any more: {entry['reason']}")
    return idle


def split_breaks(text: str) -> tuple[str, ...]:
    """Split ``"11:30-12:30 15:00-15:10"`` into its breaks; empty for none."""
    return tuple(text.split())


def correct_hours(schedule: Schedule, entry: Mapping[str, Any]) -> None:
    start = entry.get("from", schedule.first)
    until = entry.get("until", schedule.last)
    was = entry["was"]
    for day, hours in schedule.sessions.items():
        if not start <= day <= until:
            continue
        if "open" in was and hours.open != was["open"]:
            continue
        if "close" in was and hours.close != was["close"]:
            continue
        if "breaks" in was and hours.breaks != split_breaks(was["breaks"]):
            continue
        schedule.sessions[day] = Hours(
            entry.get("open", hours.open),
            entry.get("close", hours.close),
            split_breaks(entry["breaks"]) if "breaks" in entry else hours.breaks,
        )
    schedule.boundaries |= {
        day for day in (start, until + timedelta(days=1)) if schedule.first <= day <= schedule.last
    }


def correct_days(schedule: Schedule, entry: Mapping[str, Any]) -> None:
    for day in entry["dates"]:
        if not schedule.first <= day <= schedule.last:
            raise BuildError(f"{schedule.mic}: {day} is outside {schedule.first}..{schedule.last}")
        if entry.get("closed"):
            schedule.sessions.pop(day, None)
            schedule.reasons[day] = entry["reason"]
            continue
        hours = schedule.sessions.get(day)
        if hours is None:
            if not entry.get("session"):
                raise BuildError(f"{schedule.mic}: {day} has no session to correct")
            earlier = [known for known in schedule.sessions if known < day]
            hours = schedule.sessions[max(earlier)]
        opens, closes = entry.get("open", hours.open), entry.get("close", hours.close)
        if "breaks" in entry:
            breaks = split_breaks(entry["breaks"])
        else:
            breaks = tuple(pause for pause in hours.breaks if within(pause, opens, closes))
        schedule.sessions[day] = Hours(opens, closes, breaks)
        if "open" in entry or "close" in entry or "breaks" in entry:
            schedule.reasons[day] = entry["reason"]
    schedule.sessions = dict(sorted(schedule.sessions.items()))


def minutes(text: str) -> float:
    """Turn ``"09:30"`` or ``"17:00-1d"`` into minutes from the session date's midnight."""
    found = re.fullmatch(r"(\d\d):(\d\d)(?::(\d\d))?(?:([+-]\d)d)?", text)
    if found is None:
        raise BuildError(f"{text!r} is not a local time such as 09:30 or 17:00-1d")
    hour, minute, second, days = found.groups()
    return int(hour) * 60 + int(minute) + int(second or 0) / 60 + int(days or 0) * 1440


def ends_of(pause: str) -> tuple[str, str]:
    """Split one break into its start and end; a day offset may stand inside either."""
    found = re.fullmatch(r"(.+?(?:[+-]\dd)?)-(\d\d:.+)", pause)
    if found is None:
        raise BuildError(f"{pause!r} is not a break such as 12:00-13:00")
    return found.group(1), found.group(2)


def within(pause: str, opens: str, closes: str) -> bool:
    """Say whether a break lies wholly inside a session."""
    start, end = ends_of(pause)
    return minutes(opens) < minutes(start) and minutes(end) < minutes(closes)


# --- the second opinion -----------------------------------------------------------------------


def cross_check(schedule: Schedule, corrections: Mapping[str, Any]) -> list[str]:
    """
    Compare weekdays and half days with the financial calendar of ``holidays``.

    Returns:
        One sentence for each disagreement that no ``[[difference]]`` explains, and one for each
        ``[[difference]]`` that is none.
    """
    from holidays import financial_holidays

    if schedule.mic not in FINANCIAL:
        return []
    name, since = FINANCIAL[schedule.mic]
    start = max(schedule.first, date(since, 1, 1))
    years = range(start.year, schedule.last.year + 1)
    closed = financial_holidays(name, years=years, language="en_US", categories=("public",))
    explained = {
        day
        for entry in corrections.get("difference", ())
        if entry["mic"] == schedule.mic
        for day in entry["dates"]
    }
    faults = []
    for day in days_between(start, schedule.last):
        if day.weekday() > 4:
            continue
        if (day in schedule.sessions) != (day not in closed):
            if day in explained:
                explained.discard(day)
                continue
            ours = "a session" if day in schedule.sessions else "closed"
            theirs = f"closed ({closed[day]})" if day in closed else "a session"
            faults.append(f"{schedule.mic} {day}: the snapshot says {ours}, holidays {theirs}")
    faults += [f"{schedule.mic} {day}: the [[difference]] is none" for day in sorted(explained)]

    if "half_day" in closed.supported_categories:
        half = financial_holidays(name, years=years, language="en_US", categories=("half_day",))
        corrected = {
            day
            for entry in corrections.get("day", ())
            if entry["mic"] == schedule.mic and not entry.get("closed")
            for day in entry["dates"]
        }
        ordinary = ordinary_hours(schedule)
        for day in days_between(start, schedule.last):
            if day not in schedule.sessions or day in corrected:
                continue
            short = minutes(schedule.sessions[day].close) < minutes(ordinary[day].close)
            if short != (day in half):
                ours = "a half day" if short else "an ordinary day"
                theirs = half.get(day, "an ordinary day")
                faults.append(f"{schedule.mic} {day}: the snapshot says {ours}, holidays {theirs}")
    return faults


# --- names ------------------------------------------------------------------------------------


def tidy(name: str) -> str:
    """Drop what holidays appends to a name: times of closing, and kinds of short day."""
    return re.sub(r"\s*\((?:markets? close.*|Half-Day Trading Day)\)", "", name).strip()


def rule_names(rule: Any, first: date, last: date) -> Iterable[tuple[date, str]]:
    """List the days of one of exchange_calendars' rules by name; some rules have no names."""
    import pandas as pd

    if not hasattr(rule, "holidays"):
        return ()
    found = rule.holidays(pd.Timestamp(first), pd.Timestamp(last), return_name=True)
    if not hasattr(found, "items"):
        return ()
    return ((day.date(), name) for day, name in found.items())


def name_days(schedule: Schedule, calendar: Any, corrections: Mapping[str, Any]) -> dict[date, str]:
    """Find a name for each closed weekday and each day of special hours."""
    from holidays import country_holidays, financial_holidays

    years = range(schedule.first.year, schedule.last.year + 1)
    named: dict[date, str] = {}

    def take(source: Iterable[tuple[date, str]]) -> None:
        for day, name in source:
            if name and schedule.first <= day <= schedule.last:
                named.setdefault(day, tidy(str(name)))

    take(schedule.reasons.items())
    for entry in corrections.get("difference", ()):
        if entry["mic"] == schedule.mic:
            take((day, entry["reason"]) for day in entry["dates"])
    if schedule.mic in FINANCIAL:
        name, since = FINANCIAL[schedule.mic]
        known = range(max(years.start, since), years.stop)
        for category in ("public", "half_day"):
            found = financial_holidays(name, years=(), language="en_US")
            if category in found.supported_categories:
                take(
                    financial_holidays(
                        name, years=known, language="en_US", categories=(category,)
                    ).items()
                )
    rules = [calendar.regular_holidays]
    rules += [rule for _, rule in (*calendar.special_closes, *calendar.special_opens)]
    for rule in rules:
        take(rule_names(rule, schedule.first, schedule.last))
    if schedule.mic in COUNTRIES:
        country, part = COUNTRIES[schedule.mic]
        take(country_holidays(country, subdiv=part, years=years, language="en_US").items())
    return named


# --- encoding ---------------------------------------------------------------------------------


def days_between(first: date, last: date) -> Iterable[date]:
    return (first + timedelta(days=offset) for offset in range((last - first).days + 1))


def segments(schedule: Schedule) -> list[tuple[date, Hours]]:
    """Find the ordinary hours from each boundary on: those of most sessions up to the next."""
    starts = sorted(schedule.boundaries)
    found: list[tuple[date, Hours]] = []
    for index, start in enumerate(starts):
        end = starts[index + 1] if index + 1 < len(starts) else schedule.last + timedelta(days=1)
        inside = Counter(hours for day, hours in schedule.sessions.items() if start <= day < end)
        if not inside:
            continue
        most = max(inside.values())
        usual = min((h for h, n in inside.items() if n == most), key=lambda h: (h.open, h.close))
        if not found or found[-1][1] != usual:
            found.append((start if found else schedule.first, usual))
    return found


def ordinary_hours(schedule: Schedule) -> dict[date, Hours]:
    """The ordinary hours of each session's date."""
    result = {}
    steps = segments(schedule)
    for day in schedule.sessions:
        result[day] = [hours for since, hours in steps if since <= day][-1]
    return result


def week(schedule: Schedule, day: date) -> bool:
    """Whether this is a day of the exchange's trading week."""
    mask = [mask for since, mask in schedule.weekmasks if since <= day][-1]
    return mask[day.weekday()] == "1"


def joined(days: Iterable[date]) -> str:
    return " ".join(day.isoformat() for day in sorted(days))


def encode(schedule: Schedule, named: Mapping[date, str]) -> dict[str, Any]:
    """Describe an exchange as ordinary hours and exceptions."""
    closures: dict[str, list[date]] = defaultdict(list)
    extra: dict[str, list[date]] = defaultdict(list)
    special: dict[tuple[str, str | None, str | None, str | None], list[date]] = defaultdict(list)
    ordinary = ordinary_hours(schedule)
    for day in days_between(schedule.first, schedule.last):
        hours = schedule.sessions.get(day)
        if hours is None:
            if week(schedule, day):
                closures[named.get(day, "ad hoc closure")].append(day)
            continue
        if not week(schedule, day):
            extra[named.get(day, "special session")].append(day)
        usual = ordinary[day]
        if hours == usual:
            continue
        opens = hours.open if hours.open != usual.open else None
        closes = hours.close if hours.close != usual.close else None
        implied = tuple(pause for pause in usual.breaks if within(pause, hours.open, hours.close))
        breaks = " ".join(hours.breaks) if hours.breaks != implied else None
        if day in named:
            reason = named[day]
        elif closes is not None and minutes(hours.close) < minutes(usual.close):
            reason = "early close"
        elif opens is not None and minutes(hours.open) > minutes(usual.open):
            reason = "late open"
        else:
            reason = "special hours"
        special[reason, opens, closes, breaks].append(day)

    return {
        "format": FORMAT,
        "mic": schedule.mic,
        "zone": schedule.zone,
        "first": schedule.first.isoformat(),
        "last": schedule.last.isoformat(),
        "horizon_source": schedule.horizon_source,
        "weeks": [{"from": str(since), "days": mask} for since, mask in schedule.weekmasks],
        "hours": [
            {"from": str(since), "open": h.open, "close": h.close, "breaks": " ".join(h.breaks)}
            for since, h in segments(schedule)
        ],
        "closures": [
            {"reason": reason, "dates": joined(days)} for reason, days in sorted(closures.items())
        ],
        "extra_sessions": [
            {"reason": reason, "dates": joined(days)} for reason, days in sorted(extra.items())
        ],
        "special_hours": [
            {
                key: value
                for key, value in {
                    "reason": reason,
                    "open": opens,
                    "close": closes,
                    "breaks": breaks,
                    "dates": joined(days),
                }.items()
                if value is not None
            }
            for (reason, opens, closes, breaks), days in sorted(
                special.items(), key=lambda item: tuple(part or "" for part in item[0])
            )
        ],
    }


def dump(document: Mapping[str, Any]) -> bytes:
    """Write JSON with one exception a line, so that a review sees which dates moved."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in value)
            parts.append(f"  {json.dumps(key)}: [\n{rows}\n  ]")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def build(mics: Sequence[str], corrections: Mapping[str, Any]) -> dict[str, bytes]:
    """
    Build every file of the snapshot.

    Returns:
        File name -> content, one per MIC and ``snapshot.json``.

    Raises:
        BuildError: an exchange has no horizon, or disagrees with ``holidays`` unexplained.
    """
    horizons = {entry["mic"]: entry for entry in corrections["horizon"]}
    files: dict[str, bytes] = {}
    faults: list[str] = []
    for mic in mics:
        if mic not in horizons:
            raise BuildError(f"{mic} has no [[horizon]] in corrections.toml")
        horizon = horizons[mic]
        schedule, calendar = take_schedule(mic, horizon["last"], horizon["source"])
        for sentence in apply_corrections(schedule, corrections):
            print(f"note: {sentence}", file=sys.stderr)
        faults += cross_check(schedule, corrections)
        named = name_days(schedule, calendar, corrections)
        files[f"{mic}.json"] = dump(encode(schedule, named))
    if faults:
        raise BuildError(
            "these days need an entry with a source in corrections.toml:\n  " + "\n  ".join(faults)
        )
    digest = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
    sources = {
        "exchange_calendars": version("exchange_calendars"),
        "holidays": version("holidays"),
        "tzdata": version("tzdata"),
    }
    label = f"xc{sources['exchange_calendars']}-tz{sources['tzdata']}-{digest[:10]}"
    files["snapshot.json"] = dump(
        {"format": FORMAT, "version": label, "sources": sources, "exchanges": list(mics)}
    )
    return files


def check_environment() -> None:
    """Refuse the pandas that breaks exchange_calendars, and fix where zones come from."""
    try:
        installed = version("pandas")
        version("exchange_calendars")
    except ModuleNotFoundError as error:
        raise BuildError(
            f"{error.name} is not installed: "
            "pip install exchange_calendars holidays tzdata 'pandas<3.1'"
        ) from error
    if tuple(int(part) for part in installed.split(".")[:2]) >= (3, 1):
        raise BuildError(
            f"pandas {installed} loses sessions of exchange_calendars (weekends of XBOM and XMOS) "
            "and breaks five calendars: install 'pandas<3.1'"
        )
    # The machine's own zone files may be of another release than the one named in the version.
    zoneinfo.reset_tzpath(to=())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the snapshot of exchange sessions.")
    parser.add_argument("--check", action="store_true", help="compare with what is committed")
    parser.add_argument("--out", type=Path, default=DATA / "sessions", help="where to write")
    options = parser.parse_args(arguments)
    try:
        check_environment()
        corrections = tomllib.loads((DATA / "corrections.toml").read_text(encoding="utf-8"))
        files = build(MICS, corrections)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.check:
        stale = [
            name
            for name, content in files.items()
            if not (options.out / name).exists() or (options.out / name).read_bytes() != content
        ]
        print(f"differs: {', '.join(stale)}" if stale else "the committed snapshot is up to date")
        return 1 if stale else 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (options.out / name).write_bytes(content)
        print(f"{name:16} {len(content):8,} bytes")
    print(f"{json.loads(files['snapshot.json'])['version']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
