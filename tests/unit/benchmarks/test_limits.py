"""What measurements say of larger installations, and the day that they are taken of."""

from __future__ import annotations

from benchmarks import day, limits, market_day, scale
from benchmarks.day import Tick, rows_of
from benchmarks.document import SCALING, TITLES, write_scaling
from benchmarks.figures import Rows, beside, summary
from benchmarks.results import Circumstances, load, with_parts


def rows(unit: str, what: str, **values: float) -> Rows:
    return {what: beside(unit, {name: summary([[value]]) for name, value in values.items()})}


def tick(milliseconds: float, *, open_runs: int = 1, made: int = 0, claimed: int = 0) -> Tick:
    return Tick(milliseconds, 3.0, 1.0, open_runs, made, claimed)


def test_a_part_carries_what_its_dearest_job_leaves_it() -> None:
    name = scale.of_flood(scale.POSTGRES)
    measured = {what: rows("ms", what, one=1, two=1)[what] for _, what in limits.PARTS}
    measured |= rows("ms of a core each", name, one=2.0, eight=4.0)
    told = {part: figures for part, *figures in limits.costs(measured)}
    assert told["PostgreSQL: likewise"] == [2.0, 4.0, 250.0]


def test_of_the_scheduler_only_its_own_time_counts() -> None:
    measured = {what: rows("ms", what, one=1)[what] for _, what in limits.PARTS}
    measured |= rows("ms of a core each", day.DAY_COST, scheduler=0.5, postgres=4.0)
    assert list(limits.costs(measured))[-1][1:] == (0.5, 0.5, 2_000.0)


def test_a_quiet_tick_comes_every_three_seconds() -> None:
    measured = rows("ms of a core", day.QUIET_TICK, leader=3.0, standby=1.5)
    assert list(limits.schedulers(measured)) == [(day.LEADER, 3.0, 0.1), ("standby", 1.5, 0.05)]


def test_ticks_are_told_by_how_many_runs_are_open() -> None:
    found = rows_of(
        [
            tick(4, open_runs=0, claimed=1),
            tick(6, open_runs=10, claimed=1),
            tick(20, open_runs=11, made=11, claimed=2),
        ]
    )
    assert found[day.of_open_runs(10)]["ours"]["median"] == 5
    assert found[day.of_open_runs(25)]["ours"]["median"] == 20
    assert day.of_open_runs(50) not in found
    assert found[day.BIGGEST]["ours"]["median"] == 20
    assert found[day.BIGGEST_RUNS]["ours"]["median"] == 11
    assert found[day.DAY_COST]["ours"]["median"] == 3 * 3.0 / 4


def test_the_day_has_100_markets_and_500_jobs_of_which_each_waits_for_earlier_ones() -> None:
    graph = market_day.graph()
    assert len(set(market_day.MARKETS)) == 100
    assert len(graph) == 500
    seen: set[str] = set()
    for name, after in graph.items():
        assert seen.issuperset(after), name
        seen.add(name)


def test_a_part_that_is_measured_alone_takes_the_place_of_the_stored_one() -> None:
    stored = load()["full"]
    own: Circumstances = {"date": "2030-01-01", "machine": {"cores": "64"}, "share": 0.5}
    kept = with_parts(
        stored, {**own, "seconds": 1, "parts": {"states": {"seconds": 1, "rows": {}}}}
    )
    assert kept["seconds"] == stored["seconds"] > 1  # that of all of it in one run
    assert kept["parts"]["states"] == {"seconds": 1, "rows": {}, "apart": own}
    others = kept["parts"].keys() - {"states"}
    assert others == stored["parts"].keys() - {"states"}
    assert all(kept["parts"][name] == stored["parts"][name] for name in others)
    assert (kept["machine"], kept["share"]) == (stored["machine"], stored["share"])


def test_the_page_is_what_the_stored_run_gives() -> None:
    text = SCALING.read_text(encoding="utf-8")
    assert write_scaling(text, load()) == text


def test_what_was_measured_while_others_worked_is_said_to_be_provisional() -> None:
    results = load()
    text = SCALING.read_text(encoding="utf-8")
    stored = results["scaling"]
    for share, said in ((1.0, False), (0.5, True)):
        results["scaling"] = with_parts(stored, {**stored, "share": share, "date": "2030-01-01"})
        written = write_scaling(text, results)
        assert ("50% of the cores" in written) is said
        assert f"*{TITLES['scale']}*, *{TITLES['day']}*: of another run, on 2030-01" in written
        assert stored["date"] not in written
