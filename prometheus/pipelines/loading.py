"""Finding pipelines: named in the settings, or announced by installed packages."""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
import sysconfig
import tokenize
import traceback
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from prometheus.errors import PipelineError, UnknownMarketError, nearest
from prometheus.masking import keep_parameters, safe_text
from prometheus.orchestration.dag import dag_id_for
from prometheus.orchestration.pipeline import Pipeline
from prometheus.sources.choice import SOURCE_NAMES, choose_sources
from prometheus.sources.eodhd.naming import EodhdFeed
from prometheus.sources.errors import SourceConfigurationError, UnknownSourceError

ENTRY_POINT_GROUP = "prometheus.pipelines"
_MOST_SYNTAX_ERRORS = 20
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def load_pipelines(
    names: Iterable[str],
    *,
    visibility_timeout: timedelta,
    folder: Path,
    feed: EodhdFeed | None = None,
) -> dict[str, Pipeline]:
    """
    Load and check pipelines, all or none.

    Args:
        names: As for `find_pipelines`.
        visibility_timeout: The broker's; no retry may wait that long.
        folder: As for `find_pipelines`.
        feed: Likewise.

    Returns:
        Pipelines by name, those of the settings before those of entry points.

    Raises:
        PipelineError: With every fault of every pipeline, with file and line.
    """
    pipelines, faults = find_pipelines(
        names, visibility_timeout=visibility_timeout, folder=folder, feed=feed
    )
    if faults:
        raise PipelineError("pipelines", faults)
    return pipelines


def find_pipelines(
    names: Iterable[str],
    *,
    visibility_timeout: timedelta,
    folder: Path,
    feed: EodhdFeed | None = None,
) -> tuple[dict[str, Pipeline], list[str]]:
    """
    Load and check pipelines; those with faults are left out, so that they hold up no other.

    Args:
        names: ``package.module:attribute``, ``package.module`` (every pipeline in it) or the path
            of a Python file, relative to ``folder``.
        visibility_timeout: The broker's; no retry may wait that long.
        folder: Where relative paths start; also where modules are looked for first.
        feed: What is configured of eodhd.com, for sensors that would go on with it.

    Returns:
        The sound pipelines by name, those of the settings before those of entry points; and every
        fault of the others, with file and line.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    announced = (entry.value for entry in entry_points(group=ENTRY_POINT_GROUP))
    faults: list[str] = []
    pipelines: dict[str, Pipeline] = {}
    for name in dict.fromkeys((*names, *announced)):
        of_place: list[str] = []
        of_pipelines: list[str] = []
        for pipeline in _load(name, folder, of_place):
            keep_parameters(pipeline.parameters)
            try:
                own = [
                    *pipeline.faults(visibility_timeout=visibility_timeout),
                    *_unserved(pipeline, feed),
                ]
            except Exception as error:  # noqa: BLE001  of values of kinds that nobody thought of
                own = [f"{pipeline.where}: {type(error).__name__}: {safe_text(str(error))}"]
            if not own and not of_place:
                own = _taken_names(pipeline, pipelines.values())
                if not own:
                    pipelines[pipeline.name] = pipeline
            of_pipelines += own
        faults += of_place + of_pipelines
    return pipelines, list(dict.fromkeys(faults))


def _taken_names(pipeline: Pipeline, others: Iterable[Pipeline]) -> list[str]:
    """Say with which pipelines one shares its name, or the names of its runs."""
    others = [other for other in others if other is not pipeline]
    for other in others:
        if other.name == pipeline.name:
            also = f"pipeline {pipeline.name!r} is defined at {other.where} too"
            return [f"{pipeline.where}: {also}"]
    # The name of a run does not tell where the market's ends and the pipeline's begins.
    taken = {name: (other, market) for other in others for market, name in _of_runs(other)}
    return [
        f"{pipeline.where}: its runs in {market} would be called {name}…, as those of "
        f"{taken[name][0].name!r} in {taken[name][1]} are ({taken[name][0].where}); give one of "
        f"them another name"
        for market, name in _of_runs(pipeline)
        if name in taken
    ]


def _of_runs(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """Give a pipeline's markets, and how the names of its runs in each begin."""
    for market in pipeline.markets:
        name = dag_id_for(pipeline.name, market, date.min)
        yield market, name.removesuffix(date.min.isoformat())


def _unserved(pipeline: Pipeline, feed: EodhdFeed | None) -> Iterator[str]:
    """List the sensors that would go on with a source which there is not, or not for a market."""
    for job in pipeline.jobs.values():
        if job.sensor is None or not job.sensor.source:
            continue
        for market_id in pipeline.markets:
            try:
                choose_sources({market_id: job.sensor.source}, eodhd=feed)
            except UnknownMarketError:
                continue  # told of the pipeline
            except UnknownSourceError as error:
                wrong = f"there is no such source.{nearest(error.name, SOURCE_NAMES)}"
            except SourceConfigurationError as error:
                wrong = str(error)
            else:
                continue
            yield f"{job.where}: job {job.name!r}: otherwise is {job.sensor.otherwise!r}; {wrong}"


def _load(name: str, folder: Path, faults: list[str]) -> list[Pipeline]:
    module_name, _, attribute = name.partition(":")
    if name.endswith(".py"):
        return _load_file(folder / name, faults)
    try:
        module = importlib.import_module(module_name)
    # Whatever a user's module raises is a fault to report; a script may even end itself.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        faults.append(_described(error, name))
        return []
    if not attribute:
        return _pipelines_of(module, name, faults)
    pipeline = getattr(module, attribute, None)
    if not isinstance(pipeline, Pipeline):
        faults.append(f"{name}: {module_name} has no pipeline called {attribute!r}")
        return []
    return [pipeline]


def _pipelines_of(module: ModuleType, name: str, faults: list[str]) -> list[Pipeline]:
    found = [value for value in vars(module).values() if isinstance(value, Pipeline)]
    if not found:
        faults.append(f"{name}: no pipeline is defined in it")
    return found


def _load_file(path: Path, faults: list[str]) -> list[Pipeline]:
    try:
        with tokenize.open(path) as file:  # in the encoding that the file itself names
            source = file.read()
        readable = _without_syntax_errors(source, path, faults)
    except OSError as error:
        faults.append(f"{path}: {error.strerror}")
        return []
    except (ValueError, SyntaxError) as error:
        faults.append(f"{path}: {type(error).__name__}: {error}")
        return []
    # A name of its own: the file may be called as another file or a module of Python's is.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    module = ModuleType(f"prometheus_pipelines_{digest}.{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look for their module there
    try:
        exec(compile(readable, str(path), "exec"), vars(module))  # noqa: S102  the user's own code
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a user's file raises
        # What stands before the error is still checked, so that all faults are told at once. A
        # name that is missing because its definition did not parse is no fault of its own.
        if readable == source or not isinstance(error, NameError):
            faults.append(_described(error, str(path)))
        return _pipelines_of(module, str(path), [])
    return _pipelines_of(module, str(path), faults if readable == source else [])


def _without_syntax_errors(source: str, path: Path, faults: list[str]) -> str:
    """
    Blank the top-level statements that do not parse, reporting each.

    A file with a syntax error is refused; the rest of it is read only to find what else is wrong.
    """
    lines = source.splitlines(keepends=True)
    for _ in range(_MOST_SYNTAX_ERRORS):
        try:
            ast.parse("".join(lines), str(path))
        except SyntaxError as error:
            at = min(error.lineno or 1, len(lines)) - 1
            faults.append(f"{path}:{at + 1}: SyntaxError: {error.msg}")
            first = at
            if "expected an indented block" in error.msg and _begins_statement(lines, at):
                first = max(at - 1, 0)  # the error is told of the statement after the faulty one
            while first > 0 and not _begins_statement(lines, first):
                first -= 1
            last = first + 1
            while last < len(lines) and not _begins_statement(lines, last):
                last += 1
            lines[first:last] = ["\n"] * (last - first)
        else:
            break
    return "".join(lines)


def _begins_statement(lines: list[str], number: int) -> bool:
    if not _at_margin(lines[number]):
        return False
    # A decorator, of one line or of many, belongs to what it decorates.
    above = number - 1
    while above >= 0 and not _at_margin(lines[above]):
        above -= 1
    return above < 0 or not lines[above].startswith("@")


def _at_margin(line: str) -> bool:
    return bool(line.strip()) and line[0] not in " \t#)]}"


def _described(error: BaseException, name: str) -> str:
    """Say where and how a user's code failed: in its own innermost line, not a library's."""
    where = name
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        where = f"{error.filename}:{error.lineno}"
        return f"{where}: {type(error).__name__}: {error.msg}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen importlib")
    ]
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)] or frames
    # Frames of importlib's own file alone mean that the module was not found at all.
    if own and "importlib" not in own[-1].filename:
        where = f"{own[-1].filename}:{own[-1].lineno}"
    return f"{where}: {type(error).__name__}: {safe_text(str(error))}"
