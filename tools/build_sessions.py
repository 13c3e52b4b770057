"""Build the snapshot of exchange sessions that Prometheus ships.

    python -m tools.build_sessions            write prometheus/core/data/sessions/
    python -m tools.build_sessions --check    fail if what is committed is not what would be built

Every calendar of exchange_calendars is built, and XNAS, which is one of its aliases.

Run it in an environment of its own, with ``exchange_calendars``, ``holidays``, ``tzdata`` and
``pandas<3.1``: newer pandas silently drops weekend sessions of some exchanges and breaks others.

What it does, for each exchange (MIC):

1. takes the sessions of exchange_calendars, as local times;
2. applies ``prometheus/core/data/corrections.toml``, each entry dated and sourced;
3. compares the weekdays with the financial calendar of ``holidays``, from the year that one
   starts; a disagreement that no entry knows of fails the build, and so does an undecided one of
   2016 or later of which no entry says where an answer was sought;
4. takes names of closed and short days from the corrections, then ``holidays``, then
   exchange_calendars, and rewrites those that the corrections say read badly;
5. writes one JSON file: ordinary hours by effective date, and every exception to them.

Last it says which sessions are not what they were in the snapshot before: those of the next 400
days first, which somebody may be waiting for; and on which days nobody has decided who is right.

The same versions and the same corrections give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tomllib
import warnings
import zoneinfo
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prometheus.core.exchanges import Exchange, parse_exchange
from tools.progress import Progress

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY / "prometheus" / "core" / "data"
FORMAT = 1
FIRST = date(1990, 1, 1)
BEYOND = timedelta(days=31)
"""How far past what is trusted exchange_calendars is asked, where it goes that far."""
SOON = timedelta(days=400)
"""How far ahead a changed session is told of before all others."""

SOUGHT_FROM = date(2016, 1, 1)
"""From when on nothing stays undecided unless somebody says where he looked for an answer."""
RECENT_YEARS = 10
"""How far back days that nobody has decided are listed."""

ALIASES = ("XNAS",)
"""Exchanges that exchange_calendars has only as another name of one of its calendars."""

RENAMED = {"24/7": "24x7", "24/5": "24x5"}
"""Names that would not do in an id, a file or a URL -> ours."""

FINANCIAL = {"XTKS": "XJPX", "ASEX": "XATH"}
"""MIC -> its name in the financial calendars of ``holidays``, where that is another one."""

COUNTRIES = {
    mic: (country, part)
    for country, part, mics in (
        ("AR", None, "XBUE"),
        ("AT", None, "XWBO"),
        ("AU", "NSW", "XASX"),
        ("BE", None, "XBRU"),
        ("BM", None, "XBDA"),
        ("BR", "SP", "BVMF"),
        ("CH", None, "XSWX"),
        ("CL", None, "XSGO"),
        ("CN", None, "XSHG"),
        ("CO", None, "XBOG"),
        ("CY", None, "XCYS"),
        ("CZ", None, "XPRA"),
        ("DE", None, "XDUS XEEE XETR XEUR XFRA XHAM XSTU"),
        ("DK", None, "XCSE"),
        ("EE", None, "XTAL"),
        ("ES", None, "XMAD"),
        ("FI", None, "XHEL"),
        ("FR", None, "XPAR"),
        ("GB", "ENG", "XLON"),
        ("GR", None, "ASEX"),
        ("HK", None, "XHKG"),
        ("HR", None, "XZAG"),
        ("HU", None, "XBUD"),
        ("ID", None, "XIDX"),
        ("IE", None, "XDUB"),
        ("IL", None, "XTAE"),
        ("IN", "MH", "XBOM"),
        ("IS", None, "XICE"),
        ("IT", None, "XMIL"),
        ("JP", None, "XTKS"),
        ("KR", None, "XKRX"),
        ("KZ", None, "AIXK"),
        ("LT", None, "XLIT"),
        ("LU", None, "XLUX"),
        ("LV", None, "XRIS"),
        ("MX", None, "XMEX"),
        ("MY", "KUL", "XKLS"),
        ("NL", None, "XAMS"),
        ("NO", None, "XOSL"),
        ("NZ", None, "XNZE"),
        ("PE", None, "XLIM"),
        ("PH", None, "XPHS"),
        ("PK", None, "XKAR"),
        ("PL", None, "XWAR"),
        ("PT", None, "XLIS"),
        ("RO", None, "XBSE"),
        ("RS", None, "XBEL"),
        ("RU", None, "XMOS"),
        ("SA", None, "XSAU"),
        ("SE", None, "XSTO"),
        ("SG", None, "XSES"),
        ("SI", None, "XLJU"),
        ("SK", None, "XBRA"),
        ("TH", None, "XBKK"),
        ("TR", None, "XIST"),
        ("TW", None, "XTAI"),
        ("US", None, "CMES IEPA XCBF us_futures"),
        ("ZA", None, "XJSE"),
    )
    for mic in mics.split()
}
"""MIC -> country and subdivision whose holidays name closures that nobody else names."""


ALL_DAYS = "1111111"

_APPENDED = re.compile(
    r"\s*\((?:markets? close.*|from \d+ ?[ap]m|Half-Day Trading Day"
    r"|up to \d{4}|\d{4}-(?:\d{4}|present)|[+-]\d+ days?)\)"
)
"""What tells a library's rules apart and a reader nothing."""

WEEKS_OF_A_HABIT = 10
"""How many sessions a day of the week must have for hours of its own to be ordinary."""


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
    city: str | None = None
    """Where it is, if its zone is named for another city."""


# --- the library ------------------------------------------------------------------------------


def clock(instant: Any, session: date, zone: str) -> str:
    """Write a UTC timestamp as a local time of day relative to the session's date."""
    local = instant.tz_convert(zone).to_pydatetime()
    days = (local.date() - session).days
    text = str(local.strftime("%H:%M:%S" if local.second else "%H:%M"))
    return text if days == 0 else f"{text}{days:+d}d"


def take_schedule(
    mic: str,
    last: date,
    horizon_source: str,
    name: str | None = None,
    place: Mapping[str, Any] | None = None,
) -> tuple[Schedule, Any]:
    """
    Read one calendar of exchange_calendars, as early as it goes but not before 1990.

    Args:
        mic: The exchange.
        last: Until when, this day included.
        horizon_source: On what grounds it is known until then.
        name: The calendar's name, where that is not the exchange's.
        place: Its ``[[place]]``, if it has one.
    """
    import exchange_calendars
    import pandas as pd
    from exchange_calendars.calendar_utils import _default_calendar_factories

    name = exchange_calendars.resolve_alias(name or mic)
    # To make a calendar takes longest of all: its class says as much.
    earliest = _default_calendar_factories[name].bound_min()
    latest = _default_calendar_factories[name].bound_max()
    first = FIRST if earliest is None else max(FIRST, earliest.date())
    # XKRX gives the last session that is asked for the hours of days that are none: ask for more.
    end = last + BEYOND if latest is None else min(last + BEYOND, latest.date())
    calendar = exchange_calendars.get_calendar(name, start=str(first), end=str(end))
    place = place or {}
    zone = place.get("zone", str(calendar.tz))

    sessions: dict[date, Hours] = {}
    for row in calendar.schedule.itertuples():
        day = row.Index.date()
        if day > last:
            break
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
        city=place.get("city"),
    )
    return schedule, calendar


def calendar_names() -> dict[str, str]:
    """Name everything that is built, in order -> its name in exchange_calendars."""
    import exchange_calendars

    names = (*exchange_calendars.get_calendar_names(include_aliases=False), *ALIASES)
    return dict(sorted((RENAMED.get(name, name), name) for name in names))


# --- corrections ------------------------------------------------------------------------------


def check_entries(mics: Iterable[str], corrections: Mapping[str, Any]) -> None:
    """
    Refuse entries that do not say on whose word they stand.

    Raises:
        BuildError: with every such entry, every unknown exchange, and every exchange without a
            horizon.
    """
    known, faults = set(mics), []
    with_horizon = Counter(mic for e in corrections["horizon"] for mic in e["mics"])
    faults += [f"{mic} has no [[horizon]]" for mic in sorted(known - with_horizon.keys())]
    faults += [f"{mic} has {n} horizons" for mic, n in sorted(with_horizon.items()) if n > 1]
    for kind, words in {
        "horizon": ("last", "source", "checked"),
        "hours": ("reason", "source", "checked"),
        "day": ("reason", "source", "checked"),
        "difference": ("why", "source", "checked"),
        "undecided": ("why", "source", "checked"),
        "place": ("city", "source", "checked"),
        "names": ("instead", "source", "checked"),
    }.items():
        for entry in corrections.get(kind, ()):
            recent = kind == "undecided" and max(entry["dates"]) >= SOUGHT_FROM
            wanted = (*words, "sought") if recent else words
            missing = [word for word in wanted if not entry.get(word)]
            if missing:
                faults.append(f"[[{kind}]] without {', '.join(missing)}: {entry}")
            unknown = {*entry.get("mics", ()), *filter(None, [entry.get("mic")])} - known
            faults += [f"[[{kind}]] of an unknown exchange: {mic}" for mic in sorted(unknown)]
    if faults:
        raise BuildError("corrections.toml:\n  " + "\n  ".join(faults))


def apply_corrections(schedule: Schedule, corrections: Mapping[str, Any]) -> list[str]:
    """
    Apply the entries for this exchange to its sessions.

    Returns:
        A sentence for each entry that changed nothing, which the library has caught up with.

    Raises:
        BuildError: an entry names a date it cannot apply to.
    """
    idle = []
    for kind in ("hours", "day"):
        for entry in corrections.get(kind, ()):
            if entry["mic"] != schedule.mic:
                continue
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
        if not start <= day <= until or entry.get("days", ALL_DAYS)[day.weekday()] == "0":
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


def financial_code(mic: str) -> str | None:
    """Name an exchange's financial calendar of ``holidays``; ``None`` if there is none."""
    from holidays import list_supported_financial

    code = FINANCIAL.get(mic, mic)
    return code if code in list_supported_financial() else None


def cross_check(schedule: Schedule, corrections: Mapping[str, Any]) -> list[str]:
    """
    Compare days and half days with the financial calendar of ``holidays``.

    Compared are Monday to Friday and every other day of the exchange's trading week, from the year
    in which that calendar starts: before it, it knows of no holidays.

    Returns:
        One sentence for each disagreement that is neither a ``[[difference]]`` nor
        ``[[undecided]]``, and one for each of these that is none.
    """
    known = {
        day: kind
        for kind in ("difference", "undecided")
        for entry in corrections.get(kind, ())
        if entry["mic"] == schedule.mic
        for day in entry["dates"]
    }
    corrected = {
        day
        for entry in corrections.get("day", ())
        if entry["mic"] == schedule.mic and not entry.get("closed")
        for day in entry["dates"]
    }
    found = disagreements(schedule, corrected)
    faults = [sentence for day, sentence in found.items() if day not in known]
    faults += [
        f"{schedule.mic} {day}: the [[{known[day]}]] is none"
        for day in sorted(known.keys() - found.keys())
    ]
    return faults


def tell_differences(corrections: Mapping[str, Any], today: date) -> list[str]:
    """
    Say on how many days ``holidays`` is not followed, and on how many nobody knows who is right.

    Returns:
        Lines for people; each undecided day of the last years, and of those to come, has its own.
    """
    explained = sum(len(entry["dates"]) for entry in corrections.get("difference", ()))
    undecided = sorted(
        ((day, entry) for entry in corrections.get("undecided", ()) for day in entry["dates"]),
        key=lambda found: (found[0], found[1]["mic"]),
    )
    since = date(today.year - RECENT_YEARS, 1, 1)
    recent = [
        f"  {entry['mic']} {day:%Y-%m-%d %a}: {entry['why']}; "
        f"sought on {entry['checked']}: {entry.get('sought', 'not said where')}"
        for day, entry in undecided
        if day >= since
    ]
    of_these = f"{len(recent) or 'none'} of them since {since} or to come"
    return [
        f"holidays is not followed on {explained} days, each explained in corrections.toml",
        f"undecided, and explained by nobody: {len(undecided)} days more, {of_these}",
        *recent,
    ]


def disagreements(schedule: Schedule, corrected: set[date]) -> dict[date, str]:
    """
    Say on which days ``holidays`` does not think as the schedule does.

    Args:
        schedule: With its corrections.
        corrected: Days of special hours for which we have a source of our own.
    """
    from holidays import financial_holidays

    code = financial_code(schedule.mic)
    if code is None:
        return {}
    closed = financial_holidays(code, years=(), language="en_US", categories=("public",))
    start = max(schedule.first, date(closed.start_year, 1, 1))
    found = {}
    for day in days_between(start, schedule.last):
        if day.weekday() > 4 and not week(schedule, day):
            continue
        if (day in schedule.sessions) != closed.is_working_day(day):
            ours = "a session" if day in schedule.sessions else "closed"
            theirs = f"closed ({closed[day]})" if day in closed else "a session"
            found[day] = f"{schedule.mic} {day}: the snapshot says {ours}, holidays {theirs}"

    if "half_day" in closed.supported_categories:
        half = financial_holidays(code, years=(), language="en_US", categories=("half_day",))
        ordinary = ordinary_hours(schedule)
        for day in days_between(start, schedule.last):
            if day not in schedule.sessions or day in corrected:
                continue
            short = minutes(schedule.sessions[day].close) < minutes(ordinary[day].close)
            if short != (day in half):
                ours = "a half day" if short else "an ordinary day"
                theirs = half.get(day, "an ordinary day")
                found[day] = f"{schedule.mic} {day}: the snapshot says {ours}, holidays {theirs}"
    return found


# --- names ------------------------------------------------------------------------------------


def tidy(name: str) -> str:
    """
    Drop what libraries append to a name: times of closing, kinds of short day, years and offsets.

    The dates in a name, which holidays writes month first, are given as ``2026-01-04``.
    """
    name = _APPENDED.sub("", name).strip()
    return re.sub(r"\b(\d\d)/(\d\d)/(\d{4})\b", r"\3-\1-\2", name)


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
        if entry["mic"] == schedule.mic and "reason" in entry:
            take((day, entry["reason"]) for day in entry["dates"])

    def take_financial(code: str) -> None:
        supported = financial_holidays(code, years=())
        known = range(max(years.start, supported.start_year), years.stop)
        for category in ("public", "half_day"):
            if category in supported.supported_categories:
                take(
                    financial_holidays(
                        code, years=known, language="en_US", categories=(category,)
                    ).items()
                )

    def take_country(country: str, part: str | None) -> None:
        supported = country_holidays(country, subdiv=part).supported_categories
        # Public holidays first; then days on which only some are closed, such as joint leave.
        for category in ("public", "government", "bank", "half_day"):
            if category in supported:
                take(
                    country_holidays(
                        country, subdiv=part, years=years, language="en_US", categories=(category,)
                    ).items()
                )

    code = financial_code(schedule.mic)
    if code is not None:
        take_financial(code)
    rules = [calendar.regular_holidays]
    rules += [rule for _, rule in (*calendar.special_closes, *calendar.special_opens)]
    # Of XKRX alone, which moves all hours of a day together.
    rules += [rule for *_, rule in getattr(calendar, "special_offsets", ())]
    for rule in rules:
        take(rule_names(rule, schedule.first, schedule.last))
    if schedule.mic in COUNTRIES:
        country, part = COUNTRIES[schedule.mic]
        take_country(country, part)
        if country == "US":  # which close with New York, as on days of mourning
            take_financial("XNYS")
    for entry in corrections.get("names", ()):
        if entry["mic"] == schedule.mic:
            named = rename(named, entry)
    return named | name_eves(schedule, named)


def rename(named: Mapping[date, str], entry: Mapping[str, Any]) -> dict[date, str]:
    """
    Put other names in the place of those that read badly.

    Raises:
        BuildError: no day has one of them any more.
    """
    instead = entry["instead"]
    idle = sorted(instead.keys() - set(named.values()))
    if idle:
        raise BuildError(f"{entry['mic']}: [[names]]: no day is called {', '.join(idle)}")
    return {day: instead.get(name, name) for day, name in named.items()}


def name_eves(schedule: Schedule, named: Mapping[date, str]) -> dict[date, str]:
    """Name early closes that have no name of their own by the closed day that follows."""
    found = {}
    ordinary = ordinary_hours(schedule)
    for day, hours in schedule.sessions.items():
        if day in named or minutes(hours.close) >= minutes(ordinary[day].close):
            continue
        following = day + timedelta(days=1)
        while following <= schedule.last and following not in schedule.sessions:
            if following in named and week(schedule, following):
                found[day] = f"Before {named[following]}"
                break
            following += timedelta(days=1)
    return found


# --- encoding ---------------------------------------------------------------------------------


def days_between(first: date, last: date) -> Iterable[date]:
    return (first + timedelta(days=offset) for offset in range((last - first).days + 1))


def segments(schedule: Schedule) -> list[tuple[date, str, Hours]]:
    """
    Find the ordinary hours: date from which they hold, days of the week, hours.

    From each boundary on they are those of most sessions up to the next; a day of the week that
    nearly always has others, as Sunday had in Tel Aviv, has ordinary hours of its own.
    """
    starts = sorted(schedule.boundaries)
    found: dict[str, list[tuple[date, Hours]]] = defaultdict(list)
    for index, start in enumerate(starts):
        end = starts[index + 1] if index + 1 < len(starts) else schedule.last + timedelta(days=1)
        inside = [(day, hours) for day, hours in schedule.sessions.items() if start <= day < end]
        if not inside:
            continue
        usual = most_common(hours for _, hours in inside)
        takes = {ALL_DAYS: usual}
        for weekday in range(7):
            of_day = [hours for day, hours in inside if day.weekday() == weekday]
            own = most_common(of_day) if of_day else usual
            days = "".join("1" if each == weekday else "0" for each in range(7))
            often = len(of_day) >= WEEKS_OF_A_HABIT and of_day.count(own) > 0.9 * len(of_day)
            if (own != usual and often) or days in found:
                takes[days] = own
        for days, hours in takes.items():
            if not found[days] or found[days][-1][1] != hours:
                first = days == ALL_DAYS and not found[days]
                found[days].append((schedule.first if first else start, hours))
    return sorted(
        ((since, days, hours) for days, steps in found.items() for since, hours in steps),
        key=lambda step: (step[0], step[1] != ALL_DAYS, step[1]),
    )


def most_common(found: Iterable[Hours]) -> Hours:
    counted = Counter(found)
    most = max(counted.values())
    return min((h for h, n in counted.items() if n == most), key=lambda h: (h.open, h.close))


def ordinary_hours(schedule: Schedule) -> dict[date, Hours]:
    """The ordinary hours of each session's date."""
    result = {}
    steps = segments(schedule)
    for day in schedule.sessions:
        in_force: dict[bool, Hours] = {}
        for since, days, hours in steps:
            if since <= day and days[day.weekday()] == "1":
                in_force[days == ALL_DAYS] = hours
        result[day] = in_force.get(False, in_force.get(True, steps[0][2]))
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
            extra[named.get(day, "ad hoc session")].append(day)
        usual = ordinary[day]
        if hours == usual:
            continue
        opens = hours.open if hours.open != usual.open else None
        closes = hours.close if hours.close != usual.close else None
        implied = tuple(pause for pause in usual.breaks if within(pause, hours.open, hours.close))
        breaks = " ".join(hours.breaks) if hours.breaks != implied else None
        reason = named.get(day, "ad hoc hours")
        special[reason, opens, closes, breaks].append(day)

    return {
        "format": FORMAT,
        "mic": schedule.mic,
        "zone": schedule.zone,
        **({} if schedule.city is None else {"city": schedule.city}),
        "first": schedule.first.isoformat(),
        "last": schedule.last.isoformat(),
        "horizon_source": schedule.horizon_source,
        "weeks": [{"from": str(since), "days": mask} for since, mask in schedule.weekmasks],
        "hours": [
            {
                "from": str(since),
                **({} if days == ALL_DAYS else {"days": days}),
                "open": h.open,
                "close": h.close,
                "breaks": " ".join(h.breaks),
            }
            for since, days, h in segments(schedule)
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


def build(names: Mapping[str, str], corrections: Mapping[str, Any]) -> dict[str, bytes]:
    """
    Build every file of the snapshot.

    Args:
        names: MIC -> name of its calendar in exchange_calendars.
        corrections: ``corrections.toml``.

    Returns:
        File name -> content, one per MIC and ``snapshot.json``.

    Raises:
        BuildError: an entry lacks its grounds, an exchange has no horizon, or disagrees with
            ``holidays`` unexplained.
    """
    check_entries(names, corrections)
    horizons = {mic: entry for entry in corrections["horizon"] for mic in entry["mics"]}
    places = {mic: entry for entry in corrections.get("place", ()) for mic in entry["mics"]}
    files: dict[str, bytes] = {}
    faults: list[str] = []
    progress = Progress(len(names))
    for done, (mic, name) in enumerate(names.items()):
        progress.say(done, mic)
        horizon = horizons[mic]
        schedule, calendar = take_schedule(
            mic, horizon["last"], horizon["source"], name, places.get(mic)
        )
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
        {"format": FORMAT, "version": label, "sources": sources, "exchanges": list(names)}
    )
    return files


# --- what changed -----------------------------------------------------------------------------


def changes(before: Mapping[str, bytes], after: Mapping[str, bytes], today: date) -> list[str]:
    """
    Say what a new snapshot knows differently from the one before.

    Args:
        before: File name -> content, as it was committed.
        after: The same, as it was built.
        today: Changes from this date on come first.

    Returns:
        Lines for people: exchanges that came, went or are known further; then each session whose
        existence, open, close or breaks changed, in the exchange's local time.
    """
    exchanges: list[str] = []
    soon: list[tuple[date, str]] = []
    others: list[tuple[date, str]] = []
    names = (before.keys() | after.keys()) - {"snapshot.json"}
    for name in sorted(names):
        mic = name.removesuffix(".json")
        if name not in before or name not in after:
            exchanges.append(f"{mic}: {'new' if name in after else 'gone'}")
        elif before[name] != after[name]:
            old, new = (parse_exchange(json.loads(files[name])) for files in (before, after))
            if (old.first, old.last) != (new.first, new.last):
                exchanges.append(
                    f"{mic}: known {new.first} to {new.last}, was {old.first} to {old.last}"
                )
            for day in days_between(max(old.first, new.first), min(old.last, new.last)):
                is_now, was = in_words(new, day), in_words(old, day)
                if is_now != was:
                    line = f"{mic} {day:%Y-%m-%d %a}: {is_now}; was {was}"
                    (soon if today <= day <= today + SOON else others).append((day, line))
    lines = [f"  {line}" for line in exchanges]
    for heading, found in (
        (f"in the {SOON.days} days from {today}", soon),
        ("on other dates", others),
    ):
        if found:
            lines.append(f"{heading}:")
            lines += [f"  {line}" for _, line in sorted(found)]
    return lines


def in_words(exchange: Exchange, day: date) -> str:
    """Describe a date of an exchange, in its local time: ``"09:00-15:00 without 12:00-13:00"``."""
    if not exchange.is_session(day):
        return "closed"
    session = exchange.session(day)

    def local(at: datetime) -> str:
        there = at.astimezone(exchange.zone)
        days = (there.date() - day).days
        return f"{there:%H:%M}" + (f"{days:+d}d" if days else "")

    def span(start: datetime, end: datetime) -> str:
        return f"{local(start)}-{local(end)}"

    pauses = " and ".join(span(*pause) for pause in session.breaks)
    return span(session.open, session.close) + (f" without {pauses}" if pauses else "")


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
    # Of years before its tables of the moon begin, holidays names fewer days, as it may.
    warnings.filterwarnings("ignore", "Requested Holidays are available only", UserWarning)
    try:
        check_environment()
        corrections = tomllib.loads((DATA / "corrections.toml").read_text(encoding="utf-8"))
        files = build(calendar_names(), corrections)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    before = {path.name: path.read_bytes() for path in sorted(options.out.glob("*.json"))}
    if options.check:
        stale = [name for name in sorted(before | files) if before.get(name) != files.get(name)]
        print(f"differs: {', '.join(stale)}" if stale else "the committed snapshot is up to date")
        return 1 if stale else 0
    today = datetime.now(UTC).date()
    told = changes(before, files, today)
    print("\n".join(["What changed:", *told] if told else ["No session changed."]))
    options.out.mkdir(parents=True, exist_ok=True)
    for name in before.keys() - files.keys():
        (options.out / name).unlink()
    for name, content in files.items():
        (options.out / name).write_bytes(content)
    size = sum(map(len, files.values()))
    print(f"{len(files) - 1} exchanges, {size:,} bytes")
    print("\n".join(tell_differences(corrections, today)))
    print(f"{json.loads(files['snapshot.json'])['version']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
