"""From scores and risks to the weights of a long-only book."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SLACK = 1e-12
"""Caps hold up to this."""


def inverse_volatility(volatility: Floats) -> Floats:
    """Weigh by 1 / volatility, summing to 1; the equal-risk weights of uncorrelated assets."""
    inverse = 1.0 / volatility
    weights: Floats = inverse / inverse.sum()
    return weights


def equal_risk_contribution(
    covariance: Floats, *, tolerance: float = 1e-12, most_rounds: int = 1000
) -> Floats:
    """
    Weigh so that every asset contributes the same to the variance, summing to 1.

    Maillard, Roncalli and Teiletche (2010), solved by coordinate descent (Griveau-Billion, Richard
    and Roncalli 2013): each step solves ``S_ii x**2 + (S x)_i_without_i x = 1/n`` for one asset.

    Args:
        covariance: (assets, assets), positive definite.
        tolerance: Largest change of an (unscaled) weight that counts as settled.
        most_rounds: Of steps over all assets.

    Raises:
        ValueError: It does not settle, so the matrix is not positive definite.
    """
    assets = len(covariance)
    variances = np.diag(covariance)
    x: Floats = 1.0 / np.sqrt(variances)
    for _ in range(most_rounds):
        before = x.copy()
        for i in range(assets):
            others = float(covariance[i] @ x - variances[i] * x[i])
            x[i] = (-others + np.sqrt(others**2 + 4.0 * variances[i] / assets)) / (
                2.0 * variances[i]
            )
        if np.abs(x - before).max() <= tolerance * np.abs(x).max():
            weights: Floats = x / x.sum()
            return weights
    raise ValueError("equal risk contributions did not settle: is the covariance definite?")


def risk_contributions(weights: Floats, covariance: Floats) -> Floats:
    """Return each asset's share of the variance; they sum to 1."""
    marginal = covariance @ weights
    shares: Floats = weights * marginal / float(weights @ marginal)
    return shares


def volatility_of(weights: Floats, covariance: Floats) -> float:
    """Return the volatility of a book, in the unit of the covariance's square root."""
    return float(np.sqrt(max(float(weights @ covariance @ weights), 0.0)))


def ewma_covariance(returns: Floats, volatility: Floats, *, decay: float = 0.94) -> Floats:
    """
    Return a covariance with the given volatilities and exponentially weighted correlations.

    A missing return counts as no move, which dampens correlations a little (exchanges with other
    holidays) but keeps the matrix positive semi-definite whatever is missing.

    Args:
        returns: (sessions, assets), NaN where missing.
        volatility: (assets,), per year.
        decay: Weight of a session relative to the one after it.

    Returns:
        (assets, assets), per year.
    """
    moves = np.nan_to_num(returns, nan=0.0)
    shares = decay ** np.arange(len(moves))[::-1]
    product = (moves * shares[:, None]).T @ moves
    spread = np.sqrt(np.diag(product))
    safe = np.where(spread > 0, spread, 1.0)
    correlation = product / np.outer(safe, safe)
    np.fill_diagonal(correlation, 1.0)
    covariance: Floats = correlation * np.outer(volatility, volatility)
    return covariance


def fill_with_cap(shares: Floats, budget: float, caps: Floats) -> Floats:
    """
    Divide a budget in proportion to shares, none above its cap.

    What a capped asset can not take goes to the others in proportion; what nobody can take is left
    over.

    Args:
        shares: Non-negative, (assets,); an asset with 0 gets nothing.
        budget: What to divide.
        caps: (assets,).
    """
    weights = np.zeros_like(shares)
    free = shares > 0
    left = budget
    while free.any() and left > SLACK:
        offer = left * shares / shares[free].sum()
        capped = free & (offer >= caps)
        if not capped.any():
            weights[free] = offer[free]
            break
        weights[capped] = caps[capped]
        left = budget - float(weights.sum())
        free &= ~capped
    return weights


def fill_with_caps(
    shares: Floats,
    budget: float,
    name_cap: float,
    groups: NDArray[np.intp],
    group_caps: Floats,
) -> Floats:
    """
    Divide a budget in proportion to shares, under a cap for each asset and each group.

    A group that reaches its cap is divided by itself, and what it can not take goes to the rest
    (water-filling; exact, in as many rounds as there are groups).

    Args:
        shares: Non-negative, (assets,).
        budget: What to divide, at most.
        name_cap: Of every asset.
        groups: Group number of each asset.
        group_caps: Cap of each group, (groups,).

    Returns:
        Weights, (assets,), that sum to `budget`, or to less where the caps allow no more.
    """
    caps = np.full(shares.shape, name_cap)
    weights = np.zeros_like(shares)
    open_groups = np.ones(len(group_caps), dtype=bool)
    for _ in range(len(group_caps) + 1):
        free = open_groups[groups]
        left = budget - float(weights[~free].sum())
        weights[free] = fill_with_cap(np.where(free, shares, 0.0), left, caps)[free]
        sums = np.bincount(groups, weights=weights, minlength=len(group_caps))
        over = open_groups & (sums > group_caps + SLACK)
        if not over.any():
            break
        for group in np.flatnonzero(over):
            inside = groups == group
            weights[inside] = fill_with_cap(shares[inside], float(group_caps[group]), caps[inside])
        open_groups &= ~over
    return weights


def scale_to_volatility(movable: Floats, fixed: Floats, covariance: Floats, target: float) -> float:
    """
    Return by how much, at most 1, to scale `movable` so that the book keeps to a volatility.

    The largest k in [0, 1] with ``(fixed + k movable)' S (fixed + k movable) <= target**2``; 0
    where the fixed part alone is above it.

    Args:
        movable: Weights that can be traded, (assets,).
        fixed: Weights that can not.
        covariance: Of all, per year.
        target: Volatility per year.
    """
    a = float(movable @ covariance @ movable)
    b = 2.0 * float(fixed @ covariance @ movable)
    c = float(fixed @ covariance @ fixed) - target**2
    if a + b + c <= 0.0:
        return 1.0
    if c >= 0.0 or a <= 0.0:
        return 0.0
    return float(np.clip((-b + np.sqrt(b * b - 4.0 * a * c)) / (2.0 * a), 0.0, 1.0))


def limit_turnover(previous: Floats, target: Floats, cap: float) -> Floats:
    """
    Go from one book towards another, no further than a one-way turnover allows.

    ``w = previous + k (target - previous)`` with ``k = min(1, cap / turnover)``, where the turnover
    of the whole way is half the sum of ``|target - previous|``.
    """
    turnover = one_way_turnover(previous, target)
    k = 1.0 if turnover <= cap else cap / turnover
    weights: Floats = previous + k * (target - previous)
    return weights


def one_way_turnover(previous: Floats, weights: Floats) -> float:
    """Return half the sum of the changes of weights; cash is not counted."""
    return 0.5 * float(np.abs(weights - previous).sum())


def limit_trades(previous: Floats, weights: Floats, largest: Floats) -> Floats:
    """Cut each change of weight to its largest size, (assets,)."""
    limited: Floats = previous + np.clip(weights - previous, -largest, largest)
    return limited


def project(
    weights: Floats,
    previous: Floats,
    fixed: NDArray[np.bool_],
    name_cap: float,
    groups: NDArray[np.intp],
    group_caps: Floats,
    budget: float = 1.0,
) -> Floats:
    """
    Bring weights back under all caps by buying less and, where that is not enough, selling.

    Where `previous` kept the caps, buying less is enough, so that neither turnover nor any trade
    grows.

    Args:
        weights: (assets,); negative ones become 0.
        previous: Weights of the last book; what is above them is a purchase.
        fixed: Assets that can not be traded; they are left as they are, and take their room.
        name_cap: Of every asset.
        groups: Group number of each asset.
        group_caps: Cap of each group.
        budget: Largest sum.
    """
    result: Floats = np.where(fixed, weights, np.clip(weights, 0.0, name_cap))
    for group, cap in enumerate(group_caps):
        _shrink(result, previous, groups == group, fixed, float(cap))
    _shrink(result, previous, np.ones(len(result), dtype=bool), fixed, budget)
    return result


def _shrink(
    weights: Floats,
    previous: Floats,
    which: NDArray[np.bool_],
    fixed: NDArray[np.bool_],
    cap: float,
) -> None:
    """Bring the sum of some weights down to a cap, in place; purchases first."""
    excess = float(weights[which].sum()) - cap
    movable = which & ~fixed
    for floor in (previous, np.zeros_like(previous)):
        above = np.where(movable, np.maximum(weights - floor, 0.0), 0.0)
        total = float(above.sum())
        if excess > SLACK and total > 0:
            cut = min(excess, total)
            weights -= above * (cut / total)
            excess -= cut


def group_numbers(names: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """Number groups by name; return each asset's number, and how many groups there are."""
    known = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([known[name] for name in names], dtype=np.intp), len(known)
