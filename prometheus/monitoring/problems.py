"""What went wrong, as RFC 9457 says it: every error of the API is such a document."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from prometheus.channels import NoChannelsError, UnknownChannelError
from prometheus.configured import MarketDisabledError, UnknownPipelineError
from prometheus.errors import (
    DatabaseError,
    HorizonError,
    NoSessionError,
    OverrideError,
    OverridesChangedError,
    PrometheusError,
    SnapshotError,
    UnknownMarketError,
    UnknownOverrideError,
)
from prometheus.masking import safe_text
from prometheus.monitoring.installation import Installation
from prometheus.orchestration.backfill import BackfillRangeError
from prometheus.persistence import migrate
from prometheus.persistence.engine import is_unavailable, what_ails
from prometheus.persistence.holidays import DecisionError
from prometheus.persistence.listings import UnknownExecutionError, UnknownJobError, UnknownRunError
from prometheus.persistence.operators import OperatorError, UnknownTargetError
from prometheus.persistence.pauses import PauseEndError
from prometheus.persistence.requests import KeyReusedError
from prometheus.persistence.runs import UnreadableRunError
from prometheus.sources.errors import SourceConfigurationError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_MOST_FAULTS = 20
_LONGEST_FAULT = 200
_OPTION = re.compile(r"--(open|close|breaks|zone|reason|source|announced-at|as)\b")
"""How faults of an override name what was given, in the words of the command."""


class QuestionError(PrometheusError):
    """A request that can be read, and asks for what can not be."""


_STATUS: Mapping[type[PrometheusError], HTTPStatus] = {
    UnknownMarketError: HTTPStatus.NOT_FOUND,
    UnknownPipelineError: HTTPStatus.NOT_FOUND,
    UnknownChannelError: HTTPStatus.NOT_FOUND,
    UnknownOverrideError: HTTPStatus.NOT_FOUND,
    NoSessionError: HTTPStatus.NOT_FOUND,
    UnknownRunError: HTTPStatus.NOT_FOUND,
    UnknownJobError: HTTPStatus.NOT_FOUND,
    UnknownExecutionError: HTTPStatus.NOT_FOUND,
    UnreadableRunError: HTTPStatus.CONFLICT,
    UnknownTargetError: HTTPStatus.NOT_FOUND,
    MarketDisabledError: HTTPStatus.CONFLICT,
    BackfillRangeError: HTTPStatus.UNPROCESSABLE_ENTITY,
    PauseEndError: HTTPStatus.UNPROCESSABLE_ENTITY,
    OperatorError: HTTPStatus.CONFLICT,
    OverridesChangedError: HTTPStatus.CONFLICT,
    OverrideError: HTTPStatus.UNPROCESSABLE_ENTITY,
    DecisionError: HTTPStatus.CONFLICT,
    SourceConfigurationError: HTTPStatus.CONFLICT,
    NoChannelsError: HTTPStatus.CONFLICT,
    KeyReusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    QuestionError: HTTPStatus.UNPROCESSABLE_ENTITY,
    HorizonError: HTTPStatus.SERVICE_UNAVAILABLE,
    SnapshotError: HTTPStatus.SERVICE_UNAVAILABLE,
    DatabaseError: HTTPStatus.SERVICE_UNAVAILABLE,
    migrate.DatabaseRevisionError: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Of errors of ours that are no fault of the server's; of all others it is 500."""


class Fault(BaseModel):
    """What is wrong with one part of a request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    where: str
    """Such as ``query.limit``."""
    what: str


class Problem(BaseModel):
    """Why there is no answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str = "about:blank"
    """Always this: the status says of which kind it is."""
    title: str
    """The status in words."""
    status: int
    detail: str
    """What came, what was wanted, and what to do."""
    errors: list[Fault] = []
    """Of a request that can not be read, everything that is wrong with it."""


def respond(
    status: int,
    detail: str,
    *,
    errors: list[Fault] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Make the response of a problem."""
    return _as_document(_problem(status, detail, errors), headers)


def _problem(status: int, detail: str, errors: list[Fault] | None) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(title=title, status=status, detail=safe_text(detail), errors=errors or [])


def _as_document(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    content = problem.model_dump(mode="json")
    return JSONResponse(content, problem.status, headers=headers, media_type=MEDIA_TYPE)


Show = Callable[[Request, Problem], Response | None]
"""Makes the page of a problem; ``None`` for whoever wants none."""


def tell_problems(app: FastAPI, show: Show) -> None:
    """Have an app answer with problems: its errors, the framework's, and what nobody foresaw."""
    app.state.show_problem = show
    app.exception_handler(HTTPException)(_refused)
    app.exception_handler(RequestValidationError)(_unreadable)
    app.exception_handler(PrometheusError)(_ours)
    app.exception_handler(DBAPIError)(_of_database)
    app.exception_handler(PoolTimeoutError)(_of_pool)
    app.exception_handler(Exception)(_unforeseen)


def _answer(
    request: Request,
    status: int,
    detail: str,
    *,
    errors: list[Fault] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer a request with a problem: with a page where that is wanted."""
    problem = _problem(status, detail, errors)
    show: Show = request.app.state.show_problem
    response = show(request, problem) or _as_document(problem)
    response.headers.update(headers or {})
    return response


async def _refused(request: Request, error: HTTPException) -> Response:
    detail, headers = str(error.detail), dict(error.headers or {})
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"There is nothing at {request.url.path}."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.url.path} does not know {request.method}."
        headers["Allow"] = ", ".join(_methods(request))
    return _answer(request, error.status_code, detail, headers=headers)


def _methods(request: Request) -> list[str]:
    """Say what a path knows; the framework tells only the methods of its first route."""
    return [
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        for asked in ({**request.scope, "method": method},)
        if any(route.matches(asked)[0] is Match.FULL for route in request.app.routes)
    ]


async def _unreadable(request: Request, error: RequestValidationError) -> Response:
    faults = [_fault(each) for each in error.errors()[:_MOST_FAULTS]]
    detail = "; ".join(f"{each.where}: {each.what}" for each in faults)
    return _answer(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=faults)


def _fault(error: Mapping[str, Any]) -> Fault:
    where = safe_text(_writable(".".join(str(part) for part in error["loc"])))[:_LONGEST_FAULT]
    what = safe_text(_writable(str(error.get("ctx", {}).get("error") or error["msg"])))
    what = what[:_LONGEST_FAULT]
    return Fault(where=where, what=what[:1].lower() + what[1:])


def _writable(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can name and no encoding has."""
    return text.encode("utf-8", "replace").decode("utf-8")


async def _ours(request: Request, error: PrometheusError) -> Response:
    statuses = (_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    status = next(statuses, HTTPStatus.INTERNAL_SERVER_ERROR)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request_failed", extra={"path": request.url.path, "error": str(error)})
    if isinstance(error, OverrideError):
        faults = [Fault(where="body", what=_as_fields(each)) for each in error.faults]
        return _answer(request, status, _as_fields(str(error)), errors=faults)
    return _answer(request, status, str(error))


def _as_fields(text: str) -> str:
    """Name fields of a body where a command names its options."""
    names = {"announced-at": "announced_at", "as": "actor"}
    return safe_text(_OPTION.sub(lambda found: names.get(found[1], found[1]), text))


def _of_database(request: Request, error: DBAPIError) -> Response:
    """Say what ails the database; not on the event loop, for it may be asked for its tables."""
    installation = _installation(request)
    if is_unavailable(error):
        detail = f"The database {installation.shown_url} {what_ails(error)}"
        log.warning("request_failed", extra={"path": request.url.path, "error": detail})
        return _answer(request, HTTPStatus.SERVICE_UNAVAILABLE, detail)
    try:
        migrate.check(installation.engine)
    except migrate.DatabaseRevisionError as other:
        return _answer(request, HTTPStatus.SERVICE_UNAVAILABLE, str(other))
    log.error("request_failed", extra={"path": request.url.path}, exc_info=error)
    return _say_nothing(request)


async def _of_pool(request: Request, _error: PoolTimeoutError) -> Response:
    """Say that all connections wait for a database that says nothing."""
    detail = f"The database {_installation(request).shown_url} does not answer."
    log.warning("request_failed", extra={"path": request.url.path, "error": detail})
    return _answer(request, HTTPStatus.SERVICE_UNAVAILABLE, detail)


async def _unforeseen(request: Request, _error: Exception) -> Response:
    return _say_nothing(request)  # uvicorn logs it


def _say_nothing(request: Request) -> Response:
    """Answer an error that nobody foresaw: its words may be anything."""
    return _answer(
        request,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "This is a fault of the server; its log says more.",
    )


def _installation(request: Request) -> Installation:
    found: Installation = request.app.state.installation
    return found
