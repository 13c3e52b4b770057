"""``calendar sync`` against a server that answers as the feed does, on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, func, select

from prometheus.core.drafts import Draft, read_draft, read_withdrawal
from prometheus.core.holidays import HolidayState
from prometheus.core.overrides import Overrides, put_in_force
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.feeds import Synced, ask, exchanges, synchronize
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.holidays import DecisionError, decide_holidays, follow_confirmed
from prometheus.persistence.overrides import read_overrides, record
from prometheus.persistence.tables import market_holidays
from prometheus.sources.eodhd.client import EodhdClient
from tests.eodhd.server import TOKEN, Answer, Imitation

STORM = date(2012, 12, 11)
WORDS = {"reason": "a test", "source": "nyse.com", "author": "bob"}


@pytest.fixture
def server() -> Iterator[Imitation]:
    """The imitation, in November 2012."""
    with Imitation() as imitation:
        yield imitation
    put_in_force(Overrides())


async def _at_once(seconds: float) -> None: ...


def sync(engine: Engine, server: Imitation, *mics: str) -> list[Synced]:
    client = EodhdClient(SecretStr(TOKEN), url=server.url, now=lambda: server.now, sleep=_at_once)
    return synchronize(engine, client, mics, 2012)


def differences(synced: list[Synced]) -> list[tuple[str, date, str, str, str]]:
    return [
        (each.mic, each.day, each.proposed, each.in_force, state)
        for one in synced
        for each, state in one.differences
    ]


def decide(engine: Engine, server: Imitation, state: HolidayState) -> None:
    """Decide on the storm, as the command does."""
    with writing(engine) as connection:
        decided = decide_holidays(
            connection, "XNYS", [STORM], state, actor="ana", reason="circular"
        )
        if state is HolidayState.CONFIRMED:
            follow_confirmed(connection, decided, server.now)
        put_in_force(read_overrides(connection))


def withdraw(engine: Engine, server: Imitation, override: str) -> None:
    with writing(engine) as connection:
        known = read_overrides(connection)
        record(connection, read_withdrawal(override, known, **WORDS, now=server.now))
        put_in_force(read_overrides(connection))


def contents(engine: Engine) -> list[Any]:
    with reading(engine) as connection:
        return list(connection.execute(select(market_holidays).order_by("holiday_id")))


def test_a_feed_that_agrees_leaves_nothing_to_decide(engine: Engine, server: Imitation) -> None:
    synced = sync(engine, server, "XNYS", "XLON")
    assert differences(synced) == []
    rows = contents(engine)
    assert len(rows) == sum(each.listed for each in synced) > 20
    assert {row.state for row in rows} == {"proposed"}


def test_a_difference_waits_for_a_person_and_flips_no_market(
    engine: Engine, server: Imitation
) -> None:
    server.extra_closures["US", STORM] = "Storm"
    waits = ("XNYS", STORM, "closed", "open")
    assert differences(sync(engine, server, "XNYS")) == [(*waits, "proposed")]
    assert TradingCalendar("XNYS").is_trading_day(STORM)
    with writing(engine) as connection:
        assert read_overrides(connection).rows == ()
        decided = decide_holidays(
            connection, "XNYS", [STORM], HolidayState.CONFIRMED, actor="ana", reason="circular"
        )
        follow_confirmed(connection, decided, server.now)
        known = read_overrides(connection)
    calendar = TradingCalendar("US_EQ", overrides=known)
    assert calendar.closed_members(STORM) == {"XNYS": "Storm"}
    (override,) = calendar.overrides_on(STORM)
    assert (override.author, override.source) == ("ana", "eodhd, confirmed: circular")
    put_in_force(known)
    assert differences(sync(engine, server, "XNYS")) == []


def test_a_confirmed_day_is_proposed_again_once_its_override_is_withdrawn(
    engine: Engine, server: Imitation
) -> None:
    server.extra_closures["US", STORM] = "Storm"
    seen: list[str] = []

    def look() -> None:
        seen.extend(state for *_, state in differences(sync(engine, server, "XNYS")))

    look()
    decide(engine, server, HolidayState.CONFIRMED)
    with pytest.raises(DecisionError, match="holds by override 1: withdraw that first"):
        decide(engine, server, HolidayState.REJECTED)
    look()  # nothing differs
    withdraw(engine, server, "1")
    look()
    look()
    decide(engine, server, HolidayState.REJECTED)
    look()
    decide(engine, server, HolidayState.CONFIRMED)
    look()  # nothing differs
    assert seen == ["proposed", "proposed", "proposed", "rejected"]
    states = [row.state for row in contents(engine) if row.date == STORM]
    assert states == ["confirmed", "rejected", "confirmed"]
    with reading(engine) as connection:
        standing = read_overrides(connection).standing()
    assert [each.override_id for each in standing] == [3]


def test_a_proposal_made_again_goes_when_the_calendar_follows_otherwise(
    engine: Engine, server: Imitation
) -> None:
    server.extra_closures["US", STORM] = "Storm"
    sync(engine, server, "XNYS")
    decide(engine, server, HolidayState.CONFIRMED)
    withdraw(engine, server, "1")
    sync(engine, server, "XNYS")
    closed = Draft(target="XNYS", session=str(STORM), kind="closed", **WORDS)
    with writing(engine) as connection:
        record(connection, read_draft(closed, read_overrides(connection), now=server.now))
        put_in_force(read_overrides(connection))
    assert differences(sync(engine, server, "XNYS")) == []
    assert [row.state for row in contents(engine) if row.date == STORM] == ["confirmed"]


@pytest.mark.parametrize("anew", [HolidayState.CONFIRMED, HolidayState.REJECTED])
def test_a_day_whose_override_was_withdrawn_is_decided_anew_at_once(
    engine: Engine, server: Imitation, anew: HolidayState
) -> None:
    server.extra_closures["US", STORM] = "Storm"
    sync(engine, server, "XNYS")
    decide(engine, server, HolidayState.CONFIRMED)
    withdraw(engine, server, "1")
    decide(engine, server, anew)  # the feed was not asked again
    states = [row.state for row in contents(engine) if row.date == STORM]
    assert states == ["confirmed", anew]
    left = [] if anew is HolidayState.CONFIRMED else ["rejected"]
    assert [state for *_, state in differences(sync(engine, server, "XNYS"))] == left


def test_what_a_person_has_said_of_a_day_is_stronger_than_a_feed(
    engine: Engine, server: Imitation
) -> None:
    server.extra_closures["US", STORM] = "Storm"
    short = Draft(target="XNYS", session=str(STORM), kind="early_close", close="12:00", **WORDS)
    with writing(engine) as connection:
        record(connection, read_draft(short, Overrides(), now=server.now))
    sync(engine, server, "XNYS")
    with (
        pytest.raises(DecisionError, match="override 1 says otherwise"),
        writing(engine) as connection,
    ):
        decided = decide_holidays(
            connection, "XNYS", [STORM], HolidayState.CONFIRMED, actor="ana", reason="circular"
        )
        follow_confirmed(connection, decided, server.now)
    assert [row.state for row in contents(engine) if row.date == STORM] == ["proposed"]


def test_a_holiday_that_the_feed_leaves_out_is_proposed_as_a_session(
    engine: Engine, server: Imitation
) -> None:
    body = {
        "data": {
            "Name": "London",
            "Code": "LSE",
            "Timezone": "Europe/London",
            "TradingHours": {"Open": "08:00", "Close": "16:30", "WorkingDays": "Mon"},
            "ExchangeHolidays": {
                each.isoformat(): {"Holiday": name, "Type": "Official"}
                for each, name in TradingCalendar("XLON").holidays(2012).items()
                if each != date(2012, 12, 26)
            },
        }
    }
    server.answers.append(Answer(200, json.dumps(body).encode()))
    boxing_day = ("XLON", date(2012, 12, 26), "open", "closed", "proposed")
    assert differences(sync(engine, server, "XLON")) == [boxing_day]
    assert [row.kind for row in contents(engine) if row.date == date(2012, 12, 26)] == ["open"]
    sync(engine, server, "XLON")  # it lists the day again
    assert [row.kind for row in contents(engine) if row.date == date(2012, 12, 26)] == ["closed"]


def test_ten_wrong_feeds_give_ten_messages_and_leave_what_was_there(
    engine: Engine, server: Imitation, caplog: pytest.LogCaptureFixture
) -> None:
    sync(engine, server, "XNYS", "XLON", "XTKS")
    before = contents(engine)
    echo = f"?api_token={TOKEN}".encode()
    wrong = [
        Answer(200, b"<html>" + echo),
        Answer(200, b'{"data": '),
        Answer(200, b'{"data": []}'),
        Answer(200, b'{"error": "no", "code": 403}' + b" " * 20),
        Answer(200, b"\xff\xfe"),
        Answer(401, echo),
        Answer(403, b"Only EOD data allowed for free users. " + echo),
        Answer(404, echo),
        Answer(422, echo),
        *[Answer(502, echo)] * 4,  # as often as it is asked
    ]
    server.answers.append(wrong[0])
    broken, sound = sync(engine, server, "XNYS", "XLON")
    assert sound.error is None  # the one beside it is served
    messages = [str(broken.error)]
    for answers in (*((each,) for each in wrong[1:9]), wrong[9:]):
        server.answers.extend(answers)
        messages.append(str(sync(engine, server, "XNYS")[0].error))
    assert (
        len([each for each in messages if each.startswith("eodhd v2/exchange-details/US: ")]) == 10
    )
    assert TOKEN not in "".join(messages)
    assert TOKEN not in caplog.text
    kept = {(row.exchange, row.date, row.kind, row.state) for row in before}
    assert {(row.exchange, row.date, row.kind, row.state) for row in contents(engine)} == kept
    assert [row.fetched_at for row in contents(engine) if row.exchange != "XLON"] == [
        row.fetched_at for row in before if row.exchange != "XLON"
    ]


def test_a_spent_quota_is_said_of_each_exchange_and_asked_once(
    engine: Engine, server: Imitation
) -> None:
    server.daily_limit = 5
    first, *others = sync(engine, server, "XLON", "XNYS", "XPAR")
    assert first.error is None
    assert len({str(each.error) for each in others}) == 2
    assert len(server.asked) == 2
    with reading(engine) as connection:
        asked = select(func.count(market_holidays.c.exchange.distinct()))
        assert connection.execute(asked).scalar_one() == 1


def test_what_does_not_come_in_time_is_an_error_of_each_exchange(server: Imitation) -> None:
    server.answers.append(Answer(hold_seconds=2))
    client = EodhdClient(SecretStr(TOKEN), url=server.url, now=lambda: server.now)
    answers = ask(client, ["XNYS", "XLON"], 2012, within=timedelta(milliseconds=100))
    for mic in ("XNYS", "XLON"):
        assert f"holidays of {mic}: it was not answered within" in str(answers[mic])


def test_markets_stand_for_their_exchanges() -> None:
    assert exchanges(["US_EQ", "XNYS", "XTKS"]) == ["XNYS", "XNAS", "XTKS"]
    assert exchanges(["US_EQ", "24x7", "US_FUT", "CRYPTO"]) == ["XNYS", "XNAS"]
