"""The query by which KEDA reckons the workers of a market, on rows that the product wrote."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from prometheus.orchestration.dag import JobMetadata
from prometheus.persistence import leases
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.listings import read_queues
from tests.deployments import DEPLOY, KEDA, Document, find
from tests.integration.persistence.world import HOUR, World, job

Stage = Callable[[World], None]


@pytest.fixture
def world(postgresql_url: str) -> Iterator[World]:
    """KEDA asks PostgreSQL only."""
    engine = create_engine(postgresql_url)
    yield World(engine)
    engine.dispose()


def scaled(market: str) -> Document:
    name = f"prometheus-worker-{market.lower().replace('_', '-')}"
    spec: Document = find(KEDA, "ScaledObject", name)["spec"]
    return spec


def query(market: str) -> str:
    """Return what KEDA asks."""
    return str(scaled(market)["triggers"][0]["metadata"]["query"])


def workers(world: World, market: str = "US_EQ") -> int:
    """Reckon as the HorizontalPodAutoscaler does that KEDA makes, in the long run."""
    with reading(world.engine) as connection:
        ((count,),) = connection.execute(text(query(market))).all()
        _, loads = read_queues(connection, leases.wall_time(connection))
    # What the metric `desired_workers` goes by.
    assert (loads[market].backlog if market in loads else 0) == count
    spec = scaled(market)
    jobs_of_one = float(spec["triggers"][0]["metadata"]["targetQueryValue"])
    wanted = math.ceil(float(count) / jobs_of_one)
    return int(min(max(wanted, spec["minReplicaCount"]), spec["maxReplicaCount"]))


def jobs(count: int) -> list[JobMetadata]:
    return [
        job(f"job-{number}", retry_base=4 * HOUR, retry_cap=4 * HOUR) for number in range(count)
    ]


def nothing(world: World) -> None:
    pass


def pending(world: World) -> None:
    """Their window has not opened, or they wait for others."""
    world.run(*jobs(20))


def queued(count: int) -> Stage:
    """Claimed, and due now."""

    def stage(world: World) -> None:
        dag = world.run(*jobs(count))
        assert len(world.claim(world.starts(dag))) == count

    return stage


def running(count: int) -> Stage:
    def stage(world: World) -> None:
        dag, worker = world.run(*jobs(count)), world.worker()
        for name in dag.jobs:
            world.running(dag, name, worker)

    return stage


def retries_in_hours(world: World) -> None:
    """Failed, and queued again for the end of a delay."""
    dag, worker = world.run(*jobs(20)), world.worker()
    for name in dag.jobs:
        # Windows as long as the delay, or it would be final.
        world.fail(world.running(dag, name, worker, closes=12 * HOUR))
    assert {row.status for row in world.latest(dag).values()} == {"QUEUED"}
    assert min(row.scheduled_at for row in world.latest(dag).values()) > world.now() + HOUR


def retry_that_is_due(world: World) -> None:
    dag = world.run(*jobs(3))
    for name in dag.jobs:
        world.fail(world.running(dag, name, world.worker()), draw=lambda bound: 0)


def finished(world: World) -> None:
    dag = world.run(*jobs(20))
    world.finish(dag, world.worker(), *dag.jobs)


def of_another_market(world: World) -> None:
    dag = world.run(*jobs(20))
    world.claim(world.starts(dag))
    for execution_id in world.ids(dag).values():
        world.change(execution_id, market_id="EU_EQ", queue="EU_EQ")


def of_every_kind(world: World) -> None:
    """Two that run, one that is due, and all that needs no worker."""
    dag, worker = world.run(*jobs(40)), world.worker()
    names = [*dag.jobs]
    for name in names[:2]:
        world.running(dag, name, worker)
    world.claim(world.starts(dag, names[2]))
    world.finish(dag, worker, *names[3:20])
    for name in names[20:30]:
        world.fail(world.running(dag, name, worker, closes=12 * HOUR))


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        # The least, that somebody listens; and for each further two jobs a worker more.
        (nothing, 1),
        (pending, 1),
        (retries_in_hours, 1),
        (finished, 1),
        (of_another_market, 1),
        (queued(2), 1),
        (queued(5), 3),
        (retry_that_is_due, 2),
        (running(3), 2),
        (of_every_kind, 2),
        (queued(8), 4),
        (queued(30), 4),
    ],
)
def test_backlog_gives_the_workers_that_it_needs(world: World, stage: Stage, expected: int) -> None:
    stage(world)
    assert workers(world) == expected
    assert workers(world, "ASIA_EQ") == 1
    assert workers(world, "EU_EQ") == (4 if stage is of_another_market else 1)


def test_role_that_may_read_one_table_can_ask(world: World) -> None:
    """As ``deploy/README.md`` tells to make it."""
    queued(3)(world)
    readme = (DEPLOY / "README.md").read_text()
    (grants,) = re.findall(r"```sql\n(.+?)```", readme, re.DOTALL)
    role = f"keda_{uuid.uuid4().hex[:8]}"
    with writing(world.engine) as connection:
        for statement in grants.replace("prometheus_keda", role).split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement.replace("%", "%%"))
    try:
        with reading(world.engine) as connection:
            connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
            ((count,),) = connection.execute(text(query("US_EQ"))).all()
            assert count == 3
        with reading(world.engine) as connection, pytest.raises(ProgrammingError, match="denied"):
            connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
            connection.exec_driver_sql("SELECT count(*) FROM dag_runs")
    finally:
        with writing(world.engine) as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
