"""
Take the pictures of docs/pictures: pages of the three days of `make run`, and what operators do.

    python -m tools.screenshots [FOLDER]

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
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, sync_playwright

from prometheus.core.holidays import Holiday, HolidayKind
from prometheus.orchestration.alerts import AlertKind, Cause, Raise, Severity
from prometheus.persistence.alerts import apply_changes
from prometheus.persistence.engine import create_engine, writing
from prometheus.persistence.holidays import propose_holidays

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
DAYS = ("--from", "2012-11-21", "--to", "2012-11-23")
MARKETS = tuple(word for name in ("US_EQ", "EU_EQ", "ASIA_EQ") for word in ("--market", name))
REPLAY = (sys.executable, "-m", "prometheus.cli", "replay", *DAYS, *MARKETS, "--open")
RUN = "us_eq_daily_2012-11-23"
STORM = date(2012, 12, 11)
PAGES = {
    "world": "",
    "run": f"runs/{RUN}?job=run_books",
    "day": "days/US_EQ/2012-11-23",
    "history": "history?market=EU_EQ&pipeline=daily",
    "calendar": "calendar?market=US_EQ&year=2012",
    "operations": "operations",
}
DARK, PHONE, ACTION = "world-dark", "world-phone", "action"
NAMES = {*PAGES, DARK, PHONE, ACTION}
"""Of all pictures."""


def main(folder: str = str(PICTURES)) -> int:
    """Replay, act, look, and end the replay."""
    Path(folder).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        replayed = Path(home) / "replay"
        replay = subprocess.Popen(
            [*REPLAY, "--folder", str(replayed)],
            cwd=home,
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
            act(f"{url}/api/v1")
            notice(f"sqlite:///{replayed / 'prometheus.db'}")
            take(f"{url}/", Path(folder))
        finally:
            replay.send_signal(signal.SIGINT)
            replay.communicate()
    return replay.returncode


def act(api: str) -> None:
    """Do what operators do: what is paused is seen to wait."""

    def post(path: str, **body: Any) -> None:
        by = {"actor": "ada", **body}
        httpx.post(f"{api}/{path}", json=by, timeout=60).raise_for_status()

    post("pause", market="EU_EQ", reason="the vendor's prices of London are a day old")
    days = {"first": "2012-11-21", "last": "2012-11-23"}
    again = {"reprocess": "finished", "reason": "new prices of London"}
    post("backfills", market="EU_EQ", **days, **again)
    post(f"runs/{RUN}/jobs/run_books/retry", actor="bob")


def notice(database: str) -> None:
    """Have a feed contradict the calendar, and an alert of it: a replay asks none, and has none."""
    engine = create_engine(database)
    now = datetime.now(UTC)
    cause = Cause(
        key=f"{AlertKind.FEED_DISAGREEMENT}:XNYS:{STORM}:eodhd",
        kind=AlertKind.FEED_DISAGREEMENT,
        severity=Severity.WARNING,
        summary=f"eodhd says of XNYS on {STORM}: closed, and the calendar says otherwise",
        since=now,
        markets=("US_EQ", "XNYS"),
        subjects=("closed",),
    )
    with writing(engine) as connection:
        storm = Holiday(STORM, "Storm", HolidayKind.CLOSED)
        propose_holidays(connection, "XNYS", "eodhd", STORM, STORM, [storm])
        apply_changes(connection, [Raise(cause)], now, lambda *_: ())
    engine.dispose()


def take(url: str, folder: Path) -> None:
    """Take a picture of each page, and of what is shown before something is done."""
    path = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        size: Any = {"width": 1280, "height": 940}
        page = browser.new_page(base_url=url, viewport=size, color_scheme="light")
        for name, place in PAGES.items():
            _show(page, place or url)
            _save(page, folder / f"{name}.png")
        page.emulate_media(color_scheme="dark")
        _show(page, url)
        _save(page, folder / f"{DARK}.png")
        page.set_viewport_size({"width": 390, "height": 780})
        page.emulate_media(color_scheme="light")
        _show(page, url)
        _save(page, folder / f"{PHONE}.png")
        page.set_viewport_size(size)
        page.goto(PAGES["calendar"])
        page.get_by_role("button", name="Confirm").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Reason").fill("NYSE's notice of 10 December")
        dialog.get_by_role("button", name="Show what changes").click()
        page.get_by_role("region", name="What changes").wait_for()
        page.wait_for_timeout(1000)  # until its button can be pressed
        _save(page, folder / f"{ACTION}.png")
        browser.close()


def _show(page: Page, place: str) -> None:
    page.goto(place)
    page.wait_for_timeout(1500)  # what a page asks for afterwards


def _save(page: Page, path: Path) -> None:
    page.screenshot(path=path)
    print(path)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
