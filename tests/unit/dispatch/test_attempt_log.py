"""What an attempt prints and logs, until it is kept."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from functools import partial

import pytest
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from prometheus.dispatch import attempt_log
from prometheus.dispatch.attempt_log import FIRST, LAST, AttemptLog, news
from prometheus.masking import keep_secret
from tests.servers import wait_until


class Kept:
    """A database that may be away."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.numbers: set[int] = set()
        self.ends: list[str] = []
        self.away = False
        self.refused = 0
        self.answers_lost = 0

    def __call__(self, part: int, text: str, end: str, *, last: bool) -> None:
        if self.away:
            self.refused += 1
            raise OperationalError("INSERT", None, OSError("it is away"))
        if text and part not in self.numbers:
            self.numbers.add(part)
            self.parts.append(text)
        if end:
            self.ends.append(end)
        if self.answers_lost:
            self.answers_lost -= 1
            raise OperationalError("COMMIT", None, OSError("it is away"))

    @property
    def text(self) -> str:
        """What is read: the end is only the newest."""
        return "".join([*self.parts, *self.ends[-1:]])

    def ends_with(self, text: str) -> bool:
        return self.text.endswith(text)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def _no_secret_stays() -> Iterator[None]:
    yield
    keep_secret(())


def test_whole_lines_are_kept_while_the_attempt_goes_on(kept: Kept) -> None:
    log = AttemptLog(kept)
    log.write("stdout", b"first\nsec")
    log.write("stderr", b"an error\n")
    wait_until(lambda: kept.text == "first\nan error\n", timeout=60, message=lambda: kept.text)
    log.write("stdout", "ond, in Zürich".encode())
    log.close()
    assert kept.text == "first\nan error\nsecond, in Zürich\n"
    log.write("stdout", b"too late\n")
    log.close()
    assert "late" not in kept.text


def test_of_very_much_the_beginning_and_the_end_are_kept(kept: Kept) -> None:
    log = AttemptLog(kept)
    for number in range(100_000):
        log.write("stdout", f"line {number:6}\n".encode())
    log.close()
    assert kept.text.startswith("line      0\nline      1\n")
    assert kept.text.endswith("line  99998\nline  99999\n")
    left_out = 100_000 * 12 - FIRST - LAST
    head, _, rest = kept.text.partition("... ")
    told, _, tail = rest.partition(" characters are left out ...\n")
    assert len(head) == FIRST
    assert LAST <= len(tail) <= 2 * LAST
    assert int(told) + len(tail) == left_out + LAST


def test_the_newest_of_very_much_is_kept_while_the_attempt_goes_on(kept: Kept) -> None:
    """Whoever kills it, its last words are there."""
    log = AttemptLog(kept)
    for number in range(100_000):
        log.write("stdout", f"line {number:6}\n".encode())
    log.write("stderr", b"last words\n")
    wait_until(lambda: kept.text.endswith("line  99999\nlast words\n"), timeout=60)
    assert len("".join(kept.parts)) == FIRST
    head, _, tail = kept.text.partition(" characters are left out ...\n")
    assert len(tail) == LAST
    assert int(head.rpartition("... ")[2]) == 100_000 * 12 + len("last words\n") - FIRST - LAST
    written = len(kept.ends)
    log.close()
    assert len(kept.ends) == written, "nothing has come since"


def test_an_end_that_was_not_kept_is_kept_the_next_time(kept: Kept) -> None:
    log = AttemptLog(kept)
    log.write("stdout", b"x" * (FIRST - 1) + b"\n")
    wait_until(lambda: len(kept.text) == FIRST, timeout=60)
    kept.away = True
    log.write("stdout", b"last words\n")
    wait_until(lambda: kept.refused >= 2, timeout=60)
    kept.away = False
    wait_until(lambda: kept.text.endswith("last words\n"), timeout=60)
    log.close()


def test_an_end_is_renewed_rarely_while_its_attempt_writes_without_a_pause(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is 64 KB each time; but as soon as the attempt pauses, its last words are there."""
    monkeypatch.setattr(attempt_log, "FLUSH_EVERY", 3600)  # here the test does so
    monkeypatch.setattr(attempt_log, "_RENEWED", 1)
    log = AttemptLog(kept)
    log.write("stdout", (b"x" * 99 + b"\n") * 3_000)
    log._flush()
    for number in range(5):
        log.write("stdout", f"line {number}\n".encode())
        log._flush()
    assert len(kept.ends) == 1
    log._flush()
    assert len(kept.ends) == 2
    assert kept.text.endswith("line 3\nline 4\n")
    log.write("stdout", b"last words\n")
    log._flush()
    log.close()
    assert len(kept.ends) == 3
    assert kept.text.endswith("line 4\nlast words\n")


def test_an_end_is_renewed_once_it_is_due_though_there_is_no_pause(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_log, "FLUSH_EVERY", 3600)
    monkeypatch.setattr(attempt_log, "_RENEWED", 10**12)
    log = AttemptLog(kept)
    log.write("stdout", (b"x" * 99 + b"\n") * 3_000)
    log._flush()
    for number in range(5):
        log.write("stdout", f"line {number}\n".encode())
        log._flush()
        assert kept.text.endswith(f"line {number}\n")
    log.close()


@pytest.mark.usefixtures("_no_secret_stays")
def test_no_secret_is_cut_where_very_much_is_left_out(kept: Kept) -> None:
    keep_secret([SecretStr("planted-secret")])
    log = AttemptLog(kept)
    for _ in range(100_000):
        log.write("stdout", b"planted-secret\n")
    log.close()
    assert set(kept.ends[-1].splitlines()[2:]) == {"***"}
    for half in ("planted", "secret"):
        assert half not in kept.text


def test_who_follows_is_told_what_is_new_and_what_was_left_out(kept: Kept) -> None:
    """Of an end that takes the place of the one that was seen."""
    log, seen, known = AttemptLog(kept), "", 0
    lines = [f"line {number:6}\n" for number in range(60_000)]
    for each in (lines[:11_000], lines[11_000:12_000], lines[12_000:60_000]):
        log.write("stdout", "".join(each).encode())
        wait_until(partial(kept.ends_with, each[-1]), timeout=60)
        new, known = news(kept.ends[-1], known)
        seen += new
    log.close()
    written = "".join(lines)
    left_out = len(written) - 12_000 * 12 - LAST
    assert seen == (
        written[FIRST : 12_000 * 12]
        + f"... {left_out} characters are left out ...\n"
        + written[-LAST:]
    )
    assert known == len(written) - FIRST
    assert news(kept.ends[-1], known) == ("", known)


def test_nothing_is_missing_within_the_end_however_lines_shrink(kept: Kept) -> None:
    """Signs of several bytes, and colours that are taken away: what is kept hangs together."""
    log = AttemptLog(kept)
    lines = [f"\033[31m{number:6} {'行' * 30}\n" for number in range(8_000)]
    log.write("stdout", b"x" * (FIRST - 1) + b"\n")
    for some in (lines[:600], lines[600:]):
        log.write("stdout", "".join(some).encode())
        wait_until(partial(kept.ends_with, some[-1].removeprefix("\033[31m")), timeout=60)
    log.close()
    numbers = [int(line[:6]) for line in kept.ends[-1].splitlines()[2:]]
    assert len(numbers) > 500
    assert numbers == list(range(numbers[0], 8_000))


def test_a_line_without_an_end_is_kept_all_the_same(kept: Kept) -> None:
    log = AttemptLog(kept)
    log.write("stdout", b"x" * 10_000)
    wait_until(lambda: kept.text == "x" * 10_000 + "\n", timeout=60)
    log.close()


def test_a_line_of_a_megabyte_is_made_fit_like_any_other() -> None:
    """Whatever it is of: what looks back from each of its characters would take hours."""
    for text in ("x" * 1_000_000, "ab." * 300_000, "\r".join(["10 %"] * 100_000)):
        kept = Kept()
        log = AttemptLog(kept)
        log.write("stdout", f"{text}\n".encode())
        log.close()
    assert kept.text == "10 %\n"


def test_what_is_collected_as_garbage_meanwhile_may_write_too(kept: Kept) -> None:
    log = AttemptLog(kept)
    with log._lock:
        log.write("stderr", b"a finalizer\n")
    log.close()
    assert kept.text == "a finalizer\n"


def test_no_job_fails_of_its_log(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be no memory for a thread, or for a text."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    log = AttemptLog(kept)
    log.write("stdout", b"first\n")
    log.close()
    assert kept.text == "first\n"


def test_what_a_database_that_is_away_does_not_take_waits_for_it(kept: Kept) -> None:
    log = AttemptLog(kept)
    kept.away = True
    log.write("stdout", b"first\n")
    wait_until(lambda: kept.refused >= 2, timeout=60)
    log.write("stdout", b"second\n")
    kept.away = False
    log.close()
    assert kept.text == "first\nsecond\n"


def test_lines_that_were_kept_without_an_answer_are_kept_once(kept: Kept) -> None:
    log = AttemptLog(kept)
    kept.answers_lost = 2
    log.write("stdout", b"first\n")
    wait_until(lambda: kept.parts == ["first\n"], timeout=60)
    log.write("stdout", b"second\n")
    wait_until(lambda: "second" in kept.text, timeout=60)
    log.write("stdout", b"first\n")
    log.close()
    assert kept.parts == ["first\n", "second\n", "first\n"]


def test_the_end_follows_when_all_before_it_is_kept(kept: Kept) -> None:
    """Whoever reads on behind the end would never see what came between."""
    log = AttemptLog(kept)
    kept.away = True
    log.write("stdout", b"first\n")
    wait_until(lambda: kept.refused >= 1, timeout=60)
    log.write("stdout", (b"x" * 99 + b"\n") * 3_000)
    kept.away = False
    wait_until(lambda: bool(kept.ends), timeout=60)
    assert len("".join(kept.parts)) == FIRST
    log.close()


def test_what_can_not_be_kept_at_the_end_is_said(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    log = AttemptLog(kept)
    kept.away = True
    log.write("stdout", b"first\n")
    log.close()
    assert "log_not_kept" in caplog.messages


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"\x1b[31mred\x1b[0m\n", "red\n"),
        (b"\x1b]0;a title\x07text\n", "text\n"),
        (b"10 %\r20 %\r100 %\n", "100 %\n"),
        (b"a\r\nb\tc\n", "a\nb\tc\n"),
        (b"bell\x07 and \x9b31m\n", "bell and \ufffd31m\n"),
        (b"\xff\n", "\ufffd\n"),
        (b"nothing\x00\n", "nothing\\x00\n"),
        (b"postgresql://me:pass-word@host/db\n", "postgresql://me:***@host/db\n"),
        (b"<script>alert(1)</script>\n", "<script>alert(1)</script>\n"),
    ],
)
def test_lines_are_made_fit_for_any_terminal(kept: Kept, written: bytes, shown: str) -> None:
    log = AttemptLog(kept)
    log.write("stdout", written)
    log.close()
    assert kept.text == shown


@pytest.mark.usefixtures("_no_secret_stays")
def test_secrets_of_the_settings_are_hidden_however_they_are_written(kept: Kept) -> None:
    keep_secret([SecretStr("planted-secret"), SecretStr("no")])
    log = AttemptLog(kept)
    for part in (b"the token is planted-", b"sec", b"ret, in no case\n"):
        log.write("stdout", part)
    log.close()
    assert kept.text == "the token is ***, in no case\n"


def test_a_process_that_the_job_forked_leaves_the_log_alone(kept: Kept) -> None:
    """Its copy of the lock may be held by a thread that it does not have."""
    log = AttemptLog(kept)
    with log._lock:
        process = multiprocessing.get_context("fork").Process(
            target=log.write, args=("stdout", b"from the fork\n")
        )
        process.start()
    process.join(60)
    assert process.exitcode == 0
    log.close()
    assert kept.text == ""


def test_the_thread_ends_with_the_attempt(kept: Kept) -> None:
    log = AttemptLog(kept)
    log.write("stdout", b"first\n")
    thread = log._thread
    assert thread is not None
    log.close()
    thread.join(60)
    assert not thread.is_alive()
    assert attempt_log.FLUSH_EVERY < 60
