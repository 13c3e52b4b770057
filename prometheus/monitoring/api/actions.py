"""What an operator does by the API: what the commands do, by the same functions, audited alike."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from sqlalchemy import Connection

from prometheus.actors import LONGEST_REASON, Role, login, read_reason
from prometheus.configured import UnknownPipelineError, check_enabled, find_pipeline
from prometheus.core.durations import format_duration, parse_duration
from prometheus.core.markets import get_market
from prometheus.dispatch.crew import read_crew
from prometheus.errors import HorizonError
from prometheus.masking import safe_text
from prometheus.monitoring.api.models import (
    Instant,
    Interval,
    IsoDate,
    Model,
    Name,
    Reply,
    times,
)
from prometheus.monitoring.guard import Asking, Visitor, role_of
from prometheus.monitoring.installation import Here, Installation
from prometheus.monitoring.prefix import path_of
from prometheus.monitoring.problems import QuestionError
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.pipeline import Pipeline
from prometheus.persistence import operators, pauses, requests
from prometheus.persistence.leases import wall_time
from prometheus.persistence.pauses import PauseEndError

router = APIRouter(prefix="/api/v1", tags=["actions"])


# --- what is asked ------------------------------------------------------------------------------


_LONGEST = timedelta(days=3650)


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):  # a default
        return value
    if not isinstance(value, str):
        raise ValueError("must be a duration such as 30s or 1h30m")
    if (found := parse_duration(value)) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST.days} days")
    return found


Reason = Annotated[
    str,
    AfterValidator(read_reason),
    Field(json_schema_extra={"minLength": 1, "maxLength": LONGEST_REASON}),
]
"""Why something is done; spaces and line ends become single spaces."""
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, str),
    WithJsonSchema({"type": "string", "examples": ["45s", "1h30m"]}),
]
"""Such as ``45s``, ``30m`` or ``1h30m``."""


class Ask(Model):
    """What every action takes."""

    actor: Name | None = None
    """
    Who asks, for the audit; otherwise ``web (LOGIN)``, the login of the web process. Where there
    are users, whoever asks is known, and can be nobody else.
    """


class AskWithReason(Ask):
    """What an action takes of which it must be said why."""

    reason: Reason
    """Why, for whoever looks later."""


class AskMaybeWithReason(Ask):
    """What an action takes of which it may be said why."""

    reason: Reason | None = None
    """Why, for whoever looks later."""


class RunNow(AskMaybeWithReason):
    """Which run is made, or run again."""

    market: Name
    date: IsoDate
    """The session's date."""
    pipeline: Name = "daily"
    rerun: bool = False
    """Give every job of a finished run a new attempt, instead of making one."""


class RetryJob(AskMaybeWithReason):
    """How a job is tried again."""

    downstream: bool = False
    """Run again also what depends on the job."""


class Cancel(AskMaybeWithReason):
    """How something is ended."""

    grace: Annotated[
        Duration, Field(json_schema_extra={"default": format_duration(operators.CANCEL_GRACE)})
    ] = operators.CANCEL_GRACE
    """How long a running job may take to end before it is killed; ``0s`` kills it now."""


class Hold(AskWithReason):
    """Why, and for how long, something is kept from starting."""

    until: Instant | None = None
    """When it ends by itself, by wall time; otherwise when somebody ends it."""
    lasting: Annotated[Duration | None, Field(alias="for")] = None
    """For how long, instead of ``until``."""

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.until is not None and self.lasting is not None:
            raise ValueError("give either until or for")
        return self

    def end(self, now: datetime) -> datetime | None:
        """Return when it ends by itself."""
        return self.until if self.lasting is None else now + self.lasting


class Target(Model):
    """A market, a pipeline, or a pipeline in a market."""

    market: Name | None = None
    pipeline: Name | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.market is None and self.pipeline is None:
            raise ValueError("name a market, a pipeline, or both")
        return self

    def names(self) -> dict[str, str | None]:
        """Return it as the tables name it."""
        market_id = self.market and get_market(self.market).market_id
        return {"market_id": market_id, "pipeline": self.pipeline}


class StartPause(Hold, Target):
    """What is paused, why, and for how long."""


class EndPause(AskMaybeWithReason, Target):
    """What is no longer paused."""


# --- what is answered ---------------------------------------------------------------------------


class Done(Reply):
    """What was done."""

    actor: str
    """Who is audited."""
    scheduler: bool
    """Whether a scheduler is at work, which sees to what follows."""


class StandingPause(Model):
    """What an operator keeps from starting."""

    pause: int
    """Its number."""
    market: str | None
    pipeline: str | None
    dag_id: str | None
    """Of a job that is held: its run."""
    job: str | None
    reason: str
    author: str
    since: Instant
    """Wall time."""
    until: Instant | None
    """When it ends by itself."""


class Begun(Done):
    """Something that starts, unless it is paused."""

    dag_id: str
    paused: list[StandingPause]
    """What operators keep from starting, and so keeps it waiting."""


class Started(Begun):
    """A run that was made, or whose jobs got new attempts; windows do not count."""


class Retried(Begun):
    """Jobs that got a new attempt."""

    jobs: list[str]
    """In running order."""
    ignored_windows: dict[str, Interval]
    """Of these jobs, the windows by which they could not start now."""


class CancelledJob(Model):
    """What became of one job."""

    job: str
    execution_id: str
    was_running: bool
    cancel_at: Instant | None
    """When it will be ended if it has not by itself; ``null``: it was ended at once."""


class Cancelled(Done):
    """Jobs that were ended, or asked to end."""

    dag_id: str
    jobs: list[CancelledJob]


class Skipped(Done):
    """A job that will never run."""

    dag_id: str
    job: str


class Forced(Done):
    """A job that counts as succeeded."""

    dag_id: str
    job: str
    jobs: list[str]
    """Those that were skipped because of it, and got a new attempt."""


class Paused(Done):
    """A pause that has begun, or that has ended."""

    pause: StandingPause
    others: list[StandingPause]
    """What else is paused."""


class Pauses(Reply):
    """What is paused, in the order in which it was."""

    items: list[StandingPause]


def _tell(pause: Pause) -> StandingPause:
    return StandingPause(
        pause=pause.pause_id,
        market=pause.market_id,
        pipeline=pause.pipeline,
        dag_id=pause.dag_id,
        job=pause.job_id,
        reason=safe_text(pause.reason),
        author=safe_text(pause.author),
        since=pause.since,
        until=pause.until,
    )


# --- how it is done -----------------------------------------------------------------------------

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Made by the client for one action; the same again does nothing twice, and is "
        "answered as the first time.",
    ),
    StringConstraints(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$"),
]


def author_of(ask: Ask, visitor: Visitor | None) -> str:
    """
    Say who is audited.

    Raises:
        HTTPException: Somebody says that it is somebody else.
    """
    if visitor is None:
        return ask.actor or f"web ({login()})"
    if ask.actor not in (None, visitor.name):
        raise HTTPException(
            HTTPStatus.FORBIDDEN,
            f"You are {visitor.name}, and actor names {ask.actor!r}. Leave it out. Nothing was "
            f"done.",
        )
    return visitor.name


class Desk:
    """Does what a request asks for, in one transaction with its key and its answer."""

    def __init__(self, request: Request, here: Here, visitor: Asking, key: Key = None) -> None:
        if not role_of(visitor, here.settings.web).covers(Role.OPERATOR):
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "It only reads: without users, every account of this machine could act. Make users "
                "(prometheus user add), or say actions = true under [web], or "
                "PROMETHEUS__WEB__ACTIONS=true, and start it again.",
            )
        self._here: Installation = here
        self._visitor = visitor
        self._path = path_of(request)
        self._key = key

    def by(self, ask: Ask) -> str:
        """
        Say who is audited.

        Raises:
            HTTPException: Somebody says that it is somebody else.
        """
        return author_of(ask, self._visitor)

    def answered(self, ask: Ask) -> Response | None:
        """
        Return the answer that the same request was given before, by its key, if it came.

        For what is done before the transaction that notes it; what comes twice at once is done
        twice.
        """
        if self._key is None:
            return None
        with self._here.look() as look:
            before = requests.read_answer(look.connection, self._key, self._asked(ask))
        return None if before is None else _replay(before)

    def _asked(self, ask: Ask) -> str:
        asked = f"{self._path} {ask.model_dump_json(by_alias=True)}"
        # A key that two make up for the same is not shared.
        return asked if self._visitor is None else f"{self.by(ask)} {asked}"

    def act(
        self, ask: Ask, do: Callable[[Connection], dict[str, Any]], reply: type[Done]
    ) -> Response:
        """
        Do something, unless the request's key says that it was done.

        Args:
            do: Does it, and returns what the reply has besides.
        """
        actor = self.by(ask)
        with self._here.act() as look:
            connection = look.connection
            if self._key is not None:
                before = requests.take_key(connection, self._key, self._asked(ask))
                if before is not None:
                    return _replay(before)
            found = do(connection)
            crew = read_crew(connection)
            done = reply(**times(look.now), actor=actor, scheduler=crew.scheduled, **found)
            answer = done.model_dump_json(by_alias=True)
            if self._key is not None:
                requests.keep_answer(connection, self._key, answer)
        return _respond(answer)


def _replay(answer: str) -> Response:
    return _respond(answer, {"Idempotency-Replayed": "true"})


def _respond(answer: str, headers: dict[str, str] | None = None) -> Response:
    return Response(answer, HTTPStatus.OK, headers, media_type="application/json")


AtDesk = Annotated[Desk, Depends()]


# --- runs and jobs ------------------------------------------------------------------------------


def runnable_pipeline(here: Installation, name: str, market_id: str) -> Pipeline:
    """
    Find a pipeline of which a run of a market can be made.

    Raises:
        UnknownPipelineError: There is none, or it may be one of those that have faults.
        MarketDisabledError: Nobody would work on it.
    """
    pipelines, faults = here.pipelines
    if name not in pipelines and faults:
        raise UnknownPipelineError(
            f"There is no pipeline {name!r} without faults: /api/v1/pipelines has them."
        )
    pipeline = find_pipeline(pipelines, name, market_id)
    check_enabled(here.settings, market_id)
    return pipeline


@router.post("/runs", response_model=Started)
def run_now(desk: AtDesk, here: Here, ask: RunNow) -> Response:
    """Run a pipeline for one session now, or a finished run again; windows do not count."""

    def do(connection: Connection) -> dict[str, Any]:
        market_id = get_market(ask.market).market_id
        pipeline = runnable_pipeline(here, ask.pipeline, market_id)
        try:
            dag_id = operators.run_now(
                connection,
                pipeline,
                market_id,
                ask.date,
                again=ask.rerun,
                actor=desk.by(ask),
                reason=ask.reason,
            )
        except HorizonError as error:  # of this date, whatever else is known
            raise QuestionError(str(error)) from None
        return {"dag_id": dag_id, "paused": _paused(connection, dag_id)}

    return desk.act(ask, do, Started)


@router.post("/runs/{dag_id}/retry", response_model=Retried)
def retry_run(desk: AtDesk, dag_id: Name, ask: AskMaybeWithReason) -> Response:
    """Give all jobs of a finished run that did not succeed a new attempt; windows do not count."""
    return _retry(desk, ask, dag_id, None)


@router.post("/runs/{dag_id}/jobs/{job}/retry", response_model=Retried)
def retry_job(desk: AtDesk, dag_id: Name, job: Name, ask: RetryJob) -> Response:
    """Give a job a new attempt, and what was skipped because of it; windows do not count."""
    return _retry(desk, ask, dag_id, job, downstream=ask.downstream)


def _retry(
    desk: Desk, ask: AskMaybeWithReason, dag_id: str, job: str | None, *, downstream: bool = False
) -> Response:
    def do(connection: Connection) -> dict[str, Any]:
        jobs = operators.retry(
            connection,
            dag_id,
            job,
            downstream=downstream,
            actor=desk.by(ask),
            reason=ask.reason,
        )
        ignored = operators.ignored_windows(connection, dag_id, jobs)
        windows = {name: Interval.of(window) for name, (window, _) in ignored.items()}
        paused = _paused(connection, dag_id, jobs)
        return {"dag_id": dag_id, "paused": paused, "jobs": jobs, "ignored_windows": windows}

    return desk.act(ask, do, Retried)


def _paused(
    connection: Connection, dag_id: str, jobs: list[str] | None = None
) -> list[StandingPause]:
    return [_tell(each) for each in pauses.pauses_of(connection, dag_id, jobs)]


@router.post("/runs/{dag_id}/cancel", response_model=Cancelled)
def cancel_run(desk: AtDesk, dag_id: Name, ask: Cancel) -> Response:
    """End a run: what waits at once, what runs after it was asked to."""
    return _cancel(desk, ask, dag_id, None)


@router.post("/runs/{dag_id}/jobs/{job}/cancel", response_model=Cancelled)
def cancel_job(desk: AtDesk, dag_id: Name, job: Name, ask: Cancel) -> Response:
    """End one job of a run: at once if it waits, after it was asked to if it runs."""
    return _cancel(desk, ask, dag_id, job)


def _cancel(desk: Desk, ask: Cancel, dag_id: str, job: str | None) -> Response:
    def do(connection: Connection) -> dict[str, Any]:
        cancelled = operators.cancel(
            connection, dag_id, job, actor=desk.by(ask), reason=ask.reason, grace=ask.grace
        )
        jobs = [
            CancelledJob(
                job=each.job_id,
                execution_id=each.execution_id,
                was_running=each.was_running,
                cancel_at=each.cancel_at,
            )
            for each in cancelled
        ]
        return {"dag_id": dag_id, "jobs": jobs}

    return desk.act(ask, do, Cancelled)


@router.post("/runs/{dag_id}/jobs/{job}/skip", response_model=Skipped)
def skip_job(desk: AtDesk, dag_id: Name, job: Name, ask: AskWithReason) -> Response:
    """Have a job that has not started never run; what depends on it is skipped, too."""

    def do(connection: Connection) -> dict[str, Any]:
        operators.skip(connection, dag_id, job, actor=desk.by(ask), reason=ask.reason)
        return {"dag_id": dag_id, "job": job}

    return desk.act(ask, do, Skipped)


@router.post("/runs/{dag_id}/jobs/{job}/force-success", response_model=Forced)
def force_success_of_job(desk: AtDesk, dag_id: Name, job: Name, ask: AskWithReason) -> Response:
    """Have a job count as succeeded without running it, because somebody has seen to its work."""

    def do(connection: Connection) -> dict[str, Any]:
        jobs = operators.force_success(
            connection, dag_id, job, actor=desk.by(ask), reason=ask.reason
        )
        return {"dag_id": dag_id, "job": job, "jobs": jobs}

    return desk.act(ask, do, Forced)


@router.post("/runs/{dag_id}/jobs/{job}/hold", response_model=Paused)
def hold_job(desk: AtDesk, dag_id: Name, job: Name, ask: Hold) -> Response:
    """Keep one job of a run from starting, and so what depends on it; its window passes as ever."""

    def start(connection: Connection, until: datetime | None) -> int:
        return pauses.hold(
            connection, dag_id, job, reason=ask.reason, until=until, actor=desk.by(ask)
        )

    return _start(desk, ask, start)


@router.post("/runs/{dag_id}/jobs/{job}/release", response_model=Paused)
def release_job(desk: AtDesk, dag_id: Name, job: Name, ask: AskMaybeWithReason) -> Response:
    """Let a job that is held start when its time comes."""

    def end(connection: Connection) -> Pause:
        return pauses.release(connection, dag_id, job, actor=desk.by(ask), reason=ask.reason)

    return _end(desk, ask, end)


# --- markets and pipelines ----------------------------------------------------------------------


@router.get("/pauses")
def standing_pauses(here: Here) -> Pauses:
    """List what operators keep from starting."""
    with here.look() as look:
        return Pauses(**times(look.now), items=[_tell(each) for each in look.pauses])


@router.post("/pause", response_model=Paused)
def pause(desk: AtDesk, ask: StartPause) -> Response:
    """Let no job of a market, a pipeline, or a pipeline in a market start; what runs goes on."""

    def start(connection: Connection, until: datetime | None) -> int:
        return pauses.pause(
            connection, **ask.names(), reason=ask.reason, until=until, actor=desk.by(ask)
        )

    return _start(desk, ask, start)


@router.post("/resume", response_model=Paused)
def resume(desk: AtDesk, ask: EndPause) -> Response:
    """End the pause of a market, of a pipeline, or of a pipeline in a market."""

    def end(connection: Connection) -> Pause:
        return pauses.resume(connection, **ask.names(), actor=desk.by(ask), reason=ask.reason)

    return _end(desk, ask, end)


def _start(desk: Desk, ask: Hold, start: Callable[[Connection, datetime | None], int]) -> Response:
    def do(connection: Connection) -> dict[str, Any]:
        number = start(connection, ask.end(wall_time(connection)))
        standing = pauses.read_pauses(connection)
        made = next((each for each in standing if each.pause_id == number), None)
        if made is None:
            raise PauseEndError("It has ended in the moment in which it began.")
        return _with_others(made, standing)

    return desk.act(ask, do, Paused)


def _end(desk: Desk, ask: Ask, end: Callable[[Connection], Pause]) -> Response:
    def do(connection: Connection) -> dict[str, Any]:
        ended = end(connection)
        return _with_others(ended, pauses.read_pauses(connection))

    return desk.act(ask, do, Paused)


def _with_others(pause: Pause, standing: tuple[Pause, ...]) -> dict[str, Any]:
    others = [_tell(each) for each in standing if each.pause_id != pause.pause_id]
    return {"pause": _tell(pause), "others": others}
