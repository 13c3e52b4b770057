"""What a worker's main process has imported when its pool makes the first child."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
wanted = ("cffi.cparser", "numpy", "numpy.ma", "prometheus.sources.registry")
found = [name for name in wanted if name in sys.modules]
print(before, ",".join(found), *sorted(name for name in named if name in sys.modules))
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
    assert after == "cffi.cparser,numpy,numpy.ma,prometheus.sources.registry"
    assert loaded == [
        f"prometheus.pipelines.equities.{name}"
        for name in (
            *("books", "factors", "prices", "profiles", "returns"),
            *("signals", "universes", "volatility", "windows"),
        )
    ]


def test_main_process_imports_nothing_for_users_jobs_alone(tmp_path: Path) -> None:
    """But for what Celery has each child import."""
    assert _ask(tmp_path, "pipeline.py") == ["False", "cffi.cparser"]


def _ask(folder: Path, *pipelines: str) -> list[str]:
    absent = '\nmine.add("prometheus.no_such_module:run", name="absent")\n'
    ours = len(pipelines) > 1
    (folder / "pipeline.py").write_text(_PIPELINE + (absent if ours else ""))
    (folder / "named_job.py").write_text("def run(ctx): ...\n")
    (folder / "prometheus.toml").write_text(f"[pipelines]\nmodules = {list(pipelines)}\n")
    command = [sys.executable, "-c", _ASKED]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split()
