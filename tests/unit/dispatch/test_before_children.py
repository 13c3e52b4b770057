"""What a worker's main process has imported when its pool makes the first child."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ASKED = """
import sys
import workers
from celery.signals import worker_init

early = "numpy" in sys.modules
worker_init.send(sender=None)
jobs = workers.app.tasks
named = {
    task.definition.function.partition(":")[0]
    for task in jobs.values()
    if hasattr(task, "definition")
}
print(early, *sorted(name for name in named if name in sys.modules))
"""

_PIPELINE = """
from prometheus import Pipeline

mine = Pipeline("mine", markets=["US_EQ"])
mine.add("named_job:run")
mine.add("prometheus.no_such_module:run", name="absent")
"""


def test_main_process_imports_our_jobs_and_no_user_s(tmp_path: Path) -> None:
    """One of ours that can not be imported is left to its attempts, as users' are."""
    (tmp_path / "pipeline.py").write_text(_PIPELINE)
    (tmp_path / "named_job.py").write_text("def run(ctx): ...\n")
    (tmp_path / "prometheus.toml").write_text(
        "[pipelines]\nmodules = ['prometheus.orchestration.daily', 'pipeline.py']\n"
    )
    command = [sys.executable, "-c", _ASKED]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    early, *loaded = done.stdout.split()
    assert early == "False"  # a beat never needs it
    assert loaded == [
        f"prometheus.pipelines.equities.{name}"
        for name in (
            *("books", "factors", "prices", "profiles", "returns"),
            *("signals", "universes", "volatility", "windows"),
        )
    ]
