"""What overrides make of exchanges and markets, and what is refused as one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prometheus.core.drafts import Draft, read_draft, read_withdrawal
from prometheus.core.exchanges import LocalTime, load_exchange
from prometheus.core.market_state import (
    MarketState,
    describe_market,
    get_market_state,
    get_next_state_transition,
    iter_states,
)
from prometheus.core.markets import Market, get_market
from prometheus.core.overrides import (
    Override,
    OverrideKind,
    Overrides,
    in_force,
    override_stamp,
    put_in_force,
)
from prometheus.core.states import MarketStateConfig
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import OverrideError

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
FRIDAY = date(2026, 11, 20)
MARKETS = ("US_EQ", "EU_EQ", "ASIA_EQ")


@pytest.fixture(autouse=True)
def _no_override_stays_in_force() -> Iterator[None]:
    put_in_force(Overrides())
    yield
    put_in_force(Overrides())


def draft(target: str, session: str, kind: str, **fields: Any) -> Draft:
    words = {"reason": "a storm", "source": "the exchange", "author": "ann", **fields}
    return Draft(target=target, session=session, kind=kind, **words)


def laid(*drafts: Draft) -> Overrides:
    overrides = Overrides()
    for each in drafts:
        overrides = overrides.plus(read_draft(each, overrides, now=NOW))
    return overrides


# --- what they make of a calendar -----------------------------------------------------------------


def test_announcement_may_name_its_zone() -> None:
    overrides = laid(
        draft("XNYS", "2026-11-20", "closed", announced_at="2026-11-19 12:00 America/New_York")
    )
    assert overrides.rows[0].announced_at == datetime(2026, 11, 19, 17, tzinfo=UTC)


def test_closed_exchange_is_closed_in_every_market_and_the_others_are_not() -> None:
    overrides = laid(draft("XTKS", "2026-11-20", "closed"))
    tokyo, asia = (TradingCalendar(name, overrides=overrides) for name in ("XTKS", "ASIA_EQ"))
    assert tokyo.reason(FRIDAY) == "a storm"
    assert asia.closed_members(FRIDAY) == {"XTKS": "a storm"}
    assert asia.session(FRIDAY) == TradingCalendar("XHKG").session(FRIDAY)


def test_closed_market_leaves_its_exchanges_open_to_everybody_else() -> None:
    overrides = laid(draft("EU_EQ", "2026-11-20", "closed"))
    assert TradingCalendar("EU_EQ", overrides=overrides).reason(FRIDAY) == "a storm"
    assert TradingCalendar("XPAR", overrides=overrides).is_trading_day(FRIDAY)


def test_early_close_of_a_market_closes_the_members_that_would_close_later() -> None:
    overrides = laid(draft("ASIA_EQ", "2026-11-20", "early_close", close="07:00", zone="UTC"))
    asia = TradingCalendar("ASIA_EQ", overrides=overrides)
    closes = {exchange.mic: exchange.bounds(FRIDAY)[1] for exchange in asia.exchanges}
    assert closes == {
        "XTKS": TradingCalendar("XTKS").session(FRIDAY).close,  # 06:30
        "XHKG": datetime(2026, 11, 20, 7, tzinfo=UTC),
    }
    assert asia.session(FRIDAY).early_close


def test_special_session_is_one_outside_the_trading_week() -> None:
    saturday = date(2026, 11, 21)
    overrides = laid(draft("XNYS", "2026-11-21", "special_session", open="10:00", close="12:00"))
    session = TradingCalendar("XNYS", overrides=overrides).session(saturday)
    assert session.open == datetime(2026, 11, 21, 15, tzinfo=UTC)
    assert session.close == datetime(2026, 11, 21, 17, tzinfo=UTC)
    assert session.reason == "a storm"


def test_changed_hours_take_a_break_away() -> None:
    overrides = laid(draft("XTKS", "2026-11-20", "changed_hours", breaks="none"))
    assert TradingCalendar("XTKS").session(FRIDAY).breaks
    assert TradingCalendar("XTKS", overrides=overrides).session(FRIDAY).breaks == ()


def test_what_is_withdrawn_does_not_hold_and_stays_to_be_seen() -> None:
    overrides = laid(draft("US_EQ", "2026-11-20", "closed"))
    withdrawal = read_withdrawal("1", overrides, reason="no", source="it", author="bob", now=NOW)
    after = overrides.plus(withdrawal)
    assert TradingCalendar("US_EQ", overrides=after).is_trading_day(FRIDAY)
    assert [each.override_id for each in after.rows] == [1, 2]
    assert after.standing() == ()


def test_what_was_believed_at_a_time_is_what_was_recorded_by_then() -> None:
    def at(hour: int) -> datetime:
        return datetime(2026, 11, 19, hour, tzinfo=UTC)

    rows = (
        Override(**{**FIELDS, "recorded_at": at(9)}),
        Override(
            **{
                **FIELDS,
                "override_id": 2,
                "kind": OverrideKind.WITHDRAWN,
                "recorded_at": at(15),
                "withdraws": 1,
            }
        ),
    )
    then = [
        TradingCalendar("US_EQ", overrides=Overrides(rows).believed_at(at(hour)))
        for hour in (8, 10, 16)
    ]
    assert [calendar.is_trading_day(FRIDAY) for calendar in then] == [True, False, True]
    assert [override_stamp(calendar.version) for calendar in then] == [0, 1, 2]


def test_market_that_no_override_touches_keeps_its_version() -> None:
    overrides = laid(draft("XPAR", "2026-11-20", "closed"))
    versions = {
        name: TradingCalendar(name, overrides=overrides).version for name in (*MARKETS, "XPAR")
    }
    plain = TradingCalendar("US_EQ", overrides=Overrides()).version
    assert versions == {
        "US_EQ": plain,
        "ASIA_EQ": plain,
        "EU_EQ": f"{plain}+override.1",
        "XPAR": f"{plain}+override.1",
    }


def test_what_comes_into_force_is_answered_by_name_at_once() -> None:
    noon = datetime(2026, 11, 20, 17, tzinfo=UTC)
    assert get_market_state("US_EQ", noon) is MarketState.SESSION
    put_in_force(laid(draft("US_EQ", "2026-11-20", "closed")))
    assert get_market_state("US_EQ", noon) is MarketState.HOLIDAY
    status = describe_market("US_EQ", noon)
    assert status.reason == "a storm"
    assert set(status.members.values()) == {MarketState.HOLIDAY}
    assert get_market_state("XNYS", noon) is MarketState.SESSION
    put_in_force(Overrides())
    assert get_market_state("US_EQ", noon) is MarketState.SESSION


def test_what_an_override_does_not_touch_is_not_worked_out_again() -> None:
    us, eu = get_market("US_EQ"), get_market("EU_EQ")
    one = laid(draft("US_EQ", "2026-11-20", "closed"))
    two = one.plus(read_draft(draft("EU_EQ", "2026-11-20", "closed"), one, now=NOW))
    new_york, paris = load_exchange("XNYS"), load_exchange("XPAR")
    assert one.over(paris, eu) is paris
    assert one.over(new_york, us) is two.over(new_york, us)
    assert one.stamp(us) == two.stamp(us) == 1


def test_market_that_is_declared_anew_is_asked_about_anew() -> None:
    overrides = laid(draft("XPAR", "2026-11-20", "closed"))
    before, after = (Market("MINE", (mic,), MarketStateConfig()) for mic in ("XNYS", "XPAR"))
    assert [overrides.stamp(each) for each in (before, after)] == [0, 1]
    assert [len(overrides.on(each, FRIDAY)) for each in (before, after)] == [0, 1]


# --- whatever they say ----------------------------------------------------------------------------

FIELDS: dict[str, Any] = {
    "override_id": 1,
    "market": "US_EQ",
    "session": FRIDAY,
    "kind": OverrideKind.CLOSED,
    "reason": "a storm",
    "source": "the exchange",
    "announced_at": NOW,
    "author": "ann",
}
local_times = st.builds(
    LocalTime, st.builds(time, st.integers(0, 23), st.integers(0, 59)), st.integers(-1, 1)
)
zones = st.sampled_from([None, "UTC", "America/New_York", "Asia/Tokyo", "Australia/Lord_Howe"])


@st.composite
def rows(draw: st.DrawFn, market: str) -> Overrides:
    """Anything that could stand in the table, sensible or not."""
    found: list[Override] = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        target = draw(st.sampled_from([market, *get_market(market).members]))
        kind = draw(st.sampled_from([each for each in OverrideKind if each != "withdrawn"]))
        withdraws = None
        if found and draw(st.integers(0, 4)) == 0:
            kind, withdraws = OverrideKind.WITHDRAWN, draw(st.integers(1, number - 1))
        found.append(
            Override(
                **{
                    **FIELDS,
                    "override_id": number,
                    "market": target if target == market else None,
                    "exchange": None if target == market else target,
                    "session": FRIDAY + timedelta(days=draw(st.integers(-3, 3))),
                    "kind": kind,
                    "open": draw(st.none() | local_times),
                    "close": draw(st.none() | local_times),
                    "zone": draw(zones),
                    "withdraws": withdraws,
                }
            )
        )
    return Overrides(tuple(found))


@settings(max_examples=40)
@given(data=st.data(), market=st.sampled_from(MARKETS))
def test_states_tile_time_whatever_is_overridden(data: st.DataObject, market: str) -> None:
    """And are at every instant the strongest of the members' phases."""
    overrides = data.draw(rows(market))
    calendar = TradingCalendar(market, overrides=overrides)
    start, end = NOW - timedelta(days=5), NOW + timedelta(days=5)
    spans: list[tuple[datetime, MarketState]] = []
    for at, state in iter_states(calendar, start):
        assert not spans or (spans[-1][0] < at and spans[-1][1] is not state)
        if at >= end:
            break
        spans.append((at, state))
    put_in_force(overrides)
    for (at, state), (until, following) in pairwise(spans):
        assert get_market_state(market, at) is state
        assert get_market_state(market, until - timedelta(microseconds=1)) is state
        assert get_next_state_transition(market, at) == (until, following)
    probe = start + data.draw(st.integers(0, 864_000 - 1)) * timedelta(seconds=1)
    is_open = any(session.open <= probe < session.close for session in _sessions(calendar))
    assert (get_market_state(market, probe) is MarketState.SESSION) == is_open


def _sessions(calendar: TradingCalendar) -> Iterator[Any]:
    for exchange in calendar.exchanges:
        for offset in range(-8, 9):
            day = FRIDAY + timedelta(days=offset)
            if exchange.is_session(day):
                session = exchange.session(day)
                assert session.open < session.close
                yield session


@settings(max_examples=40)
@given(data=st.data(), market=st.sampled_from(MARKETS))
def test_other_days_stay_as_they_are(data: st.DataObject, market: str) -> None:
    overrides = data.draw(rows(market))
    named = {each.session for each in overrides.rows}
    calendar, plain = TradingCalendar(market, overrides=overrides), TradingCalendar(market)
    for offset in range(-6, 7):
        day = FRIDAY + timedelta(days=offset)
        if day not in named:
            assert calendar.is_trading_day(day) == plain.is_trading_day(day)
            if plain.is_trading_day(day):
                assert calendar.session(day) == plain.session(day)


# --- what is refused ------------------------------------------------------------------------------


def test_override_that_is_wrong_in_ten_ways_gets_ten_messages() -> None:
    put_in_force(laid(draft("XNYS", "2026-11-20", "closed")))
    wrong = Draft(
        target="XNSY",
        session="20-11-2026",
        kind="clsoed",
        open="9",
        close="25:00",
        breaks="noon",
        zone="America/New_Yorck",
        reason=" ",
        source="",
        announced_at="2026-11-19T12:00",
        author="ann",
    )
    with pytest.raises(OverrideError) as refused:
        read_draft(wrong, in_force(), now=NOW)
    assert len(set(refused.value.faults)) == 10
    for said in (
        "Did you mean 'XNYS'?",
        "'20-11-2026' is not a date",
        "Did you mean 'closed'?",
        "--open '9' is not a local time",
        "--close '25:00' is not a local time",
        "'noon' is not a break",
        "Did you mean 'America/New_York'?",
        "--reason is empty",
        "--source is empty",
        "has no time zone",
    ):
        assert said in str(refused.value)
    assert in_force().latest == 1


REFUSED = [
    (draft("US_EQ", "2099-01-05", "closed"), "outside the dates"),
    (draft("US_EQ", "2026-11-21", "closed"), "closed on 2026-11-21 already: weekend"),
    (draft("US_EQ", "2026-11-26", "early_close", close="12:00"), "no session on 2026-11-26"),
    (
        draft("US_EQ", "2026-11-26", "late_open", open="12:00"),
        "could change; the nearest sessions are 2026-11-25 and 2026-11-27, or add a special",
    ),
    (
        draft("US_EQ", "2026-11-21", "closed"),
        "weekend; the nearest sessions are 2026-11-20 and 2026-11-23",
    ),
    (draft("XNYS", "2026-11-20", "closed", reason="x" * 1001), "--reason has 1001 characters; at"),
    (draft("XNYS", "2026-11-20", "closed", source="x" * 1001), "--source has 1001 characters; at"),
    (
        draft("XNYS", "2026-11-20", "closed", author="x" * 201),
        "--as has 201 characters; at most 200",
    ),
    (
        draft("XNYS", "2026-11-20", "closed", reason="a\0b"),
        "a character that can not be shown: '\\x00'",
    ),
    (draft("XNYS", "2026-11-20", "closed", source="a\udc80"), "that can not be shown: '\\udc80'"),
    (draft("US_EQ", "2026-11-20", "closed", close="13:00"), "closed takes no --close"),
    (draft("US_EQ", "2026-11-20", "early_close"), "early_close needs --close"),
    (draft("US_EQ", "2026-11-20", "early_close", close="16:00"), "not earlier than the close"),
    (draft("US_EQ", "2026-11-20", "early_close", close="09:00"), "before the open"),
    (draft("US_EQ", "2026-11-20", "late_open", open="09:30"), "not later than the open"),
    (draft("US_EQ", "2026-11-20", "late_open", open="16:00"), "after the close"),
    (draft("US_EQ", "2026-11-20", "special_session"), "has a session on 2026-11-20 already"),
    (draft("US_EQ", "2026-11-20", "changed_hours"), "needs --open, --close or --breaks"),
    (
        draft("XNYS", "2026-11-20", "changed_hours", open="12:00", close="10:00"),
        "not after its open",
    ),
    (draft("XNYS", "2026-11-20", "changed_hours", open="09:30"), "would change nothing"),
    (
        draft("XNYS", "2026-11-20", "changed_hours", breaks="08:00-08:30"),
        "08:00-08:30 is not inside",
    ),
    (draft("ASIA_EQ", "2026-11-20", "early_close", close="14:00"), "go by different clocks"),
    (draft("XNYS", "2026-11-20", "closed", zone="UTC"), "and none is given"),
    (
        draft("XNYS", "2026-11-20", "early_close", close="13:00", zone="New York"),
        "--zone 'New York' is not a time zone. Did you mean 'America/New_York'?",
    ),
    (
        draft("XNYS", "2026-11-20", "closed", announced_at="2026-11-19 12:00 Europe/Londn"),
        "--announced-at 'Europe/Londn' is not a time zone. Did you mean 'Europe/London'?",
    ),
    (
        draft("XNYS", "2026-11-20", "closed", announced_at="2026-11-20T13:00Z"),
        "has not come yet",
    ),
    (
        draft("XNYS", "2026-11-20", "changed_hours", open="15:30-1d", close="10:00"),
        "XNYS would trade into its session of 2026-11-19",
    ),
]


@pytest.mark.parametrize(("wrong", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_refused(wrong: Draft, said: str) -> None:
    with pytest.raises(OverrideError) as refused:
        read_draft(wrong, Overrides(), now=NOW)
    (fault,) = refused.value.faults
    assert said in fault


def test_member_that_is_closed_anyway_is_not_held_against_new_hours() -> None:
    """Tokyo, where it is a holiday, would close at 06:30 UTC."""
    monday = date(2026, 11, 23)
    overrides = laid(draft("ASIA_EQ", str(monday), "changed_hours", open="07:00", zone="UTC"))
    session = TradingCalendar("ASIA_EQ", overrides=overrides).session(monday)
    assert session.open == datetime(2026, 11, 23, 7, tzinfo=UTC)


def test_only_what_holds_can_be_withdrawn_and_only_once() -> None:
    overrides = laid(draft("US_EQ", "2026-11-20", "closed"))
    again: dict[str, Any] = {"source": "it", "author": "bob", "now": NOW}
    gone = overrides.plus(read_withdrawal("1", overrides, reason="no", **again))
    for text, said in (
        ("1", "was withdrawn already, by 2"),
        ("2", "is the withdrawal of override 1"),
        ("9", "There is no override '9'"),
    ):
        with pytest.raises(OverrideError, match=said):
            read_withdrawal(text, gone, reason="no", **again)
    with pytest.raises(OverrideError, match="--reason is empty"):
        read_withdrawal("1", overrides, reason="", **again)
    with pytest.raises(OverrideError, match="--reason has 1001 characters; at most 1000 are kept"):
        read_withdrawal("1", overrides, reason="x" * 1001, **again)
