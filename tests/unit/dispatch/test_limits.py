"""What an attempt may take of its process, without a worker around it."""

from __future__ import annotations

import logging
import resource
import signal
import subprocess
import sys
import textwrap

import pytest

from prometheus.dispatch.limits import JobExitError, available_memory, limited, memory_limit
from prometheus.log_lines import EventFormatter


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, whose streams it may change."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def test_each_attempt_may_print_as_much_again() -> None:
    done = run(
        """
        import sys
        from prometheus.dispatch.limits import bound_output, limited
        bound_output()
        for letter in "ab":
            with limited(None):
                print(letter * 2_000_000)
                sys.stdout.buffer.write(letter.encode() * 10)
        """
    )
    assert done.stdout.count("a") == done.stdout.count("b") == 1_000_000


def test_what_is_not_passed_on_is_heard_all_the_same() -> None:
    """A job that prints much keeps its last words."""
    done = run(
        """
        import sys
        from prometheus import log_lines
        from prometheus.dispatch.limits import bound_output, limited
        log_lines.configure()
        bound_output()
        heard = bytearray()
        with limited(None, lambda stream, data: heard.extend(data)):
            print("a" * 5_000_000)
            print("last words")
        print(heard.startswith(b"a" * 5_000_000 + b"\\nlast words\\n"), file=sys.stderr)
        """
    )
    assert len(done.stdout) == 1_000_000
    assert "dropped=4000012" in done.stderr
    assert done.stderr.endswith("True\n")


@pytest.mark.parametrize("behind", [0, 5, 100_000])
def test_a_secret_at_the_bound_is_masked_before_it_is_cut(behind: int) -> None:
    done = run(
        f"""
        import sys
        from pydantic import SecretStr
        from prometheus.dispatch.limits import bound_output, limited
        from prometheus.masking import keep_secret
        keep_secret([SecretStr("planted-secret")])
        bound_output()
        with limited(None):
            print("a" * 999_993 + "planted-secret" + "b" * {behind})
        """
    )
    assert 990_000 < len(done.stdout) <= 1_000_000
    assert "planted" not in done.stdout


def test_a_secret_in_a_long_line_is_masked_before_it_is_heard() -> None:
    """Wherever whoever hears it cuts the line."""
    done = run(
        """
        import sys
        from pydantic import SecretStr
        from prometheus.dispatch.limits import bound_output, limited
        from prometheus.masking import keep_secret
        keep_secret([SecretStr("planted-secret")])
        bound_output()
        heard = bytearray()
        with limited(None, lambda stream, data: heard.extend(data)):
            for before in (8_186, 65_530, 131_066, 2_000_000):
                print("a" * before + "planted-secret" + "b" * 100)
        print(heard.count(b"a***b"), b"planted" in heard, file=sys.stderr)
        """
    )
    assert done.stderr.endswith("4 False\n")


def test_output_that_is_not_too_much_passes_as_it_is() -> None:
    done = run(
        """
        import logging, sys
        from prometheus import log_lines
        from prometheus.dispatch.limits import bound_output, limited
        log_lines.configure()
        bound_output()
        with limited(None):
            print("Zürich")
            print("no end of line", end="")
            print("an error", file=sys.stderr)
            logging.getLogger("a").warning("logged")
        """
    )
    assert done.stdout == "Zürich\nno end of line"
    assert done.stderr.startswith("an error\n")
    assert done.stderr.endswith(" WARNING a logged\n")


def test_handlers_and_masks_of_signals_are_put_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with limited(None):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    assert signal.getsignal(signal.SIGUSR1) == before
    assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_memory_is_limited_only_while_the_job_runs() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited(2**40):
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 2**40
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_long_log_record_is_cut_in_its_middle() -> None:
    formatter = EventFormatter()
    record = logging.makeLogRecord({"name": "a", "msg": "begin" + "x" * 10**6 + "end"})
    line = formatter.format(record)
    assert len(line) < 31_000
    assert "begin" in line
    assert line.endswith("end")


def test_what_ends_a_process_becomes_an_error() -> None:
    reason = r"the job raised SystemExit \(3\); a job ends by returning, or by an error"
    with pytest.raises(JobExitError, match=reason), limited(None):
        sys.exit(3)


def test_without_a_setting_a_job_may_use_a_part_of_what_there_is() -> None:
    assert memory_limit(None) == int(available_memory() * 0.75)
    assert memory_limit(0) is None
    assert memory_limit(2**30) == 2**30
