"""The demo that shows every market."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from prometheus.scripts.demo_market_states import in_words, main


def test_every_market_is_shown_with_its_members_reason_and_next_transition(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["2012-11-23T04:30Z"]) == 0
    shown = capsys.readouterr().out
    assert "US_EQ     HOLIDAY (Thanksgiving Day)" in shown
    assert "ASIA_EQ   SESSION, in the lunch break" in shown
    assert "XTKS      HOLIDAY    Fri 13:30 there  Labor Thanksgiving Day" in shown
    assert (
        "POST_CLOSE in 3 h 30 min, 2012-11-23 08:00 UTC (Fri 17:00 Tokyo, Fri 16:00 Hong" in shown
    )


def test_json_has_the_same_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["2012-11-23T04:30Z", "--json"]) == 0
    us, eu, asia = json.loads(capsys.readouterr().out)
    assert (us["state"], us["reason"]) == ("HOLIDAY", "Thanksgiving Day")
    assert eu["next_transition"]["at"] == "2012-11-23T07:00:00+00:00"
    assert eu["next_transition"]["local"]["XPAR"] == "2012-11-23T08:00:00+01:00"
    assert asia["members"]["XTKS"] == {"state": "HOLIDAY", "closed": "Labor Thanksgiving Day"}
    assert asia["session_date"] == "2012-11-23"


def test_without_an_instant_it_is_now(capsys: pytest.CaptureFixture[str]) -> None:
    before = datetime.now(UTC)
    assert main(["--json"]) == 0
    shown = datetime.fromisoformat(json.loads(capsys.readouterr().out)[0]["at"])
    assert before <= shown <= datetime.now(UTC)


def test_a_market_whose_calendar_has_ended_does_not_hide_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["2028-06-01T15:00Z"]) == 1
    shown = capsys.readouterr().out
    assert "US_EQ     SESSION" in shown
    assert "ASIA_EQ   not known: 2028-06-01T15:00:00+00:00 is after the last date" in shown


@pytest.mark.parametrize("text", ["2012-11-23T04:30", "yesterday"])
def test_an_instant_without_an_offset_is_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([text])
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("minutes", "words"),
    [(0, "less than a minute"), (59, "59 min"), (60, "1 h"), (61, "1 h 1 min"), (2940, "2 d 1 h")],
)
def test_durations_are_in_words(minutes: int, words: str) -> None:
    assert in_words(timedelta(minutes=minutes)) == words
