"""
Take the pictures of docs/pictures: pages of the three days of `make run`.

    python -m tools.screenshots

Needs the extras embedded and test, and Chromium on PATH.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
DAYS = ("--from", "2012-11-21", "--to", "2012-11-23")
MARKETS = tuple(word for name in ("US_EQ", "EU_EQ", "ASIA_EQ") for word in ("--market", name))
RUN = "us_eq_daily_2012-11-23"
PAGES = {
    "world": "",
    "run": f"runs/{RUN}?job=run_books",
    "day": "days/US_EQ/2012-11-23",
    "history": "history?market=US_EQ&pipeline=daily",
    "calendar": "calendar?market=ASIA_EQ&year=2012",
    "operations": "operations",
}


def main() -> int:
    """Replay, look, and end the replay."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        replay = subprocess.Popen(
            [sys.executable, "-m", "prometheus.cli", "replay", *DAYS, *MARKETS, "--open"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PROMETHEUS__WEB__ACTIONS": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert replay.stdout is not None
            lines = iter(replay.stdout.readline, "")
            url = next(
                found[1] for line in lines if (found := re.match(r"Its pages: (\S+),", line))
            )
            take(f"{url}/")
        finally:
            replay.send_signal(signal.SIGINT)
            replay.communicate()
    return replay.returncode


def take(url: str) -> None:
    """Take a picture of each page."""
    path = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(base_url=url, viewport={"width": 1280, "height": 860})
        for name, place in PAGES.items():
            page.goto(place or url)
            page.wait_for_timeout(1500)  # what a page asks for afterwards
            page.screenshot(path=PICTURES / f"{name}.png")
            print(PICTURES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
