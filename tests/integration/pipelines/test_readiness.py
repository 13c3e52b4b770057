"""Whether a session's prices are there, asked of the imitation of eodhd.com."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from prometheus.pipelines.equities.readiness import prices_ready
from prometheus.sources.eodhd.client import EodhdClient
from prometheus.sources.eodhd.errors import AccessRefusedError
from prometheus.sources.eodhd.naming import EodhdFeed
from prometheus.sources.eodhd.readiness import EodhdReadiness
from prometheus.sources.registry import build_sources
from prometheus.sources.sessions import members
from tests.eodhd.server import TOKEN, Answer, Imitation
from tests.integration.pipelines.runs import context

WEDNESDAY = date(2012, 11, 21)
US = ("XNAS:AAPL", "XNAS:MSFT", "XNYS:IBM")


@pytest.fixture
def server() -> Iterator[Imitation]:
    """The imitation, on the evening of Wednesday."""
    with Imitation() as imitation:
        yield imitation


def look(server: Imitation, depth: str = "tickers", day: date = WEDNESDAY, **told: Any) -> Any:
    feed = EodhdFeed(SecretStr(TOKEN), url=server.url, symbols=US, readiness=depth)
    sources = build_sources({"US_EQ": "eodhd"}, eodhd=feed, now=lambda: server.now)
    assert sources.readiness("EU_EQ") is None
    check = sources.readiness("US_EQ")
    assert check is not None
    return check("US_EQ", day, last=told.get("last"), earlier=told.get("earlier", ()))


def test_bundled_source_is_ready_at_once() -> None:
    ctx: Any = context(None, "US_EQ", WEDNESDAY)  # type: ignore[arg-type]
    assert prices_ready(ctx) == {"ready": True}


def test_symbols_are_asked_first_and_nothing_dearer_while_they_are_late(server: Imitation) -> None:
    server.now = datetime(2012, 11, 21, 21, 5, tzinfo=UTC)  # five minutes after the close
    found = look(server)
    assert found["ready"] is False
    assert "AAPL.US (2012-11-20), MSFT.US (2012-11-20)" in found["why"]
    assert server.counted == 3
    server.now = datetime(2012, 11, 21, 23, tzinfo=UTC)
    assert look(server) == {"ready": True, "share:US": 0.96}
    assert look(server, "last_date") == {"ready": True}
    server.withheld.add("IBM.US")
    assert "of IBM.US (2012-11-20) there is no newer bar" in look(server)["why"]


def test_share_of_updated_tickers_is_held_against_what_was_usual(server: Imitation) -> None:
    server.now = datetime(2012, 11, 21, 22, tzinfo=UTC)  # three quarters of an hour after the first
    found = look(server)
    assert found["ready"] is False
    assert "share:US is" in found["why"]
    usual = [{"share:US": found["share:US"]}] * 5
    assert look(server, earlier=usual)["ready"] is True
    assert look(server, earlier=usual[:4])["ready"] is False


def test_bulk_file_must_be_as_long_as_usual_and_stay_as_it_is(server: Imitation) -> None:
    first = look(server, "bulk")
    assert first["ready"] is False
    assert "not yet known to stay as it is" in first["why"]
    second = look(server, "bulk", last=first)
    assert second["ready"] is True
    more = [{"rows:US": 2 * second["rows:US"]}] * 5
    assert "rows:US is" in look(server, "bulk", last=second, earlier=more)["why"]


def test_maintenance_is_waited_for_and_nothing_is_asked(server: Imitation) -> None:
    feed = EodhdFeed(SecretStr(TOKEN), symbols=US)
    at = datetime(2012, 11, 22, 5, 45, tzinfo=UTC)
    client = EodhdClient(feed.token, url=server.url, now=lambda: at)
    check = EodhdReadiness(client, feed.listings, members=members, depth="bulk")
    found = check("US_EQ", WEDNESDAY, last=None, earlier=())
    assert found == {"ready": False, "why": "the feed's daily maintenance is until 06:00 GMT"}
    assert server.asked == []


@pytest.mark.parametrize(
    "answer", [Answer(429, b"", (("Retry-After", "600"),)), Answer(200, b"<html>moved</html>")]
)
def test_feed_that_does_not_answer_is_waited_for(server: Imitation, answer: Answer) -> None:
    """For hours, perhaps: as failures they would use up all retries in the first of them."""
    server.answers.append(answer)
    found = look(server)
    assert found["ready"] is False
    assert found["why"].startswith("eodhd eod/IBM.US: ")


def test_feed_that_refuses_the_token_is_not_waited_for(server: Imitation) -> None:
    server.token = "another"
    with pytest.raises(AccessRefusedError):
        look(server)


def test_of_a_session_before_the_newest_nothing_is_counted(server: Imitation) -> None:
    """A backfill asks at any hour, when the newest session's count may have just begun."""
    server.now = datetime(2012, 11, 21, 22, tzinfo=UTC)
    before = date(2012, 11, 20)
    assert look(server, day=before) == {"ready": True}
    found = look(server, "bulk", day=before)
    assert (found["ready"], found["rows:US"] > 0) == (True, True)


def test_quota_that_is_spent_is_a_wait_and_no_failure(server: Imitation) -> None:
    server.daily_limit = server.counted = 0
    server.daily_limit = 1
    found = look(server)
    assert found["ready"] is False
    assert TOKEN not in found["why"]
