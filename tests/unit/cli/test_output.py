"""Words and JSON."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from prometheus.cli import output
from prometheus.core.states import MarketState
from prometheus.orchestration.lifecycle import JobStatus, RunStatus


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (3.14, "3.1 s"),
        (12.4, "12 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (45 * 60, "45 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (51 * 3600, "2 d 3 h"),
        (48 * 3600, "2 d"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert output.in_words(timedelta(seconds=seconds)) == words


def test_every_state_and_status_has_its_own_colour_of_meaning() -> None:
    for word in (*MarketState, *JobStatus, *RunStatus):
        assert word in output.STYLES
        # Never by the colour alone.
        assert output.coloured(word).plain == word


def test_json_of_instants_durations_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json(
        {
            "at": datetime(2012, 11, 23, 18, tzinfo=UTC),
            "day": date(2012, 11, 23),
            "for": timedelta(seconds=1.5),
            "path": Path("/tmp/x"),
            "state": MarketState.SESSION,
            "name": "Société",
        },
        line=True,
    )
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "at": "2012-11-23T18:00:00+00:00",
        "day": "2012-11-23",
        "for": 1.5,
        "path": "/tmp/x",
        "state": "SESSION",
        "name": "Société",
    }


def test_counts_agree_in_number() -> None:
    assert [output.count(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]
