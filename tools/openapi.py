"""
Print the description of the API, which is kept in docs/openapi.json.

    python -m tools.openapi > docs/openapi.json
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from prometheus.monitoring.app import create_app
from prometheus.settings import load_settings


def document() -> str:
    """Return it as the file has it."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(load_settings({}, Path(folder)))
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(document(), end="")
