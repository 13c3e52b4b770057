"""Why a run, or a job of it, does not go on: one answer for whoever asks, by whatever way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, Engine

from prometheus.dispatch.broker import NoAnswerError, connected
from prometheus.dispatch.crew import SILENT_AFTER_LEASES
from prometheus.dispatch.names import BUSY_KEY, LEADERSHIP
from prometheus.errors import nearest
from prometheus.orchestration.facts import AtWork
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.planning import runs_on, session_of
from prometheus.orchestration.reasons import (
    JobReason,
    Reason,
    Unmade,
    explain,
    explain_run,
    explain_unmade,
)
from prometheus.persistence.clock import Now
from prometheus.persistence.engine import is_held
from prometheus.persistence.listings import UnknownJobError, UnknownRunError, latest_runs
from prometheus.persistence.reasons import Case, Installation, read_case, read_unmade
from prometheus.settings import Settings


@dataclass(frozen=True, slots=True)
class Question:
    """A run, or a job of it, and all that the database has to explain it."""

    dag_id: str
    job_id: str | None
    found: Case | tuple[Now, Unmade]
    """A run that is there, or one that is not, and when that was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a run, or a job of it, waits for, or what has become of it."""

    dag_id: str
    market_id: str
    job_id: str | None
    now: Now
    status: str | None
    """``None``: there is no such run, or not yet."""
    attempt: int | None = None
    """Of the job that was asked about."""
    reasons: tuple[Reason, ...]
    jobs: tuple[JobReason, ...] | None = None
    """Of a run, its jobs that have not succeeded, each with its first reason."""

    def document(self) -> dict[str, Any]:
        """Tell it to programs."""
        jobs = None
        if self.jobs is not None:
            jobs = [
                {"job": each.job_id, "status": each.status, "reason": _reason_document(each.reason)}
                for each in self.jobs
            ]
        return {
            "dag_id": self.dag_id,
            "market": self.market_id,
            "job": self.job_id,
            "wall_at": self.now.wall_at,
            "market_at": self.now.market_at,
            "status": self.status,
            "attempt": self.attempt,
            "reasons": [_reason_document(each) for each in self.reasons],
            "jobs": jobs,
        }


def _reason_document(reason: Reason) -> dict[str, Any]:
    return {
        "kind": reason.kind,
        "job": reason.job_id,
        "text": reason.text,
        "then": reason.then or None,
        "since": reason.since,
        "until": reason.until,
        "clock": "market" if reason.market_time else "wall",
        "refers_to": [{"dag_id": dag_id, "job": job} for dag_id, job in reason.refers_to],
        "wrong": reason.wrong,
    }


def read_question(
    connection: Connection,
    dag_id: str,
    job_id: str | None,
    settings: Settings,
    pipelines: Callable[[], Mapping[str, Pipeline]],
    follow: Callable[[Connection, Now], object],
) -> Question:
    """
    Read what explains a run that is there, or that is to come.

    Args:
        connection: Of a transaction that sees one state of the database.
        job_id: One job of it; if not given, all of it.
        pipelines: Gives the pipelines of the settings; called for a run that is not there.
        follow: Lets calendars go by the overrides of that state.

    Raises:
        UnknownRunError: There is no such run, and no pipeline makes one.
        UnknownJobError: It has no such job.
        UnreadableRunError: This release can not read it.
    """
    installation = Installation(
        markets=settings.markets.enabled,
        leadership=LEADERSHIP,
        silent_after=SILENT_AFTER_LEASES * settings.scheduler.lease,
        makes_runs=settings.scheduler.create_runs,
    )
    case = read_case(connection, dag_id, installation, follow)
    if isinstance(case, Case):
        jobs = case.run.jobs
        if job_id is not None and job_id not in jobs:
            raise UnknownJobError(f"{dag_id} has no job {job_id!r}.{nearest(job_id, jobs)}")
        return Question(dag_id, job_id, case)
    pipeline, market_id, day = _to_come(connection, dag_id, pipelines())
    if job_id is not None and job_id not in pipeline.jobs:
        raise UnknownJobError(
            f"{dag_id} will have no job {job_id!r}.{nearest(job_id, pipeline.jobs)}"
        )
    unmade = read_unmade(connection, case, pipeline, market_id, day, installation)
    return Question(dag_id, job_id, (case.now, unmade))


def _to_come(
    connection: Connection, dag_id: str, pipelines: Mapping[str, Pipeline]
) -> tuple[Pipeline, str, date]:
    """Find the pipeline, market and session whose run would have a name."""
    day = session_of(dag_id)
    known = runs_on(pipelines, day) if day is not None else {}
    if day is None or dag_id not in known:
        names = [*latest_runs(connection), *known]
        raise UnknownRunError(
            f"There is no run {dag_id!r}, and no pipeline here makes one.{nearest(dag_id, names)}"
        )
    pipeline, market_id = known[dag_id]
    return pipeline, market_id, day


def answer(question: Question, engine: Engine, broker: SecretStr) -> Answer:
    """
    Explain it, by what the database and the broker say at this moment, too.

    To be called when the transaction of the question has ended: the broker may be slow.
    """
    dag_id, job_id = question.dag_id, question.job_id
    if isinstance(question.found, tuple):
        now, unmade = question.found
        unmade = replace(unmade, at_work=_seen_locked(unmade.at_work, engine))
        reasons = explain_unmade(unmade, job_id, now.market_at)
        return Answer(
            dag_id=dag_id,
            market_id=unmade.market_id,
            job_id=job_id,
            now=now,
            status=None,
            reasons=reasons,
        )
    case, now = question.found, question.found.now
    at_work = _with_broker(_seen_locked(case.facts.at_work, engine), broker)
    facts = replace(case.facts, at_work=at_work)
    if job_id is None:
        told = explain_run(case.snapshot, now.market_at, facts)
        return Answer(
            dag_id=dag_id,
            market_id=case.run.dag.market_id,
            job_id=None,
            now=now,
            status=told.status,
            reasons=told.around,
            jobs=told.jobs,
        )
    return Answer(
        dag_id=dag_id,
        market_id=case.run.dag.market_id,
        job_id=job_id,
        now=now,
        status=case.run.jobs[job_id].status,
        attempt=facts.executions[job_id][-1].attempt_number,
        reasons=explain(case.snapshot, job_id, now.market_at, facts),
    )


def _seen_locked(at_work: AtWork, engine: Engine) -> AtWork:
    """Find out whether those whose leases have run out could renew them at this moment."""
    ends = [each.expires_at for each in at_work.workers]
    ends += [at_work.leader.expires_at] if at_work.leader is not None else []
    lapsed = any(end <= at_work.wall_at for end in ends)
    return replace(at_work, locked=lapsed and is_held(engine))


def _with_broker(at_work: AtWork, broker: SecretStr) -> AtWork:
    """Ask Redis which workers have no slot left, where something waits for one."""
    if not at_work.waiting:
        return at_work
    names = [each.incarnation for each in at_work.workers]
    try:
        with connected(broker) as redis:
            said = redis.mget([f"{BUSY_KEY}{name}" for name in names]) if names else []
    except NoAnswerError as error:
        return replace(at_work, broker_fault=str(error))
    busy = {name for name, value in zip(names, said, strict=True) if value is not None}
    return replace(at_work, busy=frozenset(busy))
