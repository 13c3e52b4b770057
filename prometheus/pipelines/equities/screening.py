"""Which bars are fit to be computed on."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

JUMP_LIMIT = 0.5
"""Largest |ln| move of a close between two bars that is believed without a split."""

TRAILING_SESSIONS = 5
ENOUGH_SHARE = 0.95


class Fault(StrEnum):
    """Why a bar is quarantined; of several reasons the first in this order is named."""

    NOT_A_SESSION = "not_a_session"
    """Its date is no session of its exchange."""
    NOT_A_NUMBER = "not_a_number"
    """A value is missing or infinite."""
    NOT_POSITIVE = "not_positive"
    """A price is zero or negative."""
    HIGH_BELOW_LOW = "high_below_low"
    OUTSIDE_RANGE = "outside_range"
    """Open or close is above the high or below the low."""
    NEGATIVE_VOLUME = "negative_volume"
    JUMP = "jump"
    """The close moved further than `JUMP_LIMIT`, and no split explains it."""


FAULTS = tuple(Fault)
FINE = -1
"""What `find_faults` and `find_jumps` say of a bar without a fault."""


def find_faults(values: Floats, present: Booleans) -> NDArray[np.int8]:
    """
    Examine each bar by itself.

    Args:
        values: (6, sessions, instruments): open, high, low, close, volume, adjusted close.
        present: (sessions, instruments), where there is a bar at all.

    Returns:
        (sessions, instruments): index into `FAULTS`, or `FINE`.
    """
    opened, high, low, close, volume, _ = values
    faults = np.full(present.shape, FINE, dtype=np.int8)
    with np.errstate(invalid="ignore"):
        tests = (
            (Fault.NEGATIVE_VOLUME, volume < 0),
            (
                Fault.OUTSIDE_RANGE,
                (low > np.minimum(opened, close)) | (high < np.maximum(opened, close)),
            ),
            (Fault.HIGH_BELOW_LOW, high < low),
            (Fault.NOT_POSITIVE, (values[[0, 1, 2, 3, 5]] <= 0).any(axis=0)),
            (Fault.NOT_A_NUMBER, ~np.isfinite(values).all(axis=0)),
        )
    # The most basic fault last, so that it is the one that stays.
    for fault, failed in tests:
        faults[present & failed] = FAULTS.index(fault)
    return faults


def find_jumps(
    close: Floats,
    adjusted: Floats,
    usable: Booleans,
    log_splits: Floats,
    limit: float = JUMP_LIMIT,
) -> Booleans:
    """
    Find bars whose close moved too far from the bars before.

    A move is believed when the *adjusted* close moved no further than `limit` (where the close as
    traded moved further, the difference is a split), or when a split the feed names reconciles the
    close as traded. A real crash is held back too: whether it was one, a person must say.

    A bar is compared with the last good bar and, when that fails, with the bar just before it.
    So after one wrong bar the return to the old level passes, and after a true change of level
    only the first bar is held back. (A wrong level that lasts for several bars passes from its
    second bar on: no rule that looks backwards can tell it from a true one.)

    Args:
        close: (sessions, instruments), as traded.
        adjusted: Likewise, adjusted for splits and dividends.
        usable: Likewise, which bars are present and without other faults.
        log_splits: Likewise, ln of the new shares for one old from a split on that session; 0
            without one.
        limit: Largest |ln| of a move.

    Returns:
        (sessions, instruments), true for jumps.
    """
    jumps = np.zeros(close.shape, dtype=bool)
    log_close = np.log(np.where(usable, close, 1.0))
    log_adjusted = np.log(np.where(usable, adjusted, 1.0))
    splits_so_far = np.cumsum(log_splits, axis=0)

    def believed(column: int, before: int, after: int) -> bool:
        move = log_adjusted[after, column] - log_adjusted[before, column]
        if abs(move) <= limit:
            return True
        split = splits_so_far[after, column] - splits_so_far[before, column]
        raw = log_close[after, column] - log_close[before, column] + split
        return bool(split) and abs(raw) <= limit

    # Columns without any large step between neighbours, nearly all, need no second look.
    previous = _previous_usable(usable)
    steps = np.abs(_steps(log_adjusted, previous))
    suspects = ((steps > limit) & usable & (previous >= 0)).any(axis=0)
    for column in np.flatnonzero(suspects).tolist():
        last_good = last = -1
        for row in np.flatnonzero(usable[:, column]).tolist():
            if (
                last_good >= 0
                and not believed(column, last_good, row)
                and not believed(column, last, row)
            ):
                jumps[row, column] = True
            else:
                last_good = row
            last = row
    return jumps


def infer_splits(
    close: Floats, adjusted: Floats, usable: Booleans, limit: float = JUMP_LIMIT
) -> Floats:
    """
    Find splits by their trace: the close as traded jumps and the adjusted close does not.

    Returns:
        (sessions, instruments): new shares for one old (2.0 where a price halved), 1.0 without.
    """
    previous = _previous_usable(usable)
    here = usable & (previous >= 0)
    raw = _steps(np.log(np.where(usable, close, 1.0)), previous)
    move = _steps(np.log(np.where(usable, adjusted, 1.0)), previous)
    found: Floats = np.where(
        here & (np.abs(raw) > limit) & (np.abs(move) <= limit), np.exp(move - raw), 1.0
    )
    return found


def _previous_usable(usable: Booleans) -> NDArray[np.intp]:
    """Return for each bar the row of the usable bar before it, -1 where there is none."""
    rows = np.arange(len(usable))[:, None]
    latest = np.maximum.accumulate(np.where(usable, rows, -1), axis=0)
    return np.vstack([np.full((1, usable.shape[1]), -1), latest[:-1]])


def _steps(logs: Floats, previous: NDArray[np.intp]) -> Floats:
    steps: Floats = logs - np.take_along_axis(logs, np.maximum(previous, 0), axis=0)
    return steps


def rows_needed(counts: NDArray[np.int64]) -> int:
    """
    Say how many bars make a session complete.

    95 % of the median of the five sessions before, rounded down so that in a small market one
    company may be missing, but at least one where there were any.

    Args:
        counts: Bars of each session before the one in question, ascending.
    """
    trailing = counts[-TRAILING_SESSIONS:]
    if not len(trailing):
        return 0
    median = float(np.median(trailing))
    return max(1, int(ENOUGH_SHARE * median)) if median > 0 else 0
