"""
The rules, each a function from a history to what breaks it.

They know the tables and the documented promises, and nothing of the code that keeps them.
"""

from __future__ import annotations

import builtins
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from sqlalchemy import Connection

from prometheus.core.overrides import override_stamp
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import PrometheusError
from prometheus.verification.history import (
    BLOCKING,
    CANCELLED,
    EXPIRED,
    FAILED,
    FINAL,
    OPEN,
    PENDING,
    QUEUED,
    RUNNING,
    SKIPPED,
    SUCCESS,
    Audit,
    Change,
    Definition,
    Execution,
    History,
    Job,
    Pause,
    Run,
    read_definition,
    read_history,
)
from prometheus.verification.report import (
    DEFAULT,
    Counts,
    Expectation,
    Report,
    StartRecord,
    Tolerances,
    Violation,
)
from prometheus.verification.windows import (
    Window,
    calendar_of,
    is_session,
    limit_of,
    runs_on,
    session_before,
    window_of,
)

CHANGES: Mapping[str | None, frozenset[str]] = {
    None: frozenset({PENDING, QUEUED}),
    PENDING: frozenset({QUEUED, SKIPPED, CANCELLED, EXPIRED}),
    QUEUED: frozenset({RUNNING, SKIPPED, CANCELLED, EXPIRED}),
    RUNNING: frozenset({SUCCESS, FAILED, SKIPPED, CANCELLED}),
}
"""State -> those it may change to; a row that is not here never changes. ``None`` is no row."""

_PRIORITIES = {"CRITICAL": 1, "STANDARD": 2, "OPTIONAL": 3}
_WINDOW_CLOSED = "its window closed"
_CLOSED = "session closed: "
_MOVED = "its window moved: "
_UTC = r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC"
_RETRIES, _LOST_TOO_OFTEN, _WINDOW, _RUN, _NO_HELP = "retries", "lost", "window", "run", "no help"
_NO_MORE = {
    reason: re.compile(rf" \(not tried again: {words}\)\Z")
    for reason, words in {
        _RETRIES: r"attempt (\d+), max_retries is (\d+)",
        _LOST_TOO_OFTEN: r"(\d+) workers were lost with it",
        _WINDOW: rf"the retry at {_UTC} would be at or past the end of its window, {_UTC}",
        _RUN: (
            rf"the retry at {_UTC} would be at or past the end of its run, {_UTC} "
            r"\(run_timeout [^()]+\)"
        ),
        _NO_HELP: "the error says that it would not help",
    }.items()
}
"""Why a failed attempt has no next one -> what is written behind its error then, and only there."""
_FINALLY = {
    _RETRIES: "no retry was left",
    _LOST_TOO_OFTEN: "its workers were lost too often",
    _WINDOW: "no time was left in its window",
    _RUN: "no time was left in its run",
    _NO_HELP: "its error said that trying again would not help",
}
"""The same, as it is counted."""
_MISSING = re.compile(
    rf"MISSING: it had not come at {_UTC}, when the sensor gave up "
    r"\(not tried again: (.+?), otherwise=(\w+)\)(: |\Z)"
)
"""What a sensor's attempt says that gave up; what the sensor itself has to say follows."""
_WINDOW_ENDS = re.compile(rf"its window ends at {_UTC}")
_RAISED = re.compile(r"([^\W\d][\w.<>]*): ")
"""How the message of an error that a job raised begins: with its class."""
_GIVEN_UP = re.compile(rf"worker lost: host .+, pid \d+, last seen {_UTC}")
_OVERRAN = "ended without a report by its hard limit"
_NOT_BEFORE = re.compile(r" \(next try not before (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC\)$")
"""How the reason ends when the error asked for a wait, from whose end the delay counts."""
_LIMIT = re.compile(r"missed|time-?out|timed out|longer than|limit")
"""What the reason speaks of when something expires that had a window left."""
_UNKNOWN = " knows the job "
"""What the reason speaks of when no worker could run it."""
_ZERO = timedelta(0)
_INSTANT = timedelta(seconds=1)
"""Of market time, which is rounded where a retry's delay is divided by the speed."""
_FORCE = frozenset({"force_success"})
_HANDED_BACK = "handed back"
_LOST = ("worker lost", "worker cut off", "ended without a report")


@dataclass(frozen=True, slots=True)
class RunCase:
    """One run and all that belongs to it."""

    run: Run
    definition: Definition
    attempts: Mapping[str, Sequence[Execution]]
    """Job id -> its executions in order of attempts."""
    calendar: TradingCalendar | None
    in_session: bool
    """Whether its date is known to carry a session of its market."""
    same_calendar: bool
    """Whether it followed the calendar that is checked with."""
    before: Sequence[TradingCalendar] = ()
    """The calendars that it followed before, of those that can be told, the first one first."""

    @property
    def jobs(self) -> Mapping[str, Job]:
        """Return the jobs of its stored definition; none if that can not be read."""
        return self.definition.jobs

    def window(self, job_id: str) -> Window | None:
        """Work out a job's window anew; ``None`` where that is not possible."""
        job = self.jobs.get(job_id)
        if job is None or self.calendar is None or not (self.in_session and self.same_calendar):
            return None
        if self.before:
            return None  # which of them held then is not looked for
        try:
            return window_of(
                self.calendar, self.run.as_of_date, job.required_state, job.window, job.start
            )
        except (PrometheusError, ValueError):
            return None

    def window_for(self, execution: Execution) -> Window | None:
        """Return the window an execution must keep to; ``None`` if it is forced."""
        if execution.forced or self.run.forced:
            return None
        if self.before:
            return None
        window = self.window(execution.job_id)
        stored = execution.window_opens_at, execution.window_closes_at
        if window is None and stored[0] is not None and stored[1] is not None:
            return Window(stored[0], stored[1])
        return window

    def windows(self, job_id: str) -> list[Window]:
        """Work out a job's windows by every calendar that the run has followed."""
        job = self.jobs.get(job_id)
        found = []
        for calendar in (*self.before, self.calendar):
            if calendar is None or job is None:
                continue
            if is_session(calendar, self.run.as_of_date):
                day, state = self.run.as_of_date, job.required_state
                found.append(window_of(calendar, day, state, job.window, job.start))
        return found

    def gives_up_at(self, execution: Execution) -> datetime | None:
        """Work out when a sensor makes its last poll; ``None`` where that is not possible."""
        job, opens_at = self.jobs[execution.job_id], execution.window_opens_at
        if job.give_up is None or opens_at is None or self.calendar is None or self.before:
            return None
        if not (self.in_session and self.same_calendar):
            return None
        return limit_of(self.calendar.phases(self.run.as_of_date), job.give_up, opens_at)

    @property
    def was_closed(self) -> bool:
        """Whether a calendar that it followed has no session of its date."""
        calendars = [each for each in (*self.before, self.calendar) if each is not None]
        return any(is_session(each, self.run.as_of_date) is False for each in calendars)


@dataclass(frozen=True, slots=True)
class Case:
    """A history, sorted, and what is asked about it."""

    history: History
    runs: Sequence[RunCase]
    by_session: Mapping[tuple[str, str, date], RunCase]
    """Pipeline, market and session date -> the run."""
    strays: Sequence[Execution]
    """Executions of runs that do not exist."""
    audit: Mapping[str, Sequence[Audit]]
    """Target -> what operators did to it."""
    finished: bool
    starts: Sequence[StartRecord]
    expect: Expectation | None
    tolerances: Tolerances
    max_lost: int | None
    as_of: datetime
    """Wall time up to which a scheduler is known to have been at work."""

    def before(self, earlier: datetime, later: datetime, by: timedelta = timedelta(0)) -> bool:
        """Say whether one stamp is not later than another, or later by ``by`` at most."""
        return earlier <= later + by + self.tolerances.clock_steps

    def audited(self, dag_id: str, actions: frozenset[str], at: datetime, job_id: str) -> bool:
        """Say whether an operator did one of some things to a job of a run at about a time."""
        return any(
            row.action in actions
            and self.before(abs(row.at - at) + at, at, self.tolerances.settle)
            and _about(row, job_id)
            for row in self.audit.get(dag_id, ())
        )

    def is_forced(self, row: Execution) -> bool:
        """Say whether an operator said that a job has succeeded, and nothing ran."""
        return (
            row.status == SUCCESS
            and row.worker is None
            and row.completed_at is not None
            and self.audited(row.dag_id, _FORCE, row.completed_at, row.job_id)
        )


def check(
    connection: Connection,
    *,
    finished: bool = True,
    starts: Sequence[StartRecord] = (),
    expect: Expectation | None = None,
    tolerances: Tolerances = DEFAULT,
    now: datetime | None = None,
    max_lost: int | None = None,
) -> Report:
    """
    Read a database and look for everything that must not be.

    Args:
        connection: In a transaction that sees one state of the database, unless nothing changes
            it meanwhile. Only read.
        finished: Every run must be closed. Otherwise open runs and live rows are let be, unless
            nothing has moved them for too long.
        starts: What the jobs themselves recorded. If there are any, each row that succeeded needs
            one, no row may have two, and none may be of a row that never started.
        expect: Which sessions must have a run.
        tolerances: How much time is forgiven.
        now: Wall time, where it is not the database's.
        max_lost: How often the worker of a job could be lost, where that setting is known and was
            the same all the time.
    """
    history = read_history(connection)
    return judge(
        history,
        finished=finished,
        starts=starts,
        expect=expect,
        tolerances=tolerances,
        now=now,
        max_lost=max_lost,
    )


def judge(
    history: History,
    *,
    finished: bool = True,
    starts: Sequence[StartRecord] = (),
    expect: Expectation | None = None,
    tolerances: Tolerances = DEFAULT,
    now: datetime | None = None,
    max_lost: int | None = None,
) -> Report:
    """Do what `check` does, of a history that has been read. Pure."""
    case = make_case(
        history,
        finished=finished,
        starts=starts,
        expect=expect,
        tolerances=tolerances,
        now=now,
        max_lost=max_lost,
    )
    violations = [violation for rule in RULES for violation in rule(case)]
    return Report(tuple(violations), _count(case))


def make_case(
    history: History,
    *,
    finished: bool,
    starts: Sequence[StartRecord],
    expect: Expectation | None,
    tolerances: Tolerances,
    now: datetime | None,
    max_lost: int | None,
) -> Case:
    """Sort a history by what belongs together."""
    attempts: dict[str, dict[str, list[Execution]]] = defaultdict(lambda: defaultdict(list))
    for execution in sorted(history.executions, key=lambda each: each.attempt_number):
        attempts[execution.dag_id][execution.job_id].append(execution)
    parsed: dict[str, Definition] = {}
    known = {run.dag_id for run in history.runs}
    audit: dict[str, list[Audit]] = defaultdict(list)
    for row in history.audit:
        audit[row.target].append(row)
    calendars: dict[tuple[str, int], TradingCalendar | None] = {}

    def calendar_then(market_id: str, version: str) -> TradingCalendar | None:
        key = market_id, override_stamp(version)
        if key not in calendars:
            calendars[key] = calendar_of(market_id, history.overrides.until(key[1]))
        return calendars[key]

    runs = []
    for run in history.runs:
        if run.definition not in parsed:
            try:
                parsed[run.definition] = read_definition(run.definition)
            except (ValueError, KeyError, TypeError):
                parsed[run.definition] = Definition()
        calendar = calendar_then(run.market_id, run.calendar_version)
        before = [
            # Rows of earlier releases call it "from".
            calendar_then(
                run.market_id, str(row.details.get("before", row.details.get("from", "")))
            )
            for row in audit[run.dag_id]
            if row.action == "calendar"
        ]
        runs.append(
            RunCase(
                run=run,
                definition=parsed[run.definition],
                attempts=attempts.get(run.dag_id, {}),
                calendar=calendar,
                in_session=calendar is not None and is_session(calendar, run.as_of_date) is True,
                same_calendar=calendar is not None and calendar.version == run.calendar_version,
                before=[each for each in before if each is not None],
            )
        )
    wall_at = now or history.wall_at
    return Case(
        history=history,
        runs=runs,
        by_session={
            (each.run.pipeline, each.run.market_id, each.run.as_of_date): each for each in runs
        },
        strays=[row for row in history.executions if row.dag_id not in known],
        audit=audit,
        finished=finished,
        starts=starts,
        expect=expect,
        tolerances=tolerances,
        max_lost=max_lost,
        as_of=min(wall_at, history.ticked_at or wall_at),
    )


# --- runs ----------------------------------------------------------------------------------------


def one_run_a_session(case: Case) -> Iterator[Violation]:
    """No session of a market has two runs of a pipeline."""
    found = Counter((c.run.pipeline, c.run.market_id, c.run.as_of_date) for c in case.runs)
    for (pipeline, market_id, day), times in found.items():
        if times > 1:
            message = f"{pipeline} has {times} runs for {market_id} on {day}"
            yield Violation("run-twice", message)


def runs_are_of_sessions(case: Case) -> Iterator[Violation]:
    """A run is of a market that exists, on a date that carries a session, and named for both."""
    for each in case.runs:
        run = each.run
        if each.calendar is None:
            yield _of_run("unknown-market", run, f"there is no market {run.market_id}")
            continue
        traded = is_session(each.calendar, run.as_of_date)
        if traded is None:
            bounds = f"{each.calendar.first} to {each.calendar.horizon}"
            yield _of_run("unknown-day", run, f"{run.as_of_date} is outside its calendar, {bounds}")
        elif not traded and each.same_calendar and not _lost_its_session(each):
            reason = each.calendar.reason(run.as_of_date)
            yield _of_run("closed-day", run, f"{run.market_id} has no session then: {reason}")
        # One that followed another calendar may have been made when that had it.
        elif traded and each.same_calendar and not each.before and run.trigger != "operator":
            stored = each.definition
            if not runs_on(each.calendar, run.as_of_date, stored.sessions, stored.short_sessions):
                message = f"its pipeline runs on {stored.sessions}, short sessions: "
                yield _of_run("other-session", run, message + stored.short_sessions)
        name = f"{run.market_id.lower()}_{run.pipeline}_{run.as_of_date.isoformat()}"
        if run.dag_id != name:
            yield _of_run("run-name", run, f"it should be called {name}")


def _lost_its_session(each: RunCase) -> bool:
    """Say whether a run was made for a session that there was then."""
    return any(is_session(calendar, each.run.as_of_date) for calendar in each.before)


def definitions_are_kept(case: Case) -> Iterator[Violation]:
    """A run's definition can be read, is what its hash says, and can be run."""
    known: dict[tuple[str, str], str | None] = {}
    for each in case.runs:
        key = each.run.definition, each.run.definition_hash
        if key not in known:
            known[key] = _definition_fault(each)
        if (fault := known[key]) is not None:
            yield _of_run("definition", each.run, fault)


def _definition_fault(each: RunCase) -> str | None:
    if not each.jobs:
        return "its stored definition can not be read, or has no jobs"
    document = json.loads(each.run.definition)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(canonical.encode()).hexdigest() != each.run.definition_hash:
        return "its stored definition is not the one its hash was made of"
    for job in each.jobs.values():
        unknown = [name for name in job.dependencies if name not in each.jobs]
        if unknown:
            return f"{job.job_id} depends on {unknown[0]}, which is not in its definition"
    return None


def runs_are_not_early(case: Case) -> Iterator[Violation]:
    """A scheduled run is made no earlier than it opens, at PRE_OPEN or with its first job."""
    if not case.history.live:
        return  # when it was made is not known in market time
    for each in case.runs:
        run = each.run
        if run.trigger != "schedule" or each.calendar is None:
            continue
        if not (each.in_session and each.same_calendar):
            continue
        opens_at = each.calendar.phases(run.as_of_date).pre_open_at
        early = [each.window(job.job_id) for job in each.jobs.values() if job.start is not None]
        opens_at = min([opens_at, *(window.opens_at for window in early if window is not None)])
        if not each.before and not case.before(opens_at, run.created_at, case.tolerances.settle):
            yield _of_run("run-early", run, f"made at {_at(run.created_at)}, before it opens")
        if run.opens_at != opens_at:
            yield _of_run("run-opens", run, f"opens at {_at(run.opens_at)}, not {_at(opens_at)}")


def run_states_follow_their_jobs(case: Case) -> Iterator[Violation]:
    """A run's state is what the latest attempts of its jobs make it."""
    for each in case.runs:
        run = each.run
        if (run.status == OPEN) != (run.completed_at is None):
            yield _of_run("run-status", run, f"it is {run.status}, completed {run.completed_at}")
        if run.completed_at is not None and not case.before(run.created_at, run.completed_at):
            yield _of_run("run-stamps", run, "it was completed before it was made")
        latest = [rows[-1] for rows in each.attempts.values()]
        due = _run_status(row.status for row in latest)
        if run.status == OPEN:
            if case.finished:
                unfinished = sorted(row.job_id for row in latest if not row.final)
                what = f"{', '.join(unfinished[:3])} among it" if unfinished else "all jobs ended"
                yield _of_run("unfinished", run, f"it is still open ({what})")
            continue
        if run.status != due:
            yield _of_run("run-status", run, f"it is {run.status}, but its jobs make it {due}")
        if run.completed_at is None:
            continue
        for row in latest:
            if row.completed_at is not None and not case.before(row.completed_at, run.completed_at):
                message = f"it was closed before {row.job_id} ended"
                yield _of_run("run-stamps", run, message)
        if abs(run.updated_at - run.completed_at) > case.tolerances.settle:
            yield _of_run("changed-after-end", run, f"it changed at {_at(run.updated_at)}")


def _run_status(jobs: Iterator[str]) -> str:
    statuses = set(jobs)
    if statuses - FINAL:
        return OPEN
    if statuses & {FAILED, EXPIRED}:
        return FAILED
    return CANCELLED if CANCELLED in statuses else SUCCESS


def expected_runs_exist(case: Case) -> Iterator[Violation]:
    """Each expected session has a run, and the pipelines have none for other markets."""
    expect = case.expect
    if expect is None:
        return
    for pipeline, markets in expect.pipelines.items():
        for market_id in markets:
            calendar = calendar_of(market_id, case.history.overrides)
            if calendar is None:
                yield Violation("unknown-market", f"there is no market {market_id}")
                continue
            sessions, short_sessions = expect.sessions.get(pipeline, ("every", "run"))
            for day in calendar.trading_days(expect.since, expect.until):
                if not runs_on(calendar, day, sessions, short_sessions):
                    continue
                if (pipeline, market_id, day) not in case.by_session:
                    message = f"{pipeline} has no run for {market_id} on {day}"
                    yield Violation("run-missing", message)
    for each in case.runs:
        known = expect.pipelines.get(each.run.pipeline)
        if known is not None and each.run.market_id not in known:
            message = f"{each.run.pipeline} is not for {each.run.market_id}"
            yield _of_run("wrong-market", each.run, message)


# --- jobs and their attempts ---------------------------------------------------------------------


def every_job_has_its_rows(case: Case) -> Iterator[Violation]:
    """Each job of the stored DAG has attempts 1 to n, at most the last of them unfinished."""
    for row in case.strays:
        yield _of("stray", row, "its run does not exist")
    for each in case.runs:
        for job_id in each.jobs:
            if job_id not in each.attempts:
                message = f"job {job_id} of its definition has no row"
                yield Violation("missing-job", message, each.run.dag_id, job_id)
        for job_id, rows in each.attempts.items():
            if each.jobs and job_id not in each.jobs:
                yield _of("unknown-job", rows[0], "its run's definition has no such job")
            numbers = [row.attempt_number for row in rows]
            if numbers != list(range(1, len(rows) + 1)):
                yield _of("attempt-numbers", rows[-1], f"its attempts are numbered {numbers}")
            for row in rows[:-1]:
                if not row.final:
                    message = f"attempt {row.attempt_number} is {row.status}, and not the latest"
                    yield _of("two-live", row, message)


def rows_agree_with_their_run(case: Case) -> Iterator[Violation]:
    """What a row repeats of its run and job is what these say."""
    for each in case.runs:
        run = each.run
        for job_id, rows in each.attempts.items():
            job = each.jobs.get(job_id)
            for row in rows:
                wrong = [
                    name
                    for name, found, due in (
                        ("market_id", row.market_id, run.market_id),
                        ("as_of_date", row.as_of_date, run.as_of_date),
                        ("queue", row.queue, run.market_id),
                        ("priority", row.priority, job and _PRIORITIES.get(job.priority)),
                        ("timeout_seconds", row.timeout_seconds, job and int(job.timeout_seconds)),
                    )
                    if due is not None and found != due
                ]
                if wrong:
                    yield _of("copy", row, f"{', '.join(wrong)} is not what its run says")


def attempts_follow_each_other(case: Case) -> Iterator[Violation]:
    """An attempt begins when the one before has ended, and has a right to begin at all."""
    for each in case.runs:
        for rows in each.attempts.values():
            yield from _count_faults(rows)
            for row, following in pairwise(rows):
                if row.completed_at is None:
                    continue  # found as two-live
                begins = [following.created_at]
                begins += [following.started_at] if following.started_at is not None else []
                if not case.before(row.completed_at, min(begins)):
                    message = (
                        f"attempt {following.attempt_number} began before the one before ended"
                    )
                    yield _of("overlap", following, message)
                if _by_calendar(row) is not None:
                    yield from _again_faults(each, row, following)
                elif _is_operators(following):
                    at, job_id = following.created_at, following.job_id
                    actions = frozenset({"retry", "rerun"}) | _FORCE
                    if not case.audited(row.dag_id, actions, at, job_id):
                        message = "an operator's attempt without an audit row"
                        yield _of("operator-without-audit", following, message)
                elif row.status == SUCCESS and _is_sensor(each, row):
                    yield from _poll_faults(each, row, following)
                elif row.status == SUCCESS:
                    message = f"attempt {row.attempt_number} had succeeded, and nobody asked for it"
                    yield _of("after-success", following, message)
                elif row.status != FAILED:
                    message = f"attempt {row.attempt_number} was {row.status}, which is not retried"
                    yield _of("successor", following, message)
                else:
                    yield from _retry_faults(case, each, row, following)


def _count_faults(rows: Sequence[Execution]) -> Iterator[Violation]:
    """Look for a first attempt, or an operator's, that does not begin to count at nothing."""
    for before, row in zip((None, *rows), rows, strict=False):
        goes_on = _is_retry(row) or (before is not None and _by_calendar(before) is not None)
        if not goes_on and (row.retries, row.lost) != (0, 0):
            words = f"with {row.retries} retries and {row.lost} lost workers behind it"
            yield _of("counters", row, f"it begins {words}, not with none")


def _again_faults(each: RunCase, row: Execution, following: Execution) -> Iterator[Violation]:
    """Find what is wrong with an attempt that goes on where the calendar had ended one."""
    if not each.before:
        message = "the calendar ended the one before, and the run never followed another"
        yield _of("successor", following, message)
    same = (row.retries, row.lost) == (following.retries, following.lost)
    if not same and not _is_operators(following):
        yield _of("counters", following, "it does not go on counting where the one before was")


def _by_calendar(row: Execution) -> str | None:
    """Say which change of its calendar ended an attempt that had not started, if one did."""
    if row.status != CANCELLED or row.started_at is not None:
        return None
    message = row.error_message or ""
    return next((each for each in (_CLOSED, _MOVED) if message.startswith(each)), None)


def _is_sensor(each: RunCase, row: Execution) -> bool:
    job = each.jobs.get(row.job_id)
    return job is not None and job.polls is not None


def _poll_faults(each: RunCase, row: Execution, following: Execution) -> Iterator[Violation]:
    """Look at a sensor's next poll after one that found nothing."""
    if (following.retries, following.lost) != (0, row.lost):
        words = f"a poll costs nothing, but they are {following.retries} and {following.lost}"
        yield _of("counters", following, f"retries and lost workers: {words}")
    every, up_to = each.jobs[row.job_id].polls or (0, 0)
    most = min(up_to, every * 2.0 ** min(row.attempt_number - 1, 16))
    delay = following.retry_delay_seconds or 0
    if not 0 < delay <= most + 1:
        yield _of("poll-delay", following, f"polled again after {delay} s, not 1 to {most:g} s")
    window, at = each.window_for(following), following.scheduled_market_at
    if window is not None and at is not None and at >= window.closes_at:
        yield _of("retry-late", following, f"scheduled for {_at(at)}, past its window {window}")


def _retry_faults(
    case: Case, each: RunCase, row: Execution, following: Execution
) -> Iterator[Violation]:
    message = row.error_message or ""
    grown = following.retries - row.retries, following.lost - row.lost
    bound, delay = following.retry_bound_seconds, following.retry_delay_seconds or 0
    job = each.jobs.get(row.job_id)
    due = _cost(message)
    if grown != due:
        words = f"retries and lost workers grew by {grown}, not {due}, though: {message}"
        yield _of("counters", following, words)
    elif job is not None:
        most = _longest_delay(job, row)
        if due == (1, 0) and row.retries >= job.max_retries:
            limit = f"max_retries is {job.max_retries}"
            yield _of("counters", following, f"retry {following.retries}, but {limit}")
        if bound != most:
            yield _of("retry-delay", following, f"its delay is bounded by {bound} s, not {most} s")
    if not 0 <= delay <= (bound or 0):
        yield _of("retry-delay", following, f"its delay is {delay} s, not 0 to {bound} s")
    if case.history.live and following.scheduled_at is not None and row.completed_at is not None:
        told = _NOT_BEFORE.search(message)
        begins = row.completed_at if told is None else _told(told[1])
        waited = following.scheduled_at - begins
        if abs(waited - timedelta(seconds=delay)) > case.tolerances.settle:
            yield _of("retry-delay", following, f"scheduled {waited} later, not {delay} s")
    window = each.window_for(following)
    at = following.scheduled_market_at
    if window is not None and at is not None and at >= window.closes_at:
        yield _of("retry-late", following, f"scheduled for {_at(at)}, past its window {window}")


def _longest_delay(job: Job, row: Execution) -> int:
    """Return the bound of the delay after an attempt, in seconds."""
    if _cost(row.error_message or "") != (1, 0):
        return 0
    # No cap is as great as 2 ** 32, and a float ends at 2 ** 1024.
    doubled = job.retry_base_seconds * 2.0 ** min(row.retries, 32)
    return int(min(job.retry_cap_seconds, doubled))


def _cost(message: str) -> tuple[int, int]:
    """Say what an attempt's end costs the next one: of its retries, and of its lost workers."""
    if message.startswith(_HANDED_BACK):
        return 0, 0
    return (0, 1) if message.startswith(_LOST) else (1, 0)


def failures_say_why_they_are_final(case: Case) -> Iterator[Violation]:
    """
    A failed attempt has a next one, or says why not, and that is true.

    As far as rows can tell: that an error asked not to be tried again, or to be tried much later,
    is believed of any class but Python's own, which can not; and how often a worker may be lost is
    a setting, held against it only where that was given.
    """
    for each in case.runs:
        for rows in each.attempts.values():
            for index, row in enumerate(rows):
                is_last = index + 1 == len(rows) or _is_operators(rows[index + 1])
                if row.status == FAILED and is_last:
                    for fault in _final_faults(case, each, row):
                        yield _of("not-retried", row, fault)


def _final_faults(case: Case, each: RunCase, row: Execution) -> Iterator[str]:
    message, job = row.error_message or "", each.jobs.get(row.job_id)
    if _MISSING.match(message) is not None:
        yield from _missing_faults(case, each, row)
        return
    reason, said = _why_final(message)
    cost = _cost(message)
    longest = timedelta(seconds=_longest_delay(job, row)) if job is not None else None
    if reason is None:
        yield "it failed, and no next attempt was written"
    elif reason == _RETRIES:
        if cost != (1, 0):
            yield f"such an end costs no retry: {message}"
        elif int(said[0]) != row.attempt_number:
            yield f"it is attempt {row.attempt_number}, not {said[0]}"
        elif job is not None and int(said[1]) != job.max_retries:
            yield f"max_retries is {job.max_retries}, not {said[1]}"
        elif job is not None and row.retries < job.max_retries:
            yield f"only {row.retries} of {job.max_retries} retries were used"
    elif reason == _LOST_TOO_OFTEN:
        if cost != (0, 1) or int(said[0]) != row.lost + 1:
            with_it = row.lost + cost[1]
            yield f"{with_it} workers were lost with it, and not {said[0]} by this end: {message}"
        elif case.max_lost is not None and row.lost < case.max_lost:
            yield f"only {said[0]} workers were lost with it, but max_lost is {case.max_lost}"
    elif reason == _NO_HELP:
        if not _may_say_more(message):
            yield f"such an error can not say that trying again would not help: {message}"
    elif reason == _WINDOW:
        closes_at = row.window_closes_at
        if row.forced or each.run.forced:
            yield "it gave up for its window, but it is forced"
        elif closes_at is not None and _told(said[1]) != closes_at.replace(microsecond=0):
            yield f"its window closes at {_at(closes_at)}, not at {said[1]} UTC"
        else:
            yield from _late_faults(case, row, said, _market_end(case, row), longest)
    elif reason == _RUN:
        ends = [end for name, end in _timeouts(each, row) if name == "run_timeout"]
        if not ends:
            yield "it gave up for its run's run_timeout, which does not count for it"
        elif _told(said[1]) != ends[0].replace(microsecond=0):
            yield f"its run's time ends at {_at(ends[0])}, not at {said[1]} UTC"
        else:
            delay = longest and case.history.clock.wall_delay(longest)
            yield from _late_faults(case, row, said, row.completed_at, delay)


def _why_final(message: str) -> tuple[str | None, Sequence[str]]:
    """Read why there is no next attempt: which of the reasons, and its numbers and instants."""
    for reason, pattern in _NO_MORE.items():
        if (found := pattern.search(message)) is not None:
            return reason, found.groups()
    return None, ()


def _late_faults(
    case: Case,
    row: Execution,
    said: Sequence[str],
    ended_at: datetime | None,
    longest: timedelta | None,
) -> Iterator[str]:
    """
    Find what is wrong with a retry that would have been too late.

    Args:
        said: When it would have been, and what it had to be before; in full seconds.
        ended_at: When the attempt failed, by the same clock; ``None`` where that is not known.
        longest: What it could have to wait after that; ``None`` likewise.
    """
    retry_at, end = map(_told, said)
    if retry_at < end:
        yield f"its retry at {_at(retry_at)} would have been in time, before {_at(end)}"
    if ended_at is None or longest is None:
        return
    # Only on the clock of the wall can an error ask for a wait, and how long is not written down.
    asked = case.history.live and _may_say_more(row.error_message or "")
    if retry_at < ended_at - _INSTANT or not (asked or retry_at <= ended_at + longest):
        words = f"0 to {longest.total_seconds():g} s after {_at(ended_at)}"
        yield f"its retry would have been {words}, not at {_at(retry_at)}"


def _market_end(case: Case, row: Execution) -> datetime | None:
    """Return the market time at which an attempt ended; ``None`` where that is not known."""
    clock, at = case.history.clock, row.completed_at
    if at is None or clock.stands:
        return None
    if clock.anchor_wall_at is not None and at < clock.anchor_wall_at:
        return None  # it followed the clock that this one replaced
    return clock.market_time(at)


def _may_say_more(message: str) -> bool:
    """
    Say whether an attempt's error may have said that trying again helps later, or not at all.

    Only one that a job raised can, and none of Python's own.
    """
    raised = _RAISED.match(message)
    return raised is not None and not hasattr(builtins, raised[1])


def _missing_faults(case: Case, each: RunCase, row: Execution) -> Iterator[str]:
    """Find what is wrong with a sensor's attempt that gave up."""
    said = _MISSING.match(row.error_message or "")
    job = each.jobs.get(row.job_id)
    if job is None:
        return
    due = {FAILED: "fail", SKIPPED: "skip"}.get(row.status)
    if said is None or job.polls is None or not job.otherwise == said[3] == due:
        yield f"it is no sensor that may so give up: {row.error_message}"
        return
    at, end = _told(said[1]), said[2]
    ended_at = _market_end(case, row)
    settle = case.tolerances.settle * max(case.history.clock.speed, 1)
    if ended_at is not None and abs(at - ended_at) > settle:
        yield f"it gave up at {_at(ended_at)}, not at {_at(at)}"
    elif end == f"give_up={job.give_up}":
        gives_up_at = each.gives_up_at(row)
        if gives_up_at is not None and at < gives_up_at.replace(microsecond=0):
            yield f"it was not to give up before {_at(gives_up_at)}"
    elif (found := _WINDOW_ENDS.fullmatch(end)) is not None:
        closes_at = row.window_closes_at
        every, up_to = job.polls
        longest = timedelta(seconds=min(up_to, every * 2.0 ** min(row.attempt_number - 1, 16)))
        if row.forced or each.run.forced:
            yield "it gave up for its window, but it is forced"
        elif closes_at is None or _told(found[1]) != closes_at.replace(microsecond=0):
            yield f"its window does not close at {found[1]} UTC"
        elif at + longest + _INSTANT < closes_at:
            yield f"it could have asked again, {longest} later, before {_at(closes_at)}"
    elif end == "its session is none any more":
        if each.in_session and not each.was_closed:
            yield "its session was never closed"
    elif end != "a clock that leaps waits for nothing" or case.history.live:
        yield f"it had no reason to give up: {end}"


def _told(text: str) -> datetime:
    """Read an instant as messages have it."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)


def _is_poll(each: RunCase, rows: Sequence[Execution], number: int) -> bool:
    """Say whether an attempt is a sensor's that found nothing: another one follows it."""
    return (
        _is_sensor(each, rows[number])
        and rows[number].status == SUCCESS
        and number + 1 < len(rows)
        and _is_retry(rows[number + 1])
    )


def successes_are_single(case: Case) -> Iterator[Violation]:
    """A job succeeds once; again only in an attempt that an operator began."""
    for each in case.runs:
        for rows in each.attempts.values():
            asked = True
            succeeded = False
            for number, row in enumerate(rows):
                asked = asked or _is_operators(row)
                if row.status == SUCCESS and not _is_poll(each, rows, number):
                    if succeeded and not asked:
                        yield _of("success-twice", row, "the job had succeeded already")
                    succeeded, asked = True, False


def what_is_forced_was_asked_for(case: Case) -> Iterator[Violation]:
    """No run or attempt is freed of its window but by an operator, a backfill or a catch-up."""
    for each in case.runs:
        run = each.run
        if run.forced and run.trigger == "catch_up":
            yield from _early_catch_up(case, each)
        elif run.forced and run.trigger not in ("operator", "backfill"):
            yield _of_run("forced", run, f"it is forced, but made by {run.trigger}")
        for rows in each.attempts.values():
            if rows[0].attempt_number == 1 and rows[0].forced:
                yield _of(
                    "forced", rows[0], "a first attempt is forced, and no operator writes one"
                )
            for row, following in pairwise(rows):
                # Those of operators are held against what was audited.
                if _is_retry(following) and following.forced != row.forced:
                    message = f"forced is {following.forced}, but {row.forced} in the one before"
                    yield _of("forced", following, message)


def _early_catch_up(case: Case, each: RunCase) -> Iterator[Violation]:
    """Find a run that was caught up although its time had not passed."""
    clock, settle = case.history.clock, case.tolerances.settle
    windows = [window for job_id in each.jobs if (window := each.window(job_id)) is not None]
    if not windows or clock.stands:
        return
    closes_at = max(window.closes_at for window in windows)
    made_at = clock.market_time(each.run.created_at)
    if not case.before(closes_at, made_at, settle * clock.speed):
        message = f"caught up at {_at(made_at)}, in its time, which ends at {_at(closes_at)}"
        yield _of_run("forced", each.run, message)


def starts_keep_to_windows(case: Case) -> Iterator[Violation]:
    """What nobody forced is claimed and started in its window, by market time."""
    for each in case.runs:
        for job_id, rows in each.attempts.items():
            due = each.window(job_id)
            for row in rows:
                if row.forced or each.run.forced:
                    continue
                if each.before:
                    yield from _outside_all(each, row)
                    continue
                stored = row.window_opens_at, row.window_closes_at
                if due is not None and stored not in ((None, None), (due.opens_at, due.closes_at)):
                    message = f"its stored window is {stored[0]} to {stored[1]}, not {due}"
                    yield _of("window-differs", row, message)
                window = each.window_for(row)
                for verb, at in (
                    ("claimed", None if _is_retry(row) else row.scheduled_market_at),
                    ("started", row.started_market_at),
                ):
                    if at is None:
                        continue
                    if window is None:
                        yield _of("outside-window", row, f"{verb} at {_at(at)} without a window")
                    elif at not in window and not (
                        at >= window.closes_at and _may_start_late(each, job_id, at)
                    ):
                        message = f"{verb} at {_at(at)}, outside its window {window}"
                        yield _of("outside-window", row, message)


def _outside_all(each: RunCase, row: Execution) -> Iterator[Violation]:
    """Find a start in no window of any calendar that its run has followed."""
    at = row.started_market_at
    windows = each.windows(row.job_id)
    if at is not None and windows and not any(at in window for window in windows):
        opens_at = min(window.opens_at for window in windows)
        if at >= opens_at and _may_start_late(each, row.job_id, at):
            return
        said = ", ".join(map(str, windows))
        yield _of("outside-window", row, f"started at {_at(at)}, outside all its windows: {said}")


def _may_start_late(each: RunCase, job_id: str, at: datetime) -> bool:
    """
    Say whether a job may start after its window: a sensor that does not fail if it gives up.

    Not after those of all jobs that wait for it.
    """
    job = each.jobs.get(job_id)
    if job is None or job.otherwise in (None, "fail"):
        return False
    return any(
        at < window.closes_at or any(row.forced for row in each.attempts.get(below.job_id, ()))
        for below in each.jobs.values()
        if job_id in below.dependencies
        for window in each.windows(below.job_id)
    )


def starts_keep_to_timeouts(case: Case) -> Iterator[Violation]:
    """Nothing is started that has waited too long in its queue, or whose run has taken too long."""
    for each in case.runs:
        for rows in each.attempts.values():
            for row in rows:
                for name, end in _timeouts(each, row):
                    at = row.started_at
                    if at is not None and not case.before(at, end, case.tolerances.settle):
                        yield _of("too-late", row, f"started at {_at(at)}, past its {name}")


def _timeouts(each: RunCase, row: Execution) -> Iterator[tuple[str, datetime]]:
    """Give the ends, in wall time, of what an attempt may wait."""
    run_seconds = each.definition.run_timeout_seconds
    if run_seconds is not None and not row.forced:
        yield "run_timeout", each.run.created_at + timedelta(seconds=run_seconds)
    job = each.jobs.get(row.job_id)
    if job is not None and job.queue_timeout_seconds is not None and row.scheduled_at is not None:
        yield "queue_timeout", row.scheduled_at + timedelta(seconds=job.queue_timeout_seconds)


def nothing_starts_while_it_is_paused(case: Case) -> Iterator[Violation]:
    """What an operator keeps from starting does not, until he or its end lets it."""
    settle = case.tolerances.settle
    for each in case.runs:
        for job_id, rows in each.attempts.items():
            for pause in _pauses(case, each, job_id):
                for row in rows:
                    if row.started_at is None or case.is_forced(row):
                        continue
                    begun = not case.before(row.started_at, pause.paused_at, settle)
                    if begun and (
                        pause.end is None or not case.before(pause.end, row.started_at, settle)
                    ):
                        message = f"started at {_at(row.started_at)}, paused since "
                        yield _of("started-paused", row, message + _at(pause.paused_at))


def _pauses(case: Case, each: RunCase, job_id: str) -> list[Pause]:
    """Return the pauses that a job's attempts were under, or are."""
    run = each.run
    return [
        pause
        for pause in case.history.pauses
        if pause.market_id in (None, run.market_id)
        and pause.pipeline in (None, run.pipeline)
        and pause.dag_id in (None, run.dag_id)
        and pause.job_id in (None, job_id)
    ]


def market_time_is_true(case: Case) -> Iterator[Violation]:
    """Market time is what the clock makes of wall time: live the same, in a replay by its speed."""
    clock = case.history.clock
    if clock.stands:
        return  # where it stood then is not known
    settle = case.tolerances.settle * clock.speed
    # A stamp is written after the clock was read, and perhaps a lock was waited for in between.
    ahead = settle if case.history.live else case.tolerances.clock_steps * clock.speed + _INSTANT
    for row in case.history.executions:
        for name, wall_at, market_at in (
            ("scheduled", row.scheduled_at, row.scheduled_market_at),
            ("started", row.started_at, row.started_market_at),
        ):
            if wall_at is None or market_at is None:
                continue
            if clock.anchor_wall_at is not None and wall_at <= clock.anchor_wall_at:
                continue  # it followed the clock that this one replaced, perhaps in that instant
            if not -ahead <= clock.market_time(wall_at) - market_at <= settle:
                yield _of("market-time", row, f"{name} at {_at(wall_at)}, market {_at(market_at)}")


def workers_were_there(case: Case) -> Iterator[Violation]:
    """What started was started by a worker that was there; none was given up while it still was."""
    settle = case.tolerances.settle
    for row in case.history.executions:
        message = row.error_message or ""
        if row.status in (FAILED, SKIPPED) and message.startswith(_OVERRAN):
            limit, at = row.hard_limit_at, row.completed_at
            if limit is not None and at is not None and not case.before(limit, at):
                yield _of("rescued-early", row, f"it was given up before its limit, {_at(limit)}")
        worker = case.history.workers.get(row.incarnation or "")
        if worker is None or row.started_at is None:
            continue  # of one of which there is no record nothing is known
        since, until = worker.started_at, worker.ended_at
        if not case.before(since, row.started_at, settle) or (
            until is not None and not case.before(row.started_at, until, settle)
        ):
            words = (
                f"{worker.worker} was there from {_at(since)} to {_at(until) if until else 'now'}"
            )
            yield _of("worker-gone", row, f"started at {_at(row.started_at)}, but {words}")
        if (
            row.status in (FAILED, SKIPPED)
            and _GIVEN_UP.match(message) is not None
            and row.completed_at is not None
            and (until is None or not case.before(until, row.completed_at))
        ):
            message = f"given up at {_at(row.completed_at)}, but its worker was still there"
            yield _of("rescued-early", row, message)


def upstream_came_first(case: Case) -> Iterator[Violation]:
    """A job is claimed when every upstream job has succeeded, and has no newer attempt."""
    for each in case.runs:
        for job_id, rows in each.attempts.items():
            job = each.jobs.get(job_id)
            if job is None or not job.dependencies:
                continue
            for row in rows:
                at = row.scheduled_at
                if at is None or _is_retry(row) or case.is_forced(row):
                    continue
                for name in job.dependencies:
                    before = each.attempts.get(name, ())
                    if not any(
                        found is not None
                        and found.status == SUCCESS
                        and found.completed_at is not None
                        and case.before(found.completed_at, at)
                        for found in _about_then(case, before, at)
                    ):
                        yield _of("upstream", row, f"claimed before {name} had succeeded")


def previous_came_first(case: Case) -> Iterator[Violation]:
    """A job that follows itself is claimed when it has ended in the session before."""
    for each in case.runs:
        for job_id, rows in each.attempts.items():
            before = _previous(case, each, job_id)
            if not before:
                continue
            for row in rows:
                at = row.scheduled_at
                if at is None or _is_retry(row) or case.is_forced(row):
                    continue
                if not any(
                    found is None
                    or (found.completed_at is not None and case.before(found.completed_at, at))
                    for found in _about_then(case, before, at)
                ):
                    message = f"claimed before it had ended in {before[0].dag_id}"
                    yield _of("previous", row, message)


def _previous(case: Case, each: RunCase, job_id: str) -> Sequence[Execution]:
    """Return the attempts of the same job in the session before, if it must wait for them."""
    job = each.jobs.get(job_id)
    if job is None or not job.after_previous or each.calendar is None or not each.in_session:
        return ()
    if each.before:  # which session was the one before has changed with them, perhaps
        return ()
    stored = each.definition
    day = session_before(each.calendar, each.run.as_of_date, stored.sessions, stored.short_sessions)
    if day is None:
        return ()
    found = case.by_session.get((each.run.pipeline, each.run.market_id, day))
    return found.attempts.get(job_id, ()) if found is not None else ()


def _about_then(
    case: Case, rows: Sequence[Execution], at: datetime
) -> tuple[Execution | None, ...]:
    """
    Return what was the latest attempt at about a time.

    A decision is a moment older than the claim that follows it, and an operator may have added an
    attempt in between. A clock that was set back stamps the claim earlier than what was there.
    """
    instants = (at + case.tolerances.clock_steps, at, at - case.tolerances.settle)
    return tuple(
        max(
            (row for row in rows if row.created_at <= instant),
            key=lambda row: row.attempt_number,
            default=None,
        )
        for instant in instants
    )


# --- single rows ---------------------------------------------------------------------------------

_MUST = {
    PENDING: (),
    QUEUED: ("scheduled_at", "scheduled_market_at", "window_opens_at", "window_closes_at"),
    RUNNING: ("scheduled_at", "started_at", "started_market_at", "worker", "incarnation"),
    SUCCESS: ("scheduled_at", "started_at", "started_market_at", "worker", "completed_at"),
    FAILED: ("scheduled_at", "started_at", "started_market_at", "completed_at", "error_message"),
    SKIPPED: ("completed_at", "error_message"),
    CANCELLED: ("completed_at", "error_message"),
    EXPIRED: ("completed_at", "error_message"),
}
_MUST_NOT = {
    PENDING: ("scheduled_at", "started_at", "completed_at", "error_message", "worker"),
    QUEUED: ("started_at", "completed_at", "error_message", "worker"),
    RUNNING: ("completed_at", "error_message"),
    SUCCESS: ("error_message",),
    FAILED: (),
    SKIPPED: (),
    CANCELLED: (),
    EXPIRED: ("started_at", "worker"),
}


def rows_are_whole(case: Case) -> Iterator[Violation]:
    """A row has the columns of its state, and no others."""
    for row in case.history.executions:
        if row.status not in _MUST:
            yield _of("columns", row, f"there is no state {row.status}")
            continue
        missing = [name for name in _MUST[row.status] if getattr(row, name) is None]
        if missing == ["worker"] and case.is_forced(row):
            missing = []
        extra = [name for name in _MUST_NOT[row.status] if getattr(row, name) is not None]
        if missing:
            yield _of("columns", row, f"it is {row.status} without {', '.join(missing)}")
        if extra:
            yield _of("columns", row, f"it is {row.status} and has {', '.join(extra)}")


def stamps_are_in_order(case: Case) -> Iterator[Violation]:
    """Made, scheduled, started, completed; and nothing after that."""
    settle = case.tolerances.settle
    for row in case.history.executions:
        # A retry is scheduled from the end of the attempt before, for a time that is told by its
        # worker's clock.
        slack = settle if _is_retry(row) else timedelta(0)
        for name, at, next_name, next_at, by in (
            ("made", row.created_at, "scheduled", row.scheduled_at, slack),
            ("scheduled", row.scheduled_at, "started", row.started_at, slack),
            ("made", row.created_at, "ended", row.completed_at, _ZERO),
            ("started", row.started_at, "ended", row.completed_at, _ZERO),
        ):
            if at is not None and next_at is not None and not case.before(at, next_at, by):
                message = f"{next_name} at {_at(next_at)}, before it was {name} at {_at(at)}"
                yield _of("stamps", row, message)
        if row.completed_at is None:
            continue
        last = max(at for at in (row.updated_at, row.published_at, row.named_at) if at is not None)
        if abs(row.updated_at - row.completed_at) > settle or not case.before(
            last, row.completed_at, settle
        ):
            message = f"it ended at {_at(row.completed_at)} and changed at {_at(last)}"
            yield _of("changed-after-end", row, message)


def ends_have_causes(case: Case) -> Iterator[Violation]:
    """What was skipped, cancelled or expired had a reason to be."""
    for each in case.runs:
        for rows in each.attempts.values():
            for row in rows:
                if row.completed_at is None:
                    continue
                if row.status == SKIPPED and row.started_at is not None:
                    job = each.jobs.get(row.job_id)
                    if job is None or job.otherwise != "skip":
                        yield _of("skipped", row, "it had started, and is no such sensor")
                    else:
                        for fault in _final_faults(case, each, row):
                            yield _of("skipped", row, fault)
                elif row.status == SKIPPED and not _was_blocked(case, each, row, row.completed_at):
                    yield _of("skipped", row, "no upstream job kept it from running")
                elif (change := _by_calendar(row)) is not None:
                    if change == _CLOSED and not each.was_closed:
                        yield _of("cancelled", row, "its session was never closed")
                    elif change == _MOVED and not each.before:
                        yield _of("cancelled", row, "its window never moved")
                elif row.status == CANCELLED and not _was_cancelled(case, row, row.completed_at):
                    yield _of("cancelled", row, "no operator asked for it")
                elif row.status != CANCELLED and row.cancel_asked_at is not None:
                    yield _of(
                        "cancel-ignored", row, f"it was asked to end, and became {row.status}"
                    )
                elif row.status == EXPIRED:
                    yield from _expiry_faults(case, each, row, row.completed_at)


def _was_blocked(case: Case, each: RunCase, row: Execution, at: datetime) -> bool:
    if case.audited(row.dag_id, frozenset({"skip"}) | _FORCE, at, row.job_id):
        return True
    job = each.jobs.get(row.job_id)
    settle = case.tolerances.settle
    return job is not None and any(
        found is not None
        and found.status in BLOCKING
        and found.completed_at is not None
        and case.before(found.completed_at, at, settle)
        for name in job.dependencies
        # Both may have ended in one transaction.
        for found in _about_then(case, each.attempts.get(name, ()), at + settle)
    )


def _was_cancelled(case: Case, row: Execution, at: datetime) -> bool:
    if row.cancel_asked_at is not None:
        return case.before(row.cancel_asked_at, at, case.tolerances.settle)
    return any(
        audit.action == "cancel"
        and case.before(row.created_at, audit.at, case.tolerances.settle)
        and case.before(audit.at, at, case.tolerances.settle)
        and _about(audit, row.job_id)
        for audit in case.audit.get(row.dag_id, ())
    )


def _expiry_faults(case: Case, each: RunCase, row: Execution, at: datetime) -> Iterator[Violation]:
    message = row.error_message or ""
    if not message.startswith(_WINDOW_CLOSED):
        ends = [end for name, end in _timeouts(each, row) if name in message]
        if ends and not case.before(min(ends), at):
            yield _of("expired", row, f"its time was not over until {_at(min(ends))}: {message}")
        elif "_timeout" in message and not ends:
            yield _of("expired", row, f"it has no such limit: {message}")
        elif _LIMIT.search(message) is None and _UNKNOWN not in message:
            yield _of("expired", row, f"neither its window nor a limit is its reason: {message}")
        return
    if row.forced or each.run.forced:
        yield _of("expired", row, "it expired with its window, but it is forced")
        return
    if each.before:
        closes = [each_window.closes_at for each_window in each.windows(row.job_id)]
        if closes and not case.before(min(closes), case.history.market_at, case.tolerances.settle):
            yield _of("expired", row, "none of its windows is over")
        return
    window = each.window_for(row)
    # Of a replay it is known only that its clock has come so far.
    reached = at if case.history.live else case.history.market_at
    if window is not None and not case.before(window.closes_at, reached, case.tolerances.settle):
        yield _of("expired", row, f"it expired at {_at(reached)}, in its window {window}")


# --- what is still open --------------------------------------------------------------------------


def nothing_is_stuck(case: Case) -> Iterator[Violation]:
    """What is open waits for something, and no longer than it may."""
    if case.finished:
        return  # then nothing may be open at all
    idle = _idle_since(case)
    for each in case.runs:
        if each.run.status != OPEN:
            continue
        latest = [rows[-1] for rows in each.attempts.values()]
        ended = [row.completed_at for row in latest if row.completed_at is not None]
        if len(ended) == len(latest):
            if ended and max(ended) + case.tolerances.forgotten < case.as_of:
                yield _of_run("stuck", each.run, "all its jobs have ended, but it is open")
            continue
        for row in latest:
            yield from _stuck(case, each, row, idle)


def _idle_since(case: Case) -> Mapping[str, datetime]:
    """Return since when a worker that lives, and takes from a queue, has had nothing to run."""
    since = {
        worker.incarnation: worker.started_at
        for worker in case.history.workers.values()
        if worker.ended_at is None and worker.expires_at > case.as_of
    }
    for row in case.history.executions:
        if row.incarnation not in since:
            continue
        if row.completed_at is None:
            del since[row.incarnation]
        else:
            since[row.incarnation] = max(since[row.incarnation], row.completed_at)
    idle: dict[str, datetime] = {}
    for incarnation, at in since.items():
        for queue in case.history.workers[incarnation].queues:
            idle[queue] = min(at, idle.get(queue, at))
    return idle


def _stuck(
    case: Case, each: RunCase, row: Execution, idle: Mapping[str, datetime]
) -> Iterator[Violation]:
    late_by = case.tolerances.stuck
    window = each.window_for(row)
    if row.status == RUNNING:
        seen_at = max(at for at in (row.started_at, row.named_at, row.created_at) if at is not None)
        if row.hard_limit_at is not None and row.hard_limit_at + late_by < case.as_of:
            yield _of("stuck", row, f"its hard limit was at {_at(row.hard_limit_at)}")
        elif seen_at + late_by < case.as_of:
            yield _of("stuck", row, f"no worker has said that it runs it since {_at(seen_at)}")
    elif row.status in (PENDING, QUEUED):
        over = window is not None and case.history.live and window.closes_at + late_by < case.as_of
        at = case.as_of - late_by
        if window is not None and over and not _may_start_late(each, row.job_id, at):
            yield _of("stuck", row, f"its window {window} has closed")
        elif (let := _let_go_at(case, each, row)) is None:
            return
        elif row.status == PENDING:
            free = _free_since(case, each, row, window)
            since = free and max(free, let)
            if since is not None and since + case.tolerances.forgotten < case.as_of:
                yield _of("forgotten", row, f"nothing has kept it waiting since {_at(since)}")
        elif row.queue in idle and (due_at := _due_at(case, each, row, window)) is not None:
            since = max(due_at, idle[row.queue], let)
            if since + late_by < case.as_of:
                message = f"due since {_at(due_at)}, and a worker has had nothing to do"
                yield _of("stuck", row, f"{message} since {_at(idle[row.queue])}")


def _let_go_at(case: Case, each: RunCase, row: Execution) -> datetime | None:
    """Return since when no operator keeps a job from starting; ``None`` if one does."""
    since = row.created_at
    for pause in _pauses(case, each, row.job_id):
        if pause.end is None or pause.end > case.as_of:
            return None
        since = max(since, pause.end)
    return since


def _due_at(case: Case, each: RunCase, row: Execution, window: Window | None) -> datetime | None:
    """Return since when a worker could have started a QUEUED job; ``None`` if that is not known."""
    if row.scheduled_at is None or row.forced or each.run.forced:
        return row.scheduled_at
    if window is None:
        return None
    if not case.history.live:
        return row.scheduled_at  # its window was open when it was claimed
    return max(row.scheduled_at, window.opens_at) if window.opens_at < window.closes_at else None


def _free_since(
    case: Case, each: RunCase, row: Execution, window: Window | None
) -> datetime | None:
    """Return since when nothing keeps a PENDING job from moving; ``None`` if something does."""
    since = [row.created_at]
    job = each.jobs.get(row.job_id)
    if job is None:
        return None
    upstream = [each.attempts[name][-1] for name in job.dependencies if name in each.attempts]
    blocked = [found.completed_at for found in upstream if found.status in BLOCKING]
    if blocked:
        return max([row.created_at, *(at for at in blocked if at is not None)])
    if not (row.forced or each.run.forced):
        if window is None or not case.history.live:
            return None  # when a replay's clock passed an instant is not known
        if window.opens_at >= window.closes_at:
            return None
        since.append(window.opens_at)
    previous = _previous(case, each, row.job_id)[-1:]
    for found in (*upstream, *previous):
        if found.completed_at is None:
            return None
        since.append(found.completed_at)
    return max(since)


# --- evidence from elsewhere ---------------------------------------------------------------------


def bodies_ran_once(case: Case) -> Iterator[Violation]:
    """Each execution's body ran at most once, and only of one that was started."""
    if not case.starts:
        return
    rows = {row.execution_id: row for row in case.history.executions}
    times = Counter(start.execution_id for start in case.starts)
    for execution_id, number in times.items():
        row = rows.get(execution_id)
        if row is None:
            message = f"a body ran for {execution_id}, of which there is no row"
            yield Violation("unknown-start", message, execution_id=execution_id)
            continue
        if number > 1:
            yield _of("doubled-start", row, f"its body ran {number} times")
        if row.started_at is None:
            yield _of("unrecorded-start", row, f"its body ran, but it is {row.status}")
    for row in rows.values():
        if row.status == SUCCESS and row.execution_id not in times and not case.is_forced(row):
            yield _of("success-without-start", row, "it succeeded, but its body never ran")


def changes_are_allowed(case: Case) -> Iterator[Violation]:
    """Every recorded change of a row is one that is allowed, and none follows a final state."""
    if case.history.changes is None:
        return
    by_row: dict[str, list[Change]] = defaultdict(list)
    for change in sorted(case.history.changes, key=lambda each: each.seq):
        by_row[change.execution_id].append(change)
    rows = {row.execution_id: row for row in case.history.executions}
    for execution_id, changes in by_row.items():
        row = rows.get(execution_id)
        dag_id, job_id = (row.dag_id, row.job_id) if row is not None else (None, None)
        state: str | None = None
        for change in changes:
            words = f"{change.old or 'no row'} to {change.new} at {_at(change.at)}"
            if change.old != state:
                message = f"{words}, but it was {state or 'no row'}"
                yield Violation("change-gap", message, dag_id, job_id, execution_id)
            elif state in FINAL:
                message = f"{words}: a finished row never changes"
                yield Violation("changed-after-end", message, dag_id, job_id, execution_id)
            elif state is None and row is not None and case.is_forced(row):
                pass  # it is written as it ends
            elif change.new not in CHANGES.get(state, ()):
                yield Violation("illegal-change", words, dag_id, job_id, execution_id)
            state = change.new
        if row is not None and row.status != state:
            yield _of("change-gap", row, f"it is {row.status}, but was last changed to {state}")


RULES: tuple[Callable[[Case], Iterator[Violation]], ...] = (
    one_run_a_session,
    runs_are_of_sessions,
    definitions_are_kept,
    runs_are_not_early,
    run_states_follow_their_jobs,
    expected_runs_exist,
    every_job_has_its_rows,
    rows_agree_with_their_run,
    attempts_follow_each_other,
    failures_say_why_they_are_final,
    successes_are_single,
    what_is_forced_was_asked_for,
    starts_keep_to_windows,
    starts_keep_to_timeouts,
    nothing_starts_while_it_is_paused,
    market_time_is_true,
    workers_were_there,
    upstream_came_first,
    previous_came_first,
    rows_are_whole,
    stamps_are_in_order,
    ends_have_causes,
    nothing_is_stuck,
    bodies_ran_once,
    changes_are_allowed,
)


# --- counting and words --------------------------------------------------------------------------


def _count(case: Case) -> Counts:
    latest = [rows[-1] for each in case.runs for rows in each.attempts.values()]
    successes = again = windows = 0
    without: list[Execution] = []
    for each in case.runs:
        for rows in each.attempts.values():
            times = sum(
                row.status == SUCCESS and not _is_poll(each, rows, number)
                for number, row in enumerate(rows)
            )
            successes += times > 0
            without += rows[-1:] if not times else []
            again += max(times - 1, 0)
            windows += sum(
                row.started_at is not None and each.window_for(row) is not None for row in rows
            )
    return Counts(
        runs=len(case.runs),
        jobs=len(latest),
        executions=len(case.history.executions),
        successes=successes,
        again=again,
        runs_by_state=_tally(each.run.status for each in case.runs),
        jobs_by_state=_tally(row.status for row in latest),
        executions_by_state=_tally(row.status for row in case.history.executions),
        without_success=_tally(map(_why_not, without)),
        windows=windows,
        other_calendar=sum(not each.same_calendar for each in case.runs),
        starts=len(case.starts),
        changes=len(case.history.changes or ()),
    )


def _tally(values: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _why_not(row: Execution) -> str:
    message = row.error_message or ""
    if row.status == FAILED:
        if _MISSING.match(message) is not None:
            return "failed: what it waited for did not come"
        return f"failed: {_FINALLY.get(_why_final(message)[0] or '', 'without a reason')}"
    if row.status == EXPIRED:
        if message.startswith(_WINDOW_CLOSED):
            return "expired: its window closed"
        if "queue_timeout" in message:
            return "expired: no worker took it in time"
        if "run_timeout" in message:
            return "expired: its run took too long"
        if _UNKNOWN in message:
            return "expired: no worker knows the job"
        return "expired: its session was missed" if "missed" in message else "expired: a time limit"
    if row.status == SKIPPED and row.started_at is not None:
        return "skipped: what it waited for did not come"
    if row.status == SKIPPED:
        return "skipped: an upstream job did not succeed"
    if row.status == CANCELLED and _by_calendar(row) == _CLOSED:
        return "cancelled: its session was closed"
    if row.status == CANCELLED:
        return "cancelled"
    return f"not finished: {row.status}"


def _is_operators(row: Execution) -> bool:
    """Say whether an operator added this attempt."""
    return row.attempt_number > 1 and row.forced and row.retry_bound_seconds is None


def _is_retry(row: Execution) -> bool:
    """Say whether this attempt was written when the one before failed."""
    return row.attempt_number > 1 and not _is_operators(row)


def _about(audit: Audit, job_id: str) -> bool:
    """Say whether an operator's action was about a job, as far as it says."""
    for key in ("new_attempts", "jobs"):
        named = audit.details.get(key)
        if isinstance(named, list) and named and all(isinstance(name, str) for name in named):
            return job_id in named
    return True


def _of(rule: str, row: Execution, message: str) -> Violation:
    return Violation(rule, message, row.dag_id, row.job_id, row.execution_id)


def _of_run(rule: str, run: Run, message: str) -> Violation:
    return Violation(rule, message, run.dag_id)


def _at(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"
