"""What pages offer to do: buttons that ask the API for what it would not refuse as things stand."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from urllib.parse import quote

from sqlalchemy import Row

from prometheus.core.trading_calendar import TradingCalendar
from prometheus.monitoring.api.runs import JobOfRun, RunGraph
from prometheus.orchestration.lifecycle import BLOCKING, FINAL, JobStatus, RunStatus, allowed_from
from prometheus.orchestration.pauses import Pause
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.windows import run_opens_at
from prometheus.persistence.holidays import StoredHoliday

_WAITING = frozenset({JobStatus.PENDING, JobStatus.QUEUED})
_NO_WINDOWS = "Windows do not count."
_ENDS = (
    "what waits is ended at once; what runs is asked to end, and killed if it has not by the time"
)


@dataclass(frozen=True, slots=True)
class Action:
    """A button, and what is asked before anything is done."""

    name: str
    """On the button."""
    told: str
    """What it will do, for whoever is about to."""
    path: str
    """Of the API, below the first page."""
    asks: tuple[str, ...] = ()
    """Fields to be filled in; ``why`` is a reason that may be left out."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """The rest of the request."""
    targets: Sequence[str] = ()
    """What it can be about, the first unless another is chosen: the field target."""
    preview: str = ""
    """Path of what says what would change, which is shown before anything is done."""

    @property
    def body(self) -> str:
        """The rest of the request, in JSON."""
        return json.dumps(self.fixed)


def of_run(
    graph: RunGraph, pipelines: Mapping[str, Pipeline], pauses: Iterable[Pause]
) -> list[Action]:
    """
    Say what can be done to a whole run.

    Args:
        pipelines: Those that runs can be made of, by name.
        pauses: Those that keep it from starting.
    """
    waits = _waits(pauses)
    dag_id, path = graph.run.dag_id, _path(graph.run.dag_id)
    found = []
    failed = any(job.status in BLOCKING - {JobStatus.SKIPPED} for job in graph.jobs)
    if failed and graph.closed is None:
        told = (
            f"Each job of {dag_id} that failed, expired or was cancelled gets a new attempt, and "
            f"so does what was skipped because of it. {_NO_WINDOWS}{waits}"
        )
        found.append(Action("Retry run", told, f"{path}/retry", ("why",)))
    if graph.run.status is RunStatus.OPEN:
        told = f"Of all jobs of {dag_id}, {_ENDS}."
        found.append(Action("Cancel run", told, f"{path}/cancel", ("grace", "why")))
    elif graph.closed is None:
        pipeline = pipelines.get(graph.run.pipeline)
        if pipeline is not None and graph.run.market in pipeline.markets:
            told = (
                f"Every job of {dag_id} gets a new attempt, whatever became of it. "
                f"{_NO_WINDOWS}{waits}"
            )
            asked = _run(graph.run.pipeline, graph.run.market, graph.run.session_date)
            fixed = {**asked, "rerun": True}
            found.append(Action("Run again", told, "api/v1/runs", ("why",), fixed))
    return found


def of_session(
    calendar: TradingCalendar,
    day: date,
    pipelines: Iterable[Pipeline],
    now: datetime,
    made: Iterable[str],
    pauses: Collection[Pause],
) -> list[tuple[Pipeline, Action]]:
    """
    Say of which pipelines a run of a session can be made.

    Args:
        calendar: Of a market that has this session.
        now: Market time.
        made: Pipelines that have a run of it.
        pauses: What operators keep from starting.
    """
    market_id, phases = calendar.market_id, calendar.phases(day)
    return [
        (
            pipeline,
            Action(
                "Run now",
                f"A run of {pipeline.name} for the session {day} of {market_id} is made. "
                f"{_NO_WINDOWS}"
                f"{_waits(covering(pauses, market_id, pipeline.name))}",
                "api/v1/runs",
                ("why",),
                _run(pipeline.name, market_id, day),
            ),
        )
        for pipeline in pipelines
        if market_id in pipeline.markets
        and pipeline.name not in made
        and run_opens_at(phases, pipeline.jobs.values()) <= now
    ]


def _run(pipeline: str, market_id: str, day: date) -> dict[str, Any]:
    return {"market": market_id, "date": day.isoformat(), "pipeline": pipeline}


def of_job(
    graph: RunGraph, job: JobOfRun, held: Pause | None, pauses: Iterable[Pause]
) -> list[Action]:
    """
    Say what can be done to a job of a run.

    Args:
        held: That it is held.
        pauses: Those that keep it from starting.
    """
    what = f"{job.job} of {graph.run.dag_id}"
    path = _path(graph.run.dag_id, job.job)
    found = []
    if job.status in FINAL and graph.closed is None and not _is_blocked(graph, job):
        told = (
            f"{what} gets a new attempt, and so does what was skipped because of it. "
            f"{_NO_WINDOWS}{_waits(pauses)}"
        )
        asks = ("why",) if _is_under_way_below(graph, job) else ("downstream", "why")
        found.append(Action("Retry", told, f"{path}/retry", asks))
    if held is not None:
        found.append(end_of(held))
    elif job.status in _WAITING:
        told = (
            f"{what} does not start until it is released, and so nothing does that depends on it. "
            f"Its window passes as ever."
        )
        found.append(Action("Hold", told, f"{path}/hold", ("reason", "for")))
    if job.status in _WAITING:
        told = f"{what} never runs, and what depends on it is skipped, too."
        found.append(Action("Skip", told, f"{path}/skip", ("reason",)))
    if job.status in _WAITING | BLOCKING and graph.closed is None:
        told = (
            f"{what} counts as succeeded without running, because somebody has seen to its work. "
            f"What was skipped because of it gets a new attempt."
        )
        found.append(Action("Force success", told, f"{path}/force-success", ("reason",)))
    if job.status in allowed_from(JobStatus.CANCELLED):
        told = f"Of {what}, {_ENDS}."
        found.append(Action("Cancel", told, f"{path}/cancel", ("grace", "why")))
    return found


def of_market(market_id: str, pauses: Iterable[Pause], *, has_runs: bool) -> list[Action]:
    """
    Say what can be done to a market, of which there may be a pause as a whole.

    Args:
        has_runs: There are runs of it, or may be: otherwise there is nothing to pause.
    """
    whole = next((each for each in pauses if is_whole(each, market_id)), None)
    if whole is not None:
        return [end_of(whole)]
    if not has_runs:
        return []
    told = f"No job of {market_id} starts until it is resumed. What runs goes on; windows pass."
    return [Action("Pause", told, "api/v1/pause", ("reason", "for"), {"market": market_id})]


def of_pipeline(
    pipeline: str, market_id: str | None, pauses: Iterable[Pause], *, has_runs: bool
) -> list[Action]:
    """
    Say how a pipeline is paused, or resumed if it is, and nothing wider or narrower.

    Args:
        market_id: In this market; ``None``: in all.
        has_runs: There are runs of it: otherwise there is nothing to pause.
    """
    for each in pauses:
        if (each.market_id, each.pipeline, each.dag_id) == (market_id, pipeline, None):
            return [end_of(each)]
    if not has_runs:
        return []
    fixed = {"pipeline": pipeline} | ({"market": market_id} if market_id else {})
    where = f"in {market_id}" if market_id else "in any market"
    told = (
        f"No job of {pipeline} starts {where} until it is resumed. What runs goes on; windows pass."
    )
    return [Action("Pause", told, "api/v1/pause", ("reason", "for"), fixed)]


def of_alert(alert: Row[Any]) -> Action | None:
    """Say how an alert is acknowledged, if it is not."""
    if alert.acknowledged_at is not None:
        return None
    told = f"Nothing more is told of alert {alert.alert_id}. It stays open until it is over."
    return Action("Acknowledge", told, f"api/v1/alerts/{alert.alert_id}/ack", ("reason",))


def of_calendar(calendar: TradingCalendar) -> Action:
    """Say how it is recorded that a session of a market or of its exchanges differs."""
    told = (
        "A session is closed, has other hours, or is an extra one, because its exchange says so. "
        "What that changes is shown first; runs follow with the scheduler's next tick."
    )
    asks = ("target", "session", "kind", "open", "close", "breaks", "zone", "reason", "source")
    return Action(
        "Add override",
        told,
        "api/v1/overrides",
        asks,
        targets=list(dict.fromkeys((calendar.market_id, *calendar.members))),
        preview="api/v1/overrides/preview",
    )


def of_proposal(said: StoredHoliday) -> list[Action]:
    """Say how it is decided on what a feed says of a day."""
    holiday = said.holiday
    what = f"what {said.source} says of {said.exchange} on {holiday.day}: {holiday.words}"

    def decide(name: str, told: str, field: str) -> Action:
        fixed = {"target": said.exchange, field: [holiday.day.isoformat()]}
        path = "api/v1/holidays/decide"
        return Action(name, told, path, ("reason",), fixed, preview=f"{path}/preview")

    told = f"It is true, {what}. The calendar follows; what that changes is shown first."
    found = [decide("Confirm", told, "confirm")] if holiday.can_be_confirmed else []
    told = f"It is not true, {what}. The calendar stays as it is, and it is not proposed again."
    return [*found, decide("Reject", told, "reject")]


def of_history(pipeline: str, market_id: str, pauses: Iterable[Pause]) -> Action:
    """Say how runs of a pipeline are made, or run again, for a range of sessions; see `of_run`."""
    told = (
        f"Runs of {pipeline} are made for a range of sessions of {market_id}, the oldest first, "
        f"and so many at a time. What becomes of each session is shown first. {_NO_WINDOWS}"
        f"{_waits(pauses)}"
    )
    return Action(
        "Backfill",
        told,
        "api/v1/backfills",
        ("first", "last", "reprocess", "max_active_runs", "reason"),
        {"market": market_id, "pipeline": pipeline},
        preview="api/v1/backfills/preview",
    )


def of_backfill(number: int) -> Action:
    """Say how a backfill is stopped."""
    told = f"Backfill {number} makes no further run. Those that are open go on."
    return Action("Stop", told, f"api/v1/backfills/{number}/stop", ("reason",))


def of_override(number: int) -> Action:
    """Say how an override is taken back."""
    told = (
        f"Override {number} does not hold any more. What that changes is shown first; runs that "
        f"were cancelled because of it go on."
    )
    path = f"api/v1/overrides/{number}/withdraw"
    return Action("Withdraw", told, path, ("reason",), preview=f"{path}/preview")


def end_of(pause: Pause) -> Action:
    """Say how a pause or hold is ended."""
    if pause.dag_id is not None and pause.job_id is not None:
        told = f"{named(pause)} may start when its time comes."
        return Action("Release", told, f"{_path(pause.dag_id, pause.job_id)}/release", ("why",))
    fixed = {"market": pause.market_id, "pipeline": pause.pipeline}
    told = f"Jobs of {named(pause)} start again when their time comes, but for what else is paused."
    fixed = {name: value for name, value in fixed.items() if value}
    return Action("Resume", told, "api/v1/resume", ("why",), fixed)


def named(pause: Pause) -> str:
    """Name what is paused or held."""
    if pause.dag_id is not None:
        return f"{pause.job_id} of {pause.dag_id}"
    if pause.pipeline is None:
        return f"market {pause.market_id}"
    return f"pipeline {pause.pipeline}" + (f" in {pause.market_id}" if pause.market_id else "")


def _waits(pauses: Iterable[Pause]) -> str:
    """Say what keeps something from starting once it is asked for."""
    names = "; ".join(map(named, pauses))
    return f" Paused, so it waits: {names}." if names else ""


def covering(pauses: Iterable[Pause], market_id: str, pipeline: str) -> list[Pause]:
    """Return those that are of all runs of a pipeline in a market."""
    return [each for each in pauses if each.covers_all(market_id, pipeline)]


def is_whole(pause: Pause, market_id: str) -> bool:
    """Say whether a pause is of a market and nothing narrower."""
    return pause.market_id == market_id and pause.pipeline is None and pause.dag_id is None


def _path(dag_id: str, job: str | None = None) -> str:
    of_run = f"api/v1/runs/{quote(dag_id, safe='')}"
    return of_run if job is None else f"{of_run}/jobs/{quote(job, safe='')}"


def _is_blocked(graph: RunGraph, job: JobOfRun) -> bool:
    """Say whether a job would be skipped at once, because of one that it depends on."""
    statuses = {each.job: each.status for each in graph.jobs}
    return any(
        statuses[edge.upstream] in BLOCKING for edge in graph.edges if edge.downstream == job.job
    )


def _is_under_way_below(graph: RunGraph, job: JobOfRun) -> bool:
    """Say whether something that depends on a job is queued or runs, and so can not run again."""
    statuses = {each.job: each.status for each in graph.jobs}
    below: set[str] = set()
    reached = {job.job}
    while reached:
        reached = {edge.downstream for edge in graph.edges if edge.upstream in reached} - below
        below |= reached
    return any(statuses[each] in {JobStatus.QUEUED, JobStatus.RUNNING} for each in below)
