"""What the web app's process has imported before it is asked for anything."""

from __future__ import annotations

import subprocess
import sys

_LOADED = "import prometheus.monitoring.serving, sys; print('httpx' in sys.modules)"


def test_what_asks_other_servers_is_imported_when_one_is_asked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
