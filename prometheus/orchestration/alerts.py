"""
Alerts: what is wrong, who is to be told, and when somebody is told.

What is wrong at a moment is a set of causes. `decide` compares it with the alerts that are kept:
new ones are raised, what is over is resolved, and a message is due when the truth is another one
than recipients were told, at most one in a quiet time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from prometheus.core.markets import get_market
from prometheus.errors import PrometheusError, nearest
from prometheus.orchestration.dag import JobPriority

KEPT_OPEN = timedelta(days=30)
"""An alert of a run that is older is closed without a word."""
REOPENS_WITHIN = timedelta(hours=1)
"""What comes back so soon is the same alert; or within a quiet time, if that is longer."""
UNANSWERED = "no answer within"
"""How the error of a message begins that may have been accepted all the same."""


class AlertKind(StrEnum):
    """What can be wrong."""

    JOB_FAILED = "job_failed"
    """Jobs of a run failed for good."""
    WINDOW_EXPIRED = "window_expired"
    """Jobs of a run could not start in their time."""
    MISSED_SESSION = "missed_session"
    """No scheduler was running while a run was due."""
    DEADLINE_MISSED = "deadline_missed"
    """A run, or jobs of it, had not ended by their deadline."""
    RUN_LATE = "run_late"
    """A run was not made, its jobs wait for a worker, or what its sensors wait for is late."""
    SCHEDULER_SILENT = "scheduler_silent"
    """No scheduler leads, or the one that does completes no tick."""
    WORKER_LOST = "worker_lost"
    """A worker was given up: it did not stop by itself."""
    QUEUE_WITHOUT_WORKERS = "queue_without_workers"
    """Work is due, and no worker listens."""
    CALENDAR_HORIZON = "calendar_horizon"
    """A market's calendar is about to end, has ended, or can not be read."""
    FEED_DISAGREEMENT = "feed_disagreement"
    """A feed contradicts the calendar, and nobody has decided who is right."""


OF_RUNS = frozenset(
    {
        AlertKind.JOB_FAILED,
        AlertKind.WINDOW_EXPIRED,
        AlertKind.MISSED_SESSION,
        AlertKind.DEADLINE_MISSED,
    }
)
"""What only an operator, or a new attempt, puts right."""


class Severity(StrEnum):
    """How bad it is."""

    WARNING = "warning"
    """It has to be looked at, in time."""
    ERROR = "error"
    """Something has gone wrong."""
    CRITICAL = "critical"
    """Nothing goes on."""


class Told(StrEnum):
    """What a message says."""

    RAISED = "raised"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Something that is wrong now."""

    key: str
    """The same as long as it is the same trouble: kind and what it is about."""
    kind: AlertKind
    severity: Severity
    summary: str
    """One line, without a full stop: what is wrong with what."""
    since: datetime
    """Since when, in wall time."""
    markets: tuple[str, ...] = ()
    """Those it is about; none where it is about all."""
    pipeline: str | None = None
    dag_id: str | None = None
    priority: JobPriority | None = None
    """The highest of the jobs it is about."""
    subjects: tuple[str, ...] = ()
    """What of it is wrong, such as jobs; another one is told again."""
    details: tuple[str, ...] = ()
    """Lines: what happens next, and what to do."""
    after: timedelta = timedelta(0)
    """For how long it must have been seen before anybody is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An alert as it is kept: one that is open, or that may have to be told, or opened again."""

    alert_id: int
    key: str
    kind: AlertKind
    summary: str
    severity: Severity
    details: tuple[str, ...]
    markets: tuple[str, ...]
    dag_id: str | None
    subjects: tuple[str, ...]
    raised_at: datetime
    resolved_at: datetime | None
    acknowledged: bool
    told: Told | None
    """What was told last."""
    told_at: datetime | None
    told_subjects: tuple[str, ...]

    @property
    def is_open(self) -> bool:
        """Whether it has not been resolved."""
        return self.resolved_at is None


@dataclass(frozen=True, slots=True)
class Raise:
    """A cause that is not kept yet; it is told at once."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Update:
    """A cause that goes on or has come back: the alert is open, and says what is wrong now."""

    alert: Kept
    cause: Cause
    tell: bool
    anew: bool = False
    """Whether it is not what somebody sees to: it had been over, or has become worse."""


@dataclass(frozen=True, slots=True)
class Resolve:
    """What is over, or has been open for too long; or was over before, and is told only now."""

    alert: Kept
    tell: bool
    silently: bool = False
    """Whether nobody ever is to be told."""


Change = Raise | Update | Resolve

Unseen = tuple[AlertKind, str | None]
"""A kind, and the market in which it could not be seen what of it is wrong; ``None``: in any."""


def decide(
    causes: Iterable[Cause],
    kept: Iterable[Kept],
    now: datetime,
    quiet: timedelta,
    *,
    unseen: Collection[Unseen] = (),
    forgotten: Collection[str] = (),
) -> tuple[Change, ...]:
    """
    Say what has to change for the alerts to be what is wrong.

    Args:
        causes: All that is wrong now.
        kept: Alerts that are open; that were resolved lately, as `reopens_within` says; and that
            were, and of which recipients do not know it yet.
        now: Wall time.
        quiet: How long after a message of an alert the next one of it may be sent.
        unseen: Of what it could not be seen whether it is wrong: its alerts stay as they are.
        forgotten: Keys of what is not looked for any more: it may not be over, so nobody is told.

    Returns:
        At most one change for each key. To decide again after they have been applied, at the same
        ``now``, gives none.
    """
    alerts: dict[str, Kept] = {}
    for each in sorted(kept, key=lambda each: (each.is_open, each.alert_id)):
        alerts[each.key] = each  # the one that is open, otherwise the last one
    changes: list[Change] = []
    old = {key for key, alert in alerts.items() if _is_old(alert, now)}
    # What is open for so long is closed, whatever is still wrong.
    current = {
        cause.key: cause for cause in causes if not (cause.key in old and alerts[cause.key].is_open)
    }
    for key, cause in current.items():
        alert = alerts.get(key)
        if alert is None or not (alert.is_open or _is_recent(alert, now, quiet)):
            changes.append(Raise(cause))
            continue
        anew = alert.acknowledged and (not alert.is_open or _is_worse(cause, alert))
        new = alert.told is not Told.RAISED or not set(cause.subjects) <= set(alert.told_subjects)
        tell = (anew or (new and not alert.acknowledged)) and _is_quiet_over(alert, now, quiet)
        if tell or anew or not alert.is_open or _says_otherwise(cause, alert):
            changes.append(Update(alert, cause, tell, anew))
    for key, alert in alerts.items():
        if key in current or any((alert.kind, each) in unseen for each in (None, *alert.markets)):
            continue
        silently = key in old or key in forgotten
        known = alert.told is Told.RAISED and not alert.acknowledged
        tell = known and not silently and _is_quiet_over(alert, now, quiet)
        if tell or alert.is_open or (known and silently):
            changes.append(Resolve(alert, tell, silently))
    return tuple(changes)


def reopens_within(quiet: timedelta) -> timedelta:
    """Return how soon after its end what comes back is the same alert."""
    return max(REOPENS_WITHIN, quiet)


def _is_recent(alert: Kept, now: datetime, quiet: timedelta) -> bool:
    """Say whether what comes back is this alert; also where nobody knows yet that it was over."""
    if alert.told is Told.RAISED and not alert.acknowledged:
        return True
    return alert.resolved_at is not None and now - alert.resolved_at < reopens_within(quiet)


def _is_old(alert: Kept, now: datetime) -> bool:
    return alert.kind in OF_RUNS and now - alert.raised_at >= KEPT_OPEN


def _is_worse(cause: Cause, alert: Kept) -> bool:
    order = list(Severity)
    return order.index(cause.severity) > order.index(alert.severity)


def _is_quiet_over(alert: Kept, now: datetime, quiet: timedelta) -> bool:
    return alert.told_at is None or now - alert.told_at >= quiet


def _says_otherwise(cause: Cause, alert: Kept) -> bool:
    return (cause.summary, cause.severity, cause.subjects, cause.details) != (
        alert.summary,
        alert.severity,
        alert.subjects,
        alert.details,
    )


# --- who is told --------------------------------------------------------------------------------

_WORDS: Mapping[str, Collection[str]] = {
    "kind": [each.value for each in AlertKind],
    "severity": [each.value for each in Severity],
    "priority": [each.name for each in JobPriority],
}
"""Names of a route whose values are ours."""
_NAMES = (*_WORDS, "market", "pipeline")


class RouteError(PrometheusError):
    """A route that can not be meant; ``faults`` lists everything that is wrong with it."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(faults))


@dataclass(frozen=True, slots=True)
class Route:
    """Which alerts a channel gets: those that satisfy every condition of one of its clauses."""

    clauses: tuple[Mapping[str, frozenset[str]], ...] = field(default=())
    """Name -> values of which one must be the alert's; no clause at all: every alert."""

    def takes(self, facts: Mapping[str, Collection[str]]) -> bool:
        """
        Say whether an alert is for this channel.

        Args:
            facts: Name, as in a clause -> what the alert has of it; nothing where it is about all.
        """
        return not self.clauses or any(
            all(not values.isdisjoint(facts[name]) for name, values in clause.items())
            for clause in self.clauses
        )

    @property
    def pipelines(self) -> frozenset[str]:
        """The pipelines that it names."""
        return frozenset().union(*(clause.get("pipeline", frozenset()) for clause in self.clauses))


def read_route(text: str) -> Route:
    """
    Read ``"market=US_EQ,EU_EQ priority=CRITICAL; kind=scheduler_silent"``.

    Raises:
        RouteError: With every fault. Whether there is a pipeline is not known here.
    """
    faults: list[str] = []
    clauses = []
    for part in text.split(";"):
        clause: dict[str, frozenset[str]] = {}
        for condition in part.split():
            name, equals, values = condition.partition("=")
            if not (equals and values.strip(",")):
                faults.append(f"{condition!r} is no condition; write market=US_EQ,EU_EQ")
            elif name not in _NAMES:
                faults.append(f"{name!r} is none of {', '.join(_NAMES)}.{nearest(name, _NAMES)}")
            elif name in clause:
                faults.append(f"{name} is named twice; write {name}=ONE,OTHER")
            else:
                given = [each for each in values.split(",") if each]
                clause[name] = frozenset(_read_value(name, each, faults) for each in given)
        if clause:
            clauses.append(clause)
    if not clauses and not faults:
        faults.append("it names nothing; leave it out to send everything")
    if faults:
        raise RouteError(faults)
    return Route(tuple(clauses))


def _read_value(name: str, value: str, faults: list[str]) -> str:
    if name == "market":
        try:
            return get_market(value).market_id
        except PrometheusError as error:
            faults.append(str(error))
    elif name in _WORDS:
        known = {each.casefold(): each for each in _WORDS[name]}
        if value.casefold() in known:
            return known[value.casefold()]
        faults.append(f"there is no {name} {value!r}.{nearest(value, _WORDS[name])}")
    return value
