"""Pipelines for the tests of the scheduler and its workers; each shows one way a job can end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy import insert

from prometheus import JobContext, Pipeline
from prometheus.errors import PrometheusError
from prometheus.persistence.tables import audit

MARKETS = ["US_EQ", "EU_EQ", "ASIA_EQ"]

flaky = Pipeline("flaky", markets=MARKETS)


@flaky.job(max_retries=3, retry_base="1s", retry_cap="2s")
def fails_twice(ctx: JobContext) -> dict[str, int]:
    if ctx.attempt_number < 3:
        raise RuntimeError(f"attempt {ctx.attempt_number} does not work")
    return {"attempt": ctx.attempt_number}


limits = Pipeline("limits", markets=MARKETS)


@limits.job(timeout="2s", max_retries=1, retry_base="1s", retry_cap="1s")
def too_slow_once(ctx: JobContext) -> None:
    if ctx.attempt_number == 1:
        time.sleep(60)


@limits.job(timeout="3s", max_retries=1, retry_base="1s", retry_cap="1s")
def swallows_the_soft_limit(ctx: JobContext) -> None:
    if ctx.attempt_number > 1:
        return
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            time.sleep(until - time.monotonic())
        except SoftTimeLimitExceeded:
            continue


broken = Pipeline("broken", markets=MARKETS)


@broken.job(max_retries=0)
def fails(ctx: JobContext) -> None:
    if ctx.attempt_number == 1:
        raise ValueError("the vendor sent nothing")


@broken.job(after=[fails])
def below(ctx: JobContext) -> None: ...


@broken.job(after=[below])
def further_below(ctx: JobContext) -> None: ...


@broken.job()
def beside(ctx: JobContext) -> None: ...


chain = Pipeline("chain", markets=MARKETS)
for number in range(6):

    @chain.job(name=f"link_{number}", after=[f"link_{number - 1}"] if number else [])
    def link(ctx: JobContext) -> None:
        time.sleep(0.3)


held = Pipeline("held", markets=MARKETS)


@held.job(max_retries=0, retry_base="1s", retry_cap="1s")
def waits_for_a_file(ctx: JobContext) -> int:
    """Runs until the file of its parameters is there; its first line says what to do then."""
    folder = Path(ctx.parameters["folder"])
    (folder / f"started-{ctx.attempt_number}").write_text(str(os.getpid()))
    while not (folder / f"go-{ctx.attempt_number}").exists():
        time.sleep(0.02)
    return os.getpid()


asked = Pipeline("asked", markets=MARKETS)


@asked.job(max_retries=2, retry_base="1s", retry_cap="1s")
def ends_when_asked(ctx: JobContext) -> None:
    """Runs until it is cancelled; then returns, raises or goes on, as its parameters say."""
    folder = Path(ctx.parameters["folder"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"started-{ctx.attempt_number}").write_text(str(os.getpid()))
    while not ctx.cancelled or ctx.parameters["then"] == "goes on":
        time.sleep(0.02)
    if ctx.parameters["then"] == "raises":
        raise RuntimeError("stopped half way")


@asked.job(after=[ends_when_asked])
def after_it(ctx: JobContext) -> None: ...


writes = Pipeline("writes", markets=MARKETS)


@writes.job(max_retries=0)
def writes_when_told(ctx: JobContext) -> None:
    """Writes the same row in every attempt, and waits for a file before or after it has."""
    folder = Path(ctx.parameters["folder"])

    def wait() -> None:
        (folder / f"started-{ctx.attempt_number}").write_text(str(os.getpid()))
        while not (folder / f"go-{ctx.attempt_number}").exists():
            time.sleep(0.02)

    if ctx.parameters["waits"] == "before":
        wait()
    with ctx.transaction() as connection:
        connection.execute(
            insert(audit).values(
                audit_id=1,
                actor="job",
                action="wrote",
                target=f"attempt {ctx.attempt_number}",
                details={},
            )
        )
        if ctx.parameters["waits"] == "after":
            wait()


retried = Pipeline("retried", markets=MARKETS)


@retried.job(max_retries=1, retry_base="1s", retry_cap="1s")
def fails_when_told(ctx: JobContext) -> None:
    folder = Path(ctx.parameters["folder"])
    (folder / f"started-{ctx.attempt_number}").write_text(str(os.getpid()))
    while not (folder / f"go-{ctx.attempt_number}").exists():
        time.sleep(0.02)
    if ctx.attempt_number == 1:
        raise RuntimeError("told to fail")


brief = Pipeline("brief", markets=MARKETS)


@brief.job(timeout="4s", max_retries=1, retry_base="1s", retry_cap="1s")
def ends_when_told(ctx: JobContext) -> None:
    """Ends at once when the file of its parameters is there; the first attempt fails if asked."""
    folder = Path(ctx.parameters["folder"])
    (folder / f"started-{ctx.attempt_number}").touch()
    while not (folder / f"go-{ctx.attempt_number}").exists():
        time.sleep(0.02)
    (folder / f"ended-{ctx.attempt_number}").touch()
    if ctx.attempt_number == 1 and ctx.parameters["fails"]:
        raise RuntimeError("told to fail")


dying = Pipeline("dying", markets=MARKETS)


@dying.job(max_retries=2, retry_base="1s", retry_cap="1s")
def kills_its_process_once(ctx: JobContext) -> None:
    if ctx.attempt_number == 1:
        left = subprocess.Popen(["sleep", "600"])
        Path(ctx.parameters["left"]).write_text(str(left.pid))
        os.kill(os.getpid(), signal.SIGKILL)


returns = Pipeline("returns", markets=MARKETS)


@returns.job(max_retries=0)
def returns_a_set(ctx: JobContext) -> set[int]:
    return {1}


@returns.job(max_retries=0)
def returns_too_much(ctx: JobContext) -> str:
    return "x" * 100_000


joined = Pipeline("joined", markets=MARKETS)


@joined.job()
def left(ctx: JobContext) -> None: ...


@joined.job()
def right(ctx: JobContext) -> None: ...


@joined.job(after=[left, right])
def both(ctx: JobContext) -> None: ...


def tell(ctx: JobContext, message: str) -> None:
    """Append to a file what is told, a line a call."""
    with Path(ctx.parameters["told"]).open("a", encoding="utf-8") as told:
        told.write(f"{ctx.job_id} {ctx.attempt_number} {message}\n")


hooked = Pipeline("hooked", markets=MARKETS, on_failure=tell)


@hooked.job(max_retries=1, retry_base="1s", retry_cap="1s")
def always_fails(ctx: JobContext) -> None:
    raise RuntimeError("no")


watchful = Pipeline("watchful", markets=MARKETS)


@watchful.sensor(every="2s", up_to="2s", give_up="200d", max_retries=1, retry_base="1s")
def sees_a_file(ctx: JobContext) -> dict[str, object]:
    """Fails once in between, which is no answer."""
    folder = Path(ctx.parameters["folder"])
    if ctx.attempt_number == 2:
        raise RuntimeError("the vendor is away")
    return {
        "ready": (folder / "come").exists(),
        "why": "no file",
        "after": dict(ctx.last_poll or {}).get("poll"),
        "poll": ctx.attempt_number,
        # Words of our own too, which must mean nothing here.
        "source": "a folder",
        "stale": True,
    }


@watchful.sensor(give_up="1s", otherwise="continue_stale")
def never_comes(ctx: JobContext) -> bool:
    return False


@watchful.sensor(give_up="1s", otherwise="use:synthetic")
def comes_elsewhere(ctx: JobContext) -> bool:
    return False


@watchful.sensor(give_up="1s", otherwise="skip")
def is_done_without(ctx: JobContext) -> bool:
    return False


@watchful.job(after=[is_done_without])
def is_not_run(ctx: JobContext) -> None: ...


@watchful.job(after=[sees_a_file])
def goes_on(ctx: JobContext) -> dict[str, object]:
    return {"stale": ctx.stale, **ctx.readiness}


@watchful.job(after=[goes_on, never_comes, comes_elsewhere])
def goes_on_with_less(ctx: JobContext) -> dict[str, object]:
    names = (ctx.sources.prices(ctx.market_id).name, ctx.sources.prices("EU_EQ").name)
    return {"stale": ctx.stale, "sensors": sorted(ctx.readiness), "names": list(names)}


perilous = Pipeline("perilous", markets=MARKETS)


@perilous.sensor(max_retries=1, retry_base="1s", retry_cap="1s", otherwise="continue_stale")
def raises_again(ctx: JobContext) -> bool:
    raise RuntimeError("the vendor is away")


@perilous.sensor(timeout="1s", max_retries=0, otherwise="use:synthetic")
def takes_too_long(ctx: JobContext) -> bool:
    time.sleep(60)
    return True


@perilous.sensor(max_retries=0, otherwise="skip")
def kills_its_process(ctx: JobContext) -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True


@perilous.job(after=[kills_its_process])
def has_nothing_to_do(ctx: JobContext) -> None: ...


@perilous.sensor(after=[raises_again, takes_too_long], otherwise="continue_stale")
def takes_its_worker_along(ctx: JobContext) -> bool:
    (Path(ctx.parameters["folder"]) / "asked").touch()
    time.sleep(60)
    return True


@perilous.job(after=[takes_its_worker_along])
def goes_on_all_the_same(ctx: JobContext) -> dict[str, object]:
    why = {name: found.get("why") for name, found in ctx.readiness.items()}
    return {"stale": ctx.stale, "source": ctx.sources.prices(ctx.market_id).name, "why": why}


impatient = Pipeline("impatient", markets=MARKETS, on_failure=tell)


@impatient.job(queue_timeout="2s")
def waits_two_seconds(ctx: JobContext) -> None: ...


@impatient.job(after=[waits_two_seconds])
def waits_for_it(ctx: JobContext) -> None: ...


hurried = Pipeline("hurried", markets=MARKETS, run_timeout="3s")


@hurried.job()
def does_nothing(ctx: JobContext) -> None: ...


overdue = Pipeline("overdue", markets=MARKETS, run_timeout="15s", on_failure=tell)


@overdue.job()
def works_until_it_is_asked(ctx: JobContext) -> None:
    while not ctx.cancelled:
        time.sleep(0.1)
    (Path(ctx.parameters["folder"]) / "asked").touch()


unprintable = Pipeline("unprintable", markets=MARKETS)


@unprintable.job(max_retries=0)
def raises_it(ctx: JobContext) -> None:
    raise FileNotFoundError("a\x00b \udce9")


@unprintable.job(max_retries=0)
def returns_it(ctx: JobContext) -> list[str]:
    return ["\\\x00"]


@unprintable.job(max_retries=0)
def returns_its_name(ctx: JobContext) -> list[str]:
    return ["\\u0000", "\\"]


class NoTokenError(PrometheusError):
    """As a feed raises it that takes no token."""

    retryable = False


hopeless = Pipeline("hopeless", markets=MARKETS)


@hopeless.job(max_retries=5, retry_base="1s", retry_cap="1s")
def is_refused(ctx: JobContext) -> None:
    raise NoTokenError("the token was refused")


spent = Pipeline("spent", markets=MARKETS)


@spent.job(max_retries=1, retry_base="1s", retry_cap="1s")
def has_no_quota_left(ctx: JobContext) -> None:
    """Is told to come again in some seconds."""
    if ctx.attempt_number == 1:
        error = PrometheusError("the quota is spent")
        error.not_before = datetime.now(UTC) + timedelta(seconds=5)
        raise error
