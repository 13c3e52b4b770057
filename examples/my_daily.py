"""
A pipeline of your own: two jobs after the close of New York and of Europe.

    PROMETHEUS__PIPELINES__MODULES=examples/my_daily.py \
        prometheus replay --from 2012-11-21 --to 2012-11-23 --market US_EQ
"""

from prometheus import JobContext, MarketState, Pipeline, Priority

my_daily = Pipeline("my_daily", markets=["US_EQ", "EU_EQ"])


@my_daily.job(required_state=MarketState.POST_CLOSE, priority=Priority.CRITICAL, max_retries=5)
def fetch_prices(ctx: JobContext) -> dict[str, float]:
    prices, day = ctx.sources.prices(ctx.market_id), ctx.session_date
    shares = prices.instruments(ctx.market_id, day)
    bars = [bar for each in shares for bar in prices.bars(each.mic, [each.symbol], day, day)]
    return {bar.symbol: bar.close for bar in bars}


@my_daily.job(after=[fetch_prices], timeout="30m")
def note_hours(ctx: JobContext) -> str:
    return f"open {ctx.session.open:%H:%M}, closed {ctx.session.close:%H:%M} UTC"
