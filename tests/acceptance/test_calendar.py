"""``prometheus calendar sync`` and ``diff`` as commands."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from prometheus.core.trading_calendar import TradingCalendar
from tests.acceptance.conftest import Ended, RunCommand
from tests.eodhd.server import TOKEN, Answer, Imitation


def test_a_feeds_closure_waits_until_somebody_confirms_it(
    run_command: RunCommand, sqlite_url: str
) -> None:
    now = datetime.now(UTC)
    calendar = TradingCalendar("XNYS")
    # Not one of short hours, which the feed lists already.
    storm = next(
        day
        for day in calendar.trading_days(date(now.year, 3, 1), date(now.year, 3, 31))
        if not calendar.session(day).early_close
    )
    with Imitation(now=datetime.combine(now.date(), now.time(), UTC)) as server:
        server.maintenance = False
        server.extra_closures["US", storm] = "Storm"
        env = {
            "PROMETHEUS__EODHD__TOKEN": TOKEN,
            "PROMETHEUS__EODHD__URL": server.url,
            "PROMETHEUS__DATABASE__URL": sqlite_url,
        }
        asked = run_command("calendar", "sync", "XNYS", "--json", env=env)
        assert asked.status == 0, asked
        assert asked.document["differences"] == [
            {
                "exchange": "XNYS",
                "date": storm.isoformat(),
                "proposed": "closed",
                "in_force": "open",
                "name": "Storm",
                "state": "proposed",
            }
        ]
        assert asked.document["waiting"] == 1

        hint = run_command("calendar", "sync", "US_EQ", env=env)
        assert f"calendar sync US_EQ --confirm {storm} --reason" in hint.out

        decide = ("calendar", "sync", "XNYS", "--confirm", storm.isoformat())
        run_command(*decide, env=env).refused("need a --reason", status=2)
        noticed = (*decide, "--reason", "NYSE notice", "--as", "ana")
        (shown,) = run_command(*noticed, "--json", env=env).document
        assert (shown["decided"], shown["decided_at"], shown["override"]) == (False, None, 1)
        (change,) = shown["changes"]
        assert [each["state"] for each in change["states"]["XNYS"]["after"]] == ["HOLIDAY"]
        confirmed = run_command(*noticed, "--yes", env=env)
        assert "US_EQ does not change: XNAS stays open\n" in confirmed.out
        assert confirmed.out.endswith(
            f"XNYS {storm}: closed (Storm), confirmed by ana. Override 1, in force with the next "
            f"tick.\n"
        )
        run_command(*decide, "--reason", "again", env=env).refused(
            f"of {storm} 'closed' was confirmed by ana already. Nothing was decided."
        )

        # Both, and neither with the token that the server repeats.
        server.answers.append(Answer(401, f"?api_token={TOKEN}".encode()))
        again = run_command("calendar", "sync", "XLON", "XNYS", env=env)
        assert again.status == 1
        assert "the token was refused (401)" in again.out
        assert str(storm) not in again.out  # the calendar says so too
        assert "Traceback" not in again.err
    for ended in (asked, confirmed, again):
        assert TOKEN not in ended.out + ended.err
    stored = Path(sqlite_url.removeprefix("sqlite:///")).read_bytes()
    assert TOKEN.encode() not in stored
    assert b"NYSE notice" in stored


def test_decisions_can_be_made_anew(run_command: RunCommand, database_url: str) -> None:
    now = datetime.now(UTC)
    calendar = TradingCalendar("XNYS")
    storm, fog = [
        day
        for day in calendar.trading_days(date(now.year, 3, 1), date(now.year, 3, 31))
        if not calendar.session(day).early_close
    ][:2]
    with Imitation(now=now) as server:
        server.maintenance = False
        server.extra_closures["US", storm] = "Storm"
        server.extra_closures["US", fog] = "Fog"
        env = {
            "PROMETHEUS__EODHD__TOKEN": TOKEN,
            "PROMETHEUS__EODHD__URL": server.url,
            "PROMETHEUS__DATABASE__URL": database_url,
        }

        def ask() -> list[tuple[str, str]]:
            asked = run_command("calendar", "sync", "XNYS", "--json", env=env).document
            found = [(each["date"], each["state"]) for each in asked["differences"]]
            assert asked["waiting"] == sum(state == "proposed" for _, state in found)
            return found

        def decide(*options: str) -> Ended:
            words = ("--reason", "a notice", "--as", "ana", "--yes")
            return run_command("calendar", "sync", "XNYS", *options, *words, env=env)

        ask()
        decide("--confirm", str(storm), "--reject", str(fog))
        decide("--reject", str(storm)).refused("holds by override 1: withdraw that first")
        assert ask() == [(str(fog), "rejected")]

        withdraw = ("calendar", "override", "withdraw", "1", "--reason", "it opens", "--yes")
        run_command(*withdraw, env=env)
        assert ask() == [(str(storm), "proposed"), (str(fog), "rejected")]
        anew = ("--reject", str(storm), "--confirm", str(fog))
        shown = run_command(
            "calendar", "sync", "XNYS", *anew, "--reason", "look", "--json", env=env
        ).document
        earlier = {each["date"]: each["earlier"] for each in shown}
        assert all(each.pop("decided_at") for each in earlier.values())
        assert earlier == {
            str(day): {"state": state, "decided_by": "ana", "reason": "a notice"}
            for day, state in ((storm, "confirmed"), (fog, "rejected"))
        }
        decided = decide(*anew)
        assert f"XNYS {fog}: closed (Fog), rejected before, by ana on {now:%Y}-" in decided.out
        assert f"XNYS {fog}: closed (Fog), confirmed by ana. Override 3" in decided.out
        assert ask() == [(str(storm), "rejected")]


def test_a_feed_hears_nothing_of_markets_with_hours_of_their_own(
    run_command: RunCommand, home: Path, sqlite_url: str
) -> None:
    declared = """
    [markets.DESK]
    zone = "Europe/Paris"
    hours = [{ days = "Mon-Fri", open = "08:00", close = "22:00" }]
    """
    (home / "prometheus.toml").write_text(declared)
    with Imitation(now=datetime.now(UTC)) as server:
        server.maintenance = False
        env = {
            "PROMETHEUS__EODHD__TOKEN": TOKEN,
            "PROMETHEUS__EODHD__URL": server.url,
            "PROMETHEUS__DATABASE__URL": sqlite_url,
            "PROMETHEUS__MARKETS__ENABLED": "DESK,CRYPTO,XLON",
        }
        asked = run_command("calendar", "sync", env=env)
        assert asked.status == 0, asked
        assert len(server.asked) == 1
        none = run_command("calendar", "sync", env={**env, "PROMETHEUS__MARKETS__ENABLED": "DESK"})
        assert none.out == "No enabled market has an exchange: there was nothing to ask.\n"
        run_command("calendar", "sync", "DESK", "XLON", env=env).refused(
            "DESK: no feed knows what is no exchange", status=2
        )
        assert len(server.asked) == 1


def test_a_spent_quota_is_said_once_and_promises_nothing(
    run_command: RunCommand, sqlite_url: str
) -> None:
    with Imitation(now=datetime.now(UTC)) as server:
        server.maintenance = False
        server.answers.append(Answer(402, b""))
        env = {
            "PROMETHEUS__EODHD__TOKEN": TOKEN,
            "PROMETHEUS__EODHD__URL": server.url,
            "PROMETHEUS__DATABASE__URL": sqlite_url,
        }
        spent = run_command("calendar", "sync", "XLON", env=env)
        assert (spent.status, spent.err) == (1, "")
        assert "The count begins anew at" in spent.out
        # Another process was not told, and asks.
        assert run_command("calendar", "sync", "XLON", env=env).status == 0


def test_a_feed_without_a_token_is_not_asked(run_command: RunCommand, sqlite_url: str) -> None:
    env = {"PROMETHEUS__DATABASE__URL": sqlite_url}
    run_command("calendar", "sync", "XNYS", env=env).refused("PROMETHEUS__EODHD__TOKEN")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("diff", "XNYS", "XLON", "2026", "--from", "2026-01-01"), "belong together"),
        (("diff", "XSHG", "XHKG", "2040"), "XSHG"),
        (("sync", "--confirm", "2026-01-01", "--reject", "2026-01-02"), "need one EXCHANGE"),
        (("sync", "--yes"), "--yes needs --confirm or --reject"),
    ],
)
def test_wrong_questions_say_what_was_wanted(
    run_command: RunCommand, arguments: tuple[str, ...], text: str
) -> None:
    ended = run_command("calendar", *arguments)
    assert ended.status in (1, 2)
    assert text in ended.err
    assert "Traceback" not in ended.err


def test_two_calendars_are_compared_for_people_and_machines(run_command: RunCommand) -> None:
    span = ("--from", "2026-12-21", "--to", "2026-12-31")
    document = run_command("calendar", "diff", "XNYS", "XLON", *span, "--json").document
    assert document["sessions"] == {"left": 8, "right": 7, "both": 7}
    assert document["only"] == {
        "left": [{"date": "2026-12-28", "why_not": "Boxing Day (observed)"}],
        "right": [],
    }
    assert [each["date"] for each in document["special_hours"]] == ["2026-12-24", "2026-12-31"]
    assert document["hours"][0]["left"] == {"utc": "14:30-21:00", "local": ["09:30-16:00 New York"]}
    shown = run_command("calendar", "diff", "XNYS", "XLON", *span).out
    assert "Only XNYS trades" in shown
    assert "09:30-13:00 New York" in shown
