"""What `make sessions` reports of size, memory and time: that it is of what it says."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from prometheus.core.market_state import iter_states
from prometheus.core.trading_calendar import TradingCalendar
from tools.measure_sessions import measure_load, measure_look_ups, measure_tables
from tools.progress import Progress


def test_a_new_process_is_measured_from_before_its_import() -> None:
    load = measure_load(["XNYS"], times=1)
    assert load.seconds > 0
    assert load.rss > load.bare_rss > 0


def test_what_is_measured_imports_no_more_than_the_calendars() -> None:
    """Else its memory would be somebody else's."""
    code = (
        "import sys; from tools.measure_sessions import answer; before = set(sys.modules); "
        "assert 'prometheus' not in before; answer(['XNYS']); "
        "print(*{name.partition('.')[0] for name in sys.modules.keys() - before if name[0] != '_'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - sys.stdlib_module_names == {"prometheus"}


def test_tables_are_counted_for_the_years_that_are_known() -> None:
    calendar = TradingCalendar("XSHG")
    assert calendar.horizon.year == 2026
    one = measure_tables(["XSHG"], 2026, 2026)
    assert one.count == 1
    changes = [at for at, _ in iter_states(calendar, datetime(2026, 1, 1, tzinfo=UTC))]
    assert one.instants == len(changes) + 1  # and the end
    assert one.bytes > 8 * one.instants
    assert measure_tables(["XSHG"], 2025, 2030).count == 2
    assert measure_tables(["XSHG", "XNYS"], 2026, 2026).count == 2


def test_look_ups_take_time() -> None:
    assert all(taken > 0 for taken in measure_look_ups(count=100, times=1).values())


def test_progress_is_said_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("tools.progress.time.monotonic", lambda: now)
    progress = Progress(72)
    for done, now in enumerate((101.0, 104.9, 105.0, 106.0, 111.0)):  # noqa: B007
        progress.say(done, "XHKG")
    assert capsys.readouterr().out == "  2 of 72, XHKG, 5 s\n  4 of 72, XHKG, 11 s\n"
