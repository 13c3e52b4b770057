"""Books: what holds whatever the scores, risks and the last book are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prometheus.pipelines.equities.books import BookInputs, BookRules, make_book
from prometheus.pipelines.equities.errors import ParameterError
from prometheus.pipelines.equities.weights import one_way_turnover, volatility_of

NAN = np.nan
RULES = BookRules()


def _inputs(
    names: int = 4, *, sectors: tuple[str, ...] | None = None, previous: float = 0.0
) -> BookInputs:
    volatility = np.full(names, 0.25)
    return BookInputs(
        score=np.ones(names),
        volatility=volatility,
        covariance=np.diag(volatility**2),
        sectors=sectors or tuple(f"S{n}" for n in range(names)),
        adv20=np.full(names, 1e9),
        member=np.ones(names, dtype=bool),
        tradable=np.ones(names, dtype=bool),
        previous=np.full(names, previous),
    )


def test_weights_are_scores_over_volatility() -> None:
    inputs = replace(
        _inputs(3),
        score=np.array([2.0, 1.0, -1.0]),
        volatility=np.array([0.2, 0.4, 0.2]),
    )
    rules = BookRules(name_cap=1.0, sector_cap=1.0, volatility_target=1.0, turnover_cap=1.0)
    np.testing.assert_allclose(make_book(inputs, rules).weights, [0.8, 0.2, 0.0])


def test_a_market_of_one_sector_is_mostly_cash() -> None:
    book = make_book(_inputs(4, sectors=("Tech",) * 4), RULES)
    np.testing.assert_allclose(book.weights, 0.075)


def test_nothing_is_held_without_a_positive_score() -> None:
    inputs = replace(_inputs(3), score=np.array([-1.0, 0.0, NAN]))
    assert make_book(inputs, RULES).weights.sum() == 0.0


def test_the_first_book_goes_as_far_as_turnover_allows() -> None:
    book = make_book(_inputs(10), RULES)
    assert book.target.sum() == pytest.approx(1.0)
    assert book.weights.sum() == pytest.approx(0.4)
    assert book.turnover == pytest.approx(0.2)


def test_the_next_book_carries_on_from_it() -> None:
    first = make_book(_inputs(10), RULES)
    second = make_book(replace(_inputs(10), previous=first.weights), RULES)
    assert second.weights.sum() == pytest.approx(0.8)


def test_the_book_is_scaled_down_to_its_volatility() -> None:
    inputs = replace(_inputs(10), covariance=np.full((10, 10), 0.25**2))
    book = make_book(inputs, BookRules(turnover_cap=1.0))
    assert book.volatility == pytest.approx(0.10)
    assert book.weights.sum() == pytest.approx(0.4)


def test_a_name_that_does_not_trade_keeps_its_weight_and_its_room() -> None:
    """Tokyo on 2012-11-23, with Hong Kong open."""
    inputs = replace(
        _inputs(4, sectors=("A", "A", "A", "A")),
        tradable=np.array([False, False, True, True]),
        previous=np.array([0.1, 0.08, 0.1, 0.0]),
    )
    book = make_book(inputs, RULES)
    np.testing.assert_array_equal(book.weights[:2], [0.1, 0.08])
    assert book.weights[2:].sum() <= 0.12 + 1e-12


def test_a_name_that_does_not_trade_is_not_bought() -> None:
    inputs = replace(_inputs(2), tradable=np.array([False, True]))
    assert make_book(inputs, RULES).weights[0] == 0.0


def test_a_name_that_left_the_universe_is_sold() -> None:
    inputs = replace(_inputs(2), member=np.array([False, True]), previous=np.array([0.1, 0.1]))
    assert make_book(inputs, RULES).weights[0] == 0.0


def test_a_trade_is_a_tenth_of_the_traded_value_at_most() -> None:
    inputs = replace(_inputs(2), adv20=np.array([1e6, 1e9]))
    weights = make_book(inputs, RULES).weights
    np.testing.assert_allclose(weights, [0.01, 0.1])


def test_caps_hold_even_where_the_last_book_had_others() -> None:
    inputs = replace(_inputs(2, sectors=("A", "A")), previous=np.array([0.5, 0.5]))
    weights = make_book(inputs, RULES).weights
    assert (weights <= 0.1 + 1e-12).all()


@pytest.mark.parametrize("weighting", ["inverse_volatility", "equal_risk"])
def test_other_weightings_divide_by_risk_alone(weighting: str) -> None:
    volatility = np.array([0.1, 0.2, 0.3, 0.4])
    inputs = replace(
        _inputs(4),
        score=np.array([0.1, 5.0, 1.0, 2.0]),
        volatility=volatility,
        covariance=np.diag(volatility**2),
    )
    rules = BookRules(
        weighting=weighting,
        name_cap=1.0,
        sector_cap=1.0,
        volatility_target=1.0,
        turnover_cap=1.0,
        participation=1.0,
    )
    np.testing.assert_allclose(make_book(inputs, rules).weights, [0.48, 0.24, 0.16, 0.12])


@st.composite
def books(draw: st.DrawFn) -> tuple[BookInputs, BookRules]:
    """Any inputs whose last book kept the caps of today's rules."""
    names = draw(st.integers(1, 14))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rules = BookRules(
        name_cap=draw(st.sampled_from([0.05, 0.10, 0.5])),
        sector_cap=draw(st.sampled_from([0.1, 0.3, 1.0])),
        turnover_cap=draw(st.sampled_from([0.0, 0.05, 0.2, 1.0])),
        capital=draw(st.sampled_from([1e6, 1e8, 1e10])),
        weighting=draw(st.sampled_from(["score", "inverse_volatility", "equal_risk"])),
    )
    sectors = tuple(f"S{n}" for n in random.integers(0, 4, names))
    volatility = random.uniform(0.05, 0.8, names)
    mixing = random.standard_normal((names, names))
    correlation = mixing @ mixing.T + 0.1 * np.eye(names)
    scale = np.sqrt(np.diag(correlation))
    covariance = correlation / np.outer(scale, scale) * np.outer(volatility, volatility)
    previous = random.uniform(0, rules.name_cap, names) * (random.random(names) < 0.5)
    for sector in set(sectors):
        inside = np.array([name == sector for name in sectors])
        total = previous[inside].sum()
        previous[inside] *= min(1.0, rules.sector_cap / total) if total else 1.0
    previous *= min(1.0, 1.0 / previous.sum()) if previous.sum() else 1.0
    score = random.standard_normal(names)
    score[random.random(names) < 0.2] = NAN
    unknown = random.random(names) < 0.1
    volatility[unknown] = NAN
    covariance[unknown] = NAN
    covariance[:, unknown] = NAN
    adv = 10 ** random.uniform(4, 11, names)
    adv[random.random(names) < 0.1] = NAN
    return (
        BookInputs(
            score=score,
            volatility=volatility,
            covariance=covariance,
            sectors=sectors,
            adv20=adv,
            member=random.random(names) < 0.8,
            tradable=random.random(names) < 0.8,
            previous=previous,
        ),
        rules,
    )


@given(books())
def test_invariants_of_a_book(case: tuple[BookInputs, BookRules]) -> None:
    """No short, no gearing, every cap after the turnover step, and the limits to trading."""
    inputs, rules = case
    book = make_book(inputs, rules)
    weights = book.weights
    assert (weights >= 0).all()
    assert weights.sum() <= 1 + 1e-9
    assert (weights <= rules.name_cap + 1e-9).all()
    for sector in set(inputs.sectors):
        inside = np.array([name == sector for name in inputs.sectors])
        assert weights[inside].sum() <= rules.sector_cap + 1e-9
    held = ~inputs.tradable & (inputs.previous > 1e-9)
    np.testing.assert_allclose(weights[held], inputs.previous[held])
    assert (weights[~inputs.tradable & (inputs.previous == 0)] == 0).all()
    # The last book kept the caps, so nothing could ask for more than the limits to trading.
    assert one_way_turnover(inputs.previous, weights) <= rules.turnover_cap + 1e-9
    largest = rules.participation * np.nan_to_num(inputs.adv20) / rules.capital
    assert (np.abs(weights - inputs.previous) <= largest + 1e-9).all()
    covariance = np.nan_to_num(inputs.covariance)
    frozen = np.where(inputs.tradable, 0.0, inputs.previous)
    allowed = max(rules.volatility_target, volatility_of(frozen, covariance))
    assert volatility_of(book.target, covariance) <= allowed + 1e-9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"name_cap": 1.5}, "'name_cap' is 1.5; a number from 0 to 1 was wanted"),
        ({"capital": "much"}, "'capital' is 'much'; a number of 1 or more was wanted"),
        ({"weighting": "luck"}, "one of score, inverse_volatility, equal_risk was wanted"),
    ],
)
def test_a_wrong_parameter_is_refused_in_words(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        BookRules.from_parameters(parameters)


def test_parameters_change_the_rules() -> None:
    rules = BookRules.from_parameters({"name_cap": 0.05, "unrelated": 1})
    assert (rules.name_cap, rules.sector_cap) == (0.05, 0.30)
