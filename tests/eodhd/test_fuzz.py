"""A short form of ``make fuzz``."""

from __future__ import annotations

from tests.eodhd.fuzz import Fuzz


def test_wrong_replies_crash_nothing_leak_nothing_and_store_no_half() -> None:
    report = Fuzz(seed=7).run(1_000)
    assert report.over_http > 30
    assert report.jobs > 4
    assert {"answered", "UnreadableReplyError", "UnreachableError"} <= set(report.outcomes)
