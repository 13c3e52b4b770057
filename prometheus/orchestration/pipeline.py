"""Pipelines: named sets of jobs that users write as plain functions."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from enum import StrEnum
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack, cast

from prometheus.core.durations import format_duration, parse_duration
from prometheus.core.market_state import MarketState
from prometheus.core.markets import get_market
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.errors import (
    HorizonError,
    PipelineError,
    UnknownMarketError,
    UnreadableError,
    nearest,
)
from prometheus.orchestration.dag import (
    DAG,
    JobMetadata,
    JobPriority,
    WindowRule,
    dag_id_for,
)
from prometheus.orchestration.deadlines import FORMS, Deadline
from prometheus.orchestration.sensor import (
    CONTINUE_STALE,
    FAIL,
    SKIP,
    USE,
    SensorRule,
    read_limit,
    show_limit,
)
from prometheus.orchestration.session_rule import EVERY, SessionRule, ShortSessions
from prometheus.orchestration.session_time import SessionTime

P = ParamSpec("P")
R = TypeVar("R")


class CatchUp(StrEnum):
    """What happens to the sessions of an outage."""

    NONE = "none"
    """No run is made late: a run that was made in time goes on as long as its windows are open."""
    LATEST = "latest"
    """Each market's latest session is run if its windows are still open."""
    ALL = "all"
    """The sessions missed since the pipeline was first seen too, oldest first, at most 10."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDefinition:
    """A job as its pipeline defines it, for every market and session."""

    name: str
    function: Callable[..., Any] | str
    """The function, or where to import it from: ``package.module:function``."""
    after: tuple[str, ...]
    required_state: MarketState | None
    start: SessionTime | None
    window: WindowRule
    priority: JobPriority
    max_retries: int
    timeout: timedelta
    queue_timeout: timedelta | None
    retry_base: timedelta
    retry_cap: timedelta
    after_previous: bool
    sensor: SensorRule | None
    deadline: Deadline | None
    where: str
    """File and line of the definition, for messages."""
    sensor_in: Mapping[str, SensorRule] = field(default_factory=dict)
    """The same by market, where its times differ."""

    def sensor_for(self, market_id: str) -> SensorRule | None:
        """Return how it asks for a market's sessions, if it is a sensor."""
        return self.sensor_in.get(market_id, self.sensor)

    def resolve(self) -> Callable[..., Any]:
        """Return the function, importing it if only its name is known."""
        if not isinstance(self.function, str):
            return self.function
        module, _, attribute = self.function.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return function


class JobOptions(TypedDict, total=False):
    """What can be said of a job where it is defined; all of it may be left out."""

    after: Iterable[Callable[..., Any] | str]
    """Jobs of this pipeline that must succeed first: functions or names."""
    required_state: MarketState | str | None
    """Phase of the run's session in which its time to start begins; default: the run's opening."""
    start: str | None
    """
    When that time begins, told by the session's open or close: ``"close+45m"``, ``"open-15m"``, at
    most 24 h from it. An early close or a late open moves it. With a ``required_state`` it begins
    when both have come; the end of its time is what it is without. On a session on which it ends
    before it begins, the job expires; where it does so on every session, the pipeline is refused.
    """
    window: WindowRule | str
    """Whether that time ends with the next session's PRE_OPEN (default) or with the phase."""
    priority: JobPriority | str
    """Which of several runnable jobs goes first; default STANDARD."""
    max_retries: int
    """Further attempts after a failure; default 3."""
    timeout: timedelta | str
    """Time limit of one attempt; default 1 hour."""
    queue_timeout: timedelta | str | None
    """How long an attempt may wait in its queue for a worker; default: for ever."""
    retry_base: timedelta | str
    """Bound of the first retry's random delay, doubled for each further one; default 60 s."""
    retry_cap: timedelta | str
    """Largest bound; default 900 s."""
    after_previous: bool
    """
    Also wait for the same job of the market's previous session on which the pipeline runs; default
    no.
    """
    deadline: str | None
    """
    By when it must have succeeded, told by the run's session (``"close+4h"``), by the market's next
    one (``"next_open-30m"``), or by a clock (``"22:30"``, ``"06:00+1d Europe/London"``; without a
    zone the exchange's). Whoever misses it is told of, once, and goes on. Default: none.
    """


class SensorOptions(JobOptions, total=False):
    """What can be said of a sensor besides; all of it may be left out."""

    every: timedelta | str
    """Pause before the second poll, doubled before each further one; default 5 minutes."""
    up_to: timedelta | str
    """Longest pause; default 15 minutes, or ``every`` if that is longer."""
    expected: timedelta | str | Mapping[str, timedelta | str] | None
    """
    After this it is LATE, which is said at every poll: a duration since the sensor's window opened,
    or a time of the session (``"close+30m"``); or one for each of the pipeline's markets
    (``{"US_EQ": "close+30m", "EU_EQ": "close+3h"}``). Default: never.
    """
    give_up: timedelta | str | Mapping[str, timedelta | str]
    """
    When the last poll is made, told likewise; default 6 hours. At least one is made, and in a run
    that is made later than that, just one. The sensor gives up before that if its window ends; if
    no poll was under way then, and ``otherwise`` is not ``"fail"``, one more is made while a job
    after it can still start.
    """
    otherwise: str
    """
    What becomes of it then: ``"fail"`` (default); ``"skip"``, and what depends on it is skipped
    too; ``"continue_stale"``: it succeeds, and ``ctx.stale`` tells the jobs after it; or
    ``"use:synthetic"`` and the like: it succeeds, and these jobs get that source. The same becomes
    of it when it fails for good before that: it raises again and again, runs out of its
    ``timeout``, or its workers are lost too often; then ``why`` in its result is the error. What an
    operator, its ``queue_timeout`` or the run's ``run_timeout`` ends goes no other way.
    """


class Pipeline:
    """
    A named set of jobs, run for each of its markets on each of their sessions, or on some of them.

    Nothing is checked while it is written; `faults` lists everything that is wrong at once.
    """

    def __init__(
        self,
        name: str,
        *,
        markets: Iterable[str],
        sessions: str = str(EVERY),
        short_sessions: ShortSessions | str = ShortSessions.RUN,
        catch_up: CatchUp | str = CatchUp.LATEST,
        parameters: Mapping[str, Any] | None = None,
        on_failure: Callable[..., Any] | None = None,
        run_timeout: timedelta | str | None = None,
        deadline: str | None = None,
    ) -> None:
        """
        Args:
            name: Lower-case identifier, unique among the pipelines of an installation.
            markets: Markets whose sessions it follows.
            sessions: On which of each market's sessions it runs: ``"every"``, or ``"first of
                week"``, ``"last of week"``, ``"first of month"``, ``"3rd of month"``, ``"last of
                month"`` and the like. Weeks begin on Monday; sessions are counted, not days, so
                that a week of four has no 5th. The last session of a period that the calendar does
                not know to its end waits for a calendar that does, and that is said.
            short_sessions: ``"skip"`` for no run on a session with an early close or a late open,
                also where it is the one that ``sessions`` chooses; no other takes its place.
            catch_up: What to do with sessions missed in an outage.
            parameters: JSON values handed to every job as ``ctx.parameters``.
            on_failure: Called in a worker with the job's context and the error's message, at most
                once for each job that failed for good or expired.
            run_timeout: How long a run may take from when it was made; then its jobs that have not
                started expire, and those that run are asked to end. Default: for ever.
            deadline: By when a run must have succeeded, told as a job's is; see `JobOptions`.
        """
        self.name = name
        self.markets = (markets,) if isinstance(markets, str) else tuple(markets)
        self.parameters = dict(parameters or {})
        self.on_failure = on_failure
        self.where = _caller()
        self._jobs: list[JobDefinition] = []
        self._names: set[str] = set()
        self._faults: list[str] = []
        self.catch_up = self._read(CatchUp, catch_up, "catch_up", CatchUp.LATEST, self.where)
        self.run_timeout = self._limit(run_timeout, "run_timeout", self.where)
        self.sessions = self._session_rule(sessions, short_sessions)
        self.deadline = self._deadline(deadline, self.where)

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, {len(self._jobs)} jobs)"

    @property
    def jobs(self) -> Mapping[str, JobDefinition]:
        """Jobs by name, in the order of definition."""
        return {job.name: job for job in self._jobs}

    def job(
        self, *bare: Any, name: str | None = None, **options: Unpack[JobOptions]
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """
        Make a function a job; the function itself stays as it is.

        Args:
            bare: Nothing; what stands here by mistake is told as a fault.
            name: The job's name; the function's name if not given.
            options: See `JobOptions`.
        """
        where = _caller()
        if bare and callable(bare[0]):
            self._faults.append(f"{where}: write @….job(), with parentheses")
            return self.job(name=name, **options)(bare[0])
        if bare:
            self._faults.append(f"{where}: a job's name is given as name={bare[0]!r}")
            name = str(bare[0])

        def register(function: Callable[P, R]) -> Callable[P, R]:
            # One without a name of its own, such as a partial, must be given one.
            named = name or getattr(function, "__name__", "")
            self._define(function, str(named), where, **self._known(options, where))
            return function

        return register

    def add(self, path: str, *, name: str | None = None, **options: Unpack[JobOptions]) -> None:
        """
        Define a job whose function is imported only by the worker that runs it.

        Args:
            path: ``package.module:function``.
            name: The job's name; the function's name if not given.
            options: See `JobOptions`.
        """
        where = _caller()
        self._define(path, name or path.rpartition(":")[2], where, **self._known(options, where))

    def sensor(
        self, *, name: str | None = None, **options: Unpack[SensorOptions]
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """
        Make a function a sensor: a job that is asked again until what it waits for has come.

        The function returns True or False, or a dict with ``ready`` and what else is to be kept:
        ``why`` it is not, for example, which is shown. ``state`` is added to it.
        Each poll is an attempt of its own, so that waiting holds no worker. A poll that says no is
        no failure; one that raises is, and is tried again as any job is.

        Args:
            name: The sensor's name; the function's name if not given.
            options: See `SensorOptions`; ``timeout`` is 2 minutes here if it is not given.
        """
        where = _caller()

        def register(function: Callable[P, R]) -> Callable[P, R]:
            self._define_sensor(function, name or function.__name__, where, options)
            return function

        return register

    def add_sensor(
        self, path: str, *, name: str | None = None, **options: Unpack[SensorOptions]
    ) -> None:
        """
        Define a sensor whose function is imported only by the worker that asks it.

        Args:
            path: ``package.module:function``.
            name: The sensor's name; the function's name if not given.
            options: See `sensor`.
        """
        self._define_sensor(path, name or path.rpartition(":")[2], _caller(), options)

    def _define_sensor(
        self, function: Callable[..., Any] | str, name: str, where: str, options: SensorOptions
    ) -> None:
        options = options.copy()
        every = self._duration(options.pop("every", "5m"), "every", timedelta(minutes=5), where)
        usual = max(every, timedelta(minutes=15))
        expected = self._limits(options.pop("expected", None), "expected", where)
        give_up = self._limits(options.pop("give_up", "6h"), "give_up", where)
        rule = SensorRule(
            every=every,
            up_to=self._duration(options.pop("up_to", usual), "up_to", usual, where),
            expected=expected.get(None),
            give_up=give_up.get(None) or timedelta(hours=6),
            otherwise=options.pop("otherwise", FAIL),
        )
        by_market = {
            market: replace(
                rule,
                expected=expected.get(market, rule.expected),
                give_up=give_up.get(market) or rule.give_up,
            )
            for market in {*expected, *give_up}
            if market is not None
        }
        options.setdefault("timeout", timedelta(minutes=2))
        known = self._known(options, where, SensorOptions.__optional_keys__, "a sensor")
        self._define(function, name, where, sensor=rule, sensor_in=by_market, **known)

    def _limits(
        self,
        told: timedelta | str | Mapping[str, timedelta | str] | None,
        argument: str,
        where: str,
    ) -> dict[str | None, SessionTime | timedelta | None]:
        """Read until when, by market; under ``None`` where it is the same for all."""
        if not isinstance(told, Mapping):
            return {None: self._session_limit(told, argument, where)}
        for market in self.markets:
            if market not in told:
                self._faults.append(f"{where}: {argument} says nothing of {market}")
        for market in told:
            if market not in self.markets:
                hint = nearest(market, self.markets)
                self._faults.append(
                    f"{where}: {argument} is of {market!r}, no market of the pipeline.{hint}"
                )
        return {
            market: self._session_limit(text, f"{argument} of {market}", where)
            for market, text in told.items()
        }

    def _session_limit(
        self, text: timedelta | str | None, argument: str, where: str
    ) -> SessionTime | timedelta | None:
        if text is None and argument.startswith("expected"):
            return None
        try:
            limit = read_limit(cast("str", text))
        except (ValueError, AttributeError, TypeError, OverflowError) as error:
            wanted = error if type(error) is ValueError else "it must be text, such as 'close+6h'"
            self._faults.append(f"{where}: {argument} is {text!r}; {wanted}")
            return None
        if isinstance(limit, timedelta) and not timedelta(0) < limit <= _LONGEST_WAIT:
            most = format_duration(_LONGEST_WAIT)
            self._faults.append(
                f"{where}: {argument} is {text!r}; a duration must be more than nothing, and at "
                f"most {most}"
            )
            return None
        return limit

    def _known(
        self,
        options: JobOptions,
        where: str,
        known: frozenset[str] = JobOptions.__optional_keys__,
        what: str = "a job",
    ) -> JobOptions:
        for unknown in (option for option in options if option not in known):
            self._faults.append(f"{where}: {what} has no {unknown}=.{nearest(unknown, known)}")
        return cast("JobOptions", {key: options[key] for key in known if key in options})  # type: ignore[literal-required]

    def _define(
        self,
        function: Callable[..., Any] | str,
        name: str,
        where: str,
        *,
        after: Iterable[Callable[..., Any] | str] = (),
        required_state: MarketState | str | None = None,
        start: str | None = None,
        window: WindowRule | str = WindowRule.SESSION,
        priority: JobPriority | str = JobPriority.STANDARD,
        max_retries: int = 3,
        timeout: timedelta | str = timedelta(hours=1),
        queue_timeout: timedelta | str | None = None,
        retry_base: timedelta | str = timedelta(seconds=60),
        retry_cap: timedelta | str = timedelta(seconds=900),
        after_previous: bool = False,
        deadline: str | None = None,
        sensor: SensorRule | None = None,
        sensor_in: Mapping[str, SensorRule] | None = None,
    ) -> None:
        if name in self._names:
            self._faults.append(f"{where}: job {name!r} is defined twice")
        if isinstance(function, str) and not function.partition(":")[2]:
            self._faults.append(f"{where}: {function!r} is not of the form package.module:function")
        self._names.add(name)
        self._jobs.append(
            JobDefinition(
                name=name,
                function=function,
                after=self._upstream_names(after, where),
                required_state=None
                if required_state is None
                else self._read(
                    MarketState, required_state, "required_state", MarketState.POST_CLOSE, where
                ),
                start=None if start is None else self._session_time(start, where),
                window=self._read(WindowRule, window, "window", WindowRule.SESSION, where),
                priority=self._priority(priority, where),
                max_retries=max_retries,
                timeout=self._duration(timeout, "timeout", timedelta(hours=1), where),
                queue_timeout=self._limit(queue_timeout, "queue_timeout", where),
                retry_base=self._duration(retry_base, "retry_base", timedelta(seconds=60), where),
                retry_cap=self._duration(retry_cap, "retry_cap", timedelta(seconds=900), where),
                after_previous=after_previous,
                sensor=sensor,
                sensor_in=sensor_in or {},
                deadline=self._deadline(deadline, where),
                where=where,
            )
        )

    def _upstream_names(
        self, after: Iterable[Callable[..., Any] | str], where: str
    ) -> tuple[str, ...]:
        if isinstance(after, str) or not isinstance(after, Iterable):
            shown = self._upstream_name(after)
            self._faults.append(f"{where}: after is {shown}; it must be a list: after=[{shown}]")
            return ()
        return tuple(self._upstream_name(upstream) for upstream in after)

    def _upstream_name(self, upstream: Callable[..., Any] | str) -> str:
        if isinstance(upstream, str):
            return upstream
        for job in self._jobs:
            if job.function is upstream:
                return job.name
        return getattr(upstream, "__name__", repr(upstream))

    def _read(self, kind: type[_E], value: _E | str, argument: str, fallback: _E, where: str) -> _E:
        try:
            return kind(value)
        except ValueError:
            known = ", ".join(str(member.value) for member in kind)
            self._faults.append(f"{where}: {argument} is {value!r}; it must be one of {known}")
            return fallback

    def _session_rule(self, text: str, short_sessions: ShortSessions | str) -> SessionRule:
        short = self._read(
            ShortSessions, short_sessions, "short_sessions", ShortSessions.RUN, self.where
        )
        try:
            return SessionRule.parse(text, short)
        except (ValueError, TypeError) as error:
            wanted = error if type(error) is ValueError else f"it must be {SessionRule.FORMS}"
            self._faults.append(f"{self.where}: sessions is {text!r}; {wanted}")
            return SessionRule(short_sessions=short)

    def _session_time(self, text: str, where: str) -> SessionTime | None:
        try:
            return SessionTime.parse(text)
        except (ValueError, AttributeError, OverflowError) as error:
            wanted = error if type(error) is ValueError else "it must be text, such as 'close+45m'"
            self._faults.append(f"{where}: start is {text!r}; {wanted}")
            return None

    def _deadline(self, text: str | None, where: str) -> Deadline | None:
        if text is None:
            return None
        try:
            return Deadline.parse(text)
        except (ValueError, AttributeError, OverflowError) as error:
            wanted = error if type(error) is ValueError else f"it must be text, such as {FORMS}"
            self._faults.append(f"{where}: deadline is {text!r}; {wanted}")
            return None

    def _priority(self, value: JobPriority | str, where: str) -> JobPriority:
        if isinstance(value, JobPriority):
            return value
        if value in JobPriority.__members__:
            return JobPriority[value]
        known = ", ".join(JobPriority.__members__)
        self._faults.append(f"{where}: priority is {value!r}; it must be one of {known}")
        return JobPriority.STANDARD

    def _duration(
        self, value: timedelta | str, argument: str, fallback: timedelta, where: str
    ) -> timedelta:
        try:
            return parse_duration(value)
        except AttributeError:
            error = f"{value!r} is not a duration; write 45s, 30m, 2h, 1h30m or 1d"
        except (ValueError, OverflowError) as raised:
            error = str(raised)
        self._faults.append(f"{where}: {argument}: {error}")
        return fallback

    def _limit(self, value: timedelta | str | None, argument: str, where: str) -> timedelta | None:
        if value is None:
            return None
        return self._duration(value, argument, timedelta(hours=1), where)

    def faults(self, *, visibility_timeout: timedelta = timedelta(hours=2)) -> tuple[str, ...]:
        """
        List everything that is wrong with the pipeline.

        Args:
            visibility_timeout: After this time Redis delivers a message again, so that no retry
                may wait that long.

        Returns:
            One sentence a fault, with file and line; empty when it can run.
        """
        faults = list(self._faults)
        if (
            not self.name.isidentifier()
            or self.name != self.name.lower()
            or len(self.name) > _LONGEST_NAME
        ):
            faults.append(
                f"{self.where}: {self.name!r} must be a lower-case identifier of at most "
                f"{_LONGEST_NAME} characters"
            )
        if not self.markets:
            faults.append(f"{self.where}: it has no markets")
        if not self._jobs:
            faults.append(f"{self.where}: it has no jobs")
        calendars = []
        for market in self.markets:
            try:
                get_market(market)
                if (
                    self.sessions.number > 1
                    or self.deadline is not None
                    or any(
                        _may_never_open(job) or job.sensor is not None or job.deadline is not None
                        for job in self._jobs
                    )
                ):
                    calendars.append(TradingCalendar(market))
            except UnknownMarketError as error:
                faults.append(f"{self.where}: {error}")
            except UnreadableError:
                pass  # that market's alone, and said where its sessions are asked for
        faults += [
            f"{self.where}: sessions is {str(self.sessions)!r}; no {self.sessions.period} of "
            f"{calendar.market_id} has so many sessions"
            for calendar in calendars
            if not self.sessions.occurs(calendar)
        ]
        try:
            json.dumps(self.parameters, allow_nan=False)
        except (TypeError, ValueError) as error:
            faults.append(f"{self.where}: parameters must be JSON values: {error}")
        if self.on_failure is not None and (wrong := _function_fault(self.on_failure, 2)):
            faults.append(
                f"{self.where}: on_failure {wrong}; it is called with two arguments, the "
                f"JobContext and the error's message"
            )
        if self.run_timeout is not None and (
            wrong := _duration_fault("run_timeout", self.run_timeout)
        ):
            faults.append(f"{self.where}: {wrong}")
        lines = {job.name: job.where for job in self._jobs}
        dag = self.dag("", date.min)
        of_dag = dag.validate() or _over_too_soon(dag)
        faults += [
            f"{lines.get(_first_name(fault, lines), self.where)}: {fault}" for fault in of_dag
        ]
        for job in self._jobs:
            faults += [f"{job.where}: job {job.name!r}: {fault}" for fault in _job_faults(job)]
            if job.retry_cap + timedelta(seconds=60) >= visibility_timeout:
                faults.append(
                    f"{job.where}: job {job.name!r}: retry_cap is "
                    f"{format_duration(job.retry_cap)}; it must be more than a minute below the "
                    f"broker's visibility timeout ({format_duration(visibility_timeout)}), or "
                    f"Redis would deliver the retry twice"
                )
        faults += [
            f"{job.where}: job {job.name!r}: its window never opens, because {why}"
            for calendar in calendars
            for job in self._jobs
            if _may_never_open(job) and (why := _why_it_never_opens(job, calendar, self.sessions))
        ]
        faults += [
            f"{job.where}: job {job.name!r}: {wrong} on every session of {calendar.market_id}"
            for calendar in calendars
            for job in self._jobs
            if job.required_state is not MarketState.HOLIDAY
            if (rule := job.sensor_for(calendar.market_id)) is not None
            if (wrong := _sensor_time_fault(job, rule, calendar))
        ]
        faults += [
            f"{self.where}: deadline is {str(self.deadline)!r}; {wrong}"
            for calendar in calendars
            if self.deadline is not None
            if (wrong := _deadline_fault(self.deadline, tuple(self._jobs), calendar))
        ]
        faults += [
            f"{job.where}: job {job.name!r}: deadline is {str(job.deadline)!r}; {wrong}"
            for calendar in calendars
            for job in self._jobs
            if job.deadline is not None and job.required_state is not MarketState.HOLIDAY
            if (wrong := _deadline_fault(job.deadline, (job,), calendar))
        ]
        return tuple(dict.fromkeys(faults))

    def check(self, *, visibility_timeout: timedelta = timedelta(hours=2)) -> None:
        """
        Refuse a pipeline that cannot run.

        Raises:
            PipelineError: With all of `faults`.
        """
        faults = self.faults(visibility_timeout=visibility_timeout)
        if faults:
            raise PipelineError(f"pipeline {self.name!r}", faults)

    def dag(self, market_id: str, as_of_date: date) -> DAG:
        """Build the DAG of this pipeline for one market and session date."""
        return DAG(
            dag_id_for(self.name, market_id, as_of_date),
            (
                JobMetadata(
                    job_id=job.name,
                    job_type=job.name,
                    market_id=market_id,
                    dependencies=job.after,
                    required_state=job.required_state,
                    start=job.start,
                    window=job.window,
                    priority=job.priority,
                    max_retries=job.max_retries,
                    timeout=job.timeout,
                    queue_timeout=job.queue_timeout,
                    retry_base=job.retry_base,
                    retry_cap=job.retry_cap,
                    after_previous=job.after_previous,
                    sensor=job.sensor_for(market_id),
                    deadline=job.deadline,
                )
                for job in self._jobs
            ),
            pipeline=self.name,
            market_id=market_id,
            as_of_date=as_of_date,
            run_timeout=self.run_timeout,
            sessions=self.sessions,
            deadline=self.deadline,
        )


_E = TypeVar("_E", bound=StrEnum)
_LOOKED_AT = timedelta(days=1100)
"""Before a calendar's end, to see whether a job's window ever opens; the answer is soon yes."""
_LONGEST_WAIT = timedelta(days=366)
"""Of a sensor."""
_LONGEST_NAME = 100
"""Characters of a pipeline's or a job's name, which are columns of a table."""


def _first_name(fault: str, names: Iterable[str]) -> str:
    """Return the job that a fault of a DAG is about, which it names before any other."""
    found = {
        place: name
        for name in names
        for shown in (f"{name!r}", f" {name} ")
        if (place := fault.find(shown)) >= 0
    }
    return found[min(found)] if found else ""


_PHASES = (
    MarketState.PRE_OPEN,
    MarketState.SESSION,
    MarketState.POST_CLOSE,
    MarketState.OVERNIGHT,
)
"""In the order in which a session goes through them."""


def _over_too_soon(dag: DAG) -> list[str]:
    """List the jobs whose window ends with a phase before an upstream's phase has begun."""
    faults = []
    for job in dag.jobs.values():
        if job.window is not WindowRule.STATE or job.required_state not in _PHASES:
            continue
        for upstream_id in dag.get_dependency_chain(job.job_id)[:-1]:
            state = dag.jobs[upstream_id].required_state
            if state in _PHASES and _PHASES.index(state) > _PHASES.index(job.required_state):
                faults.append(
                    f"job {job.job_id!r}: its window is over too soon: {job.required_state} has "
                    f"ended when {upstream_id}, which it depends on, may start in {state}"
                )
    return faults


def _function_fault(function: Callable[..., Any], arguments: int) -> str | None:
    """Say why a function could not do its work when it is called with some arguments."""
    if inspect.isclass(function) or not callable(function):
        return "is no function"
    called = function.func if isinstance(function, functools.partial) else function
    if not inspect.isroutine(called):
        called = type(called).__call__
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        return "is async, and nobody would await it"
    if inspect.isgeneratorfunction(called):
        return "is a generator, and nobody would iterate over it"
    try:
        # Of the function itself: a decorator may add arguments to what it wraps, or take some.
        signature = inspect.signature(function, follow_wrapped=False)
    except Exception:  # noqa: BLE001  one of C has none; an annotation may name what is missing
        return None
    try:
        signature.bind(*[None] * arguments)
    except TypeError as error:
        return f"cannot be called so ({error})"
    return None


def _job_faults(job: JobDefinition) -> list[str]:
    faults = []
    if not isinstance(job.function, str) and (wrong := _function_fault(job.function, 1)):
        faults.append(f"its function {wrong}; it is called with one argument, the JobContext")
    if job.required_state is MarketState.HOLIDAY:
        faults.append("required_state is HOLIDAY, which has no session to run for")
    if not job.name.isidentifier() or len(job.name) > _LONGEST_NAME:
        faults.append(
            f"its name must be an identifier of at most {_LONGEST_NAME} characters; give it one "
            f"with name="
        )
    if type(job.max_retries) is not int or job.max_retries < 0:
        faults.append(f"max_retries is {job.max_retries!r}; it must be a whole number, 0 or more")
    for argument, duration in (
        ("timeout", job.timeout),
        ("queue_timeout", job.queue_timeout),
        ("retry_base", job.retry_base),
        ("retry_cap", job.retry_cap),
    ):
        if duration is not None and (wrong := _duration_fault(argument, duration)):
            faults.append(wrong)
    if job.sensor is not None:
        faults += _sensor_faults(job.sensor)
    if job.window is WindowRule.STATE and job.required_state is None:
        faults.append("window is 'state', which needs a required_state to end with")
    if job.retry_cap < job.retry_base:
        faults.append("retry_cap is shorter than retry_base")
    return faults


def _sensor_faults(rule: SensorRule) -> list[str]:
    faults = []
    for argument, duration in (("every", rule.every), ("up_to", rule.up_to)):
        if wrong := _duration_fault(argument, duration):
            faults.append(wrong)
        elif duration > _LONGEST_WAIT:
            most = format_duration(_LONGEST_WAIT)
            faults.append(f"{argument} is {format_duration(duration)}; it must be at most {most}")
    if rule.up_to < rule.every:
        up_to, every = format_duration(rule.up_to), format_duration(rule.every)
        faults.append(f"up_to is {up_to}, and every is {every}; pauses only become longer")
    if rule.otherwise not in (FAIL, SKIP, CONTINUE_STALE) and not rule.source:
        faults.append(
            f"otherwise is {rule.otherwise!r}; it must be one of {FAIL}, {SKIP}, "
            f"{CONTINUE_STALE}, or {USE} and the name of a source"
        )
    return faults


def _duration_fault(argument: str, duration: timedelta) -> str | None:
    if duration.total_seconds() >= 1 and not duration.total_seconds() % 1:
        return None
    return f"{argument} is {format_duration(duration)}; it must be whole seconds, at least 1"


def _may_never_open(job: JobDefinition) -> bool:
    """Say whether a job's window is looked for in a calendar: others always open."""
    state = job.required_state
    ends_with_phase = job.window is WindowRule.STATE and state is not None
    return (job.start is not None or ends_with_phase) and state is not MarketState.HOLIDAY


def _why_it_never_opens(
    job: JobDefinition, calendar: TradingCalendar, sessions: SessionRule
) -> str | None:
    """Say why a job may start on none of the last years' sessions that the calendar knows."""
    from prometheus.orchestration.planning import session_bounds  # it plans what is defined here

    start = max(calendar.first, calendar.horizon - _LOOKED_AT)
    looked_at = False
    for day in calendar.trading_days(start, calendar.horizon):
        try:
            if not sessions.includes(calendar, day):
                continue
        except HorizonError:
            continue
        bounds = session_bounds(calendar, day)
        window = bounds.window(job)
        if bounds.next_phases is None:
            continue  # whatever it is that ends the window is not known
        if window.opens_at < window.closes_at:
            return None
        looked_at = True
    if not looked_at:
        # No such session in years, or none at all, which is a fault of its own.
        return None if sessions == EVERY else _why_it_never_opens(job, calendar, EVERY)
    of_market = f"of {calendar.market_id}"
    if sessions.period is not None:
        of_market += f" that is the {sessions}"
    if job.start is not None:
        return f"it is over before start={str(job.start)!r} on every session {of_market}"
    return f"{job.required_state} lasts no time on any session {of_market}"


def _sensor_time_fault(
    job: JobDefinition, rule: SensorRule, calendar: TradingCalendar
) -> str | None:
    """Say which times of a sensor are in no order in which they could mean something."""
    from prometheus.orchestration.planning import session_bounds  # it plans what is defined here

    start = max(calendar.first, calendar.horizon - _LOOKED_AT)
    waits, can_be_late, looked_at = False, rule.expected is None, False
    for day in calendar.trading_days(start, calendar.horizon):
        bounds = session_bounds(calendar, day)
        opens_at = bounds.window(job).opens_at
        gives_up_at = rule.gives_up_at(bounds.phases, opens_at)
        expected_at = rule.expected_at(bounds.phases, opens_at)
        waits = waits or opens_at < gives_up_at
        can_be_late = can_be_late or (
            expected_at is not None and opens_at < expected_at < gives_up_at
        )
        if waits and can_be_late:
            return None
        looked_at = True
    if not looked_at:
        return None  # a calendar without a session is a fault of its own
    give_up = f"give_up={show_limit(rule.give_up)!r}"
    if not waits or rule.expected is None:
        return f"{give_up} is over when it is first asked"
    expected = f"expected={show_limit(rule.expected)!r}"
    return f"{expected} is not between when it is first asked and {give_up}"


def _deadline_fault(
    deadline: Deadline, jobs: tuple[JobDefinition, ...], calendar: TradingCalendar
) -> str | None:
    """Say why some jobs can not have succeeded by then on any of the last years' sessions."""
    from prometheus.orchestration.planning import session_bounds  # it plans what is defined here

    if fault := deadline.fault(calendar):
        return fault
    known = [job for job in jobs if job.required_state is not MarketState.HOLIDAY]
    looked_at = False
    for day in calendar.trading_days(
        max(calendar.first, calendar.horizon - _LOOKED_AT), calendar.horizon
    ):
        bounds = session_bounds(calendar, day)
        at = deadline.of(calendar, bounds)
        if at is not None and all(bounds.window(job).opens_at < at for job in known):
            return None
        looked_at = looked_at or at is not None
    if not looked_at:
        return None  # a calendar without a session is a fault of its own
    what = "a job may start" if len(jobs) > 1 else "it may start"
    return f"that is before {what} on every session of {calendar.market_id}"


def _caller() -> str:
    """Return ``file:line`` of the code that called into this module."""
    frame = sys._getframe(1)  # noqa: SLF001  its documented name
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
