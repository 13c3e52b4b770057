"""Which instruments get a seat."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prometheus.pipelines.equities.panel import Floats, Listed, Panel
from prometheus.pipelines.equities.universes import (
    Candidate,
    Place,
    Reason,
    UniverseRules,
    candidates_of,
    select_members,
)

RULES = UniverseRules(size=10)


def _candidate(
    symbol: str, adv: float, sector: str | None = None, fault: Reason | None = None
) -> Candidate:
    return Candidate(("XNYS", symbol), sector or symbol, adv, fault)


def _by_symbol(places: list[Place]) -> dict[str, Place]:
    return {place.key[1]: place for place in places}


def _keys(*symbols: str) -> frozenset[tuple[str, str]]:
    return frozenset(("XNYS", symbol) for symbol in symbols)


def test_the_most_traded_get_the_seats() -> None:
    candidates = [_candidate(f"S{n:02}", 100 - n) for n in range(15)]
    places = _by_symbol(select_members(candidates, frozenset(), RULES))
    assert [symbol for symbol, place in places.items() if place.is_member] == [
        f"S{n:02}" for n in range(10)
    ]
    assert places["S10"].reason is Reason.RANK
    assert places["S10"].rank == 11


def test_an_incumbent_stays_until_it_ranks_below_the_buffer() -> None:
    candidates = [_candidate(f"S{n:02}", 100 - n) for n in range(15)]
    places = _by_symbol(select_members(candidates, _keys("S11", "S12"), RULES))
    assert places["S11"].reason is Reason.KEPT  # rank 12 of 1.2 times 10
    assert places["S12"].reason is Reason.RANK
    assert places["S09"].reason is Reason.RANK  # its seat is not free


def test_equal_traded_values_are_ordered_by_symbol() -> None:
    candidates = [_candidate(symbol, 5.0) for symbol in "CAB"]
    places = _by_symbol(select_members(candidates, frozenset(), UniverseRules(size=2)))
    assert [symbol for symbol in "ABC" if places[symbol].is_member] == ["A", "B"]


def test_a_sector_gets_three_of_ten_seats() -> None:
    candidates = [_candidate(f"T{n}", 100 - n, "Tech") for n in range(5)]
    candidates += [_candidate(f"O{n}", 50 - n) for n in range(7)]
    places = _by_symbol(select_members(candidates, frozenset(), RULES))
    assert [places[f"T{n}"].is_member for n in range(5)] == [True, True, True, False, False]
    assert places["T3"].reason is Reason.SECTOR_CAP


def test_a_market_of_one_sector_can_still_fill_its_seats() -> None:
    """The bundled US companies are all of one sector; 30 % of the seats would be one of four."""
    candidates = [_candidate(symbol, 5.0, "Tech") for symbol in "ABCD"]
    places = select_members(candidates, frozenset(), RULES)
    assert all(place.is_member for place in places)


def test_instruments_without_a_sector_share_one() -> None:
    candidates = [Candidate(("XNYS", f"N{n}"), None, 100 - n, None) for n in range(5)]
    candidates += [_candidate(f"O{n}", 50 - n) for n in range(9)]
    places = select_members(candidates, frozenset(), RULES)
    assert sum(place.is_member for place in places if place.key[1].startswith("N")) == 3


def test_the_ineligible_keep_their_reason_and_have_no_rank() -> None:
    candidates = [_candidate("A", 9.0, fault=Reason.LOW_PRICE), _candidate("B", 1.0)]
    places = _by_symbol(select_members(candidates, _keys("A"), RULES))
    assert places["A"].reason is Reason.LOW_PRICE
    assert (places["A"].rank, places["B"].rank) == (None, 1)


@given(
    advs=st.lists(st.floats(1.0, 1e9), max_size=40),
    sectors=st.lists(st.sampled_from(["A", "B", "C", "D", None]), min_size=40, max_size=40),
    before=st.sets(st.integers(0, 39)),
    size=st.integers(1, 20),
    order=st.randoms(use_true_random=False),
)
def test_seats_and_sector_caps_hold_whatever_comes(
    advs: list[float], sectors: list[str | None], before: set[int], size: int, order: object
) -> None:
    candidates = [
        Candidate(("XNYS", f"S{n:02}"), sectors[n], adv, None) for n, adv in enumerate(advs)
    ]
    incumbents = frozenset(("XNYS", f"S{n:02}") for n in before)
    rules = UniverseRules(size=size)
    places = select_members(candidates, incumbents, rules)
    members = [place for place in places if place.is_member]
    assert len(places) == len(candidates)
    assert len(members) <= size
    present = set(sectors[: len(advs)])
    cap = max(1, int(0.3 * size + 1e-9), -(-min(size, len(advs)) // max(1, len(present))))
    for sector in present:
        inside = [p for p in members if sectors[int(p.key[1][1:])] == sector]
        assert len(inside) <= cap
    order.shuffle(candidates)  # type: ignore[attr-defined]  # Hypothesis' Random
    assert select_members(candidates, incumbents, rules) == places


def _panel(close: Floats, volume: float = 1e6, currency: str = "USD") -> Panel:
    dates = tuple(date(2012, 1, 1) + timedelta(days=n) for n in range(len(close)))
    instruments = tuple(
        Listed("XNYS", f"S{n}", "Tech", currency, False) for n in range(close.shape[1])
    )
    volumes = np.where(np.isnan(close), np.nan, volume)
    return Panel("XNYS", dates[-1], dates, instruments, close, close, close, close, volumes, close)


def _fault(close: Floats, volume: float = 1e6, currency: str = "USD") -> Reason | None:
    return candidates_of(_panel(close[:, None], volume, currency), RULES)[0].fault


def test_eligible_with_a_year_of_bars_price_and_volume() -> None:
    assert _fault(np.full(252, 20.0)) is None


def test_reasons_for_being_ineligible() -> None:
    nothing = np.full(300, np.nan)
    assert _fault(nothing) is Reason.NO_BARS
    assert _fault(np.full(251, 20.0)) is Reason.SHORT_HISTORY
    assert _fault(np.full(300, 4.99)) is Reason.LOW_PRICE
    assert _fault(np.full(300, 20.0), volume=100) is Reason.ILLIQUID
    stopped = np.full(300, 20.0)
    stopped[-5:] = np.nan
    assert _fault(stopped) is Reason.NOT_TRADED
    holes = np.full(300, 20.0)
    holes[-30:-17] = np.nan
    assert _fault(holes) is Reason.MISSING_SESSIONS


def test_a_halt_of_four_sessions_and_twelve_missing_ones_are_forgiven() -> None:
    halted = np.full(300, 20.0)
    halted[-4:] = np.nan
    assert _fault(halted) is None
    holes = np.full(300, 20.0)
    holes[-30:-18] = np.nan
    assert _fault(holes) is None


def test_the_price_floor_is_in_dollars() -> None:
    assert _fault(np.full(300, 600.0), currency="JPY") is Reason.LOW_PRICE
    assert _fault(np.full(300, 800.0), currency="JPY") is None
