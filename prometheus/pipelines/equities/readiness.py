"""The sensor ``prices_ready``: whether a market's source has the session's prices."""

from __future__ import annotations

from typing import Any

from prometheus.dispatch.context import JobContext


def prices_ready(ctx: JobContext) -> dict[str, Any]:
    """
    Look whether the session's prices are there.

    Returns:
        ``ready``, and what was found: at once for a source that has all its sessions.

    Raises:
        PrometheusError: The feed refuses to answer.
    """
    check = ctx.sources.readiness(ctx.market_id)
    if check is None:
        return {"ready": True}
    return check(ctx.market_id, ctx.session_date, last=ctx.last_poll, earlier=ctx.earlier)
