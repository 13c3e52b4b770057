"""
A pipeline of your own: two jobs after the close of New York and of Europe.

    PROMETHEUS__PIPELINES__MODULES=examples/my_daily.py \
        prometheus replay --from 2012-11-21 --to 2012-11-23 --market US_EQ
"""

from datetime import date

from prometheus import JobContext, MarketState, Pipeline, Priority

my_daily = Pipeline("my_daily", markets=["US_EQ", "EU_EQ"])


@my_daily.job(required_state=MarketState.POST_CLOSE, priority=Priority.CRITICAL, max_retries=5)
def ingest_prices(ctx: JobContext) -> dict[str, float]:
    return closes(ctx, ctx.session_date)


@my_daily.job(after=[ingest_prices], timeout="30m")
def compute_returns(ctx: JobContext) -> dict[str, float]:
    now = closes(ctx, ctx.session_date)
    before = closes(ctx, ctx.previous_session.date) if ctx.previous_session else {}
    return {symbol: now[symbol] / before[symbol] - 1 for symbol in now if symbol in before}


def closes(ctx: JobContext, day: date) -> dict[str, float]:
    feed = ctx.sources.prices(ctx.market_id)
    shares = feed.instruments(ctx.market_id, ctx.session_date)
    bars = [bar for each in shares for bar in feed.bars(each.mic, [each.symbol], day, day)]
    return {bar.symbol: bar.adjusted_close for bar in bars}
