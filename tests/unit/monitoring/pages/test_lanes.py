"""A market over a day and a half: what is drawn of its states and runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from prometheus.core.market_state import MarketState, get_market_state
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.monitoring.pages.lanes import (
    AHEAD,
    BACK,
    WIDTH,
    Band,
    Bar,
    Lane,
    draw_lane,
    lay_bands,
)
from prometheus.orchestration.lifecycle import RunStatus

HOUR = timedelta(hours=1)
FRIDAY = datetime(2012, 11, 23, 15, 0, tzinfo=UTC)
"""The day after Thanksgiving, which closes early."""


def bar(dag_id: str, start: datetime, end: datetime, status: RunStatus = RunStatus.OPEN) -> Bar:
    return Bar(dag_id, status, start, end, "1 of 2 jobs succeeded", f"./runs/{dag_id}")


def lane(
    bands: Sequence[Band] = (),
    breaks: Sequence[tuple[datetime, datetime]] = (),
    bars: Sequence[Bar] = (),
) -> Lane:
    return Lane("US_EQ", "America/New_York", bands, breaks, bars)


def drawn(of: Lane, now: datetime = FRIDAY) -> ET.Element:
    return ET.fromstring(draw_lane(of, now))


def of_class(picture: ET.Element, kind: str) -> Iterator[ET.Element]:
    return (each for each in picture.iter() if kind in each.get("class", "").split())


def titles(picture: ET.Element) -> list[str]:
    return [each.text or "" for each in picture.iter("title")]


def span(rect: ET.Element) -> tuple[float, float]:
    left = float(rect.attrib["x"])
    return left, left + float(rect.attrib["width"])


def test_bands_are_the_states_of_the_market_without_a_gap() -> None:
    bands = lay_bands("US_EQ", FRIDAY - BACK, FRIDAY + AHEAD)
    assert [(each.state, each.start.hour, each.reason) for each in bands] == [
        (MarketState.HOLIDAY, 3, "Thanksgiving Day"),
        (MarketState.OVERNIGHT, 5, None),
        (MarketState.PRE_OPEN, 13, None),
        (MarketState.SESSION, 14, None),
        (MarketState.POST_CLOSE, 18, None),
        (MarketState.OVERNIGHT, 20, None),
        (MarketState.HOLIDAY, 5, "weekend"),
    ]
    assert bands[0].start == FRIDAY - BACK
    assert bands[-1].end == FRIDAY + AHEAD
    for before, after in pairwise(bands):
        assert before.end == after.start


@pytest.mark.parametrize("market", ["US_EQ", "EU_EQ", "ASIA_EQ", "XTKS"])
def test_at_every_minute_the_band_is_the_state(market: str) -> None:
    start = datetime(2026, 3, 27, 12, tzinfo=UTC)  # clocks change in this week, not everywhere
    for day in range(4):
        begin = start + day * timedelta(days=1)
        for each in lay_bands(market, begin, begin + BACK + AHEAD):
            at = each.start
            while at < each.end:
                assert each.state is get_market_state(market, at), at
                at += timedelta(minutes=1)


def test_days_off_in_a_row_have_their_own_names() -> None:
    start = datetime(2026, 12, 25, 12, tzinfo=UTC)
    reasons = [each.reason for each in lay_bands("XNYS", start, start + timedelta(days=2))]
    assert reasons == ["Christmas Day", "weekend"]


def test_where_the_calendar_ends_nothing_is_known() -> None:
    horizon = TradingCalendar("XNYS").horizon
    start = datetime(horizon.year, horizon.month, horizon.day, 12, tzinfo=UTC)
    last = lay_bands("XNYS", start, start + timedelta(days=2))[-1]
    assert (last.state, last.end) == (None, start + timedelta(days=2))
    assert "not known, 05:00 to 12:00 UTC" in titles(drawn(lane([last]), last.start))


def test_now_stands_at_a_third() -> None:
    (now,) = of_class(drawn(lane()), "now")
    assert float(now.attrib["x1"]) == WIDTH / 3


def test_a_band_is_as_long_as_its_state_and_says_its_name() -> None:
    band = Band(MarketState.SESSION, FRIDAY, FRIDAY + 6 * HOUR)
    picture = drawn(lane([band]))
    (rect,) = of_class(picture, "band")
    assert span(rect) == (WIDTH / 3, WIDTH / 2)
    assert titles(picture) == ["SESSION, 15:00 to 21:00 UTC"]
    assert [each.text for each in of_class(picture, "name")] == ["session"]


def test_states_differ_without_their_colours() -> None:
    """By a word, a height or hatching: whoever sees no colours sees each of them."""
    looks = set()
    for state in MarketState:
        picture = drawn(lane([Band(state, FRIDAY, FRIDAY + 6 * HOUR)]))
        (rect,) = of_class(picture, "band")
        (name,) = of_class(picture, "name")
        looks.add((name.text, rect.attrib["height"]))
        hatched = any(each.get("fill") == "url(#hatch)" for each in picture.iter())
        assert hatched == (state is MarketState.HOLIDAY)
    assert len(looks) == len(MarketState)


def test_a_holiday_is_named_as_far_as_there_is_room() -> None:
    for hours, told in ((12, "Thanksgiving Day"), (2, "Thanks…"), (1, None)):
        band = Band(MarketState.HOLIDAY, FRIDAY, FRIDAY + hours * HOUR, "Thanksgiving Day")
        picture = drawn(lane([band]))
        names = [each.text or "" for each in of_class(picture, "name")]
        assert [name.startswith(told or "?") for name in names] == ([True] if told else [])
        assert "Thanksgiving Day" in titles(picture)[0]


def test_a_break_is_told() -> None:
    assert "break, 15:00 to 16:00 UTC" in titles(drawn(lane(breaks=[(FRIDAY, FRIDAY + HOUR)])))


def test_a_run_is_a_link_with_its_state_in_words() -> None:
    picture = drawn(lane(bars=[bar("us_eq_daily_2012-11-23", FRIDAY - HOUR, FRIDAY)]))
    (link,) = picture.iter("a")
    assert link.attrib["href"] == "./runs/us_eq_daily_2012-11-23"
    assert link.attrib["aria-label"] == (
        "us_eq_daily_2012-11-23: OPEN, 1 of 2 jobs succeeded, 14:00 to 15:00 UTC"
    )
    (rect,) = of_class(picture, "open")
    assert span(rect) == (WIDTH * 11 / 36, WIDTH * 12 / 36)


def test_a_run_of_a_moment_is_still_seen() -> None:
    for at in (FRIDAY, FRIDAY + AHEAD, FRIDAY - BACK):
        picture = drawn(lane(bars=[bar("x", at, at)]))
        (rect,) = of_class(picture, "bar")
        left, right = span(rect)
        assert right - left == 6
        assert 0 <= left < right <= WIDTH
        (words,) = of_class(picture, "run")
        assert 0 <= float(words.attrib["x"]) <= WIDTH - 20


def test_no_run_stands_on_another_or_on_its_words() -> None:
    bars = [
        bar(f"run_{number}", FRIDAY + number * HOUR / 2, FRIDAY + (number + 1) * HOUR / 2)
        for number in range(20)
    ]
    picture = drawn(lane(bars=bars))
    taken: dict[str, list[tuple[float, float]]] = {}
    for link in picture.iter("a"):
        rect, words = link.find("rect"), link.find("text")
        assert rect is not None
        assert words is not None
        left, right = span(rect)
        x = float(words.attrib["x"])
        width = len(words.text or "") * 6
        taken.setdefault(rect.attrib["y"], []).append((min(left, x), max(right, x + width)))
    assert sum(len(row) for row in taken.values()) == len(bars)
    for row in taken.values():
        row.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(row))
    height = float(picture.attrib["viewBox"].split()[3])
    assert max(map(float, taken)) + 18 <= height


def test_a_hostile_name_stays_a_name() -> None:
    name = """</text><script>alert("1")</script>'"""
    picture = drawn(lane(bars=[bar(name, FRIDAY, FRIDAY + HOUR)]))
    assert not list(picture.iter("script"))
    (words,) = of_class(picture, "run")
    assert name in (words.text or "")
