"""What was declared and recorded about calendars, for commands that ask for nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus.core.trading_calendar import TradingCalendar


def know_markets() -> None:
    """
    Let this process know the markets of its ``prometheus.toml``, and read nothing else there.

    Raises:
        SettingsError: What is wrong with them, and with all other settings.
    """
    from prometheus.configuration import SettingsError, declare_markets

    try:
        declare_markets()
    except SettingsError:
        from prometheus.settings import load_settings  # which takes long to import

        load_settings()
        raise


def follow_overrides() -> None:
    """
    Go by the overrides of the database that is configured, if there is one.

    One that does not answer is told of, and the calendars are those that are shipped; so is an
    override that can not be read, and the others hold.
    """
    from prometheus.configuration import database_url
    from prometheus.core.overrides import put_in_force
    from prometheus.persistence.stored import StoredOverridesError, read_stored

    url = database_url()
    try:
        found = read_stored(url)
        put_in_force(found)
        for each in found.unreadable():
            print(f"Override {each.override_id} does not hold: {each.fault}", file=sys.stderr)
    except StoredOverridesError as error:
        from prometheus.masking import safe_url

        print(f"Overrides are not shown: {safe_url(url)} {error}", file=sys.stderr)


def overrides_on(calendar: TradingCalendar, days: Iterable[date]) -> list[int]:
    """Return the ids of the overrides of some sessions that hold."""
    return [each.override_id for day in days for each in calendar.overrides_on(day)]


def by_overrides(ids: Iterable[int]) -> str:
    """Write ``override 3``, or ``overrides 3, 4``; nothing where there are none."""
    numbers = [str(each) for each in ids]
    return f"override{'s' * (len(numbers) > 1)} {', '.join(numbers)}" if numbers else ""


def with_overrides(reason: str, calendar: TradingCalendar, day: date) -> str:
    """Write a reason, and after it the overrides that it comes from."""
    found = by_overrides(overrides_on(calendar, [day]))
    return f"{reason} ({found})" if found else reason
