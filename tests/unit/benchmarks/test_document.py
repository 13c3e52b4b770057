"""The page that is written from the stored run."""

from __future__ import annotations

import copy

import pytest

from benchmarks.__main__ import FORMS
from benchmarks.document import FILE, TARGETS, TITLES, write
from benchmarks.flows import COMMITS, GAP
from benchmarks.results import Run, load, with_parts
from benchmarks.state import ORACLE


@pytest.fixture
def page() -> str:
    return FILE.read_text(encoding="utf-8")


def test_it_is_what_the_stored_run_gives(page: str) -> None:
    """If this fails: python -m benchmarks --store, on a machine that does nothing else."""
    assert write(page, load()) == page


def test_a_target_that_is_missed_is_said_to_be(page: str) -> None:
    results = load()
    results["full"]["parts"]["flows"].pop("apart", None)
    row = results["full"]["parts"]["flows"]["rows"][GAP]
    reference = row["references"][COMMITS]["median"]
    said = f"| {GAP}: at most 1.5 × Celery with three commits | "
    for times, told in ((1.5, "1.50 | met |"), (1.51, "1.51 | **not met** |")):
        row["ours"]["median"] = reference * times
        assert f"{said}{told}\n" in write(page, results)


def test_what_was_not_installed_is_told_as_not_measured(page: str) -> None:
    results = load()
    results["full"]["parts"]["states"]["rows"]["state of XNYS"]["references"].pop(ORACLE, None)
    assert "| at least 5 × faster than exchange_calendars | – | not measured |" in write(
        page, results
    )


@pytest.mark.parametrize(("seconds", "told"), [(600, "600 | met"), (601, "601 | **not met**")])
def test_parts_that_were_measured_by_themselves_say_where_and_are_not_counted_to_the_whole(
    page: str, seconds: float, told: str
) -> None:
    results = load()
    full = results["full"]
    full["date"], full["seconds"] = "2029-01-01", seconds
    for part in full["parts"].values():
        part["seconds"] = 1
    machine = full["machine"] | {"cores": "64"}
    apart: Run = {**full, "machine": machine, "share": 0.5, "date": "2030-01-01"}
    apart["seconds"] = 7
    results["full"] = with_parts(full, apart)
    written = write(page, results)
    assert "\nMeasured on 2029-01-01: processor " in written
    assert f"| `make bench`: at most 600 s | {told} |\n" in written
    told_of_part = written.partition("\n### Beginning\n")[2].lstrip().splitlines()[0]
    assert told_of_part.startswith("Of another run, on 2030-01-01: processor ")
    assert "50% of the cores were to be had" in told_of_part
    assert ", *Beginning*, *Nothing to do*, " in written
    told_of_part = told_of_part.removeprefix("O")
    assert f", *{TITLES['pages']}*: o{told_of_part}\n" in written
    assert f"| {GAP}: at most 1.5 × Celery with three commits (another run) | " in written
    assert "over their limits: none (another run) | " in written
    assert "| Beginning | 1 (another run) |" in written
    assert f"| all of it, in one run | {seconds} | " in written


def test_every_target_is_of_a_row_that_is_measured() -> None:
    """A row that has another name by now would be told as not measured."""
    parts = load()["full"]["parts"]
    for target in TARGETS:
        assert target.row in parts[target.part]["rows"], target.said


def test_all_parts_of_each_form_are_stored() -> None:
    assert {form: list(run["parts"]) for form, run in load().items()} == {
        form: list(parts) for form, parts in FORMS.items()
    }
    assert [*FORMS["full"], *FORMS["scaling"]] == list(TITLES)


def test_a_form_that_is_not_stored_is_left_out_of_what_each_takes(page: str) -> None:
    results = load()
    del results["quick"]
    assert "| seconds | `make bench` | `make bench-scaling` |\n|---|---|---|\n" in write(
        page, results
    )


def test_what_is_written_replaces_what_was(page: str) -> None:
    results = load()
    other = copy.deepcopy(results)
    other["full"]["date"] = "2030-01-01"
    changed = write(page, other)
    assert "2030-01-01" in changed
    assert write(changed, results) == page


def test_a_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="no marks of targets"):
        write(page.replace("<!-- end of targets -->", ""), load())
