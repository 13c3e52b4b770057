"""Print every measurement, each beside what it is compared with in the same run."""

from __future__ import annotations

import argparse
import json
import platform

from benchmarks.chain import measure_chain
from benchmarks.commands import measure_commands
from benchmarks.state import measure_states, measure_validate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    states = measure_states()
    validate = measure_validate()
    commands = measure_commands()
    chain = measure_chain()
    if options.json:
        figures = {
            "states": states,
            "validate_us": validate,
            "commands": commands,
            "chain": chain,
        }
        print(json.dumps(figures, indent=2))
        return
    print(f"{platform.machine()}, Python {platform.python_version()}; medians\n")
    print("get_market_state, aware UTC at random instants of 2015-2026")
    for market in ("XNYS", "US_EQ", "ASIA_EQ"):
        print(f"  {market:<12} {states[market + '_ns']:8.0f} ns a call")
    if states["ratio"] is None:
        print("  exchange_calendars: not installed; `make sessions` makes its environment")
    else:
        print(
            f"  exchange_calendars is_open_on_minute {states['exchange_calendars_ns']:.0f} ns: "
            f"{states['ratio']:.1f} times as long"
        )
    print("\nDAG.validate")
    for size, microseconds in validate.items():
        print(f"  {size:>6} jobs {microseconds:10.0f} µs  {microseconds / size:6.2f} µs a job")
    print("\ncommands, each a process of its own")
    for command, took in commands.items():
        print(
            f"  {command:<44} {took['wall_ms']:6.0f} ms, {took['cpu_ms']:.0f} ms of processor time"
        )
    print("\nchain of 50 jobs, PostgreSQL and Redis: end of a job to the start of the next")
    for name in ("prometheus", "bare_celery"):
        row = chain[name]
        assert isinstance(row, dict)
        print(
            f"  {name:<12} median {row['median_ms']:7.2f} ms  p99 {row['p99_ms']:7.2f} ms  "
            f"({row['gaps']} gaps)"
        )
    ours, bare = chain["prometheus"], chain["bare_celery"]
    assert isinstance(ours, dict)
    assert isinstance(bare, dict)
    print(
        f"  ratio        median {ours['median_ms'] / bare['median_ms']:7.2f}     "
        f"p99 {ours['p99_ms'] / bare['p99_ms']:7.2f}"
    )
    print("\nresident memory")
    print(f"  beat         {chain['beat_rss_mb']:7.1f} MB")
    print(f"  worker child {chain['worker_child_rss_mb']:7.1f} MB")


if __name__ == "__main__":
    main()
