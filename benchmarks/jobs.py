"""What the benchmarks run: graphs of jobs that only tell when they began and ended."""

from __future__ import annotations

import time
from collections.abc import Mapping

from prometheus import JobContext, Pipeline
from prometheus.orchestration.daily import daily

Graph = Mapping[str, tuple[str, ...]]
"""Job -> the jobs that it waits for."""

WIDTH = 200
MARKETS = (
    "XAMS", "XBRU", "XBUD", "XCSE", "XDUB", "XETR", "XFRA", "XHEL", "XLIS", "XLON",
    "XLUX", "XMAD", "XMIL", "XOSL", "XPAR", "XPRA", "XSTO", "XSWX", "XWAR", "XWBO",
)  # fmt: skip
"""Twenty exchanges of Europe, which open at about the same time."""

GRAPHS: Mapping[str, Graph] = {
    "chain": {f"link_{n:02}": (f"link_{n - 1:02}",) if n else () for n in range(50)},
    "wide": {
        "first": (),
        **{f"middle_{n:03}": ("first",) for n in range(WIDTH)},
        "last": tuple(f"middle_{n:03}" for n in range(WIDTH)),
    },
    "nine": {job.name: tuple(job.after) for job in daily.jobs.values()},
    "flood": {f"single_{n:03}": () for n in range(500)},
    "fifty": {f"single_{n:02}": () for n in range(50)},
    "ten": {"first": (), **{f"next_{n}": ("first",) for n in range(10)}},
    "hundred": {"first": (), **{f"next_{n:02}": ("first",) for n in range(100)}},
}


def note_times(ctx: JobContext) -> list[float]:  # noqa: ARG001
    """Return when the job's body began and ended, in seconds since 1970."""
    began = time.time()
    return [began, time.time()]


def _pipeline(name: str, graph: Graph) -> Pipeline:
    pipeline = Pipeline(f"bench_{name}", markets=["US_EQ", *MARKETS])
    for job_id, after in graph.items():
        pipeline.job(name=job_id, after=list(after))(note_times)
    return pipeline


chain, wide, nine, flood, fifty, ten, hundred = (
    _pipeline(name, graph) for name, graph in GRAPHS.items()
)
