"""``/api/v1/markets``: their states as the command line tells them, and their calendars."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime

import pytest

from prometheus.core.market_state import describe_market
from prometheus.core.overrides import Override, OverrideKind
from prometheus.orchestration.planning import SessionRange
from prometheus.persistence.clock import start_replay
from prometheus.persistence.engine import writing
from prometheus.persistence.overrides import record
from tests.integration.monitoring.conftest import Web
from tests.integration.persistence.world import World

FRIDAY = date(2012, 11, 23)


def stand(world: World, at: datetime) -> None:
    """Let market time stand at an instant, as in a replay."""
    with writing(world.engine) as connection:
        start_replay(
            connection,
            market_at=at,
            speed=0,
            only=SessionRange(date(2012, 11, 21), FRIDAY),
            markets=["US_EQ", "ASIA_EQ"],
        )


def say(world: World, override_id: int, reason: str, **values: object) -> None:
    """Record an override."""
    at = datetime(2012, 11, 22, tzinfo=UTC)
    said = {"exchange": "XNYS", "session": FRIDAY, "kind": OverrideKind.CLOSED, **values}
    override = Override(
        override_id=override_id,
        reason=reason,
        source="s",
        announced_at=at,
        author="ada",
        **said,  # type: ignore[arg-type]
    )
    with writing(world.engine) as connection:
        record(connection, override)


def test_live_markets_say_what_they_do(web: Web, world: World) -> None:
    world.worker()
    found = web.get("/api/v1/markets")
    assert len(web.statements) <= 3
    assert [each["market"] for each in found["items"]] == ["US_EQ", "EU_EQ", "ASIA_EQ"]
    assert [each["workers"] for each in found["items"]] == [1, 0, 0]
    at = datetime.fromisoformat(found["market_at"])
    for each in found["items"]:
        status = describe_market(each["market"], at)
        assert each["state"] == status.state
        assert datetime.fromisoformat(each["since"]) <= at
        assert at < datetime.fromisoformat(each["next_transition"]["at"])


def test_in_a_replay_market_time_counts(web: Web, world: World) -> None:
    stand(world, datetime(2012, 11, 23, 4, 30, tzinfo=UTC))
    us, asia = web.get("/api/v1/markets")["items"]
    assert (us["state"], us["since"], us["reason"]) == (
        "HOLIDAY",
        "2012-11-22T05:00:00Z",
        "Thanksgiving Day",
    )
    assert us["next_transition"] == {"at": "2012-11-23T05:00:00Z", "state": "OVERNIGHT"}
    assert (asia["state"], asia["in_break"], asia["session_date"]) == (
        "SESSION",
        True,
        "2012-11-23",
    )
    tokyo, hong_kong = asia["members"]
    assert tokyo == {
        "exchange": "XTKS",
        "city": "Tokyo",
        "zone": "Asia/Tokyo",
        "state": "HOLIDAY",
        "closed": "Labor Thanksgiving Day",
    }
    assert (hong_kong["exchange"], hong_kong["closed"]) == ("XHKG", None)


def test_one_damaged_calendar_holds_up_no_other_market(
    web: Web, break_sessions: Callable[[str], None]
) -> None:
    break_sessions("XPAR")
    us, eu, _ = web.get("/api/v1/markets")["items"]
    assert us["error"] is None
    assert "sessions of XPAR cannot be read" in eu["error"]
    assert eu["state"] is None
    assert "can" in web.problem("/api/v1/markets/EU_EQ/calendar", 503)


def test_a_calendar_names_sessions_breaks_and_days_off(web: Web) -> None:
    found = web.get("/api/v1/markets/XTKS/calendar", from_="2012-11-21", to="2012-11-24")
    assert len(web.statements) <= 3
    assert [(day["date"], day["kind"], day["reason"]) for day in found["days"]] == [
        ("2012-11-21", "session", None),
        ("2012-11-22", "session", None),
        ("2012-11-23", "holiday", "Labor Thanksgiving Day"),
        ("2012-11-24", "weekend", "weekend"),
    ]
    assert found["days"][0]["session"] == {
        "open_at": "2012-11-21T00:00:00Z",
        "close_at": "2012-11-21T06:00:00Z",
        "breaks": [{"start_at": "2012-11-21T02:30:00Z", "end_at": "2012-11-21T03:30:00Z"}],
        "early_close": False,
        "late_open": False,
        "reason": None,
    }
    assert found["overrides"] == []


def test_a_calendar_has_the_overrides_that_hold(web: Web, world: World) -> None:
    path = "/api/v1/markets/US_EQ/calendar"
    (before,) = web.get(path, from_="2012-11-23", to="2012-11-23")["days"]
    assert (before["kind"], before["overrides"]) == ("special", [])
    say(world, 1, "flood")
    say(world, 2, "flood", exchange="XNAS")
    found = web.get(path, from_="2012-11-23", to="2012-11-23")
    (day,) = found["days"]
    assert (day["kind"], day["reason"], day["overrides"]) == ("holiday", "flood", [1, 2])
    assert [each["id"] for each in found["overrides"]] == [1, 2]
    assert found["overrides"][0]["in_force"] is True
    assert found["version"].endswith("+override.2")


def test_a_calendar_begins_today_by_default(web: Web, world: World) -> None:
    stand(world, datetime(2012, 11, 23, 4, 30, tzinfo=UTC))
    days = web.get("/api/v1/markets/US_EQ/calendar")["days"]
    assert (days[0]["date"], days[-1]["date"]) == ("2012-11-22", "2012-12-22")


def test_what_no_calendar_knows_is_unknown(web: Web) -> None:
    days = web.get("/api/v1/markets/US_EQ/calendar", from_="9999-12-01")["days"]
    assert {day["kind"] for day in days} == {"unknown"}
    assert days[-1]["date"] == "9999-12-31"


@pytest.mark.parametrize(
    ("path", "query", "status", "why"),
    [
        ("US_QE", {}, 404, "No market or exchange is called 'US_QE'. Did you mean 'US_EQ'?"),
        ("US_EQ", {"from_": "2012-11-24", "to": "2012-11-23"}, 422, "before it begins"),
        ("US_EQ", {"from_": "2012-01-01", "to": "2013-02-05"}, 422, "401 days long"),
        ("US_EQ", {"from_": "24.11.2012"}, 422, "must be a date such as 2012-11-23"),
    ],
)
def test_what_can_not_be_asked_is_told(
    web: Web, path: str, query: dict[str, str], status: int, why: str
) -> None:
    assert why in web.problem(f"/api/v1/markets/{path}/calendar", status, **query)


def test_overrides_are_listed(web: Web, world: World) -> None:
    say(world, 1, "flood")
    say(world, 2, "an error", kind=OverrideKind.WITHDRAWN, withdraws=1)
    say(world, 3, "fire", exchange=None, market="ASIA_EQ")
    (found,) = web.get("/api/v1/overrides")["items"]
    assert (found["id"], found["market"], found["kind"]) == (3, "ASIA_EQ", "closed")
    assert (found["reason"], found["in_force"]) == ("fire", True)
    every = web.get("/api/v1/overrides", all=True)["items"]
    assert [(each["id"], each["in_force"]) for each in every] == [
        (1, False),
        (2, False),
        (3, True),
    ]
    assert len(web.statements) <= 3
