"""
Every oddity of eodhd.com that is documented or was captured, and the test that shows it.

The list follows the feed's documents: exchange details of both versions, limits and errors, prices.
What no other test shows is tried here.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import date
from typing import TypeVar

import pytest
from pydantic import SecretStr

from prometheus.sources.eodhd.client import EodhdClient
from prometheus.sources.eodhd.errors import AccessRefusedError
from prometheus.sources.eodhd.naming import EodhdFeed
from prometheus.sources.registry import build_sources
from tests.eodhd.server import TOKEN, Imitation
from tests.servers import REPOSITORY

T = TypeVar("T")

WEDNESDAY = date(2012, 11, 21)
CLIENT = "tests/unit/sources/test_eodhd_client.py"
REPLIES = "tests/unit/sources/test_eodhd_replies.py"
HOLIDAYS = "tests/unit/sources/test_eodhd_holidays.py"
PRICES = "tests/integration/pipelines/test_eodhd.py"
READY = "tests/integration/pipelines/test_readiness.py"
SYNC = "tests/integration/cli/test_syncing.py"
HERE = "tests/eodhd/test_oddities.py"

ODDITIES: dict[str, tuple[str, str]] = {
    # Exchange details, first version.
    "CSV comes unless JSON is asked for": (
        CLIENT,
        "test_every_question_asks_for_json_because_csv_is_what_comes_otherwise",
    ),
    "CSV comes although JSON was asked for": (
        CLIENT,
        "test_csv_that_comes_all_the_same_is_read",
    ),
    "holidays are an object with numbers, or an array": (
        CLIENT,
        "test_holidays_of_the_first_version_in_all_encodings",
    ),
    "no holidays are {} or []": (CLIENT, "test_no_holidays_in_either_encoding"),
    "an early close is EarlyClose in captures and CloseTime in the documents": (
        REPLIES,
        "test_early_closes_under_both_names",
    ),
    "half days to come are left out": (CLIENT, "test_half_days_that_are_left_out_propose_nothing"),
    "a holiday of the banks closes no exchange": (HOLIDAYS, "test_kinds_and_times_come_through"),
    "hours in UTC are those of today, local ones count": (
        REPLIES,
        "test_an_exchange_of_the_first_version",
    ),
    "updated tickers rise from nothing after the close": (
        CLIENT,
        "test_updated_tickers_rise_from_nothing_after_the_close",
    ),
    "tickers are not counted at all": (HERE, "test_tickers_that_are_not_counted_are_no_reason"),
    "fields that nobody has heard of": (REPLIES, "test_unknown_fields_are_passed_over"),
    # Exchange details, second version.
    "holidays by date, early closes with seconds, of this year only": (
        CLIENT,
        "test_the_second_version_agrees_with_our_calendars",
    ),
    "working days with blanks, hours before, after and at noon": (
        REPLIES,
        "test_an_exchange_of_the_second_version",
    ),
    "codes are MICs, but for some": (HOLIDAYS, "test_an_exchange_is_asked_by_the_feeds_own_code"),
    "codes in letters of any case": (HERE, "test_codes_of_the_second_version_have_no_case"),
    "another exchange, zone or year than was asked for": (
        HOLIDAYS,
        "test_what_can_not_be_true_is_refused_and_says_why",
    ),
    "no list of holidays": (
        REPLIES,
        "test_an_exchange_without_a_list_of_holidays_is_not_one_without_holidays",
    ),
    "a closure that shows up between two polls": (
        CLIENT,
        "test_a_closure_that_shows_up_between_two_polls_is_a_difference",
    ),
    "a holiday that is left out": (
        SYNC,
        "test_a_holiday_that_the_feed_leaves_out_is_proposed_as_a_session",
    ),
    "Tokyo and Hong Kong have hours and no prices": (
        PRICES,
        "test_a_market_without_an_exchange_at_the_feed_is_told_so",
    ),
    # Limits and errors.
    "questions cost 1, 5 or 100 calls; the counter turns at the first of a day": (
        CLIENT,
        "test_calls_are_counted_at_their_price",
    ),
    "a quota that is spent, as text with 402": (
        CLIENT,
        "test_a_spent_quota_parks_the_source_until_midnight",
    ),
    "so many requests a minute": (CLIENT, "test_no_more_is_sent_in_a_minute_than_is_allowed"),
    "the limit of the plan in a header": (CLIENT, "test_a_lower_limit_of_the_server_is_heeded"),
    "429 with seconds, with a date, or without": (
        CLIENT,
        "test_too_many_requests_wait_for_as_long_as_the_server_says",
    ),
    "429 with what is no time": (CLIENT, "test_a_retry_after_that_can_not_be_read_is_a_minute"),
    "maintenance from 05:30 to 06:00 GMT": (CLIENT, "test_the_daily_maintenance_is_named"),
    "a bad token is 401 or 403; so is a plan that is too small": (
        CLIENT,
        "test_a_wrong_token_is_told_from_a_plan_that_is_too_small",
    ),
    "unknown tickers, bad arguments, redirections": (
        CLIENT,
        "test_a_refusal_is_never_asked_again",
    ),
    "errors as JSON of three forms, and with 200": (
        CLIENT,
        "test_an_error_that_comes_as_an_answer",
    ),
    "errors that repeat the question, token included": (
        CLIENT,
        "test_the_token_is_nowhere_to_be_read",
    ),
    "pages of HTML, and documents that are cut": (CLIENT, "test_half_an_answer_is_none"),
    "answers byte by byte": (CLIENT, "test_a_slow_answer_is_given_up_in_time"),
    "the account under two names": (CLIENT, "test_what_the_other_questions_answer"),
    "the token demo, which has some symbols": (CLIENT, "test_the_public_token_is_no_secret"),
    "the token demo, which has no bulk": (HERE, "test_the_public_token_has_no_bulk"),
    # Prices.
    "bars appear with a lag, of each exchange another": (
        CLIENT,
        "test_a_bar_appears_with_the_lag_of_its_exchange",
    ),
    "volume in the US is corrected later": (
        PRICES,
        "test_volume_that_the_feed_corrects_later_is_a_revision",
    ),
    "prices as traded, closes adjusted, volume for splits": (
        PRICES,
        "test_volume_is_as_traded_and_splits_are_told",
    ),
    "every earlier adjusted close changes": (
        PRICES,
        "test_a_new_basis_of_adjustment_brings_the_whole_history_again",
    ),
    "volume in fractions": (HERE, "test_a_fraction_of_a_share_is_kept"),
    "rows without trading": (PRICES, "test_a_day_without_trading_has_no_bar"),
    "a last line of CSV that is no row": (
        REPLIES,
        "test_a_last_line_of_csv_that_is_no_row_is_passed_over",
    ),
    "a bare value instead of a document": (REPLIES, "test_a_bare_date"),
    "[] of a range without bars": (CLIENT, "test_a_range_without_bars_is_empty"),
    "a year of history, and no error, for who pays nothing": (
        HERE,
        "test_a_free_plan_has_a_year_and_says_nothing_of_it",
    ),
    "bulk files of all funds, and codes that are none": (
        REPLIES,
        "test_bulk_rows_of_other_codes_are_not_looked_at",
    ),
    "bulk CSV with columns of old": (REPLIES, "test_bulk_csv_with_and_without_the_older_columns"),
    "splits as a fraction; dates of dividends that are empty": (
        REPLIES,
        "test_splits_and_dividends",
    ),
    "pence in London": (PRICES, "test_pence_become_pounds_and_another_currency_stays"),
}
"""What is odd -> the module and the function that show it."""


@pytest.fixture
def server() -> Iterator[Imitation]:
    """The imitation, on the evening of Wednesday."""
    with Imitation() as imitation:
        yield imitation


def ask(
    server: Imitation, question: Callable[[EodhdClient], Awaitable[T]], token: str = TOKEN
) -> T:
    client = EodhdClient(SecretStr(token), url=server.url, now=lambda: server.now)

    async def asked() -> T:
        async with client:
            return await question(client)

    return asyncio.run(asked())


@pytest.mark.parametrize(("module", "name"), ODDITIES.values(), ids=ODDITIES)
def test_oddity_has_its_test(module: str, name: str) -> None:
    tree = ast.parse((REPOSITORY / module).read_text())
    assert name in {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}


def test_tickers_that_are_not_counted_are_no_reason(server: Imitation) -> None:
    """To wait: then the bulk file alone says how much has come."""
    server.ticker_counts = False
    details = ask(server, lambda each: each.exchange_details("US"))
    assert (details.active_tickers, details.updated_tickers) == (None, None)
    symbols = ("XNAS:AAPL", "XNAS:MSFT", "XNYS:IBM")
    feed = EodhdFeed(SecretStr(TOKEN), url=server.url, symbols=symbols, readiness="tickers")
    sources = build_sources({"US_EQ": "eodhd"}, eodhd=feed, now=lambda: server.now)
    check = sources.readiness("US_EQ")
    assert check is not None
    assert check("US_EQ", WEDNESDAY, last=None, earlier=()) == {"ready": True, "share:US": None}


def test_codes_of_the_second_version_have_no_case(server: Imitation) -> None:
    upper, lower = (
        ask(server, lambda each, code=code: each.exchange_details_2(code))  # type: ignore[misc]
        for code in ("XPAR", "xpar")
    )
    assert upper == lower


def test_the_public_token_has_no_bulk(server: Imitation) -> None:
    assert ask(server, lambda each: each.bars("AAPL", "US"), token="demo")
    with pytest.raises(AccessRefusedError):
        ask(server, lambda each: each.bulk_bars("US"), token="demo")


def test_a_fraction_of_a_share_is_kept(server: Imitation) -> None:
    server.changed["AAPL.US", WEDNESDAY] = {"volume": 2943900.99}
    (bar,) = ask(server, lambda each: each.bars("AAPL", "US", WEDNESDAY, WEDNESDAY))
    assert bar.volume == 2943900.99


def test_a_free_plan_has_a_year_and_says_nothing_of_it(server: Imitation) -> None:
    begin = date(2010, 1, 4)
    assert ask(server, lambda each: each.bars("AAPL", "US", begin))[0].day == begin
    server.free_plan = True
    assert ask(server, lambda each: each.bars("AAPL", "US", begin))[0].day == date(2011, 11, 22)
