"""Leases: who leads, who still works, and what nobody runs any more."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import select, text, update

from prometheus.persistence import executions, leases, operators
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.leases import Orphan
from prometheus.persistence.tables import leases as leases_table
from prometheus.persistence.tables import standbys, worker_incarnations
from tests.integration.persistence.world import HOUR, World, at_once, job

TEN, TWENTY = timedelta(minutes=10), timedelta(minutes=20)
OVER = timedelta(seconds=-1)


def lead(world: World, owner: str, *, lease: timedelta = TEN) -> tuple[str, int, bool]:
    """Ask for the lead; return who has it, its epoch, and whether that is who asked."""
    with writing(world.engine) as connection:
        answer = leases.lead(connection, "beat", owner, lease=lease)
    return answer.owner, answer.epoch, answer.leads


class TestLead:
    def test_first_who_asks_leads_and_the_next_is_told_who(self, world: World) -> None:
        assert lead(world, "one") == ("one", 1, True)
        assert lead(world, "two") == ("one", 1, False)
        assert lead(world, "one") == ("one", 1, True)

    def test_lead_passes_when_its_lease_has_run_out_and_the_epoch_grows(self, world: World) -> None:
        lead(world, "one", lease=OVER)
        assert lead(world, "two") == ("two", 2, True)
        assert lead(world, "one") == ("two", 2, False)

    def test_leader_that_is_late_leads_on_if_nobody_took_over(self, world: World) -> None:
        lead(world, "one", lease=OVER)
        assert lead(world, "one") == ("one", 1, True)

    def test_only_what_goes_on_with_a_lead_does_not_wait_for_the_disk(
        self, postgresql_url: str
    ) -> None:
        world = World(create_engine(postgresql_url))
        setting = text("SHOW synchronous_commit")
        for waits in ("on", "off"):
            with writing(world.engine) as connection:
                leases.lead(connection, "beat", "one", lease=TEN)
                assert connection.execute(setting).scalar_one() == waits
        with writing(world.engine) as connection:
            assert leases.keep_lead(connection, "beat", "one", 1, lease=TEN)
            assert connection.execute(setting).scalar_one() == "on"
        world.engine.dispose()

    def test_resigning_lets_the_next_lead_at_once(self, world: World) -> None:
        lead(world, "one")
        with writing(world.engine) as connection:
            leases.resign(connection, "beat", "two")
        assert lead(world, "two")[2] is False
        with writing(world.engine) as connection:
            leases.resign(connection, "beat", "one")
        assert lead(world, "two") == ("two", 2, True)

    def test_standby_that_ends_is_forgotten_and_so_is_who_has_long_been_silent(
        self, world: World
    ) -> None:
        def owners() -> list[str]:
            with reading(world.engine) as connection:
                _, standing_by = leases.workers_and_standbys(connection)
            return sorted(each.owner for each in standing_by)

        long_ago = world.now() - 2 * HOUR
        with writing(world.engine) as connection:
            for owner, lease in (("silent", -HOUR / 2), ("long silent", HOUR), ("new", HOUR)):
                leases.stand_by(connection, owner, lease=lease)
            which = standbys.c.owner == "long silent"
            connection.execute(update(standbys).where(which).values(expires_at=long_ago))
        assert owners() == ["long silent", "new", "silent"]
        with writing(world.engine) as connection:
            leases.stand_by(connection, "new", lease=HOUR)
        assert owners() == ["new", "silent"]
        with writing(world.engine) as connection:
            leases.end_standby(connection, "new")
        assert owners() == ["silent"]

    def test_renewing_extends_the_lease_and_says_when(self, world: World) -> None:
        lead(world, "one")
        with reading(world.engine) as connection:
            first = leases.leader(connection, "beat")
        lead(world, "one", lease=TWENTY)
        with reading(world.engine) as connection:
            second = leases.leader(connection, "beat")
            assert leases.leader(connection, "nothing") is None
        assert first is not None
        assert second is not None
        assert second["expires_at"] > first["expires_at"]  # type: ignore[operator]
        assert first["ticked_at"] is None

    def test_completed_tick_is_kept_with_its_leader_only(self, world: World) -> None:
        tick = world.now()
        with writing(world.engine) as connection:
            leases.lead(connection, "beat", "one", lease=OVER)
            leases.lead(connection, "beat", "one", lease=OVER, ticked_at=tick)
            kept = leases.leader(connection, "beat")
            leases.lead(connection, "beat", "two", lease=TEN, ticked_at=tick)
            taken = leases.leader(connection, "beat")
        assert kept is not None
        assert kept["ticked_at"] == tick
        assert taken is not None
        assert taken["ticked_at"] is None

    def test_leader_without_a_broker_is_replaced_by_whoever_names_its_epoch(
        self, world: World
    ) -> None:
        lost = world.now()
        with writing(world.engine) as connection:
            leases.lead(connection, "beat", "one", lease=TEN)
            leases.lead(connection, "beat", "one", lease=TEN, broker_lost_at=lost)
            seen = leases.lead(connection, "beat", "two", lease=TEN)
            assert (seen.leads, seen.broker_lost_at) == (False, lost)
            assert not leases.lead(connection, "beat", "two", lease=TEN, instead_of=7).leads
            taken = leases.lead(connection, "beat", "two", lease=TEN, instead_of=seen.epoch)
            late = leases.lead(connection, "beat", "three", lease=TEN, instead_of=seen.epoch)
            assert not leases.keep_lead(connection, "beat", "one", seen.epoch, lease=TEN)
        assert (taken.leads, taken.epoch, taken.broker_lost_at) == (True, seen.epoch + 1, None)
        assert (late.leads, late.owner) == (False, "two")

    def test_leader_at_work_keeps_the_lead_of_its_own_epoch_only(self, world: World) -> None:
        def keep(owner: str, epoch: int) -> bool:
            with writing(world.engine) as connection:
                return bool(leases.keep_lead(connection, "beat", owner, epoch, lease=TWENTY))

        def expires_at() -> object:
            with reading(world.engine) as connection:
                found = leases.leader(connection, "beat")
            assert found is not None
            return found["expires_at"]

        lead(world, "one")
        first = expires_at()
        assert not keep("two", 1)
        assert not keep("one", 2)
        assert expires_at() == first
        assert keep("one", 1)
        assert expires_at() > first  # type: ignore[operator]

    def test_lead_that_has_run_out_can_not_be_kept_though_nobody_took_it(
        self, world: World
    ) -> None:
        lead(world, "one", lease=OVER)
        with writing(world.engine) as connection:
            assert not leases.keep_lead(connection, "beat", "one", 1, lease=TEN)

    def test_one_of_many_takes_the_lead(self, world: World) -> None:
        for epoch in range(1, 6):
            answers = at_once([partial(lead, world, f"{epoch}-{n}") for n in range(8)])
            (leader,) = {owner for owner, _, leads in answers if leads}
            assert {owner for owner, _, _ in answers} == {leader}
            assert {of for _, of, _ in answers} == {epoch}
            with writing(world.engine) as connection:
                connection.execute(update(leases_table).values(expires_at=world.now()))


class TestWorkers:
    def renew(self, world: World, incarnation: str, *running: str) -> bool:
        with writing(world.engine) as connection:
            renewed = leases.renew_worker(connection, incarnation, running=running, lease=TWENTY)
        return renewed is not None

    def test_renewed_worker_keeps_its_lease(self, world: World) -> None:
        worker = world.worker(lease=OVER)
        assert self.live(world) == []
        assert self.renew(world, worker)
        assert self.live(world) == [worker]

    def live(self, world: World) -> list[object]:
        with reading(world.engine) as connection:
            found = leases.live_workers(connection, world.now())
        return [each["incarnation"] for each in found]

    def test_ended_worker_has_no_lease_to_renew(self, world: World) -> None:
        worker = world.worker()
        with writing(world.engine) as connection:
            leases.end_worker(connection, worker)
        assert self.live(world) == []
        assert self.renew(world, worker) is False
        assert self.live(world) == []

    def test_worker_that_was_given_up_is_told_when_it_renews(self, world: World) -> None:
        lost, alive = world.worker(lease=OVER, name="lost@h"), world.worker()
        with writing(world.engine) as connection:
            assert leases.give_up_workers(connection, world.now()) == ["lost@h"]
            assert leases.give_up_workers(connection, world.now()) == []
        assert self.renew(world, lost) is False
        assert self.renew(world, alive) is True

    def test_those_that_were_given_up_lately_are_told_from_those_that_ended(
        self, world: World
    ) -> None:
        lost, ended, _alive = world.worker(lease=OVER), world.worker(), world.worker()
        with writing(world.engine) as connection:
            leases.end_worker(connection, ended)
            leases.give_up_workers(connection, at := world.now())
        with reading(world.engine) as connection:
            now, told = leases.given_up(connection, TEN)
            assert told == {lost}
            assert at <= now <= world.now()
            assert not leases.given_up(connection, timedelta(0))[1]

    def test_worker_that_never_registered_has_nothing_to_renew(self, world: World) -> None:
        assert self.renew(world, "nobody") is False

    def test_only_what_runs_in_its_own_name_is_named(self, world: World) -> None:
        dag = world.run(job("a"), job("b"), job("c"))
        mine, other = world.worker(), world.worker()
        running = world.running(dag, "a", mine)
        others = world.running(dag, "b", other)
        world.finish(dag, mine, "c")
        assert self.renew(world, mine, running, others, world.ids(dag)["c"], "nobody")
        latest = world.latest(dag)
        assert latest["a"].named_at is not None
        assert latest["b"].named_at is None
        assert latest["c"].named_at is None

    def test_renewal_does_not_wait_for_rows_that_refer_to_what_it_names(
        self, postgresql_url: str
    ) -> None:
        """A job may keep what it writes by the id of its execution."""
        world = World(create_engine(postgresql_url))
        dag = world.run()
        worker = world.worker()
        execution_id = world.running(dag, "a", worker)
        with world.engine.begin() as connection:
            connection.execute(
                text("CREATE TABLE books (execution_id TEXT REFERENCES job_executions)")
            )
        with writing(world.engine) as job_writes:
            job_writes.execute(text("INSERT INTO books VALUES (:id)"), {"id": execution_id})
            assert self.renew(world, worker, execution_id)
            assert not executions.fenced(job_writes, execution_id, worker)
        world.engine.dispose()

    def test_worker_is_told_what_it_names_and_must_not_run_any_more(self, world: World) -> None:
        dag = world.run(*(job(name) for name in "abcde"))
        mine, other = world.worker(), world.worker()
        ids = {name: world.running(dag, name, mine) for name in "abcd"}
        ids["e"] = world.running(dag, "e", other)
        long_ago = world.now() - timedelta(seconds=10)
        # a goes on, b has succeeded, c was given up, d has just ended and is on its way out; e is
        # another's.
        world.succeed(ids["b"], mine)
        world.fail(ids["c"])
        world.fail(ids["d"])
        for name in "bc":
            world.change(ids[name], completed_at=long_ago)
        assert self.taken(world, mine, *ids.values(), "nobody") == {ids["c"]}
        with writing(world.engine) as connection:
            operators.cancel(connection, dag.dag_id, "a", actor="ann", grace=timedelta(0))
        assert self.taken(world, mine, *ids.values()) == {ids["a"], ids["c"]}

    def test_worker_that_has_become_another_must_end_what_it_lost_as_the_one_before(
        self, world: World
    ) -> None:
        dag = world.run(job("a"))
        before, after = world.worker(), world.worker()
        execution_id = world.running(dag, "a", before)
        assert self.taken(world, after, execution_id) == frozenset()
        world.fail(execution_id)
        world.change(execution_id, completed_at=world.now() - timedelta(seconds=10))
        assert self.taken(world, after, execution_id) == {execution_id}

    def test_renewal_tells_what_would_be_given_up_with_its_commit(self, world: World) -> None:
        dag = world.run(*(job(name) for name in "abcd"))
        mine, other = world.worker(), world.worker()
        named, unnamed = world.running(dag, "a", mine), world.running(dag, "b", mine)
        world.running(dag, "c", other)
        dropped = world.running(dag, "d", mine)
        for execution_id, pid in ((unnamed, 17), (dropped, 18)):
            world.change(execution_id, pid=pid)
        given_up = []
        for names in ([named, dropped], [named], [named]):
            with writing(world.engine) as connection:
                renewed = leases.renew_worker(connection, mine, running=names, lease=TWENTY)
                assert renewed is not None
                now = leases.wall_time(connection)
                found = leases.find_orphans(connection, now, over_limit_by=TWENTY)
            assert {orphan.execution_id for orphan in found} == set(renewed.unnamed)
            given_up.append(renewed.unnamed)
        assert given_up == [{}, {unnamed: 17}, {unnamed: 17, dropped: 18}]

    def taken(self, world: World, incarnation: str, *running: str) -> frozenset[str]:
        with writing(world.engine) as connection:
            renewed = leases.renew_worker(connection, incarnation, running=running, lease=TWENTY)
        assert renewed is not None
        return renewed.taken


class TestOrphans:
    def orphans(self, world: World, *, later: timedelta = timedelta(0)) -> list[Orphan]:
        with reading(world.engine) as connection:
            return leases.find_orphans(
                connection,
                leases.wall_time(connection) + later,
                over_limit_by=timedelta(seconds=60),
            )

    def renew(self, world: World, incarnation: str, *running: str) -> None:
        with writing(world.engine) as connection:
            assert leases.renew_worker(connection, incarnation, running=running, lease=TWENTY)

    def test_what_its_live_worker_has_just_started_is_none(self, world: World) -> None:
        dag = world.run(job("a"), job("b"), job("c"))
        worker = world.worker()
        world.running(dag, "a", worker)
        world.claim(world.starts(dag, "b"))
        assert self.orphans(world) == []

    def test_what_a_lost_worker_was_running_is_lost(self, world: World) -> None:
        dag = world.run(job("a"), job("b"))
        lost, alive = world.worker(lease=TEN), world.worker(lease=timedelta(hours=1))
        execution_id = world.running(dag, "a", lost)
        world.running(dag, "b", alive)
        (orphan,) = self.orphans(world, later=TEN)
        assert orphan.execution_id == execution_id
        assert orphan.message.startswith("worker lost: host h, pid 1, last seen 2")
        assert self.orphans(world) == []

    def test_what_an_ended_worker_was_running_is_lost(self, world: World) -> None:
        dag = world.run()
        worker = world.worker()
        execution_id = world.running(dag, "a", worker)
        with writing(world.engine) as connection:
            leases.end_worker(connection, worker)
        (orphan,) = self.orphans(world)
        assert orphan.execution_id == execution_id

    def test_what_a_worker_without_a_record_was_running_is_lost(self, world: World) -> None:
        dag = world.run()
        worker = world.worker()
        execution_id = world.running(dag, "a", worker)
        with writing(world.engine) as connection:
            connection.execute(worker_incarnations.delete())
        assert self.orphans(world) == [
            Orphan(execution_id, "worker lost: there is no record of it")
        ]

    def test_what_its_worker_does_not_name_in_two_renewals_ended_without_a_report(
        self, world: World
    ) -> None:
        dag = world.run(job("a"), job("b"))
        worker = world.worker()
        kept, dropped = world.running(dag, "a", worker), world.running(dag, "b", worker)
        self.renew(world, worker, kept, dropped)
        self.renew(world, worker, kept)
        assert self.orphans(world) == []
        self.renew(world, worker, kept)
        assert self.orphans(world) == [
            Orphan(dropped, "ended without a report: w@h does not run it any more")
        ]

    def test_clock_that_was_set_back_between_two_renewals_ends_nothing(self, world: World) -> None:
        dag = world.run()
        worker = world.worker()
        execution_id = world.running(dag, "a", worker)
        renewed_at = worker_incarnations.c.renewed_at
        with writing(world.engine) as connection:
            later = connection.execute(select(renewed_at)).scalar_one() + TEN
            connection.execute(worker_incarnations.update().values(renewed_at=later))
        with writing(world.engine) as connection:
            renewed = leases.renew_worker(connection, worker, running=[execution_id], lease=TWENTY)
        assert renewed is not None
        assert renewed.unnamed == {}
        assert self.orphans(world) == []

    def test_start_soon_after_the_clock_was_set_back_is_of_no_earlier_time_than_the_last_renewal(
        self, world: World
    ) -> None:
        dag = world.run()
        worker = world.worker()
        later = world.now() + TEN
        with writing(world.engine) as connection:
            connection.execute(
                worker_incarnations.update().values(
                    previous_renewed_at=later - TEN / 2, renewed_at=later
                )
            )
        execution_id = world.running(dag, "a", worker)
        assert world.row(execution_id).started_at < later - TEN / 2
        assert self.orphans(world) == []
        with writing(world.engine) as connection:
            renewed = leases.renew_worker(connection, worker, running=[execution_id], lease=TWENTY)
        assert renewed is not None
        assert renewed.unnamed == {}
        assert self.orphans(world) == []

    def test_renewals_before_its_start_do_not_count(self, world: World) -> None:
        dag = world.run()
        worker = world.worker()
        for _ in range(3):
            self.renew(world, worker)
        execution_id = world.running(dag, "a", worker)
        assert self.orphans(world) == []
        self.renew(world, worker)
        assert self.orphans(world) == []
        self.renew(world, worker)
        assert [orphan.execution_id for orphan in self.orphans(world)] == [execution_id]

    @pytest.mark.parametrize("renewals", [0, 1, 3])
    def test_what_is_a_minute_over_its_hard_limit_ended_without_a_report(
        self, world: World, renewals: int
    ) -> None:
        dag = world.run(job("a", timeout=timedelta(seconds=10)))
        worker = world.worker(lease=timedelta(hours=1))
        execution_id = world.running(dag, "a", worker)
        for _ in range(renewals):
            with writing(world.engine) as connection:
                leases.renew_worker(
                    connection, worker, running=[execution_id], lease=timedelta(hours=1)
                )
        minute = timedelta(seconds=60)
        end = world.row(execution_id).hard_limit_at + minute
        with reading(world.engine) as connection:
            before = leases.find_orphans(
                connection, end - timedelta(microseconds=1), over_limit_by=minute
            )
            at_last = leases.find_orphans(connection, end, over_limit_by=minute)
        assert before == []
        assert at_last == [Orphan(execution_id, "ended without a report by its hard limit on w@h")]

    def test_finished_and_waiting_executions_are_nobodys_orphans(self, world: World) -> None:
        dag = world.run(job("a"), job("b"), job("c"))
        worker = world.worker()
        world.finish(dag, worker, "a")
        world.claim(world.starts(dag, "b"))
        assert self.orphans(world, later=timedelta(days=1)) == []
