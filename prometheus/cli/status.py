"""``prometheus status``: markets, runs, scheduler and workers; or one run with its jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prometheus.cli.options import AsJson, Folder
from prometheus.masking import safe_text, safe_value

if TYPE_CHECKING:
    from datetime import date, datetime

    from rich.console import Console
    from sqlalchemy import Connection

    from prometheus.cli.places import Place
    from prometheus.dispatch.crew import Crew
    from prometheus.persistence.clock import Now
    from prometheus.persistence.progress import RunProgress

_RECENT = 10


def status(
    dag_id: Annotated[
        str | None,
        typer.Argument(
            metavar="DAG_ID",
            help="Show this run's jobs and attempts, such as us_eq_daily_2012-11-23.",
            show_default=False,
        ),
    ] = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Show the markets, the runs, and who is at work; or one run with its jobs."""
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened

    place = find_place(folder)
    with opened(place) as engine:
        from prometheus.dispatch.crew import read_crew
        from prometheus.persistence.clock import read_now
        from prometheus.persistence.engine import reading

        with reading(engine) as connection:
            crew = read_crew(connection, whole=True).tried(engine)
            if dag_id is not None:
                found = _read_run(connection, dag_id, crew)
                if as_json:
                    output.print_json({**found, **crew.document()})
                else:
                    _print_run(output.console(), found, crew, read_now(connection))
                return
            overview = _read_overview(connection, place, crew)
    if as_json:
        output.print_json(_overview_document(overview))
    else:
        _print_overview(output.console(), overview)


# --- all of it --------------------------------------------------------------------------------


def _read_overview(connection: Connection, place: Place, crew: Crew) -> dict[str, Any]:
    from sqlalchemy import func, select

    from prometheus.orchestration.lifecycle import RunStatus
    from prometheus.persistence.progress import read_progress, summarise
    from prometheus.persistence.tables import dag_runs

    progress = read_progress(connection)
    recent = connection.execute(
        select(dag_runs.c.dag_id)
        .where(dag_runs.c.status != RunStatus.OPEN)
        .order_by(dag_runs.c.completed_at.desc())
        .limit(_RECENT)
    ).scalars()
    total = connection.execute(select(func.count()).select_from(dag_runs)).scalar_one()
    finished = summarise(connection, list(recent))
    listed = progress.now.markets or place.settings.markets.enabled
    return {
        "place": place,
        "now": progress.now,
        "markets": [name for name in place.settings.markets.enabled if name in listed],
        "open": progress.runs,
        "recent": finished,
        "total": total,
        "crew": crew,
    }


def _overview_document(overview: dict[str, Any]) -> dict[str, Any]:
    from prometheus.cli.markets import document
    from prometheus.core.market_state import describe_market
    from prometheus.errors import HorizonError, UnreadableError

    place, now, crew = overview["place"], overview["now"], overview["crew"]
    markets = []
    for market_id in overview["markets"]:
        try:
            markets.append(document(describe_market(market_id, now.market_at)))
        except (HorizonError, UnreadableError) as error:  # one market's, not another's
            markets.append({"market": market_id, "error": str(error)})
    return {
        "database": place.shown_url,
        "wall_at": now.wall_at,
        "market_at": now.market_at,
        "replay": _replay_document(now),
        "markets": markets,
        **crew.document(),
        "open_runs": [_run_document(run) for run in overview["open"]],
        "recent_runs": [run.document() for run in overview["recent"]],
        "runs": overview["total"],
    }


def _replay_document(now: Now) -> dict[str, Any] | None:
    if now.clock.is_live:
        return None
    return {
        "speed": now.clock.speed,
        "first_session": now.only and now.only.first,
        "last_session": now.only and now.only.last,
        "markets": sorted(now.markets) if now.markets is not None else None,
    }


def _run_document(run: RunProgress) -> dict[str, Any]:
    return {
        "dag_id": run.dag_id,
        "pipeline": run.pipeline,
        "market": run.market_id,
        "session_date": run.session_date,
        "status": run.status,
        "jobs": {str(state): number for state, number in run.counts().items()},
    }


def _print_overview(console: Console, overview: dict[str, Any]) -> None:
    from prometheus.cli import output

    place, now, crew = overview["place"], overview["now"], overview["crew"]
    console.print(f"database  {place.shown_url}", markup=False, soft_wrap=True)
    if now.clock.is_live:
        console.print(f"time      {now.market_at:%a %Y-%m-%d %H:%M:%S} UTC")
    else:
        only = f", sessions {now.only.first} to {now.only.last}" if now.only else ""
        pace = "jumping" if now.jumps else f"{now.clock.speed:g} times as fast"
        console.print(f"replay    market time {output.utc(now.market_at)}, {pace}{only}")
    _print_crew(console, crew, overview["markets"], now)
    _print_stack(console, place)
    console.print()
    console.print(_market_table(overview["markets"], now))
    _print_runs(console, overview)


def _print_crew(console: Console, crew: Crew, markets: list[str], now: Now) -> None:
    """Say who is at work; of a replay without a scheduler, only that there is none."""
    from rich.text import Text

    from prometheus.cli import output

    if crew.locked:
        console.print(
            Text(
                "database  LOCKED: another transaction holds it, perhaps that of a job inside "
                "ctx.transaction(). Nobody can renew a lease, and nothing is started, meanwhile",
                style="bold red",
            )
        )
    elif not (now.clock.is_live or crew.scheduled):
        console.print("          it is over, or was stopped: no scheduler is running")
        return
    leader = crew.leader
    lapsed = "; whether it still runs is not known"
    if leader is not None and (leader.alive or crew.locked):
        age = output.in_words(leader.tick_age) if leader.tick_age is not None else "?"
        doubt = "" if leader.alive else lapsed
        console.print(f"scheduler {leader.process}, last tick {age} ago{doubt}", markup=False)
    else:
        before = f" (the last one: {leader.process})" if leader is not None else ""
        console.print(
            Text(
                f"scheduler NO SCHEDULER IS RUNNING{before}: nothing starts by itself. "
                "Start one: prometheus up, or prometheus beat",
                style="bold red",
            )
        )
    for standby in crew.standbys:
        told = "stands by" if standby.alive else "stood by, and is SILENT: it may have ended"
        seen = output.in_words(crew.at - standby.renewed_at)
        console.print(f"scheduler {standby.process}, {told}, seen {seen} ago", markup=False)
    silent = crew.silent if crew.locked else ()
    for worker in (*crew.workers, *silent):
        seen = output.in_words(crew.at - worker["renewed_at"])
        queues = ", ".join(worker["queues"])
        doubt = lapsed if worker in silent else ""
        console.print(
            f"worker    {worker['worker']}, pid {worker['pid']}, queues {queues}, "
            f"seen {seen} ago{doubt}",
            markup=False,
        )
    for pause in crew.pauses:
        console.print(Text(f"paused    {safe_text(str(pause))}", style="bold yellow"))
    served = crew.queues()
    deserted = [market for market in markets if market not in served]
    if silent:
        return
    if not crew.workers:
        console.print(
            Text(
                "worker    NO WORKER IS RUNNING. Start one: prometheus up, or "
                f"prometheus worker {' '.join(markets)}",
                style="bold red",
            )
        )
    elif deserted:
        names = ", ".join(deserted)
        console.print(Text(f"worker    NO WORKER LISTENS TO {names}", style="bold red"))


def _print_stack(console: Console, place: Place) -> None:
    """Say how Celery's own commands reach the embedded stack."""
    from prometheus.cli.summary import sibling

    if place.stack is None:
        return
    variables = f"PROMETHEUS__BROKER__URL={place.stack.broker_url}"
    if place.is_local:
        variables = f"PROMETHEUS__DATABASE__URL={place.url} {variables}"
    console.print(
        f"celery    {variables} {sibling('celery')} -A workers inspect active_queues",
        markup=False,
        soft_wrap=True,
        style="dim",
    )


def _market_table(markets: list[str], now: Now) -> Any:
    from prometheus.cli import output
    from prometheus.cli.markets import next_words, session_words
    from prometheus.core.market_state import describe_market
    from prometheus.errors import HorizonError, UnreadableError

    table = output.table("Market", "State", "Session", "Next")
    for market_id in markets:
        try:
            found = describe_market(market_id, now.market_at)
        except (HorizonError, UnreadableError) as error:  # one market's, not another's
            table.add_row(market_id, "not known", str(error), "")
            continue
        following = next_words(found)
        table.add_row(
            market_id,
            output.coloured(found.state),
            session_words(found).replace("\n", ", "),
            ", ".join(following[:2]),
        )
    return table


def _print_runs(console: Console, overview: dict[str, Any]) -> None:
    from prometheus.cli import output

    console.print()
    if overview["open"]:
        table = output.table("Open run", "Jobs", "Queued or running")
        from prometheus.orchestration.lifecycle import JobStatus

        for run in overview["open"]:
            counts = ", ".join(f"{number} {state}" for state, number in run.counts().items())
            live = run.named(JobStatus.QUEUED, JobStatus.RUNNING)
            table.add_row(run.dag_id, counts, ", ".join(live) or "-")
        console.print(table)
    else:
        console.print("no open run")
    if overview["recent"]:
        console.print()
        table = output.table("Finished run", "Result", "Jobs", "Attempts", right=("Attempts",))
        for run in reversed(overview["recent"]):
            counts = ", ".join(f"{number} {state}" for state, number in run.jobs.items())
            table.add_row(run.dag_id, output.coloured(run.status), counts, str(run.attempts))
        console.print(table)
    if overview["total"] > len(overview["open"]) + len(overview["recent"]):
        console.print(f"{overview['total']} runs in all", style="dim")


# --- one run ----------------------------------------------------------------------------------


def _read_run(connection: Connection, dag_id: str, crew: Crew) -> dict[str, Any]:
    from prometheus.cli import output
    from prometheus.persistence.clock import read_now
    from prometheus.persistence.deadlines import deadlines_of
    from prometheus.persistence.listings import read_run

    found_run = read_run(connection, dag_id)
    run, dag = found_run.row, found_run.dag
    attempts: dict[str, list[dict[str, Any]]] = {job_id: [] for job_id in found_run.attempts}
    for row in (row for rows in found_run.attempts.values() for row in rows):
        # Nobody saw its end: how long it took is not known.
        lost = (row.error_details or {}).get("type") == "orphan"
        attempts[row.job_id].append(
            {
                "execution_id": row.execution_id,
                "attempt": row.attempt_number,
                "forced": row.forced,
                "status": row.status,
                "scheduled_at": row.scheduled_at,
                "started_at": row.started_at,
                "started_market_at": row.started_market_at,
                "completed_at": row.completed_at,
                "lost": lost,
                "last_seen_at": row.named_at or row.started_at if lost else row.completed_at,
                "cancel_asked_at": row.cancel_asked_at,
                "cancel_asked_by": row.cancel_asked_by,
                "cancel_at": row.cancel_at,
                "worker": row.worker,
                "error": row.error_message,
                "result": row.result,
                "polls": row.job_id in dag.sensors,
            }
        )
    waits = _reasons(connection, dag_id, crew)
    now = read_now(connection)
    for job_id, rows in attempts.items():
        due_at = rows[-1]["scheduled_at"]
        if rows[-1]["status"] == "QUEUED" and due_at > now.wall_at:
            what = "it is asked again" if job_id in dag.sensors else "the next attempt is due"
            waits[job_id] = f"{what} at {output.utc_seconds(due_at)}"
            found = rows[-2]["result"] if len(rows) > 1 and job_id in dag.sensors else None
            if isinstance(found, dict) and found.get("why"):
                waits[job_id] += f"; {found['why']}"
    due = {
        each.job_id: {
            "at": each.deadline_at,
            "done_at": each.done_at,
            "missed": each.missed,
        }
        for each in deadlines_of(run, dag, found_run.attempts, now)
    }
    document: dict[str, Any] = {
        "dag_id": dag_id,
        "pipeline": run.pipeline,
        "market": run.market_id,
        "session_date": run.as_of_date,
        "status": run.status,
        "trigger": run.trigger,
        "forced": run.forced,
        "calendar_version": run.calendar_version,
        "opens_at": run.opens_at,
        "created_at": run.created_at,
        "completed_at": run.completed_at,
        "market_at": now.market_at,
        "deadline": due.get(None),
        "jobs": [
            {
                "job": job_id,
                "status": rows[-1]["status"],
                "after": list(dag.jobs[job_id].dependencies),
                "waits": waits.get(job_id),
                "deadline": due.get(job_id),
                "attempts": rows,
            }
            for job_id, rows in attempts.items()
        ],
    }
    hidden: dict[str, Any] = safe_value(document)
    return hidden


def _lasted(attempt: dict[str, Any]) -> str:
    from prometheus.cli import output

    started, ended = attempt["started_at"], attempt["completed_at"]
    if attempt["lost"] or not (started and ended):
        return "-"
    return output.in_words(ended - started)


def _reasons(connection: Connection, dag_id: str, crew: Crew) -> dict[str, str]:
    """Ask the scheduler's own function why the jobs of a run that wait do so."""
    from prometheus.core.trading_calendar import TradingCalendar
    from prometheus.errors import HorizonError
    from prometheus.orchestration.dag import DAG, dag_id_for
    from prometheus.orchestration.decisions import Hold, Snapshot, Start, decide
    from prometheus.orchestration.planning import session_bounds
    from prometheus.persistence.clock import read_now
    from prometheus.persistence.pauses import read_pauses
    from prometheus.persistence.runs import read_open_runs

    def previous(dag: DAG) -> str | None:
        try:
            before = dag.sessions.previous(TradingCalendar(dag.market_id), dag.as_of_date)
        except HorizonError:
            return None
        return dag_id_for(dag.pipeline, dag.market_id, before)

    runs = [
        run
        for run in read_open_runs(connection, previous, dag_id=dag_id)
        # Without its session nothing of it waits: the scheduler cancels it.
        if TradingCalendar(run.dag.market_id).is_trading_day(run.dag.as_of_date)
    ]
    bounds = {
        (run.dag.market_id, run.dag.as_of_date): session_bounds(
            TradingCalendar(run.dag.market_id), run.dag.as_of_date
        )
        for run in runs
    }
    found = {}
    now = read_now(connection)
    snapshot = Snapshot(tuple(runs), bounds, now.wall_at, read_pauses(connection))
    for decision in decide(snapshot, now.market_at):
        if isinstance(decision, Hold):
            found[decision.job.job_id] = decision.detail
        elif isinstance(decision, Start):
            found[decision.job.job_id] = (
                "the scheduler starts it at its next tick"
                if crew.scheduled or crew.locked
                else "no scheduler is running, which would start it now"
            )
    return found


def _shortened(result: Any, most: int = 60) -> str:
    import json

    text = "-" if result is None else json.dumps(result, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _answer(attempt: dict[str, Any]) -> str | None:
    """Return what a sensor's poll has found; ``None`` of all else."""
    result = attempt["result"]
    says = attempt["polls"] and attempt["status"] == "SUCCESS" and isinstance(result, dict)
    return str(result.get("state", "READY")).replace("_", " ") if says else None


def _asks_again(attempt: dict[str, Any]) -> bool:
    return _answer(attempt) in ("NOT YET", "LATE")


def _without_polls(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the polls that found nothing, but the last of a row of them."""
    return [
        attempt
        for attempt, following in zip(attempts, [*attempts[1:], None], strict=True)
        if not (_asks_again(attempt) and following is not None and _asks_again(following))
    ]


def _returned(attempt: dict[str, Any]) -> str:
    result = attempt["result"]
    if attempt["polls"] and isinstance(result, dict):  # the state is the attempt's status here
        result = {key: value for key, value in result.items() if key != "state"} or None
    return _shortened(result)


def _session_words(market_id: str, day: date) -> str:
    """Write a session's date and hours, or why there is none any more."""
    from prometheus.cli import recorded, sessions
    from prometheus.core.trading_calendar import TradingCalendar

    calendar = TradingCalendar(market_id)
    if calendar.is_trading_day(day):
        session = calendar.session(day)
        words = [sessions.hours(session), sessions.special(session)]
    else:
        overrides = recorded.by_overrides(recorded.overrides_on(calendar, [day]))
        words = [f"closed: {calendar.reason(day)}", overrides]
    return ", ".join(filter(None, [f"{day:%a} {day}", *words]))


def _due(deadline: dict[str, Any], market_at: datetime) -> str:
    from prometheus.cli import output

    at, done_at = output.utc(deadline["at"]), deadline["done_at"]
    if not deadline["missed"]:
        left = output.in_words(deadline["at"] - market_at)
        return f"due by {at}, " + ("done in time" if done_at else f"in {left}")
    if done_at is None:
        return f"deadline missed: it was due by {at}"
    return f"late: done {output.utc(done_at)}, due by {at}"


def _print_run(console: Console, found: dict[str, Any], crew: Crew, now: Now) -> None:
    from prometheus.cli import output
    from prometheus.orchestration.lifecycle import JobStatus, RunStatus

    console.print(found["dag_id"], style="bold", end="  ")
    console.print(output.coloured(found["status"]))
    session = _session_words(found["market"], found["session_date"])
    console.print(f"  session {session}")
    console.print(
        f"  made by {found['trigger']}, opens {output.utc(found['opens_at'])}"
        + (", its windows do not count" if found["forced"] else "")
    )
    console.print(f"  calendar {found['calendar_version']}")
    if found["deadline"]:
        console.print(f"  {_due(found['deadline'], found['market_at'])}")
    market = found["market"]
    if found["status"] == RunStatus.OPEN and not (crew.scheduled and market in crew.queues()):
        _print_crew(console, crew, [market], now)
    console.print()
    table = output.table(
        "Job", "Attempt", "Status", "Started (market time)", "Lasted", "Worker", "Returned"
    )
    notes = []
    for job in found["jobs"]:
        for number, attempt in enumerate(_without_polls(job["attempts"])):
            market_at = attempt["started_market_at"]
            table.add_row(
                job["job"] if number == 0 else "",
                f"{attempt['attempt']}{', forced' if attempt['forced'] else ''}",
                output.coloured(_answer(attempt) or attempt["status"]),
                output.utc(market_at) if market_at else "-",
                _lasted(attempt),
                attempt["worker"] or "-",
                _returned(attempt),
            )
            if attempt["status"] == JobStatus.RUNNING and attempt["cancel_asked_at"]:
                asked_at, cancel_at = attempt["cancel_asked_at"], attempt["cancel_at"]
                notes.append(
                    f"{job['job']}, attempt {attempt['attempt']}: asked to end by "
                    f"{attempt['cancel_asked_by']} at {output.utc_seconds(asked_at)}; "
                    f"if it has not by {output.utc_seconds(cancel_at)}, it is killed"
                )
            if attempt["error"]:
                error = output.shortened(attempt["error"])
                notes.append(f"{job['job']}, attempt {attempt['attempt']}: {error}")
        if job["waits"]:
            notes.append(f"{job['job']} waits: {job['waits']}")
        if job["deadline"]:
            notes.append(f"{job['job']}: {_due(job['deadline'], found['market_at'])}")
    console.print(table)
    if notes:
        console.print()
        for note in notes:
            console.print(note, markup=False, soft_wrap=True)
