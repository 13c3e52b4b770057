"""
``prometheus.toml`` as a file: which one it is, what stands on which line, the markets it declares.

Without the settings, so that commands which only look at calendars start at once.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prometheus.core.declarations import Declaration, read_declarations
from prometheus.core.markets import declare, shipped_markets
from prometheus.errors import PrometheusError

CONFIG_VARIABLE = "PROMETHEUS_CONFIG"
CONFIG_NAME = "prometheus.toml"
MARKETS = "markets"
PREFIX = "PROMETHEUS__"
FILE_SUFFIX = "_FILE"
DATABASE_NAME = "prometheus.db"
"""The SQLite file in the data folder, used when no database URL is set."""
DATA_FOLDER = Path(".prometheus")
"""The data folder, where no other is set."""

_HEADER = re.compile(r"\s*(\[\[?.+?\]\]?)\s*(?:#.*)?")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[\w"'-]+)*)\s*=""")
_ELEMENT = re.compile(r"\s*\{")
_PLACE = re.compile(r"line (\d+), column (\d+)\)$")
"""At the end of what ``tomllib`` says, unless it is the end of the document."""
_DATE = re.compile(r"\d+-\d+-[\w:.+-]*")


class SettingsError(PrometheusError):
    """The settings cannot be used; ``faults`` lists everything that is wrong with them."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(f"settings: {count}." + "".join(f"\n  - {fault}" for fault in faults))


@dataclass(frozen=True)
class Configuration:
    """A file that was read."""

    path: Path
    text: str
    tables: Mapping[str, Any]

    @cached_property
    def market_tables(self) -> dict[str, Any]:
        """Name -> the table below ``[markets.NAME]``."""
        section = self.tables.get(MARKETS)
        if not isinstance(section, dict):
            return {}  # the settings say that this cannot be
        return {name: table for name, table in section.items() if _is_table(table)}

    def place(self, *path: str | int) -> str:
        """Say where a value stands, by keys and positions: file, line, table and the rest."""
        known = path
        while known and known not in self._lines:
            known = known[:-1]
        is_market = path[0] == MARKETS and path[1:2] and path[1] in self.market_tables
        depth = 2 if is_market else 1
        table = ".".join(map(str, path[:depth]))
        keys = [str(step + 1) if isinstance(step, int) else step for step in path[depth:]]
        words = [f"[{table}]" if isinstance(self.tables.get(str(path[0])), dict) else table, *keys]
        return f"{self.path}:{self._lines.get(known, 1)} {' '.join(words)}"

    @cached_property
    def _lines(self) -> Mapping[tuple[str | int, ...], int]:
        return _lines(self.text)

    def declarations(self) -> tuple[tuple[Declaration, ...], list[str]]:
        """Read the markets it declares, those with faults too, and all that is wrong with them."""
        return read_declarations(
            self.market_tables,
            where=lambda path: self.place(MARKETS, *path),
            grounds=f"by its own hours in {self.path.name}",
            shipped=shipped_markets(),
        )


def read_configuration(environ: Mapping[str, str], cwd: Path) -> Configuration | None:
    """
    Read the file that the environment names, otherwise the one in a folder if there is one.

    Raises:
        SettingsError: It cannot be read or is not TOML.
    """
    named = environ.get(CONFIG_VARIABLE)
    path = cwd / (Path(named).expanduser() if named else CONFIG_NAME)
    if not named and not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        at = f"{CONFIG_VARIABLE}={named}" if named else str(path)
        raise SettingsError([f"{at}: {error.strerror or error}"]) from None
    except ValueError as error:
        raise SettingsError([f"{path}: not TOML: {error}"]) from None
    return Configuration(path, text, _tables(path, text))


class _NoDate:
    """What stands where a date was meant. No setting takes it, so that it is refused there."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _tables(path: Path, text: str) -> dict[str, Any]:
    """
    Read a document. A date that there is not, such as 2026-13-01, hides no other fault of it.

    Raises:
        SettingsError: It is not TOML for another reason; says where, and that nobody read on.
    """
    dates: dict[str, _NoDate] = {}

    def number(literal: str) -> float | _NoDate:
        return dates.get(literal) or float(literal)

    while True:
        try:
            return tomllib.loads(text, parse_float=number)
        except tomllib.TOMLDecodeError as error:
            said, _, where = str(error).rpartition(" (at ")
            place = _PLACE.match(where)
            line = int(place[1]) if place else text.rstrip().count("\n") + 1
            found = _no_date(text, line, int(place[2])) if place else None
            if found is None:
                fault = f"{path}:{line}: not TOML: {said[:1].lower()}{said[1:]}"
                raise SettingsError([f"{fault}. What else is wrong was not looked for"]) from None
            # There tomllib would stop: a number that nobody writes takes the date's place.
            literal = f"0e-{10**9 + len(dates)}"
            dates[literal] = _NoDate(found[0])
            text = text[: found.start()] + literal + text[found.end() :]


def _no_date(text: str, line: int, column: int) -> re.Match[str] | None:
    """Find what is written like a date at a place, and is none."""
    at = sum(len(each) + 1 for each in text.split("\n")[: line - 1]) + column - 1
    for found in _DATE.finditer(text):
        if found.start() <= at <= found.end():
            try:
                tomllib.loads(f"date = {found[0]}")
            except tomllib.TOMLDecodeError:
                return found
    return None


def declare_markets(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """
    Let this process know the markets of its ``prometheus.toml``, and read nothing else there.

    Raises:
        SettingsError: With every fault of them; those known before stay.
    """
    configuration = read_configuration(
        os.environ if environ is None else environ, cwd or Path.cwd()
    )
    found, faults = configuration.declarations() if configuration is not None else ((), [])
    if faults:
        raise SettingsError(faults)
    declare(found)


def _is_table(value: object) -> bool:
    """Say whether a value is a table, or a list of them, as one with a bracket too many is."""
    tables = value if isinstance(value, list) else [value]
    return bool(tables) and all(isinstance(table, dict) for table in tables)


def database_url(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """
    Find the database as the settings do, and look at nothing else of them.

    Raises:
        SettingsError: The file that says it cannot be read.
    """
    environ = os.environ if environ is None else environ
    cwd = cwd or Path.cwd()
    configuration = read_configuration(environ, cwd)
    tables = configuration.tables if configuration is not None else {}

    def setting(section: str, key: str) -> str:
        variable = f"{PREFIX}{section}__{key}".upper()
        if value := environ.get(variable):
            return value
        if file := environ.get(f"{variable}{FILE_SUFFIX}"):
            return read_secret(f"{variable}{FILE_SUFFIX}", cwd / Path(file).expanduser())
        table = tables.get(section)
        return str(table.get(key, "")) if isinstance(table, dict) else ""

    folder = cwd / Path(setting("data", "folder") or DATA_FOLDER).expanduser()
    return setting("database", "url") or f"sqlite:///{folder / DATABASE_NAME}"


def read_secret(variable: str, file: Path) -> str:
    """
    Read the file that a variable names, without the white space around what is in it.

    Raises:
        SettingsError: It cannot be read, or is empty: what was to be in it would be taken for not
            set, and for the database there is a default.
    """
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
    else:
        if text:
            return text
        reason = "the file is empty. Write the value into it, or unset the variable"
    raise SettingsError([f"{variable}={file}: {reason}"])


def _lines(text: str) -> dict[tuple[str | int, ...], int]:
    """
    Find the lines of a TOML document's tables and keys; ``tomllib`` does not tell them.

    Returns:
        The path of keys and positions -> its line, from 1. What stands inside another value has
        none, but for the elements of a list of tables that begin lines of their own.
    """
    lines: dict[tuple[str | int, ...], int] = {}
    counts: Counter[tuple[str | int, ...]] = Counter()
    table: tuple[str | int, ...] = ()
    key: tuple[str | int, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.fullmatch(line)
        if header is not None and (path := _path(header[1].strip("[] \t"))):
            table = key = path
            if header[1].startswith("[["):
                table = (*path, counts[path])
                counts[path] += 1
            lines.setdefault(path, number)
            lines.setdefault(table, number)
        elif (found := _KEY.match(line)) is not None and (path := _path(found[1])):
            key = (*table, *path)
            lines.setdefault(key, number)
            if "{" in line.split("=", 1)[1]:
                counts[key] = line.count("{")
        elif _ELEMENT.match(line):
            lines.setdefault((*key, counts[key]), number)
            counts[key] += 1
    return lines


def _path(text: str) -> tuple[str, ...]:
    """Read a dotted key; empty for what only looks like one."""
    try:
        value: Any = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while isinstance(value, dict):
        name, value = next(iter(value.items()))
        path.append(name)
    return tuple(path)
