"""``prometheus calendar sync``: what a feed says of holidays, and what a person makes of it."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prometheus.cli.options import Actor, AsJson, Folder, read_date

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Engine

    from prometheus.cli.places import Place
    from prometheus.core.holidays import HolidayState
    from prometheus.feeds import Synced
    from prometheus.persistence.holidays import StoredHoliday
    from prometheus.settings import Settings
    from prometheus.sources.eodhd.client import EodhdClient


_LONGEST_REASON = 900
"""Characters; the override that follows has it behind the name of the feed."""


def sync(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXCHANGE",
            help="Exchanges (MICs) or markets; those of the enabled markets by default.",
        ),
    ] = None,
    confirm: Annotated[
        list[str] | None,
        typer.Option(
            "--confirm", metavar="DATE", help="What the feed says of this date is true; repeatable."
        ),
    ] = None,
    reject: Annotated[
        list[str] | None,
        typer.Option(
            "--reject", metavar="DATE", help="It is not, and not proposed again; repeatable."
        ),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", help="Why it is confirmed or rejected.", metavar="TEXT")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Decide without asking.")] = False,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """
    Ask eodhd.com for this year's holidays, and show where it and the calendar do not agree.

    What it says is stored as a proposal, for a person to decide on: with --confirm or --reject, one
    exchange or market and --reason the feed is not asked, and what was proposed of those dates is
    decided; of a market, for each of its exchanges that something is proposed of.
    What was decided can be decided anew: a rejected day confirmed, a confirmed one either way once
    its override has been withdrawn; then the feed proposes it again, too.
    The decision is kept and audited, and the calendar follows what was confirmed by an override, in
    force from the next tick on; what that changes is shown first, and it asks. With --json and
    without --yes it only shows. Ends with 1 if an exchange's holidays did not come, or nothing was
    decided.
    """
    from prometheus.cli.operate import actor_name
    from prometheus.cli.places import find_place, opened
    from prometheus.core.holidays import HolidayState

    confirmed, rejected = _dates(confirm), _dates(reject)
    name, words = None, {}
    if yes and not (confirmed or rejected):
        raise typer.BadParameter("--yes needs --confirm or --reject")
    if confirmed or rejected:
        words = {"actor": actor_name(actor), "reason": reason.strip()}
        name = _to_decide_on(names or [], confirmed, rejected, **words)
    elif reason:
        raise typer.BadParameter("--reason needs --confirm or --reject")
    place = find_place(folder)
    with opened(place) as engine:
        if name is not None:
            days = {HolidayState.CONFIRMED: confirmed, HolidayState.REJECTED: rejected}
            _decide(place, engine, name, days, words, yes=yes, as_json=as_json)
            return
        from prometheus.feeds import exchanges, synchronize  # it takes time
        from prometheus.persistence.clock import read_now
        from prometheus.persistence.engine import reading

        with reading(engine) as connection:
            year = read_now(connection).wall_at.year
        client = _client(place.settings)
        if of_none := [name for name in names or () if not exchanges([name])]:
            raise typer.BadParameter(f"{', '.join(of_none)}: no feed knows what is no exchange")
        asked = names or place.settings.markets.enabled
        found = synchronize(engine, client, exchanges(asked), year)
    _report(found, asked, year, as_json=as_json)
    if any(each.error for each in found):
        raise typer.Exit(1)


def _client(settings: Settings) -> EodhdClient:
    import logging

    from prometheus.feeds import make_client

    # The command says what happened; without a handler, warnings for workers would be on stderr.
    logging.getLogger("prometheus.sources.eodhd").addHandler(logging.NullHandler())
    return make_client(settings)


def _dates(texts: list[str] | None) -> list[date]:
    return sorted({read_date(text) for text in texts or ()})


def _to_decide_on(
    names: list[str], confirmed: list[date], rejected: list[date], *, actor: str, reason: str
) -> str:
    """Return the exchange or market whose dates are meant."""
    from prometheus.core.drafts import LONGEST_NAME, text_faults

    if len(names) != 1:
        raise typer.BadParameter(
            "--confirm and --reject need one EXCHANGE or market, whose dates they mean"
        )
    if not reason.strip():
        raise typer.BadParameter("--confirm and --reject need a --reason, which is kept")
    faults = text_faults("reason", reason, _LONGEST_REASON) + text_faults("as", actor, LONGEST_NAME)
    if faults:
        raise typer.BadParameter("; ".join(faults))
    if both := sorted(set(confirmed) & set(rejected)):
        raise typer.BadParameter(f"{both[0]} is to be confirmed and rejected")
    return names[0]


def _decide(
    place: Place,
    engine: Engine,
    name: str,
    days: Mapping[HolidayState, list[date]],
    words: Mapping[str, str],
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Show what decisions would change, ask, and write them down as what they were shown as."""
    from prometheus.cli import output, overrides
    from prometheus.persistence.engine import reading, writing
    from prometheus.persistence.holidays import decide_as_seen, plan_decisions
    from prometheus.persistence.overrides import read_overrides

    with reading(engine) as connection:
        found = plan_decisions(connection, name, days, **words)
        known = read_overrides(connection)
        changes = overrides.foresee(connection, place, found.overrides.values(), known)
    if not as_json:
        for change in changes:
            overrides.show_change(change)
        for each in found.decided:
            if each.earlier is not None:
                print(_told_before(each.earlier))
    question = f"{'; '.join(map(_told, found.decided))}. Is that so?"
    decided = yes or (not as_json and typer.confirm(question))
    if decided:
        with writing(engine) as connection:
            seen = None if yes else found.plan
            found = decide_as_seen(connection, name, days, seen, **words)
    if as_json:
        output.print_json(
            [
                {
                    "exchange": each.exchange,
                    "date": day,
                    "proposed": each.holiday.words,
                    "name": each.holiday.name,
                    "source": each.source,
                    "fetched_at": each.fetched_at,
                    "state": each.state,
                    "decided": decided,
                    "decided_at": each.decided_at,
                    "decided_by": each.decided_by,
                    "reason": each.reason,
                    "earlier": each.earlier
                    and {
                        "state": each.earlier.state,
                        "decided_at": each.earlier.decided_at,
                        "decided_by": each.earlier.decided_by,
                        "reason": each.earlier.reason,
                    },
                    "override": found.overrides[of].override_id if of in found.overrides else None,
                    "changes": [
                        change.document()
                        for change in changes
                        if (change.override.exchange, change.override.session) == of
                    ],
                }
                for each in found.decided
                for day in [each.holiday.day]
                for of in [(each.exchange, day)]
            ]
        )
        return
    if not decided:
        print("Nothing was decided.")
        raise typer.Exit(1)
    for each in found.decided:
        of = each.exchange, each.holiday.day
        told = f"{_told(each)} by {each.decided_by}."
        if of in found.overrides:
            told += f" Override {found.overrides[of].override_id}, in force with the next tick."
        print(told)


def _told(each: StoredHoliday) -> str:
    holiday = each.holiday
    return f"{each.exchange} {holiday.day}: {holiday.words} ({holiday.name}), {each.state}"


def _told_before(each: StoredHoliday) -> str:
    at = f"{each.decided_at:%Y-%m-%d %H:%M} UTC"
    return f"{_told(each)} before, by {each.decided_by} on {at}: {each.reason}"


def _report(found: list[Synced], asked: Iterable[str], year: int, *, as_json: bool) -> None:
    from prometheus.cli import output
    from prometheus.core.holidays import HolidayState
    from prometheus.core.markets import get_market
    from prometheus.sources.eodhd.errors import SOURCE

    differences = [pair for each in found for pair in each.differences]
    waiting = [each for each, state in differences if state is HolidayState.PROPOSED]
    if as_json:
        document: dict[str, Any] = {
            "source": SOURCE,
            "year": year,
            "exchanges": [
                {
                    "exchange": each.exchange,
                    "listed": None if each.error else each.listed,
                    "error": str(each.error) if each.error else None,
                }
                for each in found
            ],
            "differences": [
                {
                    "exchange": each.mic,
                    "date": each.day,
                    "proposed": each.proposed,
                    "in_force": each.in_force,
                    "name": each.name,
                    "state": state,
                }
                for each, state in differences
            ],
            "waiting": len(waiting),
        }
        output.print_json(document)
        return
    console = output.console()
    for each in found:
        told = str(each.error) if each.error else f"{output.count(each.listed, 'day')} listed"
        console.print(f"{each.exchange} {year}: {told}", soft_wrap=True, markup=False)
    if not found:
        console.print("No enabled market has an exchange: there was nothing to ask.")
    if not differences:
        if not all(each.error for each in found):
            console.print("Nothing differs from the calendar in force.")
        return
    console.print()
    table = output.table("Exchange", "Date", "The feed says", "In force", "", "Holiday")
    for difference, state in differences:
        table.add_row(
            difference.mic,
            f"{difference.day:%a} {difference.day}",
            difference.proposed,
            difference.in_force,
            state,
            difference.name,
        )
    console.print(table)
    if waiting:
        one = waiting[0]
        name = next(each for each in asked if one.mic in get_market(each).members)
        console.print()
        console.print(
            f"Nothing has changed: {output.count(len(waiting), 'difference')} to be decided on by "
            f"a person. Such as: prometheus calendar sync {name} --confirm {one.day} "
            f"--reason '...', or --reject.",
            soft_wrap=True,
            markup=False,
        )
