"""``.ci/run`` with commands that only say so: what it does about programs that are not here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers import REPOSITORY, leave_out

TOOLS = ("bash", "cat", "dirname", "mktemp", "nice", "rm", "sed", "tail")
PROGRAMS = ("chromium", "promtool")


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """All that is on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    write(folder / "make", 'echo "make $* wants=${TESTS_WANT_PROGRAMS:-}"')
    write(folder / "id", "echo 1000")
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run(bin_folder: Path) -> tuple[int, str]:
    """Run a copy; return its status and what it said."""
    top = bin_folder.parent
    (top / ".ci").mkdir()
    shutil.copy(REPOSITORY / ".ci" / "run", top / ".ci" / "run")
    write(top / "tools" / "try-wheel", "echo the wheel")
    done = subprocess.run(
        [str(bin_folder / "bash"), str(top / ".ci" / "run")],
        env={"PATH": str(bin_folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_where_all_is_there_no_test_may_be_left_out(bin_folder: Path) -> None:
    for name in PROGRAMS:
        write(bin_folder / name, "")
    status, said = run(bin_folder)
    assert status == 0, said
    assert "make test wants=1" in said
    assert "NOT TESTED" not in said


def test_without_root_it_passes_and_says_last_what_was_not_tested(bin_folder: Path) -> None:
    write(bin_folder / "promtool", "")
    write(bin_folder / "apt-get", "exit 1")
    status, said = run(bin_folder)
    assert status == 0, said
    assert "make test wants=\n" in said
    last = said.partition("ten years")[2]
    assert "NOT TESTED, for it is not here and could not be installed: chromium\n" in last


def test_root_gets_what_is_missing(bin_folder: Path) -> None:
    write(bin_folder / "id", "echo 0")
    there = " ".join(f"{bin_folder / name}" for name in PROGRAMS)
    made = f'for each in {there}; do echo "#!/bin/sh" >$each; /bin/chmod +x $each; done'
    write(
        bin_folder / "apt-get",
        f'echo "$*" >>{bin_folder}/asked; [ "$1" = update ] || {{ {made}; }}',
    )
    status, said = run(bin_folder)
    assert status == 0, said
    update, install = (bin_folder / "asked").read_text().splitlines()
    assert update.startswith("update ")
    assert install.startswith("install ")
    assert install.endswith(" chromium prometheus")
    assert "from Debian: chromium prometheus" in said
    assert "make test wants=1" in said


def test_what_root_can_not_get_is_tried_again_and_said_last(bin_folder: Path) -> None:
    """It passes: a machine may have no way to Debian."""
    write(bin_folder / "id", "echo 0")
    write(bin_folder / "apt-get", "echo no network; exit 100")
    status, said = run(bin_folder)
    assert status == 0, said
    assert said.count("no network") == 3
    assert "make test wants=\n" in said
    assert "could not be installed: chromium prometheus\n" in said.partition("ten years")[2]


def test_ratios_are_compared_last_and_a_worse_one_fails(bin_folder: Path) -> None:
    write(bin_folder / "make", 'echo "make $*"; [ "$1" != bench-quick ]')
    status, said = run(bin_folder)
    assert status == 1, said
    assert said.partition("ten years")[2].count("\nmake bench-quick\n") == 1


def test_what_would_be_left_out_is_a_failure_where_all_is_wanted() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TESTS_WANT_PROGRAMS", raising=False)
        with pytest.raises(pytest.skip.Exception, match="no browser"):
            leave_out("no browser")
        patch.setenv("TESTS_WANT_PROGRAMS", "1")
        with pytest.raises(pytest.fail.Exception, match="no browser"):
            leave_out("no browser")
