"""Export sessions from exchange_calendars for the tests to compare with.

    python tools/export_oracle.py

Writes ``tests/data/oracle_sessions.csv.gz``: one line a session, of the six exchanges, 2015 to
2026, its instants as UTC. It knows nothing of the snapshot's format, of the corrections or of
``build_sessions.py``, so that an error there cannot hide. Run it in the same environment
(``pandas<3.1``); the same versions give the same bytes.
"""

from __future__ import annotations

import gzip
import sys
from importlib.metadata import version
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "tests" / "data" / "oracle_sessions.csv.gz"
MICS = ("XNYS", "XNAS", "XLON", "XPAR", "XTKS", "XHKG")


def main() -> int:
    import exchange_calendars
    import pandas as pd

    installed = version("pandas")
    if tuple(int(part) for part in installed.split(".")[:2]) >= (3, 1):
        print(f"error: pandas {installed} breaks exchange_calendars: 'pandas<3.1'", file=sys.stderr)
        return 1
    lines = [
        f"# exchange_calendars {version('exchange_calendars')}, 2015-01-01 to 2026-12-31, UTC",
        "mic,session,open,close,break_start,break_end",
    ]
    for mic in MICS:
        calendar = exchange_calendars.get_calendar(mic, start="2015-01-01", end="2026-12-31")
        for row in calendar.schedule.itertuples():
            instants = (row.open, row.close, row.break_start, row.break_end)
            written = ("" if pd.isna(at) else at.strftime("%Y-%m-%dT%H:%MZ") for at in instants)
            lines.append(",".join((mic, str(row.Index.date()), *written)))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    content = ("\n".join(lines) + "\n").encode()
    # No file name and no time stamp in the header, or the bytes would differ every time.
    TARGET.write_bytes(gzip.compress(content, mtime=0))
    print(f"{len(lines) - 2:,} sessions, {TARGET.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
