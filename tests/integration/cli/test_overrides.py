"""``prometheus calendar override``, and the commands that show what it has changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
import typer
from typer.testing import CliRunner

from prometheus.cli.application import make_application
from prometheus.core.drafts import Draft, read_draft
from prometheus.core.holidays import Holiday, HolidayKind
from prometheus.core.overrides import Overrides, put_in_force
from prometheus.errors import OverrideError
from prometheus.persistence.clock import read_now
from prometheus.persistence.engine import create_engine, writing
from prometheus.persistence.holidays import DecisionError, propose_holidays
from prometheus.persistence.overrides import read_overrides, record

OVERRIDE = ("calendar", "override")
REASON = "a storm [/b] :cloud:"
"""It says nothing of styles or pictures."""
CLOSED = ("XNYS", "2027-01-05", "closed", "--reason", REASON, "--source", "nyse.com")


class Run(Protocol):
    """The type of the fixture ``run``."""

    def __call__(self, *arguments: str, fails: bool = False) -> Any: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sqlite_url: str) -> Iterator[Run]:
    """A function that runs ``prometheus`` in this process, as if it had just begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMETHEUS__DATABASE__URL", sqlite_url)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, fails: bool = False) -> Any:
        put_in_force(Overrides())
        done = CliRunner().invoke(make_application(arguments), arguments)
        assert (done.exception is not None) == fails, done.exception or done.output
        return done

    yield run
    put_in_force(Overrides())


def changes(run: Run) -> list[tuple[Any, Any]]:
    """What overrides have changed, by the audit, the last first."""
    rows = json.loads(run("audit", "--action", "override", "--json").stdout)
    return [(each["details"]["before"], each["details"]["after"]) for each in rows]


def test_override_is_shown_before_it_is_recorded_then_everywhere_and_goes_as_it_came(
    run: Run,
) -> None:
    # Without --yes, --json only shows.
    shown = json.loads(run(*OVERRIDE, "add", *CLOSED, "--json").stdout)
    assert shown["recorded"] is False
    assert [each["state"] for each in shown["states"]["XNYS"]["after"]] == ["HOLIDAY"]
    # The other exchange of the market is open.
    assert shown["states"]["US_EQ"]["before"] == shown["states"]["US_EQ"]["after"]
    assert json.loads(run(*OVERRIDE, "list", "--json").stdout) == []

    added = run(*OVERRIDE, "add", *CLOSED, "--yes", "--as", "ada").stdout
    assert f"  {REASON}\n" in added
    assert "US_EQ does not change: XNAS stays open\n" in added
    assert "Recorded as override 1" in added
    (listed,) = json.loads(run(*OVERRIDE, "list", "--json").stdout)
    assert (listed["exchange"], listed["author"], listed["in_force"]) == ("XNYS", "ada", True)
    recorded = datetime.fromisoformat(listed["recorded_at"])
    assert timedelta(0) <= datetime.now(UTC) - recorded < timedelta(hours=1)
    assert f"by ada, {recorded:%Y-%m-%d %H:%M} UTC" in run(*OVERRIDE, "list").stdout
    hours = {
        "opens": "2027-01-05T14:30:00Z", "closes": "2027-01-05T21:00:00Z", "breaks": [],
    }  # fmt: skip
    assert changes(run) == [(hours, "closed")]
    again = run(*OVERRIDE, "add", *CLOSED, "--yes", fails=True)
    assert "closed on 2027-01-05 already" in str(again.exception)

    year = run("calendar", "show", "XNYS", "2027").stdout
    assert "! changed by an override" in year
    assert f"!  Tue 2027-01-05  closed: {REASON}; override 1" in year
    days = json.loads(run("calendar", "show", "US_EQ", "2027", "--json").stdout)["days"]
    (changed,) = (day for day in days if day["overrides"])
    assert changed["date"] == "2027-01-05"
    assert (changed["kind"], changed["closed_members"]) == ("partial", {"XNYS": REASON})
    monday = "2027-01-04T22:00Z"
    assert f"{REASON}; override 1" in run("calendar", "next", "XNYS", "--at", monday).stdout
    noon = "2027-01-05T17:00Z"
    assert "override 1" in run("calendar", "at", noon, "XNYS").stdout
    (answer,) = json.loads(run("markets", "XNYS", "--at", noon, "--json").stdout)
    assert (answer["state"], answer["overrides"]) == ("HOLIDAY", [1])
    differs = run("calendar", "diff", "XNYS", "XNAS", "2027").stdout
    assert f"XNYS closed: {REASON} (override 1)" in differs

    gone = run(*OVERRIDE, "withdraw", "1", "--reason", "it passed", "--yes").stdout
    assert "Recorded as override 2" in gone
    assert "No overrides." in run(*OVERRIDE, "list").stdout
    assert "override" not in run("calendar", "show", "XNYS", "2027").stdout
    assert changes(run) == [("closed", hours), (hours, "closed")]


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("zone", "Mars/Olympus", "no zone is called 'Mars/Olympus' here"),
        ("closes", "late", "'late' is not a local time such as 09:30"),
        ("kind", "strange", "'strange' is not a valid OverrideKind"),
        ("exchange", "XXXX", "no exchange is called 'XXXX'"),
    ],
)
def test_override_that_can_not_be_read_is_told_leaves_the_others_alone_and_can_be_withdrawn(
    run: Run, sqlite_url: str, column: str, value: str, fault: str
) -> None:
    """Somebody wrote it past our commands, or on a machine that knows other zones."""
    early = ("XLON", "2027-01-06", "early_close", "--close", "12:00")
    run(*OVERRIDE, "add", *early, "--reason", "a storm", "--source", "lse.com", "--yes")
    run(*OVERRIDE, "add", *CLOSED, "--yes")
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        # As the column's own check would not let it.
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(
            f"UPDATE calendar_overrides SET {column} = ? WHERE override_id = 1", (value,)
        )
    told = run("calendar", "at", "2027-01-05T17:00Z", "XNYS", "XLON")
    assert f"Override 1 does not hold: {fault}" in told.stderr
    assert "override 2" in told.stdout
    assert "override" not in run("calendar", "show", "XLON", "2027").stdout
    listed = json.loads(run(*OVERRIDE, "list", "--json").stdout)
    assert [each["in_force"] for each in listed] == [False, True]
    assert fault in listed[0]["fault"]
    assert f"does not hold: {fault}" in run(*OVERRIDE, "list").stdout

    gone = run(*OVERRIDE, "withdraw", "1", "--reason", "unreadable", "--yes").stdout
    assert "Recorded as override 3" in gone
    assert "does not hold" not in run("calendar", "at", "2027-01-05T17:00Z", "XNYS").stderr
    assert "does not hold" not in run(*OVERRIDE, "list").stdout


def test_preview_says_when_a_run_starts_that_is_not_made_yet(run: Run, tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text(
        "from prometheus import Pipeline\n"
        'later = Pipeline("later", markets=["US_EQ"])\n'
        '@later.job(start="close+45m")\n'
        "def counts(ctx): ...\n"
        "@later.job()\n"
        "def opens(ctx): ...\n"
        '@later.sensor(give_up="close-30m")\n'
        "def has_come(ctx): ...\n"
    )
    (tmp_path / "prometheus.toml").write_text('[pipelines]\nmodules = ["later.py"]\n')
    early = ("US_EQ", "2027-01-05", "early_close", "--close", "12:00")
    said = run(*OVERRIDE, "add", *early, "--reason", "a storm", "--source", "nyse.com", "--yes")
    assert (
        "us_eq_later_2027-01-05: will be made, with other times\n"
        "  counts: window 2027-01-05 17:45 UTC to 2027-01-06 13:30 UTC instead of "
        "2027-01-05 21:45 UTC to 2027-01-06 13:30 UTC\n"
        "  has_come: gives up at 2027-01-05 16:30 UTC instead of 2027-01-05 20:30 UTC\n\n"
    ) in said.stdout
    assert "No run changes." not in said.stdout


def test_preview_leaves_out_what_stays_as_it_is(run: Run) -> None:
    early = ("XNYS", "2027-01-05", "early_close", "--close", "13:00")
    said = run(*OVERRIDE, "add", *early, "--reason", "a storm", "--source", "nyse.com", "--yes")
    rows = [line.split() for line in said.stdout.splitlines() if " UTC " in line]
    assert rows == [
        ["Tue", "18:00", "UTC", "SESSION", "POST_CLOSE"],
        ["Tue", "20:00", "UTC", "SESSION", "OVERNIGHT"],
        ["Tue", "21:00", "UTC", "POST_CLOSE", "OVERNIGHT"],
    ]


def test_preview_names_all_members_that_hold_a_market_open(run: Run, tmp_path: Path) -> None:
    (tmp_path / "prometheus.toml").write_text(
        '[markets]\nenabled = ["BENELUX", "US_EQ"]\n'
        '[markets.BENELUX]\nmembers = ["XPAR", "XAMS", "XBRU"]\n'
    )
    words = ("2027-01-05", "closed", "--reason", "a strike", "--source", "it", "--yes")
    said = run(*OVERRIDE, "add", "XPAR", *words).stdout
    assert "BENELUX does not change: XAMS, XBRU stay open\n" in said
    # Nobody is left to be named.
    run(*OVERRIDE, "add", "XNAS", *words)
    assert "does not change" not in run(*OVERRIDE, "add", "XNYS", *words).stdout


def test_preview_shows_a_session_that_begins_the_evening_before(run: Run) -> None:
    words = ("US_FUT", "2027-01-05", "closed", "--reason", "a storm", "--source", "cme.com")
    states = json.loads(run(*OVERRIDE, "add", *words, "--json").stdout)["states"]["US_FUT"]
    evenings = [f"2027-01-0{day}T23:00:00+00:00" for day in (4, 5)]  # 17:00 in Chicago
    began, begin = (
        {each["from"] for each in states[when] if each["state"] == "SESSION"}
        for when in ("before", "after")
    )
    assert began >= set(evenings)
    assert not {at for at in begin if evenings[0] <= at < evenings[1]}


def test_what_was_shown_is_not_recorded_once_somebody_else_has_been_there(
    run: Run, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(_question: str) -> bool:
        engine = create_engine(sqlite_url)
        other = Draft(
            target="XNAS",
            session="2027-01-05",
            kind="closed",
            reason="a storm",
            source="it",
            author="bob",
        )
        with writing(engine) as connection:
            now = read_now(connection).market_at
            record(connection, read_draft(other, read_overrides(connection), now=now))
        engine.dispose()
        return True

    monkeypatch.setattr(typer, "confirm", meanwhile)
    refused = run(*OVERRIDE, "add", *CLOSED, fails=True)
    assert isinstance(refused.exception, OverrideError)
    assert "bob has recorded override 1 meanwhile: look again" in str(refused.exception)
    assert len(json.loads(run(*OVERRIDE, "list", "--json").stdout)) == 1


def test_override_with_ten_faults_gets_ten_messages_and_the_last_good_calendar_stays(
    run: Run,
) -> None:
    run(*OVERRIDE, "add", *CLOSED, "--yes")
    times = ("--open", "9", "--close", "25:00", "--breaks", "noon", "--zone", "Mars")
    wrong = ("add", "XNSY", "5.1.2027", "clsoed", *times, "--announced-at", "2026-01-01")
    refused = run(*OVERRIDE, *wrong, "--yes", fails=True)
    assert isinstance(refused.exception, OverrideError)
    assert len(set(refused.exception.faults)) == 10
    (standing,) = json.loads(run(*OVERRIDE, "list", "--json").stdout)
    assert (standing["id"], standing["kind"]) == (1, "closed")
    assert "override 1" in run("calendar", "show", "XNYS", "2027").stdout


def test_database_that_does_not_answer_is_told_of_and_the_shipped_calendar_is_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("this is no database" * 100)
    for url, said in (
        ("postgresql://ada:s3cret@127.0.0.1:1/prometheus", "does not answer: "),
        ("postgresql://ada:s3cret%zz@127.0.0.1:1/prometheus", "has a URL that psycopg"),
        (f"sqlite:///{broken}", "does not answer: file is not a database"),
    ):
        monkeypatch.setenv("PROMETHEUS__DATABASE__URL", url)
        done = run("calendar", "show", "XNYS", "2027")
        (line,) = done.stderr.splitlines()
        assert line.startswith("Overrides are not shown: ")
        assert said in line
        assert "s3cret" not in line
        assert "251 sessions" in done.stdout


def test_place_without_a_database_shows_the_shipped_calendar_and_makes_none(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PROMETHEUS__DATABASE__URL")
    assert run("markets", "XNYS").stderr == ""
    assert not (tmp_path / ".prometheus").exists()
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).close()
    monkeypatch.setenv("PROMETHEUS__DATABASE__URL", f"sqlite:///{empty}")
    assert run("markets", "XNYS").stderr == ""


def test_override_of_a_session_that_is_over_says_that_what_has_finished_stays(run: Run) -> None:
    past = ("XNYS", "2025-01-10", "closed", "--reason", "an outage", "--source", "nyse.com")
    added = run(*OVERRIDE, "add", *past, "--yes").stdout
    assert (
        "That session is over: runs that have finished stay as they are.\nNo run changes." in added
    )
    withdrawn = run(*OVERRIDE, "withdraw", "1", "--reason", "no outage", "--yes").stdout
    assert "That session is over" in withdrawn
    assert "is over" not in run(*OVERRIDE, "add", *CLOSED, "--yes").stdout


# --- what feeds propose ---------------------------------------------------------------------------

SHORT = date(2027, 1, 5)
STORM = date(2027, 1, 6)
DECIDE = ("calendar", "sync", "XNYS", "--reason", "NYSE notice", "--as", "ana")


def _propose(sqlite_url: str, close: time = time(13), exchange: str = "XNYS") -> None:
    engine = create_engine(sqlite_url)
    holidays = [
        Holiday(SHORT, "Short", HolidayKind.EARLY_CLOSE, close),
        Holiday(STORM, "Storm", HolidayKind.CLOSED),
    ]
    with writing(engine) as connection:
        year = date(2027, 1, 1), date(2027, 12, 31)
        propose_holidays(connection, exchange, "eodhd", *year, holidays)
    engine.dispose()


def test_what_a_decision_changes_is_shown_before_it_is_made(run: Run, sqlite_url: str) -> None:
    _propose(sqlite_url)
    both = (*DECIDE, "--confirm", str(SHORT), "--reject", str(STORM))
    asked = run(*both, fails=True).stdout  # nobody answers
    assert "XNYS 2027-01-05: early_close, close 13:00" in asked
    assert "Tue 18:00 UTC" in asked
    assert (
        "XNYS 2027-01-05: early close 13:00 (Short), confirmed; XNYS 2027-01-06: closed (Storm), "
        "rejected. Is that so?"
    ) in asked
    assert json.loads(run(*OVERRIDE, "list", "--json").stdout) == []

    said = run(*both, "--yes").stdout
    assert "XNYS 2027-01-05: early close 13:00 (Short), confirmed by ana. Override 1" in said
    assert "XNYS 2027-01-06: closed (Storm), rejected by ana.\n" in said
    (override,) = json.loads(run(*OVERRIDE, "list", "--json").stdout)
    assert (override["kind"], override["close"]) == ("early_close", "13:00")
    next_close = run("calendar", "next", "XNYS", "--at", "2027-01-05T15:00Z").stdout
    assert "18:00" in next_close


def test_each_confirmed_day_is_shown_over_the_one_before(run: Run, sqlite_url: str) -> None:
    _propose(sqlite_url)
    both = (*DECIDE, "--confirm", str(SHORT), "--confirm", str(STORM))
    shown = json.loads(run(*both, "--json").stdout)
    assert [(each["override"], each["decided"]) for each in shown] == [(1, False), (2, False)]
    assert [len(each["changes"]) for each in shown] == [1, 1]


def test_decision_on_a_market_is_one_on_those_of_its_exchanges_that_wait_for_it(
    run: Run, sqlite_url: str
) -> None:
    _propose(sqlite_url)
    _propose(sqlite_url, exchange="XNAS")
    run("calendar", "sync", "XNAS", "--reject", str(STORM), "--reason", "no", "--yes")
    of_market = ("calendar", "sync", "US_EQ", "--reason", "it says so", "--as", "ana")
    both = (*of_market, "--confirm", str(SHORT), "--confirm", str(STORM))
    decided = json.loads(run(*both, "--yes", "--json").stdout)
    assert [(each["exchange"], each["date"], each["override"]) for each in decided] == [
        ("XNYS", str(SHORT), 1),
        ("XNYS", str(STORM), 2),
        ("XNAS", str(SHORT), 3),
    ]
    assert [list(change["states"]) for each in decided for change in each["changes"]] == [
        ["XNYS", "US_EQ"],
        ["XNYS", "US_EQ"],
        ["XNAS", "US_EQ"],
    ]
    assert "18:00" in run("calendar", "next", "US_EQ", "--at", "2027-01-05T15:00Z").stdout
    again = str(run(*both, "--yes", fails=True).exception)
    assert again == (
        f"XNYS: of {SHORT} 'early close 13:00' was confirmed by ana already; "
        f"of {STORM} 'closed' was confirmed by ana already. Nothing was decided."
    )
    unheard = ("calendar", "sync", "US_EQ", "--reason", "it says so", "--reject", "2027-01-07")
    none = str(run(*unheard, "--yes", fails=True).exception)
    assert none == "US_EQ: of 2027-01-07 nothing is proposed. Nothing was decided."


def test_what_was_shown_is_not_decided_once_the_feed_says_something_else(
    run: Run, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _propose(sqlite_url)

    def meanwhile(_question: str) -> bool:
        _propose(sqlite_url, close=time(12))
        return True

    monkeypatch.setattr(typer, "confirm", meanwhile)
    refused = run(*DECIDE, "--confirm", str(SHORT), fails=True)
    assert isinstance(refused.exception, DecisionError)
    assert "the feed says something else meanwhile, or another has decided: look again" in str(
        refused.exception
    )
    assert json.loads(run(*OVERRIDE, "list", "--json").stdout) == []


def test_nothing_is_decided_without_a_yes(
    run: Run, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _propose(sqlite_url)
    monkeypatch.setattr(typer, "confirm", lambda _question: False)
    assert "Nothing was decided." in run(*DECIDE, "--confirm", str(STORM), fails=True).stdout
    too_long = ("calendar", "sync", "XNYS", "--confirm", str(STORM), "--reason", "x" * 901)
    refused = run(*too_long, "--yes", fails=True)
    assert "--reason has 901 characters; at most 900 are kept" in " ".join(refused.stderr.split())
    assert json.loads(run(*OVERRIDE, "list", "--json").stdout) == []
