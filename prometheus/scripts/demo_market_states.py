"""Show every market now: its state, its exchanges, and when the state next changes.

python -m prometheus.scripts.demo_market_states
python -m prometheus.scripts.demo_market_states 2012-11-23T04:30Z
python -m prometheus.scripts.demo_market_states --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus.core.exchanges import load_exchange
from prometheus.core.market_state import MarketStatus, describe_market
from prometheus.core.markets import markets
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError


def parse_instant(text: str) -> datetime:
    """
    Read an ISO 8601 instant with its offset.

    Raises:
        argparse.ArgumentTypeError: the text is no instant, or has no offset.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an instant such as 2012-11-23T04:30Z"
        ) from None
    if instant.utcoffset() is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no offset: write {text}Z for UTC")
    return instant.astimezone(UTC)


def in_words(span: timedelta) -> str:
    """Write a duration to the minute, such as ``"2 d 3 h"`` or ``"45 min"``."""
    minutes = span // timedelta(minutes=1)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min" if minutes else "less than a minute"


def local_times(members: Sequence[str], at: datetime) -> str:
    """Write an instant in the zone of each member, each zone once."""
    zones = dict.fromkeys(load_exchange(mic).zone for mic in members)
    written = []
    for zone in zones:
        city = zone.key.rsplit("/", 1)[-1].replace("_", " ")
        written.append(f"{at.astimezone(zone):%a %H:%M} {city}")
    return ", ".join(written)


def as_json(status: MarketStatus) -> dict[str, Any]:
    """Describe a market for machines; instants are ISO 8601 in UTC."""
    following = status.next_transition
    return {
        "market": status.market_id,
        "at": status.at.isoformat(),
        "state": status.state,
        "session_date": status.session_date and status.session_date.isoformat(),
        "next_session_date": status.next_session_date and status.next_session_date.isoformat(),
        "in_break": status.in_break,
        "reason": status.reason,
        "members": {
            mic: {"state": state, "closed": status.closed_members.get(mic)}
            for mic, state in status.members.items()
        },
        "next_transition": following
        and {
            "at": following.at.isoformat(),
            "state": following.state,
            "local": {
                mic: following.at.astimezone(load_exchange(mic).zone).isoformat()
                for mic in status.members
            },
        },
    }


def as_error(market_id: str, at: datetime, error: PrometheusError) -> dict[str, Any]:
    """Say for machines why there is no answer."""
    return {"market": market_id, "at": at.isoformat(), "error": str(error)}


def describe(status: MarketStatus) -> list[str]:
    """Describe a market for people, in a few lines."""
    state = str(status.state)
    if status.in_break:
        state += ", in the lunch break"
    if status.reason:
        state += f" ({status.reason})"
    lines = [f"{status.market_id:<9} {state}"]
    for mic, of_member in status.members.items():
        closed = status.closed_members.get(mic)
        at_home = f"{status.at.astimezone(load_exchange(mic).zone):%a %H:%M}"
        why = f"  {closed}" if closed else ""
        lines.append(f"  {mic:<9} {of_member:<11}{at_home} there{why}")
    if status.session_date is not None:
        session = TradingCalendar(status.market_id).session(status.session_date)
        hours = f"{session.open:%H:%M}-{session.close:%H:%M} UTC"
        special = f", {session.reason}" if session.reason else ""
        lines.append(f"  session   {status.session_date}  {hours}{special}")
    elif status.next_session_date is not None:
        lines.append(f"  session   none; the next is {status.next_session_date}")
    if status.next_transition is None:
        lines.append("  next      not known: the calendar ends")
    else:
        at, following = status.next_transition
        lines.append(
            f"  next      {following} in {in_words(at - status.at)}, "
            f"{at:%Y-%m-%d %H:%M} UTC ({local_times(list(status.members), at)})"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the states; 1 if a market's calendar has no answer, 2 for bad arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m prometheus.scripts.demo_market_states",
        description="Show every market's state and when it next changes.",
    )
    parser.add_argument(
        "at",
        nargs="?",
        type=parse_instant,
        help="an instant such as 2012-11-23T04:30Z; now by default",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    at = options.at or datetime.now(UTC)
    answers: dict[str, MarketStatus | PrometheusError] = {}
    for market in markets():
        try:
            answers[market.market_id] = describe_market(market, at)
        except PrometheusError as error:
            # One market's calendar may end before another's.
            answers[market.market_id] = error
    if options.json:
        documents = [
            as_json(answer) if isinstance(answer, MarketStatus) else as_error(market_id, at, answer)
            for market_id, answer in answers.items()
        ]
        print(json.dumps(documents, indent=2))
    else:
        print(f"{at:%A %Y-%m-%d %H:%M:%S} UTC")
        for market_id, answer in answers.items():
            print()
            if isinstance(answer, MarketStatus):
                print("\n".join(describe(answer)))
            else:
                print(f"{market_id:<9} not known: {answer}")
    return 0 if all(isinstance(answer, MarketStatus) for answer in answers.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
