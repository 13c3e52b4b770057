"""Which database a command is about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prometheus.cli.places import STACK_FILE, find_place
from prometheus.cli.stack import lock_folder
from prometheus.cli.summary import short
from prometheus.errors import DatabaseError

SECRET = "battery-staple"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leave_word(folder: Path, *, database: str, pid: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    document = {"pid": pid, "database_url": database, "broker_url": "redis+socket:///tmp/x/y"}
    (folder / STACK_FILE).write_text(json.dumps(document))


def test_the_usual_place_is_below_the_current_folder(here: Path) -> None:
    place = find_place(None)
    assert place.url == f"sqlite:///{here / '.prometheus' / 'prometheus.db'}"
    assert place.is_local
    assert place.stack is None


def test_a_named_folder_brings_its_own_database(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS__DATABASE__URL", "postgresql://db/prometheus")
    assert find_place(None).url == "postgresql://db/prometheus"
    assert find_place(here / "replay").url == f"sqlite:///{here / 'replay' / 'prometheus.db'}"


def test_a_folder_whose_stack_worked_elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "postgresql://app:***@db/prometheus"
    leave_word(here / "replay", database=shown)
    with pytest.raises(DatabaseError, match="Set PROMETHEUS__DATABASE__URL"):
        find_place(here / "replay")
    url = f"postgresql://app:{SECRET}@db/prometheus"
    monkeypatch.setenv("PROMETHEUS__DATABASE__URL", url)
    place = find_place(here / "replay")
    assert (place.url, place.shown_url) == (url, shown)


def test_a_stack_counts_only_while_it_holds_the_folder(here: Path) -> None:
    folder = here / "data"
    database = f"sqlite:///{folder / 'prometheus.db'}"
    with lock_folder(folder):
        pid = int((folder / "lock").read_text())
        leave_word(folder, database=database, pid=pid)
        place = find_place(folder)
        assert place.stack is not None
        assert place.settings.broker.url.get_secret_value() == "redis+socket:///tmp/x/y"
    assert find_place(folder).stack is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "many"}'])
def test_an_unreadable_word_is_no_word(here: Path, text: str) -> None:
    (here / "data").mkdir()
    (here / "data" / STACK_FILE).write_text(text)
    assert find_place(here / "data").stack is None


def test_paths_can_be_typed_again(here: Path) -> None:
    assert short(here / "a" / "b") == "a/b"
    assert short(here / "a") == "./a"
    assert short(Path("/etc/with space")) == "'/etc/with space'"
