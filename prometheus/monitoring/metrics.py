"""
What the monitoring system Prometheus is told when it scrapes.

The state of the installation is read from the database, Redis and the calendars, by whoever is
asked: all web processes of an installation say the same of it. What has ended since the last scrape
is counted by each for itself (`prometheus.monitoring.tally`).
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import TypeVar

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector
from sqlalchemy.exc import DBAPIError

from prometheus.core.days import date_there
from prometheus.core.exchanges import snapshot_version
from prometheus.core.horizons import HorizonLevel, horizon_level
from prometheus.core.market_state import MarketState, get_market_state, get_next_state_transition
from prometheus.core.markets import get_market
from prometheus.core.overrides import Override, in_force
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch import figures
from prometheus.dispatch.broker import connected, read_depths
from prometheus.dispatch.crew import Crew, count_listeners, judge_leader
from prometheus.errors import HorizonError, PrometheusError
from prometheus.masking import safe_text
from prometheus.monitoring.installation import WATCHING, Installation
from prometheus.monitoring.patience import Shared
from prometheus.monitoring.tally import Count, Tally, Time
from prometheus.orchestration.alerts import AlertKind, Severity
from prometheus.persistence import migrate
from prometheus.persistence.alerts import Undelivered, Watched
from prometheus.persistence.clock import Now
from prometheus.persistence.deadlines import Due, deadlines_of_runs
from prometheus.persistence.engine import check_exists, first_line
from prometheus.persistence.listings import (
    OpenWork,
    QueueLoad,
    read_loads_and_busy,
    read_open_work,
)
from prometheus.persistence.troubles import Waiting, waiting_in_queues
from prometheus.release import release

log = logging.getLogger(__name__)

T = TypeVar("T")

# Not `prometheus_`: those are the names of what a Prometheus server says of itself. This is the
# name of the distribution.
_PREFIX = "prometheus_markets"
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Gauge:
    """A metric; docs/metrics.md has the same."""

    name: str
    """Without the prefix; one in seconds says so at its end."""
    text: str
    labels: tuple[str, ...] = ()
    prefix: str = _PREFIX

    def family(self) -> GaugeMetricFamily:
        """Make one without values."""
        unit = "seconds" if self.name.endswith("_seconds") else ""
        name = f"{self.prefix}_{self.name}"
        return GaugeMetricFamily(name, self.text, labels=self.labels, unit=unit)


_COMPONENT_UP = Gauge("component_up", "Whether a component can be read, and works.", ("component",))
_CALENDAR_UP = Gauge(
    "calendar_up", "Whether a market's calendar can be read and reaches today.", ("market",)
)
_LEADER = Gauge("scheduler_leader", "Whether a scheduler holds the lead.")
_STANDBYS = Gauge("scheduler_standbys", "Schedulers that wait for the lead, and are heard.")
_EPOCH = Gauge("scheduler_epoch", "Number of the lead; it grows when the lead passes on.")
_LAST_TICK = Gauge(
    "scheduler_last_tick_timestamp_seconds", "When the leader last completed a tick."
)
_WORKERS = Gauge(
    "workers",
    "Workers that listen to a queue: alive hold their lease, silent ones have lost it and are "
    "not given up yet.",
    ("queue", "state"),
)
_DESIRED = Gauge(
    "desired_workers",
    "Workers that a queue's backlog needs, at least one, by workers.concurrency; not told where "
    "that is not set.",
    ("queue",),
)
_WORKER_UP = Gauge(
    "worker_up",
    "Whether a worker holds its lease; not told of one that has ended or been given up.",
    ("worker",),
)
_SLOTS = Gauge("worker_slots", "Jobs that a worker can run at once.", ("worker",))
_BUSY = Gauge("worker_busy", "Jobs that a worker runs.", ("worker",))
_MESSAGES = Gauge("queue_messages", "Messages that wait in Redis, canaries included.", ("queue",))
_QUEUED = Gauge(
    "queue_executions",
    "Executions of a queue: waiting are due, paused are due and kept from starting by an "
    "operator, delayed are queued for later, running have started.",
    ("queue", "state"),
)
_OLDEST = Gauge(
    "queue_oldest_seconds",
    "For how long the first of those that wait in a queue has been due, those that are paused "
    "left out; 0 if none waits.",
    ("queue",),
)
_UNSENT = Gauge(
    "outbox_pending",
    "Executions that wait in a queue, and whose message has not been sent.",
    ("queue",),
)
_OLDEST_UNSENT = Gauge(
    "outbox_oldest_seconds",
    "For how long the first of those whose message has not been sent has been due; 0 if there is "
    "none.",
    ("queue",),
)
_OPEN_RUNS = Gauge("open_runs", "Runs that are open.", ("market", "pipeline"))
_EXECUTIONS = Gauge(
    "executions",
    "Executions of open runs that have not ended.",
    ("market", "pipeline", "status"),
)
_HELD = Gauge(
    "executions_held",
    "Executions, PENDING or QUEUED, that an operator keeps from starting.",
    ("market", "pipeline"),
)
_PAUSED = Gauge(
    "paused",
    "Whether an operator has paused a pipeline, its market, or it in that market.",
    ("market", "pipeline"),
)
_LATE_RUNS = Gauge(
    "runs_late",
    "Runs that were not made in time, whose jobs wait for a worker, or what their sensors wait for "
    "is late; as alerts are open of them.",
    ("market", "pipeline"),
)
_SLACK = Gauge(
    "deadline_slack_seconds",
    "Market time to the first deadline that an open run has not met, its own or one of a job; "
    "negative by how late it is; not told where no open run has one.",
    ("market", "pipeline"),
)
_MARKET_TIME = Gauge(
    "market_time_timestamp_seconds", "Market time; in a replay it is not that of the wall."
)
_STATE = Gauge("market_state", "Whether a market is in a state.", ("market", "state"))
_TRANSITION = Gauge(
    "market_next_transition_timestamp_seconds",
    "Market time at which a market's state changes next.",
    ("market",),
)
_HORIZON = Gauge(
    "calendar_horizon_seconds",
    "From today, in market time, to the last date whose sessions are known: whole days, negative "
    "when that is past.",
    ("market",),
)
_OVERRIDES = Gauge(
    "calendar_overrides",
    "Overrides of sessions from today on: in_force, or unreadable, which do not hold.",
    ("market", "state"),
)
_DISAGREEMENTS = Gauge(
    "feed_disagreements",
    "What feeds say of days of a market against its calendar, and nobody has decided; as alerts "
    "are open of it.",
    ("market",),
)
_OPEN_ALERTS = Gauge(
    "open_alerts",
    "Alerts that are open: new, or acknowledged by somebody.",
    ("kind", "severity", "state"),
)
_LAST_LOOK = Gauge(
    "alerts_last_look_timestamp_seconds",
    "When a look at what is wrong was completed last, by whichever web process; as of the next.",
)
_ALERT_MESSAGES = Gauge(
    "alert_messages",
    "Messages of alerts: waiting have not been accepted yet; given_up are not sent any more, of "
    "alerts that are open and not acknowledged.",
    ("channel", "state"),
)
_OLDEST_MESSAGE = Gauge(
    "alert_messages_oldest_seconds",
    "For how long the first of those that wait for a channel has waited; 0 if none waits.",
    ("channel",),
)
GAUGES = (
    _COMPONENT_UP,
    _CALENDAR_UP,
    _LEADER,
    _STANDBYS,
    _EPOCH,
    _LAST_TICK,
    _WORKERS,
    _DESIRED,
    _WORKER_UP,
    _SLOTS,
    _BUSY,
    _MESSAGES,
    _QUEUED,
    _OLDEST,
    _UNSENT,
    _OLDEST_UNSENT,
    _OPEN_RUNS,
    _EXECUTIONS,
    _HELD,
    _PAUSED,
    _LATE_RUNS,
    _SLACK,
    _MARKET_TIME,
    _STATE,
    _TRANSITION,
    _HORIZON,
    _OVERRIDES,
    _DISAGREEMENTS,
    _OPEN_ALERTS,
    _LAST_LOOK,
    _ALERT_MESSAGES,
    _OLDEST_MESSAGE,
)

_ACTS = Count(
    "scheduler_executions_total",
    "What ticks did with executions: claimed them to be run, lost_claims that came too late, sent "
    "messages, rung again for those whose message was gone, rescued those whose worker was.",
    ("act", figures.ACTS),
    of=(),
)
_TICKS = Time("scheduler_tick_seconds", "How long ticks took that were completed.", labels=())
KEPT_COUNTS, KEPT_TIMES = (_ACTS,), (_TICKS,)
"""What schedulers count, all of them together, and keep with the lead."""

# What celery-exporter tells, under its names and labels; no more than is known here as well.
_CELERY = "celery"
_CELERY_LENGTH = Gauge(
    "queue_length",
    "Messages that wait in Redis, canaries included.",
    ("queue_name",),
    _CELERY,
)
_CELERY_WORKERS = Gauge(
    "active_worker_count",
    "Workers that listen to a queue and hold their lease.",
    ("queue_name",),
    _CELERY,
)
_CELERY_UP = Gauge(
    "worker_up",
    "Whether a worker of a host holds its lease; not told of a host whose workers have all ended "
    "or been given up.",
    ("hostname",),
    _CELERY,
)

CELERY_GAUGES = (_CELERY_LENGTH, _CELERY_WORKERS, _CELERY_UP)


class _Values:
    """The families of one scrape, as they are filled."""

    def __init__(self) -> None:
        self._families = {gauge: gauge.family() for gauge in (*GAUGES, *CELERY_GAUGES)}
        self._kept: list[Metric] = []

    def tell_figures(self, found: Mapping[str, int]) -> None:
        acts = CounterMetricFamily(f"{_PREFIX}_{_ACTS.name}", _ACTS.text, labels=_ACTS.labels)
        for act in figures.ACTS:
            acts.add_metric((act,), found.get(act, 0))
        ticks = HistogramMetricFamily(f"{_PREFIX}_{_TICKS.name}", _TICKS.text, unit="seconds")
        buckets, seconds = figures.histogram(found)
        named = [("+Inf" if math.isinf(each) else str(each), count) for each, count in buckets]
        ticks.add_metric((), named, seconds)
        self._kept = [acts, ticks]

    def tell(self, gauge: Gauge, value: float, *labels: str) -> None:
        self._families[gauge].add_metric(labels, value)

    def families(self) -> list[Metric]:
        return [*self._families.values(), *self._kept]


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the database says."""

    now: Now
    crew: Crew
    loads: Mapping[str, QueueLoad]
    waiting: Mapping[str, Waiting]
    """Queue -> what is due, and nobody keeps from starting."""
    busy: Mapping[str, int]
    """Incarnation of a worker -> jobs that it runs."""
    open_work: Mapping[tuple[str, str], OpenWork]
    due: Sequence[Due]
    """Deadlines of open runs."""
    watched: Watched


class Scraper:
    """Reads an installation whenever it is asked to; several may ask at once."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._database = Shared(self._read_database)
        self._broker = Shared(self._read_broker)
        self._tally = Tally(_PREFIX)
        self._seen: Now | None = None
        """The last look at the database, by which calendars are told while there is none."""
        self._build = InfoMetricFamily(
            f"{_PREFIX}_build",
            "What is installed.",
            {
                "version": release() or "",
                "tables": migrate.head(),
                "calendars": snapshot_version(),
            },
        )

    def registry(self, *, within: float) -> CollectorRegistry:
        """
        Make a registry that has the installation's metrics, and none of this process.

        Args:
            within: For how many seconds to wait for what does not answer.
        """
        registry = CollectorRegistry()
        registry.register(_Scrape(self, within))
        return registry

    def read(self, within: float) -> Iterator[Metric]:
        """Read everything; what can not be read is left out, and said to be so."""
        ends = time.monotonic() + within
        database, broker = self._database.begin(), self._broker.begin()
        values = _Values()
        stored = _outcome("database", database, ends)
        if isinstance(stored, _Stored):
            self._seen = stored.now
        self._tell_database(values, stored)
        markets = self._markets()
        if isinstance(stored, _Stored):
            self._tell_queues(values, stored, markets)
            self._tell_runs(values, stored, markets)
            self._tell_alerts(values, stored, markets)
        _tell_calendars(values, markets, self._market_time(stored))
        depths = _outcome("broker", broker, ends)
        values.tell(_COMPONENT_UP, not isinstance(depths, Exception), "broker")
        if not isinstance(depths, Exception):
            for queue in markets:
                values.tell(_MESSAGES, depths[queue], queue)
                values.tell(_CELERY_LENGTH, depths[queue], queue)
        yield self._build
        yield from values.families()
        yield from self._tally.families()

    def _read_database(self) -> _Stored:
        check_exists(self._installation.engine)
        migrate.check(self._installation.engine)
        with self._installation.look() as look:
            connection, now = look.connection, look.now
            for pipeline, market_id in self._configured(self._installation.markets(now)):
                self._tally.begin(market_id, pipeline)
            for channel in self._installation.settings.channels:
                self._tally.begin_channel(channel)
            runs, watched = self._tally.look(
                connection,
                now,
                watching=WATCHING,
                first_looked_at=self._installation.first_looked_at,
            )
            loads, busy = read_loads_and_busy(connection, now.wall_at)
            return _Stored(
                now,
                look.crew(),
                loads,
                {each.queue: each for each in waiting_in_queues(connection, now.wall_at)},
                busy,
                read_open_work(connection),
                deadlines_of_runs(connection, runs, now),
                watched,
            )

    def _read_broker(self) -> dict[str, int]:
        settings = self._installation.settings
        with connected(settings.broker.url) as client:
            return read_depths(client, settings.markets.enabled)

    def _markets(self) -> Collection[str]:
        if self._seen is None:
            return self._installation.settings.markets.enabled
        return self._installation.markets(self._seen)

    def _market_time(self, stored: _Stored | Exception) -> datetime:
        if isinstance(stored, _Stored):
            return stored.now.market_at
        wall_at = datetime.now(UTC)
        return self._seen.clock.market_time(wall_at) if self._seen else wall_at

    def _tell_database(self, values: _Values, stored: _Stored | Exception) -> None:
        if isinstance(stored, migrate.DatabaseRevisionError):
            values.tell(_COMPONENT_UP, 1, "database")
            values.tell(_COMPONENT_UP, 0, "tables")
            return
        if isinstance(stored, Exception):
            values.tell(_COMPONENT_UP, 0, "database")
            return
        values.tell(_COMPONENT_UP, 1, "database")
        values.tell(_COMPONENT_UP, 1, "tables")
        leader = stored.crew.leader
        works, _ = judge_leader(leader, self._installation.settings.scheduler.lease)
        values.tell(_COMPONENT_UP, works, "scheduler")
        values.tell(_LEADER, stored.crew.scheduled)
        values.tell(_STANDBYS, sum(each.alive for each in stored.crew.standbys))
        if leader is not None:
            values.tell(_EPOCH, leader.epoch)
            values.tell_figures(leader.figures)
            if leader.ticked_at is not None:
                values.tell(_LAST_TICK, leader.ticked_at.timestamp())

    def _tell_queues(self, values: _Values, stored: _Stored, markets: Collection[str]) -> None:
        crew, empty = stored.crew, QueueLoad(0, 0, 0, None)
        alive, silent = crew.queues(), count_listeners(crew.silent)
        concurrency = self._installation.settings.workers.concurrency
        # Others may have workers, or rows from before the settings were changed.
        for queue in dict.fromkeys((*markets, *sorted({*alive, *silent, *stored.loads}))):
            load = stored.loads.get(queue, empty)
            values.tell(_WORKERS, alive.get(queue, 0), queue, "alive")
            values.tell(_WORKERS, silent.get(queue, 0), queue, "silent")
            values.tell(_CELERY_WORKERS, alive.get(queue, 0), queue)
            free = stored.waiting.get(queue)
            waiting = free.count if free else 0
            values.tell(_QUEUED, waiting, queue, "waiting")
            # Read one after the other: something may have come or gone in between.
            values.tell(_QUEUED, max(0, load.waiting - waiting), queue, "paused")
            values.tell(_QUEUED, load.delayed, queue, "delayed")
            values.tell(_QUEUED, load.running, queue, "running")
            since = free.since if free else stored.now.wall_at
            values.tell(_OLDEST, (stored.now.wall_at - since).total_seconds(), queue)
            values.tell(_UNSENT, free.unsent if free else 0, queue)
            since = free.unsent_since if free and free.unsent_since else stored.now.wall_at
            values.tell(_OLDEST_UNSENT, (stored.now.wall_at - since).total_seconds(), queue)
            if concurrency is not None:
                values.tell(_DESIRED, max(1, math.ceil(load.backlog / concurrency)), queue)
        for gauge, name in ((_CELERY_UP, "host"), (_WORKER_UP, "worker")):
            up = {each[name]: False for each in crew.silent}
            up |= {each[name]: True for each in crew.workers}
            for named, is_up in sorted(up.items()):
                values.tell(gauge, is_up, named)
        slots: dict[str, int] = defaultdict(int)
        busy: dict[str, int] = defaultdict(int)
        for each in crew.workers:  # two may have one name, where the first is not given up yet
            busy[each["worker"]] += stored.busy.get(each["incarnation"], 0)
            if each["slots"] is not None:  # one of an earlier release does not say
                slots[each["worker"]] += each["slots"]
        for gauge, numbers in ((_SLOTS, slots), (_BUSY, busy)):
            for worker, number in numbers.items():
                values.tell(gauge, number, worker)

    def _configured(self, markets: Collection[str]) -> list[tuple[str, str]]:
        """Name the pipelines and markets that are to run."""
        pipelines, _ = self._installation.pipelines
        return [
            (pipeline.name, market_id)
            for pipeline in pipelines.values()
            for market_id in pipeline.markets
            if market_id in markets
        ]

    def _tell_runs(self, values: _Values, stored: _Stored, markets: Collection[str]) -> None:
        configured, nothing = self._configured(markets), OpenWork(0, 0, 0, 0, 0)
        for pipeline, market_id in dict.fromkeys((*configured, *sorted(stored.open_work))):
            work = stored.open_work.get((pipeline, market_id), nothing)
            values.tell(_OPEN_RUNS, work.runs, market_id, pipeline)
            values.tell(_EXECUTIONS, work.pending, market_id, pipeline, "PENDING")
            values.tell(_EXECUTIONS, work.queued, market_id, pipeline, "QUEUED")
            values.tell(_EXECUTIONS, work.running, market_id, pipeline, "RUNNING")
            values.tell(_HELD, work.held, market_id, pipeline)
            paused = any(each.covers_all(market_id, pipeline) for each in stored.crew.pauses)
            values.tell(_PAUSED, paused, market_id, pipeline)
        left: dict[tuple[str, str], timedelta] = {}
        for each in stored.due:
            if each.done_at is None:
                of, slack = (each.market_id, each.pipeline), each.deadline_at - stored.now.market_at
                left[of] = min(slack, left.get(of, slack))
        for of, slack in left.items():
            values.tell(_SLACK, slack.total_seconds(), *of)

    def _tell_alerts(self, values: _Values, stored: _Stored, markets: Collection[str]) -> None:
        watched = stored.watched
        found = Counter(
            (row.kind, row.severity, "acknowledged" if row.acknowledged_at else "new")
            for row in watched.open
        )
        for labels in product(AlertKind, Severity, ("new", "acknowledged")):
            values.tell(_OPEN_ALERTS, found[labels], *labels)
        late = Counter(
            (row.pipeline, row.markets[0]) for row in watched.open if row.kind == AlertKind.RUN_LATE
        )
        for pipeline, market_id in dict.fromkeys((*self._configured(markets), *sorted(late))):
            values.tell(_LATE_RUNS, late[pipeline, market_id], market_id, pipeline)
        said = Counter(
            # Its exchange is named, too.
            market_id
            for row in watched.open
            if row.kind == AlertKind.FEED_DISAGREEMENT
            for market_id in row.markets
        )
        for market_id in markets:
            values.tell(_DISAGREEMENTS, said[market_id], market_id)
        if watched.looked_at is not None:
            values.tell(_LAST_LOOK, watched.looked_at.timestamp())
        configured, nothing = self._installation.settings.channels, Undelivered()
        # Others may have messages from before the settings were changed.
        for channel in dict.fromkeys((*configured, *sorted(watched.undelivered))):
            messages = watched.undelivered.get(channel, nothing)
            values.tell(_ALERT_MESSAGES, messages.waiting, channel, "waiting")
            values.tell(_ALERT_MESSAGES, messages.given_up, channel, "given_up")
            since = messages.waiting_since or stored.now.wall_at
            values.tell(_OLDEST_MESSAGE, (stored.now.wall_at - since).total_seconds(), channel)


@dataclass(frozen=True)
class _Scrape(Collector):
    """One scrape, as the client library wants it."""

    scraper: Scraper
    within: float

    def collect(self) -> Iterator[Metric]:
        return self.scraper.read(self.within)


def _outcome(component: str, answer: Future[T], ends: float) -> T | Exception:
    """Wait for a part, by the monotonic clock; return why there is none if so."""
    try:
        return answer.result(max(0, ends - time.monotonic()))
    except Exception as error:  # whatever ails one part, the others are told
        known = isinstance(error, PrometheusError | DBAPIError | TimeoutError)
        log.warning(
            "metrics_incomplete",
            extra={"component": component, "error": safe_text(first_line(error))},
            exc_info=None if known else error,
        )
        return error


def _tell_calendars(values: _Values, markets: Collection[str], at: datetime) -> None:
    values.tell(_MARKET_TIME, at.timestamp())
    overrides = in_force()
    standing, unreadable = overrides.standing(), overrides.unreadable()
    for market_id in markets:
        works = False
        try:
            calendar = TradingCalendar(market_id, overrides=overrides)
            today = at.date()
            values.tell(_HORIZON, (calendar.horizon - today).days * _DAY_SECONDS, market_id)
            _tell_state(values, market_id, at)
            for state, found in (("in_force", standing), ("unreadable", unreadable)):
                values.tell(_OVERRIDES, _count_to_come(found, calendar, at), market_id, state)
            works = horizon_level(calendar.horizon, today) is not HorizonLevel.ERROR
        except PrometheusError:
            pass  # told, with the reason, by /readyz
        except Exception:  # whatever ails one calendar, the rest is told
            log.exception("metrics_incomplete", extra={"component": f"calendar {market_id}"})
        values.tell(_CALENDAR_UP, works, market_id)


def _tell_state(values: _Values, market_id: str, at: datetime) -> None:
    try:
        current = get_market_state(market_id, at)
        for state in MarketState:
            values.tell(_STATE, state is current, market_id, state)
        transition = get_next_state_transition(market_id, at)
    except HorizonError:  # nothing is known of then, or of what follows
        return
    values.tell(_TRANSITION, transition.at.timestamp(), market_id)


def _count_to_come(overrides: tuple[Override, ...], calendar: TradingCalendar, at: datetime) -> int:
    market, today = get_market(calendar.market_id), date_there(calendar, at)
    return sum(each.touches(market) and each.session >= today for each in overrides)
