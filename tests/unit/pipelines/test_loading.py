"""Finding pipelines: whatever is wrong is told at once, with file and line."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from textwrap import dedent

import pytest
from pydantic import SecretStr

from prometheus.core.declarations import read_declarations
from prometheus.core.markets import declare
from prometheus.errors import PipelineError
from prometheus.orchestration.daily import daily
from prometheus.orchestration.pipeline import Pipeline
from prometheus.orchestration.sensor import CONTINUE_STALE
from prometheus.pipelines.loading import find_pipelines, load_pipelines
from prometheus.settings import load_settings
from prometheus.sources.eodhd.naming import EodhdFeed

DATA_PAGE = Path(__file__).parents[3] / "docs" / "data.md"
HEAD = "from prometheus import Pipeline\n"
Write = Callable[[str, str], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; modules and paths that loading adds are gone after the test."""
    modules, paths = dict(sys.modules), list(sys.path)
    yield tmp_path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)
    sys.path[:] = paths


@pytest.fixture
def write(folder: Path) -> Write:
    """A function that writes a file in the folder, after the import that all need."""

    def write(name: str, text: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD + dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    return write


def load(folder: Path, *names: str) -> dict[str, Pipeline]:
    return load_pipelines(names, visibility_timeout=timedelta(hours=2), folder=folder)


def faults(folder: Path, *names: str) -> tuple[str, ...]:
    with pytest.raises(PipelineError) as raised:
        load(folder, *names)
    return raised.value.faults


def number_of(path: Path, text: str) -> int:
    """The line, from 1, that contains a text."""
    lines = path.read_text().splitlines()
    (found,) = (number for number, line in enumerate(lines, 1) if text in line)
    return found


GOOD = """
    good = Pipeline("good", markets=["US_EQ"])

    @good.job()
    def first(ctx):
        return {"answer": 42}

    @good.job(after=[first])
    def second(ctx):
        return first(ctx)
"""


class TestValid:
    def test_file_is_loaded_and_its_functions_run(self, folder: Path, write: Write) -> None:
        write("good.py", GOOD)
        pipeline = load(folder, "good.py")["good"]
        assert list(pipeline.jobs) == ["first", "second"]
        assert pipeline.jobs["second"].after == ("first",)
        assert pipeline.jobs["second"].resolve()(None) == {"answer": 42}

    def test_absolute_path_and_subfolder_will_do(self, folder: Path, write: Write) -> None:
        path = write("sub/good.py", GOOD)
        assert list(load(folder, "sub/good.py")) == ["good"]
        assert list(load(folder, str(path))) == ["good"]

    def test_places_are_those_of_the_file(self, folder: Path, write: Write) -> None:
        path = write("good.py", GOOD)
        pipeline = load(folder, "good.py")["good"]
        assert pipeline.where == f"{path}:{number_of(path, 'Pipeline(')}"
        assert pipeline.jobs["first"].where == f"{path}:{number_of(path, '@good.job()')}"

    def test_module_is_found_in_the_folder(self, folder: Path, write: Write) -> None:
        write("my_jobs_of_a_test.py", GOOD)
        assert list(load(folder, "my_jobs_of_a_test")) == ["good"]
        assert list(load(folder, "my_jobs_of_a_test:good")) == ["good"]

    def test_shipped_pipeline_is_loaded_by_its_module(self, folder: Path) -> None:
        assert load(folder, "prometheus.orchestration.daily:daily") == {"daily": daily}

    def test_file_that_imports_another_pipeline_names_the_same_one(
        self, folder: Path, write: Write
    ) -> None:
        write("more.py", "from prometheus.orchestration.daily import daily\n" + dedent(GOOD))
        loaded = load(folder, "prometheus.orchestration.daily", "more.py")
        assert loaded["daily"] is daily
        assert list(loaded) == ["daily", "good"]

    def test_loading_twice_gives_the_same_jobs(self, folder: Path, write: Write) -> None:
        write("good.py", GOOD)
        first, second = load(folder, "good.py"), load(folder, "good.py")
        assert list(first) == list(second)
        assert list(first["good"].jobs) == list(second["good"].jobs)
        assert first["good"].jobs["second"].resolve()(None) == {"answer": 42}

    def test_file_named_twice_is_one(self, folder: Path, write: Write) -> None:
        write("good.py", GOOD)
        assert list(load(folder, "good.py", "good.py")) == ["good"]

    def test_two_files_with_the_same_stem_are_two(self, folder: Path, write: Write) -> None:
        for name in ("one", "two"):
            write(
                f"{name}/jobs.py",
                f"""
                import dataclasses

                @dataclasses.dataclass
                class Answer:
                    text: str

                mine = Pipeline("{name}", markets=["US_EQ"])

                @mine.job()
                def answer(ctx):
                    return Answer("{name}").text
                """,
            )
        loaded = load(folder, "one/jobs.py", "two/jobs.py")
        answers = {n: p.jobs["answer"].resolve()(None) for n, p in loaded.items()}
        assert answers == {"one": "one", "two": "two"}

    def test_file_called_like_a_module_of_python_leaves_that_alone(
        self, folder: Path, write: Write
    ) -> None:
        write("statistics.py", GOOD)
        load(folder, "statistics.py")
        assert sys.modules["statistics"] is statistics

    def test_byte_order_mark_and_encoding_line_are_understood(
        self, folder: Path, write: Write
    ) -> None:
        (folder / "bom.py").write_bytes(b"\xef\xbb\xbf" + (HEAD + dedent(GOOD)).encode())
        assert list(load(folder, "bom.py")) == ["good"]
        text = "# -*- coding: latin-1 -*-\n" + HEAD + dedent(GOOD) + "name = 'é'\n"
        (folder / "latin.py").write_bytes(text.encode("latin-1"))
        assert list(load(folder, "latin.py")) == ["good"]

    def test_nothing_named_is_nothing_loaded(self, folder: Path) -> None:
        assert load(folder) == {}


class TestFaults:
    def test_cycle_unknown_dependency_and_syntax_error_of_one_file_are_told_at_once(
        self, folder: Path, write: Write
    ) -> None:
        path = write(
            "broken.py",
            """
            mine = Pipeline("mine", markets=["US_EQ"])

            @mine.job(after=["second"])
            def first(ctx): ...

            @mine.job(
                name="second",
                after=["first"],
            )
            def second(ctx):
                return "second"

            @mine.job(
                after=["firts"],
                timeout="30m",
            )
            def third(ctx): ...

            @mine.job(
                timeout="1h",
            )
            def broken(ctx):
                return (1,

            @mine.job(name="last")
            def last(ctx): ...
            """,
        )
        found = faults(folder, "broken.py")
        assert len(found) == 3
        assert found[0] == (
            f"{path}:{number_of(path, 'return (1,')}: SyntaxError: '(' was never closed"
        )
        assert found[1] == (
            f"{path}:{number_of(path, 'firts') - 1}: job 'third' depends on 'firts', which does "
            f"not exist. Did you mean 'first'?"
        )
        first = number_of(path, '@mine.job(after=["second"])')
        assert found[2] == f"{path}:{first}: cycle: first → second → first"

    def test_several_syntax_errors_are_all_told(self, folder: Path, write: Write) -> None:
        path = write(
            "broken.py",
            """
            mine = Pipeline("mine", markets=["US_EQ"])

            @mine.job()
            def one(ctx):
                x = = 1

            @mine.job()
            def two(ctx): ...

            @mine.job()
            def three(ctx):
                for
            """,
        )
        found = faults(folder, "broken.py")
        assert [fault.split(": ")[0] for fault in found] == [
            f"{path}:{number_of(path, '= = 1')}",
            f"{path}:{number_of(path, '    for')}",
        ]

    def test_missing_body_is_one_fault(self, folder: Path, write: Write) -> None:
        path = write(
            "broken.py",
            """
            mine = Pipeline("mine", markets=["US_EQ"])

            @mine.job()
            def bodiless(ctx):

            @mine.job()
            def two(ctx): ...
            """,
        )
        (fault,) = faults(folder, "broken.py")
        assert fault.startswith(
            f"{path}:{number_of(path, 'def two') - 1}: SyntaxError: expected an"
        )

    def test_name_missing_because_of_a_syntax_error_is_no_fault_of_its_own(
        self, folder: Path, write: Write
    ) -> None:
        write(
            "broken.py",
            """
            mine = Pipeline("mine", markets=["US_EQ"])

            @mine.job()
            def one(ctx):
                x = = 1

            @mine.job(after=[one])
            def two(ctx): ...
            """,
        )
        found = faults(folder, "broken.py")
        assert len([fault for fault in found if "SyntaxError" in fault]) == 1
        assert not any("NameError" in fault for fault in found)

    def test_faults_of_several_files_are_told_at_once(self, folder: Path, write: Write) -> None:
        first = write("first.py", "x = (\n")
        second = write("second.py", "mine = Pipeline('mine', markets=['NYSE'])\n")
        found = faults(folder, "first.py", "missing.py", "second.py", "no_such_module_of_ours")
        assert len(found) == 5
        assert found[0] == f"{first}:2: SyntaxError: '(' was never closed"
        assert "no pipeline" not in found[0]
        assert found[1].startswith(f"{folder / 'missing.py'}: No such file or directory")
        assert all(fault.startswith(f"{second}:2: ") for fault in found[2:4])
        assert found[4].startswith("no_such_module_of_ours: ModuleNotFoundError: ")

    def test_pipelines_with_faults_are_left_out_and_hold_up_no_other(
        self, folder: Path, write: Write
    ) -> None:
        write(
            "good.py", "good = Pipeline('good', markets=['US_EQ'])\n@good.job()\ndef a(ctx): ...\n"
        )
        write(
            "half.py",
            """
            whole = Pipeline("whole", markets=["US_EQ"])
            @whole.job()
            def a(ctx): ...
            empty = Pipeline("empty", markets=["US_EQ"])
            """,
        )
        write(
            "raises.py",
            "lost = Pipeline('lost', markets=['US_EQ'])\n@lost.job()\ndef a(ctx): ...\n1 / 0\n",
        )
        write(
            "again.py", "good = Pipeline('good', markets=['EU_EQ'])\n@good.job()\ndef a(ctx): ...\n"
        )
        write(
            "wrong.py",
            "wrong = Pipeline('wrong', markets=[1])\n@wrong.job()\ndef a(ctx): ...\n",
        )
        names = ("raises.py", "good.py", "half.py", "again.py", "gone.py", "wrong.py")

        found, faults = find_pipelines(names, visibility_timeout=timedelta(hours=2), folder=folder)

        assert list(found) == ["good", "whole"], "lost.py's name is free for another"
        assert found["good"].markets == ("US_EQ",)
        said = [
            "ZeroDivisionError",
            "it has no jobs",
            "is defined at",
            "No such file or directory",
            "AttributeError",
        ]
        assert len(faults) == len(said)
        assert all(text in fault for text, fault in zip(said, faults, strict=True))

    def test_sensor_that_would_go_on_with_a_source_that_can_not_serve_it_is_refused(
        self, folder: Path, write: Write
    ) -> None:
        path = write(
            "watch.py",
            """
            watch = Pipeline("watch", markets=["US_EQ", "EU_EQ", "NO_EQ"])
            watch.add_sensor("jobs:a", otherwise="use:synthetic")
            watch.add_sensor("jobs:b", otherwise="use:synthetc")
            watch.add_sensor("jobs:c", otherwise="use:bundled")
            watch.add_sensor("jobs:d", otherwise="use:eodhd")
            """,
        )
        said = faults(folder, "watch.py")
        assert [fault for fault in said if "NO_EQ" in fault] == [said[0]]
        b, c, d, d_europe = said[1:]
        assert b == (
            f"{path}:{number_of(path, 'jobs:b')}: job 'b': otherwise is 'use:synthetc'; there is "
            f"no such source. Did you mean 'synthetic'?"
        )
        assert "job 'c': otherwise is 'use:bundled'; EU_EQ: the source 'bundled' has prices" in c
        assert "job 'd': otherwise is 'use:eodhd'; US_EQ: the source 'eodhd' needs a token" in d
        assert "EU_EQ: the source 'eodhd' needs a token" in d_europe

        write(
            "served.py",
            """
            served = Pipeline("served", markets=["US_EQ"])
            served.add_sensor("jobs:d", otherwise="use:eodhd")
            """,
        )
        feed = EodhdFeed(SecretStr("token"), symbols=("XNYS:IBM",))
        found, left = find_pipelines(
            ["served.py"], visibility_timeout=timedelta(hours=2), folder=folder, feed=feed
        )
        assert (list(found), left) == (["served"], [])

    def test_file_that_raises_is_told_with_its_own_line_not_a_librarys(
        self, folder: Path, write: Write
    ) -> None:
        path = write("raising.py", "import json\nvalue = json.loads('{')\n")
        assert json.__file__
        (fault,) = faults(folder, "raising.py")
        assert fault.startswith(f"{path}:3: JSONDecodeError: ")

    def test_what_stands_before_an_error_is_checked_too(self, folder: Path, write: Write) -> None:
        path = write(
            "raising.py",
            """
            mine = Pipeline("mine", markets=["US_EQ"])

            @mine.job(after=["nowhere"])
            def one(ctx): ...

            1 / 0
            """,
        )
        found = faults(folder, "raising.py")
        assert found[0] == f"{path}:{number_of(path, '1 / 0')}: ZeroDivisionError: division by zero"
        assert "depends on 'nowhere'" in found[1]
        assert len(found) == 2

    def test_file_that_ends_the_process_is_a_fault(self, folder: Path, write: Write) -> None:
        path = write("ending.py", "raise SystemExit(3)\n")
        assert faults(folder, "ending.py") == (f"{path}:2: SystemExit: 3",)

    def test_module_that_raises_is_told_with_its_line(self, folder: Path, write: Write) -> None:
        path = write("raising_module_of_a_test.py", "import no_such_module_of_ours\n")
        (fault,) = faults(folder, "raising_module_of_a_test")
        assert fault == (f"{path}:2: ModuleNotFoundError: No module named 'no_such_module_of_ours'")

    def test_module_with_a_syntax_error_is_told_with_its_line(
        self, folder: Path, write: Write
    ) -> None:
        path = write("broken_module_of_a_test.py", "x = = 1\n")
        (fault,) = faults(folder, "broken_module_of_a_test")
        assert fault == f"{path}:2: SyntaxError: invalid syntax"

    @pytest.mark.parametrize("name", ["nothing", "first", "HEAD"])
    def test_attribute_that_is_no_pipeline_is_told(
        self, folder: Path, write: Write, name: str
    ) -> None:
        write("attributes_of_a_test.py", GOOD)
        (fault,) = faults(folder, f"attributes_of_a_test:{name}")
        assert fault == (
            f"attributes_of_a_test:{name}: attributes_of_a_test has no pipeline called {name!r}"
        )

    def test_file_without_a_pipeline_is_told(self, folder: Path, write: Write) -> None:
        path = write("empty.py", "")
        assert faults(folder, "empty.py") == (f"{path}: no pipeline is defined in it",)

    @pytest.mark.parametrize("content", [b"x = '\xff'\n", b"\x00\x00\n"])
    def test_file_that_is_no_text_is_told(self, folder: Path, content: bytes) -> None:
        (folder / "binary.py").write_bytes(content)
        found = faults(folder, "binary.py")
        assert all(fault.startswith(f"{folder / 'binary.py'}") for fault in found)

    def test_folder_named_like_a_file_is_told(self, folder: Path) -> None:
        (folder / "folder.py").mkdir()
        (fault,) = faults(folder, "folder.py")
        assert fault.startswith(f"{folder / 'folder.py'}: Is a directory")

    def test_pipelines_whose_runs_would_have_one_name_are_told(
        self, folder: Path, write: Write
    ) -> None:
        """Of a market called US, eq_good's; of US_EQ, good's: us_eq_good_ and the date."""
        first = write("a.py", GOOD)
        second = write(
            "b.py", GOOD.replace('"good"', '"eq_good"').replace('"US_EQ"', '"EU_EQ", "US"')
        )
        tables = {"US": {"members": ["XNYS"]}}
        declarations, wrong = read_declarations(tables, where=str, grounds="", shipped={})
        assert wrong == []
        before = declare(declarations)
        try:
            found = faults(folder, "a.py", "b.py")
        finally:
            declare(before)
        (fault,) = found
        assert fault == (
            f"{second}:2: its runs in US would be called us_eq_good_…, as those of 'good' in US_EQ "
            f"are ({first}:2); give one of them another name"
        )

    def test_two_pipelines_of_one_name_are_told_with_both_places(
        self, folder: Path, write: Write
    ) -> None:
        first, second = write("a.py", GOOD), write("b.py", GOOD)
        assert faults(folder, "a.py", "b.py") == (
            f"{second}:2: pipeline 'good' is defined at {first}:2 too",
        )

    def test_broken_file_leaves_the_modules_as_they_were(self, folder: Path, write: Write) -> None:
        write("statistics.py", "x = (\n")
        faults(folder, "statistics.py")
        assert sys.modules["statistics"] is statistics

    def test_fault_of_one_file_refuses_all(self, folder: Path, write: Write) -> None:
        write("good.py", GOOD)
        assert len(faults(folder, "good.py", "missing.py")) == 1

    def test_retry_cap_is_checked_against_the_brokers_timeout(
        self, folder: Path, write: Write
    ) -> None:
        write("good.py", GOOD)
        with pytest.raises(PipelineError, match="visibility timeout \\(10m\\)"):
            load_pipelines(["good.py"], visibility_timeout=timedelta(minutes=10), folder=folder)


def test_the_examples_of_the_page_on_data_are_right(folder: Path) -> None:
    blocks = re.findall(
        r"^```(\w+)\n(.+?)^```", DATA_PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    toml = "\n".join(text for kind, text in blocks if kind == "toml")
    (folder / "prometheus.toml").write_text(toml)
    settings = load_settings({"PROMETHEUS__EODHD__TOKEN": "abc"}, folder)
    assert settings.sources == {"US_EQ": "eodhd"}
    patient = load(folder, *settings.pipelines.modules)["daily"]
    assert patient.jobs["ingest_prices"].after == ("prices_ready",)
    (python,) = (text for kind, text in blocks if kind == "python")
    (folder / "vendor.py").write_text(python)
    sensor = load(folder, "vendor.py")["vendor"].jobs["file_is_there"].sensor
    assert sensor is not None
    assert sensor.otherwise == CONTINUE_STALE
