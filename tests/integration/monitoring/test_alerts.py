"""Alerts: whatever goes wrong is told once, also that it is over; nothing floods, or gives away."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from apprise.plugins.pagerduty import PAGERDUTY_API_LOOKUP
from sqlalchemy import Engine, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from prometheus.configuration import SettingsError
from prometheus.core.holidays import Holiday, HolidayKind, HolidayState
from prometheus.core.trading_calendar import TradingCalendar
from prometheus.dispatch.names import LEADERSHIP
from prometheus.monitoring.alerts.sending import Sender
from prometheus.monitoring.alerts.watching import Watcher
from prometheus.monitoring.app import create_app
from prometheus.monitoring.installation import WATCHING, Installation
from prometheus.orchestration.dag import JobPriority
from prometheus.orchestration.deadlines import Deadline
from prometheus.orchestration.lifecycle import JobStatus
from prometheus.persistence import alerts, leases, operators, pauses, pruning, runs
from prometheus.persistence.clock import read_now
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.executions import Failure
from prometheus.persistence.holidays import decide_holidays, propose_holidays
from prometheus.persistence.operators import OperatorError
from prometheus.persistence.tables import alert_deliveries, worker_incarnations
from prometheus.persistence.tables import alerts as alerts_table
from prometheus.persistence.tables import leases as leases_table
from prometheus.settings import load_settings
from tests.integration.monitoring.conftest import SECRET, Web, served
from tests.integration.monitoring.recipients import Recipients, receiving
from tests.integration.monitoring.test_pages import show
from tests.integration.persistence.test_sensors import poll, sensor
from tests.integration.persistence.world import HOUR, MINUTE, World, at_once, job
from tests.servers import free_port, wait_until

SECOND = timedelta(seconds=1)
DAYS = timedelta(days=100)
TOKEN = "T0kenOfTheChannel"
WEEKLY = """
from prometheus import JobContext, MarketState, Pipeline

weekly = Pipeline("weekly", markets=["XSHG"], sessions="last of week")


@weekly.job(required_state=MarketState.POST_CLOSE)
def settle(ctx: JobContext) -> None: ...
"""


@dataclass
class Alarm:
    """An installation that is watched, and who is told."""

    world: World
    recipients: Recipients
    variables: dict[str, str]
    folder: Path
    watcher: Watcher = field(init=False)
    here: Installation = field(init=False)

    def __post_init__(self) -> None:
        self.watcher, self.here = self.another()

    def another(
        self, given: Mapping[str, str] = MappingProxyType({}), *, patience: float = 30
    ) -> tuple[Watcher, Installation]:
        """Make one more watcher, as another web process has it."""
        settings = load_settings({**self.variables, **given}, self.folder)
        here = Installation(settings)
        sender = Sender(here.engine, settings.channels, patience=timedelta(seconds=patience))
        return Watcher(here, sender=sender), here

    def look(self, at: datetime | None = None) -> list[str]:
        """Look once; return the titles that arrive by this, the same by web and mail."""
        before = len(self.recipients.posts), len(self.recipients.mails)
        assert self.watcher.look(at)
        self.watcher.wait_for_sending()
        posts = self.recipients.titles[before[0] :]
        assert posts == [title for title, _ in self.recipients.mails[before[1] :]]
        return posts

    @property
    def last(self) -> str:
        """The text of what came last."""
        body: str = self.recipients.posts[-1]["message"]
        return body

    def rows(self) -> list[Any]:
        with reading(self.world.engine) as connection:
            return list(connection.execute(select(alerts_table).order_by(alerts_table.c.alert_id)))

    def deliveries(self) -> list[Any]:
        with reading(self.world.engine) as connection:
            query = select(alert_deliveries).order_by(alert_deliveries.c.delivery_id)
            return list(connection.execute(query))


@pytest.fixture
def recipients() -> Iterator[Recipients]:
    with receiving() as found:
        yield found


def make_alarm(url: str, recipients: Recipients, folder: Path, **given: str) -> Alarm:
    engine = create_engine(url)
    world = World(engine)
    lead(world)
    web, mail = recipients.web_port, recipients.mail_port
    named = "from=scheduler@example.com&to=desk@example.com&mode=insecure"
    variables = {
        "PROMETHEUS__DATABASE__URL": url,
        "PROMETHEUS__MARKETS__ENABLED": "US_EQ",
        "PROMETHEUS__SCHEDULER__LEASE": "24h",
        "PROMETHEUS__FLOWER__BASIC_AUTH": f"me:{SECRET}",
        "PROMETHEUS__CHANNELS__HOOK": f"json://127.0.0.1:{web}/{TOKEN}?rto=60",
        "PROMETHEUS__CHANNELS__MAIL": f"mailto://127.0.0.1:{mail}?{named}",
        **given,
    }
    return Alarm(world, recipients, variables, folder)


@pytest.fixture
def alarm(database_url: str, recipients: Recipients, tmp_path: Path) -> Iterator[Alarm]:
    """On a new database of each kind in turn."""
    made = make_alarm(database_url, recipients, tmp_path)
    yield made
    made.here.close()
    made.world.engine.dispose()


@pytest.fixture
def one_alarm(sqlite_url: str, recipients: Recipients, tmp_path: Path) -> Iterator[Alarm]:
    """Where the kind of database does not matter."""
    made = make_alarm(sqlite_url, recipients, tmp_path)
    yield made
    made.here.close()
    made.world.engine.dispose()


def lead(world: World, lease: timedelta = 365 * 24 * HOUR) -> None:
    with writing(world.engine) as connection:
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=lease)
        at = leases.wall_time(connection)
        leases.lead(connection, LEADERSHIP, "there:7:x", lease=lease, ticked_at=at)


def act(world: World, do: Callable[..., Any], *names: Any, **how: Any) -> Any:
    with writing(world.engine) as connection:
        return do(connection, *names, **how)


class TestKinds:
    """Each is caused by what the scheduler, workers, operators and feeds do themselves."""

    @pytest.mark.promise("P7")
    def test_a_job_that_failed_for_good_until_a_new_attempt_has_succeeded(
        self, alarm: Alarm
    ) -> None:
        world = alarm.world
        dag = world.run(
            job("a", max_retries=0, priority=JobPriority.CRITICAL), job("b", max_retries=1)
        )
        worker = world.worker(lease=DAYS)
        assert alarm.look() == []
        world.fail(world.running(dag, "a", worker), Failure(f"ValueError: no {SECRET}", {}))
        world.fail(world.running(dag, "b", worker))  # is tried again by itself
        assert alarm.look() == [f"Critical: {dag.dag_id}: a failed for good"]
        act(world, operators.cancel, dag.dag_id, "b", actor="ada")
        for words in (
            "a: ValueError: no ***",
            "markets: US_EQ",
            "America/New_York",
            f"prometheus retry {dag.dag_id}",
            "alerts ack 1",
        ):
            assert words in alarm.last
        assert alarm.look() == []

        act(world, operators.retry, dag.dag_id, "a", actor="ada")
        later = world.now() + HOUR
        assert alarm.look(later) == []
        world.fail(world.running(dag, "a", worker))
        assert alarm.look(later) == [f"Critical: {dag.dag_id}: a (attempt 2) failed for good"]
        act(world, operators.retry, dag.dag_id, "a", actor="ada")
        world.finish(dag, worker, "a")
        assert alarm.look(later) == []  # in the quiet time
        assert alarm.look(later + 16 * MINUTE) == [
            f"Over: {dag.dag_id}: a (attempt 2) failed for good"
        ]
        assert [row.times for row in alarm.rows()] == [1]
        assert SECRET not in str([alarm.rows(), alarm.deliveries()])

    @pytest.mark.promise("P7")
    def test_jobs_that_could_not_start_in_time_until_they_are_forced(self, alarm: Alarm) -> None:
        world = alarm.world
        dag = world.run(job("a"), job("b"))
        ids = world.ids(dag)
        world.end_waiting({ids["a"]: "its window closed"}, JobStatus.EXPIRED)
        assert alarm.look() == [f"Error: {dag.dag_id}: a did not start in time"]
        world.end_waiting({ids["b"]: "its window closed"}, JobStatus.EXPIRED)
        assert alarm.look() == []
        later = world.now() + 15 * MINUTE
        assert alarm.look(later) == [f"Error: {dag.dag_id}: a, b did not start in time"]
        for name in "ab":
            act(world, operators.force_success, dag.dag_id, name, actor="ada", reason="by hand")
        assert alarm.look(later + HOUR) == [f"Over: {dag.dag_id}: a, b did not start in time"]

    @pytest.mark.promise("P7")
    def test_a_session_that_was_missed_until_it_is_cancelled(self, alarm: Alarm) -> None:
        world = alarm.world
        dag = world.run(job("a"), job("b", "a"), missed="missed: no scheduler was running")
        assert alarm.look() == [f"Error: {dag.dag_id}: the session was missed"]
        assert [row.kind for row in alarm.rows()] == ["missed_session"]
        with pytest.raises(OperatorError, match="has finished already"):
            act(world, operators.cancel, dag.dag_id, actor="ada")  # of a new attempt only
        act(world, operators.retry, dag.dag_id, actor="ada")
        act(world, operators.cancel, dag.dag_id, actor="ada")
        assert alarm.look(world.now() + HOUR) == [f"Over: {dag.dag_id}: the session was missed"]

    def test_what_it_says_to_do_about_a_missed_session_is_possible(self, one_alarm: Alarm) -> None:
        world, alarm = one_alarm.world, one_alarm
        dag = world.run(job("a"), missed="missed: no scheduler was running")
        unwanted = world.run(job("a"), pipeline="other", missed="missed: no scheduler was running")
        alarm.look()
        assert f"then: prometheus retry {unwanted.dag_id} (or force-success)\n" in alarm.last
        assert "If nobody wants it any more, acknowledge it: " in alarm.last
        assert "cancel" not in alarm.last
        assert "prometheus alerts ack 2 --reason TEXT" in alarm.last
        act(world, operators.force_success, dag.dag_id, "a", actor="ada", reason="by hand")
        (of_it,) = (row for row in alarm.rows() if row.dag_id == unwanted.dag_id)
        act(world, alerts.acknowledge, of_it.alert_id, actor="ada", reason="nobody wants it")
        what = "the session was missed"
        assert alarm.look(world.now() + HOUR) == [f"Over: {dag.dag_id}: {what}"]
        assert {row.dag_id: row.resolved_at is None for row in alarm.rows()} == {
            dag.dag_id: False,
            unwanted.dag_id: True,
        }

    @pytest.mark.promise("P7")
    def test_a_deadline_that_was_missed_until_the_run_has_succeeded(self, alarm: Alarm) -> None:
        world, worker = alarm.world, alarm.world.worker(lease=DAYS)
        first = job("a", deadline=Deadline.parse("close+1h"))
        dag = world.run(first, job("b", "a"), deadline="close+2h")
        what = f"{dag.dag_id}: a, the run missed the deadline"
        assert alarm.look() == [f"Error: {what}"]
        assert "a was due at 2025-12-02 22:00 UTC, and is not done." in alarm.last
        world.finish(dag, worker, "a", "b")
        world.close(dag)
        assert alarm.look() == []
        # What is done too late while nobody looks is told all the same.
        late = world.run(job("a"), deadline="close+1h", pipeline="late", day=_lately(world))
        world.finish(late, worker, "a")
        world.close(late)
        assert alarm.look() == [f"Error: {late.dag_id}: the run missed the deadline"]
        done_at = world.latest(late)["a"].completed_at
        assert f" UTC, and succeeded at {done_at:%Y-%m-%d %H:%M} UTC." in alarm.last
        over = alarm.look(world.now() + HOUR)
        assert over == [f"Over: {what}", f"Over: {late.dag_id}: the run missed the deadline"]

    def test_a_missed_deadline_is_not_over_because_the_calendar_can_not_be_read(
        self, one_alarm: Alarm, break_sessions: Callable[[str], None]
    ) -> None:
        dag = one_alarm.world.run(job("a"), deadline="close+2h")
        assert one_alarm.look() == [f"Error: {dag.dag_id}: the run missed the deadline"]
        break_sessions("XNYS")
        later = one_alarm.world.now() + HOUR
        assert one_alarm.look(later) == ["Critical: the calendar of US_EQ can not be read"]
        assert [row.resolved_at for row in one_alarm.rows()] == [None, None]

    def test_a_job_that_waits_for_a_worker_until_it_starts(self, alarm: Alarm) -> None:
        world = alarm.world
        dag, worker = world.run(job("a"), job("b")), world.worker(lease=DAYS)
        world.claim(world.starts(dag))
        act(world, pauses.hold, dag.dag_id, "b", reason="wait", actor="ada")
        later = world.now() + 14 * MINUTE
        assert alarm.look(later) == []
        later += 2 * MINUTE
        what = f"{dag.dag_id}: a can start, and no worker has taken it"
        assert alarm.look(later) == [f"Warning: {what}"]
        world.running(dag, "a", worker)
        assert alarm.look(later + HOUR) == [f"Over: {what}"]

    def test_what_was_paused_is_late_when_it_has_waited_since(self, one_alarm: Alarm) -> None:
        world = one_alarm.world
        dag = world.run(job("a"))
        world.claim(world.starts(dag))
        world.worker(lease=DAYS)
        act(world, pauses.pause, market_id="US_EQ", reason="vendor", actor="ada")
        now = world.now()
        world.change(world.ids(dag)["a"], scheduled_at=now - HOUR)
        act(world, pauses.resume, market_id="US_EQ", actor="ada")
        assert one_alarm.look(now + 14 * MINUTE) == []
        told = one_alarm.look(now + 16 * MINUTE)
        assert told == [f"Warning: {dag.dag_id}: a can start, and no worker has taken it"]

    def test_a_run_that_was_not_made_until_it_is(self, alarm: Alarm) -> None:
        world = alarm.world
        calendar = TradingCalendar("US_EQ")
        daily = alarm.here.pipelines[0]["daily"]
        *before, day = (
            each
            for each in calendar.trading_days(*_days_before(world.now()))
            if calendar.phases(each).post_close_ends_at < world.now()
        )
        for each in before:
            assert world.create(daily.dag("US_EQ", each))
        dag = daily.dag("US_EQ", day)
        with writing(world.engine) as connection:
            opens_at = calendar.phases(day).pre_open_at
            runs.first_seen(connection, "daily", "US_EQ", "every session", opens_at - SECOND)
        at = opens_at + HOUR
        assert alarm.look(at) == [f"Error: {dag.dag_id} should have been made, and was not"]
        assert world.create(dag)
        assert alarm.look(at + HOUR) == [f"Over: {dag.dag_id} should have been made, and was not"]

    def test_what_a_sensor_waits_for_is_late_until_it_has_come(self, alarm: Alarm) -> None:
        world = alarm.world
        dag, worker = world.run(sensor(expected=timedelta(0))), world.worker(lease=DAYS)
        assert poll(world, world.running(dag, "ready", worker), worker) is not None
        what = f"{dag.dag_id}: what ready waits for is late"
        assert alarm.look() == [f"Warning: {what}"]
        for ready in (False, True):
            row = world.latest(dag)["ready"]
            world.change(row.execution_id, scheduled_at=world.now() - SECOND)
            again = world.running(dag, "ready", worker)
            assert alarm.look(world.now() + HOUR) == []
            poll(world, again, worker, ready=ready)
        assert alarm.look(world.now() + HOUR) == [f"Over: {what}"]

    @pytest.mark.promise("P7")
    def test_no_scheduler_until_one_leads(self, alarm: Alarm) -> None:
        world = alarm.world
        act(world, leases.resign, LEADERSHIP, "there:7:x")
        now = world.now()
        assert alarm.look(now) == []  # another may take over
        assert alarm.look(now + MINUTE) == ["Critical: no scheduler is at work"]
        assert "the last one was there, pid 7" in alarm.last
        lead(world)
        assert alarm.look(now + HOUR) == ["Over: no scheduler is at work"]
        # That it leads for a moment is no reason to begin anew.
        act(world, leases.resign, LEADERSHIP, "there:7:x")
        assert alarm.look(now + HOUR) == []

    def test_a_worker_that_was_given_up_until_another_takes_its_place(self, alarm: Alarm) -> None:
        world = alarm.world
        world.worker(name="other@h", lease=DAYS)
        ended = world.worker(name="ended@h")
        act(world, leases.end_worker, ended)
        world.worker(name="lost@h", lease=-SECOND)
        assert act(world, leases.give_up_workers, world.now()) == ["lost@h"]
        assert alarm.look() == ["Error: worker lost@h was lost"]
        assert alarm.look(world.now() + HOUR) == []
        world.worker(name="new@h", lease=DAYS)
        assert alarm.look(world.now() + HOUR) == ["Over: worker lost@h was lost"]

    def test_a_worker_that_was_started_again_at_once_was_lost_all_the_same(
        self, one_alarm: Alarm
    ) -> None:
        """As a supervisor does; and its orderly end later is no loss."""
        world = one_alarm.world
        assert one_alarm.look() == []
        for times in (1, 2):
            lost = update(worker_incarnations).where(
                worker_incarnations.c.incarnation == world.worker(name="lost@h", lease=-SECOND)
            )
            seen_at = world.now() - SECOND
            act(world, lambda conn, lost=lost, at=seen_at: conn.execute(lost.values(renewed_at=at)))
            again = world.worker(name="lost@h", lease=DAYS)
            assert act(world, leases.give_up_workers, world.now()) == ["lost@h"]
            told = [one_alarm.look(world.now()) for _ in range(3)]
            assert told == [["Error: worker lost@h was lost"] if times == 1 else [], [], []]
            (row,) = one_alarm.rows()
            assert row.times == times
            assert row.resolved_at is not None
            assert "Its place was taken since." in row.details[-1]
            act(world, leases.end_worker, again)
        later = world.now() + 16 * MINUTE
        assert [one_alarm.look(later) for _ in range(2)] == [["Over: worker lost@h was lost"], []]
        # Nor does another web process, which has not looked before, tell it again.
        one_alarm.watcher._looked_at = None
        assert [one_alarm.look(later + 3 * HOUR) for _ in range(2)] == [[], []]

    def test_of_a_worker_that_never_came_back_nobody_says_that_it_has(
        self, one_alarm: Alarm
    ) -> None:
        world = one_alarm.world
        world.worker(name="lost@h", lease=-SECOND)
        act(world, leases.give_up_workers, world.now())
        assert one_alarm.look() == ["Error: worker lost@h was lost"]
        for hours in (23, 25, 27):
            assert one_alarm.look(world.now() + hours * HOUR) == []
        (row,) = one_alarm.rows()
        assert row.resolved_at is not None
        assert row.told == "resolved"

    def test_a_queue_to_which_nobody_listens_until_somebody_does(self, alarm: Alarm) -> None:
        world = alarm.world
        dag = world.run(job("a"))
        world.claim(world.starts(dag))
        now = world.now()
        what = "work is due for US_EQ, and no worker listens to its queue"
        assert alarm.look(now) == []
        # However long, its job is not told as late besides.
        assert alarm.look(now + HOUR) == [f"Critical: {what}"]
        world.running(dag, "a", world.worker(lease=DAYS))
        assert alarm.look(now + 2 * HOUR) == [f"Over: {what}"]

    @pytest.mark.promise("P7")
    def test_a_calendar_that_ends_ever_louder(self, alarm: Alarm) -> None:
        last = TradingCalendar("US_EQ").horizon
        noon = datetime(last.year, last.month, last.day, 12, tzinfo=UTC)
        told = [alarm.look(noon - timedelta(days=left)) for left in (91, 90, 89, 30, 29, -1, -2)]
        what = f"the calendar of US_EQ ends on {last}"
        assert told == [
            [],
            [f"Warning: {what}"],
            [],
            [f"Error: {what}"],
            [],
            [f"Critical: the calendar of US_EQ ended on {last}"],
            [],
        ]
        assert len(alarm.rows()) == 1

    def test_a_feed_that_contradicts_the_calendar_until_somebody_decides(
        self, alarm: Alarm
    ) -> None:
        day = TradingCalendar("US_EQ").next_trading_day(alarm.world.now().date())
        closed = Holiday(day, "Day of Mourning", HolidayKind.CLOSED)
        act(alarm.world, propose_holidays, "XNYS", "eodhd", day, day, [closed])
        what = f"eodhd says of XNYS on {day}: closed, and the calendar says otherwise"
        assert alarm.look() == [f"Warning: {what}"]
        act(
            alarm.world,
            decide_holidays,
            "XNYS",
            [day],
            HolidayState.REJECTED,
            actor="ada",
            reason="no",
        )
        assert alarm.look(alarm.world.now() + HOUR) == [f"Over: {what}"]


def _lately(world: World) -> date:
    """The last session that is over for an hour and more."""
    calendar, now = TradingCalendar("US_EQ"), world.now()
    days = calendar.trading_days(*_days_before(now))
    return max(day for day in days if calendar.phases(day).post_close_ends_at < now)


def _days_before(now: datetime) -> tuple[date, date]:
    return (now - timedelta(days=10)).date(), now.date()


# --- how often -----------------------------------------------------------------------------------


def test_what_comes_and_goes_is_told_once_in_a_quiet_time_and_ends_with_the_truth(
    one_alarm: Alarm,
) -> None:
    world = one_alarm.world
    dag = world.run(job("a"))
    (waits,) = world.claim(world.starts(dag))
    world.worker(lease=DAYS)
    now, told = world.now(), []
    for number in range(50):  # in 25 minutes
        at = now + number * 30 * SECOND
        due = at - HOUR if number % 2 == 0 else at + HOUR
        world.change(waits.execution_id, scheduled_at=due)
        told += one_alarm.look(at)
    told += one_alarm.look(now + HOUR)
    what = f"{dag.dag_id}: a can start, and no worker has taken it"
    assert told == [f"Warning: {what}", f"Over: {what}"]
    (row,) = one_alarm.rows()
    assert row.times == 25


def test_what_comes_back_within_a_quiet_time_is_the_same_alert_however_long_that_is(
    one_alarm: Alarm,
) -> None:
    world = one_alarm.world
    one_alarm.watcher, _ = one_alarm.another({"PROMETHEUS__ALERTS__QUIET": "4h"})
    now, told = world.now(), []
    for led, minutes in (
        *((False, 0), (False, 1), (True, 2)),
        *((False, 63), (False, 64), (True, 300)),  # over for an hour, and nobody knows it
        *((False, 420), (False, 421), (False, 541)),
    ):
        if led:
            lead(world)
        else:
            act(world, leases.resign, LEADERSHIP, "there:7:x")
        titles = one_alarm.look(now + minutes * MINUTE)
        told += [(minutes, title.partition(":")[0]) for title in titles]
    assert told == [(1, "Critical"), (300, "Over"), (541, "Critical")]
    (row,) = one_alarm.rows()
    assert row.times == 3


def test_however_many_come_and_go_a_channel_is_not_flooded_and_ends_with_the_truth(
    one_alarm: Alarm,
) -> None:
    """Each of 12 as often as its quiet time lets it: without a limit 48 messages in an hour."""
    world, told = one_alarm.world, []
    waiting = {}
    for number in range(12):
        dag = world.run(job("a"), pipeline=f"p{number}")
        (waiting[dag.dag_id],) = world.claim(world.starts(dag))
    world.worker(lease=DAYS)
    now, step = world.now(), 3 * MINUTE
    for turn in range(34):
        at = now + turn * step
        for number, execution in enumerate(waiting.values()):
            late = turn < 24 and turn >= number and (turn - number) % 10 < 5
            if (turn - number) % 5 == 0 or turn in (0, 24):
                due = at - HOUR if late else at + 9 * HOUR
                world.change(execution.execution_id, scheduled_at=due)
        if turn == 18:
            act(world, leases.resign, LEADERSHIP, "there:7:x")
        titles = one_alarm.look(at)
        if turn == 19:  # what is rarer does not wait for it
            assert "Critical: no scheduler is at work" in titles
            lead(world)
        told += titles if 4 <= turn < 24 else []
    assert len(told) <= 20 + 6 + 5
    lines = "\n".join(f"{post['title']}\n{post['message']}" for post in one_alarm.recipients.posts)
    for dag_id in waiting:
        *_, last = re.findall(rf"(Warning|Over): {dag_id}: ", lines)
        assert last == "Over", dag_id


def test_very_much_at_once_comes_in_one_message(one_alarm: Alarm) -> None:
    world, worker = one_alarm.world, one_alarm.world.worker(lease=DAYS)
    for number in range(12):
        dag = world.run(job("a", max_retries=0), pipeline=f"p{number}")
        world.fail_for_good(dag, "a", worker)
    (title,) = one_alarm.look()
    assert title.startswith("12 messages: Error: us_eq_p")
    assert one_alarm.last.count("failed for good") == 12
    assert one_alarm.look() == []


def test_an_incident_is_opened_and_closed_by_a_message_of_its_own(
    one_alarm: Alarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are at once; what comes back is the incident of before, opened again."""
    world, recipients = one_alarm.world, one_alarm.recipients
    for region in PAGERDUTY_API_LOOKUP:
        here = f"http://127.0.0.1:{recipients.web_port}"
        monkeypatch.setitem(PAGERDUTY_API_LOOKUP, region, here)
    pages = {"PROMETHEUS__CHANNELS__ONCALL": "pagerduty://routing@key"}
    one_alarm.watcher, _ = one_alarm.another(pages)
    worker, dags = world.worker(lease=DAYS), []
    for number in range(7):
        dags.append(world.run(job("a", max_retries=0), pipeline=f"p{number}"))
        world.fail_for_good(dags[-1], "a", worker)

    def sent(at: datetime) -> set[tuple[str, str]]:
        before = len(recipients.posts)
        one_alarm.watcher.look(at)
        one_alarm.watcher.wait_for_sending()
        posts = [each for each in recipients.posts[before:] if "event_action" in each]
        done = {(each["event_action"], each["dedup_key"]) for each in posts}
        assert len(done) == len(posts)
        return done

    now = world.now()
    assert sent(now) == {("trigger", f"job_failed:{each.dag_id}") for each in dags}
    first = dags[0].dag_id
    act(world, operators.force_success, first, "a", actor="ada", reason="by hand")
    assert sent(now + HOUR) == {("resolve", f"job_failed:{first}")}
    act(world, operators.retry, first, "a", actor="ada")
    again = world.running(dags[0], "a", worker)
    world.fail(again)
    world.change(again, completed_at=now + 3 * HOUR)
    assert sent(now + 3 * HOUR) == {("trigger", f"job_failed:{first}")}


def test_several_processes_watch_and_each_is_told_once(alarm: Alarm) -> None:
    world = alarm.world
    dag = world.run(job("a", max_retries=0))
    world.fail_for_good(dag, "a", world.worker(lease=DAYS))
    others = [alarm.another() for _ in range(3)]
    watchers = [alarm.watcher, *(watcher for watcher, _ in others)]
    assert sum(at_once([each.look for each in watchers])) == 1
    for each in watchers:
        each.wait_for_sending()
    assert len(alarm.recipients.posts) == len(alarm.recipients.mails) == 1
    # The one that led ends, and another goes on from what was told.
    for each in watchers:
        each.close()
    watcher, here = others[0]
    assert watcher.look()
    watcher.wait_for_sending()
    assert len(alarm.recipients.posts) == 1
    for _, here in others:
        here.close()


def test_who_watches_after_two_others_have_died_goes_on_from_the_last_complete_look(
    one_alarm: Alarm,
) -> None:
    """The second of them in its first look; what was told and is over for long is told once."""
    world, worker = one_alarm.world, one_alarm.world.worker(lease=DAYS)
    now = world.now()
    assert one_alarm.look(now) == []
    late = world.run(job("a"), deadline="close+1h", day=_lately(world))
    world.finish(late, worker, "a")
    world.close(late)
    told = [one_alarm.look(now + at * HOUR) for at in (0, 1, 3)]
    assert [len(each) for each in told] == [1, 1, 0]

    def end_lease() -> None:
        ends = update(leases_table).where(leases_table.c.name == WATCHING).values(expires_at=now)
        act(world, lambda connection: connection.execute(ends))

    end_lease()
    dying, _ = one_alarm.another()
    rename(world.engine, "alerts", "away")
    with pytest.raises(DBAPIError):
        dying.look(now + 3 * HOUR)
    rename(world.engine, "away", "alerts")
    end_lease()
    one_alarm.watcher, _ = one_alarm.another()
    assert one_alarm.look(now + 3 * HOUR) == []


def test_senders_at_once_send_each_message_once(alarm: Alarm) -> None:
    world = alarm.world
    dag = world.run(job("a", max_retries=0))
    world.fail_for_good(dag, "a", world.worker(lease=DAYS))
    alarm.recipients.goes_on.clear()
    alarm.watcher.look()
    channels = alarm.here.settings.channels
    senders = [Sender(world.engine, channels) for _ in range(4)]
    at_once([each.begin for each in senders])
    alarm.recipients.goes_on.set()
    for each in senders:
        each.wait(60)
    alarm.watcher.wait_for_sending()
    assert len(alarm.recipients.posts) == len(alarm.recipients.mails) == 1


def test_what_an_operator_sees_to_is_told_no_more(one_alarm: Alarm) -> None:
    world = one_alarm.world
    dag, worker = (
        world.run(job("a", max_retries=0), job("b", max_retries=0)),
        world.worker(lease=DAYS),
    )
    world.fail_for_good(dag, "a", worker)
    assert len(one_alarm.look()) == 1
    act(world, alerts.acknowledge, 1, actor="ada", reason="vendor called")
    world.fail_for_good(dag, "b", worker)
    act(world, operators.force_success, dag.dag_id, "a", actor="ada", reason="by hand")
    assert one_alarm.look(world.now() + HOUR) == []
    act(world, operators.force_success, dag.dag_id, "b", actor="ada", reason="by hand")
    assert one_alarm.look(world.now() + 2 * HOUR) == []
    (row,) = one_alarm.rows()
    assert row.resolved_at is not None
    assert world.audited()[0] == ("ada", "alert_ack", dag.dag_id)


def test_what_comes_back_after_somebody_has_seen_to_it_is_told_again(one_alarm: Alarm) -> None:
    """And not before its quiet time is over."""
    world = one_alarm.world
    act(world, leases.resign, LEADERSHIP, "there:7:x")
    now = world.now()
    one_alarm.look(now)
    assert len(one_alarm.look(now + MINUTE)) == 1
    act(world, alerts.acknowledge, 1, actor="ada", reason="restarting it")
    lead(world)
    assert one_alarm.look(now + 2 * MINUTE) == []
    act(world, leases.resign, LEADERSHIP, "there:7:x")
    told = [one_alarm.look(now + minutes * MINUTE) for minutes in (3, 5, 30)]
    assert told == [[], [], ["Critical: no scheduler is at work"]]
    (row,) = one_alarm.rows()
    assert (row.acknowledged_at, row.acknowledged_by, row.reason) == (None, None, None)


def test_what_somebody_sees_to_is_told_again_once_it_is_worse(one_alarm: Alarm) -> None:
    last = TradingCalendar("US_EQ").horizon
    noon = datetime(last.year, last.month, last.day, 12, tzinfo=UTC)
    assert len(one_alarm.look(noon - timedelta(days=80))) == 1
    act(one_alarm.world, alerts.acknowledge, 1, actor="ada", reason="the upgrade is planned")
    told = [one_alarm.look(noon - timedelta(days=left)) for left in (79, 30, 29)]
    assert told == [[], [f"Error: the calendar of US_EQ ends on {last}"], []]


def test_that_it_is_over_is_told_to_whoever_was_told_of_it(one_alarm: Alarm) -> None:
    world, worker = one_alarm.world, one_alarm.world.worker(lease=DAYS)
    one_alarm.watcher, _ = one_alarm.another({"PROMETHEUS__ROUTES__HOOK": "priority=CRITICAL"})
    dag = world.run(job("a", max_retries=0, priority=JobPriority.CRITICAL), job("b", max_retries=0))
    for name in ("a", "b"):
        world.fail_for_good(dag, name, worker)
    assert len(one_alarm.look()) == 1
    for name, at in (("a", HOUR), ("b", 2 * HOUR)):
        act(world, operators.force_success, dag.dag_id, name, actor="ada", reason="by hand")
        titles = one_alarm.look(world.now() + at)
    assert [title.partition(":")[0] for title in titles] == ["Over"]


def test_graver_work_that_nobody_listens_for_is_told_to_those_it_is_for(one_alarm: Alarm) -> None:
    world = one_alarm.world
    one_alarm.watcher, _ = one_alarm.another({"PROMETHEUS__ROUTES__HOOK": "priority=CRITICAL"})
    now = world.now() + MINUTE
    for name, priority in (("p", JobPriority.OPTIONAL), ("q", JobPriority.CRITICAL)):
        dag = world.run(job("a", priority=priority), pipeline=name)
        world.claim(world.starts(dag))
        for at in (now, now + HOUR):
            one_alarm.watcher.look(at)
            one_alarm.watcher.wait_for_sending()
        now += 2 * HOUR
    assert len(one_alarm.recipients.mails) == 2
    (title,) = one_alarm.recipients.titles
    assert title.startswith("Critical: work is due for US_EQ")


def test_a_message_says_how_grave_it_is_and_stays_one_that_services_take(
    one_alarm: Alarm,
) -> None:
    world, worker = one_alarm.world, one_alarm.world.worker(lease=DAYS)
    dag = world.run(*(job(f"job{number:03}", max_retries=0) for number in range(60)))
    for name in dag.jobs:
        world.fail_for_good(dag, name, worker)
    one_alarm.look()
    post = one_alarm.recipients.posts[-1]
    assert post["type"] == "failure"
    assert "and 40 more" in post["message"]
    assert len(post["message"]) < 4_000
    for name in dag.jobs:
        act(world, operators.force_success, dag.dag_id, name, actor="ada", reason="by hand")
    one_alarm.look(world.now() + HOUR)
    assert one_alarm.recipients.posts[-1]["type"] == "success"


def test_a_message_leads_to_its_page_where_people_find_the_pages(one_alarm: Alarm) -> None:
    world, worker = one_alarm.world, one_alarm.world.worker(lease=DAYS)
    below = {"PROMETHEUS__WEB__ROOT_PATH": "/prometheus"}
    hosts = {"PROMETHEUS__WEB__HOSTS": "a.example"}
    found = {"PROMETHEUS__WEB__URL": "https://desk.example:8443/prometheus/"}
    for number, (given, links) in enumerate(
        (({**below, **hosts}, False), ({**below, **found}, True))
    ):
        one_alarm.watcher.close()
        one_alarm.watcher, here = one_alarm.another(given)
        dag = world.run(job("a", max_retries=0), pipeline=f"p{number}")
        world.fail_for_good(dag, "a", worker)
        assert len(one_alarm.look()) == 1
        assert ("://" in one_alarm.last) is links
    page = one_alarm.last.splitlines()[-1]
    assert page == f"https://desk.example:8443/prometheus/runs/{dag.dag_id}"
    with served(create_app(here.settings)) as web:
        answer = httpx.get(page.replace("https://desk.example:8443", web.url))
    assert answer.status_code == 200
    assert dag.dag_id in answer.text


def test_an_alert_of_a_run_that_is_old_is_closed_without_a_word(one_alarm: Alarm) -> None:
    """Whatever is still wrong with the run."""
    world = one_alarm.world
    dag = world.run(job("a", max_retries=0))
    world.fail_for_good(dag, "a", world.worker(lease=DAYS))
    assert len(one_alarm.look()) == 1
    old = world.now() + timedelta(days=31)
    assert one_alarm.look(old) == []
    assert one_alarm.look(old + HOUR) == []
    (row,) = one_alarm.rows()
    assert (row.resolved_at, row.told) == (old, "resolved")


# --- what does not arrive ------------------------------------------------------------------------


def test_what_is_not_accepted_is_sent_again_until_it_is(
    one_alarm: Alarm, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world, recipients = one_alarm.world, one_alarm.recipients
    nobody = {"PROMETHEUS__CHANNELS__NOBODY": f"json://127.0.0.1:{free_port()}/{TOKEN}"}
    one_alarm.watcher, _ = one_alarm.another(nobody)
    dag = world.run(job("a", max_retries=0))
    world.fail_for_good(dag, "a", world.worker(lease=DAYS))
    now = world.now()
    recipients.status = 500
    one_alarm.watcher.look(now)
    one_alarm.watcher.wait_for_sending()
    assert (len(recipients.posts), len(recipients.mails)) == (0, 1)  # each for itself
    one_alarm.watcher.close()
    impatient, _ = one_alarm.another(nobody, patience=0.5)
    recipients.goes_on.clear()
    impatient.look(now + 2 * MINUTE)
    impatient.wait_for_sending()
    impatient.close()
    by_channel = {each.channel: each for each in one_alarm.deliveries()}
    assert by_channel["hook"].error == "no answer within 0 s"
    assert (by_channel["hook"].state, by_channel["hook"].tries) == ("pending", 2)
    assert by_channel["mail"].state == "sent"
    assert by_channel["nobody"].error
    recipients.status = 200
    recipients.goes_on.set()
    wait_until(lambda: len(recipients.posts) == 1)  # what was too slow has arrived after all
    one_alarm.watcher, _ = one_alarm.another(nobody)
    one_alarm.watcher.look(now + 3 * MINUTE)  # not yet: the pause has doubled
    one_alarm.watcher.wait_for_sending()
    assert len(recipients.posts) == 1
    one_alarm.watcher.look(now + 10 * MINUTE)
    one_alarm.watcher.wait_for_sending()
    assert len(recipients.posts) == 2  # at least once
    assert {each.channel: each.state for each in one_alarm.deliveries()}["hook"] == "sent"

    one_alarm.watcher.look(now + 13 * HOUR)
    one_alarm.watcher.wait_for_sending()
    by_channel = {each.channel: each for each in one_alarm.deliveries()}
    assert by_channel["nobody"].state == "failed"
    assert "alert_given_up" in caplog.text
    assert TOKEN not in str(one_alarm.deliveries())
    assert TOKEN not in str([vars(each) for each in caplog.records])


def test_however_many_messages_wait_for_one_channel_the_others_have_theirs(
    one_alarm: Alarm,
) -> None:
    world, worker = one_alarm.world, one_alarm.world.worker(lease=DAYS)

    def fail(pipeline: str) -> str:
        dag = world.run(job("a", max_retries=0), pipeline=pipeline)
        world.fail_for_good(dag, "a", worker)
        return dag.dag_id

    fail("first")
    assert len(one_alarm.look()) == 1
    message = {**one_alarm.deliveries()[0]._mapping, "channel": "gone", "next_try_at": world.now()}
    message |= {"state": "pending", "ended_at": None}
    del message["delivery_id"]
    many = [message] * 1000
    act(world, lambda connection: connection.execute(insert(alert_deliveries), many))
    dag_id = fail("second")
    assert one_alarm.look() == [f"Error: {dag_id}: a failed for good"]
    gone = [each for each in one_alarm.deliveries() if each.channel == "gone"]
    assert [each.tries for each in gone] == [2] * 100 + [1] * 900


def test_a_message_that_is_no_longer_true_is_not_sent(one_alarm: Alarm) -> None:
    """Nor is who has never heard of something told that it is over."""
    world, recipients = one_alarm.world, one_alarm.recipients
    recipients.status = 500
    dag, worker = world.run(job("a", max_retries=0)), world.worker(lease=DAYS)
    world.fail_for_good(dag, "a", worker)
    now = world.now()
    one_alarm.watcher.look(now)
    one_alarm.watcher.wait_for_sending()
    act(world, operators.force_success, dag.dag_id, "a", actor="ada", reason="by hand")
    recipients.status = 200
    one_alarm.watcher.look(now + HOUR)
    one_alarm.watcher.wait_for_sending()
    assert recipients.titles == []
    failed = f"{dag.dag_id}: a failed for good"
    assert [title for title, _ in recipients.mails] == [f"Error: {failed}", f"Over: {failed}"]


def test_the_watcher_goes_on_after_whatever_it_could_not_do(
    one_alarm: Alarm, caplog: pytest.LogCaptureFixture
) -> None:
    """While the tables are not there, and when they are again."""
    watcher = Watcher(one_alarm.here, every=timedelta(milliseconds=50))
    rename(one_alarm.world.engine, "alerts", "away")
    dag = one_alarm.world.run(job("a", max_retries=0))
    one_alarm.world.fail_for_good(dag, "a", one_alarm.world.worker(lease=DAYS))
    watcher.start()
    wait_until(lambda: "alerts_not_watched" in caplog.text)
    rename(one_alarm.world.engine, "away", "alerts")
    wait_until(lambda: len(one_alarm.recipients.posts) == 1, timeout=30)
    watcher.close()
    assert [each.message for each in caplog.records].count("alerts_not_watched") == 1


def test_a_question_without_an_answer_takes_nothing_from_the_others(
    one_alarm: Alarm, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is what it asks about over: nobody knows. Here somebody has written what can not be."""
    world = one_alarm.world
    world.worker(name="lost@h", lease=-SECOND)
    act(world, leases.give_up_workers, world.now())
    assert one_alarm.look() == ["Error: worker lost@h was lost"]
    act(world, lambda connection: connection.execute(update(worker_incarnations).values(queues=7)))
    dag = world.run(job("a", max_retries=0))
    world.fail_for_good(dag, "a", world.worker(lease=DAYS, name="other@h"))
    later = world.now() + HOUR
    assert one_alarm.look(later) == [f"Error: {dag.dag_id}: a failed for good"]
    assert one_alarm.look(later) == []
    assert [each.message for each in caplog.records].count("alerts_not_seen") == 1


def rename(engine: Engine, table: str, other: str) -> None:
    with writing(engine) as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {other}"))


# --- who is told ---------------------------------------------------------------------------------


def test_routes_say_which_channel_gets_what(one_alarm: Alarm) -> None:
    world, worker = one_alarm.world, one_alarm.world.worker(lease=DAYS)
    routes = {
        "PROMETHEUS__ROUTES__HOOK": "market=EU_EQ; priority=CRITICAL pipeline=daily",
        "PROMETHEUS__ROUTES__MAIL": "kind=job_failed market=US_EQ",
    }
    one_alarm.watcher, _ = one_alarm.another(routes)
    for name, priority in (("daily", JobPriority.CRITICAL), ("daily2", JobPriority.STANDARD)):
        dag = world.run(job("a", max_retries=0, priority=priority), pipeline=name)
        world.fail_for_good(dag, "a", worker)
    one_alarm.watcher.look()
    one_alarm.watcher.wait_for_sending()
    assert len(one_alarm.recipients.mails) == 2
    (post,) = one_alarm.recipients.posts
    assert post["title"].startswith("Critical: us_eq_daily_")


def test_a_route_to_a_pipeline_that_there_is_not_is_refused(one_alarm: Alarm) -> None:
    with pytest.raises(SettingsError) as caught:
        one_alarm.another({"PROMETHEUS__ROUTES__HOOK": "pipeline=dailly"})
    assert "there is no pipeline 'dailly'. Did you mean 'daily'?" in str(caught.value)
    assert "PROMETHEUS__ROUTES__HOOK" in str(caught.value)


def test_somebody_else_is_told_as_long_as_a_scheduler_is_at_work(
    one_alarm: Alarm, caplog: pytest.LogCaptureFixture
) -> None:
    world, recipients = one_alarm.world, one_alarm.recipients
    ping = {"PROMETHEUS__ALERTS__PING_URL": f"http://127.0.0.1:{recipients.web_port}/{TOKEN}"}
    watcher, _ = one_alarm.another(ping)
    now = world.now()

    def asked_at(at: datetime) -> int:
        before = len(recipients.asked)
        assert watcher.look(at)
        watcher.wait_for_sending()
        return len(recipients.asked) - before

    assert [asked_at(now), asked_at(now + 30 * SECOND), asked_at(now + MINUTE)] == [1, 0, 1]
    assert recipients.asked[0] == f"/{TOKEN}"
    recipients.status = 500
    assert asked_at(now + 2 * MINUTE) == 1
    assert "ping_failed" in caplog.text
    assert TOKEN not in str([vars(each) for each in caplog.records])
    act(world, leases.resign, LEADERSHIP, "there:7:x")
    assert asked_at(now + 3 * MINUTE) == 0


def test_a_market_without_a_calendar_does_not_hold_back_that_a_scheduler_is_at_work(
    one_alarm: Alarm,
) -> None:
    """Neither one whose calendar has ended, nor one whose runs wait for a calendar to go on."""
    world, recipients = one_alarm.world, one_alarm.recipients
    weekly = one_alarm.folder / "weekly.py"
    weekly.write_text(WEEKLY)
    watcher, _ = one_alarm.another(
        {
            "PROMETHEUS__ALERTS__PING_URL": f"http://127.0.0.1:{recipients.web_port}/ping",
            "PROMETHEUS__MARKETS__ENABLED": "US_EQ,XSHG",
            "PROMETHEUS__PIPELINES__MODULES": str(weekly),
        }
    )
    last = TradingCalendar("XSHG").horizon
    noon = datetime(last.year, last.month, last.day, 12, tzinfo=UTC)
    act(world, runs.first_seen, "weekly", "XSHG", "last of week", noon - DAYS)
    for number, at in enumerate((noon, noon + timedelta(days=5)), start=1):
        assert watcher.look(at)
        watcher.wait_for_sending()
        assert len(recipients.asked) == number
    act(world, leases.resign, LEADERSHIP, "there:7:x")
    assert watcher.look(noon + timedelta(days=6))
    watcher.wait_for_sending()
    assert len(recipients.asked) == 2


# --- who looks -----------------------------------------------------------------------------------


def test_alerts_are_listed_and_acknowledged_by_the_api_and_the_page(web: Web, world: World) -> None:
    lead(world)
    watcher = Watcher(web.app.state.installation)
    worker = world.worker(lease=DAYS)
    for number in range(3):
        dag = world.run(job("a", max_retries=0), pipeline=f"p{number}")
        world.fail(world.running(dag, "a", worker), Failure(f"ValueError: {SECRET}", {}))
    assert watcher.look()
    first = web.get("/api/v1/alerts", limit=2, state="open", market="US_EQ", kind="job_failed")
    assert len(web.statements) <= 3
    assert [each["alert"] for each in first["items"]] == [3, 2]
    second = web.get("/api/v1/alerts", limit=2, cursor=first["next"])
    assert ([each["alert"] for each in second["items"]], second["next"]) == ([1], None)
    assert web.get("/api/v1/alerts", market="EU_EQ")["items"] == []
    assert web.get("/api/v1/alerts", state="resolved")["items"] == []

    assert "3 alerts are open" in show(web, "/").words
    page = show(web, "/operations")
    assert f"Error: {dag.dag_id}: a failed for good, since" in page.words
    buttons = [each for each in page.all("button") if each.get("data-do", "").endswith("/ack")]
    assert [each["data-do"] for each in buttons] == [
        f"./api/v1/alerts/{number}/ack" for number in (3, 2, 1)
    ]
    done = web.post("/api/v1/alerts/3/ack", {"reason": "I see to it", "actor": "ada"})
    assert (done["alert"]["acknowledged_by"], done["alert"]["reason"]) == ("ada", "I see to it")
    entry = web.get("/api/v1/audit", action="alert_ack")["items"][0]["details"]
    assert (entry["before"], entry["after"]) == ("open", "acknowledged")
    assert "Acknowledged by ada: I see to it" in show(web, "/operations").words
    path = "/api/v1/alerts/3/ack"
    assert "already" in web.problem_of_post(path, {"reason": "x"}, 409)
    assert "There is no alert 9" in web.problem_of_post(
        "/api/v1/alerts/9/ack", {"reason": "x"}, 404
    )
    watcher.close()


def test_prune_removes_what_is_over_for_long(one_alarm: Alarm) -> None:
    world, worker = one_alarm.world, one_alarm.world.worker(lease=DAYS)
    for name in ("old", "new"):
        dag = world.run(job("a", max_retries=0), pipeline=name)
        world.fail_for_good(dag, "a", worker)
        one_alarm.look()
        if name == "old":
            act(world, operators.force_success, dag.dag_id, "a", actor="ada", reason="by hand")
            one_alarm.look()
    now = act(world, read_now)
    cutoff = pruning.Cutoff(date.min, now.wall_at + HOUR)
    gone = list(pruning.prune(world.engine, cutoff, actor="ada"))
    assert gone == [pruning.Removed(0, 0, alerts=1)]
    assert [row.resolved_at for row in one_alarm.rows()] == [None]
    with reading(world.engine) as connection:
        left = select(func.count()).select_from(alert_deliveries)
        assert connection.execute(left).scalar_one() == 2
