"""Numbers a run may set for the equity jobs, checked before they are used."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from prometheus.pipelines.equities.errors import ParameterError


def number(
    parameters: Mapping[str, Any], name: str, default: float, *, low: float, high: float = math.inf
) -> float:
    """
    Return a parameter, or its default.

    Raises:
        ParameterError: It is not a number from `low` to `high`, both included.
    """
    value = parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        bounds = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of {low:g} or more"
        raise ParameterError(name, value, f"a number {bounds}")
    return float(value)


def choice(parameters: Mapping[str, Any], name: str, default: str, known: Collection[str]) -> str:
    """Return a parameter that is one of `known` words; raises like `number`."""
    value = parameters.get(name, default)
    if value not in known:
        raise ParameterError(name, value, f"one of {', '.join(known)}")
    return str(value)
