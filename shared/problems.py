"""Errors as they leave an HTTP service: RFC 9457 problem documents, for every 4xx and 5xx.

A document names the bad field and never repeats what was sent; a 500 says only which request id to look up. What
turns our error tree into status codes is here; who calls it is `shared/service.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from shared.errors import DataError, InfrastructureError

MAX_ERRORS = 20
MAX_FIELD_CHARS = 200


class Problem(Exception):
    """An answer other than success: raise it in a route, and the client reads it as a problem document.

    `detail` is one sentence for a person; `field` the path of the offending value, if there is one.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.field = field
        self.headers = dict(headers or {})


class FieldProblem(BaseModel):
    """One bad value of a request: where it stands and what is wrong with it."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """The body of every 4xx and 5xx answer, `application/problem+json`."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str | None = None
    field: str | None = None
    errors: list[FieldProblem] | None = None
    checks: dict[str, str] | None = None


class ProblemResponse(JSONResponse):
    """A problem document with the id of the request it answers."""

    media_type = "application/problem+json"

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        field: str | None = None,
        errors: Sequence[FieldProblem] | None = None,
        checks: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        document = ProblemDocument(
            title=title,
            status=status,
            detail=detail,
            request_id=structlog.contextvars.get_contextvars().get("request_id"),
            field=field,
            errors=list(errors) if errors is not None else None,
            checks=dict(checks) if checks is not None else None,
        )
        super().__init__(document.model_dump(exclude_none=True), status_code=status, headers=dict(headers or {}))


def unhandled() -> ProblemResponse:
    """The answer to a failure nobody foresaw: nothing of the inside, only the id under which it was logged."""
    return ProblemResponse(
        500, "Internal Server Error", "The service failed on this request; its log has the reason under the request id."
    )


def add_problem_handlers(app: FastAPI) -> None:
    """Make `app` answer every foreseen error with a problem document."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(DataError, _on_data_error)
    app.add_exception_handler(InfrastructureError, _on_infrastructure_error)


async def _on_problem(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, Problem)
    return ProblemResponse(error.status, error.title, error.detail, field=error.field, headers=error.headers)


async def _on_invalid_request(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    found = [_field_problem(e) for e in error.errors()[:MAX_ERRORS]]
    first = found[0] if found else FieldProblem(field="body", message="It cannot be read.")
    more = len(error.errors()) - 1
    detail = f"Field '{first.field}' is wrong: {first.message}" + (f" ({more} more in errors)" if more > 0 else "")
    return ProblemResponse(422, "Invalid Request", detail, field=first.field, errors=found)


async def _on_http_exception(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    return ProblemResponse(error.status_code, title, _http_detail(request, error), headers=error.headers)


async def _on_data_error(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, DataError)
    return ProblemResponse(422, "Invalid Request", str(error), field=error.field)


async def _on_infrastructure_error(_: Request, error: Exception) -> ProblemResponse:
    structlog.get_logger().warning("infrastructure error", reason=str(error))
    return ProblemResponse(503, "Service Unavailable", str(error), headers={"Retry-After": "1"})


def _http_detail(request: Request, error: HTTPException) -> str:
    if error.status_code == 404 and error.detail == "Not Found":
        return "There is no such route; /openapi.json lists those there are."
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return f"This route does not take {request.method[:20]}" + (f"; it takes {allowed}." if allowed else ".")
    if error.status_code == 400 and error.detail == "There was an error parsing the body":
        return "The body cannot be read as JSON: it is nested too deeply, holds too long a number, or is not UTF-8."
    return str(error.detail)


def _field_problem(error: Mapping[str, Any]) -> FieldProblem:
    location = [str(part) for part in error["loc"]]
    if error["type"] == "json_invalid":
        return FieldProblem(field="body", message=f"It is not valid JSON at character {location[-1]}.")
    if len(location) > 1 and location[0] in ("body", "query", "path", "header"):
        location = location[1:]
    field = ".".join(location)[:MAX_FIELD_CHARS]
    # The message of a tagged union quotes the tag that was sent.
    message = "Its tag is unknown" if error["type"] == "union_tag_invalid" else str(error["msg"])
    return FieldProblem(field=field, message=message.rstrip(".") + ".")
