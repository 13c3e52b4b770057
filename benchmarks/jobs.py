"""The pipeline that the chain benchmark runs: jobs that only tell when they began and ended."""

from __future__ import annotations

import time

from prometheus import JobContext, Pipeline

LINKS = 50

bench_chain = Pipeline("bench_chain", markets=["US_EQ"])

for _number in range(LINKS):

    @bench_chain.job(name=f"link_{_number:02}", after=[f"link_{_number - 1:02}"] if _number else [])
    def link(ctx: JobContext) -> list[float]:  # noqa: ARG001
        """Return when the job's body began and ended, in seconds since 1970."""
        began = time.time()
        return [began, time.time()]
