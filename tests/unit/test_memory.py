"""What a process gives back of the memory that it has freed."""

from __future__ import annotations

import platform
import subprocess
import sys
import textwrap

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others have no malloc_trim")
def test_a_process_keeps_nothing_that_long_work_has_freed() -> None:
    """Without it, one small object at the end of a heap keeps all that lies before it."""
    script = """
        import psutil
        from prometheus import memory
        from prometheus.memory import memory_given_back

        def job():
            many = [bytearray(2_000) for _ in range(50_000)]
            return many[-1]  # and all that was before it is free

        def rss():
            return psutil.Process().memory_info().rss / 1e6

        before = rss()
        memory.LOOKS_AFTER = 3_600
        with memory_given_back():
            kept = job()
        short = rss() - before
        memory.LOOKS_AFTER = 0
        with memory_given_back():
            last = job()
        long = rss() - before
        print(short > 80, long < 20, short, long)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("True True"), done.stdout
