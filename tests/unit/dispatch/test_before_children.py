"""What a worker's main process has imported when its pool makes the first child."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ASKED = """
import sys
import workers
from celery.signals import worker_init

before = "numpy" in sys.modules
worker_init.send(sender=None)
jobs = workers.app.tasks
named = {
    task.definition.function.partition(":")[0]
    for task in jobs.values()
    if hasattr(task, "definition")
}
wanted = ("cffi.cparser", "numpy", "numpy.ma", "numpy.random", "prometheus.sources.registry")
found = [name for name in wanted if name in sys.modules]
print(before, ",".join(found), *sorted(name for name in named if name in sys.modules))
"""

_ENDS = """
import ctypes
import sys
import workers
from celery import platforms

platforms.set_pdeathsig("SIGKILL")  # as Celery does in each child
told = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(told))  # PR_GET_PDEATHSIG
print(told.value, "cffi.cparser" in sys.modules)
"""

_PIPELINE = """
from prometheus import Pipeline

mine = Pipeline("mine", markets=["US_EQ"])
mine.add("named_job:run")
"""


def test_main_process_imports_our_jobs_and_no_user_s(tmp_path: Path) -> None:
    """One of ours that can not be imported is left to its attempts, as users' are."""
    before, after, *loaded = _ask(tmp_path, "prometheus.orchestration.daily", "pipeline.py")
    assert before == "False"  # a beat never needs it
    assert after == "numpy,numpy.ma,numpy.random,prometheus.sources.registry"
    assert loaded == [
        f"prometheus.pipelines.equities.{name}"
        for name in (
            *("books", "factors", "prices", "profiles", "returns"),
            *("signals", "universes", "volatility", "windows"),
        )
    ]


def test_main_process_imports_nothing_for_users_jobs_alone(tmp_path: Path) -> None:
    assert _ask(tmp_path, "pipeline.py") == ["False"]


@pytest.mark.skipif(sys.platform != "linux", reason="no other system ends a child with its parent")
def test_no_child_needs_a_parser_of_c_to_end_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "prometheus.toml").write_text("")
    done = _run(tmp_path, _ENDS)
    assert done.split() == ["9", "False"]


def _ask(folder: Path, *pipelines: str) -> list[str]:
    absent = '\nmine.add("prometheus.no_such_module:run", name="absent")\n'
    ours = len(pipelines) > 1
    (folder / "pipeline.py").write_text(_PIPELINE + (absent if ours else ""))
    (folder / "named_job.py").write_text("def run(ctx): ...\n")
    (folder / "prometheus.toml").write_text(f"[pipelines]\nmodules = {list(pipelines)}\n")
    return _run(folder, _ASKED).split()


def _run(folder: Path, script: str) -> str:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
