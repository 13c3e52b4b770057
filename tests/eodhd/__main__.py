"""``python -m tests.eodhd --replies 100000``: wrong replies, and what came of them."""

from __future__ import annotations

import argparse
import secrets
import sys
import time

from tests.eodhd.fuzz import BrokenPromiseError, Fuzz

STEP = 10_000


def main() -> int:
    """Feed the client; return 1 if it did what it must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.eodhd", description=__doc__)
    parser.add_argument("--replies", type=int, default=100_000, help="how many, at least")
    parser.add_argument("--seed", type=int, help="by default a fresh one")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else secrets.randbelow(10**9)
    print(f"seed {seed}", flush=True)
    began = time.perf_counter()
    fuzz = Fuzz(seed)
    try:
        for so_far in range(STEP, given.replies + STEP, STEP):
            fuzz.run(min(so_far, given.replies))
            print(f"  {fuzz.report.replies} replies", flush=True)
    except BrokenPromiseError as error:
        print(error)
        return 1
    finally:
        report = fuzz.report
        print(
            f"{report.replies} replies to {report.questions} questions ({report.over_http} over "
            f"HTTP) and {report.jobs} jobs ({report.stored} stored) in "
            f"{time.perf_counter() - began:.0f} s; the longest took {report.longest_seconds:.2f} s"
        )
        for outcome, count in report.outcomes.most_common():
            print(f"  {count:6} {outcome}")
    print("no crash, no hang, no token, nothing stored half")
    return 0


if __name__ == "__main__":
    sys.exit(main())
